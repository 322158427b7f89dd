# SPDX-License-Identifier: Apache-2.0
"""Datastores of VNFs: how their replication is, and what prepares it. The storages are asked by
themselves, so that all but the preparation works with the active site dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from antipode.datastores import Storage, conformity, of_volumes
from antipode.datastores.application import IN_USE, Application, Data, of_application
from antipode.datastores.switched import SwitchedStorage
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, Busy, InvalidInput, NotFound, ResourceFailed
from antipode.model.datastore import Following, Health, Replica, Standing, Verb
from antipode.model.point import RecoveryPoint
from antipode.model.source import ReplicatedState
from antipode.model.topology import Volume
from antipode.model.vnf import Datastore, Vnf
from antipode.operations.inspect import look
from antipode.runs import replicating
from antipode.runs.replicating import Replicating, Still, driver, places, volumes_of
from antipode.vault import points

LOOK_S = 1.0
"""Between two looks at a first synchronisation, which a storage does not notify of."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class Defined:
    """A datastore as its VNF file and the configuration have it."""

    vnf: str
    name: str
    datastore: Datastore
    driver: str | None
    """None: the configuration has no such storage"""
    sites: Sequence[str]
    """those where the configuration has the storage"""


@dataclass(frozen=True)
class CopyStatus:
    """One volume of a datastore, or all data of one of an application, at one site."""

    datastore: str
    volume: str | None
    """None: the data of an application"""
    site: str
    is_active: bool
    """whether the VNF is active there"""
    replica: Following | None
    """None: the storage of the site does not answer"""
    reference: str | None
    """of a volume: its newest consistent state that is a recovery point, at the active site the
    volume; of an application's data: by what it is found there
    """
    point: str | None
    """the newest recovery point, if it has this data"""
    point_age_s: float | None
    trouble: str | None = None
    writes_anywhere: bool = False
    """whether the data is writable at each site"""
    original: str | None = None
    """of an application's data: the reference at the active site, as far as it is known"""

    @property
    def is_well(self) -> bool:
        """Whether it does at its site what it has to: the original is in use, a copy follows."""
        if self.replica is None:
            return False
        if self.writes_anywhere or (self.is_active and self.volume is not None):
            return self.replica.health in IN_USE
        if self.is_active:
            return self.replica.health is Health.WRITABLE
        return self.replica.health is Health.REPLICATING and self.follows_another is None

    @property
    def follows_another(self) -> str | None:
        """What a copy follows that does not follow the active site; None: it does, or its storage
        does not say.
        """
        origin = self.replica.origin if isinstance(self.replica, Standing) else None
        is_another = origin is not None and self.original not in (None, origin)
        return origin if is_another and not self.is_active else None

    @property
    def position(self) -> str | None:
        """The last consistent position of an application's data, in its own words."""
        return self.replica.position if isinstance(self.replica, Standing) else None

    @property
    def detail(self) -> str:
        """How it is, in words."""
        if self.replica is None:
            return self.trouble or ""
        return self.words if self.follows_another else self.replica.detail

    @property
    def words(self) -> str:
        """In short, for messages."""
        what = f"volume {self.volume}" if self.volume else f"datastore {self.datastore}"
        if self.replica is None:
            return f"{what} at {self.site}: {self.trouble}"
        if self.follows_another is not None:
            return f"{what} at {self.site} follows {self.follows_another}, not {self.original}"
        return f"{what} at {self.site} is {self.replica.health} ({self.replica.detail})"


def datastores(deployment: Deployment, name: str | None = None) -> list[Defined]:
    """The datastores of all VNFs that were added here, or of one.

    Raises:
        NotFound: the VNF is not known here.
    """
    wanted = [name] if name else deployment.vnfs.names()
    return [
        _defined(deployment, vnf, store)
        for vnf in map(deployment.vnfs.get, wanted)
        for store in vnf.datastores
    ]


def status(
    deployment: Deployment, name: str, datastore: str | None = None, *, everywhere: bool = False
) -> list[CopyStatus]:
    """How the data of a VNF is: volumes at each site but the active one, an application's data at
    each site.

    Args:
        datastore: of this one only.
        everywhere: volumes at the active site, too.

    Raises:
        NotFound: the VNF or the datastore is not known here, or has no recovery point while its
            active site is silent.
        InvalidInput: the VNF file names a volume or a storage that there is not.
    """
    vnf = _with(deployment.vnfs.get(name), datastore)
    seen = look(deployment, name)
    active = seen.status.state.active_site
    newest = _newest(deployment, vnf)
    found: list[CopyStatus] = []
    for store, volumes in volumes_of(vnf, seen.topology).items():
        storage = vnf.datastores[store].storage
        for site in vnf.sites:
            if site not in places(deployment, storage):
                continue
            there = driver(deployment, storage, site)
            if isinstance(there, SwitchedStorage):
                found += _statuses_of_switched(store, there, volumes, active)
            elif site != active or everywhere:
                of_volumes_there = of_volumes(there)
                is_active = site == active
                found += _statuses(store, of_volumes_there, volumes, newest, is_active=is_active)
    for store, defined in vnf.datastores_of_applications.items():
        # the original first: some drivers show by it whether a copy follows
        each = [
            of_application(driver(deployment, defined.storage, site))
            for site in sorted(vnf.sites, key=lambda site: site != active)
            if site in places(deployment, defined.storage)
        ]
        found += _statuses_of_data(Data(name, store), each, newest, active)
    return found


def prepare(
    deployment: Deployment,
    name: str,
    *,
    awaits: bool,
    tell: Callable[[str], None],
    overwrite: Collection[str] = (),
    within_s: float | None = None,
) -> list[CopyStatus]:
    """Have all data of a VNF replicated from its active site. Safe to repeat; what is replicated
    already is not touched.

    Args:
        awaits: whether it ends only when everything has been synchronised for the first time.
        tell: called with what is done or awaited, in words.
        overwrite: sites where data may be lost that is writable there.
        within_s: how long it waits, in seconds; by default as the VNF file says.

    Returns:
        the status of all data then.

    Raises:
        NotFound, InvalidInput: as `status`.
        Busy: the VNF is failing over, so that other data may be the original soon.
        SiteUnreachable: the active site does not answer.
        VaultError: too few vaults answer to be sure where it is active.
        ResourceFailed: something cannot be replicated, or its replica is broken.
        NotSynchronised: a first synchronisation has not ended in time; it continues.
    """
    vnf = deployment.vnfs.get(name)
    if not vnf.datastores:
        raise InvalidInput(f"VNF {name} has no datastores in its file")
    seen = look(deployment, name)
    active = seen.status.state.active_site
    if not seen.source.startswith("live"):
        deployment.site(active, vnf)  # raises, with the reason
    if vnf.datastores_of_applications or overwrite:  # what is made to follow is lost
        activity.must_be_active_at(activity.decided(deployment, name).state, active)
    Replicating(deployment, vnf, active, seen.topology, tell, overwrite).begin()
    found = status(deployment, name)
    still = Still()
    while awaits and (waiting := [v for v in found if not v.is_well]):
        _refuse_broken(waiting, still, overwrite)
        for copy in waiting:
            limit_s = within_s or vnf.datastores[copy.datastore].synchronises_within
            still.must_end(copy.words, limit_s)
        tell("; ".join(v.words for v in waiting))
        time.sleep(LOOK_S)
        found = status(deployment, name)
    return found


def remove(deployment: Deployment, name: str, datastore: str, *, sites: Sequence[str]) -> list[str]:
    """Have the data of a datastore replicated no longer, and what antipode has made for that
    removed; the data stays at each site. The sites where that was done.

    Args:
        sites: only there; at each site of the VNF by default.

    Raises:
        NotFound: the VNF or the datastore is not known here.
        InvalidInput: the datastore has volumes, or the storage is not at a site.
        Busy: a run of the VNF is open.
        SiteUnreachable, ResourceFailed: one site cannot do it; others may have done it.
    """
    vnf = _with(deployment.vnfs.get(name), datastore)
    defined = vnf.datastores_of_applications.get(datastore)
    if defined is None:
        raise InvalidInput(
            f"datastore {datastore} of {name} has volumes, whose replication their storage ends"
        )
    if runs := deployment.runs.open(name):
        raise Busy(
            f"run {runs[0].id} of VNF {name} has not ended; the datastore stays until it has",
            resource=f"run {runs[0].id}",
        )
    chosen = list(sites) or [s for s in vnf.sites if s in places(deployment, defined.storage)]
    each = [of_application(driver(deployment, defined.storage, site)) for site in chosen]
    for one in each:
        one.remove(Data(name, datastore))
    return chosen


def conformance(
    deployment: Deployment, storage: str, pair: Pair, data: Data, *, promotes: bool
) -> Iterator[conformity.Finding]:
    """Compare a storage of kind application with its contract; each finding as it is made.

    Args:
        pair: the sites, of which the first has the original.
        promotes: whether the copy is promoted, demoted and made to follow again as well: what is
            written there meanwhile is lost.

    Raises:
        InvalidInput: there is no such storage at one of the sites, or it is of another kind.
    """
    original, copy = (of_application(driver(deployment, storage, site)) for site in pair)
    yield from conformity.look(original, copy, data, promotes=promotes)


def _defined(deployment: Deployment, vnf: Vnf, name: str) -> Defined:
    datastore = vnf.datastores[name]
    there = deployment.config.storages.get(datastore.storage)
    return Defined(
        vnf=vnf.vnf,
        name=name,
        datastore=datastore,
        driver=there.driver if there else None,
        sites=[site for site in vnf.sites if there and site in there.sites],
    )


def _with(vnf: Vnf, datastore: str | None) -> Vnf:
    """The definition with one of its datastores only."""
    if datastore is None:
        return vnf
    if datastore not in vnf.datastores:
        known = ", ".join(vnf.datastores) or "none"
        raise NotFound(f"VNF {vnf.vnf} has no datastore {datastore}; its datastores: {known}")
    return vnf.model_copy(update={"datastores": {datastore: vnf.datastores[datastore]}})


def _newest(deployment: Deployment, vnf: Vnf) -> RecoveryPoint | None:
    try:
        return points.newest_or_none(deployment.vaults(vnf.vaults), vnf.vnf)
    except AntipodeError:
        return None


def _statuses(
    datastore: str,
    storage: Storage,
    volumes: Sequence[Volume],
    newest: RecoveryPoint | None,
    *,
    is_active: bool,
) -> Iterator[CopyStatus]:
    images = {v.id: storage.image_of(v) for v in volumes}
    trouble: str | None = None
    replicas: Mapping[str, Replica] = {}
    try:
        replicas = storage.replicas(list(images.values()))
    except AntipodeError as error:
        trouble = str(error)
    for volume in volumes:
        source = newest.sources.get(volume.id) if newest else None
        state = source if isinstance(source, ReplicatedState) else None
        reference = state.reference if state else None
        yield CopyStatus(
            datastore=datastore,
            volume=volume.name or volume.id,
            site=storage.site,
            is_active=is_active,
            replica=replicas.get(images[volume.id]),
            reference=images[volume.id] if is_active else reference,
            point=newest.id if newest and state else None,
            point_age_s=newest.age_s if newest and state else None,
            trouble=trouble,
        )


def _statuses_of_switched(
    datastore: str, storage: SwitchedStorage, volumes: Sequence[Volume], active: str
) -> Iterator[CopyStatus]:
    """How volumes are that Cinder replicates: only the Cinder that has them knows."""
    if storage.site != active:
        return
    trouble: str | None = None
    replicas: Mapping[str, Replica] = {}
    try:
        replicas = storage.replicas([v.id for v in volumes])
    except AntipodeError as error:
        trouble = str(error)
    for volume in volumes:
        yield CopyStatus(
            datastore=datastore,
            volume=volume.name or volume.id,
            site=storage.site,
            is_active=True,
            replica=replicas.get(volume.id),
            reference=volume.backend_reference,
            point=None,
            point_age_s=None,
            trouble=trouble,
        )


def _statuses_of_data(
    data: Data, there: Sequence[Application], newest: RecoveryPoint | None, active: str
) -> Iterator[CopyStatus]:
    """How the data of an application is at sites, the active one first."""
    point = newest if newest and data.datastore in newest.datastores else None
    original = point.datastores[data.datastore].references.get(active) if point else None
    for one in there:
        standing: Standing | None = None
        reference: str | None = None
        trouble: str | None = None
        try:
            reference = one.reference(data)
            standing = one.status(data)
        except AntipodeError as error:
            trouble = str(error)
        if one.site == active and reference is not None:
            original = reference
        yield CopyStatus(
            datastore=data.datastore,
            volume=None,
            site=one.site,
            is_active=one.site == active,
            replica=standing,
            reference=reference,
            point=point.id if point else None,
            point_age_s=point.age_s if point else None,
            trouble=trouble,
            writes_anywhere=Verb.PROMOTE not in one.verbs,
            original=original,
        )


def _refuse_broken(
    waiting: Sequence[CopyStatus], still: Still, overwritten: Collection[str]
) -> None:
    for copy in waiting:
        is_broken = copy.replica is not None and copy.replica.health is Health.BROKEN
        # a storage calls what it is to fill again broken until it begins with that
        if copy.trouble or (is_broken and copy.site not in overwritten):
            raise ResourceFailed(f"{copy.words}. Mend it, then prepare the datastore again")
        what = f"{copy.datastore} {copy.volume} {copy.site}"
        if copy.replica and still.does_not_begin(what, copy.replica.health):
            raise ResourceFailed(
                f"{copy.words}, for {replicating.BEGINS_S:g} s now: its replication does not begin."
                " Mend it, then prepare the datastore again"
            )
