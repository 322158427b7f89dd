# SPDX-License-Identifier: Apache-2.0
"""The timeline of a run when its database fails, refuses a value, or loses its writer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from antipode import logs
from antipode.engine import timeline as timelines
from antipode.engine.timeline import RecordedTimeline, Unobserved
from antipode.errors import AntipodeError
from antipode.model.steps import Steps
from antipode.store.database import open_database
from antipode.store.runs import Runs
from antipode.store.tables import RunRow

WITHIN_S = 60.0


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path}/antipode.db")


@pytest.fixture
def runs(engine: Engine) -> Runs:
    runs = Runs(engine)
    runs.create(
        RunRow(
            id="protect-1", kind="protect", vnf="hlr", state="running", started_at=1.0, result={}
        )
    )
    return runs


@pytest.fixture
def timeline(runs: Runs) -> Iterator[RecordedTimeline]:
    with (
        logs.run_in_logs("protect-1"),
        RecordedTimeline(runs, "protect-1", 0, Unobserved()) as timeline,
    ):
        yield timeline


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_full_disk_is_reported_once_and_what_it_refused_is_written_when_there_is_room(
    engine: Engine, runs: Runs, timeline: RecordedTimeline, caplog: pytest.LogCaptureFixture
) -> None:
    room = {"pages": 1}  # fewer than the database has: SQLite lets it keep those, and no more
    event.listen(
        engine,
        "checkout",
        lambda connection, *_: connection.execute(f"PRAGMA max_page_count = {room['pages']}"),
    )
    for number in range(20):
        with timeline.step(Steps.CONNECT, f"{number} {'x' * 250}") as step:
            step.result(much="x" * 4096)
        timeline.flush()
    assert len(errors(caplog)) == 1
    assert "full" in errors(caplog)[0]
    room["pages"] = 1 << 30
    kept = [step.resource for step in timeline.kept()]
    assert kept == [f"{number} {'x' * 250}" for number in range(20)]


def test_a_failing_writer_is_not_fed_with_its_own_failure(
    runs: Runs,
    timeline: RecordedTimeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writes: list[int] = []

    def fail(run: str, claim: int, steps: Any) -> None:
        writes.append(len(steps))
        raise OperationalError("INSERT", {}, ConnectionError("the database is away"))

    monkeypatch.setattr(runs, "keep", fail)
    timeline.note("something")
    for _ in range(3):
        timeline.flush()
    assert set(writes) == {1}
    assert len(errors(caplog)) == 1


def test_warnings_of_others_during_an_outage_are_bounded_in_memory(
    runs: Runs, timeline: RecordedTimeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runs.keep

    def fail(run: str, claim: int, steps: Any) -> None:
        raise OperationalError("INSERT", {}, ConnectionError("the database is away"))

    monkeypatch.setattr(timelines, "MOST_UNWRITTEN", 5)
    monkeypatch.setattr(runs, "keep", fail)
    for number in range(50):
        timeline.note(f"note {number}")
        timeline.flush()
    monkeypatch.setattr(runs, "keep", real)
    assert [step.name for step in timeline.kept()] == [f"note {n}" for n in range(45, 50)]


def test_an_error_that_is_not_the_databases_ends_neither_the_writer_nor_its_neighbours(
    timeline: RecordedTimeline, caplog: pytest.LogCaptureFixture
) -> None:
    with timeline.step(Steps.CONNECT):
        pass
    with timeline.step(Steps.DISCOVER) as step:
        step.result(value=object())
    with timeline.step(Steps.CHECK):
        pass
    states = {s.name: s.state for s in timeline.kept()}
    assert (states[Steps.CONNECT.words], states[Steps.CHECK.words]) == ("succeeded", "succeeded")
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("text", ["db\udc80", "\ud800", "a\0b", "x" * 300])
def test_text_that_a_database_cannot_hold_is_stored_in_a_readable_form(
    timeline: RecordedTimeline, text: str
) -> None:
    with timeline.step(Steps.QUIESCE, text) as step:
        step.result(error=text)
    [kept] = timeline.kept()
    assert kept.state == "succeeded"
    whole = text.encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
    assert kept.result == {"error": whole}
    assert kept.resource == (whole if len(whole) <= 255 else whole[:254] + "…")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_waiting_for_a_writer_that_has_ended_fails(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_thread(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(runs, "keep", end_thread)
    monkeypatch.setattr(timelines, "LOOK_S", 0.01)
    with RecordedTimeline(runs, "protect-1", 0, Unobserved()) as timeline:
        timeline.note("something")
        timeline._writer.join(WITHIN_S)
        with pytest.raises(AntipodeError):
            timeline.flush()
        with pytest.raises(AntipodeError):
            timeline.kept()


def test_a_full_disk_is_reported_once_by_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("a-log-of-its-own")
    log.propagate = False
    handler = logs._PrivateFile("/dev/full", delay=True)
    handler._open = lambda: open("/dev/full", "w")  # type: ignore  # noqa: PTH123, SIM115
    log.addHandler(handler)
    try:
        for _ in range(5):
            log.error("no room")
    finally:
        log.removeHandler(handler)
    told = capsys.readouterr().err
    assert told.count("/dev/full") == 1
    assert "Traceback" not in told


def test_a_lone_surrogate_is_escaped_in_the_log_file(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    logs.log_to_file(tmp_path / "antipode.log", "json")
    try:
        logging.getLogger().error("server \udc80")
        assert r"server \udc80" in (tmp_path / "antipode.log").read_text()
    finally:
        for handler in set(logging.getLogger().handlers) - set(before):
            logging.getLogger().removeHandler(handler)
            handler.close()
