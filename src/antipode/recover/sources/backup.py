# SPDX-License-Identifier: Apache-2.0
"""Volumes from Cinder's backups: records imported, volumes restored (step 1.7.1)."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from antipode.cloud.api import ApiError, Json
from antipode.cloud.backups import NO_VOLUME, has_increments, was_never_imported
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed, Stalled
from antipode.model.marks import BLANK, marks, words
from antipode.model.plan import RecoveryPlan, RestoreWay, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import VolumeSource, backup_chain
from antipode.model.standing import is_standing
from antipode.model.steps import Step, Steps, Timeline
from antipode.recover.recovery import Recovery, of_each
from antipode.recover.sources import (
    VolumeProvider,
    encrypted,
    proof,
    records,
    standing,
    written,
    zeros,
)
from antipode.recover.sources.finish import put_right
from antipode.recover.standing import StandingSteps, keep_taken
from antipode.vault.verify import Finding, has_list, verify_chain

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
TIMEOUT_S = 24 * 3600.0
TAKEN = re.compile(r"backup status must be", re.IGNORECASE)
"""How Cinder says that a backup is not `available`, as it is being restored."""
LOOKS_AT_ONCE = 8
"""at the backup store"""
_restores: WeakValueDictionary[tuple[str, str], _Turn] = WeakValueDictionary()
"""site and backup -> held while it is restored: of two volumes that are made from it at once Cinder
takes both, and cancels the restore of one when the other is done"""
_finding = threading.Lock()


class _Turn:
    """That of the volumes which are restored from one backup one after another."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class FromBackups(VolumeProvider):
    kind = "backup-chain"
    takes_turns = True
    volume_step = Steps.RESTORE_VOLUME
    standing_step = StandingSteps.TAKE
    written_step = written.WrittenSteps.WRITE

    def check(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        try:
            if not site.backups.services_up():
                yield f"cinder-backup is not up at {site.name}"
        except ApiError as error:
            yield f"{error}; a recovery takes a user with the role admin in the project"
        yield from encrypted.problems(point, site)
        known = {b["id"]: b for b in site.backups.backups()}
        for record in point.backups.values():
            backup = known.get(record.id)
            if backup is None:
                continue
            if was_never_imported(backup):
                if has_increments(backup):
                    yield records.cannot_be_imported(site, record)
            elif backup["volume_id"] == NO_VOLUME and backup["status"].startswith("error"):
                yield (
                    f"backup {record.id} was deleted at {site.name} before, and its import has"
                    " failed. Do not delete it: Cinder would delete its data with it. Have an"
                    " administrator mark it as deleted in Cinder's database, then try again"
                )
            elif backup["status"] != "creating" and backup["volume_id"] != record.volume_id:
                yield (
                    f"a backup with id {record.id} exists at {site.name} already, and is of"
                    f" another volume ({backup['volume_id']})"
                )
            elif backup["status"].startswith("error"):
                yield (
                    f"backup {record.id} exists at {site.name} already, in status"
                    f" {backup['status']}: {backup.get('fail_reason')}"
                )

    def remarks(self, point: RecoveryPoint, site: Site) -> Iterator[str]:
        yield from encrypted.remarks(point, site)
        yield from records.remarks(point, site)

    def missing(self, point: RecoveryPoint, store: Objects) -> list[str]:
        chains = [backup_chain(s) for s in point.sources.values() if s.kind == self.kind]
        newest = [chain[-1] for chain in chains]
        with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
            there = pool.map(lambda record: has_list(record, store), newest)
        return [
            f"backup {record.id} of volume {record.volume_id}"
            for record, is_there in zip(newest, there, strict=True)
            if not is_there
        ]

    def quotas(self, point: RecoveryPoint, site: Site) -> Counter[str]:
        known = {b["id"] for b in site.backups.backups()}
        new = [r for r in point.backups.values() if r.id not in known]
        return Counter(backups=len(new), backup_gigabytes=sum(r.size_gib for r in new))

    def way(self, source: VolumeSource, site: Site) -> RestoreWay:
        if encrypted.key_of(source) is not None:
            return encrypted.WAY
        return zeros.way_of(backup_chain(source))

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        ready: dict[str, str] = {}
        others = list(volumes)
        for road in (standing.provided, written.provided):
            ready |= road(recovery, server, others)
            others = [v for v in volumes if v.source_id not in ready]
            if not others:
                return ready
        records.import_chains(recovery, server, [v.source_id for v in others])
        return {**ready, **restore_volumes(recovery, server, others)}

    def settle(self, recovery: Recovery) -> list[str]:
        if recovery.mover is None:
            return []
        left = written.remove_half_written(recovery.site, recovery.run)
        return [*left, *keep_taken(recovery.site, recovery.run)]

    def remove_unfinished(self, site: Site, run: str, timeline: Timeline) -> None:
        standing.remove_snapshots(site, run, timeline)

    def moved_bytes(self, source: VolumeSource) -> int:
        """The whole volume, and after it each increment."""
        increments = backup_chain(source)[1:]
        stored = (r.stored.bytes for r in increments if r.stored is not None)
        return (source.size_gib << 30) + sum(stored)

    def is_written(self, source: VolumeSource) -> bool:
        return written.why_not(source) is None

    def records(self, source: VolumeSource) -> int:
        return len(backup_chain(source))

    def roll_back(
        self,
        site: Site,
        run: str,
        plan: RecoveryPlan,
        timeline: Timeline,
        go_on: Callable[[], None],
    ) -> list[str]:
        sources = {v.source_id for v in plan.volumes if v.source_kind == self.kind}
        known = [b for b in site.backups.backups() if b["volume_id"] in sources]
        if not known:
            return []
        return [
            f"{len(known)} backup records of {plan.vnf} at {site.name}: the next failover uses"
            " them, and deleting a backup in Cinder deletes its data in the store"
        ]

    def verify(
        self,
        volume: str,
        source: VolumeSource,
        store: Objects | None,
        site: Callable[[str], Site],
    ) -> list[Finding]:
        return verify_chain(volume, backup_chain(source), store)

    def unprovable(self, source: VolumeSource) -> str | None:
        if encrypted.key_of(source) is not None:
            return "an encrypted volume is compared by its backups' objects only"
        last = backup_chain(source)[-1]
        if zeros.is_chunked(last):
            return None
        return f"backups of driver {last.service} carry no digests of their blocks"

    def prove(
        self, recovery: Recovery, volume: VolumePlan, source: VolumeSource, store: Objects | None
    ) -> Finding:
        assert store is not None  # its digests are there
        chain = backup_chain(source)
        # the store could have changed the digests with the data, but not the sealed fingerprint
        for stored in verify_chain(volume.label, chain, store):
            if not stored.ok:
                return stored
        records.import_chains(recovery, volume.label, [volume.source_id])
        made = restored_volume(recovery, volume, recovery.slots.hold())
        return proof.prove(recovery, store, volume, made, chain[-1])

    def remove_proofs(
        self, site: Site, run: str, timeline: Timeline, volumes: Collection[str] | None
    ) -> int:
        return proof.remove_backups(site, run, timeline, volumes)


PROVIDER = FromBackups()


def restore_volumes(
    recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
) -> dict[str, str]:
    """Have volumes of a server that hold what their backups hold; wait until they are available.

    Returns:
        volume id at the former site -> id of the restored volume.

    Raises:
        ResourceFailed: a restore failed.
    """
    return of_each(recovery, server, volumes, partial(restored_volume, recovery))


def restored_volume(r: Recovery, volume: VolumePlan, slot: AbstractContextManager[object]) -> str:
    """The id of a volume that is restored now, or was before.

    Args:
        slot: held until then.

    Raises:
        ResourceFailed: the restore failed.
    """
    key = r.key(volume.source_id)
    turn = _turn_of(r.site, volume)
    with slot, turn.lock, r.timeline.step(Steps.RESTORE_VOLUME, volume.label) as step:
        existing = _usable(r.site, r.found.volumes(key), volume)
        if (of := encrypted.key_of(r.point.source_of(volume.source_id))) is not None:
            r.site.stay_authorized(60 + encrypted.RESTORE_S_PER_GIB * volume.size_gib)
        volume_id = str(existing["id"]) if existing else _create(r, volume, key, step)
        try:
            restored = _awaited(r, volume, volume_id, step)
        except Stalled:
            raise
        except ResourceFailed as error:
            if of is None:
                raise
            why = encrypted.why_not_restored(r.point, r.site, volume.source_id, of)
            raise ResourceFailed(f"{error}. {why}") from error
        if _is_blank(restored, volume):
            _write_into(r, volume, volume_id, step)
            restored = _awaited(r, volume, volume_id, step)
            if _is_blank(restored, volume):
                raise ResourceFailed(
                    f"{r.site.name}: Cinder says that volume {volume.label} ({volume_id}) is"
                    f" {restored['status']}, but not that backup {volume.source_reference} was"
                    " restored into it. Look at the log of cinder-backup, then resume the run"
                )
        put_right(r.site, volume, restored, marks(r.run, key))
        step.result(
            volume_id=volume_id,
            backup_id=volume.source_reference,
            volume_bytes=volume.size_gib << 30,
            moved_bytes=PROVIDER.moved_bytes(r.point.source_of(volume.source_id)),
            road="Cinder's restore",
            sparse=volume.way.sparse,
            found=existing is not None,
        )
        return volume_id


def _turn_of(site: Site, volume: VolumePlan) -> _Turn:
    with _finding:
        return _restores.setdefault((site.name, volume.source_reference), _Turn())


def _usable(site: Site, ours: Sequence[Json], volume: VolumePlan) -> Json | None:
    """Of the volumes that carry the key of one the one to use; those that are of no use are
    removed.

    A request may have come through late, and made a second volume. Every try takes the same of
    them: the one in use, else the older. A blank one whose maker died is not filled: a request to
    restore into it may still arrive, when a server has it. Nor a standing one, which was listed
    when it carried the key: what it holds was found to be something else, or may still be written.
    """
    usable = []
    for found in ours:
        if is_standing(found):
            continue
        if found["status"].startswith("error"):
            site.volumes.delete_volume(found["id"])
        elif found["status"] == "available" and _is_blank(found, volume):
            _discard(site, found["id"])
        elif found["status"] != "deleting":
            usable.append(found)
    return min(
        usable, key=lambda v: (v["status"] != "in-use", v["created_at"], v["id"]), default=None
    )


def _discard(site: Site, volume_id: str) -> None:
    try:
        site.volumes.delete_volume(volume_id)
    except ApiError as error:
        # The request of the dead process has come through meanwhile: the volume is removed as the
        # second of its kind when the recovery is over.
        LOG.info("blank volume %s is left for now: %s", volume_id, error.reason)


def _is_blank(found: Json, volume: VolumePlan) -> bool:
    """Whether nothing has been restored into a volume yet.

    A restore puts the metadata of the backup in the place of ours where it has any, and notes the
    backup in them at its end (Cinder's `restore_backup`); we write them again after that.
    """
    metadata = found["metadata"]
    return BLANK in metadata and metadata.get("src_backup_id") != volume.source_reference


def _awaited(r: Recovery, volume: VolumePlan, volume_id: str, step: Step) -> Json:
    stalls_after_s = r.stalls_after_s(volume.size_gib)
    return r.site.volumes.watch.wait_for(
        [volume_id],
        wanted=("available", "in-use"),
        timeout_s=max(TIMEOUT_S, stalls_after_s),
        stalled_after_s=stalls_after_s,
        tell=step.waits_for,
    )[volume_id]


def _write_into(r: Recovery, volume: VolumePlan, volume_id: str, step: Step) -> None:
    """Have Cinder write a backup into a blank volume of ours, its zeros included.

    Raises:
        ResourceFailed: Cinder does not begin to.
    """
    backup = volume.source_reference
    try:
        _once_free(r, backup, step, lambda: r.site.backups.restore_into(backup, volume_id))
    except ApiError as error:
        raise ResourceFailed(
            f"{r.site.name}: backup {backup} could not be restored into volume {volume.label}"
            f" ({volume_id}): {error.reason}"
        ) from error


def _once_free(r: Recovery, backup: str, step: Step, ask: Callable[[], Answer]) -> Answer:
    """The answer of Cinder once nothing else restores the backup, such as a verification: it
    refuses to restore it into two volumes at once.
    """
    while True:
        try:
            return ask()
        except ApiError as error:
            listed = r.site.backups.backups()
            taken = any(b["id"] == backup and b["status"] == "restoring" for b in listed)
            # one that was, and is not any more, for another clone of the same member
            if error.status != 400 or not (taken or TAKEN.search(error.reason)):
                raise
        r.site.backups.watch.wait_for([backup], timeout_s=TIMEOUT_S, tell=step.waits_for)


def _create(r: Recovery, volume: VolumePlan, key: str, step: Step) -> str:
    wanted: Json = {
        "size": volume.size_gib,
        # without a name, Cinder would put the backup's description over ours
        "name": volume.label,
        # a restore replaces the metadata, but leaves the description
        "description": words(r.run, key),
        "metadata": marks(r.run, key),
    }
    if volume.way.sparse:
        # together with its restore: cinder-backup knows it to be new, and skips zeros
        wanted["backup_id"] = volume.source_reference
    else:
        wanted["metadata"][BLANK] = volume.source_reference
    if volume.volume_type:
        wanted["volume_type"] = volume.volume_type
    if volume.availability_zone:
        wanted["availability_zone"] = volume.availability_zone
    try:
        return _once_free(
            r, volume.source_reference, step, lambda: r.site.volumes.create_volume(wanted)
        )
    except ApiError as error:
        raise ResourceFailed(
            f"{r.site.name}: volume {volume.label} could not be created for backup"
            f" {volume.source_reference}: {error.reason}"
        ) from error
