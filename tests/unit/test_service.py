# SPDX-License-Identifier: Apache-2.0
"""The service: what its conductor takes on and in which order, and what its clean-up forgets."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from antipode import config, logs
from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.engine.run import new_run
from antipode.errors import ClaimLost
from antipode.freezes.reaper import Reaper
from antipode.operations.submit import submit
from antipode.runs import kind_of, orphans
from antipode.service import conductor, daemon
from antipode.service.conductor import Conductor
from antipode.service.observer import Observer
from antipode.service.readiness import ReadinessLoop
from antipode.service.scheduler import Scheduler
from antipode.store.tables import RunRow, StepRow
from antipode.vault.swift import SwiftVault
from tests.unit import samples

Execute = Callable[[str], None]
WITHIN_S = 60.0
"""How long anything may take on a machine that is slow and has much else to do."""


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + "limits: {runs: 1}\n")
    return Deployment(config.load(str(path)))


def queue(deployment: Deployment, kind: str, vnf: str, **changes: Any) -> str:
    run = new_run(kind_of(kind), vnf, {})
    for column, value in changes.items():
        setattr(run, column, value)
    return str(submit(deployment, run)["run"])


def ends(deployment: Deployment, run: str, state: str = "succeeded") -> None:
    deployment.runs.end(run, deployment.runs.get(run).claim, state, time.time(), None, {})


@contextmanager
def conducting(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, execute: Execute
) -> Iterator[Conductor]:
    """A running conductor, which carries each run out by calling `execute`."""

    def executed(_deployment: Deployment, _kind: Any, claim: Any, *_: Any) -> None:
        execute(claim.run)

    monkeypatch.setattr(conductor, "execute", executed)
    monkeypatch.setattr(conductor, "LOOK_S", 0.01)
    made = Conductor(deployment)
    thread = threading.Thread(target=made.conduct)
    thread.start()
    try:
        yield made
    finally:
        made.halt.set()
        thread.join(WITHIN_S)
        assert made.wait(WITHIN_S) == []


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_failovers_are_begun_first_then_what_was_queued_first(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        queue(deployment, kind, vnf)
        for kind, vnf in (("protect", "a"), ("protect", "b"), ("failover", "c"), ("protect", "d"))
    ]
    order: list[str] = []
    begin = Conductor._begin

    def begin_and_tell(self: Conductor, row: RunRow, kind: RunKind) -> None:
        order.append(row.id)
        begin(self, row, kind)

    monkeypatch.setattr(Conductor, "_begin", begin_and_tell)
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: not deployment.runs.open())
    a, b, c, d = runs
    # one that ends while the conductor looks may be begun twice; its claim is refused
    assert list(dict.fromkeys(order)) == [c, a, b, d]


def test_no_more_protects_than_allowed_are_under_way_and_a_failover_runs_beside_them(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(deployment, "protect", "a")
    queue(deployment, "protect", "b")
    go_on, at_once = threading.Event(), []

    def execute(run: str) -> None:
        at_once.append(made.under_way())
        go_on.wait(WITHIN_S)
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute) as made:
        until(lambda: at_once)
        failover = queue(deployment, "failover", "c")
        until(lambda: failover in made.under_way())
        assert len(made.under_way()) == 2
        go_on.set()
        until(lambda: not deployment.runs.open())
    assert max(sum(run.startswith("protect") for run in runs) for runs in at_once) == 1


def test_a_run_that_a_newer_antipode_has_begun_is_left_to_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = queue(deployment, "protect", "a", flow_version=10**6)
    ours = queue(deployment, "protect", "b")
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: deployment.runs.get(ours).ended_at)
        assert deployment.runs.get(newer).state == "queued"


def test_a_run_that_never_ends_waits_for_an_operator_after_many_claims(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = queue(deployment, "protect", "a")
    with deployment.database.begin() as connection:
        connection.execute(
            update(RunRow)
            .where(RunRow.id == poison)
            .values(claim=conductor.MOST_CLAIMS, state="running")
        )
    fine = queue(deployment, "protect", "b")
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: deployment.runs.get(fine).ended_at)
        assert deployment.runs.get(poison).claim == conductor.MOST_CLAIMS


def test_a_run_that_was_lost_to_another_host_is_not_snatched_back_at_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_bug_in_one_run_does_not_end_the_conductor(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(deployment, "protect", "a")
    fine = queue(deployment, "protect", "b")

    def execute(run: str) -> None:
        if run != fine:
            raise ZeroDivisionError
        ends(deployment, run)

    with conducting(deployment, monkeypatch, execute):
        until(lambda: deployment.runs.get(fine).ended_at)


def test_a_database_that_is_away_is_named_and_waited_for(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "AGAIN_S", 0.3)
    real, away = deployment.runs.open_bare, threading.Event()

    def open_runs() -> list[RunRow]:
        if away.is_set():
            raise ConnectionError("the database is away")
        return real()

    monkeypatch.setattr(deployment.runs, "open_bare", open_runs)
    away.set()
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)) as made:
        until(lambda: made.trouble)
        assert "the database is away" in str(made.trouble)
        away.clear()
        run = queue(deployment, "protect", "a")
        until(lambda: deployment.runs.get(run).ended_at)
        until(lambda: made.trouble is None)


def test_each_of_several_runs_in_one_process_has_its_own_log_lines() -> None:
    seen: dict[str, str | None] = {}

    def work(run: str, other: threading.Barrier) -> None:
        with logs.run_in_logs(run):
            other.wait(WITHIN_S)
            seen[run] = logs.current_run()
            other.wait(WITHIN_S)

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(run, barrier)) for run in ("run-1", "run-2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert seen == {"run-1": "run-1", "run-2": "run-2"}
    assert logs.current_run() is None


def test_freezes_that_are_long_over_are_forgotten_and_open_ones_never(
    deployment: Deployment,
) -> None:
    ledger = deployment.freezes
    long_ago = -90 * 86400.0
    over = ledger.freezing("site-a", "s-1", "db", long_ago)
    ledger.freezing("site-a", "s-2", "app", long_ago)
    ledger.thawed(over)
    ledger.forget(3600)
    ledger.thawed(over)  # it is still there, as it was over a moment ago
    ledger.forget(-60)
    assert [row.server for row in ledger.overdue("site-a")] == ["app"]


def test_the_clean_up_looks_for_what_runs_have_left_and_outlives_what_goes_wrong_there(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Semaphore(0)

    def collect(_: Deployment) -> None:
        looked.release()
        raise ZeroDivisionError

    monkeypatch.setattr(orphans, "collect", collect)
    monkeypatch.setattr(daemon, "CLEAN_EVERY_S", 0.01)
    stop = threading.Event()
    thread = threading.Thread(target=daemon._clean_up, args=(deployment, stop))
    thread.start()
    try:
        assert looked.acquire(timeout=WITHIN_S)
        assert looked.acquire(timeout=WITHIN_S)
    finally:
        stop.set()
        thread.join(WITHIN_S)
    assert not thread.is_alive()


def failover_of(deployment: Deployment, vnf: str, confirmed_s_ago: float) -> str:
    run = new_run(kind_of("failover"), vnf, {"confirmed_at": time.time() - confirmed_s_ago})
    run.started_at = time.time() - confirmed_s_ago
    return str(submit(deployment, run)["run"])


def test_a_failover_that_was_confirmed_long_ago_waits_for_an_operator(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = failover_of(deployment, "a", 3700)
    new = failover_of(deployment, "b", 3500)
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)) as made:
        until(lambda: deployment.runs.get(new).ended_at)
        until(lambda: old in made.waiting)
        assert f"antipode run resume {old}" in made.waiting[old]
        assert (deployment.runs.get(old).state, deployment.runs.get(old).claim) == ("queued", 0)
        deployment.runs.request_abort(old)  # to take it back needs no confirmation
        until(lambda: deployment.runs.get(old).ended_at)
        until(lambda: not made.waiting)


def test_a_long_failover_whose_process_has_just_died_is_gone_on_with(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failover_of(deployment, "a", 10000)
    with deployment.claims.take(run) as claim:
        step = StepRow(
            id="s",
            run=run,
            number="1",
            name="restore",
            resource="",
            state="running",
            started_at=time.time() - 60,
            result={},
        )
        deployment.runs.keep(run, claim.number, [step])
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)):
        until(lambda: deployment.runs.get(run).ended_at)


def test_who_was_seen_at_a_failover_counts_as_its_sign_of_life(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failover_of(deployment, "a", 10000)
    held = deployment.claims.take(run)
    with conducting(deployment, monkeypatch, lambda run: ends(deployment, run)) as made:
        until(lambda: made._alive_at.get(run))
        held.release()
        until(lambda: deployment.runs.get(run).ended_at)


def seen_at(deployment: Deployment, seen: set[float]) -> set[float]:
    """The moments of the signs of life so far, with the newest."""
    if (status := daemon.status_of(deployment.config)) is not None:
        seen.add(status.beat_at)
    return seen


def test_a_service_gives_signs_of_life_for_as_long_as_it_serves(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "BEAT_S", 0.01)
    stop, seen = threading.Event(), set[float]()
    thread = threading.Thread(target=daemon.serve, args=(deployment, stop))
    thread.start()
    try:
        until(lambda: len(seen_at(deployment, seen)) >= 3)  # the conductor looks once a second
    finally:
        stop.set()
        thread.join(WITHIN_S)
    assert not thread.is_alive()
    assert daemon.status_of(deployment.config) is None


def test_what_keeps_schedules_from_being_followed_is_told_in_the_status(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Scheduler(deployment)
    with daemon._Reapers(deployment) as reapers:
        conductor, observer = Conductor(deployment), Observer(deployment)
        told = daemon._Events(deployment, observer, conductor)
        parts = daemon.Parts(conductor, made, reapers, observer, told)
        assert parts.trouble() == {}
        made.damaged = {"hlr": "its definition is damaged"}
        made.trouble = "the database is away"
        assert set(parts.trouble()) == {"schedules of hlr", "scheduler"}
        made.trouble, made.damaged = None, {}
        made.looked_at -= daemon.HANGS_AFTER_S + 1
        assert set(parts.trouble()) == {"scheduler"}


def test_a_look_at_readiness_that_hangs_is_told_in_the_status(deployment: Deployment) -> None:
    loop = ReadinessLoop(deployment, "site-b")
    with daemon._Reapers(deployment) as reapers:
        conductor, observer = Conductor(deployment), Observer(deployment)
        told = daemon._Events(deployment, observer, conductor)
        scheduler = Scheduler(deployment)
        parts = daemon.Parts(conductor, scheduler, reapers, observer, told, readiness=[loop])
        assert parts.trouble() == {}
        loop.looked_at -= daemon.LOOK_HANGS_AFTER_S + 1
        assert set(parts.trouble()) == {"readiness at site-b"}


def test_a_reaper_outlives_whatever_goes_wrong_where_it_looks(deployment: Deployment) -> None:
    asked = threading.Semaphore(0)

    def sites() -> list[Any]:
        asked.release()
        raise ZeroDivisionError

    with Reaper(deployment.freezes, sites) as reaper:
        assert asked.acquire(timeout=WITHIN_S)
        assert asked.acquire(timeout=WITHIN_S)
        assert reaper.is_alive


def test_logs_are_for_nobody_else_to_read_though_the_directory_is_open(tmp_path: Path) -> None:
    path = tmp_path / "antipode.log"
    path.touch(mode=0o644)
    before = list(logging.getLogger().handlers)
    logs.log_to_file(path, "text")
    try:
        logging.getLogger().error("something private")
        assert "something private" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        for handler in set(logging.getLogger().handlers) - set(before):
            logging.getLogger().removeHandler(handler)
            handler.close()


def test_a_run_that_must_stop_while_it_writes_to_the_vault_has_not_failed_at_that() -> None:
    def send(*_: Any, **__: Any) -> Any:
        raise ClaimLost("it is another's")

    objects: Any = SimpleNamespace(
        ensure_container=send, put=send, get=send, delete=send, listing=send
    )
    vault = SwiftVault(objects, "c", "site-b")
    for call in (
        lambda: vault.put("a/b", b""),
        lambda: vault.delete("a/b"),
        lambda: vault.get("a/b"),
    ):
        with pytest.raises(ClaimLost):
            call()


@pytest.mark.parametrize(
    "database", ["sqlite:////var/x/antipode.db", "sqlite+pysqlite:////var/x/antipode.db?timeout=5"]
)
def test_a_database_in_a_file_is_known_with_whichever_driver(database: str) -> None:
    made = config.Config.model_validate({**MINIMAL, "database": database})
    assert made.is_sqlite
    assert made.state_dir == Path("/var/x")


def test_a_database_server_needs_a_jobboard_or_a_place_for_locks_that_all_see() -> None:
    server = {**MINIMAL, "database": "postgresql+psycopg://db/antipode"}
    board = {"etcd": {"endpoints": ["http://127.0.0.1:1"]}}

    def wrong(**fields: Any) -> list[tuple[int | str, ...]]:
        made = config.Config.model_validate({**server, **fields})
        return [place for place, _ in config.problems(made)]

    assert wrong() == [("database",)]
    assert wrong(state_directory="/var/lib/antipode") == []
    assert wrong(jobboard=board) == []
    assert wrong(jobboard=board, database="sqlite:////var/x/a.db") == [("jobboard",)]


MINIMAL = {"sites": {"a": {"cloud": "a"}}, "vault": {"directory": "/v"}}
