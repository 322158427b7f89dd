# SPDX-License-Identifier: Apache-2.0
"""Writes a delta of a change stream into an object store: extents packed by themselves, many in one
object, and the index last.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple, Protocol

from antipode.change_stream import (
    INDEX,
    LARGEST_EXTENT,
    LARGEST_PACK,
    RAW,
    ZLIB,
    Base,
    Damaged,
    Extent,
    Index,
    Pack,
    Zeros,
    dump_index,
)
from antipode.errors import ResourceFailed

LEVEL = 1
"""of zlib: what it gains beyond that is not worth its time"""


class Writable(Protocol):
    """An object store that takes objects."""

    def put(self, container: str, name: str, data: bytes) -> None: ...


class Place(NamedTuple):
    """Where the objects of a delta go."""

    container: str
    prefix: str


class Packer:
    """One delta that grows. No more than one pack is in memory."""

    def __init__(
        self, store: Writable, place: Place, delta: str, volume: str, largest: int = LARGEST_PACK
    ) -> None:
        """
        Args:
            largest: bytes of a pack at most.
        """
        self._store, self._place = store, place
        self._delta, self._volume, self._largest = delta, volume, largest
        self._packs: list[Pack] = []
        self._extents: list[Extent] = []
        self._zeros: list[Zeros] = []
        self._pack = bytearray()
        self.objects = 0
        """that were put"""
        self.bytes = 0
        """of all of them"""

    def data(self, offset: int, data: bytes) -> None:
        """Bytes of the volume."""
        for begin in range(0, len(data), LARGEST_EXTENT):
            piece = data[begin : begin + LARGEST_EXTENT]
            if piece.count(0) == len(piece):
                self.zeros(offset + begin, len(piece))
            else:
                self._add(offset + begin, piece)

    def zeros(self, offset: int, length: int) -> None:
        """A range that reads as zeros."""
        if self._zeros and self._zeros[-1].end == offset:
            length, offset = length + self._zeros[-1].length, self._zeros.pop().offset
        self._zeros.append(Zeros(offset, length))

    def end(self, size: int, base: Base | None) -> bytes:
        """Write what is left, and the index; the bytes of that.

        Args:
            size: bytes of the volume.
            base: the delta that it rests on; None: it is of the whole volume.

        Raises:
            ResourceFailed: what was packed is no delta that could be read again.
        """
        self._flush()
        index = Index(
            delta=self._delta,
            volume=self._volume,
            size=size,
            base=base,
            packs=self._packs,
            extents=sorted(self._extents),
            zeros=[] if base is None else sorted(self._zeros),
        )
        try:
            document = dump_index(index)
        except Damaged as error:
            raise ResourceFailed(str(error)) from error
        self._put(INDEX, document)
        return document

    def _add(self, offset: int, plain: bytes) -> None:
        packed = zlib.compress(plain, LEVEL)
        packing, stored = (ZLIB, packed) if len(packed) < len(plain) else (RAW, plain)
        if self._pack and len(self._pack) + len(stored) > self._largest:
            self._flush()
        at, digest = len(self._pack), hashlib.sha256(plain).hexdigest()
        self._pack += stored
        extent = Extent(offset, len(plain), len(self._packs), at, len(stored), packing, digest)
        self._extents.append(extent)

    def _flush(self) -> None:
        if not self._pack:
            return
        data, name = bytes(self._pack), f"pack-{len(self._packs):05}"
        self._put(name, data)
        self._packs.append(Pack(name, len(data), hashlib.sha256(data).hexdigest()))
        self._pack.clear()

    def _put(self, name: str, data: bytes) -> None:
        self._store.put(self._place.container, f"{self._place.prefix}/{name}", data)
        self.objects, self.bytes = self.objects + 1, self.bytes + len(data)
