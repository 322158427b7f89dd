# SPDX-License-Identifier: Apache-2.0
"""Brings an attached volume to what a chain of backups stands for: the blocks that differ are
fetched, verified and written, each from the one object that has its newest bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from antipode.errors import RecoveryPointInvalid, ResourceFailed
from antipode.mover.budget import Budget
from antipode.mover.chain import Chain, Part, fetch
from antipode.mover.sums import Streamed, Sums
from antipode.mover.target import Target
from antipode.vault.compression import Packed
from antipode.vault.digests import SHA256_BYTES

FETCHED_AHEAD = 8
"""Objects at once: what an increment of many small objects costs is the way to the store."""
READ_BYTES = 4 << 20
"""Bytes that are read of a volume, or written, at once."""
ZEROED_BYTES = 64 << 20
"""Bytes that are made zeros at once: before them it is asked whether the volume is still ours."""
WINDOW = 1 << 14
"""Blocks whose digests are compared at once."""
KEPT, ZEROS, DATA, FETCHED, DONE = range(5)
"""What is to be done with a block, or was: a byte for each."""


@dataclass(frozen=True)
class Moved:
    """What it took to bring a volume to a backup."""

    blocks: int = 0
    """those that differed"""
    objects: int = 0
    fetched: int = 0
    """bytes as they are stored"""
    written: int = 0
    """bytes, without zeros"""
    zeroed: int = 0
    """bytes"""
    data: int = 0
    """bytes of the volume that are not zeros, in whole blocks"""


@dataclass(frozen=True)
class Wish:
    """To what a volume is to be brought, and what is known of it."""

    chain: Chain
    holds: Sums | None = None
    """of what the volume holds; None: nothing is known, and it is read"""
    is_new: bool = False
    """it was just made: its blocks are hardly those that are wanted, but zeros may be there"""
    reads: bool = False
    """it is read although it is known what it holds"""


@dataclass(frozen=True)
class Survey:
    """What is to be written into a volume."""

    chain: Chain
    blocks: bytearray
    """`KEPT`, `ZEROS` or `DATA` of each block"""
    foreign: int = 0
    """blocks that held something else than was known of them"""
    zeros: int = 0
    """blocks that are to be zeros, or are"""


def move(
    wish: Wish,
    target: Target,
    store: Streamed,
    may_write: Callable[[], None] = lambda: None,
    budget: Budget | None = None,
) -> Moved:
    """Bring a volume to what a chain stands for; as `survey`, then `write`."""
    return write(survey(wish, target), target, store, may_write, budget or Budget())


def survey(wish: Wish, target: Target) -> Survey:
    """Compare what a volume holds with what it is to hold. Of a new one only that is read which is
    to be zeros: thick storage may have bytes of others there.

    Raises:
        ResourceFailed: the volume is too small.
    """
    chain = wish.chain
    if target.size < chain.size:
        raise ResourceFailed(
            f"the volume has {target.size} bytes, and backup {chain.backup} {chain.size}"
        )
    known = wish.holds
    if known is not None and (known.block, known.blocks) != (chain.block, chain.sums.blocks):
        known = None  # the backups are of other settings, or of another size
    blocks, foreign, zeros = bytearray(chain.sums.blocks), 0, 0
    for first in range(0, len(blocks), WINDOW):
        end = min(first + WINDOW, len(blocks))
        want = chain.sums.between(first, end)
        zeros += want.count(_zeros(chain.block))
        if wish.is_new:
            _apart(blocks, chain, first, want)
            _spare_zeros(blocks, chain, first, end, target)
            continue
        if known is None or wish.reads:
            there = b"".join(
                hashlib.sha256(data).digest() for _, data in _read(target, chain, first, end)
            )
        else:
            there = known.between(first, end)
        if known is not None and wish.reads:
            foreign += _different(known.between(first, end), there)
        if want != there:
            _apart(blocks, chain, first, want, there)
    return Survey(chain, blocks, foreign, zeros)


def write(
    found: Survey,
    target: Target,
    store: Streamed,
    may_write: Callable[[], None],
    budget: Budget,
) -> Moved:
    """Write what differs, and see that it is there.

    It may be called again, whatever an earlier call has left: each block gets its whole content at
    its own place. It is not over before the volume's cache is flushed and every written block was
    read again and found right.

    Args:
        may_write: asked before each object that is written, and before the end; raises when the
            volume is not ours any more.
        budget: of the bytes of objects that are held at once.

    Raises:
        RecoveryPointInvalid: an object is missing or holds other bytes than were backed up; the
            volume may hold a mixture then.
        ResourceFailed: the volume does not hold what was written.
    """
    chain, blocks = found.chain, found.blocks
    zeroed = _zeroed(chain, blocks, target, may_write)
    objects, fetched, written = 0, 0, 0
    with closing(_fetched(chain, blocks, store, budget)) as of_objects:
        for part, plain, wanted in of_objects:
            objects, fetched = objects + 1, fetched + part.stored
            _verify(chain, part, plain, wanted)
            may_write()
            for first, end in wanted:
                written += _write(chain, target, part, plain, first, end)
                blocks[first:end] = bytes([DONE]) * (end - first)
    target.flush()
    _read_again(chain, target, blocks)
    may_write()
    data = max(chain.size - found.zeros * chain.block, 0)
    return Moved(blocks.count(DONE), objects, fetched, written, zeroed, data)


def _apart(
    blocks: bytearray, chain: Chain, begin: int, want: bytes, there: bytes | None = None
) -> None:
    """Note of the blocks from one on, whose digests these are, what is to be done with each that
    differs: whether it is to be zeros.
    """
    last, zeros = len(blocks) - 1, _zeros(chain.block)
    for at in range(0, len(want), SHA256_BYTES):
        digest = want[at : at + SHA256_BYTES]
        if there is not None and digest == there[at : at + SHA256_BYTES]:
            continue
        block = begin + at // SHA256_BYTES
        if block == last:
            zeros = _zeros(chain.end(block) - block * chain.block)
        blocks[block] = ZEROS if digest == zeros else DATA


def _spare_zeros(blocks: bytearray, chain: Chain, begin: int, end: int, target: Target) -> None:
    """Leave the blocks of a new volume that are zeros already."""
    for first, after in _runs(blocks, ZEROS, begin, end):
        offset = first * chain.block
        if target.is_known_as_zeros(offset, chain.end(after - 1) - offset):
            blocks[first:after] = bytes([KEPT]) * (after - first)
            continue
        for block, data in _read(target, chain, first, after):
            # bytes are compared four times as fast as views of them
            if bytes(data) == _nothing(len(data)):
                blocks[block] = KEPT


def _different(one: bytes, other: bytes) -> int:
    """How many digests differ."""
    places = range(0, len(one), SHA256_BYTES)
    if one == other:
        return 0
    return sum(one[at : at + SHA256_BYTES] != other[at : at + SHA256_BYTES] for at in places)


def _zeroed(chain: Chain, blocks: bytearray, target: Target, may_write: Callable[[], None]) -> int:
    """Have the blocks be zeros that are to be; bytes."""
    zeroed, at_once = 0, max(1, ZEROED_BYTES // chain.block)
    for first, end in _runs(blocks, ZEROS, 0, len(blocks)):
        for begin in range(first, end, at_once):
            after = min(begin + at_once, end)
            length = chain.end(after - 1) - begin * chain.block
            may_write()
            target.zero(begin * chain.block, length)
            blocks[begin:after] = bytes([DONE]) * (after - begin)
            zeroed += length
    return zeroed


class _Fetching(NamedTuple):
    part: Part
    bytes: Future[Packed]
    wanted: list[tuple[int, int]]


def _fetched(
    chain: Chain, blocks: bytearray, store: Streamed, budget: Budget
) -> Generator[tuple[Part, Packed, list[tuple[int, int]]], None, None]:
    """The objects that have the blocks to be written, the newest first, with their bytes and which
    blocks are wanted of each; each object once.
    """
    waiting = _wanted(chain, blocks)
    following = next(waiting, None)
    under_way: deque[_Fetching] = deque()

    def got(part: Part) -> Packed:
        try:
            return fetch(part, store)
        finally:
            budget.give(part.stored)

    with ThreadPoolExecutor(FETCHED_AHEAD, "fetch") as pool:
        try:
            while following is not None or under_way:
                while following is not None and len(under_way) < FETCHED_AHEAD:
                    part, wanted = following
                    if not budget.take(part.length + part.stored, waits=not under_way):
                        break
                    under_way.append(_Fetching(part, pool.submit(got, part), wanted))
                    following = next(waiting, None)
                first = under_way[0]
                yield first.part, first.bytes.result(), first.wanted
                under_way.popleft()
                budget.give(first.part.length)
        finally:
            for left in under_way:
                budget.give(left.part.length)
                if left.bytes.cancel():
                    budget.give(left.part.stored)


def _wanted(chain: Chain, blocks: bytearray) -> Iterator[tuple[Part, list[tuple[int, int]]]]:
    """The objects that have something of the blocks to be written, the newest backup first, so that
    each block is taken of the newest object that has it.
    """
    for layer in reversed(chain.layers):
        for place in range(len(layer)):
            begin, after = layer.span(place)
            first, end = begin // chain.block, -(-after // chain.block)
            if wanted := list(_runs(blocks, DATA, first, end)):
                for run, run_end in wanted:
                    blocks[run:run_end] = bytes([FETCHED]) * (run_end - run)
                yield layer.part(place), wanted


def _verify(chain: Chain, part: Part, plain: Packed, wanted: Sequence[tuple[int, int]]) -> None:
    view = memoryview(plain)
    for first, end in wanted:
        want = chain.sums.between(first, end)
        for block in range(first, end):
            begin = block * chain.block - part.offset
            data = view[begin : chain.end(block) - part.offset]
            if hashlib.sha256(data).digest() != _digest(want, block - first):
                raise RecoveryPointInvalid(
                    f"{part.name} has other bytes than backup {chain.backup} has digests of, at"
                    f" byte {block * chain.block} of the volume"
                )


def _write(chain: Chain, target: Target, part: Part, plain: Packed, first: int, end: int) -> int:
    """Write a run of blocks of an object; how many bytes."""
    view, last = memoryview(plain), chain.end(end - 1)
    for at in range(first * chain.block, last, READ_BYTES):
        after = min(at + READ_BYTES, last)
        target.write(at, bytes(view[at - part.offset : after - part.offset]))
    return last - first * chain.block


def _read_again(chain: Chain, target: Target, blocks: bytearray) -> None:
    for begin in range(0, len(blocks), WINDOW):
        until = min(begin + WINDOW, len(blocks))
        for first, end in _runs(blocks, DONE, begin, until):
            want = chain.sums.between(first, end)
            for block, data in _read(target, chain, first, end):
                if hashlib.sha256(data).digest() != _digest(want, block - first):
                    raise ResourceFailed(
                        f"the volume does not hold what was written at byte {block * chain.block}"
                    )


def _read(target: Target, chain: Chain, first: int, end: int) -> Iterator[tuple[int, memoryview]]:
    """The bytes of blocks of a volume, with their numbers; several are read together."""
    at_once = max(1, READ_BYTES // chain.block)
    for begin in range(first, end, at_once):
        after = min(begin + at_once, end)
        offset = begin * chain.block
        data = memoryview(target.read(offset, chain.end(after - 1) - offset))
        for number in range(begin, after):
            at = (number - begin) * chain.block
            yield number, data[at : at + chain.block]


def _runs(blocks: bytearray, kind: int, first: int, end: int) -> Iterator[tuple[int, int]]:
    """The runs of blocks of a kind: the first of each, and that after its last. What is done with a
    run that was given changes nothing for those that follow.
    """
    at = blocks.find(kind, first, end)
    while at >= 0:
        after = _RUNS[kind].match(blocks, at, end)
        assert after is not None  # it begins with one
        yield at, after.end()
        at = blocks.find(kind, after.end(), end)


_RUNS = [re.compile(re.escape(bytes([kind])) + b"+") for kind in range(5)]


def _digest(sums: bytes, place: int) -> bytes:
    return sums[place * SHA256_BYTES : (place + 1) * SHA256_BYTES]


@lru_cache(4)
def _nothing(length: int) -> bytes:
    """So many zeros."""
    return bytes(length)


@lru_cache(4)
def _zeros(length: int) -> bytes:
    """The digest of so many zeros."""
    return hashlib.sha256(_nothing(length)).digest()
