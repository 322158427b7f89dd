# SPDX-License-Identifier: Apache-2.0
"""The week of the bench: what its ledger makes of runs and hosts, and what counts as a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from antipode.errors import ClaimLost
from antipode.model.schedule import Schedule
from bench.week.drive import Account, Size
from bench.week.ledger import FULL, KILLED, UNEXPLAINED, Ledger, Moment, Protection, Sums
from bench.week.pace import Pace
from bench.week.verdict import faults

START, SLOT, TICK = 1_796_000_400.0, 900.0, 60.0
ROWS = ("runs", "steps", "events", "deliveries", "forecasts", "readiness", "missed", "conditions")


def ledger(runs: Sequence[Protection], protects: int = 0, **moment: Any) -> Ledger:
    """An hour of one VNF, at whose hosts so many protections were under way all the time."""
    made = Ledger(Schedule.model_validate({"every": "15m"}), TICK)
    made.moments = [
        Moment(START + tick * TICK, protects, 1, moment.get("is_disturbed", False))
        for tick in range(61)
    ]
    made.runs["hlr"] = {run.run: run for run in runs}
    return made


def run(slot: int, **changes: Any) -> Protection:
    """The run of a slot, which has begun at once and taken a minute."""
    at = START + slot * SLOT
    usual = Protection(f"protect-{slot}", at, at, at, at + 60, "succeeded", 1)
    return replace(usual, **changes)


def summed(made: Ledger) -> Sums:
    return made.sums(["hlr"], {"hlr": 0.0}, START + 3600)


def test_each_slot_that_is_over_is_due_and_counted_once() -> None:
    sums = summed(ledger([run(1), run(2), run(3)]))
    assert (sums.due, sums.made, sums.made_twice, sums.missed) == (3, 3, [], {})


def test_a_slot_with_two_runs_was_made_twice() -> None:
    sums = summed(ledger([run(1), run(1, run="protect-other"), run(2), run(3)]))
    assert len(sums.made_twice) == 1


def test_a_slot_without_any_run_in_its_way_has_no_excuse() -> None:
    assert summed(ledger([run(1), run(3)], protects=1)).missed == {UNEXPLAINED: 1}


@pytest.mark.parametrize(("protects", "why"), [(1, FULL), (0, UNEXPLAINED)])
def test_a_run_that_waited_explains_a_missed_slot_only_while_all_places_were_taken(
    protects: int, why: str
) -> None:
    late = run(1, begun_at=START + 3 * SLOT, ended_at=START + 3 * SLOT + 60)
    assert summed(ledger([late, run(3)], protects=protects)).missed == {why: 1}


def test_a_run_whose_host_was_killed_explains_the_slot_that_it_took() -> None:
    late = run(1, ended_at=START + 3 * SLOT, claims=2)
    assert summed(ledger([late, run(3)])).missed == {KILLED: 1}


def account(**changes: Any) -> Account:
    sizes = [Size(hour, 20.0, dict.fromkeys(ROWS, 1000)) for hour in range(0, 169, 24)]
    usual = Account(
        sums=Sums(3, 3, [], {}, {"succeeded": 3}, 0.0),
        missed_of_rows=0,
        sizes=sizes,
        rss_mib=200.0,
        rss_early_mib=190.0,
        spent={},
        looks=1,
        kills=[],
        events_lost=[],
        events_got=0,
        seconds=1.0,
        retried=0,
    )
    return replace(usual, **changes)


def grown(table: str) -> list[Size]:
    return [
        replace(size, rows={**size.rows, table: int(100 * size.hours)}) for size in account().sizes
    ]


def test_a_week_in_which_nothing_went_wrong_has_no_fault() -> None:
    assert faults(account()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"sums": Sums(3, 2, [], {UNEXPLAINED: 1}, {}, 0.0), "missed_of_rows": 1},
        {"sums": Sums(3, 3, ["hlr at 1"], {}, {}, 0.0)},
        {"missed_of_rows": 1},
        {"events_lost": ["protect-1"]},
        {"rss_mib": 400.0},
        *({"sizes": grown(table)} for table in ROWS),
    ],
)
def test_each_thing_that_must_not_be_is_a_fault(changes: dict[str, Any]) -> None:
    assert len(faults(account(**changes))) == 1


def test_a_run_waits_for_its_moment_of_the_played_clock_or_stops_before() -> None:
    pace = Pace(START)
    pace.park(START, lambda: pytest.fail("its moment is now"))
    assert pace() == START

    def is_lost() -> None:
        raise ClaimLost("another host has it")

    with pytest.raises(ClaimLost):
        pace.park(START + 60, is_lost)
    pace.settle(lambda: 0)  # nothing is parked any more
