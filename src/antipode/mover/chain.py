# SPDX-License-Identifier: Apache-2.0
"""A chain of Cinder's chunked backups as it lies in the object store: which object has the newest
bytes of each block, and these bytes, verified (cinder/backup/chunkeddriver.py).
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from antipode.errors import NotFound, RecoveryPointInvalid
from antipode.model.base import Model
from antipode.model.source import BackupRecord
from antipode.vault.compression import decompress
from antipode.vault.digests import Digests, kept_digests
from antipode.vault.verify import Held, Store, held

LARGEST_PART = 1 << 30
"""Bytes of one object; Cinder's default is 50 MiB for Swift."""
_MD5 = re.compile(r"[0-9a-f]{32}")
_NONE = 0
"""In the map of blocks: no object has it. The number of an object is one more than its place."""


class _Noted(Model):
    """What Cinder notes of one object."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    offset: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(gt=0, le=LARGEST_PART)]
    compression: str
    md5: Annotated[str, Field(pattern=_MD5.pattern)]
    """of the bytes of the volume that it holds"""


class Part(NamedTuple):
    """An object of a backup: a run of bytes of the volume."""

    container: str
    name: str
    offset: int
    length: int
    compression: str
    md5: str
    stored: int
    """its bytes in the store"""

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True)
class Chain:
    """What the newest backup of a chain stands for."""

    backup: str
    """id of that backup"""
    digests: Digests
    size: int
    """bytes of the volume"""
    parts: Sequence[Part]
    newest: array[int]
    """for each block the place, from 1 on, of the object in `parts` that has its newest bytes"""

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return self.digests.block

    def length(self, block: int) -> int:
        """Bytes of a block, by its number: the last may be shorter."""
        return min(self.block, self.size - block * self.block)

    def part_of(self, block: int) -> Part:
        """The object that has the newest bytes of a block."""
        return self.parts[self.newest[block] - 1]


def read_chain(records: Sequence[BackupRecord], store: Store) -> Chain:
    """Find a chain whole in the store, and unchanged since its recovery point was made.

    The lists and digests are read, but none of the data.

    Args:
        records: base first.

    Raises:
        RecoveryPointInvalid: an object is missing or changed, the objects leave a part of the
            volume out, or they do not have the form that is known here.
        AntipodeError: the store does not answer.
    """
    there = [_unchanged(record, store) for record in records]
    of_each = [_parts_of(r, held) for r, held in zip(records, there, strict=True)]
    digests = _digests_of(records[-1], there[-1], store)
    size = max((p.end for p in of_each[0]), default=0)
    if digests.blocks != -(-size // digests.block):
        raise RecoveryPointInvalid(
            f"backup {records[-1].id} has digests of {digests.blocks} blocks of {digests.block}"
            f" bytes, and its chain has {size} bytes"
        )
    parts = [part for of_one in of_each for part in of_one]
    newest = _map(parts, digests, size, records[-1].id)
    return Chain(records[-1].id, digests, size, parts, newest)


def digests_of_backup(record: BackupRecord, store: Store) -> Digests:
    """The digests of the volume as one backup has it, once its objects are found unchanged.

    Raises:
        RecoveryPointInvalid: they are not, or there are no digests.
    """
    return _digests_of(record, _unchanged(record, store), store)


def fetch(part: Part, store: Store) -> bytes:
    """The bytes of the volume that an object holds.

    Raises:
        RecoveryPointInvalid: it is gone, or holds other bytes than were backed up.
        AntipodeError: the store does not answer.
    """
    stored = _object(store, part.container, part.name)
    if len(stored) != part.stored:
        raise RecoveryPointInvalid(
            f"{part.name} has {len(stored)} bytes, and had {part.stored} when it was verified"
        )
    data = decompress(stored, part.compression, part.length, part.name)
    if _md5(data) != part.md5:
        raise RecoveryPointInvalid(f"{part.name} does not hold the bytes that were backed up")
    return data


def _unchanged(record: BackupRecord, store: Store) -> Held:
    """What the store holds of a backup, once that is found to be what was sealed."""
    there = held(record, store)
    if record.stored is None:
        raise RecoveryPointInvalid(
            f"backup {record.id} carries no fingerprint of its objects, so that nothing tells"
            " whether these have changed"
        )
    if there.fingerprint != record.stored:
        raise RecoveryPointInvalid(
            f"the objects of backup {record.id} have changed since its recovery point was made"
        )
    _same(f"{there.prefix}_metadata", there.list_md5, there)
    return there


def _parts_of(record: BackupRecord, there: Held) -> list[Part]:
    """The objects of one backup."""
    try:
        noted = {name: _Noted.model_validate(part) for name, part in there.parts.items()}
    except ValidationError as error:
        raise RecoveryPointInvalid(
            f"the list of the objects of backup {record.id} cannot be understood:"
            f" {error.errors()[0]['msg']}"
        ) from error
    found = [
        Part(
            container=record.container,
            name=name,
            offset=part.offset,
            length=part.length,
            compression=part.compression,
            md5=part.md5,
            stored=there.objects[name].bytes,
        )
        for name, part in noted.items()
    ]
    return sorted(found, key=lambda p: p.offset)


class _Kept:
    """The one document of a backup that was got, for its reader."""

    def __init__(self, document: bytes) -> None:
        self._document = document

    def get(self, container: str, name: str) -> bytes:
        return self._document


def _digests_of(record: BackupRecord, there: Held, store: Store) -> Digests:
    name = f"{there.prefix}_sha256file"
    if name not in there.objects:
        raise RecoveryPointInvalid(f"{name} is not in container {record.container}")
    document = _object(store, record.container, name)
    _same(name, _md5(document), there)
    return kept_digests(_Kept(document), record.container, there.prefix)


def _same(name: str, md5: str, there: Held) -> None:
    """See that a document is the one whose MD5 the store has listed.

    Stores that encrypt list something else, which does not have to look like an MD5. Such a
    document is refused: its digests could not be trusted.
    """
    if there.objects[name].etag.strip('"') != md5:
        raise RecoveryPointInvalid(
            f"{name} is not what the store lists it to be, or the store lists no MD5"
        )


def _map(parts: Sequence[Part], digests: Digests, size: int, backup: str) -> array[int]:
    """For each block the place of the object that has it; the objects of later backups come
    later.
    """
    newest = array("I", bytes(4 * digests.blocks))
    for place, part in enumerate(parts, 1):
        whole = part.length % digests.block == 0 or part.end == size
        if part.offset % digests.block or not whole or part.end > size:
            raise RecoveryPointInvalid(
                f"{part.name} does not hold whole blocks of {digests.block} bytes"
            )
        first, last = part.offset // digests.block, -(-part.end // digests.block)
        newest[first:last] = array("I", [place]) * (last - first)
    if _NONE in newest:
        at = newest.index(_NONE) * digests.block
        raise RecoveryPointInvalid(f"backup {backup}: no object has the volume's byte {at}")
    return newest


def _object(store: Store, container: str, name: str) -> bytes:
    try:
        return store.get(container, name)
    except NotFound as error:
        raise RecoveryPointInvalid(f"{name} is not in container {container}") from error


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
