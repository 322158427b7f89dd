# SPDX-License-Identifier: Apache-2.0
"""How long recoveries take that share the restores of sites: a simulation of what a failover does,
in the order in which it does it, from how long each part takes.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple


@dataclass(frozen=True)
class ServerWork:
    """What the recovery of one server takes, in seconds."""

    name: str
    imports_s: float
    """of the records of its backups, before its volumes"""
    volumes_s: Sequence[float]
    """of each volume, once it has its turn at the site"""
    ports_s: float
    compares_s: float
    """of its content, in a drill: one server after another"""
    boot_s: float
    answers_s: float
    after: Sequence[str] = ()
    """the servers that answer before it is booted"""


@dataclass(frozen=True)
class VnfWork:
    """What the recovery of a VNF takes, in seconds."""

    vnf: str
    servers: Sequence[ServerWork]
    before_s: float = 0.0
    """from its begin to its first volume"""
    after_s: float = 0.0
    """from its last answer to its end"""
    site: str = ""
    """where it is recovered"""


@dataclass(frozen=True)
class Batch:
    """VNFs of which so many are recovered at once; the next batch begins when all are done."""

    vnfs: Sequence[VnfWork]
    at_once: int


class Span(NamedTuple):
    """When a recovery begins and ends, in seconds after the begin of all."""

    begins_s: float
    ends_s: float


def simulate(batches: Sequence[Batch], restores: int) -> dict[str, Span]:
    """When each VNF begins to be recovered, and is back.

    Args:
        restores: volumes that are restored at once at each site.
    """
    return _Simulation(restores).all_of(batches)


class _Simulation:
    def __init__(self, restores: int) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._free = defaultdict[str, int](lambda: restores)
        """by site"""
        self._waiting: list[tuple[VnfWork, int, int, float, Callable[[], None]]] = []
        self._held: Counter[str] = Counter()

    def all_of(self, batches: Sequence[Batch]) -> dict[str, Span]:
        spans: dict[str, Span] = {}
        for batch in batches:
            waiting = deque(batch.vnfs)

            def begin(queue: deque[VnfWork] = waiting) -> None:
                if queue:
                    work, began = queue.popleft(), self.now

                    def ended() -> None:
                        spans[work.vnf] = Span(began, self.now)
                        begin(queue)

                    _Recovering(self, work, ended)

            for _ in range(batch.at_once):
                begin()
            while self._events:
                self.now, _, action = heapq.heappop(self._events)
                action()
        return spans

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def restore(self, of: VnfWork, place: int, seconds: float, done: Callable[[], None]) -> None:
        """Restore a volume, once it is its turn: that of the VNF that holds fewest, and in it of
        the server that boots first.
        """
        self._waiting.append((of, place, next(self._order), seconds, done))
        self._grant(of.site)

    def _grant(self, site: str) -> None:
        while self._free[site]:
            here = [w for w in self._waiting if w[0].site == site]
            if not here:
                return
            first = min(here, key=lambda w: (self._held[w[0].vnf], w[1], w[2]))
            self._waiting.remove(first)
            self._free[site] -= 1
            self._held[first[0].vnf] += 1

            def over(vnf: str = first[0].vnf, done: Callable[[], None] = first[4]) -> None:
                self._free[site] += 1
                self._held[vnf] -= 1
                done()
                self._grant(site)

            self.after(first[3], over)


class _Recovering:
    """One VNF that is being recovered."""

    def __init__(self, world: _Simulation, work: VnfWork, ended: Callable[[], None]) -> None:
        self._world = world
        self._work = work
        self._ended = ended
        self._servers: Mapping[str, ServerWork] = {s.name: s for s in work.servers}
        self._lacking = {s.name: len(s.volumes_s) + 1 for s in work.servers}  # its ports, too
        self._compares = any(s.compares_s for s in work.servers)
        self._to_compare = deque(work.servers)
        self._is_comparing = False
        self._ready: set[str] = set()
        self._there: set[str] = set()
        self._booted: set[str] = set()
        self._answered: set[str] = set()
        world.after(work.before_s, self._begin)

    def _begin(self) -> None:
        if not self._servers:
            self._world.after(self._work.after_s, self._ended)
        for server in self._work.servers:
            self._world.after(server.ports_s, partial(self._has_one_more, server))
            self._world.after(server.imports_s, partial(self._restore, server))

    def _restore(self, server: ServerWork) -> None:
        place = len(self._all_before(server.name, set()))
        for seconds in server.volumes_s:
            self._world.restore(self._work, place, seconds, lambda: self._has_one_more(server))

    def _all_before(self, name: str, found: set[str]) -> set[str]:
        for other in self._servers[name].after:
            if other not in found:
                found.add(other)
                self._all_before(other, found)
        return found

    def _has_one_more(self, server: ServerWork) -> None:
        self._lacking[server.name] -= 1
        if self._lacking[server.name]:
            return
        self._there.add(server.name)
        if self._compares:
            self._compare_next()
        else:
            self._is_ready(server.name)

    def _compare_next(self) -> None:
        """Compare the content of servers one after another, in their order."""
        if self._is_comparing or not self._to_compare:
            return
        server = self._to_compare[0]
        if server.name in self._there:
            self._is_comparing = True
            self._world.after(server.compares_s, self._has_compared)

    def _has_compared(self) -> None:
        self._is_comparing = False
        self._is_ready(self._to_compare.popleft().name)
        self._compare_next()

    def _is_ready(self, server: str) -> None:
        self._ready.add(server)
        self._boot()

    def _boot(self) -> None:
        for server in self._work.servers:
            may_boot = server.name in self._ready and server.name not in self._booted
            if may_boot and self._answered.issuperset(server.after):
                self._booted.add(server.name)
                answers_s = server.boot_s + server.answers_s
                self._world.after(answers_s, partial(self._has_answered, server.name))

    def _has_answered(self, server: str) -> None:
        self._answered.add(server)
        if len(self._answered) == len(self._servers):
            self._world.after(self._work.after_s, self._ended)
        self._boot()
