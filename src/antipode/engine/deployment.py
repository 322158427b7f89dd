"""One antipode installation: configuration, database, and connections to sites, vault and backup
store, each made when needed.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from antipode.claims.host import HostClaims
from antipode.cloud import site as cloud_site
from antipode.config import Config
from antipode.engine.limits import Limits
from antipode.freezes.ledger import Freezes
from antipode.freezes.reaper import reap
from antipode.store.database import open_database
from antipode.store.runs import Runs
from antipode.store.vnfs import Vnfs
from antipode.vault import Vault
from antipode.vault.directory import DirectoryVault
from antipode.vault.swift import SwiftVault

if TYPE_CHECKING:
    from antipode.claims.board_claims import BoardClaims
    from antipode.cloud.api import Rate
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site


class Deployment:
    """What a command works with.

    Nothing is connected to before it is asked for, so that a dead site is in nobody's way.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = open_database(config.database)
        self.vnfs = Vnfs(self.database)
        self.runs = Runs(self.database)
        self.freezes = Freezes(self.database)
        self.limits = Limits(config.limits)
        self._sites: dict[str, Site] = {}
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

    def site(self, name: str) -> Site:
        """The connection to a site. What is overdue in the freeze ledger there is thawed when it is
        made.

        Raises:
            NotFound: no such site in the configuration.
            SiteUnreachable: it does not answer.
        """
        with self._lock:
            connecting = self._connecting[name]
        with (
            connecting
        ):  # a lock for each site: one that does not answer keeps nobody from the others
            if (known := self._sites.get(name)) is not None:
                return known
            site = cloud_site.connect(name, self.config.site(name).cloud)
            reap(self.freezes, site, time.time())
            with self._lock:
                self._sites[name] = site
            return site

    def connected_sites(self) -> list[Site]:
        with self._lock:
            return list(self._sites.values())

    @cached_property
    def vault(self) -> Vault:
        """The vault of the configuration.

        Raises:
            SiteUnreachable: the site that it is at does not answer.
        """
        if (swift := self.config.vault.swift) is not None:
            return SwiftVault(self.site(swift.site).objects, swift.container, swift.site)
        assert (
            self.config.vault.directory is not None
        )  # the configuration has exactly one of the two
        return DirectoryVault(self.config.vault.directory)

    def vault_under(self, go_on: Callable[[], None], rate: Rate | None = None) -> Vault:
        """The vault as one run uses it, see `Site.under`.

        Raises:
            SiteUnreachable: the site that it is at does not answer.
        """
        if (swift := self.config.vault.swift) is None:
            return self.vault
        return SwiftVault(
            self.site(swift.site).under(go_on, rate).objects, swift.container, swift.site
        )

    @cached_property
    def backup_store(self) -> Objects | None:
        """The object store that holds the backups, if one is configured.

        Raises:
            SiteUnreachable: it does not answer.
        """
        if (store := self.config.backup_store) is None:
            return None
        return cloud_site.connect(f"backup store {store.cloud}", store.cloud).objects
