# SPDX-License-Identifier: Apache-2.0
"""The mover brings a volume to what a chain of backups stands for, from whatever it held, and
refuses bytes that are not those that were backed up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode.errors import AntipodeError, RecoveryPointInvalid, ResourceFailed
from antipode.model.source import BackupRecord
from antipode.mover import move as move_module
from antipode.mover import sums
from antipode.mover.chain import read_chain
from antipode.mover.move import Wish, move
from tests.unit.chunked import PACKS, Bytes, Chained, Kept, sealed

BLOCK = 512
SIZE = 19 * BLOCK + 100  # the last block is shorter


@pytest.fixture(scope="module", autouse=True)
def in_small_pieces() -> Iterator[None]:
    """Volumes of twenty blocks have several windows, reads and writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(move_module, "WINDOW", 7)
        patch.setattr(move_module, "READ_BYTES", 2 * BLOCK)
        patch.setattr(move_module, "ZEROED_BYTES", 2 * BLOCK)
        patch.setattr(sums, "WRITTEN_AT_ONCE", 3)
        yield


def patterned(seed: int, size: int = SIZE) -> bytes:
    """Bytes of which some blocks are zeros, some compress and some do not."""
    chosen = random.Random(seed)
    kinds: list[Callable[[int], bytes]] = [bytes, lambda n: b"words " * n, chosen.randbytes]
    found = b"".join(chosen.choice(kinds)(BLOCK)[:BLOCK] for _ in range(-(-size // BLOCK)))
    return found[:size]


def changed(content: bytes, seed: int, writes: int) -> bytes:
    chosen, found = random.Random(seed), bytearray(content)
    for _ in range(writes):
        at = chosen.randrange(len(content))
        length = min(chosen.choice((1, 100, BLOCK, 3 * BLOCK)), len(content) - at)
        data = chosen.choice((bytes(length), chosen.randbytes(length)))
        found[at : at + length] = data
    return bytes(found)


def moved(records: Sequence[BackupRecord], store: Kept, target: Bytes, **known: object) -> None:
    move(Wish(read_chain(records, store), **known), target, store)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 1 << 32),
    writes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    pack=st.sampled_from(sorted(PACKS)),
    chunk=st.sampled_from((BLOCK, 4 * BLOCK, 64 * BLOCK)),
)
@settings(max_examples=60, deadline=None)
def test_any_point_of_any_chain_is_reached_from_any_other_and_from_nothing(
    seed: int, writes: list[int], pack: str, chunk: int
) -> None:
    store, states, chains = Kept(), [patterned(seed)], list[list[BackupRecord]]()
    chain = Chained(store, BLOCK, chunk, pack)
    chains.append(chain.add(states[0]))
    for number, count in enumerate(writes):
        states.append(changed(states[-1], seed + number, count))
        chains.append(chain.add(states[-1], full=number == 4))
    order = random.Random(seed).sample(range(len(states)), len(states))
    standing = Bytes(random.Random(seed).randbytes(SIZE))
    for now in order:
        moved(chains[now], store, standing)
        assert standing.content == states[now]
    holds = read_chain(chains[order[-1]], store).sums
    moved(chains[-1], store, standing, holds=holds)
    assert standing.content == states[-1]
    dirty = Bytes(random.Random(seed + 1).randbytes(SIZE))
    for new in (Bytes(bytes(SIZE)), dirty):  # thick storage may show what others have written
        moved(chains[-1], store, new, is_new=True)
        assert new.content == states[-1]


def test_only_the_difference_is_fetched_and_written() -> None:
    store, before = Kept(), patterned(1)
    chain = Chained(store, BLOCK, 4 * BLOCK)
    old = read_chain(chain.add(before), store)
    after = before[: 2 * BLOCK] + b"\1" * BLOCK + before[3 * BLOCK :]
    records = chain.add(after)
    standing, wanted = Bytes(before), read_chain(records, store)
    store.asked.clear()
    found = move(Wish(wanted, holds=old.sums), standing, store)
    assert standing.writes == [(2 * BLOCK, BLOCK)]
    assert (found.blocks, found.objects, found.written) == (1, 1, BLOCK)
    assert len(store.asked) == 1
    found = move(Wish(wanted, holds=wanted.sums), standing, store)
    assert (found.blocks, len(store.asked)) == (0, 1)


def test_each_object_is_read_once_however_long_the_chain_is() -> None:
    store, content = Kept(), patterned(2)
    chain = Chained(store, BLOCK, 4 * BLOCK)
    records = chain.add(content)
    for seed in range(20):  # each replaces the whole
        content = random.Random(seed).randbytes(SIZE)
        records = chain.add(content)
    wanted = read_chain(records, store)
    store.asked.clear()
    new = Bytes(bytes(SIZE))
    move(Wish(wanted, is_new=True), new, store)
    assert new.content == content
    assert len(store.asked) == len(set(store.asked)) == -(-SIZE // (4 * BLOCK))


def test_zeros_are_never_fetched_and_replace_what_was_there() -> None:
    store, before = Kept(), random.Random(3).randbytes(SIZE)
    chain = Chained(store, BLOCK, 4 * BLOCK)
    chain.add(before)
    records = chain.add(bytes(SIZE))
    wanted, standing = read_chain(records, store), Bytes(before)
    store.asked.clear()
    found = move(Wish(wanted), standing, store)
    assert (bytes(standing.content), found.zeroed, store.asked) == (bytes(SIZE), SIZE, [])


@pytest.mark.parametrize("dirty", [False, True], ids=["of zeros", "with bytes of others"])
def test_zeros_of_a_new_volume_that_are_known_are_not_read(dirty: bool) -> None:
    store, content = Kept(), bytes(SIZE - BLOCK) + b"x" * BLOCK
    wanted = read_chain(Chained(store, BLOCK, 4 * BLOCK).add(content), store)
    new = Bytes(bytes(3 * BLOCK) + b"theirs" * dirty + bytes(SIZE - 3 * BLOCK - 6 * dirty))
    new.knows_zeros = True
    found = move(Wish(wanted, is_new=True), new, store)
    assert (bytes(new.content), bool(found.zeroed)) == (content, dirty)


def chain_of_two(pack: str = "zlib") -> tuple[Kept, list[BackupRecord], bytes]:
    store, content = Kept(), b"words " * (SIZE // 6 + 1)
    chain = Chained(store, BLOCK, 4 * BLOCK, pack)
    chain.add(content[:SIZE])
    return store, chain.add(b"other" + content[5:SIZE]), b"other" + content[5:SIZE]


def data_of(record: BackupRecord) -> str:
    assert record.stored is not None
    return f"{record.stored.prefix}-00001"


@pytest.mark.parametrize("which", ["-00001", "_metadata", "_sha256file"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_chain_that_has_changed_since_it_was_sealed_is_refused(number: int, which: str) -> None:
    for change in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b + b"\n", lambda b: None):
        store, records, _ = chain_of_two()
        name = records[number].stored.prefix + which  # type: ignore[union-attr]
        if (new := change(store.held[name])) is None:
            del store.held[name]
        else:
            store.held[name] = new
        with pytest.raises(RecoveryPointInvalid):
            read_chain(records, store)


def test_an_object_that_changes_after_it_was_verified_is_not_written() -> None:
    for pack in PACKS:
        store, records, _ = chain_of_two(pack)
        wanted, name = read_chain(records, store), data_of(records[0])
        for new in (PACKS[pack](bytes(4 * BLOCK)), b"", b"\0" * len(store.held[name])):
            store.held[name] = new
            standing = Bytes(bytes(SIZE))
            with pytest.raises(RecoveryPointInvalid):
                move(Wish(wanted), standing, store)
            assert set(standing.writes) <= {(0, BLOCK)}  # that of the increment


def test_an_object_that_was_sealed_wrong_is_not_written() -> None:
    """Its list says another MD5, or its digests are of other bytes: Cinder has written them so."""
    for what in ("_metadata", "_sha256file"):
        store, records, _ = chain_of_two()
        name = records[0].stored.prefix + what  # type: ignore[union-attr]
        document = json.loads(store.held[name])
        if what == "_metadata":
            next(iter(document["objects"][1].values()))["md5"] = "0" * 32
        else:
            document["sha256s"][7] = "0" * 64
        store.held[name] = json.dumps(document).encode()
        record = records[0].model_copy(update={"stored": sealed(records[0], store)})
        standing = Bytes(bytes(SIZE))
        with pytest.raises(RecoveryPointInvalid):
            move(Wish(read_chain([record], store)), standing, store)


def with_list(change: Callable[[list[dict[str, object]]], None]) -> AntipodeError:
    """Why a chain is refused, of which Cinder's list is changed before it is sealed."""
    store, records, _ = chain_of_two()
    name = f"{records[0].stored.prefix}_metadata"  # type: ignore[union-attr]
    document = json.loads(store.held[name])
    change([part for entry in document["objects"] for part in entry.values()])
    store.held[name] = json.dumps(document).encode()
    record = records[0].model_copy(update={"stored": sealed(records[0], store)})
    with pytest.raises(AntipodeError) as raised:
        read_chain([record], store)
    return raised.value


@pytest.mark.parametrize(
    "field, value",
    [
        ("offset", 1),
        ("offset", -512),
        ("offset", "x"),
        ("offset", SIZE * 2),
        ("length", 0),
        ("length", 1000),
        ("length", 1 << 40),
        ("md5", "-"),
    ],
)
def test_a_list_of_objects_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    def change(parts: list[dict[str, object]]) -> None:
        parts[1][field] = value

    assert with_list(change).code == "recovery-point-invalid"


def test_a_base_that_leaves_blocks_out_is_refused() -> None:
    def change(parts: list[dict[str, object]]) -> None:
        parts[1]["offset"] = parts[2]["offset"]

    assert with_list(change).code == "recovery-point-invalid"


def test_a_backup_without_a_fingerprint_is_refused() -> None:
    store, records, _ = chain_of_two()
    with pytest.raises(RecoveryPointInvalid):
        read_chain([records[0].model_copy(update={"stored": None})], store)


def test_nothing_is_written_into_a_volume_that_is_too_small() -> None:
    store, records, _ = chain_of_two()
    small = Bytes(bytes(SIZE - 1))
    with pytest.raises(ResourceFailed):
        move(Wish(read_chain(records, store)), small, store)
    assert small.writes == []


def test_what_is_beyond_the_backup_stays() -> None:
    store, records, content = chain_of_two()
    larger = Bytes(bytes(SIZE) + b"beyond")
    move(Wish(read_chain(records, store)), larger, store)
    assert larger.content == content + b"beyond"


class Taken(Exception):
    pass


def test_a_mover_whose_volume_is_taken_writes_no_further_object() -> None:
    store, records, _ = chain_of_two()
    wanted = read_chain(records, store)
    for allowed in range(sum(len(layer) for layer in wanted.layers)):
        standing, asked = Bytes(bytes(SIZE)), 0

        def may_write(allowed: int = allowed) -> None:
            nonlocal asked
            asked += 1
            if asked > allowed:
                raise Taken

        try:
            move(Wish(wanted), standing, store, may_write)
        except Taken:
            assert len(standing.writes) <= 2 * allowed
        else:
            assert asked == allowed


class Losing(Bytes):
    """Storage that loses its last write."""

    def flush(self) -> None:
        begin, length = self.writes[-1]
        self.content[begin : begin + length] = bytes(length)


def test_a_write_that_the_storage_loses_is_found() -> None:
    store, records, _ = chain_of_two()
    with pytest.raises(ResourceFailed):
        move(Wish(read_chain(records, store)), Losing(bytes(SIZE)), store)


def test_a_move_that_was_broken_off_anywhere_ends_at_the_same_bytes_when_it_is_done_again() -> None:
    store, content = Kept(), patterned(5)
    chain = Chained(store, BLOCK, 2 * BLOCK)
    first = chain.add(content)
    later = changed(content, 6, 12)
    second = chain.add(later)
    wanted = read_chain(second, store)
    for broken_at in range(20):
        standing, count = Bytes(content), 0

        def may_write(broken_at: int = broken_at) -> None:
            nonlocal count
            count += 1
            if count > broken_at:
                raise Taken

        try:
            move(Wish(wanted, read_chain(first, store).sums), standing, store, may_write)
        except Taken:
            moved(second, store, standing)  # what it holds is read
        assert standing.content == later
