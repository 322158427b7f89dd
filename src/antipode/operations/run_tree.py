# SPDX-License-Identifier: Apache-2.0
"""Runs with their parts below them, and the parts of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from antipode.engine.deployment import Deployment
from antipode.engine.run import is_id, part_of
from antipode.store.runs import Runs
from antipode.store.tables import RunRow, StepRow


class Placed(NamedTuple):
    """A run, and how many runs it is below."""

    run: RunRow
    depth: int


def ordered(rows: Sequence[RunRow]) -> Iterator[Placed]:
    """Runs in the order given, each followed by its parts among them, the oldest part first. A part
    whose whole is not among them stands by itself.
    """
    known = {row.id for row in rows}
    below: dict[str, list[RunRow]] = {}
    wholes: list[RunRow] = []
    for row in rows:
        above = part_of(row)
        if above in known and above is not None:
            below.setdefault(above, []).append(row)
        else:
            wholes.append(row)
    for row in wholes:
        yield from _under(row, below, 0)


def under(deployment: Deployment, run: RunRow) -> list[Placed]:
    """The parts of a run, and the parts of these, each below its whole."""
    found, level = [run], [run]
    while level := deployment.runs.parts(level):
        found += level
    return list(ordered(found))[1:]


def steps_with_parts(runs: Runs, wanted: Sequence[str]) -> dict[str, list[StepRow]]:
    """The steps of each of these runs, with those of its parts, and of the parts of these. A run
    has a step whose resource is the part.
    """
    found = {run: list[StepRow]() for run in wanted}
    seen = {run: {run} for run in wanted}
    level = {run: {run} for run in wanted}
    while level:
        every = runs.steps_of(sorted(set().union(*level.values())))
        below: dict[str, set[str]] = {}
        for whole, there in level.items():
            steps = [step for run in there for step in every.get(run, ())]
            found[whole] += steps
            parts = {step.resource for step in steps if is_id(step.resource)} - seen[whole]
            seen[whole] |= parts
            if parts:
                below[whole] = parts
        level = below
    return found


def _under(row: RunRow, below: dict[str, list[RunRow]], depth: int) -> Iterator[Placed]:
    yield Placed(row, depth)
    for part in sorted(below.get(row.id, ()), key=lambda part: part.started_at):
        yield from _under(part, below, depth + 1)
