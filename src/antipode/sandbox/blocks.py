# SPDX-License-Identifier: Apache-2.0
"""The bytes of volumes: sparse files, copied, compared and compressed by their content and not by
their size.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PIECE = 8 << 20
_GRAIN = 256 << 10
_SEALED = 4 << 10
"""what is encrypted as a whole, from a multiple of it on"""
_SKIPPED = 1 << 20
"""the piece of zeros that a restore skips"""
KERNEL_TELLS = sys.platform == "linux"
"""Whether the kernel knows where a file has holes; macOS has reported holes over data (APFS,
https://github.com/coreutils/coreutils/pull/68).
"""


class Extent(NamedTuple):
    """A part of a file that may hold something else than zeros."""

    offset: int
    length: int


def create(path: Path, size: int) -> None:
    """A file of zeros."""
    with path.open("wb") as file:
        file.truncate(size)


def grow(path: Path, size: int) -> None:
    """Make a file larger, by zeros."""
    with path.open("r+b") as file:
        file.truncate(max(size, path.stat().st_size))


def extents(handle: int) -> Iterator[Extent]:
    """Where an open file holds data, by what the kernel tells, else by reading it."""
    end = os.fstat(handle).st_size
    position = 0
    while KERNEL_TELLS and position < end:
        try:
            begin = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            break
        position = os.lseek(handle, begin, os.SEEK_HOLE)
        yield Extent(begin, position - begin)
    yield from _read(handle, position, end)


def _read(handle: int, position: int, end: int) -> Iterator[Extent]:
    """Where a part of a file is not all zeros."""
    begin = None
    while position < end:
        length = min(_GRAIN, end - position)
        if not _is_zeros(os.pread(handle, length, position)):
            begin = position if begin is None else begin
        elif begin is not None:
            yield Extent(begin, position - begin)
            begin = None
        position += length
    if begin is not None:
        yield Extent(begin, end - begin)


def _is_zeros(data: bytes) -> bool:
    return data == bytes(len(data))


def copy(source: Path, target: Path) -> None:
    """A copy that is as sparse as its source; whole or not there."""
    partial = target.with_name(target.name + ".partial")
    with source.open("rb", buffering=0) as origin, partial.open("wb", buffering=0) as made:
        made.truncate(os.fstat(origin.fileno()).st_size)
        for offset, length in extents(origin.fileno()):
            for position in range(offset, offset + length, _PIECE):
                piece = os.pread(origin.fileno(), min(_PIECE, offset + length - position), position)
                if not _is_zeros(piece):
                    os.pwrite(made.fileno(), piece, position)
    partial.replace(target)


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)


class Image:
    """The bytes of a volume or snapshot, read in pieces; holes are known without being read."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._handle).st_size
        self._extents = list(extents(self._handle))

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def is_hole(self, offset: int, length: int) -> bool:
        return not any(
            e.offset < offset + length and offset < e.offset + e.length for e in self._extents
        )

    def read(self, offset: int, length: int) -> bytes:
        return (
            bytes(length)
            if self.is_hole(offset, length)
            else os.pread(self._handle, length, offset)
        )

    def digests(self, block: int) -> list[str]:
        """The SHA-256 of each block of the image."""
        found = []
        for offset in range(0, self.size, block):
            length = min(block, self.size - offset)
            hole = self.is_hole(offset, length)
            found.append(
                zeros_digest(length)
                if hole
                else hashlib.sha256(os.pread(self._handle, length, offset)).hexdigest()
            )
        return found

    def packed(self, offset: int, length: int) -> tuple[str, bytes, str]:
        """A part as the backup driver stores it: the compression used, the bytes, and the MD5 of
        the part.
        """
        if self.is_hole(offset, length):
            return "zlib", *packed_zeros(length)
        data = self.read(offset, length)
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        smaller = zlib.compress(data, 1)
        return ("zlib", smaller, digest) if len(smaller) < length else ("none", data, digest)


class Sealed(Image):
    """The same bytes as they lie in storage that encrypts them; holes stay holes."""

    def __init__(self, path: Path, key: bytes) -> None:
        super().__init__(path)
        self._key = key

    def read(self, offset: int, length: int) -> bytes:
        return sealed(super().read(offset, length), self._key)

    def digests(self, block: int) -> list[str]:
        return [
            hashlib.sha256(self.read(offset, min(block, self.size - offset))).hexdigest()
            for offset in range(0, self.size, block)
        ]


@functools.lru_cache(8)
def _stream(key: bytes) -> bytes:
    return hashlib.shake_256(key).digest(_SEALED)


def sealed(data: bytes, key: bytes) -> bytes:
    """Bytes that need a key to be read, and the bytes again when it is applied to them: no cipher,
    but enough to see that the key was the right one. Grains of zeros stay as they are.
    """
    stream, parts = _stream(key), []
    for begin in range(0, len(data), _SEALED):
        grain = data[begin : begin + _SEALED]
        if not _is_zeros(grain):
            number = int.from_bytes(grain, "big") ^ int.from_bytes(stream[: len(grain)], "big")
            grain = number.to_bytes(len(grain), "big")
        parts.append(grain)
    return b"".join(parts)


@functools.cache
def zeros_digest(length: int) -> str:
    return hashlib.sha256(bytes(length)).hexdigest()


@functools.lru_cache(64)
def packed_zeros(length: int) -> tuple[bytes, str]:
    """That many zeros, compressed, and their MD5."""
    engine, digest, parts = zlib.compressobj(1), hashlib.md5(usedforsecurity=False), []
    for position in range(0, length, _PIECE):
        piece = bytes(min(_PIECE, length - position))
        digest.update(piece)
        parts.append(engine.compress(piece))
    return b"".join([*parts, engine.flush()]), digest.hexdigest()


def unpack_into(
    path: Path,
    offset: int,
    length: int,
    compression: str,
    stored: bytes,
    *,
    skip_zeros: bool,
    key: bytes | None = None,
) -> None:
    """Write a part that `packed` has made to where it belongs; with `skip_zeros` no mebibyte of it
    that is all zeros (cinder/backup/chunkeddriver.py, `_write_nonzero`). With `key` it was packed
    as `Sealed`.

    Raises:
        zlib.error, ValueError: it is not what was stored.
    """
    if stored == packed_zeros(length)[0]:
        if not skip_zeros:
            _zero(path, offset, length)
        return
    data = zlib.decompress(stored) if compression == "zlib" else stored
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes instead of {length}")
    if key is not None:
        data = sealed(data, key)
    with path.open("r+b", buffering=0) as file:
        for begin in range(0, length, _SKIPPED):
            piece, at = data[begin : begin + _SKIPPED], offset + begin
            # a hole stays one where it holds the zeros already
            if not _is_zeros(piece) or not (skip_zeros or _is_hole(file.fileno(), at, len(piece))):
                os.pwrite(file.fileno(), piece, at)


def _zero(path: Path, offset: int, length: int) -> None:
    """Have a part of a file hold zeros, written only where the file holds anything else."""
    end = offset + length
    with path.open("r+b", buffering=0) as file:
        for extent in list(extents(file.fileno())):
            begin, stop = max(extent.offset, offset), min(extent.offset + extent.length, end)
            for position in range(begin, stop, _PIECE):
                os.pwrite(file.fileno(), bytes(min(_PIECE, stop - position)), position)


def _is_hole(handle: int, offset: int, length: int) -> bool:
    """Whether the kernel says that a part of a file holds no data."""
    if not KERNEL_TELLS:
        return False
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        return error.errno == errno.ENXIO
