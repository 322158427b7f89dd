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
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from antipode.errors import NotFound, RecoveryPointInvalid
from antipode.model.base import Model
from antipode.model.source import BackupRecord
from antipode.mover.sums import Streamed, Sums, read_sums
from antipode.vault.compression import decompress
from antipode.vault.verify import Held, held

LARGEST_PART = 1 << 30
"""Bytes of one object; Cinder's default is 50 MiB for Swift."""
MD5_BYTES = 16
_MD5 = re.compile(r"[0-9a-f]{32}")


class _Noted(Model):
    """What Cinder notes of one object."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    offset: Annotated[int, Field(ge=0, le=1 << 60)]
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


class Layer:
    """The objects of one backup in the order of the volume, none of which is held as such: a volume
    that changes much has hundreds of thousands.
    """

    def __init__(self, container: str, prefix: str) -> None:
        self._container, self._prefix = container, prefix
        self._suffixes: list[str] = []
        self._md5s = bytearray()
        self._compressions: list[str] = []
        self._numbers = tuple(array("Q") for _ in range(4))

    def __len__(self) -> int:
        return len(self._suffixes)

    def add(self, part: Part) -> None:
        """Have one object more, which lies behind all others."""
        self._suffixes.append(part.name.removeprefix(self._prefix))
        self._md5s += bytes.fromhex(part.md5)
        if part.compression not in self._compressions:
            self._compressions.append(part.compression)
        compression = self._compressions.index(part.compression)
        of_this = (part.offset, part.length, part.stored, compression)
        for numbers, number in zip(self._numbers, of_this, strict=True):
            numbers.append(number)

    def span(self, place: int) -> tuple[int, int]:
        """The first byte of an object, and that after its last."""
        offset = self._numbers[0][place]
        return offset, offset + self._numbers[1][place]

    def part(self, place: int) -> Part:
        """One object."""
        offset, length, stored, compression = (numbers[place] for numbers in self._numbers)
        return Part(
            container=self._container,
            name=self._prefix + self._suffixes[place],
            offset=offset,
            length=length,
            compression=self._compressions[compression],
            md5=self._md5s[place * MD5_BYTES : (place + 1) * MD5_BYTES].hex(),
            stored=stored,
        )


@dataclass(frozen=True)
class Chain:
    """What the newest backup of a chain stands for."""

    backup: str
    """id of that backup"""
    sums: Sums
    size: int
    """bytes of the volume"""
    layers: Sequence[Layer]
    """of the backups, the base first: the bytes of a later one are newer"""

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return self.sums.block

    def end(self, block: int) -> int:
        """The byte after a block, by its number: the last may be shorter."""
        return min((block + 1) * self.block, self.size)


def read_chain(
    records: Sequence[BackupRecord], store: Streamed, folder: Path | None = None
) -> Chain:
    """Find a chain whole in the store, and unchanged since its recovery point was made.

    The lists and digests are read, but none of the data.

    Args:
        records: base first.
        folder: where a file for the digests is made.

    Raises:
        RecoveryPointInvalid: an object is missing or changed, the objects leave a part of the
            volume out, or they do not have the form that is known here.
        AntipodeError: the store does not answer.
    """
    layers = []
    for record in records[:-1]:  # one after another: what the store holds of one is not small
        layers.append(_layer_of(record, _unchanged(record, store)))
    there = _unchanged(records[-1], store)
    layers.append(_layer_of(records[-1], there))
    sums = _sums_of(records[-1], there, store, folder)
    size = max((layers[0].span(place)[1] for place in range(len(layers[0]))), default=0)
    if sums.blocks != -(-size // sums.block):
        raise RecoveryPointInvalid(
            f"backup {records[-1].id} has digests of {sums.blocks} blocks of {sums.block}"
            f" bytes, and its chain has {size} bytes"
        )
    _must_have_all(layers[0], records[0].id)
    for layer in layers:
        _must_have_whole_blocks(layer, sums.block, size)
    return Chain(records[-1].id, sums, size, layers)


def sums_of_backup(record: BackupRecord, store: Streamed, folder: Path | None = None) -> Sums:
    """The digests of the volume as one backup has it, once its objects are found unchanged.

    Raises:
        RecoveryPointInvalid: they are not, or there are no digests.
    """
    return _sums_of(record, _unchanged(record, store), store, folder)


def fetch(part: Part, store: Streamed) -> bytes | bytearray:
    """The bytes of the volume that an object holds.

    Raises:
        RecoveryPointInvalid: it is gone, or holds other bytes than were backed up.
        AntipodeError: the store does not answer.
    """
    stored = _object(part, store)
    data = decompress(stored, part.compression, part.length, part.name)
    if _md5(data) != part.md5:
        raise RecoveryPointInvalid(f"{part.name} does not hold the bytes that were backed up")
    return data


def _unchanged(record: BackupRecord, store: Streamed) -> Held:
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


def _layer_of(record: BackupRecord, there: Held) -> Layer:
    """The objects of one backup."""
    try:
        noted = {name: _Noted.model_validate(part) for name, part in there.parts.items()}
    except ValidationError as error:
        raise RecoveryPointInvalid(
            f"the list of the objects of backup {record.id} cannot be understood:"
            f" {error.errors()[0]['msg']}"
        ) from error
    found = Layer(record.container, there.prefix)
    for name, part in sorted(noted.items(), key=lambda item: item[1].offset):
        found.add(
            Part(
                container=record.container,
                name=name,
                offset=part.offset,
                length=part.length,
                compression=part.compression,
                md5=part.md5,
                stored=there.objects[name].bytes,
            )
        )
    return found


def _sums_of(record: BackupRecord, there: Held, store: Streamed, folder: Path | None) -> Sums:
    name = f"{there.prefix}_sha256file"
    if name not in there.objects:
        raise RecoveryPointInvalid(f"{name} is not in container {record.container}")
    try:
        found, md5 = read_sums(store, record.container, name, folder)
    except NotFound as error:
        raise RecoveryPointInvalid(f"{name} is not in container {record.container}") from error
    _same(name, md5, there)
    return found


def _same(name: str, md5: str, there: Held) -> None:
    """See that a document is the one whose MD5 the store has listed.

    Stores that encrypt list something else, which does not have to look like an MD5. Such a
    document is refused: its digests could not be trusted.
    """
    if there.objects[name].etag.strip('"') != md5:
        raise RecoveryPointInvalid(
            f"{name} is not what the store lists it to be, or the store lists no MD5"
        )


def _must_have_all(base: Layer, backup: str) -> None:
    """See that the objects of a full backup leave no byte of the volume out."""
    position = 0
    for place in range(len(base)):
        begin, end = base.span(place)
        if begin > position:
            raise RecoveryPointInvalid(f"backup {backup}: no object has byte {position}")
        position = max(position, end)


def _must_have_whole_blocks(layer: Layer, block: int, size: int) -> None:
    for place in range(len(layer)):
        begin, end = layer.span(place)
        if begin % block or (end % block and end != size) or end > size:
            raise RecoveryPointInvalid(
                f"{layer.part(place).name} does not hold whole blocks of {block} bytes"
            )


def _object(part: Part, store: Streamed) -> bytearray:
    """An object as it is stored, held once."""
    found, at = bytearray(part.stored), 0
    try:
        for piece in store.pieces(part.container, part.name):
            if at + len(piece) <= part.stored:
                found[at : at + len(piece)] = piece
            at += len(piece)
    except NotFound as error:
        raise RecoveryPointInvalid(f"{part.name} is not in container {part.container}") from error
    if at != part.stored:
        raise RecoveryPointInvalid(
            f"{part.name} has {at} bytes, and had {part.stored} when it was verified"
        )
    return found


def _md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
