"""The timeline of a run, kept in the database by a thread of its own so that no step waits for a
disk.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy.exc import SQLAlchemyError

from antipode.errors import ClaimLost
from antipode.logs import current_run
from antipode.model.steps import StepName
from antipode.store.runs import Runs
from antipode.store.tables import StepRow

LOG = logging.getLogger(__name__)
_OURS = logging.getLogger("antipode")
WAITS_FOR, WAITS_SINCE = "waits_for", "waits_since"
"""Facts of a step under way, or that failed: what it waits for, in words, and since when, in
seconds since the epoch.
"""
NOTED, WARNING = "noted", "warning"
"""States of what is in a timeline and is no step: something that happened at a moment, in words."""


@dataclass(frozen=True)
class StepRecord:
    """What is known of a step; moments are seconds since the epoch."""

    number: str
    name: str
    resource: str
    started_at: float
    ended_at: float | None = None
    state: str = "running"
    result: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Observer(Protocol):
    """Somebody who watches a run; called from several threads, must be quick."""

    def step_began(self, step: StepRecord) -> None: ...
    def step_waits(self, step: StepRecord) -> None: ...
    def step_ended(self, step: StepRecord) -> None: ...


class Unobserved:
    """An observer for runs that nobody watches."""

    def step_began(self, step: StepRecord) -> None:
        """Nothing is shown."""

    def step_waits(self, step: StepRecord) -> None:
        """Nothing is shown."""

    def step_ended(self, step: StepRecord) -> None:
        """Nothing is shown."""


class StepUnderWay:
    """Satisfies `model.timeline.Step`."""

    def __init__(self, waits: Callable[[dict[str, Any]], None]) -> None:
        """`waits` is called with the facts when the step waits for something else than before."""
        self.facts: dict[str, Any] = {}
        self._waits = waits

    def result(self, **facts: object) -> None:
        self.facts.update(facts)

    def waits_for(self, what: str) -> None:
        if what != self.facts.get(WAITS_FOR):
            self.facts.update({WAITS_FOR: what, WAITS_SINCE: time.time()})
            self._waits(dict(self.facts))


class RecordedTimeline:
    """Satisfies `model.timeline.Timeline`; what is told is in the database at the latest when the
    block is left.
    """

    def __init__(self, runs: Runs, run: str, claim: int, observer: Observer) -> None:
        """`claim` is the number of the claim with which the run is written."""
        self._runs = runs
        self._run = run
        self._claim = claim
        self._observer = observer
        self._told: queue.SimpleQueue[StepRecord | threading.Event | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="timeline", daemon=True)
        self._warnings = _Warnings(run, lambda words: self.note(words, WARNING))

    def __enter__(self) -> Self:
        self._writer.start()
        _OURS.addHandler(self._warnings)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _OURS.removeHandler(self._warnings)
        self._told.put(None)
        self._writer.join()

    def kept(self) -> list[StepRow]:
        """All steps of the run, those of processes before this one included."""
        self.flush()
        return self._runs.steps(self._run)

    def flush(self) -> None:
        """Return when all that was told is in the database, or cannot be written."""
        written = threading.Event()
        self._told.put(written)
        written.wait()

    @contextmanager
    def step(self, name: StepName, resource: str = "") -> Iterator[StepUnderWay]:
        """A step that starts now and ends with the block; an exception that leaves the block is its
        failure.
        """
        began = StepRecord(name.number, name.words, resource, started_at=time.time())
        self._told.put(began)
        self._observer.step_began(began)
        under_way, state = (
            StepUnderWay(lambda facts: self._waits(replace(began, result=facts))),
            "failed",
        )
        try:
            yield under_way
            state = "succeeded"
            for fact in (WAITS_FOR, WAITS_SINCE):
                under_way.facts.pop(fact, None)
        except BaseException as error:
            under_way.facts["error"] = str(error) or type(error).__name__
            raise
        finally:
            self._ended(replace(began, ended_at=time.time(), state=state, result=under_way.facts))

    def note(self, what: str, state: str = NOTED) -> None:
        """Keep something that happened now and is no step.

        Warnings that antipode logs while it is at the run are noted by themselves.
        """
        now = time.time()
        self._told.put(
            StepRecord(
                "", what[:128], "", now, now, state, {"words": what} if len(what) > 128 else {}
            )
        )

    def past(
        self,
        name: StepName,
        resource: str,
        *,
        started: datetime,
        ended: datetime,
        error: str | None = None,
        **facts: object,
    ) -> None:
        """Keep a step that is already over."""
        result = dict(facts) if error is None else {**facts, "error": error}
        state = "succeeded" if error is None else "failed"
        self._ended(
            StepRecord(
                name.number,
                name.words,
                resource,
                started.timestamp(),
                ended.timestamp(),
                state,
                result,
            )
        )

    def _waits(self, step: StepRecord) -> None:
        self._told.put(step)
        self._observer.step_waits(step)

    def _ended(self, step: StepRecord) -> None:
        self._told.put(step)
        self._observer.step_ended(step)

    def _write(self) -> None:
        """Keep what was told, everything that has come together in one transaction."""
        last = False
        while not last:
            batch = [self._told.get()]
            while not self._told.empty():
                batch.append(self._told.get())
            last = None in batch
            steps = [_row(self._run, step) for step in batch if isinstance(step, StepRecord)]
            try:
                if steps:
                    self._runs.keep(self._run, self._claim, steps)
            except ClaimLost as error:
                LOG.warning("%d steps are not kept: %s", len(steps), error)
            except SQLAlchemyError:
                # a timeline that cannot be written must not end a run that protects or recovers
                LOG.exception(
                    "%d steps of run %s could not be kept in the database", len(steps), self._run
                )
            for told in batch:
                if isinstance(told, threading.Event):
                    told.set()


class _Warnings(logging.Handler):
    """Tells the warnings and errors that are logged for one run."""

    def __init__(self, run: str, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._run = run
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if current_run() == self._run:
            self._tell(record.getMessage())


def _row(run: str, step: StepRecord) -> StepRow:
    return StepRow(
        id=step.id,
        run=run,
        number=step.number,
        name=step.name,
        resource=step.resource,
        state=step.state,
        started_at=step.started_at,
        ended_at=step.ended_at,
        result=step.result,
    )
