# SPDX-License-Identifier: Apache-2.0
"""Volumes from states of replicated storage: a clone of each state, taken over by Cinder of the
backup site (steps 3.3, 3.4).

The replica itself is not promoted. It stays what it is, so that a drill disturbs no replication, a
rollback leaves nothing to be synchronised again, and the storage never has two originals.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.cloud.backends import UnmanagedVolume
from antipode.cloud.site import Site
from antipode.datastores import Storage, opened, storage_at
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.datastore import Health
from antipode.model.marks import marks
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import ReplicatedState, VolumeSource
from antipode.model.steps import StepName, Timeline
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery
from antipode.recover.sources import VolumeProvider
from antipode.recover.sources.finish import put_right
from antipode.vault.verify import Finding

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

LOG = logging.getLogger(__name__)
TIMEOUT_S = 600.0
"""How long Cinder may take to make an image its own, which copies nothing."""


class ReplicatedSteps(StepName):
    TAKE_OVER = "3.4", "take over a state of replicated storage"
    SEPARATE = "", "separate volumes from their replicas"
    REMOVE_CLONES = "", "remove clones of states"


class FromReplicatedStates(VolumeProvider):
    kind = "replicated-state"
    volume_step = ReplicatedSteps.TAKE_OVER

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        names = {v.id: v.name or v.id for v in point.topology.volumes}
        for name, states in point.of_storages.items():
            try:
                storage = storage_at(site, name)
                whole = storage.listed_whole({s.image for s in states.values()})
            except AntipodeError as error:
                yield str(error)
                continue
            for volume, state in states.items():
                if site.name not in state.sites or state.state not in whole[state.image]:
                    yield (
                        f"{storage.label} does not have all of state {state.reference} of volume"
                        f" {names[volume]}; choose another recovery point, or another site"
                    )
        yield from back_ends_down(point, site)

    def remarks(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        names = {v.id: v.name or v.id for v in point.topology.volumes}
        for name, states in point.of_storages.items():
            try:
                storage = storage_at(site, name)
                replicas = storage.replicas([s.image for s in states.values()])
            except AntipodeError as error:
                yield f"how the replicas at {site.name} are is not known: {error}"
                continue
            for volume, state in states.items():
                found = replicas[state.image]
                if found.health is not Health.REPLICATING:
                    yield (
                        f"{storage.label}: volume {names[volume]} is not replicated now"
                        f" ({found.health}: {found.detail}): nothing newer arrives"
                    )

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        slots = recovery.slots_of(server)
        begun: dict[str, Future[str]] = {}
        for volume in volumes:
            with ExitStack() as slot:
                slot.enter_context(slots.hold())
                begun[volume.source_id] = recovery.pool.submit(
                    _taken_over, recovery, volume, slot.pop_all()
                )
        return {source: made.result() for source, made in begun.items()}

    def settle(self, recovery: Recovery) -> list[str]:
        found, site = Found(recovery.site), recovery.site
        left: list[str] = []
        for name, states in recovery.point.of_storages.items():
            storage = storage_at(site, name)
            with recovery.timeline.step(ReplicatedSteps.SEPARATE, storage.label) as step:
                volumes = [str(v["id"]) for i in states for v in found.volumes(recovery.key(i))]
                for number, volume in enumerate(volumes):
                    step.waits_for(f"{len(volumes) - number} volumes, of which {volume} is next")
                    recovery.go_on()
                    left += _separated(storage, volume)
                step.result(volumes=len(volumes), left=len(left))
            # a try that did not see a volume of an earlier one has cloned its state once more
            _remove_clones(storage, recovery.run, recovery.timeline)
        return left

    def roll_back(
        self,
        site: Site,
        run: str,
        plan: RecoveryPlan,
        timeline: Timeline,
        go_on: Callable[[], None],
    ) -> list[str]:
        self.remove_unfinished(site, run, timeline)
        return []

    def remove_unfinished(self, site: Site, run: str, timeline: Timeline) -> None:
        for _, there in sorted(site.storages.items()):
            storage = opened(there, site.name)
            if isinstance(storage, Storage):  # others replicate no volumes
                _remove_clones(storage, run, timeline)

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        state = _state(source)
        return [_look(volume, state, site(name)) for name in state.sites]


PROVIDER = FromReplicatedStates()


def back_ends_down(point: RecoveryPoint, site: Site) -> Iterator[str]:
    """The back ends of Cinder that are to take volumes of a point over and are not up; a sentence
    for each.
    """
    try:
        services = site.volumes.services("cinder-volume")
        up = {s["host"] for s in services if s["state"] == "up"}
        for name in point.of_storages:
            if (host := storage_at(site, name).host).partition("#")[0] not in up:
                yield f"Cinder's back end {host} is not up at {site.name}"
    except AntipodeError as error:
        yield str(error)


def _state(source: VolumeSource) -> ReplicatedState:
    assert isinstance(source, ReplicatedState)  # by its kind
    return source


def _clones_of(run: str) -> str:
    """The beginning of the names of the clones that a run makes, until Cinder gives them others."""
    return f"antipode-{run}-"


def _taken_over(r: Recovery, volume: VolumePlan, slot: AbstractContextManager[object]) -> str:
    """The id of a volume that holds a state now, or did before.

    Args:
        slot: held until then.

    Raises:
        ResourceFailed: the storage cannot clone the state, or Cinder does not take the clone.
    """
    key, state = r.key(volume.source_id), _state(r.point.sources[volume.source_id])
    with slot, r.timeline.step(ReplicatedSteps.TAKE_OVER, volume.label) as step:
        existing = _usable(r, key)
        volume_id = existing or _managed(r, volume, state, key)
        made = r.site.volumes.watch.wait_for(
            [volume_id], wanted=("available", "in-use"), timeout_s=TIMEOUT_S, tell=step.waits_for
        )[volume_id]
        if int(made["size"]) != volume.size_gib:
            raise ResourceFailed(
                f"{r.site.name}: volume {volume.label} ({volume_id}) has {made['size']} GiB, and"
                f" the captured one {volume.size_gib}"
            )
        put_right(r.site, volume, made, marks(r.run, key))
        step.result(
            volume_id=volume_id,
            state=state.reference,
            volume_bytes=volume.size_gib << 30,
            found=existing is not None,
        )
        return volume_id


def _usable(r: Recovery, key: str) -> str | None:
    """The volume that an earlier attempt has made; one that Cinder could not take is removed."""
    usable = []
    for found in r.found.volumes(key):
        if found["status"].startswith("error"):
            r.site.volumes.delete_volume(found["id"])
        elif found["status"] != "deleting":
            usable.append(found)
    first = min(usable, key=lambda v: (v["status"] != "in-use", v["created_at"]), default=None)
    return None if first is None else str(first["id"])


def _managed(r: Recovery, volume: VolumePlan, state: ReplicatedState, key: str) -> str:
    """Clone a state, and begin to have Cinder manage the clone; the id of the volume."""
    storage = storage_at(r.site, state.storage)
    clone = f"{_clones_of(r.run)}{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    storage.clone(state.image, state.state, clone)
    wanted = UnmanagedVolume(
        host=storage.host,
        reference={"source-name": clone},
        name=volume.label,
        metadata=marks(r.run, key),
        volume_type=volume.volume_type,
        availability_zone=volume.availability_zone or "",
        bootable=volume.is_root or volume.bootable,
    )
    try:
        return r.site.backends.manage_volume(wanted)
    except ApiError as error:
        raise ResourceFailed(
            f"{r.site.name}: Cinder does not take image {clone} of {storage.label} as volume"
            f" {volume.label}: {error.reason}"
        ) from error


def _separated(storage: Storage, volume: str) -> list[str]:
    """Have a volume rest on no replica; why it still does."""
    try:
        storage.separate(storage.image_of_managed(volume))
    except Stopped:
        raise
    except AntipodeError as error:
        LOG.warning("volume %s still rests on a replica: %s", volume, error)
        return [
            f"volume {volume} at {storage.site} still rests on a replica: {error}. To finish it:"
            " antipode datastore prepare"
        ]
    return []


def _remove_clones(storage: Storage, run: str, timeline: Timeline) -> None:
    """Remove the clones of a run that Cinder does not manage."""
    if clones := storage.named(_clones_of(run)):
        with timeline.step(ReplicatedSteps.REMOVE_CLONES, storage.label) as step:
            step.result(clones=sum(storage.remove_clone(clone) for clone in clones))


def _look(volume: str, state: ReplicatedState, site: Site) -> Finding:
    """Whether a state is whole at a site, as its storage there says."""
    storage = storage_at(site, state.storage)
    is_there = state.state in storage.listed_whole([state.image])[state.image]
    detail = "it is there" if is_there else "it is gone, or its image is being filled"
    return Finding(
        volume=volume, backup=state.reference, ok=is_there, detail=f"{storage.label}: {detail}"
    )
