# SPDX-License-Identifier: Apache-2.0
"""The digest of each block of a backed-up volume, as Cinder's chunked drivers keep it with every
backup, an increment included (cinder/backup/chunkeddriver.py, `_sha256file`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from antipode.cloud import answers
from antipode.errors import NotFound, RecoveryPointInvalid, UnexpectedAnswer
from antipode.vault.compression import decompress

SHA256_BYTES = 32


class Readable(Protocol):
    """An object store that can be read."""

    def get(self, container: str, name: str) -> bytes: ...


class Digests(NamedTuple):
    """The SHA-256 of each block of a volume."""

    block: int
    """bytes of a block; the last may be shorter"""
    sums: bytes
    """the digests one after another, 32 bytes each"""

    @property
    def blocks(self) -> int:
        return len(self.sums) // SHA256_BYTES

    def differences(self, other: Digests) -> list[int]:
        """The offsets in bytes at which blocks of this volume differ from those of one that has the
        same block size and is as large or larger.
        """
        if self.sums == other.sums[: len(self.sums)]:
            return []
        return [
            at // SHA256_BYTES * self.block
            for at in range(0, len(self.sums), SHA256_BYTES)
            if self.sums[at : at + SHA256_BYTES] != other.sums[at : at + SHA256_BYTES]
        ]


def kept_digests(store: Readable, container: str, prefix: str) -> Digests:
    """The digests that a backup carries.

    Args:
        prefix: what the names of its objects begin with.

    Raises:
        RecoveryPointInvalid: they are not there, or cannot be understood.
    """
    name = f"{prefix}_sha256file"
    kept = answers.DIGESTS.check(_document(store, container, name), container, name)
    try:
        sums = b"".join(bytes.fromhex(s) for s in kept["sha256s"])
    except (ValueError, TypeError) as error:
        raise RecoveryPointInvalid(f"{name} has something that is no digest: {error}") from error
    if len(sums) != len(kept["sha256s"]) * SHA256_BYTES or not sums:
        raise RecoveryPointInvalid(f"{name} in container {container} does not hold SHA-256 digests")
    return Digests(kept["chunk_size"], sums)


def read_digests(store: Readable, container: str, prefix: str, block: int) -> Digests:
    """The digests of a full backup in blocks of another size than the backup's own: all of its
    objects are read.

    Args:
        block: the wanted size, in bytes.

    Raises:
        RecoveryPointInvalid: an object is not there, is damaged, or in a compression that cannot be
            read here.
    """
    sums, rest = bytearray(), b""
    for data in _plain_objects(store, container, prefix):
        rest += data
        whole = len(rest) - len(rest) % block
        for at in range(0, whole, block):
            sums += hashlib.sha256(memoryview(rest)[at : at + block]).digest()
        rest = rest[whole:]
    if rest:
        sums += hashlib.sha256(rest).digest()
    return Digests(block, bytes(sums))


def _plain_objects(store: Readable, container: str, prefix: str) -> Iterator[bytes | bytearray]:
    """What a full backup holds, one object after another from the volume's beginning on."""
    name = f"{prefix}_metadata"
    entries = answers.OBJECT_LIST.read(_document(store, container, name), container, name)
    parts = sorted(
        ((n, part) for entry in entries for n, part in entry.items()),
        key=lambda named: int(named[1]["offset"]),
    )
    position = 0
    for part_name, part in parts:
        if part["offset"] != position:
            raise RecoveryPointInvalid(f"{name} has nothing of the volume at byte {position}")
        stored = store.get(container, part_name)
        data = decompress(stored, str(part["compression"]), int(part["length"]), part_name)
        position += len(data)
        yield data


def _document(store: Readable, container: str, name: str) -> object:
    try:
        return json.loads(store.get(container, name))
    except NotFound as error:
        raise RecoveryPointInvalid(
            f"{name} is not in container {container}: only the chunked backup drivers of Cinder"
            " keep digests"
        ) from error
    except (ValueError, RecursionError, UnexpectedAnswer) as error:
        raise RecoveryPointInvalid(f"{name} cannot be read: {type(error).__name__}") from error
