# SPDX-License-Identifier: Apache-2.0
"""What became of each slot of the week, and why those were missed that have no run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from antipode.model.schedule import Schedule
from antipode.store.tables import RunRow

FULL = "its protection waited for a place: the hosts alive did as many as they may"
KILLED = "its protection was resumed after its host was killed"
UNEXPLAINED = "unexplained"


@dataclass
class Protection:
    """A run that was begun for a slot."""

    run: str
    slot: float
    queued_at: float
    begun_at: float | None
    """of its first step"""
    ended_at: float | None
    state: str
    claims: int


@dataclass(frozen=True)
class Moment:
    """How busy the hosts were after one step of the clock."""

    at: float
    protects: int
    places: int
    """of the hosts alive"""
    is_disturbed: bool
    """whether a host was killed or revived in it"""

    @property
    def is_full(self) -> bool:
        return self.is_disturbed or self.protects >= self.places


@dataclass(frozen=True)
class Sums:
    due: int
    made: int
    made_twice: list[str]
    missed: dict[str, int]
    """slots by the reason why they have no run"""
    states: dict[str, int]
    late_by_s: float
    """how long after its slot, and its delay, the last of all runs was queued"""


@dataclass
class Ledger:
    """Filled while the week goes on."""

    schedule: Schedule
    tick_s: float
    runs: dict[str, dict[str, Protection]] = field(default_factory=lambda: defaultdict(dict))
    """by VNF and id"""
    moments: list[Moment] = field(default_factory=list)

    def note(self, rows: Iterable[RunRow], begun: dict[str, float]) -> None:
        """Note protections as they are now; `begun`: when their first steps were."""
        for row in rows:
            slot = (row.request or {})["due_at"]  # all of them are of the schedule
            self.runs[row.vnf][row.id] = Protection(
                row.id, slot, row.started_at, begun.get(row.id), row.ended_at, row.state, row.claim
            )

    def sums(self, vnfs: Sequence[str], delays_s: dict[str, float], until: float) -> Sums:
        """What became of all slots that were due before a moment.

        Args:
            delays_s: by VNF, how long after a slot it is due.
        """
        due, made, twice = 0, 0, list[str]()
        missed, states = Counter[str](), Counter[str]()
        late_by_s = 0.0
        for vnf in vnfs:
            runs = list(self.runs[vnf].values())
            of_slot = Counter(run.slot for run in runs)
            twice += [f"{vnf} at {slot:.0f}" for slot, many in of_slot.items() if many > 1]
            slots = self._due(delays_s[vnf], until)
            due += len(slots)
            made += sum(slot in of_slot for slot in slots)
            states.update(run.state for run in runs)
            late = [run.queued_at - run.slot - delays_s[vnf] for run in runs]
            late_by_s = max([late_by_s, *late])
            for slot in slots:
                if slot not in of_slot:
                    missed[self._why(runs, slot + delays_s[vnf])] += 1
        return Sums(due, made, twice, dict(missed), dict(states), late_by_s)

    def _due(self, delay_s: float, until: float) -> list[float]:
        """The slots that are over: a newer one is due. The first look has begun with the one
        before.
        """
        begun_at = self.moments[0].at
        first = self.schedule.slot_at(begun_at - delay_s)
        assert first is not None  # of an interval
        last = self.schedule.slot_at(until - delay_s)
        assert last is not None
        return list(self.schedule.slots_between(first, last))

    def _why(self, runs: Sequence[Protection], due_at: float) -> str:
        """Why nothing was begun from a slot on until the next one: another run of the VNF had not
        ended, and what that had waited for.
        """
        over_at = due_at + (self.schedule.every or 0.0)
        in_the_way = [
            run
            for run in runs
            if run.queued_at <= due_at + self.tick_s
            and (run.ended_at is None or run.ended_at >= over_at - self.tick_s)
        ]
        if not in_the_way:
            return UNEXPLAINED
        run = in_the_way[0]
        if run.claims > 1:
            return KILLED
        waited_until = run.begun_at if run.begun_at is not None else over_at
        waited = [m for m in self.moments if run.queued_at <= m.at < waited_until]
        return FULL if waited and all(m.is_full for m in waited) else UNEXPLAINED
