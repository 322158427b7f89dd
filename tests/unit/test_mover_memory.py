# SPDX-License-Identifier: Apache-2.0
"""What the mover holds in memory does not grow with the documents and objects that it reads."""

from __future__ import annotations

import hashlib
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from antipode.errors import NotFound, RecoveryPointInvalid
from antipode.mover import sums
from antipode.mover.budget import Budget
from antipode.mover.chain import Layer, Part, read_chain
from antipode.mover.move import Wish, move, survey
from antipode.mover.sums import read_sums
from tests.unit.chunked import Bytes, Chained, Kept

BLOCK = 512
Answer = TypeVar("Answer")


def held(do: Callable[[], Answer]) -> tuple[Answer, int]:
    """What a function returns, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        found = do()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Digests(Kept):
    """A store with digests of so many blocks, which are made as they are read."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks, self.length = blocks, 0

    def pieces(self, container: str, name: str) -> Iterator[bytes]:
        self.length = 0
        yield b'{"backup_name": "\\"sha256s\\": [", "chunk_size": 512, "sha256s": ['
        for number in range(self.blocks):
            comma = b", " if number else b""
            piece = comma + b'"%s"' % hashlib.sha256(b"%d" % number).hexdigest().encode()
            self.length += len(piece)
            yield piece
        yield b'], "version": "1.0.0"}\n'


def test_a_document_of_digests_is_never_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sums, "WRITTEN_AT_ONCE", 64)
    store = Digests(8_000)
    (found, _), most = held(lambda: read_sums(store, "c", "x_sha256file", tmp_path))
    assert (found.blocks, found.block) == (8_000, 512)
    assert most < store.length / 4
    number = 4_345
    assert found.between(number, number + 1) == hashlib.sha256(b"%d" % number).digest()
    assert list(tmp_path.iterdir()) == []  # the file has no name
    with pytest.raises(RecoveryPointInvalid):
        found.between(7_999, 8_001)


def test_an_object_takes_few_bytes_in_the_list_of_a_chain() -> None:
    def listed() -> Layer:
        layer = Layer("container", "volume_1/2026/az_backup_1")
        for number in range(5000):
            name = f"volume_1/2026/az_backup_1-{number:05}"
            layer.add(Part("container", name, number * BLOCK, BLOCK, "zstd", "0f" * 16, 300))
        return layer

    layer, most = held(listed)
    assert most < 250 * len(layer)
    part = layer.part(4321)
    assert (part.name[-5:], part.offset, part.md5) == ("04321", 4321 * BLOCK, "0f" * 16)
    assert (part.length, part.stored, part.compression) == (BLOCK, 300, "zstd")


def test_a_survey_holds_a_byte_for_each_block() -> None:
    store, content = Kept(), b"x" * (40 * BLOCK)
    chain = read_chain(Chained(store, BLOCK).add(content), store)
    assert len(survey(Wish(chain), Bytes(bytes(40 * BLOCK))).blocks) == 40


@pytest.mark.parametrize("most", [1, 3 * 4 * BLOCK, 1 << 30])
def test_no_more_bytes_of_objects_are_held_than_the_budget_allows(most: int) -> None:
    store, content = Kept(), bytes(range(1, 129)) * (64 * BLOCK // 128)
    records = Chained(store, BLOCK, 4 * BLOCK, "none").add(content)
    budget, target = Budget(most), Bytes(bytes(len(content)))
    move(Wish(read_chain(records, store)), target, store, budget=budget)
    assert target.content == content
    # one object is let through even where it is larger: as it is stored, and as it is written
    assert 0 < budget.highest <= max(most, 2 * 4 * BLOCK)
    assert budget.held == 0


def test_volumes_that_share_a_budget_do_not_wait_for_one_another_for_ever() -> None:
    store, content, budget = Kept(), b"y" * (64 * BLOCK), Budget(1)
    records = Chained(store, BLOCK, 4 * BLOCK, "none").add(content)
    targets = [Bytes(bytes(len(content))) for _ in range(3)]
    chain = read_chain(records, store)
    threads = [
        threading.Thread(target=move, args=(Wish(chain), t, store, lambda: None, budget))
        for t in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(t.content == content for t in targets)


def test_a_move_that_fails_gives_back_what_it_holds() -> None:
    store, content, budget = Kept(), b"z" * (64 * BLOCK), Budget()
    records = Chained(store, BLOCK, 4 * BLOCK, "none").add(content)
    chain = read_chain(records, store)
    del store.held[next(n for n in store.held if n.endswith("-00009"))]
    with pytest.raises(RecoveryPointInvalid):
        move(Wish(chain), Bytes(bytes(len(content))), store, budget=budget)
    assert budget.held == 0


DIGEST = "0" * 64


@pytest.mark.parametrize(
    "document",
    [
        {"chunk_size": 512, "sha256s": []},
        {"chunk_size": 512},
        {"sha256s": [DIGEST]},
        {"chunk_size": 0, "sha256s": [DIGEST]},
        {"chunk_size": "512", "sha256s": [DIGEST]},
        {"chunk_size": 1 << 40, "sha256s": [DIGEST]},
        {"chunk_size": 512, "sha256s": [DIGEST, 7]},
        {"chunk_size": 512, "sha256s": [DIGEST, "zz" * 32]},
        {"chunk_size": 512, "sha256s": [DIGEST[:-2]]},
        {"chunk_size": 512, "sha256s": [DIGEST, [DIGEST]]},
        {"chunk_size": 512, "sha256s": {"item": DIGEST}},
        [DIGEST],
    ],
    ids=str,
)
def test_a_document_that_holds_something_else_is_refused(document: object) -> None:
    store = Kept()
    store.held["x"] = json.dumps(document).encode()
    with pytest.raises(RecoveryPointInvalid):
        read_sums(store, "volumebackups", "x", None)


@pytest.mark.parametrize("end", ["", '"', "]", "]}}", '], "sha256s": ["' + DIGEST + '"]}', "]} x"])
def test_a_document_that_breaks_off_or_says_it_twice_is_refused(end: str) -> None:
    store = Kept()
    store.held["x"] = f'{{"chunk_size": 512, "sha256s": ["{DIGEST}"{end}'.encode()
    with pytest.raises(RecoveryPointInvalid):
        read_sums(store, "volumebackups", "x", None)


def test_a_document_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        read_sums(Kept(), "volumebackups", "x", None)
