# SPDX-License-Identifier: Apache-2.0
"""The verdict of the samples: medians, ratios between the clients, and the goals they meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

CLIENTS = ("antipode", "floor", "cli")
MEASURES = {
    "window_s": "quiesce window",
    "full_s": "recovery point, full",
    "incremental_s": "recovery point, incremental",
    "recover_s": "recover",
    "states_s": "recovery point of replicated volumes",
}


@dataclass(frozen=True)
class Sample:
    """One number of one client in one round.

    `measure` is a key of MEASURES, or that with another ending: `full_cpu_s`, `full_calls`.
    """

    round: int
    client: str
    measure: str
    value: float


@dataclass(frozen=True)
class Goal:
    """The antipode of one measure against another client: at most so many times its time, or
    shorter by at least so many times.
    """

    measure: str
    against: str
    limit: float
    shorter: bool = False
    """limit is a least number of times by which antipode is shorter, not a most by which it is
    longer
    """


GOALS = (
    Goal("window_s", "floor", 1.25),
    Goal("window_s", "cli", 5.0, shorter=True),
    Goal("full_s", "floor", 1.15),
    Goal("incremental_s", "floor", 1.15),
    Goal("recover_s", "floor", 1.15),
)


GOALS_OF_STATES = (
    Goal("states_s", "floor", 1.3),
    Goal("states_s", "incremental", 5.0, shorter=True),
)
"""Of option 3: beside its floor, and beside an increment of option 1 on the same VNF."""


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured of it; `ratio` and `met` are None when one of the two was not
    measured.
    """

    goal: Goal
    ratio: float | None
    met: bool | None

    def __str__(self) -> str:
        name = MEASURES[self.goal.measure]
        wanted = (
            f"at least {self.goal.limit:g} x shorter than"
            if self.goal.shorter
            else f"at most {self.goal.limit:g} x"
        )
        if self.ratio is None:
            return f"{name}: {wanted} the {self.goal.against}: not measured"
        return (
            f"{name}: {wanted} the {self.goal.against}: {self.ratio:.2f} x, "
            f"{'met' if self.met else 'NOT MET'}"
        )


def medians(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """measure -> client -> median over the rounds."""
    values: dict[str, dict[str, list[float]]] = {}
    for s in samples:
        values.setdefault(s.measure, {}).setdefault(s.client, []).append(s.value)
    return {
        measure: {client: median(v) for client, v in of.items()} for measure, of in values.items()
    }


def ratio(of: Mapping[str, float], numerator: str, denominator: str) -> float | None:
    """How many times one client's value is the other's; None when one is missing."""
    if numerator not in of or not of.get(denominator):
        return None
    return of[numerator] / of[denominator]


def judge(
    middle: Mapping[str, Mapping[str, float]], goals: Sequence[Goal] = GOALS
) -> list[Verdict]:
    """Each goal against the medians."""
    verdicts = []
    for goal in goals:
        pair = (goal.against, "antipode") if goal.shorter else ("antipode", goal.against)
        found = ratio(middle.get(goal.measure, {}), *pair)
        verdicts.append(
            Verdict(
                goal,
                found,
                None
                if found is None
                else (found >= goal.limit)
                if goal.shorter
                else (found <= goal.limit),
            )
        )
    return verdicts


def table(middle: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds, ratios, CPU seconds and calls of the three clients, one line for each measure."""
    lines = [
        f"{'':30}{'antipode':>10}{'floor':>10}{'cli':>10}{'antipode/floor':>17}{'cli/antipode':>15}"
    ]
    for measure, name in MEASURES.items():
        stem = measure.removesuffix("_s")
        rows = (
            (measure, f"{name}, s", 1),
            (f"{stem}_cpu_s", "  client CPU, s", 1),
            (f"{stem}_calls", "  HTTP calls", 0),
        )
        for key, label, digits in rows:
            if of := middle.get(key):
                seconds = "".join(
                    f"{of[c]:>10.{digits}f}" if c in of else f"{'-':>10}" for c in CLIENTS
                )
                lines.append(
                    f"{label:30}{seconds}{_times(of, 'antipode', 'floor'):>17}"
                    f"{_times(of, 'cli', 'antipode'):>15}"
                )
    return "\n".join(lines)


def _times(of: Mapping[str, float], numerator: str, denominator: str) -> str:
    found = ratio(of, numerator, denominator)
    return "-" if found is None else f"{found:.2f}"


def report(samples: Sequence[Sample], rounds: int) -> dict[str, Any]:
    """All of it as JSON values: the samples, their medians, the ratios, the goals."""
    middle = medians(samples)
    return {
        "rounds": rounds,
        "samples": [asdict(s) for s in samples],
        "medians": middle,
        "ratios": {
            m: {
                "antipode_to_floor": ratio(middle[m], "antipode", "floor"),
                "cli_to_antipode": ratio(middle[m], "cli", "antipode"),
            }
            for m in MEASURES
            if m in middle
        },
        "goals": [
            {**asdict(v.goal), "ratio": v.ratio, "met": v.met, "says": str(v)}
            for v in judge(middle)
        ],
    }
