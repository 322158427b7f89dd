# SPDX-License-Identifier: Apache-2.0
"""A change stream is read back as it was captured, without antipode too, and what was tampered with
is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode import change_stream
from antipode.change_stream import (
    INDEX,
    LARGEST_EXTENT,
    Base,
    Damaged,
    layers,
    main,
    parse_index,
    read_chain,
    write_image,
)
from antipode.errors import ResourceFailed
from antipode.vault.packer import Packer, Place

SIZE = 64 << 10
GRAIN = 512
VOLUME = "11111111-1111-4111-8111-111111111111"


class Objects:
    """An object store in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def put(self, container: str, name: str, data: bytes) -> None:
        self.held[name] = data

    def get(self, name: str) -> bytes:
        try:
            return self.held[name]
        except KeyError:
            raise FileNotFoundError(name) from None


class Stream:
    """The deltas of a volume that is written to."""

    def __init__(self, largest: int = 8 << 10) -> None:
        self.store, self.content = Objects(), bytearray(SIZE)
        self.states: list[bytes] = []
        self.bases: list[Base] = []
        self._largest = largest

    def capture(self, *changes: tuple[int, bytes]) -> Base:
        """A delta of these writes; the first is of the whole volume."""
        number = len(self.bases)
        prefix = f"hlr/protect-{number}/d{number}"
        packer = Packer(self.store, Place("streams", prefix), f"d{number}", VOLUME, self._largest)
        for offset, data in sorted(changes):
            self.content[offset : offset + len(data)] = data
            packer.data(offset, data)
        below = self.bases[-1] if self.bases else None
        document = packer.end(SIZE, below)
        made = Base(f"d{number}", prefix, hashlib.sha256(document).hexdigest())
        self.bases.append(made)
        self.states.append(bytes(self.content))
        return made


def some_writes(chosen: random.Random, count: int) -> list[tuple[int, bytes]]:
    """Writes that do not touch each other, as a diff has them."""
    places = chosen.sample(range(SIZE // GRAIN // 4), min(count, SIZE // GRAIN // 4))
    kinds: list[Callable[[int], bytes]] = [bytes, lambda n: b"words " * n, chosen.randbytes]
    return [
        (p * 4 * GRAIN + chosen.choice((0, GRAIN)), chosen.choice(kinds)(length)[:length])
        for p in places
        for length in [chosen.choice((1, 100, GRAIN, 3 * GRAIN))]
    ]


@given(seed=st.integers(0, 1 << 32), counts=st.lists(st.integers(0, 20), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_each_point_of_a_stream_is_read_back_as_it_was(seed: int, counts: list[int]) -> None:
    chosen, stream = random.Random(seed), Stream()
    for count in counts:
        stream.capture(*some_writes(chosen, count))
    for made, state in zip(stream.bases, stream.states, strict=True):
        chain, prefixes = read_chain(stream.store.get, made.prefix, made.sha256)
        found, end = bytearray(SIZE), 0
        for piece in layers(chain):
            assert piece.offset == end  # each byte once, and in order
            end = piece.end
            if piece.extent is not None:
                named = chain[piece.layer].packs[piece.extent.pack]
                pack = stream.store.get(f"{prefixes[piece.layer]}/{named.name}")
                begin = piece.offset - piece.extent.offset
                data = change_stream.unpack(pack, piece.extent)
                found[piece.offset : piece.end] = data[begin : begin + piece.length]
        assert (end, bytes(found)) == (SIZE, state)


def test_the_reader_unpacks_an_extent_once_that_newer_deltas_have_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, unpacked = Stream(), list[change_stream.Extent]()
    stream.capture((0, random.Random(1).randbytes(SIZE)))
    made = stream.capture(*((at, b"\1") for at in range(0, SIZE, 4 * GRAIN)))
    real = change_stream.unpack

    def unpack(pack: bytes, extent: change_stream.Extent) -> bytes:
        unpacked.append(extent)
        return real(pack, extent)

    monkeypatch.setattr(change_stream, "unpack", unpack)
    write_image(stream.store.get, made.prefix, tmp_path / "image", made.sha256)
    assert (tmp_path / "image").read_bytes() == stream.states[-1]
    assert len(unpacked) == len(set(unpacked))


def test_an_increment_costs_its_changes_and_not_its_extents() -> None:
    """4 KiB here and there: Cinder's format stores 64 KiB and an object for each."""
    stream, chosen = Stream(32 << 20), random.Random(1)
    stream.capture((0, chosen.randbytes(SIZE)))
    before = set(stream.store.held)
    changed = [(at, chosen.randbytes(GRAIN)) for at in range(0, SIZE, 4 * GRAIN)]
    stream.capture(*changed)
    new = {n: d for n, d in stream.store.held.items() if n not in before}
    assert len(new) == 2  # a pack and the index
    packs = sum(len(d) for n, d in new.items() if not n.endswith(INDEX))
    assert packs == len(changed) * GRAIN


def test_what_is_larger_than_an_extent_is_cut_and_zeros_take_nothing() -> None:
    store = Objects()
    packer = Packer(store, Place("streams", "p"), "d", VOLUME)
    packer.data(0, b"\1" * (2 * LARGEST_EXTENT + 5))
    packer.data(3 * LARGEST_EXTENT, bytes(LARGEST_EXTENT))
    index = parse_index(packer.end(4 * LARGEST_EXTENT, None), "index")
    assert [e.length for e in index.extents] == [LARGEST_EXTENT, LARGEST_EXTENT, 5]
    assert index.zeros == []  # what a delta without a base does not have is zeros


@pytest.mark.parametrize(
    "changes", [[(0, b"words"), (3, b"again")], [(SIZE - 1, b"behind")]], ids=["twice", "behind"]
)
def test_no_index_is_written_that_no_reader_takes(changes: list[tuple[int, bytes]]) -> None:
    """Else a recovery point would name what no recovery can read."""
    store = Objects()
    packer = Packer(store, Place("streams", "p"), "d", VOLUME)
    for offset, data in changes:
        packer.data(offset, data)
    with pytest.raises(ResourceFailed):
        packer.end(SIZE, None)
    assert f"p/{INDEX}" not in store.held


def test_no_index_is_written_that_is_larger_than_any_that_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_stream, "LARGEST_INDEX", 300)
    packer = Packer(Objects(), Place("streams", "p"), "d", VOLUME)
    for offset in range(0, SIZE, SIZE // 4):
        packer.data(offset, b"words")
    with pytest.raises(ResourceFailed):
        packer.end(SIZE, None)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Stream]:
    """A stream of two deltas that was downloaded."""
    stream = Stream()
    stream.capture(*some_writes(random.Random(1), 20))
    stream.capture(*some_writes(random.Random(2), 9), (SIZE - 9, b"the end ."))
    for name, data in stream.store.held.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(data)
    return tmp_path / "got", stream


def test_a_stream_is_read_by_one_file_with_nothing_but_python(
    folder: tuple[Path, Stream], tmp_path: Path
) -> None:
    got, stream = folder
    program = tmp_path / "elsewhere.py"
    shutil.copy(change_stream.__file__, program)
    made, image = stream.bases[-1], tmp_path / "image"
    command: list[str | Path] = [sys.executable, "-I", "-S", program, got, made.prefix, image]
    subprocess.run([*command, "--sha256", made.sha256], check=True, capture_output=True)
    assert image.read_bytes() == stream.states[-1]


def damaged(got: Path, prefix: str, deed: str) -> None:
    """Do something bad to a stream."""
    pack = next((got / prefix).glob("pack-*"))
    match deed:
        case "a pack is gone":
            pack.unlink()
        case "a pack is shorter":
            pack.write_bytes(pack.read_bytes()[:-1])
        case "a byte is another":
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.write_bytes(data)
        case "an index is gone":
            (got / prefix / INDEX).unlink()
        case "an index breaks off":
            index = got / prefix / INDEX
            index.write_bytes(index.read_bytes()[:-9])
        case "an index is of another":
            other = next(p for p in got.rglob(INDEX) if p.parent != got / prefix)
            shutil.copy(other, got / prefix / INDEX)
        case _:
            raise AssertionError(deed)


@pytest.mark.parametrize(
    "deed",
    [
        "a pack is gone",
        "a pack is shorter",
        "a byte is another",
        "an index is gone",
        "an index breaks off",
        "an index is of another",
    ],
)
@pytest.mark.parametrize("layer", [0, 1])
def test_what_is_not_as_it_was_written_makes_no_image(
    folder: tuple[Path, Stream], tmp_path: Path, deed: str, layer: int
) -> None:
    got, stream = folder
    damaged(got, stream.bases[layer].prefix, deed)
    made, image = stream.bases[-1], tmp_path / "image"
    assert main([str(got), made.prefix, str(image), "--sha256", made.sha256]) == 1
    assert list(tmp_path.glob("image*")) == []


def test_a_file_that_is_there_is_left_alone(folder: tuple[Path, Stream], tmp_path: Path) -> None:
    got, stream = folder
    image = tmp_path / "image"
    image.write_bytes(b"mine")
    assert main([str(got), stream.bases[-1].prefix, str(image)]) == 1
    assert (image.read_bytes(), list(tmp_path.glob("*.part"))) == (b"mine", [])


def test_a_base_that_was_exchanged_with_its_index_is_found_by_the_digest_above_it() -> None:
    stream = Stream()
    base = stream.capture((0, b"before"))
    made = stream.capture((9, b"after"))
    other = Packer(stream.store, Place("streams", base.prefix), base.delta, VOLUME)
    other.data(0, b"forged")
    other.end(SIZE, None)
    with pytest.raises(Damaged):
        read_chain(stream.store.get, made.prefix, made.sha256)


def doubled(content: dict[str, Any]) -> None:
    content["extents"].append(content["extents"][0])


def outside(content: dict[str, Any]) -> None:
    content["zeros"] = [[SIZE - 1, 2]]


def behind(content: dict[str, Any]) -> None:
    content["extents"][0][3] = 1 << 20


def newer(content: dict[str, Any]) -> None:
    content["version"] = 2


def elsewhere(content: dict[str, Any]) -> None:
    content["packs"][0][0] = "../../secret"


def negative(content: dict[str, Any]) -> None:
    content["extents"][0][0] = -1


def large(content: dict[str, Any]) -> None:
    content["packs"][0][1] = 1 << 40


def other(content: dict[str, Any]) -> None:
    content["format"] = "another"


def nothing(content: dict[str, Any]) -> None:
    del content["size"]


@pytest.mark.parametrize(
    "deed", [doubled, outside, behind, newer, elsewhere, negative, large, other, nothing]
)
def test_an_index_that_makes_no_sense_is_refused(deed: Callable[[dict[str, Any]], None]) -> None:
    stream = Stream()
    made = stream.capture((0, b"words"))
    document = stream.store.get(f"{made.prefix}/{INDEX}")
    content = json.loads(gzip.decompress(document))
    deed(content)
    with pytest.raises(Damaged):
        parse_index(gzip.compress(json.dumps(content).encode()), "index")


def test_a_chain_of_two_volumes_or_without_its_base_is_refused() -> None:
    stream = Stream()
    stream.capture((0, b"words"))
    made = stream.capture((9, b"after"))
    chain, _ = read_chain(stream.store.get, made.prefix)
    for wrong in ([], chain[1:], chain[:1] * 2):
        with pytest.raises(Damaged):
            layers(wrong)
    write_nothing = Objects()
    with pytest.raises(FileNotFoundError):
        write_image(write_nothing.get, made.prefix, Path("never"), None)
