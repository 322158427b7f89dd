# SPDX-License-Identifier: Apache-2.0
"""Decompresses what Cinder's chunked backup drivers store: zlib, bz2, zstd, or none of them
(cinder/backup/chunkeddriver.py, `_get_compressor`).
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable

from antipode import libraries
from antipode.errors import RecoveryPointInvalid

Packed = bytes | bytearray
_PIECE = 1 << 20


def decompress(data: Packed, compression: str, length: int, name: str) -> Packed:
    """The bytes that an object holds.

    Never more memory is used than for the bytes that are expected, whatever the object claims.

    Args:
        compression: as Cinder notes it of the object.
        length: how many bytes it is to hold.
        name: of the object, for messages.

    Raises:
        RecoveryPointInvalid: it is damaged, holds another number of bytes, or is in a compression
            that cannot be read here.
    """
    if compression not in _KNOWN:
        raise RecoveryPointInvalid(
            f"{name} is compressed by {compression}, which antipode does not read"
        )
    try:
        found = _KNOWN[compression](data, length)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise RecoveryPointInvalid(f"{name} cannot be decompressed: {error}") from error
    if len(found) != length:
        held = "more" if len(found) > length else str(len(found))
        raise RecoveryPointInvalid(f"{name} holds {held} bytes of {length}")
    return found


def _none(data: Packed, length: int) -> Packed:
    return data


def _zlib(data: Packed, length: int) -> Packed:
    """Piece by piece, as zlib holds all that it is given and gives at once two times."""
    unpacking, found, at = zlib.decompressobj(), bytearray(length), 0
    packed = memoryview(data)
    for begin in range(0, len(packed), _PIECE):
        rest: Packed | memoryview = packed[begin : begin + _PIECE]
        while True:
            piece = unpacking.decompress(rest, _PIECE)
            if at + len(piece) > length:
                return bytes(length + 1)
            found[at : at + len(piece)] = piece
            at, rest = at + len(piece), unpacking.unconsumed_tail
            if len(piece) < _PIECE and not rest:
                break
    return found if at == length else found[:at]


def _bz2(data: Packed, length: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, length + 1)


def _zstd(data: Packed, length: int) -> bytes:
    libraries.need("zstandard", "mover", "reading backups that are compressed by zstd")
    import zstandard

    try:
        # a frame that says its size is decompressed to that size, whatever is asked for
        if zstandard.frame_content_size(data) > length:
            raise ValueError(f"it claims to hold more than {length} bytes")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=length + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


_KNOWN: dict[str, Callable[[Packed, int], Packed]] = {
    "none": _none,
    "zlib": _zlib,
    "bz2": _bz2,
    "zstd": _zstd,
}
