# SPDX-License-Identifier: Apache-2.0
"""Transfer by Cinder's backups: incremental where the chain allows, the records exported (steps
1.5, 1.6).
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from antipode.cloud.api import ApiError, Json
from antipode.cloud.backups import read_record
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed, Stalled
from antipode.model.capture import Capture, Transferred, new_bytes
from antipode.model.marks import carries, made_by, marks
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed, quota_needs
from antipode.model.source import BackupChain, BackupRecord, VolumeKey
from antipode.model.steps import Steps, Timeline
from antipode.model.topology import Topology, Volume
from antipode.protect import volume_keys
from antipode.protect.option import Protecting
from antipode.transfer import Earlier, Transfer
from antipode.vault.verify import Store, broken_chains, fingerprint

LOG = logging.getLogger(__name__)
TIMEOUT_S = 24 * 3600.0
"""For one backup; the time it takes depends on the size of the volume and on the store."""
REMOVAL_TIMEOUT_S = 600.0
CANNOT_CONTINUE = re.compile(
    r"full backup|no backups available|not be found|not found|404|no such key|no such file", re.I
)
"""What Cinder's API, its backup manager and its drivers say when an increment cannot rest on what
is there: the block size or the size of the volume has changed (chunkeddriver.py: "Do a full
backup."), the parent is gone (backup/api.py: "No backups available"), or the store has lost an
object of the parent. A store that is full or does not answer is none of these.
"""


class CinderBackup(Transfer):
    name = "cinder-backup"

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        site = protecting.site
        if not site.backups.services_up():
            yield f"cinder-backup is not up at {site.name}"
        yield from volume_keys.problems(protecting, _encrypted(topology))
        for need in self.needs(protecting, topology):
            if need.is_short:
                yield (
                    f"{need}. A new recovery point needs room beside those that are kept, and their"
                    " chains: raise the quota, or lower retention or full_every in the VNF file"
                )

    def needs(self, protecting: Protecting, topology: Topology) -> list[QuotaNeed]:
        site, volumes = protecting.site, topology.volumes
        needed = Counter(backups=len(volumes), backup_gigabytes=sum(v.size_gib for v in volumes))
        return quota_needs(needed, site.volumes.quota(site.project_id))

    def transfer(
        self,
        protecting: Protecting,
        topology: Topology,
        capture: Capture,
        earlier: Earlier,
    ) -> Transferred:
        p = protecting
        previous = earlier([v.id for v in topology.volumes])
        keys = volume_keys.kept(p, _encrypted(topology), _keys(previous))
        full = _new_chains(p, topology, previous)
        full |= _of_another_type(topology, previous, keys)
        made = _with_keys(back_up(p, topology, capture, previous, full), keys)
        if p.store is None:
            return made
        with p.timeline.step(Steps.VERIFY_BACKUPS, p.vnf.vnf) as step:
            made = _with_fingerprints(made, p.store)
            total, each = new_bytes(made.sources, topology)
            step.result(bytes=total, bytes_per_volume=each)
        return made

    def roll_back(self, protecting: Protecting) -> Collection[str]:
        return _remove(protecting.site, lambda b: carries(b, protecting.run), protecting.timeline)

    def remove_orphans(
        self,
        site: Site,
        runs: Collection[str],
        needed: Callable[[], Collection[str]],
        timeline: Timeline,
    ) -> Collection[str]:
        return _remove(site, lambda b: made_by(b) in runs and b["id"] not in needed(), timeline)


TRANSFER = CinderBackup()


def back_up(
    protecting: Protecting,
    topology: Topology,
    capture: Capture,
    previous: Mapping[str, RecoveryPoint],
    full: Mapping[str, str],
) -> Transferred:
    """Back up all volumes from their snapshots and export each record as soon as its backup is
    available.

    A backup is incremental if the one that Cinder would build it on, its newest of the volume, is
    the one that `previous` names, so that the recovery point knows the whole chain; else it is a
    full one. A backup that this run has made already is used.

    Args:
        previous: volume id -> the newest recovery point that has a backup of it.
        full: volume id -> why its backup must be a full one.

    Raises:
        ResourceFailed: a backup failed; it names the volume and Cinder's reason.
    """
    listed = protecting.site.backups.backups()
    job = _Job(protecting, capture, previous, full)

    def back_up_one(volume: Volume) -> BackupRecord:
        with protecting.slots:
            return job.back_up(volume, [b for b in listed if b["volume_id"] == volume.id])

    with ThreadPoolExecutor(protecting.at_once, "backup") as pool:
        work = [pool.submit(back_up_one, volume) for volume in topology.volumes]
    records = {v.id: w.result() for v, w in zip(topology.volumes, work, strict=True)}
    return Transferred(
        sources={
            v.id: BackupChain(
                backups=_chain(records[v.id], previous.get(v.id)),
                backend_reference=v.backend_reference,
            )
            for v in topology.volumes
        },
        full_because=job.full_because,
    )


def base_for_increment(
    volume: Volume, existing: Iterable[Json], previous: RecoveryPoint | None
) -> tuple[str | None, str]:
    """The backup that an increment of `volume` may be built on, or None and the reason why a full
    backup is needed.

    Cinder takes as parent its available backup of the volume with the newest data, without asking
    us.
    """
    if previous is None:
        return None, "no recovery point has a backup of this volume"
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
        protecting: Protecting,
        capture: Capture,
        previous: Mapping[str, RecoveryPoint],
        full: Mapping[str, str],
    ) -> None:
        self.full_because: dict[str, str] = {}
        self._site = protecting.site
        self._capture = capture
        self._previous = previous
        self._key = protecting.run
        self._metadata = marks(protecting.run, protecting.run)
        self._full = full
        self._timeline = protecting.timeline
        self._stalls_after_s = protecting.stalls_after_s

    def back_up(self, volume: Volume, existing: list[Json]) -> BackupRecord:
        """One volume: find or start its backup, await it, export its record, verify that it rests
        on what we know.
        """
        ours = self._ours(volume, [b for b in existing if carries(b, self._key)])
        base, reason = None, self._full.get(volume.id, "")
        if not reason:
            others = [b for b in existing if not carries(b, self._key)]
            base, reason = base_for_increment(volume, others, self._previous.get(volume.id))
        try:
            return self._finish(
                volume, ours["id"] if ours else self._start(volume, base), base, reason
            )
        except _CannotContinue as error:
            if error.backup_id is not None:
                self._site.backups.delete_backup(error.backup_id)
                self._site.backups.watch.wait_gone([error.backup_id], timeout_s=600)
            LOG.warning("volume %s gets a full backup: %s", volume.name or volume.id, error)
            return self._finish(volume, self._start(volume, None), None, str(error))

    def _ours(self, volume: Volume, made: list[Json]) -> Json | None:
        """The backup of this snapshot that an earlier try began.

        Its backups of another snapshot, and failed ones, are removed: volumes of two moments must
        not meet in one recovery point.
        """
        usable = [
            b
            for b in made
            if b["snapshot_id"] == self._capture.snapshots[volume.id]
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
        # Cinder itself makes the temporary volume of step 1.5 from the snapshot, and removes it.
        with self._timeline.step(Steps.START_BACKUP, label) as step:
            try:
                backup = self._site.backups.create_backup(
                    volume.id,
                    self._capture.snapshots[volume.id],
                    f"antipode {label}"[:255],
                    self._metadata,
                    incremental=base is not None,
                )
            except ApiError as error:
                # Cinder makes one backup of a snapshot at a time. The request of a process that
                # died may have come through, and the backup is ours.
                ours = self._ours(
                    volume,
                    [
                        b
                        for b in self._site.backups.backups()
                        if b["volume_id"] == volume.id and carries(b, self._key)
                    ],
                )
                if ours is None:
                    why = (
                        f"{self._site.name}: volume {label} ({volume.id}) could not be backed "
                        f"up: {error.reason}"
                    )
                    if base is not None and CANNOT_CONTINUE.search(error.reason):
                        raise _CannotContinue(None, why) from error
                    raise ResourceFailed(why) from error
                backup = str(ours["id"])
            step.result(backup_id=backup, snapshot_id=self._capture.snapshots[volume.id])
            return backup

    def _finish(
        self, volume: Volume, backup_id: str, base: str | None, reason: str
    ) -> BackupRecord:
        label = volume.name or volume.id
        began = time.monotonic()
        with self._timeline.step(Steps.BACK_UP, label) as step:
            stalls_after_s = self._stalls_after_s(volume.size_gib)
            try:
                backup = self._site.backups.watch.wait_for(
                    [backup_id],
                    timeout_s=max(TIMEOUT_S, stalls_after_s),
                    stalled_after_s=stalls_after_s,
                    tell=step.waits_for,
                )[backup_id]
            except Stalled:
                raise
            except ResourceFailed as error:
                if base is not None and CANNOT_CONTINUE.search(self._fail_reason(backup_id)):
                    raise _CannotContinue(backup_id, str(error)) from error
                raise
            record = self._export(volume, backup)
            if record.parent_id not in (None, base):
                # A backup that is not ours came in between the listing and our backup. An
                # increment on it would be lost with it.
                raise _CannotContinue(
                    backup_id,
                    f"Cinder built {backup_id} on {record.parent_id}, which no recovery point "
                    "knows",
                )
            # Cinder does not show how many bytes an increment has sent, only the size of the volume
            # and the number of objects.
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

    def _fail_reason(self, backup_id: str) -> str:
        """Why a backup has failed, in Cinder's words."""
        listed = (b for b in self._site.backups.backups() if b["id"] == backup_id)
        return next((str(b.get("fail_reason") or "") for b in listed), "")

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


class _CannotContinue(ResourceFailed):
    """An increment cannot rest on the chain that there is: a full backup can be made all the same.

    `backup_id`: the increment, where there is one; it is removed first.
    """

    def __init__(self, backup_id: str | None, message: str) -> None:
        self.backup_id = backup_id
        super().__init__(message)


def _chain(record: BackupRecord, previous: RecoveryPoint | None) -> list[BackupRecord]:
    """The record and, if it is an increment, all that it rests on."""
    if record.parent_id is None or previous is None:
        return [record]
    return [*previous.chain(record.volume_id), record]


def _new_chains(
    p: Protecting, topology: Topology, previous: Mapping[str, RecoveryPoint]
) -> dict[str, str]:
    """The volumes that need a full backup, and why: their chains end by policy, or are broken, as
    Cinder calls a backup available although the store has lost its objects.
    """
    if p.full:
        return {v.id: "asked for with --full" for v in topology.volumes}
    if p.no_room:
        return {v.id: p.no_room for v in topology.volumes}
    ended = _ended_chains(p, topology, previous)
    if p.store is None:
        return ended
    broken: dict[str, str] = {}
    for point in {point.id: point for point in previous.values()}.values():
        with p.timeline.step(Steps.COMPARE_CHAINS, point.id) as step:
            found = broken_chains(point, p.store)
            step.result(broken=len(found))
        broken |= {v: why for v, why in found.items() if previous.get(v) is point}
    for volume, reason in broken.items():
        LOG.warning(
            "volume %s: %s; recovery points that rest on it cannot be trusted, and a new chain is"
            " begun",
            volume,
            reason,
        )
    return {**ended, **broken}


def _ended_chains(
    p: Protecting, topology: Topology, previous: Mapping[str, RecoveryPoint]
) -> dict[str, str]:
    """The volumes whose chain ends by `full_every`, and why."""
    ended: dict[str, str] = {}
    for volume in topology.volumes:
        chain = previous[volume.id].chain(volume.id) if volume.id in previous else ()
        if chain and (why := p.full_every.reason(len(chain), _age_s(chain[0]))) is not None:
            ended[volume.id] = why
    return ended


def _age_s(record: BackupRecord) -> float:
    """Seconds since a backup was made. Cinder gives a time of UTC, without a zone."""
    made = datetime.fromisoformat(record.created_at)
    return (datetime.now(UTC) - made.replace(tzinfo=made.tzinfo or UTC)).total_seconds()


def _encrypted(topology: Topology) -> list[Volume]:
    return [v for v in topology.volumes if v.encrypted]


def _keys(previous: Mapping[str, RecoveryPoint]) -> dict[str, VolumeKey]:
    """Volume id -> the key that the newest recovery point names."""
    found = {v: point.sources.get(v) for v, point in previous.items()}
    return {v: s.key for v, s in found.items() if isinstance(s, BackupChain) and s.key is not None}


def _of_another_type(
    topology: Topology, previous: Mapping[str, RecoveryPoint], keys: Mapping[str, VolumeKey]
) -> dict[str, str]:
    """The volumes whose chain is of another encrypted type, or of none: Cinder compares the type of
    each backup of a chain when it restores one. And those whose chain has another key, as after a
    retype there and back: all records of a chain are imported with one.
    """
    earlier = _keys(previous)
    types = {v.id: (earlier.get(v.id), keys.get(v.id)) for v in topology.volumes}
    return {
        v: "its volume is of another encrypted type, or has another key, than before"
        for v, (was, now) in types.items()
        if v in previous and _chain_of(was) != _chain_of(now)
    }


def _chain_of(key: VolumeKey | None) -> tuple[str, str] | None:
    """What all backups of a chain have in common."""
    return None if key is None else (key.type_id, key.key_id)


def _with_keys(made: Transferred, keys: Mapping[str, VolumeKey]) -> Transferred:
    sources = {
        v: s.model_copy(update={"key": keys[v]}) if v in keys else s
        for v, s in made.sources.items()
    }
    return made.model_copy(update={"sources": sources})


def _with_fingerprints(made: Transferred, store: Store) -> Transferred:
    chains = {v: s for v, s in made.sources.items() if isinstance(s, BackupChain)}
    records = fingerprint({r.id: r for c in chains.values() for r in c.backups}, store)
    sources = {
        **made.sources,
        **{
            volume: chain.model_copy(update={"backups": [records[r.id] for r in chain.backups]})
            for volume, chain in chains.items()
        },
    }
    return made.model_copy(update={"sources": sources})


def _remove(site: Site, unwanted: Callable[[Json], bool], timeline: Timeline) -> Collection[str]:
    """Delete backups and wait until they are gone; their ids.

    Raises:
        ResourceFailed: one cannot be deleted.
        ApiError: Cinder refuses, for example because an increment rests on one.
    """
    left = {b["id"]: b["status"] for b in site.backups.backups() if unwanted(b)}
    if not left:
        return ()
    with timeline.step(Steps.REMOVE_BACKUPS, site.name) as step:
        if making := [b for b, status in left.items() if status == "creating"]:
            site.backups.watch.wait_for(
                making,
                wanted=("available", "error", "deleting"),
                timeout_s=REMOVAL_TIMEOUT_S,
                tell=step.waits_for,
            )
        for backup, status in left.items():
            if status != "deleting":
                site.backups.delete_backup(backup)
        site.backups.watch.wait_gone(list(left), timeout_s=REMOVAL_TIMEOUT_S, tell=step.waits_for)
        step.result(backups=len(left))
    return list(left)
