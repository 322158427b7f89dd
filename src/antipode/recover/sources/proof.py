# SPDX-License-Identifier: Apache-2.0
"""Proof that a chain of backups brings back the captured bytes, by API alone: it is restored into a
throw-away volume, as a recovery would do it; that volume is backed up in full; the digests of its
blocks are compared with those that the chain carries.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.cloud.backups import read_record
from antipode.errors import ResourceFailed
from antipode.model.marks import carries, made_by, marks
from antipode.model.plan import VolumePlan
from antipode.model.source import BackupRecord
from antipode.model.steps import Step, StepName, Timeline
from antipode.recover.recovery import Recovery
from antipode.vault.digests import Digests, kept_digests, read_digests
from antipode.vault.verify import Finding, prefix_of

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

TIMEOUT_S = 24 * 3600.0
REMOVAL_TIMEOUT_S = 600.0


class ProofSteps(StepName):
    BACK_UP_AGAIN = "", "back up the throw-away volume"
    COMPARE = "", "compare every block"
    REMOVE_BACKUPS = "", "remove throw-away backups"


def prove(
    r: Recovery, store: Objects, volume: VolumePlan, volume_id: str, record: BackupRecord
) -> Finding:
    """Back a throw-away volume up, and compare it with the digests of the backup that was restored
    into it.

    Args:
        r: of keys that begin with the run, so that no failover takes the volume for its own.
        store: the backup store, which the cinder-backup of the site writes to as well.
        volume_id: of the restored volume.
        record: the backup.

    Raises:
        ResourceFailed: the throw-away volume cannot be backed up.
        RecoveryPointInvalid: the digests cannot be read.
    """
    made = _backed_up(r, volume, volume_id)
    with r.timeline.step(ProofSteps.COMPARE, volume.label) as step:
        finding = _compared(store, volume, record, made.container, made.prefix)
        step.result(ok=finding.ok, detail=finding.detail)
    return finding


def remove_backups(
    site: Site, run: str, timeline: Timeline, volumes: Collection[str] | None = None
) -> int:
    """Delete the throw-away backups of a run; how many there were. Safe to repeat.

    Args:
        volumes: those of these volumes only; None: all.

    Imported records carry the marks of the protections that made them, and are never among them.

    Raises:
        ResourceFailed, ApiError: one cannot be deleted.
    """
    made = [
        b
        for b in site.backups.backups()
        if made_by(b) == run and (volumes is None or b["volume_id"] in volumes)
    ]
    if not made:
        return 0
    with timeline.step(ProofSteps.REMOVE_BACKUPS, site.name) as step:
        if making := [b["id"] for b in made if b["status"] == "creating"]:
            wanted = ("available", "error", "deleting")
            site.backups.watch.wait_for(
                making, wanted=wanted, timeout_s=TIMEOUT_S, tell=step.waits_for
            )
        _delete_backups(site, [b["id"] for b in made if b["status"] != "deleting"], step)
        step.result(backups=len(made))
    return len(made)


@dataclass(frozen=True)
class _Made:
    """A throw-away backup."""

    id: str
    container: str
    prefix: str


def _backed_up(r: Recovery, volume: VolumePlan, volume_id: str) -> _Made:
    """A full backup of a throw-away volume, a new one or that of an earlier try."""
    with r.timeline.step(ProofSteps.BACK_UP_AGAIN, volume.label) as step:
        ours = _ours(r, volume, volume_id)
        if failed := [b["id"] for b in ours if b["status"].startswith("error")]:
            _delete_backups(r.site, failed, step)
        usable = [b for b in ours if b["id"] not in failed]
        backup_id = str(usable[0]["id"]) if usable else _started(r, volume, volume_id)
        stalls_after_s = r.stalls_after_s(volume.size_gib)
        backup = r.site.backups.watch.wait_for(
            [backup_id],
            timeout_s=max(TIMEOUT_S, stalls_after_s),
            stalled_after_s=stalls_after_s,
            tell=step.waits_for,
        )[backup_id]
        step.result(backup_id=backup_id, volume_id=volume_id)
        return _Made(backup_id, backup["container"], _prefix(r.site, backup))


def _ours(r: Recovery, volume: VolumePlan, volume_id: str) -> list[Json]:
    """The backups of a throw-away volume, the oldest first."""
    key = r.key(volume.source_id)
    found = [
        b
        for b in r.site.backups.backups()
        if carries(b, key) and b["volume_id"] == volume_id and b["status"] != "deleting"
    ]
    return sorted(found, key=lambda b: (b["created_at"], b["id"]))


def _started(r: Recovery, volume: VolumePlan, volume_id: str) -> str:
    name, mark = f"antipode verifies {volume.label}"[:255], marks(r.run, r.key(volume.source_id))
    try:
        return r.site.backups.create_backup(volume_id, None, name, mark, incremental=False)
    except ApiError as error:
        # Cinder makes one backup of a volume at a time: the request of a process that died may
        # have come through.
        if ours := _ours(r, volume, volume_id):
            return str(ours[0]["id"])
        raise ResourceFailed(
            f"{r.site.name}: the throw-away volume {volume_id} of {volume.label} could not be"
            f" backed up: {error.reason}"
        ) from error


def _prefix(site: Site, backup: Json) -> str:
    _, url = site.backups.export_record(backup["id"])
    return str(read_record(url).get("service_metadata") or "")


def _compared(
    store: Objects, volume: VolumePlan, record: BackupRecord, container: str, prefix: str
) -> Finding:
    captured = kept_digests(store, record.container, prefix_of(record))
    restored = kept_digests(store, container, prefix)
    if captured.block != restored.block:
        # the sites' cinder-backups have other settings
        restored = read_digests(store, container, prefix, captured.block)
    return _finding(volume, record, captured, restored)


def _finding(
    volume: VolumePlan, record: BackupRecord, captured: Digests, restored: Digests
) -> Finding:
    size = f"{captured.blocks} blocks of {captured.block} bytes"
    whole = -(-restored.blocks * record.size_gib // volume.size_gib)
    if captured.blocks < whole:
        return Finding(
            volume=volume.label,
            backup=record.id,
            ok=False,
            detail=f"the backup carries digests of {size}, and its volume has {whole} blocks: the"
            " others cannot be compared",
        )
    different = captured.differences(restored)
    first = different[0] if different else None
    return Finding(
        volume=volume.label,
        backup=record.id,
        ok=not different,
        bytes=captured.blocks * captured.block,
        detail=f"restored and compared: all {size} are as they were captured"
        if first is None
        else f"{len(different)} of {size} are not as they were captured, the first at byte {first}",
        first_difference=first,
    )


def _delete_backups(site: Site, backups: list[str], step: Step) -> None:
    for backup in backups:
        site.backups.delete_backup(backup)
    site.backups.watch.wait_gone(backups, timeout_s=REMOVAL_TIMEOUT_S, tell=step.waits_for)
