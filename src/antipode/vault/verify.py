# SPDX-License-Identifier: Apache-2.0
"""Verification of a recovery point: chains complete, and every object of every backup still in the
backup store, unchanged.

Cinder's chunked backup drivers (cinder/backup/chunkeddriver.py) name all objects of a backup
`<service_metadata>-NNNNN`, `<service_metadata>_metadata` (JSON: the list of the data objects) and
`<service_metadata>_sha256file`. The md5 that Cinder notes there is of the data before compression,
so that it cannot be compared with what is stored; the fingerprint that antipode takes when it makes
the recovery point can.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from antipode.cloud import answers
from antipode.cloud.backups import read_record
from antipode.errors import NotFound, RecoveryPointInvalid, UnexpectedAnswer
from antipode.model.base import Model
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupRecord, Delta, StoredObjects

OWN_OBJECT = re.compile(r"(?P<prefix>.*)(_metadata|_sha256file|-[0-9]+)", re.DOTALL)
"""The name of an object of a backup."""


class StoredObject(Protocol):
    """One line of a container listing."""

    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def etag(self) -> str: ...


class Store(Protocol):
    """The object store that holds the backups."""

    def get(self, container: str, name: str) -> bytes: ...
    def listing(self, container: str, prefix: str = "") -> Sequence[StoredObject]: ...


class Finding(Model):
    """What verification found about one backup, or about the recovery point as a whole (`backup`
    empty).
    """

    volume: str
    backup: str
    ok: bool
    objects: int = 0
    bytes: int = 0
    detail: str
    first_difference: int | None = None
    """the offset in bytes of the first block that does not hold what was captured"""


def verify_chain(volume: str, chain: Sequence[BackupRecord], store: Store | None) -> list[Finding]:
    """Check the backups of one volume; one finding for each.

    Args:
        volume: its name, for the findings.
        store: None when no backup store is configured; the findings then say that the objects
            were not checked.

    Raises:
        SiteUnreachable: the backup store does not answer.
    """
    return [_verify_backup(volume, record, store) for record in chain]


def verify_deltas(volume: str, deltas: Sequence[Delta], store: Store | None) -> list[Finding]:
    """The same for the deltas of a change stream; errors as of `verify_chain`."""
    if store is None:
        detail = "no backup_store is configured, its objects were not looked at"
        return [Finding(volume=volume, backup=d.id, ok=True, detail=detail) for d in deltas]
    return [verify_delta(volume, delta, store) for delta in deltas]


def verify_delta(volume: str, delta: Delta, store: Store) -> Finding:
    """Check the objects of one delta by a listing.

    Raises:
        SiteUnreachable: the store does not answer.
    """
    now = stored_delta(delta.container, delta.prefix, store)
    same = now == delta.stored
    detail = (
        "all objects there, as they were when it was made" if same else _changed(delta.stored, now)
    )
    return Finding(
        volume=volume,
        backup=delta.id,
        ok=same,
        objects=now.objects,
        bytes=now.bytes,
        detail=detail if same else f"delta {delta.id} has {detail}",
    )


def lost_deltas(deltas: Iterable[Delta], store: Store) -> list[Delta]:
    """Those that the store does not hold as they were made, by one listing of each folder of
    deltas, however many there are.

    Raises:
        SiteUnreachable: the store does not answer.
    """
    by_folder: dict[tuple[str, str], list[Delta]] = defaultdict(list)
    for delta in deltas:
        by_folder[delta.container, delta.prefix.partition("/")[0]].append(delta)
    lost: list[Delta] = []
    for (container, folder), ours in by_folder.items():
        there: dict[str, list[StoredObject]] = defaultdict(list)
        for item in _listed(store, container, f"{folder}/"):
            there[item.name.rpartition("/")[0]].append(item)
        lost += [d for d in ours if _fingerprint(d.prefix, there[d.prefix]) != d.stored]
    return lost


def stored_delta(container: str, prefix: str, store: Store) -> StoredObjects:
    """The fingerprint of what the store holds of a delta."""
    return _fingerprint(prefix, _listed(store, container, f"{prefix}/"))


class Held(NamedTuple):
    """What the store holds of a backup."""

    prefix: str
    parts: dict[str, Any]
    """the data objects, with what Cinder notes of each; as it is stored, not checked"""
    list_md5: str
    """of the list that they are from"""
    objects: dict[str, StoredObject]
    """all objects of the backup, as the store lists them"""

    @property
    def fingerprint(self) -> StoredObjects:
        return _fingerprint(self.prefix, list(self.objects.values()))


def stored_objects(record: BackupRecord, store: Store) -> StoredObjects:
    """The fingerprint of what the store holds of a backup; errors as of `held`."""
    return held(record, store).fingerprint


def held(record: BackupRecord, store: Store) -> Held:
    """What the store holds of a backup, by one listing, after the list that Cinder keeps was found
    complete.

    Raises:
        RecoveryPointInvalid: an object is missing, empty, or the record is not of a chunked driver.
    """
    prefix = prefix_of(record)
    object_list = f"backup {record.id}: its object list {prefix}_metadata"
    try:
        document = store.get(record.container, f"{prefix}_metadata")
        entries = answers.OBJECT_LIST.read(
            json.loads(document), record.container, f"{prefix}_metadata"
        )
    except NotFound as error:
        raise RecoveryPointInvalid(
            f"{object_list} is not in container {record.container}"
        ) from error
    except (ValueError, RecursionError, UnexpectedAnswer) as error:
        why = error.problem if isinstance(error, UnexpectedAnswer) else type(error).__name__
        raise RecoveryPointInvalid(f"{object_list} cannot be read: {why}") from error
    wanted = {name for entry in entries for name in entry}
    listing = _by_prefix(store.listing(record.container, prefix))[prefix]
    there = {o.name: o for o in listing}
    if lost := sorted(wanted - set(there)):
        raise RecoveryPointInvalid(
            f"backup {record.id}: {len(lost)} of {len(wanted)} objects are missing, the first is "
            f"{lost[0]}"
        )
    if empty := sorted(n for n in wanted if there[n].bytes == 0):
        raise RecoveryPointInvalid(
            f"backup {record.id}: {len(empty)} objects are empty, the first is {empty[0]}"
        )
    parts = {name: part for entry in entries for name, part in entry.items()}
    md5 = hashlib.md5(document, usedforsecurity=False).hexdigest()
    return Held(prefix, parts, md5, there)


def has_list(record: BackupRecord, store: Store) -> bool:
    """Whether the store has the list of the objects of a backup, which Cinder writes last of them.

    Raises:
        RecoveryPointInvalid: the record does not say where its objects are.
        AntipodeError: the store does not answer, or has no such container.
    """
    name = f"{prefix_of(record)}_metadata"
    return any(found.name == name for found in store.listing(record.container, name))


def broken_chains(point: RecoveryPoint, store: Store) -> dict[str, str]:
    """What the store does not hold any more as it was when the recovery point was made: volume id
    to what is wrong with its chain.

    One listing of each container tells, however many backups there are. Backups without a
    fingerprint are not compared.

    Raises:
        RecoveryPointInvalid: the manifest does not have the whole chain of a volume.
        SiteUnreachable: the backup store does not answer.
    """
    held = {
        container: _by_prefix(_listed(store, container))
        for container in {r.container for r in point.backups.values()}
    }
    broken: dict[str, str] = {}
    for volume in point.sources:
        for record in point.chain(volume):
            if (then := record.stored) is None:
                continue
            now = _fingerprint(then.prefix, held[record.container].get(then.prefix, []))
            if now != then:
                broken[volume] = (
                    f"backup {record.id} of recovery point {point.id} has {_changed(then, now)}"
                )
                break
    return broken


def _verify_backup(volume: str, record: BackupRecord, store: Store | None) -> Finding:
    if store is None:
        detail = "record only: no backup_store is configured, its objects were not looked at"
        return Finding(volume=volume, backup=record.id, ok=True, detail=detail)
    try:
        found = stored_objects(record, store)
    except RecoveryPointInvalid as error:
        return Finding(volume=volume, backup=record.id, ok=False, detail=str(error))
    if record.stored is None:
        detail, ok = (
            "all objects there; contents not compared, as no fingerprint was taken when it was "
            "made",
            True,
        )
    elif record.stored == found:
        detail, ok = "all objects there, as they were when it was made", True
    else:
        detail, ok = _changed(record.stored, found), False
    return Finding(
        volume=volume,
        backup=record.id,
        ok=ok,
        objects=found.objects,
        bytes=found.bytes,
        detail=detail,
    )


def _changed(then: StoredObjects, now: StoredObjects) -> str:
    return (
        f"changed since it was made: {then.objects} objects, {then.bytes} bytes then, "
        f"{now.objects} objects, {now.bytes} bytes now"
    )


def _fingerprint(prefix: str, objects: Sequence[StoredObject]) -> StoredObjects:
    lines = "".join(
        f"{o.name}\t{o.bytes}\t{o.etag}\n" for o in sorted(objects, key=lambda o: o.name)
    )
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    return StoredObjects(
        prefix=prefix, objects=len(objects), bytes=sum(o.bytes for o in objects), sha256=sha256
    )


def _by_prefix(listing: Iterable[StoredObject]) -> dict[str, list[StoredObject]]:
    """The objects of each backup, apart from those of another whose prefix begins the same."""
    found: dict[str, list[StoredObject]] = defaultdict(list)
    for item in listing:
        if own := OWN_OBJECT.fullmatch(item.name):
            found[own["prefix"]].append(item)
    return found


def _listed(store: Store, container: str, prefix: str = "") -> Sequence[StoredObject]:
    """What a container holds: nothing, when it is gone."""
    try:
        return store.listing(container, prefix)
    except NotFound:
        return []


def prefix_of(record: BackupRecord) -> str:
    """What the names of a backup's objects begin with: `service_metadata` of its record
    (cinder/objects/backup.py, encode_record).
    """
    try:
        prefix = read_record(record.url).get("service_metadata")
    except UnexpectedAnswer as error:
        raise RecoveryPointInvalid(
            f"backup {record.id}: its record cannot be read: {error.problem}"
        ) from error
    if not prefix:
        raise RecoveryPointInvalid(
            f"backup {record.id}: its record does not say where its objects are (no "
            "service_metadata)"
        )
    return str(prefix)


def fingerprint(backups: dict[str, BackupRecord], store: Store) -> dict[str, BackupRecord]:
    """The same records with what the store holds of them now, where that is not known yet.

    Raises:
        RecoveryPointInvalid: a backup that Cinder calls available is not whole in the store.
    """
    unknown = [record for record in backups.values() if record.stored is None]
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(
            pool.map(
                lambda record: record.model_copy(update={"stored": stored_objects(record, store)}),
                unknown,
            )
        )
    return {**backups, **{record.id: record for record in found}}
