# SPDX-License-Identifier: Apache-2.0
"""The history of VNFs: for how much of a time the RPO was kept, and what was done in it."""

from __future__ import annotations

import csv
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import InvalidInput, NotFound
from antipode.model.history import History, Made, Moved, VnfHistory, rpo_kept
from antipode.operations.reports import page, paper
from antipode.operations.reports.files import verify
from antipode.operations.reports.period import of_site, of_vnf
from antipode.operations.reports.period_files import write
from antipode.runs import kind_of
from antipode.service.scheduler import Scheduler
from tests.unit import samples

OPTION = "quiesced-snapshot"
DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


# How the RPO was kept.


def test_a_point_keeps_the_rpo_until_its_moment_is_too_old() -> None:
    kept = rpo_kept([Made(10, 0, 1)], [], 50, 10, 110)
    assert kept == (40, 100, 110)


def test_the_next_point_counts_from_its_commit_and_not_from_its_moment() -> None:
    points = [Made(0, 0, 1), Made(80, 60, 1)]
    assert rpo_kept(points, [], 70, 0, 130) == (70 + 50, 130, 80)


def test_a_point_from_before_the_time_counts_in_it() -> None:
    assert rpo_kept([Made(-10, -20, 1)], [], 40, 0, 100) == (20, 100, 120)


def test_time_without_a_point_is_not_kept() -> None:
    assert rpo_kept([], [], 40, 0, 100) == (0, 100, None)


def test_a_later_commit_of_an_older_moment_changes_nothing() -> None:
    points = [Made(0, 0, 1), Made(10, -50, 1)]
    assert rpo_kept(points, [], 40, 0, 100).kept_s == 40


def test_a_recovery_does_not_count_and_points_of_the_former_copy_say_nothing_after_it() -> None:
    points, move = [Made(0, 0, 1), Made(60, 55, 1), Made(80, 75, 2)], Moved(20, 50, 2)
    assert rpo_kept(points, [move], 1000, 0, 100) == (20 + 20, 70, 25)


def test_a_recovery_that_failed_leaves_the_points_as_they_were() -> None:
    assert rpo_kept([Made(0, 0, 1)], [Moved(20, 50, None)], 1000, 0, 100) == (70, 70, 100)


# What the database says.


class World:
    """A VNF whose runs are written as the test wants them."""

    def __init__(self, folder: Path) -> None:
        self.here = Deployment(config.load(str(samples.write_config(folder))))
        self.here.vnfs.put(samples.vnf(rpo="1h"))
        self.here.keys.prepare()
        self.now = time.time()

    def run(
        self, hours_ago: float, kind: str = "protect", state: str = "succeeded", **result: Any
    ) -> str:
        row = new_run(kind_of(kind), "hlr", {})
        run, ended = row.id, self.now - hours_ago * HOUR
        row.started_at = ended - MINUTE
        self.here.runs.create(row)
        self.here.runs.end(run, 0, state, ended, None, result)
        return run

    def protect(self, hours_ago: float, **result: Any) -> str:
        moment = datetime.fromtimestamp(self.now - hours_ago * HOUR - MINUTE, UTC).isoformat()
        return self.run(hours_ago, consistent_at=moment, **{"generation": 1, **result})

    def seen(self, since_s: float = DAY) -> VnfHistory:
        return of_vnf(self.here, "hlr", since_s, self.now).vnfs[0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_runs_of_the_time_are_counted_by_kind_and_result(world: World) -> None:
    world.protect(30)  # before the time
    window = {"quiesce_window_s": 2.0, "quiesce_budget_s": 3.0, "stored_bytes": 100}
    for hours, window_s in ((4, 1.0), (3, 2.0), (2, 9.0)):
        world.protect(hours, **{**window, "quiesce_window_s": window_s})
    world.run(1.5, state="failed")
    world.run(5, "drill", recovered_s=42.5)
    world.run(6, "drill", state="failed")
    world.run(7, "verify")
    seen = world.seen()
    assert (seen.points_made, seen.protections_failed, seen.stored_bytes) == (3, 1, 300)
    assert (seen.windows, seen.window_median_s, seen.window_longest_s) == (3, 2.0, 9.0)
    assert seen.windows_over_budget == 1
    assert (seen.drills_passed, seen.drills_failed, seen.drill_rto_s) == (1, 1, 42.5)
    assert (seen.verifications, seen.verifications_failed, seen.failovers) == (1, 0, 0)


def test_the_part_of_the_time_in_which_the_rpo_was_kept_begins_with_the_first_run(
    world: World,
) -> None:
    world.protect(4)
    world.protect(3.5)
    world.protect(1)
    seen = world.seen()
    # of 4 h and a minute: half an hour, 59 minutes until it was too old, and 59 minutes
    assert seen.rpo_kept_percent == pytest.approx(100 * (30 + 59 + 59) / 241, abs=0.5)
    assert seen.rpo_longest_s == pytest.approx(2.5 * HOUR + MINUTE, abs=1)
    assert seen.counted_from is not None and seen.rpo_target_s == HOUR


def test_many_failures_before_the_time_hide_no_point_that_was_still_young(world: World) -> None:
    world.here.vnfs.put(samples.vnf(rpo="40h"))
    world.protect(30)
    for number in range(60):
        world.run(29 - number / 20, state="failed")
    world.run(1, state="failed")
    assert world.seen().rpo_kept_percent == 100.0


def test_a_recovery_that_is_under_way_does_not_count_either(world: World) -> None:
    world.protect(3)
    row = new_run(kind_of("failover"), "hlr", {})
    row.started_at = world.now - 2 * HOUR - 2 * MINUTE  # while the point is young
    world.here.runs.create(row)
    assert world.seen(3 * HOUR - MINUTE).rpo_kept_percent == 100.0


def test_without_a_target_or_without_a_run_there_is_no_part(world: World) -> None:
    assert (world.seen().rpo_kept_percent, world.seen().counted_from) == (None, None)
    world.here.vnfs.put(samples.vnf())
    world.protect(1)
    assert world.seen().rpo_kept_percent is None
    assert world.seen().rpo_longest_s is not None


def test_a_part_that_is_nearly_all_is_not_shown_as_all(world: World) -> None:
    for quarter in range(20 * 4):
        world.protect(0.25 + quarter / 4)
    assert world.seen(DAY / 2).rpo_kept_percent == 100.0
    world.run(6, "failover", generation=2, rto_s=60.0)
    seen = world.seen(DAY / 2)
    assert seen.rpo_kept_percent is not None and seen.rpo_kept_percent < 99
    assert (seen.failovers, seen.failover_rto_s) == (1, 60.0)


def test_missed_slots_are_those_of_the_time(world: World) -> None:
    schedules, of = world.here.schedules, ("hlr", "quiesced-snapshot")
    schedules.begin(of, None, "{}", world.now - 10 * DAY)
    for days_ago, missed in ((3.0, 7), (0.5, 2), (0.25, 1)):
        known, last = schedules.all()[of], world.now - days_ago * DAY
        slots = [last - MINUTE * n for n in reversed(range(missed))]
        assert schedules.pass_over(known, last, slots, "no service")
    assert world.seen().missed_intervals == 3
    assert world.seen(5 * DAY).missed_intervals == 10
    schedules.forget_missed(world.now - DAY)
    assert world.seen(5 * DAY).missed_intervals == 3


def test_slots_that_are_settled_together_were_missed_each_at_its_moment(world: World) -> None:
    world.here.vnfs.put(samples.vnf(protections={"schedule": {"every": "15m"}}))
    schedules, of = world.here.schedules, ("hlr", OPTION)
    Scheduler(world.here, now=lambda: world.now - 6 * DAY).look()
    assert of in schedules.all()
    # no service was there for six days
    Scheduler(world.here, now=lambda: world.now).look()
    assert abs(schedules.all()[of].missed - 6 * 96) <= 2
    assert abs(world.seen(DAY).missed_intervals - 96) <= 2
    assert world.seen(7 * DAY).missed_intervals == schedules.all()[of].missed


def test_a_site_has_the_vnfs_that_are_active_there(world: World) -> None:
    world.here.vnfs.put(samples.vnf(vnf="sms", primary="site-b", backup="site-a"))
    assert [v.vnf for v in of_site(world.here, "site-a", DAY).vnfs] == ["hlr"]
    assert [v.vnf for v in of_site(world.here, "site-b", DAY).vnfs] == ["sms"]
    with pytest.raises(NotFound):
        of_site(world.here, "site-x", DAY)
    assert of_site(world.here, "site-a", DAY).notes == []
    with world.here.database.begin() as connection:
        connection.exec_driver_sql("UPDATE vnfs SET definition = '[]' WHERE name = 'sms'")
    (note,) = of_site(world.here, "site-a", DAY).notes
    assert "sms" in note


def test_what_is_not_known_is_refused_and_a_time_before_the_history_is_said(world: World) -> None:
    with pytest.raises(NotFound):
        of_vnf(world.here, "nothing", DAY)
    with pytest.raises(InvalidInput):
        of_vnf(world.here, "hlr", -1)
    assert of_vnf(world.here, "hlr", 30 * DAY).notes == []
    assert len(of_vnf(world.here, "hlr", 400 * DAY).notes) == 1


# As files.


def test_its_files_are_signed_and_a_changed_one_does_not_verify(
    world: World, tmp_path: Path
) -> None:
    world.protect(1, stored_bytes=7)
    found = of_vnf(world.here, "hlr", DAY)
    record = write(world.here, found, tmp_path / "evidence")
    files = {Path(name).suffix: Path(name) for name in record["files"]}
    assert {".json", ".csv", ".html"} <= files.keys()
    assert History.model_validate_json(files[".json"].read_text()) == found
    (row,) = csv.DictReader(io.StringIO(files[".csv"].read_text()))
    assert (row["vnf"], row["stored_bytes"]) == ("hlr", "7")
    signature = Path(record["signature"])
    for file in files.values():
        assert verify(world.here, file, signature)["kind"] == "history"
    data = json.loads(files[".json"].read_text())
    files[".json"].write_text(json.dumps(data))
    with pytest.raises(Exception, match="is not what was signed"):
        verify(world.here, files[".json"], signature)


def test_figures_on_the_page_are_whole(world: World) -> None:
    found = of_vnf(world.here, "hlr", DAY).vnfs[0]
    long_ago = found.model_copy(update={"rpo_longest_s": 1234567.891, "rpo_target_s": 2592000.0})
    shown = dict(page.figures(long_ago))
    assert (shown["rpo longest s"], shown["rpo target s"]) == ("1234567.891", "2592000")


def test_names_are_escaped_on_the_page(world: World) -> None:
    found = of_vnf(world.here, "hlr", DAY)
    hostile = found.model_copy(update={"made_by": "<script>alert(1)</script>"})
    shown = page.history_html(hostile).decode()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert paper.history_pdf(hostile).startswith(b"%PDF")
