"""The service: what its conductor takes on and in which order, and what its clean-up forgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import samples
from sqlalchemy import update

from antipode import config
from antipode.engine import conductor, logs
from antipode.engine.conductor import Conductor
from antipode.engine.deployment import Deployment
from antipode.engine.runs import new_run
from antipode.engine.submit import submit
from antipode.errors import ClaimLost
from antipode.store.tables import RunRow

Execute = Callable[[str], None]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + "limits: {runs: 1}\n")
    return Deployment(config.load(str(path)))


def queue(deployment: Deployment, kind: str, vnf: str, **changes: Any) -> str:
    run = new_run(kind, vnf, {})
    for column, value in changes.items():
        setattr(run, column, value)
    return str(submit(deployment, run)["run"])


def ends(deployment: Deployment, run: str, state: str = "succeeded") -> None:
    deployment.runs.end(run, deployment.runs.get(run).claim, state, time.time(), None, {})


@contextmanager
def conducting(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, execute: Execute) -> Iterator[Conductor]:
    """A conductor at work, which carries each run out by calling `execute`."""

    def executed(_deployment: Deployment, run: str, *_: Any) -> None:
        execute(run)

    monkeypatch.setattr(conductor, "execute", executed)
    monkeypatch.setattr(conductor, "LOOK_S", 0.01)
    made = Conductor(deployment)
    thread = threading.Thread(target=made.conduct)
    thread.start()
    try:
        yield made
    finally:
        made.halt.set()
        thread.join(10)
        assert made.wait(10) == []


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_failovers_are_begun_first_then_what_was_queued_first(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [queue(deployment, kind, vnf) for kind, vnf in (("protect", "a"), ("protect", "b"), ("failover", "c"), ("protect", "d"))]
    order: list[str] = []

    def execute(run: str) -> None:
        order.append(run)
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute):
        until(lambda: len(order) == 4)
    a, b, c, d = runs
    assert order.index(c) <= 1  # beside the first protect, as it needs no slot of a protect
    assert [run for run in order if run != c] == [a, b, d]


def test_no_more_protects_than_allowed_are_under_way_and_a_failover_runs_beside_them(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(deployment, "protect", "a")
    queue(deployment, "protect", "b")
    go_on, at_once = threading.Event(), []

    def execute(run: str) -> None:
        at_once.append(made.under_way())
        go_on.wait(10)
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute) as made:
        until(lambda: at_once)
        failover = queue(deployment, "failover", "c")
        until(lambda: failover in made.under_way())
        assert len(made.under_way()) == 2
        go_on.set()
        until(lambda: not deployment.runs.open())
    assert max(sum(run.startswith("protect") for run in runs) for runs in at_once) == 1


def test_a_run_that_a_newer_antipode_has_begun_is_left_to_it(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = queue(deployment, "protect", "a", flow_version=10**6)
    ours = queue(deployment, "protect", "b")
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: deployment.runs.get(ours).ended_at)
        assert deployment.runs.get(newer).state == "queued"


def test_a_run_that_never_ends_waits_for_an_operator_after_many_claims(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = queue(deployment, "protect", "a")
    with deployment.database.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == poison).values(claim=conductor.MOST_CLAIMS, state="running"))
    fine = queue(deployment, "protect", "b")
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: deployment.runs.get(fine).ended_at)
        assert deployment.runs.get(poison).claim == conductor.MOST_CLAIMS


def test_a_run_that_was_lost_to_another_host_is_not_snatched_back_at_once(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = queue(deployment, "protect", "a")
    fine = queue(deployment, "protect", "b")
    tried: list[str] = []

    def execute(run: str) -> None:
        tried.append(run)
        if run == lost:
            raise ClaimLost("it is another's")
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute):
        until(lambda: deployment.runs.get(fine).ended_at)
    assert tried == [lost, fine]


def test_a_bug_in_one_run_does_not_end_the_conductor(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(deployment, "protect", "a")
    fine = queue(deployment, "protect", "b")

    def execute(run: str) -> None:
        if run != fine:
            raise ZeroDivisionError
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute):
        until(lambda: deployment.runs.get(fine).ended_at)


def test_a_database_that_is_away_is_told_and_waited_for(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "AGAIN_S", 0.3)
    real, away = deployment.runs.open, threading.Event()

    def open_runs(vnf: str | None = None) -> list[RunRow]:
        if away.is_set():
            raise ConnectionError("the database is away")
        return real(vnf)

    monkeypatch.setattr(deployment.runs, "open", open_runs)
    away.set()
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)) as made:
        until(lambda: made.trouble)
        assert "the database is away" in str(made.trouble)
        away.clear()
        run = queue(deployment, "protect", "a")
        until(lambda: deployment.runs.get(run).ended_at)
        assert made.trouble is None


def test_each_of_several_runs_in_one_process_has_its_own_log_lines() -> None:
    seen: dict[str, str | None] = {}

    def work(run: str, other: threading.Barrier) -> None:
        with logs.run_in_logs(run):
            other.wait(5)
            seen[run] = logs.current_run()
            other.wait(5)

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(run, barrier)) for run in ("run-1", "run-2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen == {"run-1": "run-1", "run-2": "run-2"}
    assert logs.current_run() is None


def test_freezes_that_are_long_over_are_forgotten_and_open_ones_never(deployment: Deployment) -> None:
    ledger = deployment.freezes
    long_ago = datetime.now(UTC) - timedelta(days=90)
    over = ledger.freezing("site-a", "s-1", "db", long_ago)
    ledger.freezing("site-a", "s-2", "app", long_ago)
    ledger.thawed(over)
    ledger.forget(time.time() - 60)
    ledger.thawed(over)  # it is still there, as it was over a moment ago
    ledger.forget(time.time() + 60)
    assert [row.server for row in ledger.overdue("site-a", time.time())] == ["app"]
