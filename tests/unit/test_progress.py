# SPDX-License-Identifier: Apache-2.0
"""How far a run is: what it does, what it waits for, and how long it may still take by what the
last one took.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session

from antipode.cli import run_watch
from antipode.engine import run as engine_runs
from antipode.engine.timeline import WAITS_FOR, WAITS_SINCE
from antipode.errors import AntipodeError, NotFound
from antipode.operations.progress import outlook
from antipode.store.database import open_database
from antipode.store.runs import Runs
from antipode.store.tables import RunRow, StepRow

NOW = 10_000.0


class Kept:
    """Runs and steps in a database."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder}/antipode.db")
        self.runs = Runs(self.engine)

    def run(
        self,
        run: str,
        started: float,
        ended: float | None = None,
        state: str = "running",
        *,
        kind: str = "protect",
    ) -> None:
        row = RunRow(
            id=run, kind=kind, vnf="hlr", state=state, started_at=started, ended_at=ended, result={}
        )
        self._put(row)

    def step(
        self,
        run: str,
        name: str,
        started: float,
        ended: float | None = None,
        state: str = "succeeded",
        resource: str = "x",
        **result: Any,
    ) -> None:
        state = state if ended is not None else "running"
        row = StepRow(
            id=f"{run[-1]}{resource}{name}"[:32],
            run=run,
            number="1",
            name=name,
            resource=resource,
            state=state,
            result=result,
        )
        row.started_at, row.ended_at = started, ended
        self._put(row)

    def _put(self, row: Any) -> None:
        with Session(self.engine) as session, session.begin():
            session.merge(row)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_the_time_left_is_what_the_last_run_still_took_after_the_same_step(kept: Kept) -> None:
    kept.run("old-1", 0, 100, "succeeded")
    kept.step("old-1", "freeze", 0, 10)
    kept.step("old-1", "back up", 10, 90)
    kept.run("new-2", NOW)
    kept.step("new-2", "freeze", NOW, NOW + 20)  # took longer than last time
    estimate = outlook(kept.runs, "new-2", NOW + 50).estimate
    assert estimate is not None
    assert (estimate.left_s, estimate.judged_by) == (60, "old-1")


def test_a_run_that_takes_longer_than_the_last_one_says_by_how_much(kept: Kept) -> None:
    kept.run("old-1", 0, 100, "succeeded")
    kept.run("new-2", NOW)
    estimate = outlook(kept.runs, "new-2", NOW + 130).estimate
    assert estimate is not None
    assert estimate.left_s == -30


def test_nothing_is_estimated_from_a_run_that_failed_or_was_of_another_kind(kept: Kept) -> None:
    kept.run("old-1", 0, 100, "failed")
    kept.run("old-2", 0, 100, "succeeded", kind="failover")
    kept.run("new-3", NOW)
    assert outlook(kept.runs, "new-3", NOW + 1).estimate is None


GIB = 1 << 30


def first_failover(kept: Kept, *, answers: bool = True) -> None:
    """Of db, and then app: each with a volume of 1 GiB and one of 3."""

    def server(name: str, after: list[str]) -> dict[str, Any]:
        volumes = [
            {"name": f"{name}-{kind}", "source_id": "s", "size_gib": size}
            for kind, size in (("root", 1), ("data", 3))
        ]
        return {
            "name": name,
            "volumes": volumes,
            "after": after,
            "answers": {"tcp": 80} if answers else None,
        }

    row = RunRow(id="new-1", kind="failover", vnf="hlr", state="running", started_at=NOW, result={})
    row.request = {"plan": {"servers": [server("db", []), server("app", ["db"])]}}
    kept._put(row)


def estimated(kept: Kept, at: float) -> tuple[float, str] | None:
    estimate = outlook(kept.runs, "new-1", NOW + at).estimate
    return (round(estimate.left_s, 1), estimate.judged_by) if estimate else None


def test_the_first_run_of_its_kind_is_judged_by_the_pace_of_its_own_volumes(kept: Kept) -> None:
    first_failover(kept)
    kept.step("new-1", "restore volume", NOW, resource="db-root")
    kept.step("new-1", "restore volume", NOW, resource="db-data")
    assert estimated(kept, 5) is None  # nothing is known yet
    kept.step("new-1", "restore volume", NOW, NOW + 10, resource="db-root")
    kept.step("new-1", "restore volume", NOW + 10, resource="app-root")
    # 10 s for a GiB: 18 s of db-data, 8 s of app-root and 30 s of app-data are left, two at once,
    # but app-data takes its 30 s
    words = (
        "this run: 1 of 4 volumes restored, 0 of 2 servers there, their boots not counted in yet"
    )
    assert estimated(kept, 12) == (30, words)
    kept.step("new-1", "restore volume", NOW + 20, resource="app-data")
    assert estimated(kept, 24) == (26, words)


def test_what_still_waits_for_its_turn_is_shared_by_as_many_as_are_moved_at_once(
    kept: Kept,
) -> None:
    first_failover(kept)
    kept.step("new-1", "restore volume", NOW, NOW + 30, resource="db-data")
    kept.step("new-1", "restore volume", NOW + 30, resource="db-root")
    estimate = estimated(kept, 30)
    assert estimate is not None
    assert estimate[0] == 10 + 10 + 30  # one after another


def test_a_volume_that_was_restored_by_an_earlier_process_says_nothing_of_the_pace(
    kept: Kept,
) -> None:
    first_failover(kept)
    kept.step("new-1", "restore volume", NOW, NOW + 0.1, resource="db-data", found=True)
    assert estimated(kept, 1) is None
    kept.step("new-1", "restore volume", NOW, NOW + 10, resource="db-root")
    estimate = estimated(kept, 10)
    assert estimate is not None
    assert estimate[0] == 30
    assert "2 of 4 volumes" in estimate[1]


@pytest.mark.parametrize("answers", [True, False])
def test_servers_that_boot_one_after_the_other_are_judged_by_those_that_are_there(
    kept: Kept, answers: bool
) -> None:
    first_failover(kept, answers=answers)
    for volume in ("db-root", "db-data", "app-root", "app-data"):
        kept.step("new-1", "restore volume", NOW, NOW + 10, resource=volume)
    kept.step("new-1", "boot server", NOW + 10, NOW + 14, resource="db")
    if answers:
        words = (
            "this run: 4 of 4 volumes restored, 0 of 2 servers there, their boots not "
            "counted in yet"
        )
        assert estimated(kept, 14) == (0, words)
        kept.step("new-1", "await answer", NOW + 14, NOW + 20, resource="db")
    there = 20 if answers else 14
    took = there - 10
    kept.step("new-1", "boot server", NOW + there, resource="app")
    assert estimated(kept, there + 3) == (
        took - 3,
        "this run: 4 of 4 volumes restored, 1 of 2 servers there",
    )
    assert estimated(kept, there + 60) == (
        0,
        "this run: 4 of 4 volumes restored, 1 of 2 servers there",
    )


def test_the_first_protection_is_judged_by_the_volumes_it_has_backed_up(kept: Kept) -> None:
    kept.run("new-1", NOW)
    kept.step(
        "new-1",
        "discover servers and volumes",
        NOW,
        NOW + 1,
        bytes_of_volumes={"root": 10 * GIB, "data": 20 * GIB},
    )
    assert estimated(kept, 5) is None
    kept.step("new-1", "back up and export record", NOW + 1, NOW + 11, resource="root")
    kept.step("new-1", "back up and export record", NOW + 1, resource="data")
    assert estimated(kept, 16) == (5, "this run: 1 of 2 volumes backed up")


def test_a_run_that_is_taken_back_is_not_estimated_and_says_what_it_does(kept: Kept) -> None:
    kept.run("old-1", 0, 100, "succeeded")
    kept.run("new-2", NOW)
    row = kept.runs.get("new-2")
    row.ending = "aborted"
    kept._put(row)
    seen = outlook(kept.runs, "new-2", NOW + 50)
    assert seen.estimate is None
    assert "left" not in run_watch._state_line(seen, NOW + 50, "failed")


def test_the_line_of_a_run_says_what_its_estimate_comes_from(kept: Kept) -> None:
    first_failover(kept)
    line = run_watch._state_line(outlook(kept.runs, "new-1", NOW + 5), NOW + 5, "running")
    assert "left" not in line
    kept.step("new-1", "restore volume", NOW, NOW + 10, resource="db-root")
    line = run_watch._state_line(outlook(kept.runs, "new-1", NOW + 10), NOW + 10, "running")
    assert "left, judged by this run: 1 of 4 volumes restored" in line


def test_what_is_under_way_is_told_the_oldest_first(kept: Kept) -> None:
    kept.run("new-1", NOW)
    kept.step("new-1", "second", NOW + 2)
    kept.step("new-1", "first", NOW + 1)
    kept.step("new-1", "over", NOW, NOW + 1)
    assert [s.name for s in outlook(kept.runs, "new-1", NOW + 3).under_way] == ["first", "second"]


def test_a_run_that_is_not_there_is_not_watched(kept: Kept) -> None:
    with pytest.raises(NotFound, match="nothing"):
        outlook(kept.runs, "nothing", NOW)


def watched(
    kept: Kept, then: Callable[[], None], view: type, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Watch run new-1. When it has been looked at, something happens to it."""
    looks = iter(range(10**9))

    def look_again(pause_s: float) -> None:
        if next(looks) == 0:
            then()

    monkeypatch.setattr(run_watch, "time", SimpleNamespace(**{**vars(time), "sleep": look_again}))
    deployment: Any = SimpleNamespace(runs=kept.runs, config=None)
    told = io.StringIO()
    code = run_watch._watch(deployment, "new-1", view(told))
    return code, told.getvalue()


def test_a_watch_tells_each_step_once_what_is_waited_for_and_how_the_run_ended(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_runs, "state_of", lambda run, config: run.state)
    now = time.time()
    kept.run("new-1", now)
    kept.step("new-1", "freeze", now, now + 1)
    waits: dict[str, Any] = {WAITS_FOR: "backup b-1, which is creating", WAITS_SINCE: now + 1}
    kept.step(
        "new-1",
        "back up",
        now + 1,
        None,
        **waits,
    )

    def then() -> None:
        kept.step("new-1", "back up", now + 1, now + 3)
        kept.run("new-1", now, now + 3, "succeeded")

    code, told = watched(kept, then, run_watch._Plain, monkeypatch)
    assert code == 0
    assert told.count("freeze") == told.count("back up") == 1
    assert "b-1" in told
    assert told.splitlines()[-1] == "new-1: succeeded after 3 s"


def test_a_watch_for_programs_tells_one_object_per_change(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_runs, "state_of", lambda run, config: run.state)
    now = time.time()
    kept.run("new-1", now)
    kept.step("new-1", "freeze", now)

    def then() -> None:
        kept.step("new-1", "freeze", now, now + 1, "failed", error="no agent")
        kept.run("new-1", now, now + 1, "failed")

    code, told = watched(kept, then, run_watch._Lines, monkeypatch)
    events = [json.loads(line) for line in told.splitlines()]
    assert code == 1
    assert [(e["event"], e["state"]) for e in (events[0], events[-1])] == [
        ("run", "running"),
        ("run", "failed"),
    ]
    assert [u["step"] for u in events[0]["under_way"]] == ["freeze"]
    assert [(e["state"], e["result"]) for e in events if e["event"] == "step"] == [
        ("failed", {"error": "no agent"})
    ]


def test_the_watch_of_a_run_whose_process_died_ends_and_says_how_to_go_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_runs, "state_of", lambda run, config: "lost")
    monkeypatch.setattr(run_watch, "LOST_S", 0.1)
    kept.run("new-1", time.time())
    with pytest.raises(AntipodeError, match="antipode run resume new-1"):
        watched(kept, lambda: None, run_watch._Plain, monkeypatch)


def test_a_run_that_is_taken_up_again_is_watched_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "LOST_S", 1.5)
    clock = SimpleNamespace(s=100.0, states=["lost", "running", "lost", "running"])

    def state_of(run: RunRow, deployment: Any) -> str:
        clock.s += 1  # from one look to the next
        if not clock.states:
            kept.run("new-1", time.time(), time.time(), "succeeded")
            return "running"
        return str(clock.states.pop(0))

    monkeypatch.setattr(engine_runs, "state_of", state_of)
    kept.run("new-1", time.time())
    clocked = SimpleNamespace(
        **{**vars(time), "sleep": lambda _: None, "monotonic": lambda: clock.s}
    )
    monkeypatch.setattr(run_watch, "time", clocked)
    deployment: Any = SimpleNamespace(runs=kept.runs, config=None)
    assert run_watch._watch(deployment, "new-1", run_watch._Plain(io.StringIO())) == 0
    clock.states = ["lost"] * 3
    kept.run("new-1", time.time())
    with pytest.raises(AntipodeError) as caught:
        run_watch._watch(deployment, "new-1", run_watch._Plain(io.StringIO()))
    assert caught.value.resource == "run new-1"


def test_what_a_step_waits_for_is_kept_while_it_is_under_way_and_with_its_failure(
    kept: Kept,
) -> None:
    from antipode.engine.timeline import RecordedTimeline, Unobserved
    from antipode.model.steps import Steps

    kept.run("new-1", time.time())
    with RecordedTimeline(kept.runs, "new-1", 0, Unobserved()) as timeline:
        with timeline.step(Steps.DISCOVER) as step:
            step.waits_for("volume v is creating")
            step.waits_for("volume v is creating")
            step.waits_for("volume v is downloading")
            [under_way] = timeline.kept()
            assert under_way.result[WAITS_FOR] == "volume v is downloading"
            assert time.time() - under_way.result[WAITS_SINCE] < 60
        with pytest.raises(AntipodeError), timeline.step(Steps.CHECK) as step:
            step.waits_for("volume w is creating")
            raise AntipodeError("too late")
    good, bad = kept.runs.steps("new-1")
    assert good.result == {}
    assert bad.result[WAITS_FOR] == "volume w is creating"


def test_warnings_of_a_run_are_in_its_timeline_and_those_of_others_are_not(
    kept: Kept,
) -> None:
    from antipode.engine.timeline import RecordedTimeline, Unobserved
    from antipode.logs import run_in_logs

    ours = logging.getLogger("antipode.engine")
    kept.run("new-1", time.time())
    with RecordedTimeline(kept.runs, "new-1", 0, Unobserved()) as timeline:
        timeline.note("begins: process 1 on host")
        with run_in_logs("new-1"):
            ours.warning("server %s is thawed by the reaper", "db")
            ours.info("nothing to worry about")
        with run_in_logs("other"):
            ours.warning("another's")
    ours.warning("after the run")
    assert [(s.name, s.state) for s in kept.runs.steps("new-1")] == [
        ("begins: process 1 on host", "noted"),
        ("server db is thawed by the reaper", "warning"),
    ]
