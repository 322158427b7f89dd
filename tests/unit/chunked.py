# SPDX-License-Identifier: Apache-2.0
"""Backups of bytes as Cinder's chunked drivers lay them into an object store, for tests: written
from the description of the format, not from the code that reads it.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import zstandard

from antipode.errors import NotFound
from antipode.model.source import BackupRecord, StoredObjects
from antipode.vault.verify import stored_objects

CONTAINER = "volumebackups"
SWIFT = "cinder.backup.drivers.swift.SwiftBackupDriver"
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


class Listed(NamedTuple):
    name: str
    bytes: int
    etag: str


class Kept:
    """An object store in memory; `asked` has the objects that were got."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked: list[str] = []

    def get(self, container: str, name: str) -> bytes:
        self.asked.append(name)
        if container != CONTAINER or name not in self.held:
            raise NotFound(name)
        return self.held[name]

    def pieces(self, container: str, name: str) -> Iterator[bytes]:
        data = self.get(container, name)
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    def listing(self, container: str, prefix: str = "") -> Sequence[Listed]:
        return [
            Listed(name, len(data), hashlib.md5(data).hexdigest())
            for name, data in sorted(self.held.items())
            if name.startswith(prefix)
        ]


class Chained:
    """A chain of backups of one volume that grows."""

    def __init__(
        self,
        store: Kept,
        block: int = 512,
        chunk: int = 2048,
        pack: str = "zlib",
        volume: str = "11111111-1111-4111-8111-111111111111",
    ) -> None:
        self._store, self.block, self._chunk, self._pack = store, block, chunk, pack
        self.volume = volume
        self.records: list[BackupRecord] = []
        self._sums: list[str] = []

    def add(self, content: bytes, *, full: bool = False) -> list[BackupRecord]:
        """Back the volume up: in full at first, then what has changed; the chain."""
        if full:
            self.records, self._sums = [], []
        sums = [
            hashlib.sha256(content[at : at + self.block]).hexdigest()
            for at in range(0, len(content), self.block)
        ]
        backup = f"{self.volume[:8]}-0000-4000-8000-{len(self._store.held):012}"
        prefix = f"volume_{self.volume}/20260101000000/az_nova_backup_{backup}"
        listed = []
        for number, (begin, end) in enumerate(self._pieces(len(content), sums), 1):
            plain, name = content[begin:end], f"{prefix}-{number:05}"
            packed = PACKS[self._pack](plain)
            shrunk = len(packed) < len(plain)
            self._store.held[name] = packed if shrunk else plain
            noted = {
                "offset": begin,
                "length": len(plain),
                "compression": self._pack if shrunk else "none",
                "md5": hashlib.md5(plain).hexdigest(),
            }
            listed.append({name: noted})
        self._sums = sums
        self._write(f"{prefix}_sha256file", {"chunk_size": self.block, "sha256s": sums})
        self._write(f"{prefix}_metadata", {"version": "1.0.0", "objects": listed})
        self.records.append(self._record(backup, prefix, len(listed)))
        return list(self.records)

    def _pieces(self, size: int, sums: list[str]) -> list[tuple[int, int]]:
        if not self.records:
            return [(at, min(at + self._chunk, size)) for at in range(0, size, self._chunk)]
        pieces: list[tuple[int, int]] = []
        for number, digest in enumerate(sums):
            if digest == self._sums[number]:
                continue
            begin, end = number * self.block, min((number + 1) * self.block, size)
            if pieces and pieces[-1][1] == begin and begin % self._chunk:
                pieces[-1] = pieces[-1][0], end
            else:
                pieces.append((begin, end))
        return pieces

    def _write(self, name: str, document: object) -> None:
        self._store.held[name] = json.dumps(document).encode()

    def _record(self, backup: str, prefix: str, count: int) -> BackupRecord:
        fields = {"id": backup, "volume_id": self.volume, "service_metadata": prefix}
        record = BackupRecord(
            id=backup,
            volume_id=self.volume,
            parent_id=self.records[-1].id if self.records else None,
            size_gib=1,
            object_count=count,
            container=CONTAINER,
            created_at="2026-01-01T00:00:00",
            service=SWIFT,
            url=base64.b64encode(json.dumps(fields).encode()).decode(),
        )
        return record.model_copy(update={"stored": stored_objects(record, self._store)})


def sealed(record: BackupRecord, store: Kept) -> StoredObjects:
    """The fingerprint that a record would get now."""
    return stored_objects(record, store)


class Bytes:
    """An attached volume in memory; `writes` has the range of each write."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.writes: list[tuple[int, int]] = []
        self.flushed = 0
        self.knows_zeros = False

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= len(self.content)
        self.writes.append((offset, len(data)))
        self.content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def is_known_as_zeros(self, offset: int, length: int) -> bool:
        return self.knows_zeros and not any(self.content[offset : offset + length])

    def flush(self) -> None:
        self.flushed += 1
