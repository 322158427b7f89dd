# SPDX-License-Identifier: Apache-2.0
"""Change streams as they lie in an object store: read, verified, laid over each other, and written
into an image. A program of its own, which needs Python alone: docs/change-stream.md describes the
format, and this file may be copied to where a stream is to be read.

    python3 change_stream.py FOLDER PREFIX IMAGE [--sha256 DIGEST]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FORMAT, VERSION = "antipode-change-stream", 1
INDEX = "index"
"""The object of a delta that names all others; written last."""
LARGEST_EXTENT = 1 << 20
"""Bytes of the volume."""
LARGEST_PACK = 32 << 20
"""Bytes of an object."""
LARGEST_INDEX = 1 << 30
"""Bytes, when it is unpacked."""
LONGEST_CHAIN = 1000
RAW, ZLIB = "raw", "zlib"
_DIGEST_LENGTH = 64


class Damaged(ValueError):
    """A stream is not what was written, or of a version that is not read here."""


class Pack(NamedTuple):
    """An object with bytes of the volume."""

    name: str
    bytes: int
    sha256: str


class Extent(NamedTuple):
    """A run of bytes of the volume, packed by itself."""

    offset: int
    length: int
    pack: int
    """which of the packs"""
    at: int
    """the first byte in the pack"""
    stored: int
    """bytes in the pack"""
    packing: str
    sha256: str
    """of the bytes of the volume"""

    @property
    def end(self) -> int:
        return self.offset + self.length


class Zeros(NamedTuple):
    """A range of the volume that reads as zeros."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Base(NamedTuple):
    """The delta below another."""

    delta: str
    prefix: str
    sha256: str
    """of its index"""


@dataclass(frozen=True)
class Index:
    """What one delta says of a volume."""

    delta: str
    volume: str
    size: int
    """bytes of the volume"""
    base: Base | None
    """None: it is of the whole volume, and what it does not name is zeros"""
    packs: Sequence[Pack]
    extents: Sequence[Extent]
    """by their offsets"""
    zeros: Sequence[Zeros]
    """by their offsets"""


class Piece(NamedTuple):
    """A range of the volume and where its newest bytes are."""

    offset: int
    length: int
    layer: int
    """which of the deltas, base first"""
    extent: Extent | None
    """it holds these bytes, and maybe more around them; None: they are zeros"""

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its extent."""
        return self.extent is not None and self.length == self.extent.length


def dump_index(index: Index) -> bytes:
    """The object of an index: the same bytes each time.

    Raises:
        Damaged: no reader would take it.
    """
    if problem := _problem(index):
        raise Damaged(f"the index of delta {index.delta} is not valid: {problem}")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "delta": index.delta,
        "volume": index.volume,
        "size": index.size,
        "base": None if index.base is None else index.base._asdict(),
        "packs": [list(pack) for pack in index.packs],
        "extents": [list(extent) for extent in index.extents],
        "zeros": [list(zeros) for zeros in index.zeros],
    }
    document = json.dumps(content, separators=(",", ":")).encode()
    if len(document) >= LARGEST_INDEX:
        raise Damaged(f"the index of delta {index.delta} is too large: {len(document)} bytes")
    return gzip.compress(document, mtime=0)


def parse_index(document: bytes, name: str) -> Index:
    """The index in an object.

    Args:
        name: of the object, for messages.

    Raises:
        Damaged: it is none, or of another version.
    """
    try:
        content = json.loads(_unpacked(document))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise Damaged(f"{name} is no index of a change stream")
        if content.get("version") != VERSION:
            raise Damaged(
                f"{name} is of version {content.get('version')!r}, and version {VERSION} is read"
                " here: use a newer antipode"
            )
        index = _index(content)
    except Damaged:
        raise
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, RecursionError) as e:
        raise Damaged(f"{name} cannot be read: {type(e).__name__}: {e}") from e
    if problem := _problem(index):
        raise Damaged(f"{name} is not valid: {problem}")
    return index


def layers(chain: Sequence[Index]) -> list[Piece]:
    """Each byte of the volume by the newest delta that has it.

    Args:
        chain: base first.

    Raises:
        Damaged: they are no chain of one volume.
    """
    see_chain(chain)
    found: list[Piece] = []
    for layer in range(len(chain) - 1, -1, -1):
        found = list(_below(found, _pieces(chain[layer], layer)))
    return list(_below(found, [Piece(0, chain[0].size, 0, None)]))


def see_chain(chain: Sequence[Index]) -> None:
    """See that indexes, base first, are a chain of one volume.

    Raises:
        Damaged: they are not.
    """
    if problem := _chain_problem(chain):
        raise Damaged(problem)


def check_pack(data: bytes, pack: Pack) -> bytes:
    """The bytes of a pack, once they are found to be those that were written.

    Raises:
        Damaged: they are others.
    """
    if len(data) != pack.bytes or hashlib.sha256(data).hexdigest() != pack.sha256:
        raise Damaged(f"{pack.name} does not hold the {pack.bytes} bytes that were written")
    return data


def unpack(pack: bytes, extent: Extent) -> bytes:
    """The bytes of the volume that an extent holds.

    Raises:
        Damaged: they are not those that were captured.
    """
    stored = pack[extent.at : extent.at + extent.stored]
    try:
        plain = (
            zlib.decompressobj().decompress(stored, extent.length + 1)
            if extent.packing == ZLIB
            else bytes(stored)
        )
    except zlib.error as error:
        raise Damaged(f"byte {extent.offset} of the volume cannot be unpacked: {error}") from error
    if len(plain) != extent.length or hashlib.sha256(plain).hexdigest() != extent.sha256:
        raise Damaged(f"what is stored of byte {extent.offset} of the volume was not captured")
    return plain


def read_chain(
    get: Callable[[str], bytes], prefix: str, sha256: str | None = None
) -> tuple[list[Index], list[str]]:
    """The indexes of a delta and of all below it, base first, and their prefixes.

    Args:
        get: the bytes of an object by its name.
        sha256: of the index of the delta; each index has that of the one below it.

    Raises:
        Damaged: an index is not the one that is meant, or the chain has no end.
    """
    chain: list[Index] = []
    prefixes: list[str] = []
    wanted: tuple[str, str | None] | None = (prefix, sha256)
    while wanted is not None:
        name = f"{wanted[0]}/{INDEX}"
        document = get(name)
        if wanted[1] is not None and hashlib.sha256(document).hexdigest() != wanted[1]:
            raise Damaged(f"{name} is not the index that is meant: its SHA-256 is another")
        index = parse_index(document, name)
        chain.insert(0, index)
        prefixes.insert(0, wanted[0])
        if len(chain) > LONGEST_CHAIN:
            raise Damaged(f"the chain of {prefix} has more than {LONGEST_CHAIN} deltas")
        wanted = None if index.base is None else (index.base.prefix, index.base.sha256)
    see_chain(chain)
    return chain, prefixes


def _unpacked(document: bytes) -> bytes:
    packed = zlib.decompressobj(wbits=31)  # the form of gzip
    plain = packed.decompress(document, LARGEST_INDEX)
    if not packed.eof:
        raise ValueError("it breaks off, or is too large")
    return plain


def _index(content: dict[str, Any]) -> Index:
    base = content["base"]
    return Index(
        delta=_text(content["delta"]),
        volume=_text(content["volume"]),
        size=_count(content["size"]),
        base=None
        if base is None
        else Base(_text(base["delta"]), _text(base["prefix"]), _digest(base["sha256"])),
        packs=[Pack(_text(n), _count(b), _digest(d)) for n, b, d in content["packs"]],
        extents=[
            Extent(
                _count(offset),
                _count(length),
                _count(pack),
                _count(at),
                _count(stored),
                _text(packing),
                _digest(digest),
            )
            for offset, length, pack, at, stored, packing, digest in content["extents"]
        ],
        zeros=[Zeros(_count(o), _count(n)) for o, n in content["zeros"]],
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number of bytes")
    return value


def _digest(value: object) -> str:
    digest = _text(value)
    if len(digest) != _DIGEST_LENGTH or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is no SHA-256")
    return digest


def _problem(index: Index) -> str | None:
    """What is wrong with an index; None: nothing."""
    for pack in index.packs:
        if pack.bytes > LARGEST_PACK or "/" in pack.name or pack.name in (INDEX, ".", ".."):
            return f"there is no pack {pack.name} of {pack.bytes} bytes"
    for extent in index.extents:
        if extent.pack >= len(index.packs) or extent.packing not in (RAW, ZLIB):
            return f"byte {extent.offset} of the volume is nowhere, or packed in an unknown way"
        if extent.at + extent.stored > index.packs[extent.pack].bytes:
            return f"byte {extent.offset} of the volume is behind the end of its pack"
        if not 0 < extent.length <= LARGEST_EXTENT:
            return f"an extent has {extent.length} bytes"
    end = 0
    for piece in _pieces(index, 0):
        if piece.offset < end or piece.length == 0:
            return f"byte {piece.offset} of the volume is there twice, or nothing is there"
        end = piece.end
    if end > index.size:
        return f"it has byte {end - 1} of a volume of {index.size} bytes"
    return None


def _chain_problem(chain: Sequence[Index]) -> str | None:
    """Why these are no chain; None: they are."""
    if not chain:
        return "a chain of deltas is empty"
    below: Index | None = None
    for index in chain:
        rests_on = None if index.base is None else index.base.delta
        if rests_on != (None if below is None else below.delta):
            on = "nothing" if below is None else f"delta {below.delta}"
            return f"delta {index.delta} rests on {rests_on}, and not on {on}"
        if below is not None and (index.volume, index.size) != (below.volume, below.size):
            return f"deltas {below.delta} and {index.delta} are of two volumes, or of two sizes"
        below = index
    return None


def _pieces(index: Index, layer: int) -> list[Piece]:
    """All that a delta has, by the offsets."""
    data = [Piece(e.offset, e.length, layer, e) for e in index.extents]
    zeros = [Piece(z.offset, z.length, layer, None) for z in index.zeros]
    return sorted([*data, *zeros], key=lambda piece: piece.offset)


def _below(above: Sequence[Piece], pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces, and where there are none, those of a lower layer; both by the offsets."""
    covering = iter(above)
    cover = next(covering, None)
    for piece in pieces:
        at = piece.offset
        while cover is not None and cover.offset < piece.end:
            if cover.offset > at:
                yield Piece(at, cover.offset - at, piece.layer, piece.extent)
            if cover.end > piece.end:
                at = piece.end  # the rest lies in the next piece
                break
            if cover.end > piece.offset:
                at = max(at, cover.end)
            yield cover
            cover = next(covering, None)
        if at < piece.end:
            yield Piece(at, piece.end - at, piece.layer, piece.extent)
    if cover is not None:
        yield cover
        yield from covering


def write_image(get: Callable[[str], bytes], prefix: str, image: Path, sha256: str | None) -> int:
    """Write what a volume held into a new file; its bytes.

    Args:
        get: the bytes of an object by its name.

    Raises:
        Damaged: the stream is not what was written; there is no file then.
        OSError: an object cannot be read, the file is there or cannot be written.
    """
    chain, prefixes = read_chain(get, prefix, sha256)
    part = image.with_name(f"{image.name}.part")
    with part.open("xb") as file:
        try:
            file.truncate(chain[-1].size)
            _fill(file.fileno(), chain, prefixes, get)
            os.fsync(file.fileno())
            os.link(part, image)  # refused where there is one
        finally:
            part.unlink()
    return chain[-1].size


def _fill(
    handle: int, chain: Sequence[Index], prefixes: Sequence[str], get: Callable[[str], bytes]
) -> None:
    """Write all pieces of a chain, one pack in memory at a time; a new file reads as zeros."""
    data = [(p.layer, p.extent.pack, p, p.extent) for p in layers(chain) if p.extent is not None]
    held, pack = (-1, -1), b""
    unpacked: Extent | None = None  # later deltas leave many pieces of one extent
    whole = memoryview(b"")
    for layer, number, piece, extent in sorted(data, key=lambda item: item[:2]):
        if held != (layer, number):
            named = chain[layer].packs[number]
            pack = check_pack(get(f"{prefixes[layer]}/{named.name}"), named)
            held = layer, number
        if extent is not unpacked:
            unpacked, whole = extent, memoryview(unpack(pack, extent))
        begin = piece.offset - extent.offset
        view = whole[begin : begin + piece.length]
        offset = piece.offset
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an image from objects that were downloaded; the exit code."""
    parser = argparse.ArgumentParser(description="write a volume from its change stream")
    parser.add_argument("folder", type=Path, help="has the objects, as files of their names")
    parser.add_argument("prefix", help="of the delta that is wanted, as the recovery point has it")
    parser.add_argument("image", type=Path, help="the file that is made, with the volume's bytes")
    parser.add_argument("--sha256", help="of the delta's index, as the recovery point has it")
    asked = parser.parse_args(arguments)
    folder = asked.folder.resolve()

    def get(name: str) -> bytes:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise Damaged(f"{name} is not in the folder")
        data: bytes = path.read_bytes()
        return data

    try:
        size = write_image(get, asked.prefix, asked.image, asked.sha256)
    except (Damaged, OSError) as error:
        print(f"change_stream: {error}", file=sys.stderr)
        return 1
    print(f"{asked.image}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
