# SPDX-License-Identifier: Apache-2.0
"""One antipode installation: configuration, database, and connections to sites, vaults and backup
stores, each made when it is needed.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from antipode.claims.host import HostClaims
from antipode.cloud import site as cloud_site
from antipode.config import Config, VaultConfig
from antipode.engine.limits import Limits, Party
from antipode.engine.shared_turns import SharedTurns
from antipode.engine.watch import Watches
from antipode.errors import InvalidInput, NotFound
from antipode.freezes.ledger import Freezes
from antipode.model.datastore import StorageAt
from antipode.model.vnf import Vnf
from antipode.store.approvals import Approvals
from antipode.store.audit import Audit
from antipode.store.database import open_database
from antipode.store.events import Events
from antipode.store.forecasts import Forecasts
from antipode.store.policies import Policies
from antipode.store.questions import Questions
from antipode.store.readiness import Readiness
from antipode.store.runs import Runs
from antipode.store.schedules import Schedules
from antipode.store.states import States
from antipode.store.tables import RunRow
from antipode.store.turns import Turns
from antipode.store.vnfs import Vnfs
from antipode.vault import Vault, points
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from antipode.vault.keys import Keyring
from antipode.vault.memory import Memory
from antipode.vault.swift import SwiftVault

if TYPE_CHECKING:
    from antipode.claims.board_claims import BoardClaims
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site
    from antipode.engine.flows import Flows
    from antipode.mover.child import Mover
    from antipode.recover.dns import DnsProvider
    from antipode.transfer.expiry import Seen

Connection = TypeVar("Connection")


class Deployment:
    """The world of a command. Nothing is connected to before it is asked for, so that a dead site
    holds up no other; connecting changes nothing at a site.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = open_database(config.database)
        self.vnfs = Vnfs(self.database)
        self.states = States(self.database)
        self.runs = Runs(self.database)
        self.events = Events(self.database)
        self.questions = Questions(self.database)
        self.approvals = Approvals(self.database)
        self.schedules = Schedules(self.database)
        self.forecasts = Forecasts(self.database)
        self.readiness = Readiness(self.database)
        self.freezes = Freezes(self.database)
        self.policies = Policies(self.database)
        self.audit = Audit(self.database)
        self.limits = Limits(config.limits, SharedTurns(Turns(self.database)))
        self.points_seen: dict[str, Mapping[str, Seen]] = {}
        """by VNF and id: what a service need not read at each look for expired points"""
        self._sites: dict[str, Site] = {}
        self._objects: dict[str, Objects] = {}
        self._dns: dict[str, DnsProvider] = {}
        self._connecting: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    @cached_property
    def claims(self) -> HostClaims | BoardClaims:
        """Where runs are claimed: on this host, or on the board that several share.

        Raises:
            InvalidInput: the jobboard's driver is not installed, or its settings are wrong.
        """
        if self.config.jobboard is None:
            return HostClaims(self.config.state_dir, self.runs, shared=not self.config.is_sqlite)
        from antipode.claims.board import Board
        from antipode.claims.board_claims import BoardClaims

        return BoardClaims(Board(self.config.jobboard), self.runs)

    @cached_property
    def flows(self) -> Flows:
        """Where the finished steps of runs are kept, for the process that resumes one."""
        from antipode.engine.flows import Flows

        return Flows(self.config)

    @cached_property
    def watches(self) -> Watches:
        """What sees that runs of this process are to stop."""
        return Watches(self.runs)

    @cached_property
    def keys(self) -> Keyring:
        """What recovery points are signed and encrypted with."""
        return Keyring(self.config.keys_dir, self.config.keys.recipients)

    @cached_property
    def memory(self) -> Memory:
        """What this host remembers of the documents in vaults."""
        return Memory(self.config.state_dir / "remembered.db")

    def site(self, name: str, of: Vnf | RunRow | str | None = None) -> Site:
        """The connection to a site.

        Args:
            of: the VNF whose project is used there, by its definition, its name, or a run of it;
                by default the project of the account of the site.

        Raises:
            NotFound: no such site in the configuration, or it lacks the project.
            SiteUnreachable: it does not answer.
        """
        return self.site_in(name, self.project_of(of))

    def site_in(self, name: str, project: str | None) -> Site:
        """The connection to a site, in a project of the configuration; errors as for `site`."""
        cloud = self.config.cloud(name, project)

        def connect() -> Site:
            site = cloud_site.connect(name, cloud)
            site.storages, site.project = self.storages_at(name), project
            settings = self.config.site(name)
            site.changes, site.attaches = settings.changes, settings.mover is not None
            site.snapshots_count_gigabytes = settings.snapshots_count_gigabytes
            if settings.mover is not None and settings.mover.helper is not None:
                # Nova attaches no volume of another project
                site.helper = str(settings.mover.helper.server)
                site.attaches = project is None
            return site

        return self._connected(self._sites, f"{name} {project or ''}".rstrip(), connect)

    def project_of(self, of: Vnf | RunRow | str | None) -> str | None:
        """The project of a VNF, as its file names it; None: that of the account of each site.

        A run keeps its definition where it has one. A host that has no file of the VNF goes by its
        newest recovery point.

        Raises:
            VaultError, SiteUnreachable: no vault answers.
        """
        if of is None or not self.config.has_projects:
            return None
        if isinstance(of, Vnf):
            return of.project
        if isinstance(of, RunRow):
            kept = (of.request or {}).get("vnf") or (of.request or {}).get("definition")
            if isinstance(kept, Mapping):
                return kept.get("project")
            of = of.vnf
        if (local := self.vnfs.find(of)) is not None:
            return local.project
        try:
            return points.find(self.vaults(), of, None).point.vnf.project
        except NotFound:
            return None

    def storages_at(self, site: str) -> dict[str, StorageAt]:
        """The storages of the configuration that are at a site, by name. No service is asked."""
        return {
            name: StorageAt(name, there.driver, there.sites[site])
            for name, there in self.config.storages.items()
            if site in there.sites
        }

    def connected_sites(self) -> list[Site]:
        with self._lock:
            return list(self._sites.values())

    def vaults(
        self,
        wanted: Sequence[str] = (),
        *,
        all_needed: bool = False,
        needed: int = 1,
        apart_from: Collection[str] = (),
        lost: Collection[str] = (),
        go_on: Callable[[], None] | None = None,
    ) -> Vaults:
        """Vaults as one: those at sites first, then those at third places, each in the order of
        their names, which is the same on every host.

        Args:
            wanted: their names; all of the configuration by default.
            all_needed, needed: whether each, or how many, must answer; see `Vaults`.
            apart_from: sites whose vaults are not asked if there are others: they have failed.
            lost: names of vaults that the operator has given up: they are not asked.
            go_on: of the run that they are used by, see `Site.under`.

        Raises:
            NotFound: one is not in the configuration.
            InvalidInput: every one is given up.
        """
        config = self.config
        config.vault_names(list(lost))
        every = {n: config.all_vaults[n] for n in config.vault_names(wanted) if n not in lost}
        if not every:
            raise InvalidInput(f"every vault is said to be lost: {', '.join(lost)}")
        chosen = {n: there for n, there in every.items() if there.site not in apart_from} or every
        order = sorted(chosen, key=lambda name: (chosen[name].site is None, name))
        return Vaults(
            {name: partial(self._open, name, chosen[name], go_on) for name in order},
            all_needed=all_needed,
            keys=self.keys,
            needed=needed,
            sites={name: there.site for name, there in chosen.items()},
        )

    @property
    def vault(self) -> Vault:
        """All vaults of the configuration, as far as they answer."""
        return self.vaults()

    def _open(self, name: str, there: VaultConfig, go_on: Callable[[], None] | None) -> Vault:
        if there.directory is not None:
            return DirectoryVault(there.directory)
        if there.s3 is not None:
            from antipode.vault.s3 import S3Vault

            return S3Vault(there.s3, go_on)
        assert there.swift is not None  # a vault has one of the three
        swift = there.swift
        cloud = swift.cloud or self.config.site(swift.site or "").cloud
        objects = self.objects(cloud, swift.site or f"vault {name}")
        return SwiftVault(
            objects if go_on is None else objects.under(go_on),
            swift.container,
            swift.site or f"cloud {cloud}",
        )

    def objects(self, cloud: str, place: str) -> Objects:
        """The object storage behind an entry of clouds.yaml; no other service is asked for.

        Args:
            place: what it is called in messages.

        Raises:
            SiteUnreachable: it does not answer.
        """
        return self._connected(
            self._objects, cloud, lambda: cloud_site.connect_objects(place, cloud)
        )

    def store(self, name: str) -> Objects:
        """The object storage of a backup store of the configuration.

        Raises:
            NotFound: no such store in the configuration.
            SiteUnreachable: it does not answer.
        """
        store = self.config.store(name)
        return self.objects(store.cloud, f"backup store {name}")

    def store_of(self, site: str, wanted: str | None = None) -> Objects | None:
        """The object storage of the backups of a site; None if it is not configured.

        Args:
            wanted: the backup store that the VNF file names.

        Raises:
            NotFound: no such store in the configuration.
            SiteUnreachable: it does not answer.
        """
        name = self.config.store_name(site, wanted)
        return None if name is None else self.store(name)

    def mover(
        self,
        site: Site,
        origin: str,
        wanted: str | None,
        party: Party | None,
        *,
        urgent: bool = False,
    ) -> Mover:
        """That which writes volumes at a site from the backups of another; one that says why it
        does not, where this host has none.

        Args:
            origin: the site of the backups.
            wanted: the backup store that the VNF file names.
            party: the run for which it writes; None: it writes nothing.
            urgent: for a failover, which waits for no copy into the standing volumes of others.
        """
        from antipode.mover.child import ChildMover, NoMover
        from antipode.mover.job import Access

        locks = self.config.state_dir / "locks" / "mover"
        settings = self.config.site(site.name).mover
        if settings is None:
            return NoMover(locks, f"{site.name} has no `mover` in antipode.yaml of this host")
        try:
            store = self.config.store_name(origin, wanted)
            if store is None:
                return NoMover(locks, f"no backup store is configured for {origin}")
            access = Access(
                site=site.name,
                cloud=self.config.cloud(site.name, site.project),
                store=f"backup store {store}",
                store_cloud=self.config.store(store).cloud,
                root_helper=settings.root_helper,
                asks_host=settings.asks_host,
                keyring=settings.keyring,
                modules=settings.modules,
                helper=settings.helper,
            )
            if settings.helper is not None and site.project is not None:
                return NoMover(locks, f"the helper of {site.name} is not of project {site.project}")
            if party is None:
                return NoMover(locks, "it is asked to write nothing")
            at_once = settings.at_once
            places = self.limits.moves(site.name, party, at_once, urgent=urgent)
            return ChildMover(access, locks, places)
        except InvalidInput as error:
            return NoMover(locks, str(error))

    def mover_restores(self, site: str) -> bool:
        """Whether recoveries at a site have the mover write volumes where none stand."""
        known = self.config.sites.get(site)
        return known is not None and known.mover is not None and known.mover.restores

    def dns(self, wanted: str | None = None) -> DnsProvider:
        """A DNS provider of the configuration; the only one by default.

        Raises:
            NotFound: it is not in the configuration.
        """
        from antipode.recover import dns

        name = self.config.dns_provider(wanted)
        return self._connected(self._dns, name, lambda: dns.connect(name, self.config))

    def _connected(
        self, known: dict[str, Connection], name: str, connect: Callable[[], Connection]
    ) -> Connection:
        """A connection that is made once. Each has its own lock: one that does not answer keeps
        no user from the others.
        """
        with self._lock:
            connecting = self._connecting[f"{id(known)} {name}"]
        with connecting:
            with self._lock:
                if (made := known.get(name)) is not None:
                    return made
            made = connect()
            with self._lock:
                known[name] = made
            return made
