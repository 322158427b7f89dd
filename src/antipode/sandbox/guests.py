# SPDX-License-Identifier: Apache-2.0
"""The guests of an embedded site: simulated servers, of which those with the canary's user_data
write its records into their volumes.

A guest's disk has no file system: block 0 of the data volume is a header, the records follow it,
and far behind them is the content that `fill` has written. Nothing is synced, as the site's process
may be killed and its machine may not.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from antipode.sandbox import blocks
from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.records import RECORD, parse, written

LOG = logging.getLogger(__name__)

BOOTABLE = b"antipode guest 1\n"
"""The first bytes of a root volume."""
HEADER = re.compile(rb"antipode canary 1 boot=(\d{4})\n")
RECORDS_AT = 4096
RECORDS_END = 128 << 20
FILL_ROOM = 64 << 20


class GuestSilent(Exception):
    """A guest, or its agent, does not answer."""


class GuestFrozen(Exception):
    """A guest's agent refuses a freeze, as its file systems are frozen already."""


@dataclass
class Disks:
    """The volumes of a server, root first, each with the lock that a writer of its bytes holds."""

    find: Callable[[], list[Path]]
    """where they are now: the storage may move a volume while its server runs"""
    locks: list[asyncio.Lock]

    @property
    def paths(self) -> list[Path]:
        return self.find()


@dataclass
class Machine:
    """The hardware that a guest finds when it starts."""

    server_id: str
    name: str
    user_data: str | None
    """base64; None without config drive"""
    disks: Disks
    addresses: Callable[[], list[tuple[str, str]]]
    """(network, address) of each interface whose port is up now"""


@dataclass
class Canary:
    """A canary member's identity, from its user_data and its data volume."""

    role: str
    http: int
    peer: int | None
    upstream: tuple[str, int] | None
    period_s: float | None
    boot: int = 0
    last: int = 0
    found: int = 0
    torn: int = 0
    written_ms: int = 0
    state: str = "starting"


@dataclass
class Guest:
    """One running server."""

    machine: Machine
    console: list[str] = field(default_factory=list)
    up: bool = False
    canary: Canary | None = None
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    agent: asyncio.Lock = field(default_factory=asyncio.Lock)
    """held while its agent carries out a command: it takes one at a time"""
    task: asyncio.Task[None] | None = None

    @property
    def data(self) -> Path:
        return self.machine.disks.paths[1]

    async def write(self, offset: int, content: bytes) -> None:
        """Write to the data volume; waits while the guest's file systems are frozen, and while a
        picture of the volume is taken.
        """
        lock = self.machine.disks.locks[1]
        while True:
            await self.thawed.wait()
            async with lock:
                if self.thawed.is_set():  # it may have been frozen while the lock was waited for
                    blocks.write(self.data, offset, content)
                    return


class Hypervisor:
    """All guests of a site."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._guests: dict[str, Guest] = {}
        self.stills: list[dict[str, int]] = []
        """role -> last durable record, at each moment when the last member of the canary froze: an
        observer that looks too seldom would miss it
        """

    def start(self, machine: Machine) -> None:
        """Power a server on."""
        self.stop(machine.server_id)
        guest = Guest(machine)
        guest.thawed.set()
        self._guests[machine.server_id] = guest
        guest.task = asyncio.ensure_future(self._run(guest))

    def stop(self, server_id: str) -> None:
        """Power a server off, at once."""
        guest = self._guests.pop(server_id, None)
        if guest and guest.task:
            guest.task.cancel()

    def freeze(self, server_id: str) -> None:
        """Have the guest's agent freeze its file systems.

        Raises:
            GuestSilent: the agent does not answer, because the guest is not up (yet).
            GuestFrozen: it is frozen already.
        """
        guest = self._agent(server_id)
        if not guest.thawed.is_set():
            raise GuestFrozen("The command has been disabled: the agent is in frozen state")
        guest.thawed.clear()
        members = [(g.canary, g.thawed) for g in self._guests.values() if g.canary]
        if members and not any(thawed.is_set() for _, thawed in members):
            self.stills.append({canary.role: canary.last for canary, _ in members})

    def thaw(self, server_id: str) -> None:
        """Have the guest's agent thaw its file systems; errors as for `freeze`."""
        self._agent(server_id).thawed.set()

    def is_frozen(self, server_id: str) -> bool:
        guest = self._guests.get(server_id)
        return guest is not None and not guest.thawed.is_set()

    def agent_of(self, server_id: str) -> AbstractAsyncContextManager[None]:
        """Entered while a command of a guest's agent is under way; the next one waits."""
        guest = self._guests.get(server_id)
        return guest.agent if guest else nullcontext()

    def _agent(self, server_id: str) -> Guest:
        guest = self._guests.get(server_id)
        if guest is None or not guest.up:
            raise GuestSilent("Guest agent is not responding: QEMU guest agent is not connected")
        return guest

    def console(self, server_id: str) -> str:
        guest = self._guests.get(server_id)
        return "\n".join(guest.console) + "\n" if guest else ""

    def seen(self) -> list[dict[str, object]]:
        """All guests at this moment, seen beside OpenStack."""
        return [
            {
                "server": guest.machine.name,
                "id": guest.machine.server_id,
                "frozen": not guest.thawed.is_set(),
                "role": guest.canary.role if guest.canary else None,
                "durable": guest.canary.last if guest.canary else None,
                "boot": guest.canary.boot if guest.canary else None,
            }
            for guest in self._guests.values()
        ]

    async def answer(
        self,
        address: str,
        port: int,
        query: Mapping[str, str],
        is_reached: Callable[[str], bool],
    ) -> str:
        """What a guest says on one of its addresses; with `mib` and `seed` in the query it first
        writes so much.

        Args:
            is_reached: whether a network, by its id, is reached from outside the site.

        Raises:
            GuestSilent: no guest listens there, or nothing leads there.
        """
        for guest in self._guests.values():
            canary = guest.canary
            if (
                canary
                and canary.http == port
                and any(a == address and is_reached(n) for n, a in guest.machine.addresses())
            ):
                if "mib" in query:
                    await self._fill(guest, int(query["mib"]), int(query.get("seed", 1)))
                return json.dumps(
                    {
                        "role": canary.role,
                        "durable": canary.last,
                        "found": canary.found,
                        "boot": canary.boot,
                        "torn": canary.torn,
                        "ms": canary.written_ms,
                        "state": canary.state,
                    }
                )
        raise GuestSilent(f"connect to {address}:{port}: No route to host")

    async def _fill(self, guest: Guest, mib: int, seed: int) -> None:
        """Write pseudo-random data, so that backups have something to carry."""
        source = random.Random(seed)
        begin = RECORDS_END + seed * FILL_ROOM
        for number in range(min(mib << 20, FILL_ROOM) >> 20):
            await guest.write(begin + (number << 20), source.randbytes(1 << 20))

    # ---- the life of a guest ----

    async def _run(self, guest: Guest) -> None:
        try:
            await self._conditions.take("guest.boot")
        except OperationFailed as error:
            guest.console.append(f"kernel panic: {error}")
            return
        with guest.machine.disks.paths[0].open("rb") as root:
            if root.read(len(BOOTABLE)) != BOOTABLE:
                guest.console.append("No bootable device.")
                return
        guest.up = True
        try:
            guest.canary = _configured(guest)
        except (ValueError, KeyError) as error:
            guest.console.append(f"canary: not started: {error}")
            return
        if guest.canary is None:
            guest.console.append("canary: not started: the config drive has no user_data")
            return
        await self._mount(guest, guest.canary)
        if guest.canary.period_s is not None:
            await self._lead(guest, guest.canary)

    async def _mount(self, guest: Guest, canary: Canary) -> None:
        """Find what is on the data volume, cut a torn tail, count this start."""
        content = records_of(guest.data, missing_ok=True)
        header = HEADER.match(_head(guest.data))
        canary.boot = int(header[1]) + 1 if header else 1
        whole = list(parse(content))
        while whole and whole[-1] is None:
            whole.pop()
            canary.torn += 1
        canary.last = canary.found = max((r.number for r in whole if r), default=0)
        await guest.write(
            0, (b"antipode canary 1 boot=%04d\n" % canary.boot).ljust(RECORDS_AT, b"\0")
        )
        if canary.torn:
            await guest.write(RECORDS_AT + len(whole) * RECORD, bytes(canary.torn * RECORD))
        guest.console.append(
            f"canary: {canary.role} started, boot {canary.boot}, {canary.found} records found"
        )

    async def _lead(self, guest: Guest, canary: Canary) -> None:
        """The head of the chain: a record each period, for ever."""
        while True:
            await asyncio.sleep(canary.period_s or 0)
            await self._put(guest, canary, canary.last + 1, time.time_ns() // 1000)

    async def _put(self, guest: Guest, canary: Canary, number: int, made_us: int) -> int | None:
        """Make a record durable at those behind this member, then here; the moment it was made, or
        None when it is not durable.
        """
        async with guest.turn:
            if number <= canary.last:
                return _made(guest.data, number)
            if number > canary.last + 1:
                return None
            if canary.upstream:
                behind = self._peer(guest, *canary.upstream)
                if behind is None:
                    canary.state = "waiting"
                    return None
                assert behind.canary is not None
                made = await self._put(behind, behind.canary, number, made_us)
                if made is None:
                    canary.state = "broken" if number > behind.canary.last + 1 else "waiting"
                    return None
                made_us = made
            now_ms = time.time_ns() // 1_000_000
            await guest.write(
                RECORDS_AT + (number - 1) * RECORD,
                written(number, canary.role, canary.boot, now_ms, made_us),
            )
            canary.last, canary.written_ms, canary.state = number, now_ms, "ok"
            return made_us

    def _peer(self, guest: Guest, address: str, port: int) -> Guest | None:
        """The guest that listens on that address of one of this guest's networks."""
        networks = {network for network, _ in guest.machine.addresses()}
        for other in self._guests.values():
            if (
                other.canary
                and other.canary.peer == port
                and any((n, address) in other.machine.addresses() for n in networks)
            ):
                return other
        return None


def _configured(guest: Guest) -> Canary | None:
    if guest.machine.user_data is None:
        return None
    lines = base64.b64decode(guest.machine.user_data).decode().splitlines()
    given = dict(line.split("=", 1) for line in lines if line)
    upstream = given["next"].rsplit(":", 1) if "next" in given else None
    if len(guest.machine.disks.paths) < 2:
        raise ValueError("there is no data volume")
    if _head(guest.data).strip(b"\0") and not HEADER.match(_head(guest.data)):
        raise ValueError("the data volume is neither empty nor the canary's")
    return Canary(
        role=given["role"],
        http=int(given["http"]),
        peer=int(given["peer"]) if "peer" in given else None,
        upstream=(upstream[0], int(upstream[1])) if upstream else None,
        period_s=int(given["period_ms"]) / 1000 if "period_ms" in given else None,
    )


def _head(volume: Path) -> bytes:
    with volume.open("rb") as file:
        return file.read(64)


def _made(volume: Path, number: int) -> int | None:
    with volume.open("rb") as file:
        file.seek(RECORDS_AT + (number - 1) * RECORD)
        record = next(parse(file.read(RECORD)), None)
    return record.made_us if record else None


def records_of(volume: Path, *, missing_ok: bool = False) -> bytes:
    """The records on a data volume, from the first to the last that is not all zeros; records
    that are missing in between are torn.

    Raises:
        ValueError: it is no data volume of the canary.
    """
    if not HEADER.match(_head(volume)):
        if missing_ok:
            return b""
        raise ValueError(f"{volume} is no data volume of the canary")
    with volume.open("rb") as file:
        ends = [
            e.offset + e.length for e in blocks.extents(file.fileno()) if e.offset < RECORDS_END
        ]
        content = (
            os.pread(file.fileno(), min(max(ends), RECORDS_END) - RECORDS_AT, RECORDS_AT)
            if ends
            else b""
        )
    used = len(content.rstrip(b"\0"))
    return content[: -(-used // RECORD) * RECORD]
