"""How far a run is, from what the database keeps of it: what it is doing, what it waits for since when, how long it may still take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from antipode.store.runs import Runs
from antipode.store.tables import RunRow, StepRow

ENDED = frozenset({"succeeded", "failed", "aborted"})
"""The states of a run that nobody is at any more, and that no service will take up by itself."""


@dataclass(frozen=True)
class Estimate:
    """How long a run may still take, judged by an earlier run of its kind and VNF that succeeded."""

    left_s: float
    """seconds; 0 or less: it should be over by now, and takes that much longer than the earlier run did"""
    judged_by: str
    """the earlier run"""


@dataclass(frozen=True)
class Outlook:
    """A run as it is at a moment. `under_way` has the oldest first."""

    run: RunRow
    steps: Sequence[StepRow]
    under_way: Sequence[StepRow]
    estimate: Estimate | None

    @property
    def ended(self) -> bool:
        return self.run.state in ENDED


def outlook(runs: Runs, run_id: str, now: float) -> Outlook:
    """Look at a run at the moment `now` (seconds since the epoch).

    Raises:
        NotFound: there is no such run.
    """
    run = runs.get(run_id)
    steps = runs.steps(run_id)
    under_way = [s for s in steps if s.ended_at is None and s.state == "running"]
    earlier = None if run.state in ENDED else _earlier(runs, run)
    estimate = None if earlier is None else Estimate(_left(run, steps, earlier, runs.steps(earlier.id), now), earlier.id)
    return Outlook(run, steps, under_way, estimate)


def _earlier(runs: Runs, run: RunRow) -> RunRow | None:
    """The newest run of the same kind and VNF that succeeded."""
    alike = (r for r in runs.all(run.vnf) if r.kind == run.kind and r.state == "succeeded" and r.ended_at is not None)
    return next(alike, None)


def _left(run: RunRow, steps: Collection[StepRow], earlier: RunRow, earlier_steps: Collection[StepRow], now: float) -> float:
    """Seconds that the earlier run still took after it had done what this one has done, less those that passed since then."""
    assert earlier.ended_at is not None  # it succeeded
    ends = {_what(s): s.ended_at for s in earlier_steps if s.ended_at is not None}
    done = [(ends[_what(s)], s.ended_at) for s in steps if s.state == "succeeded" and s.ended_at is not None and _what(s) in ends]
    there, here = max(done, default=(earlier.started_at, run.started_at))
    return earlier.ended_at - there - (now - here)


def _what(step: StepRow) -> tuple[str, str, str]:
    return step.number, step.name, step.resource
