# SPDX-License-Identifier: Apache-2.0
"""The timeline of a run. A thread of its own writes it to the database, so that no step waits for
a disk.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from antipode import clock
from antipode.errors import AntipodeError, ClaimLost
from antipode.logs import current_run
from antipode.model.steps import StepName
from antipode.store.runs import Runs
from antipode.store.tables import StepRow

LOG = logging.getLogger(__name__)
_OURS = logging.getLogger("antipode")
WAITS_FOR, WAITS_SINCE = "waits_for", "waits_since"
"""Facts of a step that is under way or has failed: what it waits for, in words, and since when, in
seconds since the epoch.
"""
NOTED, WARNING = "noted", "warning"
"""States of entries that are no steps: something that happened at a moment, in words."""
MOST_UNWRITTEN = 10_000
"""Entries of a run that are held in memory while the database does not accept them."""
LOOK_S = 1.0
"""How often a caller of `flush` looks whether the writer is still there."""


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
    """Watches a run. It is called from several threads and must be quick."""

    def step_began(self, step: StepRecord) -> None: ...
    def step_waits(self, step: StepRecord) -> None: ...
    def step_ended(self, step: StepRecord) -> None: ...


class Unobserved:
    """An observer that ignores everything."""

    def step_began(self, step: StepRecord) -> None:
        """Ignored."""

    def step_waits(self, step: StepRecord) -> None:
        """Ignored."""

    def step_ended(self, step: StepRecord) -> None:
        """Ignored."""


class StepUnderWay:
    """Satisfies `model.steps.Step`."""

    def __init__(self, waits: Callable[[dict[str, Any]], None]) -> None:
        """`waits` is called with the facts when the step begins to wait for something else."""
        self.facts: dict[str, Any] = {}
        self._waits = waits

    def result(self, **facts: object) -> None:
        self.facts.update(facts)

    def waits_for(self, what: str) -> None:
        if what != self.facts.get(WAITS_FOR):
            self.facts.update({WAITS_FOR: what, WAITS_SINCE: clock.now()})
            self._waits(dict(self.facts))


class RecordedTimeline:
    """Satisfies `model.steps.Timeline`. When the block is left, all entries are in the database,
    unless it did not accept them.
    """

    def __init__(self, runs: Runs, run: str, claim: int, observer: Observer) -> None:
        """`claim` is the number of the claim with which the run is written."""
        self._run = run
        self.observer = observer
        self._entries: queue.SimpleQueue[StepRecord | threading.Event | None] = queue.SimpleQueue()
        self._writer = _Writer(runs, run, claim, self._entries)
        self._warnings = _Warnings(run, lambda words: self.note(words, WARNING), self._writer)
        self._runs = runs

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
        self._entries.put(None)
        self._writer.join()

    def kept(self) -> list[StepRow]:
        """All steps of the run, those of earlier processes included.

        Raises:
            AntipodeError: as `flush`.
        """
        self.flush()
        return self._runs.steps(self._run)

    def flush(self) -> None:
        """Return when all entries are in the database, or it does not accept them now.

        Raises:
            AntipodeError: the thread that writes the timeline has ended.
        """
        written = threading.Event()
        self._entries.put(written)
        while not written.wait(LOOK_S):
            if not self._writer.is_alive() and not written.is_set():
                raise AntipodeError(
                    f"the timeline of run {self._run} is no longer written, as its thread has "
                    f"ended; see the log, then: antipode run resume {self._run}"
                )

    @contextmanager
    def step(self, name: StepName, resource: str = "") -> Iterator[StepUnderWay]:
        """A step that starts now and ends with the block. It fails if an exception leaves the
        block.
        """
        began = StepRecord(name.number, name.words, resource, started_at=clock.now())
        self._entries.put(began)
        self.observer.step_began(began)
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
            self._ended(replace(began, ended_at=clock.now(), state=state, result=under_way.facts))

    def note(self, what: str, state: str = NOTED) -> None:
        """Record something that happened now and is no step.

        Warnings that antipode logs for the run are recorded automatically.
        """
        now = clock.now()
        self._entries.put(
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
        """Record a step that is already over."""
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
        self._entries.put(step)
        self.observer.step_waits(step)

    def _ended(self, step: StepRecord) -> None:
        self._entries.put(step)
        self.observer.step_ended(step)


class _Writer(threading.Thread):
    """Writes entries to the database, all that have accumulated in one transaction.

    A timeline that cannot be written must not end a run that protects or recovers: entries that an
    outage keeps from the database are written after it.
    """

    def __init__(
        self,
        runs: Runs,
        run: str,
        claim: int,
        entries: queue.SimpleQueue[StepRecord | threading.Event | None],
    ) -> None:
        super().__init__(name="timeline", daemon=True)
        self._runs = runs
        self._run = run
        self._claim = claim
        self._entries = entries
        self._unwritten: dict[str, StepRecord] = {}
        """the newest record of each step, by its id"""
        self._outage = False

    def run(self) -> None:
        last = False
        while not last:
            batch = [self._entries.get()]
            while not self._entries.empty():
                batch.append(self._entries.get())
            last = None in batch
            self._unwritten |= {e.id: e for e in batch if isinstance(e, StepRecord)}
            try:
                self._write(list(self._unwritten.values()))
            finally:
                for entry in batch:
                    if isinstance(entry, threading.Event):
                        entry.set()
        if self._unwritten:
            LOG.error(
                "%d entries of the timeline of run %s are lost, as the database did not accept "
                "them before its end",
                len(self._unwritten),
                self._run,
            )

    def _write(self, steps: Sequence[StepRecord]) -> None:
        if not steps:
            return
        try:
            self._runs.keep(self._run, self._claim, [_row(self._run, step) for step in steps])
        except ClaimLost as error:
            LOG.warning("%d entries of the timeline are not written: %s", len(steps), error)
        except Exception as error:
            if _may_pass(error):
                self._keep_for_later(error)
                return
            if len(steps) > 1:  # the others may be fine
                for step in steps:
                    self._write([step])
                return
            LOG.error(
                "an entry of the timeline of run %s, %s %s, cannot be stored: %s",
                self._run,
                steps[0].name,
                steps[0].resource,
                _words(error),
            )
        else:
            if self._outage:
                LOG.info("the timeline of run %s is written again", self._run)
                self._outage = False
        for step in steps:
            del self._unwritten[step.id]

    def _keep_for_later(self, error: Exception) -> None:
        if not self._outage:
            LOG.error(
                "the timeline of run %s cannot be written: %s. The run continues, and its timeline "
                "is written when the database accepts it again",
                self._run,
                _words(error),
            )
            self._outage = True
        for step in list(self._unwritten)[:-MOST_UNWRITTEN]:
            del self._unwritten[step]


class _Warnings(logging.Handler):
    """Notes the warnings and errors that are logged for one run.

    Those of the timeline's own writer are left out: noting them would make it write, and fail,
    again and again.
    """

    def __init__(self, run: str, note: Callable[[str], None], writer: threading.Thread) -> None:
        super().__init__(logging.WARNING)
        self._run = run
        self._note = note
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        if current_run() != self._run or threading.current_thread() is self._writer:
            return
        try:
            self._note(record.getMessage())
        except Exception:
            self.handleError(record)


def _may_pass(error: Exception) -> bool:
    """Whether a failed write may succeed later: a full disk, a lock, a server that is away; not a
    value that the database refuses.
    """
    refused = isinstance(error, DataError | IntegrityError | ProgrammingError) or (
        isinstance(error, StatementError) and not isinstance(error, DBAPIError)
    )
    return isinstance(error, SQLAlchemyError) and not refused


def _words(error: Exception) -> str:
    """What the database says, without the statement and its values."""
    cause = error.orig if isinstance(error, StatementError) else error
    return f"{type(cause).__name__}: {cause}"


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
