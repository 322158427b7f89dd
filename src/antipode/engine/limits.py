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

Turn = Callable[[int], AbstractContextManager[int]]
"""By a number of volumes: a place, and how many of them may be moved at once."""

LOOK_S = 1.0
"""How often a waiting party checks whether its run must stop."""


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

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._holders: Counter[str] = Counter()

    @contextmanager
    def hold(self, party: Party) -> Iterator[None]:
        """Hold one slot while the block runs.

        Raises:
            ClaimLost: while waiting, the run stopped being this process's.
        """
        with self._changed:
            self._await_turn(party, lambda: 0 if self._holders.total() < self._size else math.inf)
            self._holders[party.vnf] += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders[party.vnf] -= 1
                self._changed.notify_all()

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
    """The limits of this process at all sites."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._slots: dict[tuple[str, str], Slots] = {}
        self._rates: dict[str, CallRate] = {}

    def restores(self, site: str, party: Party) -> SlotsOf:
        """The slots for volumes that are restored at a site."""
        return SlotsOf(self._of(site, "restores", self._settings.restores), party)

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

    def _of(self, site: str, kind: str, size: int) -> Slots:
        with self._lock:
            return self._slots.setdefault((site, kind), Slots(size))
