# SPDX-License-Identifier: Apache-2.0
"""Standing volumes of one VNF at one site: found, claimed, brought to a recovery point, reverted,
replaced, retired.

Nothing is marked as holding a backup before the mover has written, flushed and read it again, and
was detached. A volume whose last writer cannot be proven to have ended is never written or used
again: one from its snapshot takes its place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from antipode.cloud.api import ApiError, Json
from antipode.errors import (
    AntipodeError,
    RecoveryPointInvalid,
    ResourceFailed,
    Stopped,
    VolumeTaken,
)
from antipode.model.marks import VOLUME, made_by
from antipode.model.source import BackupRecord, Delta
from antipode.model.standing import (
    CLAIM,
    DATA,
    HOLDS,
    NO_SNAPSHOT,
    OF_SNAPSHOT,
    READ_AT,
    RETIRED,
    SNAPSHOT,
    STANDING,
    WRITTEN,
    Standing,
    given_back,
    held_backup,
    is_standing,
    is_standing_of,
    is_taken,
    new_claim,
    of_standing,
    read_standing,
    released,
    standing_key,
)
from antipode.model.steps import StepName, Timeline
from antipode.mover import lock
from antipode.mover.child import Mover, Turn
from antipode.mover.job import Outcome, VolumeJob
from antipode.mover.release import DETACHES_S, let_go
from antipode.vault.verify import Store, verify_chain, verify_deltas

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
TIMEOUT_S = 3600.0
CALL_S = 60.0
STOPS_WITHIN_S = 10.0
DETACHED_S = 120.0
"""How long a volume may stay in use after its server is gone."""
GONE_S = 60.0
"""How long a snapshot may take to be deleted; one with a clone may stay."""
READ_EVERY_S = 7 * 86400.0
"""How often all of a standing volume is read, so that what others have written into it is found."""
OBJECTS_WITHOUT_DATA = 2
"""Of a backup by a chunked driver: the list of its objects, and its digests."""
MAKING_S = 2 * TIMEOUT_S
"""How long a volume that stands for another may take to be made and marked."""
SETTLING = ("creating", "reverting", "detaching", "downloading")
"""Statuses of a volume that pass."""


class StandingSteps(StepName):
    VERIFY = "", "verify the backups"
    SNAPSHOT = "", "snapshot standing volumes"
    WRITE = "", "write standing volumes"
    TAKE = "", "take standing volume"
    REMOVE = "", "remove standing volumes"
    GIVE_BACK = "", "give standing volumes back"
    REMOVE_SNAPSHOTS = "", "remove snapshots of standing volumes"


@dataclass(frozen=True)
class Want:
    """A volume that is to stand at the site, and what it is to hold."""

    source: str
    """id of the volume that it stands for"""
    label: str
    chain: Sequence[BackupRecord]
    """base first; the last is wanted"""
    size_gib: int
    volume_type: str = ""
    availability_zone: str | None = None
    deltas: Sequence[Delta] = ()
    """those of a change stream, in the place of backups"""

    @property
    def backup(self) -> str:
        """The id of the backup or delta."""
        return self.deltas[-1].id if self.deltas else self.chain[-1].id


@dataclass(frozen=True)
class Hands:
    """All that the work on the standing volumes of a VNF takes."""

    site: Site
    vnf: str
    mover: Mover
    timeline: Timeline
    go_on: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.time
    afterwards: Site | None = None
    """the site for what is done though the run is to stop"""
    settles_s: float = TIMEOUT_S
    """how long a volume is waited for that something still has"""
    at_once: int = 8
    """volumes for which calls are made at once"""


@dataclass
class Brought:
    """What it took to bring standing volumes to a recovery point."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """by the volume that each stands for, without those that were there already"""
    problems: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    size_gib: int = 0
    """of all standing volumes of the VNF at the site, which is what quotas count"""
    data_bytes: int = 0
    """of these, without zeros: thin storage uses so many"""


def listed(volumes: Iterable[Json], vnf: str) -> dict[str, list[Standing]]:
    """The standing volumes of a VNF by the volume that each stands for; the best of them first."""
    found: dict[str, list[Standing]] = {}
    for volume in volumes:
        if (standing := read_standing(volume, vnf)) is not None:
            found.setdefault(standing.source, []).append(standing)
    for same in found.values():
        same.sort(key=lambda s: (not s.is_at_rest, not s.is_free, s.id))
    return found


def bring(h: Hands, wants: Sequence[Want], store: Store) -> Brought:
    """Bring the standing volumes of a VNF to a recovery point, and make those that are missing.

    It may be killed anywhere and called again. The snapshots of what the volumes held before go
    when all of them hold the point, so that until then all can go back together.

    Args:
        store: the backup store.

    Raises:
        RecoveryPointInvalid: a chain is not whole; nothing was written.
        ResourceFailed: a volume, snapshot or lock could not be made; nothing was written.
    """
    _verify(h, wants, store)
    done = Brought()
    there = listed(h.site.volumes.volumes(), h.vnf)
    chosen: dict[str, Standing | None] = {}
    for want in wants:
        chosen[want.source], others = _chosen(h, want, there.get(want.source, []))
        for other in others:
            _retire(h, other.id)
    if None in chosen.values():
        _remove_retired(h, Brought())  # the quota may have no room for both
    found = _for_each(h, wants, lambda w: chosen[w.source] or _made(h, w))
    standing = {w.source: s for w, s in zip(wants, found, strict=True)}
    behind = [w for w in wants if standing[w.source].holds != w.backup or _is_due(h, standing, w)]
    same = [w for w in behind if _is_unchanged(h, standing, w)]
    if changed := [w for w in behind if w not in same]:
        kept = _snapshots(h, [(w, standing[w.source]) for w in changed])
        done.outcomes = _written(h, changed, kept)
        done.problems = [
            f"volume {w.label}: {done.outcomes[w.source].problem}"
            for w in changed
            if not done.outcomes[w.source].is_done
        ]
    if not done.problems:  # until then these hold the point before, as the snapshots of the others
        _note_unchanged(h, [(w, standing[w.source]) for w in same])
        _forget_snapshots(h, wants, done)
    _remove_retired(h, done)
    standing_now = [s for same in listed(h.site.volumes.volumes(), h.vnf).values() for s in same]
    done.size_gib = sum(s.size_gib for s in standing_now)
    done.data_bytes = sum(s.data_bytes for s in standing_now)
    done.left += [
        f"volume {other.id} stands for {source}, which no standing volume gets from this point"
        for source, same in there.items()
        if source not in standing
        for other in same
    ]
    return done


def remove_all(h: Hands) -> list[str]:
    """Remove the standing volumes of a VNF, with their snapshots; what could not be removed, and
    why. Those that a recovery has taken stay. Safe to repeat.
    """
    done = Brought()
    for volume in h.site.volumes.volumes():
        if is_standing_of(volume, h.vnf):
            _retire(h, volume["id"])
    _remove_retired(h, done)
    return done.left


def revert(h: Hands, standing: Standing) -> Standing:
    """Bring a free volume back to what its snapshot holds; no object of the store is needed.

    Raises:
        ResourceFailed: Cinder does not do it.
    """
    assert standing.snapshot is not None and standing.snapshot_holds is not None
    claim = released(new_claim())
    _claimed(h, standing, claim)
    try:
        h.site.volumes.revert_to_snapshot(standing.id, standing.snapshot)
    except ApiError as error:
        raise ResourceFailed(
            f"standing volume {standing.id} cannot be reverted: {error.reason}"
        ) from error
    h.site.volumes.watch.wait_for([standing.id], timeout_s=TIMEOUT_S)
    h.site.volumes.merge_metadata(standing.id, {HOLDS: f"{standing.snapshot_holds}@{claim}"})
    return again(h, standing.id)


def move(h: Hands, standing: Standing, want: Want) -> Standing:
    """Bring a free volume to a backup, forward or back. What it holds before stays in a snapshot.

    Raises:
        ResourceFailed: it is not there.
    """
    if h.mover.missing:
        raise ResourceFailed(f"standing volume {standing.id}: {h.mover.missing}")
    kept = _snapshots(h, [(want, standing)])
    outcome = _written(h, [want], kept)[want.source]
    if not outcome.is_done:
        raise ResourceFailed(f"standing volume {standing.id}: {outcome.problem}")
    return again(h, standing.id)


def freed(h: Hands, standing: Standing) -> Standing | None:
    """A standing volume once nothing writes it any more; None where that cannot be proven."""
    if standing.status in SETTLING:
        h.site.volumes.watch.wait_for([standing.id], timeout_s=h.settles_s)
        standing = again(h, standing.id)
    if standing.is_free:
        return standing
    if not lock.is_over(lock.named(h.mover.locks, standing.claim)):
        return None
    if not let_go(h.site, standing.id, h.site.helper, h.settles_s):
        return None
    h.site.volumes.merge_metadata(standing.id, {CLAIM: released(new_claim())})
    return again(h, standing.id)


def awaited_free(h: Hands, standing: Standing, tell: Callable[[str], None]) -> Standing | None:
    """The same, after a moment for a writer of this host that was asked to stop."""
    if not standing.is_free:
        tell(f"the writer of standing volume {standing.id} to end")
        lock.awaited_over(lock.named(h.mover.locks, standing.claim), h.go_on, STOPS_WITHIN_S)
        standing = again(h, standing.id)
    return freed(h, standing)


def replaced(h: Hands, standing: Standing, label: str) -> Standing | None:
    """A new volume in the place of one that may still be written: it has the bytes of the snapshot
    from before. None where there is no snapshot.
    """
    if standing.snapshot is None or standing.snapshot_holds is None:
        return None
    claim = released(new_claim())
    new = _create(
        h,
        {"snapshot_id": standing.snapshot, "size": standing.size_gib},
        standing.source,
        label,
        claim,
    )
    h.site.volumes.merge_metadata(new, {HOLDS: f"{standing.snapshot_holds}@{claim}"})
    _retire(h, standing.id)
    return again(h, new)


def give_back(site: Site, run: str, timeline: Timeline) -> int:
    """Have the standing volumes that a recovery has taken stand again; how many. Its servers are
    gone. What they hold is not known then, and is read when they are written the next time.

    Raises:
        ResourceFailed: one does not get free of its server.
    """
    ours = [v for v in site.volumes.volumes() if made_by(v) == run and is_standing(v)]
    if not ours:
        return 0
    with timeline.step(StandingSteps.GIVE_BACK, site.name) as step:
        there = site.volumes.watch.wait_for(
            [v["id"] for v in ours], timeout_s=DETACHED_S, tell=step.waits_for
        )
        for volume in there.values():
            vnf, _, source = volume["metadata"][STANDING].partition("/")
            about = name_of(vnf, volume["name"] or source)
            site.volumes.update_volume(volume["id"], *about, given_back(volume))
        step.result(volumes=len(ours))
    return len(ours)


def keep_taken(site: Site, run: str) -> list[str]:
    """Have the standing volumes that a recovery has taken be its own for good, once the VNF is
    active on them; what could not be finished. Safe to repeat.
    """
    done = Brought()
    for volume in [v for v in site.volumes.volumes() if made_by(v) == run and is_standing(v)]:
        for snapshot in site.volumes.snapshots():
            if snapshot["metadata"].get(OF_SNAPSHOT) == volume["id"]:
                what = f"snapshot {snapshot['id']} of volume {volume['id']} at {site.name}"
                left_if_refused(
                    done.left, what, partial(site.volumes.delete_snapshot, snapshot["id"])
                )
        standing = of_standing(volume["metadata"])
        metadata = {k: v for k, v in volume["metadata"].items() if k not in standing}
        name, description = volume["name"] or "", volume["description"] or ""
        site.volumes.update_volume(volume["id"], name, description, metadata)
    return done.left


def name_of(vnf: str, label: str) -> tuple[str, str]:
    """Name and description of a standing volume."""
    return f"standing {label}"[:255], f"antipode keeps it for {vnf}: do not use it"


def again(h: Hands, volume: str) -> Standing:
    """A standing volume as Cinder shows it now.

    Raises:
        ResourceFailed: it stands no more.
    """
    found = h.site.volumes.volume(volume)
    standing = None if found is None else read_standing(found, h.vnf)
    if standing is None:
        raise ResourceFailed(f"{h.site.name}: standing volume {volume} was taken or removed")
    return standing


def _verify(h: Hands, wants: Sequence[Want], store: Store) -> None:
    """See that all chains are whole before the first byte of any is written."""
    with h.timeline.step(StandingSteps.VERIFY, h.vnf) as step:
        for want in wants:
            found = verify_chain(want.label, want.chain, store)
            for finding in [*found, *verify_deltas(want.label, want.deltas, store)]:
                if not finding.ok:
                    raise RecoveryPointInvalid(f"volume {want.label}: {finding.detail}")
        step.result(volumes=len(wants))


def _chosen(
    h: Hands, want: Want, there: Sequence[Standing]
) -> tuple[Standing | None, list[Standing]]:
    """The standing volume of a volume, free, and those that are of no use."""
    # a failover takes none of another type, as its plan names one
    fitting = [
        s
        for s in there
        if s.size_gib == want.size_gib
        and want.volume_type in ("", s.volume_type)
        and not s.is_broken
    ]
    useless = [s for s in there if s not in fitting]
    for standing in fitting:
        if (free := freed(h, standing)) is not None:
            return free, [*useless, *(s for s in fitting if s is not standing)]
    for standing in fitting:
        if (new := replaced(h, standing, want.label)) is not None:
            return new, [*useless, *(s for s in fitting if s is not standing)]
    return None, [*useless, *fitting]


def _is_due(h: Hands, standing: Mapping[str, Standing], want: Want) -> bool:
    """Whether all of a volume is to be read again; a time of the future was noted by a clock that
    was wrong.
    """
    return not h.now() - READ_EVERY_S < standing[want.source].read_at <= h.now()


def _is_unchanged(h: Hands, standing: Mapping[str, Standing], want: Want) -> bool:
    """Whether a volume has the bytes of a backup already, as no backup since that which it holds
    has any data. Their objects were just compared with those of the point.
    """
    known = [r.id for r in want.chain]
    holds = standing[want.source].holds
    if holds not in known or _is_due(h, standing, want):
        return False
    later = want.chain[known.index(holds) + 1 :]
    return all(r.stored is not None and r.stored.objects == OBJECTS_WITHOUT_DATA for r in later)


def _note_unchanged(h: Hands, volumes: Iterable[tuple[Want, Standing]]) -> None:
    """Note the new backup of volumes that have its bytes already; nothing is attached.

    Raises:
        ResourceFailed: another process has claimed one meanwhile.
    """

    def note(volume: tuple[Want, Standing]) -> None:
        want, standing = volume
        claim = released(new_claim())
        must_be_as(again(h, standing.id), standing)
        if _claimed(h, standing, claim).holds is None:
            raise ResourceFailed(f"standing volume {standing.id} was claimed meanwhile")
        h.site.volumes.merge_metadata(standing.id, {HOLDS: f"{want.backup}@{claim}"})

    _for_each(h, volumes, note)


def _for_each(h: Hands, items: Iterable[Item], work: Callable[[Item], Result]) -> list[Result]:
    """Do the same for several volumes at once. Once a failure is seen no more begin, and it is
    raised when none is under way. An interrupt of this thread waits for none: of those under way
    each makes no call once the run has ended.
    """
    pool = ThreadPoolExecutor(h.at_once, "standing")
    try:
        begun = [pool.submit(work, item) for item in items]
        wait(begun, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [done.result() for done in begun]  # those that did not begin come after a failure


def _made(h: Hands, want: Want) -> Standing:
    wanted: Json = {"size": want.size_gib}
    if want.volume_type:
        wanted["volume_type"] = want.volume_type
    if want.availability_zone:
        wanted["availability_zone"] = want.availability_zone
    return again(h, _create(h, wanted, want.source, want.label, released(new_claim())))


def _create(h: Hands, wanted: Json, source: str, label: str, claim: str) -> str:
    """A volume that stands for another, available. Without its own id in its metadata, which comes
    last, it counts for nothing.
    """
    made = h.site.volumes.create_volume(
        {
            **wanted,
            **dict(zip(("name", "description"), name_of(h.vnf, label), strict=True)),
            "metadata": {STANDING: standing_key(h.vnf, source), CLAIM: claim},
        }
    )
    try:
        found = h.site.volumes.watch.wait_for([made], timeout_s=TIMEOUT_S)[made]
        if found.get("encrypted") or found.get("multiattach"):
            what = "encrypted" if found.get("encrypted") else "one for several servers"
            raise ResourceFailed(
                f"{h.site.name}: volume {label} would be {what}, and no such volume can stand:"
                " Cinder restores it. Map its type to another, or take `standing` out of the VNF"
                " file"
            )
        h.site.volumes.merge_metadata(made, {VOLUME: made})
    except Stopped:
        raise
    except AntipodeError:
        with suppress(AntipodeError):  # or each try would leave one, until `MAKING_S` have passed
            h.site.volumes.delete_volume(made)
        raise
    return made


def _snapshots(h: Hands, volumes: Sequence[tuple[Want, Standing]]) -> dict[str, Standing]:
    """The volumes, each with a snapshot of what it holds, where that is known."""
    kept = {want.source: standing for want, standing in volumes}
    known = [s for s in kept.values() if s.holds is not None and s.snapshot_holds != s.holds]
    if not known:
        return kept
    begun: dict[str, str] = {}

    def begin(standing: Standing) -> None:
        begun[standing.id] = h.site.volumes.create_snapshot(
            standing.id, f"antipode keeps it for {h.vnf}", {OF_SNAPSHOT: standing.id}, CALL_S
        )

    def keep(standing: Standing) -> None:
        made = begun[standing.id]
        must_be_as(again(h, standing.id), standing)
        h.site.volumes.merge_metadata(standing.id, {SNAPSHOT: f"{made}@{standing.holds}"})
        kept[standing.source] = replace(standing, snapshot=made, snapshot_holds=standing.holds)

    with h.timeline.step(StandingSteps.SNAPSHOT, h.vnf) as step:
        try:
            _for_each(h, known, begin)
            h.site.volumes.snapshot_watch.wait_for(
                list(begun.values()), timeout_s=TIMEOUT_S, tell=step.waits_for
            )
        except Stopped:
            raise
        except AntipodeError:
            for snapshot in begun.values():  # or each try would leave some, up to the quota
                with suppress(AntipodeError):
                    h.site.volumes.delete_snapshot(snapshot)
            raise
        _for_each(h, known, keep)
        step.result(snapshots=len(begun))
    return kept


def must_be_as(now: Standing, before: Standing) -> None:
    """See that nothing has written a volume meanwhile: each writer claims it first, and no claim
    comes twice. What was copied of it in between is what it held.

    Raises:
        ResourceFailed: it was claimed.
    """
    if not now.is_at_rest or (now.claim, now.holds) != (before.claim, before.holds):
        raise ResourceFailed(f"standing volume {now.id} was claimed by another process meanwhile")


def _written(
    h: Hands, wants: Sequence[Want], standing: Mapping[str, Standing]
) -> dict[str, Outcome]:
    """Have the mover write volumes, and note what each holds then; by the volume that each stands
    for.
    """
    with h.mover.turn(len(wants)) as turn:
        return _written_now(h, wants, standing, turn)


def _written_now(
    h: Hands, wants: Sequence[Want], standing: Mapping[str, Standing], turn: Turn
) -> dict[str, Outcome]:
    """The same, in the mover's turn."""
    claim = claim_with_lock(h.mover)
    jobs: list[VolumeJob] = []
    held: dict[str, str | None] = {}

    def claimed(want: Want) -> None:
        known = _claimed(h, standing[want.source], claim)
        held[known.id] = known.holds
        jobs.append(_job(h, want, known, claim))

    with h.timeline.step(StandingSteps.WRITE, h.vnf) as step:
        try:
            _for_each(h, wants, claimed)
            found = _noted(h, jobs, turn.carry(claim, jobs, h.go_on), held)
        except BaseException:
            _release(h, claim, [standing[w.source].id for w in wants])
            raise
        step.result(
            volumes=len(jobs),
            failed=sum(not o.is_done for o in found.values()),
            fetched_bytes=sum(o.fetched for o in found.values()),
            written_bytes=sum(o.written for o in found.values()),
        )
    (h.mover.locks / claim).unlink(missing_ok=True)
    return {w.source: found[standing[w.source].id] for w in wants}


def claim_with_lock(mover: Mover) -> str:
    """A claim for a writer of this host, whose lock is there.

    Raises:
        ResourceFailed: the lock cannot be made, as where the disk is full.
    """
    claim = new_claim()
    try:
        lock.prepare(mover.locks / claim)
    except OSError as error:
        raise ResourceFailed(
            f"nothing can be written, as {mover.locks} takes no lock: {error.strerror}"
        ) from error
    return claim


def _claimed(h: Hands, standing: Standing, claim: str) -> Standing:
    """Claim a volume; it, without what it holds where another has claimed it since it was listed.

    A writer notes `WRITTEN` after its claim and before its first byte, and asks for its claim after
    that. So one that has written since is seen here, and one that is not seen here sees this claim
    before it writes.
    """
    h.site.volumes.merge_metadata(standing.id, {CLAIM: claim})
    found = h.site.volumes.volume(standing.id)
    metadata = {} if found is None else found["metadata"]
    h.site.volumes.merge_metadata(standing.id, {HOLDS: WRITTEN})
    is_as_listed = (metadata.get(CLAIM), metadata.get(HOLDS) or "") == (claim, standing.noted)
    return standing if is_as_listed else replace(standing, holds=None)


def _job(h: Hands, want: Want, standing: Standing, claim: str) -> VolumeJob:
    known = next((r for r in want.chain if r.id == standing.holds), None)
    return VolumeJob(
        volume=standing.id,
        claim=claim,
        chain=list(want.chain),
        deltas=list(want.deltas),
        # of another chain, or not known: all of it is read
        holds=known,
        holds_delta=next((d.id for d in want.deltas if d.id == standing.holds), None),
        reads=_is_due(h, {want.source: standing}, want),
        is_new=standing.holds is None and standing.read_at == 0 and standing.snapshot is None,
    )


def _noted(
    h: Hands,
    jobs: Sequence[VolumeJob],
    found: Mapping[str, Outcome],
    held: Mapping[str, str | None],
) -> dict[str, Outcome]:
    """The outcomes of volumes once it is noted what each holds. Where that fails of one, the others
    are noted all the same, and then the first failure is raised.
    """
    failed: list[Exception] = []

    def note(job: VolumeJob) -> Outcome:
        outcome = found[job.volume]
        try:
            if _note(h, job, outcome, held[job.volume]) or not outcome.is_done:
                return outcome
        except Exception as error:
            failed.append(error)
            return outcome
        problem = f"volume {job.volume} was claimed by another process"
        return Outcome(volume=job.volume, code=VolumeTaken.code, problem=problem, touched=True)

    outcomes = _for_each(h, jobs, note)
    if failed:
        raise failed[0]
    return {outcome.volume: outcome for outcome in outcomes}


def _note(h: Hands, job: VolumeJob, outcome: Outcome, held: str | None) -> bool:
    """Note what a volume holds, if it is still ours: the mover has ended.

    Args:
        held: the backup that it held when it was claimed.

    Returns:
        whether it was ours.
    """
    if not outcome.is_done and _is_ours(h, job):
        # a mover that was killed has left it attached, and no other process can prove its end
        let_go(h.site, job.volume, h.site.helper, DETACHES_S)
    if not _is_ours(h, job):
        return False
    if outcome.is_done:
        noted = {HOLDS: f"{job.wanted}@{job.claim}", DATA: str(outcome.data)}
        if job.is_read:
            noted[READ_AT] = str(int(h.now()))
    elif not outcome.touched and held is not None:
        noted = {HOLDS: f"{held}@{job.claim}"}
    else:
        noted = {CLAIM: released(new_claim())}
    h.site.volumes.merge_metadata(job.volume, noted)
    return True


def _is_ours(h: Hands, job: VolumeJob) -> bool:
    found = h.site.volumes.volume(job.volume)
    return found is not None and found["metadata"].get(CLAIM) == job.claim


def _release(h: Hands, claim: str, volumes: Iterable[str]) -> None:
    """Say of volumes that may have been claimed that their writer has ended, as other hosts cannot
    see its lock. What a volume holds that was noted already stands.
    """
    site = h.afterwards or h.site
    for volume in volumes:
        with suppress(AntipodeError):  # its lock says the same on this host
            found = site.volumes.volume(volume)
            metadata = {} if found is None else found["metadata"]
            if metadata.get(CLAIM) == claim and held_backup(metadata) is None:
                site.volumes.merge_metadata(volume, {CLAIM: released(new_claim())})


def _forget_snapshots(h: Hands, wants: Sequence[Want], done: Brought) -> None:
    """Delete the snapshots of what the volumes held before, unless another process has one of the
    volumes by now.
    """
    there = listed(h.site.volumes.volumes(), h.vnf)
    ours: dict[str, Standing] = {}
    for want in wants:
        at_it = [s for s in there.get(want.source, ()) if s.holds == want.backup]
        ours.update((s.id, s) for s in at_it if s.is_at_rest)
        if not at_it:
            done.problems.append(f"volume {want.label} was claimed by another process")
    if done.problems:
        return
    _for_each(
        h,
        [s.id for s in ours.values() if s.snapshot is not None],
        lambda volume: h.site.volumes.merge_metadata(volume, {SNAPSHOT: NO_SNAPSHOT}),
    )
    of_ours = [
        s["id"]
        for s in h.site.volumes.snapshots()
        if s["metadata"].get(OF_SNAPSHOT) in ours and s["status"] != "deleting"
    ]
    _for_each(
        h,
        of_ours,
        lambda snapshot: left_if_refused(
            done.left, f"snapshot {snapshot}", partial(h.site.volumes.delete_snapshot, snapshot)
        ),
    )


def _retire(h: Hands, volume: str) -> None:
    """Have a volume be of no more use. A writer that lives again sees that it is not its own."""
    h.site.volumes.merge_metadata(volume, {RETIRED: "1", CLAIM: released(new_claim())})


def _remove_retired(h: Hands, done: Brought) -> None:
    """Delete the volumes that were retired; what does not go now goes the next time."""
    for volume in h.site.volumes.volumes():
        if volume["status"] == "deleting" or not _is_useless(h, volume):
            continue
        let_go(h.site, volume["id"], h.site.helper, DETACHES_S)
        ours = [
            s["id"]
            for s in h.site.volumes.snapshots()
            if s["volume_id"] == volume["id"] and OF_SNAPSHOT in s["metadata"]
        ]
        with suppress(ApiError, ResourceFailed):  # a volume that was made of one still needs it
            for snapshot in ours:
                h.site.volumes.delete_snapshot(snapshot)
            h.site.volumes.snapshot_watch.wait_gone(ours, timeout_s=GONE_S)
        left_if_refused(
            done.left,
            f"volume {volume['id']}",
            partial(h.site.volumes.delete_volume, volume["id"]),
        )


def _is_useless(h: Hands, volume: Json) -> bool:
    """Whether a volume was retired, or its maker died before it could mark it; then long ago, as a
    recovery may be making one now.
    """
    metadata = volume["metadata"]
    if not metadata.get(STANDING, "").startswith(standing_key(h.vnf, "")) or is_taken(volume):
        return False
    if VOLUME in metadata:
        return metadata[VOLUME] == volume["id"] and RETIRED in metadata
    made_at = datetime.fromisoformat(volume["created_at"]).replace(tzinfo=UTC).timestamp()
    return h.now() - made_at > MAKING_S


def left_if_refused(left: list[str], what: str, delete: Callable[[], None]) -> None:
    """Delete something; where Cinder refuses that, add it to what is left, with the reason."""
    try:
        delete()
    except ApiError as error:
        left.append(f"{what}: {error.reason}")
