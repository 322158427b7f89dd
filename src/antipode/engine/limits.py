# SPDX-License-Identifier: Apache-2.0
"""How much is done at once: runs' restores, backups and API calls at each site, a failover's first,
then fairly between VNFs.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from antipode.config import Limits as Settings
from antipode.engine.shared_turns import SharedTurns
from antipode.store.turns import Asked

Turn = Callable[[int], AbstractContextManager[int]]
"""By a number of volumes: a place, and how many of them may be moved at once."""

LOOK_S = 1.0
"""How often a waiting party checks whether its run must stop, and asks whether other processes
leave it a turn.
"""


@dataclass(frozen=True)
class Party:
    """A run of a VNF that asks.

    `check` raises when the run must stop.
    """

    vnf: str
    priority: int
    """of the run; the lowest goes first"""
    check: Callable[[], None]
    place: int = 0
    """among the parties of one VNF: the lowest goes first"""
    run: str = ""
    claim: int = 0
    """of the run, by which other processes know whether it is still under way"""


Take = Callable[[Party], Callable[[], None] | None]
"""Takes a turn beside other processes: what ends it; None: it is not this party's turn yet."""


class _Turns:
    """Lets waiting parties through one by one: failovers first, the VNF that has least, the one
    served longest ago, the lowest place.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Party] = []
        self._served: dict[str, int] = {}
        self._turn = 0

    def _await_turn(self, party: Party, closed_for: Callable[[], float]) -> None:
        """Wait, with the lock held, until it is the party's turn and `closed_for()` (seconds, inf:
        until something changes) is over.
        """
        mine = replace(party)
        self._waiting.append(mine)
        try:
            while True:
                first = min(self._waiting, key=self._rank) is mine
                pause = closed_for() if first else math.inf
                if pause <= 0:
                    break
                self._changed.wait(min(pause, LOOK_S))
                mine.check()
            self._turn += 1
            self._served[party.vnf] = self._turn
        finally:
            self._waiting = [p for p in self._waiting if p is not mine]
            self._changed.notify_all()

    def _rank(self, party: Party) -> tuple[int, int, int, int]:
        served = self._served.get(party.vnf, 0)
        return (party.priority, self._held(party.vnf), served, party.place)

    def _held(self, vnf: str) -> int:
        return 0


class Slots(_Turns):
    """At most so many at once.

    One VNF with many volumes does not starve another with one: the one that holds fewest is next.
    """

    def __init__(self, size: int, take: Take | None = None) -> None:
        """
        Args:
            take: takes a turn beside other processes, where these count, too.
        """
        super().__init__()
        self._size = size
        self._take = take
        self._holders: Counter[str] = Counter()

    @contextmanager
    def hold(self, party: Party) -> Iterator[None]:
        """Hold one slot while the block runs.

        Raises:
            ClaimLost: while waiting, the run stopped being this process's.
        """
        leave: list[Callable[[], None]] = []
        with self._changed:
            self._await_turn(party, lambda: self._closed_for(party, leave))
            self._holders[party.vnf] += 1
        try:
            yield
        finally:
            for each in leave:
                each()
            with self._changed:
                self._holders[party.vnf] -= 1
                self._changed.notify_all()

    def _closed_for(self, party: Party, leave: list[Callable[[], None]]) -> float:
        """Seconds until the party asks again; 0 when it has its turn, of which `leave` then has the
        end.
        """
        if self._holders.total() >= self._size:
            return math.inf
        if self._take is None:
            return 0
        if (end := self._take(party)) is None:
            return LOOK_S
        leave.append(end)
        return 0

    @contextmanager
    def hold_some(self, party: Party, most: int) -> Iterator[int]:
        """Hold one slot, waited for, and of those that are free beside it up to `most`; how many.
        One stays free, so that another VNF begins at once.

        Raises:
            ClaimLost: while waiting, the run stopped being this process's.
        """
        with self.hold(party):
            with self._changed:
                spare = self._size - self._holders.total() - 1
                more = max(min(most - 1, spare), 0)
                self._holders[party.vnf] += more
            try:
                yield 1 + more
            finally:
                with self._changed:
                    self._holders[party.vnf] -= more
                    self._changed.notify_all()

    def _held(self, vnf: str) -> int:
        return self._holders[vnf]


class SlotsOf(AbstractContextManager[None]):
    """One run's way to slots; may be entered by several threads at once, as a semaphore may."""

    def __init__(self, slots: Slots, party: Party) -> None:
        self._slots = slots
        self._party = party
        self._held = threading.local()

    def at(self, place: int) -> SlotsOf:
        """The way to the same slots of the parties with this place among the run's own."""
        return SlotsOf(self._slots, replace(self._party, place=place))

    def hold(self) -> AbstractContextManager[None]:
        """One slot, waited for when it is entered; another thread may leave it."""
        return self._slots.hold(self._party)

    def __enter__(self) -> None:
        held = self.hold()
        held.__enter__()
        self._held.slot = held

    def __exit__(self, *error: object) -> None:
        self._held.slot.__exit__(None, None, None)


class CallRate(_Turns):
    """At most so many calls per second over any second or longer; a short burst is let through."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_second = per_second
        self._clock = clock
        self._next = clock()
        """the moment from which on a call is within the rate; it lies in the past by a second's
        worth of calls at most
        """

    def wait(self, party: Party) -> None:
        """Wait until a call may be sent."""
        with self._changed:
            self._await_turn(party, lambda: self._next - self._clock())
            self._sent()

    def sent(self) -> None:
        """A call that may not wait was sent: later ones wait for it."""
        with self._changed:
            self._sent()

    def _sent(self) -> None:
        self._next = max(self._next, self._clock() - 1) + 1 / self._per_second


@dataclass(frozen=True)
class RateOf:
    """One run's share of a rate of calls; satisfies `cloud.api.Rate`."""

    calls: CallRate
    party: Party

    def wait(self) -> None:
        self.calls.wait(self.party)

    def sent(self) -> None:
        self.calls.sent()


class Limits:
    """The limits at all sites: of this process, and of restores those of all processes."""

    def __init__(self, settings: Settings, shared: SharedTurns | None = None) -> None:
        """
        Args:
            shared: the turns that all processes of the database share.
        """
        self._settings = settings
        self._shared = shared
        self._lock = threading.Lock()
        self._slots: dict[tuple[str, str], Slots] = {}
        self._rates: dict[str, CallRate] = {}

    def restores(self, site: str, party: Party) -> SlotsOf:
        """The slots for volumes that are restored at a site, by all processes of the database."""
        size = self._settings.restores
        take = partial(self._take, site, "restores", size) if self._shared is not None else None
        return SlotsOf(self._of(site, "restores", size, take), party)

    def backups(self, site: str, party: Party) -> SlotsOf:
        """The slots for volumes that are backed up at a site."""
        return SlotsOf(self._of(site, "backups", self._settings.backups), party)

    def moves(self, site: str, party: Party, at_once: int, *, urgent: bool) -> Turn:
        """The turns for volumes that the mover writes at a site.

        Args:
            at_once: volumes at the site.
            urgent: of failovers, which have as many of their own: they wait for no copy into the
                standing volumes of others.
        """
        slots = self._of(site, "urgent moves" if urgent else "moves", at_once)
        return partial(slots.hold_some, party)

    def calls(self, site: str, party: Party) -> RateOf | None:
        """The rate of a run's calls to a site; None when it is not limited."""
        if (per_second := self._settings.api_calls_per_second) is None:
            return None
        with self._lock:
            return RateOf(self._rates.setdefault(site, CallRate(per_second)), party)

    def _take(self, site: str, kind: str, size: int, party: Party) -> Callable[[], None] | None:
        assert self._shared is not None
        asked = Asked(site, kind, party.vnf, party.run, party.claim, party.priority, party.place)
        return self._shared.take(asked, size)

    def _of(self, site: str, kind: str, size: int, take: Take | None = None) -> Slots:
        with self._lock:
            return self._slots.setdefault((site, kind), Slots(size, take))
