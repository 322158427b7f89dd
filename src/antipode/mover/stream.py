# SPDX-License-Identifier: Apache-2.0
"""Brings an attached volume to a delta of a change stream: what later deltas have is fetched,
verified and written, or all that the volume does not hold.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from antipode.change_stream import (
    INDEX,
    Damaged,
    Extent,
    Index,
    Piece,
    check_pack,
    layers,
    parse_index,
    see_chain,
    unpack,
)
from antipode.errors import NotFound, RecoveryPointInvalid, ResourceFailed
from antipode.model.source import Delta
from antipode.mover.budget import Budget
from antipode.mover.move import READ_BYTES, Moved
from antipode.mover.target import Target
from antipode.vault.verify import Store, verify_delta

PACKS_AHEAD = 2
"""Packs that are fetched at once; each may have 32 MiB."""
ZEROED_AT_ONCE = 256 << 20
"""Bytes of zeros, before it is asked again whether the volume is still ours."""
_NOTHING = bytes(READ_BYTES)


@dataclass(frozen=True)
class Streamed:
    """A chain of deltas that was found whole, and unchanged since its recovery point was made."""

    deltas: Sequence[Delta]
    """base first"""
    indexes: Sequence[Index]

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self.indexes[-1].size


@dataclass(frozen=True)
class Known:
    """What is known of a volume's content."""

    holds: str | None = None
    """a delta; None: nothing is known"""
    reads: bool = False
    """whether the volume is read even so"""
    is_new: bool = False
    """it was just made: it holds zeros, which is looked at"""


@dataclass
class _Done:
    """What was written, to be read again."""

    pieces: list[tuple[int, int, str | None]] = field(default_factory=list)
    """offset, length, digest; None: zeros"""
    packs: int = 0
    fetched: int = 0


@dataclass(frozen=True)
class _Source:
    """Where packs come from, and how many of their bytes may be held."""

    store: Store
    budget: Budget


def read_stream(deltas: Sequence[Delta], store: Store) -> Streamed:
    """Find a chain whole in the store; the indexes are read, but none of the data.

    Args:
        deltas: base first.

    Raises:
        RecoveryPointInvalid: an object is missing or changed, or a delta does not rest on the one
            below it.
        AntipodeError: the store does not answer.
    """
    indexes: list[Index] = []
    for delta in deltas:
        finding = verify_delta(delta.id, delta, store)
        if not finding.ok:
            raise RecoveryPointInvalid(finding.detail)
        document = _object(store, delta, INDEX)
        if hashlib.sha256(document).hexdigest() != delta.sha256:
            raise RecoveryPointInvalid(
                f"the index of delta {delta.id} is not the one that its recovery point names"
            )
        with _as_ours():
            index = parse_index(document, f"{delta.prefix}/{INDEX}")
        if index.delta != delta.id:
            raise RecoveryPointInvalid(f"the index of delta {delta.id} is of {index.delta}")
        indexes.append(index)
    with _as_ours():
        see_chain(indexes)
    return Streamed(deltas, indexes)


def prove_stream(chain: Streamed, store: Store, go_on: Callable[[], None] = lambda: None) -> int:
    """Compare all that a chain has with what was captured; the bytes of volumes that were compared.
    One pack is held at a time.

    Args:
        go_on: called before each pack; what it raises ends the proof.

    Raises:
        RecoveryPointInvalid: an object is gone, or holds other bytes.
        AntipodeError: the store does not answer.
    """
    compared = 0
    for layer, index in enumerate(chain.indexes):
        extents = sorted(index.extents, key=lambda e: e.pack)
        for number, of_pack in groupby(extents, key=lambda e: e.pack):
            go_on()
            pack = _pack(chain, layer, number, store)
            for extent in of_pack:
                with _as_ours():
                    compared += len(unpack(pack, extent))
    return compared


def move_to_delta(
    chain: Streamed,
    target: Target,
    store: Store,
    known: Known = Known(),
    may_write: Callable[[], None] = lambda: None,
    budget: Budget | None = None,
) -> tuple[Moved, int]:
    """Bring a volume to the last delta of a chain, and see that it is there; and how many pieces
    held something else than was known of them.

    It may be called again, whatever an earlier call has left.

    Args:
        may_write: asked before each piece that is written, and before the end; raises when the
            volume is not ours any more.
        budget: of the bytes of objects that are held at once.

    Raises:
        RecoveryPointInvalid: an object is missing or holds other bytes than were captured; the
            volume may hold a mixture then.
        ResourceFailed: the volume is too small, or does not hold what was written.
    """
    if target.size < chain.size:
        raise ResourceFailed(
            f"the volume has {target.size} bytes, and delta {chain.deltas[-1].id} {chain.size}"
        )
    with _as_ours():
        whole = layers(chain.indexes)
    pieces, foreign = _wanted(whole, chain, target, known)
    done, zeroed = _Done(), 0
    for piece in pieces:
        if piece.extent is None:
            for at in range(piece.offset, piece.end, ZEROED_AT_ONCE):
                may_write()
                target.zero(at, min(ZEROED_AT_ONCE, piece.end - at))
            done.pieces.append((piece.offset, piece.length, None))
            zeroed += piece.length
    written = 0
    of_data = [p for p in pieces if p.extent is not None]
    with closing(_data(chain, of_data, _Source(store, budget or Budget()), done)) as found:
        for piece, data in found:
            may_write()
            target.write(piece.offset, data)
            done.pieces.append((piece.offset, len(data), hashlib.sha256(data).hexdigest()))
            written += len(data)
    target.flush()
    for offset, length, digest in done.pieces:
        if not _holds(target, offset, length, digest):
            raise ResourceFailed(f"the volume does not hold what was written at byte {offset}")
    may_write()
    of_volume = sum(p.length for p in whole if p.extent is not None)
    moved = Moved(len(done.pieces), done.packs, done.fetched, written, zeroed, of_volume)
    return moved, foreign


def _wanted(
    pieces: Sequence[Piece], chain: Streamed, target: Target, known: Known
) -> tuple[list[Piece], int]:
    """The pieces of a volume that are to be written; and those that are not as they should be, and
    were not known to be so.
    """
    if known.is_new:
        return [p for p in pieces if p.extent is not None or not _is_there(target, p)], 0
    held = next((n for n, d in enumerate(chain.deltas) if d.id == known.holds), None)
    if held is not None and not known.reads:
        return [p for p in pieces if p.layer > held], 0
    found = [p for p in pieces if not _is_there(target, p)]
    strange = 0 if held is None else sum(p.layer <= held and _is_certain(p) for p in found)
    return found, strange


def _is_certain(piece: Piece) -> bool:
    """Whether a look at the volume tells that it does not hold a piece."""
    return piece.extent is None or piece.is_whole


def _is_there(target: Target, piece: Piece) -> bool:
    """Whether the volume holds a piece for certain; of a part of an extent there is no digest."""
    if piece.extent is None:
        return _holds(target, piece.offset, piece.length, None)
    return piece.is_whole and _holds(target, piece.offset, piece.length, piece.extent.sha256)


def _holds(target: Target, offset: int, length: int, digest: str | None) -> bool:
    """Whether a range has this digest; None: zeros."""
    if digest is None and target.is_known_as_zeros(offset, length):
        return True
    found = hashlib.sha256()
    for at in range(offset, offset + length, READ_BYTES):
        data = target.read(at, min(READ_BYTES, offset + length - at))
        if digest is None and bytes(data) != _NOTHING[: len(data)]:
            return False
        if digest is not None:
            found.update(data)
    return digest is None or found.hexdigest() == digest


def _data(
    chain: Streamed, pieces: Sequence[Piece], source: _Source, done: _Done
) -> Generator[tuple[Piece, bytes], None, None]:
    """The bytes of pieces, verified; each pack is fetched once, and few at a time."""
    of_packs = deque(
        (place, list(group)) for place, group in groupby(sorted(pieces, key=_place), key=_place)
    )
    under_way: deque[tuple[int, Future[bytes], list[Piece]]] = deque()
    budget = source.budget
    with ThreadPoolExecutor(PACKS_AHEAD, "fetch") as pool:
        try:
            while of_packs or under_way:
                while of_packs and len(under_way) < PACKS_AHEAD:
                    (layer, number), group = of_packs[0]
                    size = chain.indexes[layer].packs[number].bytes
                    if not budget.take(size, waits=not under_way):
                        break
                    got = pool.submit(_pack, chain, layer, number, source.store)
                    under_way.append((size, got, group))
                    of_packs.popleft()
                size, got, group = under_way[0]
                pack = got.result()
                done.packs, done.fetched = done.packs + 1, done.fetched + len(pack)
                yield from _plain(pack, group)
                under_way.popleft()
                budget.give(size)
        finally:
            for size, got, _ in under_way:
                got.cancel()
                budget.give(size)


def _extent(piece: Piece) -> Extent:
    assert piece.extent is not None  # of data
    return piece.extent


def _place(piece: Piece) -> tuple[int, int]:
    return piece.layer, _extent(piece).pack


def _plain(pack: bytes, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, bytes]]:
    """The bytes of the pieces of a pack. Those of one extent, of which later deltas leave many,
    follow each other: it is unpacked once.
    """
    for extent, parts in groupby(pieces, key=_extent):
        with _as_ours():
            whole = unpack(pack, extent)
        for piece in parts:
            begin = piece.offset - extent.offset
            yield piece, whole[begin : begin + piece.length]


def _pack(chain: Streamed, layer: int, number: int, store: Store) -> bytes:
    delta, pack = chain.deltas[layer], chain.indexes[layer].packs[number]
    with _as_ours():
        return check_pack(_object(store, delta, pack.name), pack)


def _object(store: Store, delta: Delta, name: str) -> bytes:
    try:
        return store.get(delta.container, f"{delta.prefix}/{name}")
    except NotFound as error:
        raise RecoveryPointInvalid(
            f"{delta.prefix}/{name} is not in container {delta.container}"
        ) from error


@contextmanager
def _as_ours() -> Iterator[None]:
    """What the reader refuses is an error of antipode."""
    try:
        yield
    except Damaged as error:
        raise RecoveryPointInvalid(str(error)) from error
