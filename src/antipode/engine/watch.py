# SPDX-License-Identifier: Apache-2.0
"""Sees that runs of this process are asked to abort, taken over by another process, or halted by
their own: one thread and one look at the database for all of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from antipode.claims.claim import Claim
from antipode.errors import Aborted, AntipodeError, ClaimLost, Halted, Interrupted
from antipode.store.runs import Runs

LOG = logging.getLogger(__name__)
LOOK_S = 0.5
"""Between two looks."""


class Halt(threading.Event):
    """When it is set, a run stops at its next safe point: to be resumed, or as a signal ends it."""

    is_signal = False

    def by_signal(self) -> None:
        """Have the run fail, and be rolled back where failures of its kind are."""
        self.is_signal = True
        self.set()


class Run(Protocol):
    """A run of this process, as far as it is watched."""

    @property
    def id(self) -> str: ...
    @property
    def claim(self) -> Claim: ...
    def stop(self, kind: type[AntipodeError], why: str) -> None:
        """Make it stop at its next safe point."""


class _Watched(NamedTuple):
    run: Run
    halt: threading.Event | None


class Watches:
    """The watches of one process over the runs of one database."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._watched: list[_Watched] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._outage = False

    @contextmanager
    def over(self, run: Run, halt: threading.Event | None) -> Iterator[None]:
        """Watch a run while the block runs; it is not stopped after that.

        Args:
            halt: of its process. When it is set, the run stops at its next safe point.
        """
        watched = _Watched(run, halt)
        with self._lock:
            self._watched.append(watched)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._follow, name="watch runs", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.remove(watched)
                self._changed.notify()

    def _follow(self) -> None:
        """Look until there is nothing to watch."""
        while True:
            with self._lock:
                self._changed.wait_for(lambda: not self._watched, LOOK_S)
                if not self._watched:
                    self._thread = None
                    return
                watched = list(self._watched)
                for run, halt in watched:
                    _stop_by_its_process(run, halt)
            try:
                found = self._runs.standing_of([w.run.id for w in watched])
            except Exception as error:
                # a database that is away, or a bug: the runs continue, and the next look may do
                self._warn_of(error)
                continue
            self._outage = False
            with self._lock:
                for each in watched:
                    # one that was claimed again meanwhile has a later claim than was read
                    if each in self._watched and each.run.id in found:
                        _stop_by_the_database(each.run, *found[each.run.id])

    def _warn_of(self, error: Exception) -> None:
        if not self._outage:
            LOG.warning(
                "whether runs are to be aborted cannot be read now; they continue: %s", error
            )
        self._outage = True


def _stop_by_its_process(run: Run, halt: threading.Event | None) -> None:
    if isinstance(halt, Halt) and halt.is_signal:
        run.stop(Interrupted, "interrupted by a signal")
    elif halt is not None and halt.is_set():
        run.stop(
            Halted,
            f"run {run.id} was halted with its process; it continues from here when it is resumed",
        )
    try:
        run.claim.check()
    except ClaimLost as error:
        # it may be over though no process has taken it yet
        run.stop(ClaimLost, str(error))


def _stop_by_the_database(run: Run, claim: int, is_asked: bool) -> None:
    if claim != run.claim.number:
        run.stop(ClaimLost, f"run {run.id} was taken over by another process")
    elif is_asked:
        run.stop(Aborted, f"run {run.id} was asked to abort")
