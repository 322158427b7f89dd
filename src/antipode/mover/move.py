# SPDX-License-Identifier: Apache-2.0
"""Brings an attached volume to what a chain of backups stands for: the blocks that differ are
fetched, verified and written, each from the one object that has its newest bytes.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from antipode.errors import RecoveryPointInvalid, ResourceFailed
from antipode.mover.chain import Chain, Part, fetch
from antipode.mover.target import Target
from antipode.vault.digests import SHA256_BYTES, Digests
from antipode.vault.verify import Store

FETCHED_AHEAD = 8
"""Objects at once: what an increment of many small objects costs is the way to the store."""
AHEAD_BYTES = 64 << 20
"""Bytes of the volume in objects that are fetched ahead, which bounds the memory of the mover."""
READ_BYTES = 4 << 20
"""Bytes that are read of a volume at once."""


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


@dataclass(frozen=True)
class Wish:
    """To what a volume is to be brought, and what is known of it."""

    chain: Chain
    holds: Digests | None = None
    """of what the volume holds; None: nothing is known, and it is read"""
    is_new: bool = False
    """it was just made: its blocks are hardly those that are wanted, but zeros may be there"""


def move(
    wish: Wish, target: Target, store: Store, may_write: Callable[[], None] = lambda: None
) -> Moved:
    """Bring a volume to what a chain stands for, and see that it is there.

    It may be called again, whatever an earlier call has left: each block gets its whole content at
    its own place. It is not over before the volume's cache is flushed and every written block was
    read again and found right.

    Args:
        may_write: asked before each object that is written, and before the end; raises when the
            volume is not ours any more.

    Raises:
        RecoveryPointInvalid: an object is missing or holds other bytes than were backed up; the
            volume may hold a mixture then.
        ResourceFailed: the volume is too small, or does not hold what was written.
    """
    chain = wish.chain
    if target.size < chain.size:
        raise ResourceFailed(
            f"the volume has {target.size} bytes, and backup {chain.backup} {chain.size}"
        )
    blocks = _differing(wish, target)
    zeros, data = _apart(chain, blocks)
    if wish.is_new:  # thick storage may have bytes of others there
        there = _read(target, chain.block, chain.size, zeros)
        # bytes are compared four times as fast as views of them
        zeros = [b for b, found in there if bytes(found) != _nothing(len(found))]
    for first, last in _runs(zeros):
        may_write()
        target.zero(first * chain.block, _end(chain, last) - first * chain.block)
    objects, fetched = 0, 0
    for part, plain, wanted in _fetched(chain, data, store):
        objects, fetched = objects + 1, fetched + part.stored
        _verify(chain, part, plain, wanted)
        may_write()
        for first, last in _runs(wanted):
            begin, end = first * chain.block, _end(chain, last)
            target.write(begin, plain[begin - part.offset : end - part.offset])
    target.flush()
    _read_again(chain, target, sorted([*zeros, *data]))
    may_write()
    return Moved(
        blocks=len(zeros) + len(data),
        objects=objects,
        fetched=fetched,
        written=sum(chain.length(b) for b in data),
        zeroed=sum(chain.length(b) for b in zeros),
    )


def digests_of(target: Target, block: int, size: int) -> Digests:
    """The digests of what a volume holds now: all of it is read.

    Args:
        block: bytes of a block.
        size: bytes of the volume that are read.
    """
    blocks = range(-(-size // block))
    found = (hashlib.sha256(data).digest() for _, data in _read(target, block, size, blocks))
    return Digests(block, b"".join(found))


def _differing(wish: Wish, target: Target) -> list[int]:
    """The numbers of the blocks that are to be written."""
    want, holds = wish.chain.digests, wish.holds
    if wish.is_new:
        return list(range(want.blocks))
    if holds is None or (holds.block, holds.blocks) != (want.block, want.blocks):
        holds = digests_of(target, want.block, wish.chain.size)
    return [at // want.block for at in want.differences(holds)]


def _apart(chain: Chain, blocks: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those of these blocks that are to be zeros, and the others."""
    kinds: tuple[list[int], list[int]] = ([], [])
    for block in blocks:
        is_data = _digest(chain.digests, block) != _zeros(chain.length(block))
        kinds[is_data].append(block)
    return kinds


def _fetched(
    chain: Chain, blocks: Sequence[int], store: Store
) -> Iterator[tuple[Part, bytes, list[int]]]:
    """The objects that have these blocks, with their bytes and which blocks are wanted of each;
    each object once.
    """
    by_place: dict[int, list[int]] = {}
    for block in blocks:
        by_place.setdefault(chain.newest[block], []).append(block)
    waiting = deque(sorted(by_place.items(), key=lambda item: item[1][0]))
    under_way: deque[tuple[Part, Future[bytes], list[int]]] = deque()
    with ThreadPoolExecutor(FETCHED_AHEAD, "fetch") as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < FETCHED_AHEAD:
                    part = chain.part_of(waiting[0][1][0])
                    ahead = sum(p.length for p, _, _ in under_way)
                    if under_way and ahead + part.length > AHEAD_BYTES:
                        break
                    wanted = waiting.popleft()[1]
                    under_way.append((part, pool.submit(fetch, part, store), wanted))
                part, found, wanted = under_way.popleft()
                yield part, found.result(), wanted
        finally:
            for _, found, _ in under_way:
                found.cancel()


def _verify(chain: Chain, part: Part, plain: bytes, blocks: Sequence[int]) -> None:
    for block in blocks:
        begin = block * chain.block - part.offset
        data = memoryview(plain)[begin : begin + chain.length(block)]
        if hashlib.sha256(data).digest() != _digest(chain.digests, block):
            raise RecoveryPointInvalid(
                f"{part.name} has other bytes than backup {chain.backup} has digests of, at byte"
                f" {block * chain.block} of the volume"
            )


def _read_again(chain: Chain, target: Target, blocks: Sequence[int]) -> None:
    for block, data in _read(target, chain.block, chain.size, blocks):
        if hashlib.sha256(data).digest() != _digest(chain.digests, block):
            raise ResourceFailed(
                f"the volume does not hold what was written at byte {block * chain.block}"
            )


def _read(
    target: Target, block: int, size: int, blocks: Sequence[int]
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of blocks of a volume, by their numbers; those that follow one another are read
    together.
    """
    at_once = max(1, READ_BYTES // block)
    for first, last in _runs(blocks):
        for begin in range(first, last + 1, at_once):
            end = min(begin + at_once, last + 1)
            offset = begin * block
            data = memoryview(target.read(offset, min(end * block, size) - offset))
            for number in range(begin, end):
                at = (number - begin) * block
                yield number, data[at : at + block]


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of blocks that follow one another."""
    for _, run in groupby(enumerate(blocks), key=lambda item: item[1] - item[0]):
        numbers = [block for _, block in run]
        yield numbers[0], numbers[-1]


def _end(chain: Chain, block: int) -> int:
    """The byte after a block."""
    return block * chain.block + chain.length(block)


def _digest(digests: Digests, block: int) -> bytes:
    return digests.sums[block * SHA256_BYTES : (block + 1) * SHA256_BYTES]


@lru_cache(4)
def _nothing(length: int) -> bytes:
    """So many zeros."""
    return bytes(length)


@lru_cache(4)
def _zeros(length: int) -> bytes:
    """The digest of so many zeros."""
    return hashlib.sha256(_nothing(length)).digest()
