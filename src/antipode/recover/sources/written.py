# SPDX-License-Identifier: Apache-2.0
"""Volumes of a recovery that are new and written by the mover: each block comes from the newest
object that has it, so that the length of a chain costs nothing. What it does not bring Cinder
restores.

A volume gets the key of the recovery only when all of it is written and nothing writes it any more.
One that is half written is never used: a writer that cannot be proven to have ended may live again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from antipode.cloud.api import Json
from antipode.errors import AntipodeError, ResourceFailed, Stopped
from antipode.model.marks import (
    KEY,
    RUN,
    WRITTEN,
    WRITTEN_FOR,
    is_copied,
    is_half_written,
    marks,
)
from antipode.model.plan import VolumePlan
from antipode.model.source import VolumeSource, backup_chain, deltas_of
from antipode.model.standing import CLAIM, is_standing
from antipode.model.steps import Step, StepName
from antipode.mover import lock, release
from antipode.mover.child import Mover
from antipode.mover.job import VolumeJob
from antipode.recover.recovery import Recovery, of_each
from antipode.recover.sources import encrypted, zeros
from antipode.recover.sources.finish import put_right
from antipode.recover.standing import STOPS_WITHIN_S, claim_with_lock, left_if_refused

if TYPE_CHECKING:
    from antipode.cloud.site import Site

TIMEOUT_S = 3600.0
GONE_S = 60.0
"""How long a half-written volume may take to be deleted, before Cinder makes another."""


class WrittenSteps(StepName):
    WRITE = "1.7.1", "write volume"


def why_not(source: VolumeSource) -> str | None:
    """Why the mover writes no volume from a source; None where it does."""
    chain = backup_chain(source)
    if encrypted.key_of(source) is not None:
        return "it is encrypted"
    if others := [r.service for r in chain if not zeros.is_chunked(r)]:
        return f"backups of {others[0]} are not read by the mover"
    if any(r.stored is None for r in chain):
        return "its backups carry no fingerprint, as no backup store was configured"
    return None


def provided(r: Recovery, server: str, volumes: Sequence[VolumePlan]) -> dict[str, str]:
    """Have those volumes of a server that the mover can write; the others are left out.

    Returns:
        volume id at the former site -> id of the volume.
    """
    mover = r.mover
    if mover is None or mover.missing or not r.mover_restores:
        return {}

    def one(volume: VolumePlan, slot: AbstractContextManager[object]) -> str | None:
        with slot:
            return _provided(r, mover, volume)

    found = of_each(r, server, volumes, one)
    return {source: made for source, made in found.items() if made is not None}


def all_written(
    r: Recovery, mover: Mover, server: str, volumes: Sequence[VolumePlan]
) -> dict[str, str]:
    """Have volumes of a server that only the mover can write.

    Returns:
        as `provided`, of all of them.

    Raises:
        ResourceFailed: one cannot be written; the message names it and the reason.
    """

    def one(volume: VolumePlan, slot: AbstractContextManager[object]) -> str:
        key = r.key(volume.source_id)
        with slot, r.timeline.step(WrittenSteps.WRITE, volume.label) as step:
            known = [v for v in r.found.volumes(key) if not is_standing(v)]
            whole = _whole(known, key, volume)
            try:
                made = (
                    _written(r, mover, volume, key, step)
                    if whole is None
                    else _finished(r, volume, key, whole)
                )
            except Stopped:
                raise
            except AntipodeError as error:
                raise ResourceFailed(
                    f"{r.site.name}: volume {volume.label} was not written: {error}"
                ) from error
            step.result(
                volume_id=made,
                road="written by the mover" if whole is None else "written before",
                backup_id=volume.source_reference,
                volume_bytes=volume.size_gib << 30,
                found=whole is not None,
            )
            return made

    return of_each(r, server, volumes, one)


def remove_half_written(site: Site, run: str) -> list[str]:
    """Remove the volumes of a run that are half written, as others were made in their place; what
    stays, and why. Safe to repeat.
    """
    left: list[str] = []
    for volume in [v for v in site.volumes.volumes() if is_half_written(v, run)]:
        left += _removed(site, volume["id"])
    return left


def let_go(site: Site, run: str) -> None:
    """End the attachments to hosts of what a run has half written, or Cinder deletes none of it. A
    writer that lives again finds the volume gone.
    """
    for volume in [v for v in site.volumes.volumes() if is_half_written(v, run)]:
        _detached(site, volume["id"])


def _provided(r: Recovery, mover: Mover, volume: VolumePlan) -> str | None:
    key, source = r.key(volume.source_id), r.point.source_of(volume.source_id)
    known = [v for v in r.found.volumes(key) if not is_standing(v)]
    whole = _whole(known, key, volume)
    if known and whole is None:
        return None  # Cinder has begun to restore it
    with r.timeline.step(WrittenSteps.WRITE, volume.label) as step:
        made, road = None, ""
        try:
            if whole is not None:
                made, road = _finished(r, volume, key, whole), "written before"
            elif (why := why_not(source)) is not None:
                road = f"Cinder's restore: {why}"
            else:
                made, road = _written(r, mover, volume, key, step), "written by the mover"
        except Stopped:
            raise
        except AntipodeError as error:  # Cinder needs nothing of what has failed
            road = f"Cinder's restore: {error}"
            _make_room(r, key, step)
        step.result(
            volume_id=made,
            road=road,
            backup_id=volume.source_reference,
            volume_bytes=volume.size_gib << 30,
            found=whole is not None,
        )
        return made


def _whole(known: Sequence[Json], key: str, wanted: VolumePlan) -> Json | None:
    """The volume that was written before: the one in use, else the oldest, so that each try takes
    the same. One that a server is about to have is none the less whole.
    """
    found = [
        v
        for v in known
        if v["metadata"].get(KEY) == key
        and v["metadata"].get(WRITTEN) == wanted.source_reference
        and v["status"] != "deleting"
        and not v["status"].startswith("error")
        and not is_copied(v)
    ]
    return min(
        found, key=lambda v: (v["status"] != "in-use", v["created_at"], v["id"]), default=None
    )


def _written(r: Recovery, mover: Mover, volume: VolumePlan, key: str, step: Step) -> str:
    """The id of a volume that holds what its backup holds.

    Raises:
        ResourceFailed: it does not; nothing uses the volume.
    """
    source = r.point.source_of(volume.source_id)
    with mover.turn(1) as turn:
        begun = next(_free(r, mover, volume, key, step), None)
        made = begun or _created(r, volume, key, step)
        claim = claim_with_lock(mover)
        r.site.volumes.merge_metadata(made, {CLAIM: claim})
        job = _job(r, made, claim, source, is_new=begun is None)
        outcome = turn.carry(claim, [job], r.go_on)[made]
        (mover.locks / claim).unlink(missing_ok=True)
    if not outcome.is_done:
        raise ResourceFailed(outcome.problem)
    found = r.site.volumes.volume(made)
    if found is None or found["metadata"].get(CLAIM) != claim:
        raise ResourceFailed(f"volume {made} was claimed by another process")
    return _finished(r, volume, key, found)


def _job(r: Recovery, volume: str, claim: str, source: VolumeSource, *, is_new: bool) -> VolumeJob:
    return VolumeJob(
        volume=volume,
        claim=claim,
        chain=list(backup_chain(source)),
        deltas=list(deltas_of(source)),
        is_new=is_new,
        run=r.run,
    )


def _finished(r: Recovery, volume: VolumePlan, key: str, made: Json) -> str:
    """A volume that is whole, with all that it needs beside its bytes. Its key comes with these in
    one call, and from then on it is the recovery's.
    """
    put_right(r.site, volume, made, {**marks(r.run, key), WRITTEN: volume.source_reference})
    return str(made["id"])


def _free(r: Recovery, mover: Mover, volume: VolumePlan, key: str, step: Step) -> Iterator[str]:
    """The volumes that an earlier process has half written, and that nothing writes any more."""
    for found in r.found.half_written(r.run, key):
        there = lock.named(mover.locks, str(found["metadata"].get(CLAIM) or ""))
        if found["size"] != volume.size_gib or not lock.awaited_over(
            there, r.go_on, STOPS_WITHIN_S
        ):
            continue
        try:
            if not _detached(r.site, found["id"], step.waits_for):
                continue
        except Stopped:
            raise
        except AntipodeError as error:
            step.waits_for(f"{error}; another volume is written in its place")
            continue
        yield str(found["id"])


def _created(r: Recovery, volume: VolumePlan, key: str, step: Step) -> str:
    wanted: Json = {
        "size": volume.size_gib,
        "name": volume.label,
        "metadata": {RUN: r.run, WRITTEN_FOR: key},
    }
    if volume.volume_type:
        wanted["volume_type"] = volume.volume_type
    if volume.availability_zone:
        wanted["availability_zone"] = volume.availability_zone
    made = r.site.volumes.create_volume(wanted)
    found = r.site.volumes.watch.wait_for([made], timeout_s=TIMEOUT_S, tell=step.waits_for)[made]
    if found.get("encrypted") or found.get("multiattach"):
        what = "encrypted" if found.get("encrypted") else "one for several servers"
        raise ResourceFailed(f"volume {made} is {what}, and the mover writes no such volume")
    return made


def _make_room(r: Recovery, key: str, step: Step) -> None:
    """Remove what is half written of a volume before Cinder makes another: the quotas may have no
    room for both. What does not go now goes at the end of the run.
    """
    try:
        ours = [
            v["id"]
            for v in r.site.volumes.volumes()
            if is_half_written(v, r.run) and v["metadata"][WRITTEN_FOR] == key
        ]
        for volume in ours:
            if _removed(r.site, volume):
                return
        r.site.volumes.watch.wait_gone(ours, timeout_s=GONE_S, tell=step.waits_for)
    except Stopped:
        raise
    except AntipodeError as error:
        step.waits_for(f"{error}; it is removed later")


def _removed(site: Site, volume: str) -> list[str]:
    """Why a volume could not be removed."""
    left: list[str] = []
    _detached(site, volume)

    def delete() -> None:
        site.volumes.delete_volume(volume)

    left_if_refused(left, f"volume {volume} at {site.name}, half written by the mover", delete)
    return left


def _detached(site: Site, volume: str, tell: Callable[[str], None] = lambda what: None) -> bool:
    return release.let_go(site, volume, site.helper, release.DETACHES_S, tell)
