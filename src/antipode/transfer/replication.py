# SPDX-License-Identifier: Apache-2.0
"""Transfer by storage that replicates itself: nothing is copied; the states of all volumes are
awaited at the backup sites. Volumes in no datastore go by Cinder's backups.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from antipode.datastores import Storage, storage_at, storages_of
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    NotFound,
    ResourceFailed,
    SiteUnreachable,
)
from antipode.model.capture import Capture, Transferred
from antipode.model.datastore import Health
from antipode.model.marks import carries, made_by
from antipode.model.quota import QuotaNeed
from antipode.model.source import ReplicatedState
from antipode.model.steps import Step, StepName, Timeline
from antipode.model.topology import Topology, Volume
from antipode.protect import snapshot_quotas
from antipode.protect.option import Protecting
from antipode.protect.replication.settings import Settings
from antipode.protect.snapshots import remove_all
from antipode.transfer import Earlier, Transfer
from antipode.transfer.cinder_backup import TRANSFER as BACKUPS

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
LOOK_S = 0.2
"""Between two looks at what has arrived: a storage does not notify."""


class ReplicationSteps(StepName):
    AWAIT_STATES = "3.2", "await the states at the backup site"


class ByReplication(Transfer):
    name = "replication"

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        p = protecting
        try:
            replicated = _by_storage(p, topology)
            sites = p.elsewhere()
        except InvalidInput:
            return  # the check of the option says why
        except AntipodeError as error:
            yield f"whether anything is replicated is unknown: {error}"
            return
        if others := _others(topology, replicated):
            yield from BACKUPS.check(p, others)
        for name, volumes in replicated.items():
            try:
                here = storage_at(p.site, name)
            except InvalidInput as error:
                yield str(error)
                continue
            images, unknown = _images(here, volumes)
            looks: list[Callable[[], Iterable[str]]] = [here.problems]
            if not unknown:
                looks += [partial(_problems_at, site, name, images) for site in sites]
            with ThreadPoolExecutor(len(looks), "storage") as pool:  # each asks its own site
                found = list(pool.map(lambda look: list(look()), looks))
            yield from chain(*found, unknown)

    def needs(self, protecting: Protecting, topology: Topology) -> list[QuotaNeed]:
        replicated = _by_storage(protecting, topology)
        volumes = [v for of_one in replicated.values() for v in of_one]
        found = snapshot_quotas.needs(volumes, protecting.site)
        if others := _others(topology, replicated):
            found += BACKUPS.needs(protecting, others)
        return found

    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        p, replicated = protecting, _by_storage(protecting, topology)
        arrived: dict[str, ReplicatedState] = {}
        for name, volumes in replicated.items():
            arrived |= _Arrival(p, name, volumes, capture).awaited()
        if (others := _others(topology, replicated)) is None:
            return Transferred(sources=arrived)
        backed_up = BACKUPS.transfer(p, others, capture, earlier)
        return backed_up.model_copy(update={"sources": {**arrived, **backed_up.sources}})

    def roll_back(self, protecting: Protecting) -> Collection[str]:
        p = protecting
        gone = BACKUPS.roll_back(p)
        remove_all(p.site, lambda s: carries(s, p.run), p.timeline)
        return gone

    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        gone = BACKUPS.remove_orphans(site, runs, needed, timeline)
        remove_all(site, lambda s: made_by(s) in runs and s["id"] not in needed(), timeline)
        return gone


TRANSFER = ByReplication()


def states_in_use(
    states: Mapping[str, ReplicatedState], connect: Callable[[str], Site], active: str
) -> dict[str, str]:
    """The states on which images rest at sites that answer: snapshot id -> which images, in words.

    A site that does not answer may be gone for good, and holds up nothing. One whose storage this
    host cannot ask holds up all of it, and so does the active site: the volumes of the VNF may rest
    on the states.

    Args:
        active: the site where the VNF is active.
    """
    found: dict[str, str] = {}
    places = sorted({(site, s.storage) for s in states.values() for site in s.sites})
    for name, storage in places:
        here = {i: s for i, s in states.items() if s.storage == storage and name in s.sites}
        try:
            there = storage_at(connect(name), storage)
            for image in sorted({s.image for s in here.values()}):
                of_image = {s.state: i for i, s in here.items() if s.image == image}
                for state, clones in there.clones_of(image, of_image).items():
                    found[of_image[state]] = f"{', '.join(clones)} at {name} rests on it"
        except (InvalidInput, NotFound, ResourceFailed, SiteUnreachable) as error:
            if name != active and isinstance(error, NotFound | SiteUnreachable):
                LOG.warning("whether anything at %s rests on states is unknown: %s", name, error)
                continue
            found |= dict.fromkeys(here, f"whether an image rests on it is unknown: {error}")
    return found


def _by_storage(p: Protecting, topology: Topology) -> dict[str, list[Volume]]:
    """The replicated volumes of each storage, by its name.

    Raises:
        InvalidInput: as `storages_of`.
    """
    storages = storages_of(p.vnf, topology.volumes)
    found: dict[str, list[Volume]] = {}
    for volume in topology.volumes:
        if volume.id in storages:
            found.setdefault(storages[volume.id], []).append(volume)
    return found


def _others(topology: Topology, replicated: Mapping[str, Sequence[Volume]]) -> Topology | None:
    """The topology without replicated volumes; None where there are no others."""
    known = {v.id for volumes in replicated.values() for v in volumes}
    servers = [
        s.model_copy(update={"attachments": [a for a in s.attachments if a.volume.id not in known]})
        for s in topology.servers
    ]
    others = topology.model_copy(update={"servers": servers})
    return others if others.volumes else None


def _images(here: Storage, volumes: Sequence[Volume]) -> tuple[dict[str, Volume], list[str]]:
    """The images of volumes, and why they are not known."""
    if elsewhere := [v for v in volumes if v.backend_host not in (None, here.host)]:
        names = ", ".join(f"{v.name or v.id} ({v.backend_host})" for v in elsewhere)
        return {}, [f"volumes are not on {here.host}, which is {here.label}: {names}"]
    try:
        return {here.image_of(v): v for v in volumes}, []
    except AntipodeError as error:
        return {}, [str(error)]


def _problems_at(site: Site, name: str, images: Mapping[str, Volume]) -> Iterator[str]:
    """What keeps states of volumes from arriving at a backup site."""
    try:
        there = storage_at(site, name)
        yield from there.problems()
        receives_not, replicas = there.incoming(images)
        yield from receives_not
    except AntipodeError as error:
        yield str(error)
        return
    for image, replica in replicas.items():
        if replica.health is not Health.REPLICATING:
            volume = images[image]
            yield (
                f"volume {volume.name or volume.id} is not replicated to {there.label}"
                f" ({replica.health}: {replica.detail}); see: antipode datastore status"
            )


class _Arrival:
    """The states of the volumes of one storage on their way to the backup sites."""

    def __init__(
        self, p: Protecting, name: str, volumes: Sequence[Volume], capture: Capture
    ) -> None:
        here = storage_at(p.site, name)
        self._p = p
        self._name = name
        self._volumes = volumes
        self._snapshots = {v.id: capture.snapshots[v.id] for v in volumes}
        self._images = {v.id: here.image_of(v) for v in volumes}
        self._wanted = {
            self._images[v]: here.state_of(snapshot) for v, snapshot in self._snapshots.items()
        }

    def awaited(self) -> dict[str, ReplicatedState]:
        """Wait until all states are whole at each backup site that answers.

        Returns:
            volume id -> its state.

        Raises:
            ResourceFailed: one has not arrived in time, or its replica is broken.
            SiteUnreachable: the storage of a backup site does not answer.
        """
        settings = self._p.settings
        assert isinstance(settings, Settings)
        deadline = time.monotonic() + settings.arrives_within
        sites = self._p.elsewhere()
        for site in sites:
            storage = storage_at(site, self._name)
            with self._p.timeline.step(ReplicationSteps.AWAIT_STATES, storage.label) as step:
                self._await_at(storage, deadline, step)
        return {
            v.id: ReplicatedState(
                storage=self._name,
                image=self._images[v.id],
                state=self._wanted[self._images[v.id]],
                snapshot_id=self._snapshots[v.id],
                gib=v.size_gib,
                sites=[site.name for site in sites],
                backend_reference=v.backend_reference,
            )
            for v in self._volumes
        }

    def _await_at(self, storage: Storage, deadline: float, step: Step) -> None:
        began = time.monotonic()
        while True:
            there, missing = storage.whole(self._wanted)
            if not missing:
                step.result(volumes=len(there), seconds=round(time.monotonic() - began, 3))
                return
            states = "; ".join(f"{i} is {r.health}" for i, r in sorted(missing.items()))
            broken = [r for r in missing.values() if r.health in _NEVER]
            if broken or time.monotonic() > deadline:
                first = (broken or list(missing.values()))[0]
                raise ResourceFailed(
                    f"{storage.label}: {len(missing)} of {len(self._wanted)} states have not"
                    f" arrived: {first.image} is {first.health} ({first.detail}). Mend its"
                    " replication (antipode datastore status), then protect the VNF again"
                )
            step.waits_for(f"{len(missing)} of {len(self._wanted)} states: {states}")
            self._p.go_on()
            time.sleep(LOOK_S)


_NEVER = (Health.BROKEN, Health.WRITABLE, Health.ABSENT)
"""With these nothing will arrive."""
