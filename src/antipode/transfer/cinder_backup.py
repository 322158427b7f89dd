"""Backs the snapshots of a window up to the store, incrementally where the chain allows, and
exports the records (steps 1.5, 1.6).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

from antipode.cloud.api import ApiError, Json
from antipode.cloud.backups import read_record
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.capture import BackupSet, SnapshotSet
from antipode.model.marks import carries, marks
from antipode.model.point import BackupRecord, Manifest
from antipode.model.steps import Timeline
from antipode.model.topology import Topology, Volume

TIMEOUT_S = 24 * 3600.0
"""For one backup; how long it takes depends on the size of the volume and on the store."""


def back_up(
    site: Site,
    topology: Topology,
    snapshots: SnapshotSet,
    previous: Manifest | None,
    key: str,
    timeline: Timeline,
    *,
    run: str | None = None,
    full: Mapping[str, str] | None = None,
    limit: int = 8,
    slots: AbstractContextManager[None] | None = None,
) -> BackupSet:
    """Back up all volumes from their snapshots, `limit` at once, and export each record as soon as
    its backup is available.

    A backup is incremental if the one that Cinder would build it on, its newest of the volume, is
    the one that `previous` names, so that the manifest knows the whole chain; else it is a full
    one. A backup that carries `key` already is taken as it is.

    Args:
        previous: the newest recovery point of the VNF; None for the first.
        run: the run that the backups name as their maker; the key by default.
        full: volume id -> why its backup must be a full one, whatever Cinder says of the chain that
            it has.
        slots: entered for each volume while it is backed up, by several threads at once; bounds
            what all VNFs do at the site.

    Raises:
        ResourceFailed: a backup failed; it names the volume and Cinder's reason.
    """
    listed = site.backups.backups()
    job = _Job(site, snapshots, previous, key, run or key, full or {}, timeline)

    def back_up_one(volume: Volume) -> BackupRecord:
        with slots or nullcontext():
            return job.back_up(volume, [b for b in listed if b["volume_id"] == volume.id])

    with ThreadPoolExecutor(limit, "backup") as pool:
        work = [pool.submit(back_up_one, volume) for volume in topology.volumes]
    records = {v.id: w.result() for v, w in zip(topology.volumes, work, strict=True)}
    return BackupSet(
        restore={volume: record.id for volume, record in records.items()},
        backups={r.id: r for record in records.values() for r in _chain(record, previous)},
        full_because=job.full_because,
    )


def base_for_increment(
    volume: Volume, existing: Iterable[Json], previous: Manifest | None
) -> tuple[str | None, str]:
    """The backup that an increment of `volume` may be built on, or None and the reason why a full
    backup is needed.

    Cinder takes as parent its available backup of the volume with the newest data, without asking
    us.
    """
    if previous is None:
        return None, "first recovery point"
    if volume.id not in previous.restore:
        return None, f"recovery point {previous.id} does not have this volume"
    chain = previous.chain(volume.id)
    available = {b["id"]: b for b in existing if b["status"] == "available"}
    if missing := [r.id for r in chain if r.id not in available]:
        return (
            None,
            f"backup {missing[0]} of recovery point {previous.id} is not available at the "
            "primary site",
        )
    newest = max(available.values(), key=lambda b: str(b["data_timestamp"]))
    if newest["id"] != chain[-1].id:
        return (
            None,
            f"backup {newest['id']} is newer than that of recovery point {previous.id} and not "
            "ours to build on",
        )
    if volume.size_gib != chain[-1].size_gib:
        return None, f"the volume has grown from {chain[-1].size_gib} to {volume.size_gib} GiB"
    return chain[-1].id, ""


class _Job:
    """What all backups of one recovery point have in common."""

    def __init__(
        self,
        site: Site,
        snapshots: SnapshotSet,
        previous: Manifest | None,
        key: str,
        run: str,
        full: Mapping[str, str],
        timeline: Timeline,
    ) -> None:
        self.full_because: dict[str, str] = {}
        self._site = site
        self._snapshots = snapshots.snapshots
        self._previous = previous
        self._key = key
        self._metadata = marks(run, key)
        self._full = full
        self._timeline = timeline

    def back_up(self, volume: Volume, existing: list[Json]) -> BackupRecord:
        """One volume: find or start its backup, await it, export its record, verify that it rests
        on what we know.
        """
        ours = self._ours(volume, [b for b in existing if carries(b, self._key)])
        base, reason = None, self._full.get(volume.id, "")
        if not reason:
            base, reason = base_for_increment(
                volume, [b for b in existing if not carries(b, self._key)], self._previous
            )
        try:
            return self._finish(
                volume, ours["id"] if ours else self._start(volume, base), base, reason
            )
        except _OtherParent as error:
            # Somebody's backup came in between the listing and ours. An increment on it would die
            # with it.
            self._site.backups.delete_backup(error.backup_id)
            self._site.backups.watch.wait_gone([error.backup_id], timeout_s=600)
            return self._finish(volume, self._start(volume, None), None, str(error))

    def _ours(self, volume: Volume, made: list[Json]) -> Json | None:
        """The backup of this snapshot that a try before this one has begun. What it has made of
        another snapshot, or in vain, is removed: volumes of two moments must not meet in one
        recovery point.
        """
        usable = [
            b
            for b in made
            if b["snapshot_id"] == self._snapshots[volume.id]
            and not b["status"].startswith("error")
        ]
        unusable = [b["id"] for b in made if b not in usable]
        for backup in unusable:
            self._site.backups.delete_backup(backup)
        if unusable:
            self._site.backups.watch.wait_gone(unusable, timeout_s=600)
        return usable[0] if usable else None

    def _start(self, volume: Volume, base: str | None) -> str:
        label = volume.name or volume.id
        # Cinder itself makes the temporary volume from the snapshot that the document's step 1.5
        # wants, and removes it.
        with self._timeline.step("1.5", "volume from snapshot, by cinder-backup", label) as step:
            try:
                backup = self._site.backups.create_backup(
                    volume.id,
                    self._snapshots[volume.id],
                    f"antipode {label}"[:255],
                    self._metadata,
                    incremental=base is not None,
                )
            except ApiError as error:
                # Cinder makes one backup of a snapshot at a time: is it ours, as the request of a
                # process that died has come through?
                ours = self._ours(
                    volume,
                    [
                        b
                        for b in self._site.backups.backups()
                        if b["volume_id"] == volume.id and carries(b, self._key)
                    ],
                )
                if ours is None:
                    raise ResourceFailed(
                        f"{self._site.name}: volume {label} ({volume.id}) could not be backed "
                        f"up: {error.reason}"
                    ) from error
                backup = str(ours["id"])
            step.result(backup_id=backup, snapshot_id=self._snapshots[volume.id])
            return backup

    def _finish(
        self, volume: Volume, backup_id: str, base: str | None, reason: str
    ) -> BackupRecord:
        label = volume.name or volume.id
        began = time.monotonic()
        with self._timeline.step("1.6", "back up and export record", label) as step:
            backup = self._site.backups.watch.wait_for(
                [backup_id], timeout_s=TIMEOUT_S, tell=step.waits_for
            )[backup_id]
            record = self._export(volume, backup)
            if record.parent_id not in (None, base):
                raise _OtherParent(
                    backup_id,
                    f"Cinder built {backup_id} on {record.parent_id}, which no recovery point "
                    "knows",
                )
            # Cinder does not tell how many bytes an increment has sent: only how large the volume
            # is, and how many objects there are.
            facts: dict[str, object] = {
                "backup_id": backup_id,
                "incremental": record.incremental,
                "objects": record.object_count,
            }
            facts |= {
                "volume_bytes": volume.size_gib << 30,
                "seconds": round(time.monotonic() - began, 1),
            }
            if not record.incremental:
                self.full_because[volume.id] = reason or "Cinder made a full one"
                facts["full_because"] = self.full_because[volume.id]
            step.result(**facts)
            return record

    def _export(self, volume: Volume, backup: Json) -> BackupRecord:
        service, url = self._site.backups.export_record(backup["id"])
        fields = read_record(url)
        if fields["id"] != backup["id"] or fields["volume_id"] != volume.id:
            raise ResourceFailed(
                f"{self._site.name}: the exported record of backup {backup['id']} is of another "
                f"one: {fields['id']}"
            )
        return BackupRecord(
            id=backup["id"],
            volume_id=volume.id,
            parent_id=fields.get("parent_id"),
            size_gib=backup["size"],
            object_count=backup["object_count"] or 0,
            container=backup["container"],
            created_at=backup["created_at"],
            service=service,
            url=url,
        )


class _OtherParent(ResourceFailed):
    def __init__(self, backup_id: str, message: str) -> None:
        self.backup_id = backup_id
        super().__init__(message)


def _chain(record: BackupRecord, previous: Manifest | None) -> list[BackupRecord]:
    """The record and, if it is an increment, all that it rests on."""
    if record.parent_id is None or previous is None:
        return [record]
    return [*previous.chain(record.volume_id), record]
