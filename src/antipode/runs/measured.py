# SPDX-License-Identifier: Apache-2.0
"""How long the parts of a recovery take, as earlier failovers and drills of this installation have
measured them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from antipode.engine.deployment import Deployment
from antipode.model.steps import Steps
from antipode.recover.sources import PROVIDERS
from antipode.runs import KINDS, find_kind
from antipode.store.tables import RunRow, StepRow

MOST_RUNS = 20
"""The newest ones that count."""
HIGH = 0.9
"""The part of all measurements that is not above the high one."""


class Sample(NamedTuple):
    """That something of a size took so many seconds."""

    size: float
    seconds: float


Choice = Callable[[Sequence[float]], float]
"""Makes one figure of many measurements."""


def typical(seconds: Sequence[float]) -> float:
    """The median."""
    return median(seconds)


def high(seconds: Sequence[float]) -> float:
    """That which nine of ten measurements are not above."""
    ordered = sorted(seconds)
    return ordered[min(int(HIGH * len(ordered)), len(ordered) - 1)]


def duration(samples: Sequence[Sample], size: float, choice: Choice) -> float:
    """How long something of a size takes. Where things of several sizes were measured, a base and a
    rate are fitted; else the time is in proportion to the size.

    Args:
        samples: one at least.
    """
    sizes = [s.size for s in samples]
    if not any(sizes) or not size:
        return choice([s.seconds for s in samples])
    fitted = _line(samples) if min(sizes) < max(sizes) else None
    if fitted is not None:
        base, rate = fitted
        return max(
            base + rate * size + choice([s.seconds - base - rate * s.size for s in samples]), 0.0
        )
    return choice([s.seconds / s.size for s in samples if s.size]) * size


def _line(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """Base and rate with the least squares; None where they make no sense."""
    mean_size = sum(s.size for s in samples) / len(samples)
    mean_s = sum(s.seconds for s in samples) / len(samples)
    spread = sum((s.size - mean_size) ** 2 for s in samples)
    rate = sum((s.size - mean_size) * (s.seconds - mean_s) for s in samples) / spread
    base = mean_s - rate * mean_size
    return (base, rate) if rate >= 0 and base >= 0 else None


@dataclass
class Measured:
    """What was measured; seconds, and samples with their sizes."""

    runs: list[RunRow] = field(default_factory=list)
    """those that have measured it, the newest first"""
    imports: list[Sample] = field(default_factory=list)
    """of records of backups, by their number"""
    volumes: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """by the words of the step in which they come, and bytes"""
    compares: list[Sample] = field(default_factory=list)
    ports: list[float] = field(default_factory=list)
    boots: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """by VNF"""
    answers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    before: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """by the kind of run, from its first step to its first volume"""
    after: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """by the kind of run, from the last answer to its end"""


def of_one_or_all(found: dict[str, list[float]], one: str) -> list[float]:
    """The measurements of one, else those of all."""
    return found.get(one) or [seconds for each in found.values() for seconds in each]


def measured(deployment: Deployment, site: str | None) -> Measured:
    """What the newest failovers and drills have measured that succeeded without an interruption.

    Args:
        site: where they were; None: anywhere.
    """
    kinds = [name for name in KINDS.names if KINDS.get(name).measures_recovery]
    rows = [
        row
        for row in deployment.runs.newest_successes(kinds, 10 * MOST_RUNS)
        if row.claim == 1 and site in (None, row.result.get("site"))
    ][:MOST_RUNS]
    found = Measured(rows)
    steps = deployment.runs.steps_of([row.id for row in rows])
    for row in rows:
        _add(found, row, [s for s in steps.get(row.id, ()) if s.state == "succeeded"])
    return found


def _add(found: Measured, row: RunRow, steps: Sequence[StepRow]) -> None:
    volume_steps = {words for kind in PROVIDERS.names for words in _volume_steps(kind)}
    kind = find_kind(row.kind)
    compare_step = kind.compare_step if kind is not None else None
    first: list[float] = []
    last: list[float] = []
    for step in steps:
        if step.ended_at is None:
            continue
        seconds, facts = step.ended_at - step.started_at, step.result
        if step.name in volume_steps:
            first.append(step.started_at)
            # of a road that has not led to a volume nothing is known
            if not facts.get("found") and facts.get("volume_id", "") is not None:
                size = facts.get("moved_bytes", facts.get("volume_bytes", 0))
                found.volumes[step.name].append(Sample(float(size), seconds))
        elif step.name == Steps.IMPORT_RECORDS.words:
            first.append(step.started_at)
            number = float(facts.get("imported", 0))
            if number:
                found.imports.append(Sample(number, seconds))
        elif step.name == Steps.CREATE_PORTS.words:
            found.ports.append(seconds)
        elif compare_step is not None and step.name == compare_step.words:
            found.compares.append(Sample(0.0, seconds))
        elif step.name == Steps.BOOT_SERVER.words and not facts.get("found"):
            found.boots[row.vnf].append(seconds)
            last.append(step.ended_at)
        elif step.name == Steps.PROBE.words:
            found.answers[row.vnf].append(seconds)
            last.append(step.ended_at)
    if first and last:
        found.before[row.kind].append(max(min(first) - min(_begins(steps)), 0.0))
        found.after[row.kind].append(max(_end(row, steps, max(last)) - max(last), 0.0))


def _begins(steps: Iterable[StepRow]) -> list[float]:
    return [step.started_at for step in steps]


def _end(row: RunRow, steps: Iterable[StepRow], otherwise: float) -> float:
    """When a VNF was back: a drill is over for this with its last answer."""
    complete = [s.ended_at for s in steps if s.name == Steps.COMPLETE_GENERATION.words]
    return next((moment for moment in complete if moment is not None), otherwise)


def _volume_steps(kind: str) -> list[str]:
    provider = PROVIDERS.get(kind)
    steps = (provider.volume_step, provider.standing_step, provider.written_step)
    return [step.words for step in steps if step is not None]
