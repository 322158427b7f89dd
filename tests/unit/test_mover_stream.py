# SPDX-License-Identifier: Apache-2.0
"""The mover brings a volume to a delta of a change stream, from whatever it held, and refuses bytes
that are not those that were captured.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antipode import change_stream
from antipode.change_stream import INDEX, Base, Extent
from antipode.errors import AntipodeError, RecoveryPointInvalid, ResourceFailed, VolumeTaken
from antipode.model.source import ChangeStream, Delta
from antipode.mover.budget import Budget
from antipode.mover.stream import Known, move_to_delta, prove_stream, read_stream
from antipode.recover.sources.change_stream import PROVIDER
from antipode.vault.packer import Packer, Place
from antipode.vault.verify import stored_delta
from tests.unit.chunked import CONTAINER, Bytes, Kept

SIZE, GRAIN = 64 << 10, 512


class Store(Kept):
    """One that can be written."""

    def put(self, container: str, name: str, data: bytes) -> None:
        self.held[name] = data


class Source:
    """A volume that is written to, and its deltas."""

    def __init__(self, store: Store) -> None:
        self._store, self.content = store, bytearray(SIZE)
        self.deltas: list[Delta] = []
        self.states: list[bytes] = []

    def capture(self, *changes: tuple[int, bytes]) -> list[Delta]:
        """The chain with one more delta."""
        name = f"d{len(self.deltas)}"
        prefix = f"hlr/protect-1/{name}"
        packer = Packer(self._store, Place(CONTAINER, prefix), name, "v", largest=8 << 10)
        for offset, data in sorted(changes):
            self.content[offset : offset + len(data)] = data
            packer.data(offset, data)
        below = self.deltas[-1] if self.deltas else None
        index = packer.end(SIZE, Base(below.id, below.prefix, below.sha256) if below else None)
        self.deltas.append(
            Delta(
                id=name,
                run="protect-1",
                container=CONTAINER,
                prefix=prefix,
                sha256=hashlib.sha256(index).hexdigest(),
                stored=stored_delta(CONTAINER, prefix, self._store),
                state=f"snapshot-{name}",
                snapshot_id=name,
                made_at="2026-11-30T22:00:00+00:00",
            )
        )
        self.states.append(bytes(self.content))
        return list(self.deltas)


def some(seed: int, count: int) -> list[tuple[int, bytes]]:
    chosen = random.Random(seed)
    places = chosen.sample(range(SIZE // GRAIN // 4), count)
    kinds: list[Callable[[int], bytes]] = [bytes, lambda n: b"words " * n, chosen.randbytes]
    return [
        (at * 4 * GRAIN + chosen.choice((0, 99)), chosen.choice(kinds)(length)[:length])
        for at in places
        for length in [chosen.choice((1, GRAIN, 3 * GRAIN))]
    ]


def moved(
    deltas: Sequence[Delta], store: Store, target: Bytes, known: Known | None = None
) -> tuple[int, int]:
    found, foreign = move_to_delta(read_stream(deltas, store), target, store, known or Known())
    return found.written, foreign


@given(seed=st.integers(0, 1 << 32), counts=st.lists(st.integers(0, 20), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_delta_is_reached_from_any_other_and_from_nothing(seed: int, counts: list[int]) -> None:
    store = Store()
    source = Source(store)
    chains = [source.capture(*some(seed + n, count)) for n, count in enumerate(counts)]
    standing = Bytes(random.Random(seed).randbytes(SIZE))
    order = random.Random(seed).sample(range(len(chains)), len(chains))
    held: str | None = None
    for now in order:
        moved(chains[now], store, standing, Known(held))
        assert standing.content == source.states[now]
        held = chains[now][-1].id
    for dirty in (bytes(SIZE), random.Random(seed + 1).randbytes(SIZE)):
        new = Bytes(dirty)  # thick storage may show what others have written
        moved(chains[-1], store, new, Known(is_new=True))
        assert new.content == source.states[-1]


def test_only_the_newer_deltas_are_fetched_and_written() -> None:
    store = Store()
    source = Source(store)
    source.capture((0, random.Random(1).randbytes(SIZE)))
    standing = Bytes(source.states[0])
    chain = source.capture((GRAIN, b"\1" * GRAIN))
    store.asked.clear()
    assert moved(chain, store, standing, Known("d0")) == (GRAIN, 0)
    assert standing.writes == [(GRAIN, GRAIN)]
    packs = [name for name in store.asked if not name.endswith(INDEX)]
    assert packs == ["hlr/protect-1/d1/pack-00000"]
    assert moved(chain, store, standing, Known("d1")) == (0, 0)


def test_an_extent_that_newer_deltas_have_cut_is_unpacked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    source = Source(store)
    source.capture((0, random.Random(1).randbytes(SIZE // 2)))
    source.capture(*((at, b"\1") for at in range(0, SIZE // 2, 4 * GRAIN)))
    chain = source.capture((SIZE - GRAIN, bytes(GRAIN)), (SIZE // 2, b"\2" * GRAIN))
    stream, unpacked = read_stream(chain, store), list[Extent]()

    def unpack(pack: bytes, extent: Extent) -> bytes:
        unpacked.append(extent)
        return change_stream.unpack(pack, extent)

    monkeypatch.setattr("antipode.mover.stream.unpack", unpack)
    volume = Bytes(bytes(SIZE))
    found, _ = move_to_delta(stream, volume, store, Known(is_new=True))
    assert volume.content == source.states[-1]
    assert len(unpacked) == len(set(unpacked)) < found.blocks
    assert found.data == SIZE // 2 + GRAIN


def test_a_volume_that_others_have_written_is_found_by_reading_it() -> None:
    store = Store()
    source = Source(store)
    chain = source.capture((0, random.Random(1).randbytes(8 * GRAIN)))
    standing = Bytes(source.states[-1])
    standing.content[GRAIN] ^= 1
    standing.content[-1] ^= 1  # in what is zeros
    _, foreign = moved(chain, store, standing, Known("d0", reads=True))
    assert (foreign, bytes(standing.content)) == (2, source.states[-1])


def test_a_volume_that_is_said_to_hold_another_base_is_read_and_put_right() -> None:
    """The wrong base: nothing of what is there is trusted."""
    store = Store()
    source = Source(store)
    source.capture((0, b"words" * 99))
    chain = source.capture((9, b"others"))
    standing = Bytes(random.Random(5).randbytes(SIZE))
    moved(chain, store, standing, Known("a delta of another chain"))
    assert standing.content == source.states[-1]


def changed_pack(store: Store) -> None:
    name = "hlr/protect-1/d0/pack-00000"
    data = bytearray(store.held[name])
    data[3] ^= 1
    store.held[name] = bytes(data)


def lost_pack(store: Store) -> None:
    del store.held["hlr/protect-1/d0/pack-00000"]


def lost_base(store: Store) -> None:
    for name in [n for n in store.held if "/d0/" in n]:
        del store.held[name]


def exchanged_index(store: Store) -> None:
    store.held[f"hlr/protect-1/d1/{INDEX}"] = store.held[f"hlr/protect-1/d0/{INDEX}"]


@pytest.mark.parametrize("deed", [changed_pack, lost_pack, lost_base, exchanged_index])
def test_a_stream_that_is_not_as_it_was_sealed_writes_nothing(
    deed: Callable[[Store], None],
) -> None:
    store = Store()
    source = Source(store)
    source.capture((0, b"words" * 99))
    chain = source.capture((9, b"others"))
    deed(store)
    standing = Bytes(bytes(SIZE))
    with pytest.raises(RecoveryPointInvalid):
        moved(chain, store, standing)
    assert standing.writes == []


@pytest.mark.parametrize("deed", [changed_pack, lost_pack, lost_base, exchanged_index])
def test_a_deep_verification_finds_what_is_not_as_it_was_captured(
    deed: Callable[[Store], None],
) -> None:
    store = Store()
    source = Source(store)
    source.capture((0, b"words" * 99))
    chain = source.capture((9, b"others"))
    of_stream = ChangeStream(volume_id="v", gib=1, deltas=list(chain))
    recovery, volume = (
        cast(Any, SimpleNamespace(go_on=lambda: None)),
        cast(Any, SimpleNamespace(label="root")),
    )
    assert PROVIDER.unprovable(of_stream) is None
    found = PROVIDER.prove(recovery, volume, of_stream, cast(Any, store))
    assert (found.ok, found.bytes) == (True, 99 * 5 + 6)
    deed(store)
    assert not PROVIDER.prove(recovery, volume, of_stream, cast(Any, store)).ok


def test_a_pack_that_changes_after_it_was_listed_is_found_by_a_deep_verification() -> None:
    store = Store()
    chain = Source(store).capture((0, b"words" * 99))
    stream = read_stream(chain, store)
    changed_pack(store)
    with pytest.raises(RecoveryPointInvalid):
        prove_stream(stream, store)


def test_a_pack_that_changes_after_it_was_verified_is_refused_before_it_is_written() -> None:
    store = Store()
    source = Source(store)
    chain = source.capture((0, b"words" * 99))
    stream, standing = read_stream(chain, store), Bytes(bytes(SIZE))
    changed_pack(store)
    with pytest.raises(RecoveryPointInvalid):
        move_to_delta(stream, standing, store, Known(is_new=True))
    assert standing.writes == []


def test_a_delta_without_the_one_below_it_is_no_chain() -> None:
    store = Store()
    source = Source(store)
    source.capture((0, b"words"))
    chain = source.capture((9, b"others"))
    for wrong in (chain[1:], [chain[1], chain[0]]):
        with pytest.raises(AntipodeError) as caught:
            read_stream(wrong, store)
        assert caught.value.code == "recovery-point-invalid"


def test_a_volume_that_is_taken_is_written_no_further() -> None:
    store = Store()
    source = Source(store)
    chain = source.capture((0, b"words"), (4 * GRAIN, b"others"))
    standing, asked = Bytes(bytes(SIZE)), 0

    def may_write() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise VolumeTaken("it was taken")

    with pytest.raises(VolumeTaken):
        move_to_delta(read_stream(chain, store), standing, store, Known(is_new=True), may_write)
    assert len(standing.writes) == 1


def test_a_volume_that_is_too_small_is_refused() -> None:
    store = Store()
    chain = Source(store).capture((0, b"words"))
    with pytest.raises(ResourceFailed):
        moved(chain, store, Bytes(bytes(SIZE - 1)))


def test_no_more_is_held_than_the_mover_may_hold_and_all_of_it_is_given_back() -> None:
    store = Store()
    source = Source(store)
    chosen = random.Random(1)
    chain = source.capture(*[(at, chosen.randbytes(4 << 10)) for at in range(0, SIZE, 4 << 10)])
    stream, budget = read_stream(chain, store), Budget(12 << 10)
    new = Bytes(bytes(SIZE))
    move_to_delta(stream, new, store, Known(is_new=True), budget=budget)
    assert new.content == source.states[-1]
    assert (budget.held, budget.highest <= 12 << 10) == (0, True)
    last = sorted(n for n in store.held if "pack-" in n)[-1]
    del store.held[last]
    with pytest.raises(RecoveryPointInvalid):
        move_to_delta(stream, Bytes(bytes(SIZE)), store, Known(is_new=True), budget=budget)
    assert budget.held == 0
