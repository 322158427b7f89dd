# SPDX-License-Identifier: Apache-2.0
"""The digests of a backup are read as Cinder's chunked drivers write them, and compared block by
block.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from antipode.errors import AntipodeError, NotFound, RecoveryPointInvalid
from antipode.vault.digests import Digests, kept_digests, read_digests

BLOCK = 4096
VOLUME = b"".join(bytes([n]) * BLOCK for n in range(6))


class Kept:
    """A store with one full backup in pieces of a block and a half."""

    def __init__(self, pack: str = "none", block: int = BLOCK) -> None:
        packs: dict[str, Callable[[bytes], bytes]] = {
            "none": bytes,
            "zlib": zlib.compress,
            "bz2": bz2.compress,
            "zstd": zstandard.ZstdCompressor().compress,
            "lz4": bytes,
        }
        length = BLOCK * 3 // 2
        self.held: dict[str, bytes] = {}
        listed: list[dict[str, Any]] = []
        for number, offset in enumerate(range(0, len(VOLUME), length), 1):
            piece = VOLUME[offset : offset + length]
            self.held[f"b-{number:05}"] = packs[pack](piece)
            part = {"offset": offset, "length": len(piece), "compression": pack, "md5": "-"}
            listed.append({f"b-{number:05}": part})
        listed.reverse()
        self.write("b_metadata", {"objects": listed})
        self.write("b_sha256file", {"chunk_size": block, "sha256s": sums(block)})

    def write(self, name: str, document: object) -> None:
        self.held[name] = json.dumps(document).encode()

    def get(self, container: str, name: str) -> bytes:
        if name not in self.held:
            raise NotFound(name)
        return self.held[name]


def sums(block: int, volume: bytes = VOLUME) -> list[str]:
    return [
        hashlib.sha256(volume[at : at + block]).hexdigest() for at in range(0, len(volume), block)
    ]


def test_equal_volumes_have_no_differences() -> None:
    kept = kept_digests(Kept(), "c", "b")
    assert (kept.block, kept.blocks) == (BLOCK, 6)
    assert kept.differences(kept) == []


def test_each_block_that_differs_is_named_by_its_offset() -> None:
    one = kept_digests(Kept(), "c", "b")
    changed = VOLUME[: 2 * BLOCK] + b"x" + VOLUME[2 * BLOCK + 1 : 5 * BLOCK] + bytes(BLOCK)
    other = Digests(BLOCK, b"".join(bytes.fromhex(s) for s in sums(BLOCK, changed)))
    assert one.differences(other) == [2 * BLOCK, 5 * BLOCK]


def test_a_larger_volume_is_equal_where_it_has_the_same_blocks_and_a_smaller_one_is_not() -> None:
    one = kept_digests(Kept(), "c", "b")
    larger = Digests(BLOCK, one.sums + bytes(32))
    assert one.differences(larger) == []
    assert larger.differences(one) == [6 * BLOCK]


@pytest.mark.parametrize("pack", ["none", "zlib", "bz2", "zstd"])
@pytest.mark.parametrize("block", [BLOCK, BLOCK // 4, BLOCK * 2, BLOCK * 4, BLOCK * 3 // 2, 1000])
def test_digests_in_blocks_of_another_size_are_those_of_the_data(pack: str, block: int) -> None:
    found = read_digests(Kept(pack), "c", "b", block)
    assert found == Digests(block, b"".join(bytes.fromhex(s) for s in sums(block)))


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"chunk_size": 0, "sha256s": sums(BLOCK)},
        {"chunk_size": BLOCK, "sha256s": []},
        {"chunk_size": BLOCK, "sha256s": ["no digest"]},
        {"chunk_size": BLOCK, "sha256s": [7]},
        {"chunk_size": BLOCK, "sha256s": ["00"]},
        {"chunk_size": BLOCK, "sha256s": None},
    ],
)
def test_digests_that_cannot_be_understood_are_refused(document: object) -> None:
    store = Kept()
    store.write("b_sha256file", document)
    with pytest.raises(AntipodeError) as raised:
        kept_digests(store, "c", "b")
    assert raised.value.code in ("recovery-point-invalid", "unexpected-answer")


def test_digests_that_are_not_there_or_no_json_are_refused() -> None:
    store = Kept()
    store.held["b_sha256file"] = b"{"
    with pytest.raises(RecoveryPointInvalid):
        kept_digests(store, "c", "b")
    del store.held["b_sha256file"]
    with pytest.raises(RecoveryPointInvalid):
        kept_digests(store, "c", "b")


def test_data_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(RecoveryPointInvalid, match="lz4"):
        read_digests(Kept("lz4"), "c", "b", BLOCK)
    damaged = Kept("zlib")
    damaged.held["b-00002"] = b"damaged"
    with pytest.raises(RecoveryPointInvalid, match="b-00002"):
        read_digests(damaged, "c", "b", BLOCK)
    shorter = Kept()
    shorter.held["b-00002"] = b"x"
    with pytest.raises(RecoveryPointInvalid, match="b-00002"):
        read_digests(shorter, "c", "b", BLOCK)


def test_a_hole_in_the_objects_of_a_full_backup_is_refused() -> None:
    store = Kept()
    document = json.loads(store.held["b_metadata"])
    document["objects"] = [o for o in document["objects"] if "b-00002" not in o]
    store.write("b_metadata", document)
    with pytest.raises(RecoveryPointInvalid, match=f"byte {BLOCK * 3 // 2}"):
        read_digests(store, "c", "b", BLOCK)
