# SPDX-License-Identifier: Apache-2.0
"""Datastores of VNFs: how their replication is, and what prepares it. The storages are asked by
themselves, so that all but the preparation works with the active site dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from antipode.datastores import Storage, opened, storages_of
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, InvalidInput, NotFound, ResourceFailed
from antipode.model.datastore import Health, Replica
from antipode.model.point import RecoveryPoint
from antipode.model.source import ReplicatedState
from antipode.model.topology import Topology, Volume
from antipode.model.vnf import Datastore, Vnf
from antipode.operations.inspect import look
from antipode.vault import points

LOOK_S = 1.0
"""Between two looks at a first synchronisation, which a storage does not notify of."""


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
class VolumeStatus:
    """One volume of a datastore at one site where it is a replica."""

    datastore: str
    volume: str
    site: str
    replica: Replica | None
    """None: the storage of the site does not answer"""
    reference: str | None
    """of the newest consistent state of it that is a recovery point"""
    point: str | None
    """that recovery point"""
    point_age_s: float | None
    trouble: str | None = None

    @property
    def is_well(self) -> bool:
        return self.replica is not None and self.replica.health is Health.REPLICATING


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


def status(deployment: Deployment, name: str, datastore: str | None = None) -> list[VolumeStatus]:
    """How the replicas of the volumes of a VNF are, at each site but the active one.

    Args:
        datastore: of this one only.

    Raises:
        NotFound: the VNF or the datastore is not known here, or has no recovery point while its
            active site is silent.
        InvalidInput: the VNF file names a volume or a storage that there is not.
    """
    vnf = _with(deployment.vnfs.get(name), datastore)
    seen = look(deployment, name)
    active = seen.status.state.active_site
    newest = _newest(deployment, vnf)
    found: list[VolumeStatus] = []
    for store, volumes in _volumes(vnf, seen.topology).items():
        storage = vnf.datastores[store].storage
        for site in vnf.sites:
            if site != active and site in _places(deployment, storage):
                there = _storage(deployment, storage, site)
                found += _statuses(store, there, volumes, newest)
    return found


def prepare(
    deployment: Deployment,
    name: str,
    *,
    awaits: bool,
    tell: Callable[[str], None],
) -> list[VolumeStatus]:
    """Have all volumes of a VNF replicated from its active site. Safe to repeat; volumes that are
    replicated already are not touched.

    Args:
        awaits: whether it ends only when every volume has been synchronised for the first time.
        tell: called with what is done or awaited, in words.

    Returns:
        the status of all volumes then.

    Raises:
        NotFound, InvalidInput: as `status`.
        SiteUnreachable: the active site does not answer.
        ResourceFailed: a volume cannot be replicated, or its replica is broken.
    """
    vnf = deployment.vnfs.get(name)
    if not vnf.datastores:
        raise InvalidInput(f"VNF {name} has no datastores in its file")
    seen = look(deployment, name)
    active = seen.status.state.active_site
    if not seen.source.startswith("live"):
        deployment.site(active)  # raises, with the reason
    for store, volumes in _volumes(vnf, seen.topology).items():
        here = _storage(deployment, vnf.datastores[store].storage, active)
        for volume in volumes:
            tell(f"{here.label}: volume {volume.name or volume.id} is made to stand by itself")
            here.separate(here.image_of(volume))
        enabled = here.replicate([here.image_of(v) for v in volumes])
        tell(f"{here.label}: {len(enabled)} of {len(volumes)} volumes are replicated newly")
    found = status(deployment, name)
    while awaits and (waiting := [v for v in found if not v.is_well]):
        _refuse_broken(waiting)
        tell("; ".join(_words(v) for v in waiting))
        time.sleep(LOOK_S)
        found = status(deployment, name)
    return found


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


def _places(deployment: Deployment, storage: str) -> Mapping[str, object]:
    if storage not in deployment.config.storages:
        known = ", ".join(deployment.config.storages) or "none"
        raise InvalidInput(f"antipode.yaml has no storage {storage}; storages there: {known}")
    return deployment.config.storages[storage].sites


def _storage(deployment: Deployment, name: str, site: str) -> Storage:
    places = _places(deployment, name)
    if site not in places:
        raise InvalidInput(f"antipode.yaml: storage {name} has no settings for {site}")
    return opened(deployment.storages_at(site)[name], site)


def _volumes(vnf: Vnf, topology: Topology) -> dict[str, list[Volume]]:
    """The volumes of each datastore."""
    storages_of(vnf, topology.volumes)  # raises for one that is missing or in two
    found: dict[str, list[Volume]] = {}
    for name, datastore in vnf.datastores.items():
        alone = vnf.model_copy(update={"datastores": {name: datastore}})
        known = storages_of(alone, topology.volumes)
        found[name] = [v for v in topology.volumes if v.id in known]
    return found


def _newest(deployment: Deployment, vnf: Vnf) -> RecoveryPoint | None:
    try:
        return points.newest_or_none(deployment.vaults(vnf.vaults), vnf.vnf)
    except AntipodeError:
        return None


def _statuses(
    datastore: str, storage: Storage, volumes: Sequence[Volume], newest: RecoveryPoint | None
) -> Iterator[VolumeStatus]:
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
        yield VolumeStatus(
            datastore=datastore,
            volume=volume.name or volume.id,
            site=storage.site,
            replica=replicas.get(images[volume.id]),
            reference=state.reference if state else None,
            point=newest.id if newest and state else None,
            point_age_s=newest.age_s if newest and state else None,
            trouble=trouble,
        )


def _refuse_broken(waiting: Sequence[VolumeStatus]) -> None:
    for volume in waiting:
        if volume.trouble or (volume.replica and volume.replica.health is Health.BROKEN):
            raise ResourceFailed(f"{_words(volume)}. Mend it, then prepare the datastore again")


def _words(status: VolumeStatus) -> str:
    if status.replica is None:
        return f"volume {status.volume} at {status.site}: {status.trouble}"
    return (
        f"volume {status.volume} at {status.site} is {status.replica.health}"
        f" ({status.replica.detail})"
    )
