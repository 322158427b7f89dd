# SPDX-License-Identifier: Apache-2.0
"""One thread sees for all runs of a process that they are to stop."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from antipode.engine import watch
from antipode.engine.watch import Watches
from antipode.errors import Aborted, ClaimLost, Halted

WITHIN_S = 60.0


class Claim:
    def __init__(self, number: int = 1) -> None:
        self.number = number

    def check(self) -> None:
        """It is held."""


class Run:
    """Notes why it was stopped."""

    def __init__(self, name: str, claim: int = 1) -> None:
        self.id = name
        self.claim = Claim(claim)
        self.stopped_by: type[Exception] | None = None
        self.has_stopped = threading.Event()

    def stop(self, kind: type[Exception], why: str) -> None:
        self.stopped_by = self.stopped_by or kind
        self.has_stopped.set()


class Store:
    """What the database says of runs: their newest claim, and whether they are to be aborted."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[int, bool]] = {}
        self.asked: list[set[str]] = []
        self.outages = 0
        self.looked = threading.Semaphore(0)

    def standing_of(self, runs: Collection[str]) -> dict[str, tuple[int, bool]]:
        self.asked.append(set(runs))
        self.looked.release()
        if self.outages:
            self.outages -= 1
            raise OperationalError("SELECT", {}, ConnectionError("away"))
        return {run: self.says.get(run, (1, False)) for run in runs}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(watch, "LOOK_S", 0.005)
    return Store()


def watches_of(store: Any) -> Watches:
    return Watches(store)


def test_one_look_serves_all_runs_and_each_stops_for_its_own_reason(store: Store) -> None:
    a, b, c, halt = Run("a"), Run("b"), Run("c"), threading.Event()
    watches: Any = watches_of(store)
    with watches.over(a, halt), watches.over(b, None), watches.over(c, None):
        store.says = {"b": (2, False), "c": (1, True)}
        halt.set()
        assert all(run.has_stopped.wait(WITHIN_S) for run in (a, b, c))
    assert (a.stopped_by, b.stopped_by, c.stopped_by) == (Halted, ClaimLost, Aborted)
    assert {"a", "b", "c"} in store.asked


def test_a_database_that_is_away_stops_no_run_and_is_asked_again(store: Store) -> None:
    store.outages, run = 2, Run("a")
    watches: Any = watches_of(store)
    with watches.over(run, None):
        assert all(store.looked.acquire(timeout=WITHIN_S) for _ in range(3))
        assert run.stopped_by is None
        store.says = {"a": (1, True)}
        assert run.has_stopped.wait(WITHIN_S)


def test_a_run_is_not_stopped_after_its_end_and_the_next_one_is_watched(store: Store) -> None:
    first, second = Run("a"), Run("b")
    watches: Any = watches_of(store)
    with watches.over(first, None):
        assert store.looked.acquire(timeout=WITHIN_S)
    store.says = {"a": (2, True), "b": (1, True)}
    with watches.over(second, None):
        assert second.has_stopped.wait(WITHIN_S)
    assert first.stopped_by is None


def test_a_run_that_is_claimed_again_is_not_stopped_by_a_look_at_its_former_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, known = threading.Event(), threading.Event()
    watches: Any = watches_of(store)
    look = store.standing_of

    def slow(runs: Collection[str]) -> dict[str, tuple[int, bool]]:
        found = look(runs)
        if not read.is_set():
            read.set()
            known.wait(WITHIN_S)
        return found

    monkeypatch.setattr(store, "standing_of", slow)
    again = Run("a", claim=2)
    with watches.over(Run("a"), None):
        assert read.wait(WITHIN_S)
    store.says = {"a": (2, False)}
    with watches.over(again, None):
        known.set()
        assert all(store.looked.acquire(timeout=WITHIN_S) for _ in range(3))
        assert again.stopped_by is None
