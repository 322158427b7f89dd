# SPDX-License-Identifier: Apache-2.0
"""The digests of the blocks of a volume, kept in a file: those of 1 TiB in blocks of 64 KiB are 512
MiB, and the document in which a backup has them is more than twice as long.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import ijson

from antipode.errors import RecoveryPointInvalid
from antipode.vault.digests import SHA256_BYTES
from antipode.vault.verify import Store

LARGEST_BLOCK = 1 << 30
WRITTEN_AT_ONCE = 1 << 15
"""Digests that are held until they are in the file."""


class Streamed(Store, Protocol):
    """A store whose objects can be read piece by piece."""

    def pieces(self, container: str, name: str) -> Iterator[bytes]: ...


class Sums:
    """The SHA-256 of each block of a volume. May be read by several threads."""

    def __init__(self, block: int, file: IO[bytes]) -> None:
        """
        Args:
            block: bytes of a block; the last may be shorter.
            file: has the digests one after another, and no name, so that it goes with the process.
        """
        self.block = block
        self._file = file
        self.blocks = os.fstat(file.fileno()).st_size // SHA256_BYTES

    def between(self, first: int, end: int) -> bytes:
        """The digests of the blocks from one on, up to another that is not among them."""
        length = (end - first) * SHA256_BYTES
        found = os.pread(self._file.fileno(), length, first * SHA256_BYTES)
        if len(found) != length:
            raise RecoveryPointInvalid(f"there are no digests of the blocks {first} to {end}")
        return found


def read_sums(store: Streamed, container: str, name: str, folder: Path | None) -> tuple[Sums, str]:
    """Read the digests of a backup into a file; they, and the MD5 of their document.

    Args:
        folder: where the file is made; None: where this system has temporary files.

    Raises:
        NotFound: there is no such object.
        RecoveryPointInvalid: it does not hold digests.
        AntipodeError: the store does not answer.
    """
    document = _Document(store.pieces(container, name))
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is closed with the digests
    try:
        block = _copied(document, file)
        file.flush()
        found = Sums(block, file)
        while document.read(1 << 16):  # what may follow counts for the MD5
            pass
    except (ijson.JSONError, ValueError, TypeError, RecursionError) as error:
        file.close()
        raise RecoveryPointInvalid(
            f"{name} in container {container} does not hold SHA-256 digests: {type(error).__name__}"
        ) from error
    except BaseException:
        file.close()
        raise
    return found, document.md5()


def _copied(document: _Document, file: IO[bytes]) -> int:
    """Copy the digests of a document into a file; the bytes of a block."""
    block: object = None
    lists, held = 0, bytearray()
    for prefix, event, value in ijson.parse(document, use_float=True):
        if prefix == "sha256s.item":
            if event != "string" or len(value) != 2 * SHA256_BYTES:
                raise ValueError("something among them is no digest")
            held += bytes.fromhex(value)
            if len(held) >= WRITTEN_AT_ONCE * SHA256_BYTES:
                file.write(held)
                held.clear()
        elif prefix == "sha256s" and event == "start_array":
            lists += 1
        elif prefix == "chunk_size":
            block = value
    file.write(held)
    if not isinstance(block, int) or not 0 < block <= LARGEST_BLOCK:
        raise ValueError("there is no size of a block")
    if lists != 1 or not file.tell() or file.tell() % SHA256_BYTES:
        raise ValueError("there is not one list of digests")
    return block


class _Document:
    """The pieces of an object as a file that is read, with its MD5."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""
        self._md5 = hashlib.md5(usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        if size == 0:  # it is asked for the type of what it gives
            return b""
        if not self._rest:
            self._rest = next((piece for piece in self._pieces if piece), b"")
            self._md5.update(self._rest)
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def md5(self) -> str:
        """Of all that was read."""
        return self._md5.hexdigest()
