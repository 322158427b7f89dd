# SPDX-License-Identifier: Apache-2.0
"""Volumes of a recovery from standing ones: taken as they are, finished forward, reverted, or
replaced from their snapshots; cloned for a drill. What none of this brings is Cinder's to restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.marks import KEY, RUN, made_by, marks, words
from antipode.model.plan import VolumePlan
from antipode.model.source import backup_chain, deltas_of
from antipode.model.standing import Standing, held_backup, is_standing, of_standing
from antipode.model.steps import Step, Timeline
from antipode.mover.child import Mover
from antipode.recover import standing as volumes_at_site
from antipode.recover.recovery import Recovery, of_each
from antipode.recover.sources.finish import put_right
from antipode.recover.standing import CALL_S, TIMEOUT_S, Hands, StandingSteps, Want

if TYPE_CHECKING:
    from antipode.cloud.site import Site

SETTLES_S = 120.0
"""How long a recovery waits for a standing volume that something else has: then Cinder restores it,
and may be faster.
"""


@dataclass(frozen=True)
class _Ready:
    """A standing volume that holds what is wanted, and how it has come to that."""

    standing: Standing
    road: str


def provided(r: Recovery, server: str, volumes: Sequence[VolumePlan]) -> dict[str, str]:
    """Have those volumes of a server that standing ones can be; the others are left out.

    Returns:
        volume id at the former site -> id of the volume.
    """
    if r.mover is None:
        return {}
    found = of_each(r, server, volumes, partial(_provided, r, r.mover))
    return {source: made for source, made in found.items() if made is not None}


def remove_snapshots(site: Site, run: str, timeline: Timeline) -> None:
    """Remove the snapshots that a drill has made of standing volumes. Safe to repeat.

    Raises:
        ResourceFailed: not all could be removed.
    """
    ours = [s["id"] for s in site.volumes.snapshots() if made_by(s) == run]
    if not ours:
        return
    with timeline.step(StandingSteps.REMOVE_SNAPSHOTS, site.name) as step:
        try:
            for snapshot in ours:
                site.volumes.delete_snapshot(snapshot)
        except ApiError as error:
            raise ResourceFailed(
                f"{site.name}: snapshots of standing volumes cannot be removed: {error.reason}"
            ) from error
        site.volumes.snapshot_watch.wait_gone(ours, timeout_s=TIMEOUT_S, tell=step.waits_for)
        step.result(snapshots=len(ours))


def _provided(
    r: Recovery, mover: Mover, volume: VolumePlan, slot: AbstractContextManager[object]
) -> str | None:
    with slot:
        key = r.key(volume.source_id)
        known = r.found.volumes(key)
        taken = [v for v in known if is_standing(v)]
        if not taken and known:
            return None  # Cinder has begun to restore it
        there = r.found.standing(r.point.vnf.vnf, volume.source_id)
        if not taken and not there:
            return None
        with r.timeline.step(StandingSteps.TAKE, volume.label) as step:
            hands = Hands(
                r.site,
                r.point.vnf.vnf,
                mover,
                r.timeline,
                r.go_on,
                afterwards=r.site.under(lambda: None),
                settles_s=SETTLES_S,
            )
            for earlier in taken:
                if made := _finished(r, volume, earlier["id"], key):
                    step.result(volume_id=made, road="taken before")
                    return made
            try:
                made, road = (_cloned if r.keys else _taken)(r, hands, volume, there, step)
            except Stopped:
                raise
            except AntipodeError as error:  # Cinder needs nothing of what has failed
                made, road = None, f"Cinder's restore: {error}"
            step.result(volume_id=made, road=road, backup_id=volume.source_reference)
            return made


def _taken(
    r: Recovery, h: Hands, volume: VolumePlan, there: Sequence[Standing], step: Step
) -> tuple[str | None, str]:
    """The first standing volume that can be had, and by which road; None with the reasons."""
    want = _want(r, volume)
    reasons: list[str] = []
    for standing in there:
        if standing.size_gib != volume.size_gib or standing.is_broken:
            reasons.append(f"{standing.id} has {standing.size_gib} GiB, or is {standing.status}")
            continue
        if volume.volume_type not in ("", standing.volume_type):  # none of it would be of use
            reasons.append(f"{standing.id} is of type {standing.volume_type}")
            continue
        try:
            ready = _ready(h, standing, want, step)
        except Stopped:
            raise
        except AntipodeError as error:
            reasons.append(str(error))
            continue
        if ready is None:
            reasons.append(f"{standing.id} may still be written by a process that is not seen here")
            continue
        try:
            if made := _claimed(r, volume, ready.standing.id):
                return made, ready.road
            reasons.append(f"{ready.standing.id} was claimed, or is of another type")
        except Stopped:
            raise
        except AntipodeError as error:
            reasons.append(str(error))
            _unmark(r, ready.standing.id)
    return None, f"Cinder's restore: {'; '.join(reasons)}"


def _ready(h: Hands, standing: Standing, want: Want, step: Step) -> _Ready | None:
    """A standing volume that holds the wanted backup; None where none can be had."""
    standing = volumes_at_site.again(h, standing.id)  # it was listed before
    if standing.is_at_rest and standing.holds == want.backup:
        return _Ready(standing, "standing")
    free, from_snapshot = volumes_at_site.awaited_free(h, standing, step.waits_for), ""
    if free is None:
        free, from_snapshot = (
            volumes_at_site.replaced(h, standing, want.label),
            "a volume from its snapshot",
        )
    if free is None:
        return None
    if free.holds == want.backup:
        return _Ready(free, from_snapshot or "standing")
    if free.snapshot_holds == want.backup:
        try:
            return _Ready(volumes_at_site.revert(h, free), "reverted to its snapshot")
        except ResourceFailed as error:
            step.waits_for(f"{error}; it is written instead")
            free = volumes_at_site.again(h, free.id)  # its claim is another now
    moved = volumes_at_site.move(h, free, want)
    return _Ready(moved, f"{from_snapshot}, then written" if from_snapshot else "written")


def _claimed(r: Recovery, volume: VolumePlan, standing: str) -> str | None:
    """Make a standing volume one of this recovery, if nothing has it and it still holds what it
    has to.
    """
    key = r.key(volume.source_id)
    r.site.volumes.merge_metadata(standing, marks(r.run, key))
    return _finished(r, volume, standing, key)


def _finished(r: Recovery, volume: VolumePlan, standing: str, key: str) -> str | None:
    """A standing volume that carries the key of this recovery, with all that it needs beside its
    bytes; None, and the volume stands again, where it is not to be had.
    """
    found = r.site.volumes.volume(standing)
    if found is None:
        return None
    is_used = found["metadata"].get(KEY) == key and _is_used(r.site, found)
    if not is_used and _problem(r, volume, found, key) is not None:
        _unmark(r, standing)
        return None
    put_right(r.site, volume, found, {**marks(r.run, key), **of_standing(found["metadata"])})
    return standing


def _unmark(r: Recovery, standing: str) -> None:
    """Have a volume stand again that this recovery does not take; not that of another recovery."""
    found = r.site.volumes.volume(standing)
    if found is None or made_by(found) != r.run or _is_used(r.site, found):
        return
    name, description = found["name"] or "", found["description"] or ""
    unmarked = {k: v for k, v in found["metadata"].items() if k not in (KEY, RUN)}
    r.site.volumes.update_volume(standing, name, description, unmarked)


def _is_used(site: Site, volume: Json) -> bool:
    """Whether a server has a volume, or is about to: while it is being built the volume is only
    `reserved` or `attaching`, and shows no attachment itself.
    """
    if volume["status"] == "available":
        return False
    if any(a.get("server_id") for a in volume.get("attachments") or ()):
        return True
    return any(server is not None for server in site.attachments.of(volume["id"]).values())


def _problem(r: Recovery, volume: VolumePlan, found: Json, key: str) -> str | None:
    """Why a volume cannot be taken; None when it can."""
    if found["metadata"].get(KEY) != key:
        return "it has another key"
    if held_backup(found["metadata"]) != volume.source_reference:
        return "it holds something else"
    if found["status"] != "available" or r.site.attachments.of(found["id"]):
        return "it is attached"
    if volume.volume_type and found["volume_type"] != volume.volume_type:
        return "it is of another type"
    zone = found.get("availability_zone")
    if volume.availability_zone and zone != volume.availability_zone:
        return "it is in another zone"
    return None


def _cloned(
    r: Recovery, h: Hands, volume: VolumePlan, there: Sequence[Standing], step: Step
) -> tuple[str | None, str]:
    """A volume from a snapshot of a standing one, which stays: nothing is written into that, and
    the snapshot is of what it held all the while.
    """
    for listed in there:
        standing = volumes_at_site.again(h, listed.id)
        if not standing.is_at_rest or standing.holds != volume.source_reference:
            continue
        snapshot = r.site.volumes.create_snapshot(
            standing.id, f"antipode {r.run}", {RUN: r.run}, CALL_S
        )
        r.site.volumes.snapshot_watch.wait_for([snapshot], timeout_s=TIMEOUT_S, tell=step.waits_for)
        volumes_at_site.must_be_as(volumes_at_site.again(h, standing.id), standing)
        key = r.key(volume.source_id)
        wanted: Json = {
            "snapshot_id": snapshot,
            "size": volume.size_gib,
            "name": volume.label,
            "description": words(r.run, key),
            "metadata": marks(r.run, key),
        }
        made = r.site.volumes.create_volume(wanted)
        found = r.site.volumes.watch.wait_for([made], timeout_s=TIMEOUT_S, tell=step.waits_for)[
            made
        ]
        put_right(r.site, volume, found, marks(r.run, key))
        return made, "a clone of the standing volume"
    return None, "Cinder's restore: no standing volume is at rest at this recovery point"


def _want(r: Recovery, volume: VolumePlan) -> Want:
    source = r.point.source_of(volume.source_id)
    return Want(
        source=volume.source_id,
        label=volume.label,
        chain=backup_chain(source),
        size_gib=volume.size_gib,
        deltas=deltas_of(source),
    )
