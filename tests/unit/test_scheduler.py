# SPDX-License-Identifier: Apache-2.0
"""The scheduler: which slots begin a run, whichever host or process dies, and whatever the clock
does. The clock is the test's; nothing here waits for time to pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import InvalidInput, NotFound
from antipode.model.schedule import Schedule
from antipode.model.state import VnfState
from antipode.model.vnf import Vnf
from antipode.operations import protections, remove_vnf
from antipode.operations.vnfs import add
from antipode.runs import kind_of
from antipode.runs.protect import ProtectRequest
from antipode.service import scheduler
from antipode.service.scheduler import AHEAD_S, ON_TIME_S, Scheduler
from antipode.store import database
from antipode.store.tables import RunRow, ScheduleRow, VnfRow
from tests.unit import samples

MINUTE, HOUR = 60.0, 3600.0
NOON = datetime(2026, 11, 29, 12, tzinfo=ZoneInfo("UTC")).timestamp()
WITHIN_S = 60.0


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Host:
    """A scheduler with a connection of its own to the database of all."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.deployment = Deployment(config.load(str(path)))
        self.scheduler = Scheduler(self.deployment, clock)
        self.clock = clock

    def at(self, minutes: float) -> list[float]:
        """Look at so many minutes after noon; the slots of the runs that this has begun, in minutes
        after noon.
        """
        before = {row.id for row in self.deployment.runs.all()}
        self.clock.now = NOON + minutes * MINUTE
        self.scheduler.look()
        begun = [row for row in self.deployment.runs.all() if row.id not in before]
        return sorted((slot_of(row) - NOON) / MINUTE for row in begun)

    def end_all(self, state: str = "succeeded") -> None:
        for row in self.deployment.runs.open():
            self.deployment.runs.end(row.id, row.claim, state, self.clock.now, None, {})

    def progress(self, vnf: str = "hlr") -> ScheduleRow:
        return self.deployment.schedules.all()[vnf, "quiesced-snapshot"]


def slot_of(row: RunRow) -> float:
    slot = ProtectRequest.of(row).due_at
    assert slot is not None
    return slot


def a_vnf(name: str = "hlr", quiesce: dict[str, Any] | None = None, **schedule: Any) -> Vnf:
    protection = {"schedule": schedule or {"every": "15m"}, "quiesce": quiesce or {}}
    return samples.vnf(vnf=name, protections=protection)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return samples.write_config(tmp_path)


@pytest.fixture
def host(path: Path) -> Host:
    """A host whose only VNF has been known since a minute past noon."""
    made = Host(path, Clock())
    add(made.deployment, a_vnf())
    assert made.at(1) == []
    return made


def test_a_slot_begins_one_run_and_is_then_settled(host: Host) -> None:
    assert host.at(14.9) == []
    assert host.at(15) == [15]
    (row,) = host.deployment.runs.open()
    assert (row.kind, row.vnf, row.state) == ("protect", "hlr", "queued")
    assert host.progress().run == row.id
    host.end_all()
    assert host.at(15.1) == []
    assert host.at(30) == [30]


def test_a_vnf_without_a_schedule_is_left_alone(path: Path) -> None:
    host = Host(path, Clock())
    add(host.deployment, samples.vnf())
    assert host.at(0) == host.at(60) == []
    assert host.deployment.schedules.all() == {}


def test_a_changed_schedule_begins_with_its_next_slot(host: Host) -> None:
    add(host.deployment, a_vnf(every="5m"))
    assert host.at(13) == []
    assert host.at(15) == [15]
    assert host.progress().missed == 0


def test_a_changed_file_with_the_same_schedule_loses_no_slot(host: Host) -> None:
    add(host.deployment, a_vnf(quiesce={"timeout": "20s"}, every="15m", catch_up="none"))
    assert host.at(15) == [15]
    (row,) = host.deployment.runs.open()
    assert ProtectRequest.of(row).vnf.protections[0].settings == {"quiesce": {"timeout": "20s"}}


def test_each_vnf_begins_at_its_own_delay_after_the_slot(path: Path) -> None:
    host = Host(path, Clock())
    for number in range(20):
        add(host.deployment, a_vnf(f"vnf-{number}", every="15m", jitter="10m"))
    host.at(11)
    begun = [host.at(15 + minute) for minute in range(11)]
    assert sum(map(len, begun)) == 20
    assert all(slot == 15 for slots in begun for slot in slots)
    assert max(map(len, begun)) < 10


def test_a_slot_waits_while_the_last_run_is_open_and_the_newest_one_is_made_up_for(
    host: Host,
) -> None:
    host.at(15)
    assert host.at(30) == host.at(45) == host.at(46) == []
    progress = host.progress()
    assert (progress.missed, progress.reason) == (1, f"run {progress.run} has not ended")
    host.end_all()
    assert host.at(47) == [45]
    assert (host.progress().missed, host.progress().reason) == (1, None)
    host.end_all()
    assert host.at(60) == [60]


def test_a_lost_run_keeps_its_slot_until_it_has_ended(host: Host) -> None:
    host.at(15)
    (row,) = host.deployment.runs.open()
    host.deployment.claims.take(row.id).release()
    assert host.deployment.runs.get(row.id).state == "running"
    assert host.at(30) == []


def test_a_failed_run_has_used_its_slot(host: Host) -> None:
    host.at(15)
    host.end_all("failed")
    assert host.at(16) == []
    assert host.at(30) == [30]
    assert host.progress().missed == 0


def test_after_a_downtime_one_run_makes_up_for_all_slots(host: Host) -> None:
    assert host.at(65) == [60]
    assert host.progress().missed == 3
    host.end_all()
    assert host.at(66) == []


def test_after_a_downtime_no_slot_is_made_up_for_where_that_is_said(host: Host) -> None:
    add(host.deployment, a_vnf(every="15m", catch_up="none"))
    assert host.at(65) == []
    assert host.progress().missed == 4
    assert host.at(75 + ON_TIME_S / MINUTE) == [75]


def test_a_daily_slot_that_nobody_was_there_for_is_made_up_for_in_the_morning(path: Path) -> None:
    host = Host(path, Clock())
    add(host.deployment, a_vnf(cron="0 3 * * *"))
    host.at(0)
    assert host.at(21 * 60) == [15 * 60]  # 03:00 is 15 hours after noon


def test_a_downtime_of_years_is_over_in_one_look(host: Host) -> None:
    years = 5 * 365 * 24 * 60
    assert host.at(years) == [years]
    assert host.progress().missed >= 9_000


def test_a_paused_protection_begins_nothing_and_continues_with_the_next_slot(host: Host) -> None:
    assert protections.pause(host.deployment, "hlr", because="upgrade") is None
    assert host.at(15) == host.at(30) == []
    (listed,) = protections.protections(host.deployment, "hlr")
    assert listed.next_at is None
    assert listed.progress is not None
    assert listed.progress.paused_because == "upgrade"
    assert protections.resume(host.deployment, "hlr") == ["quiesced-snapshot"]
    assert protections.resume(host.deployment, "hlr") == []
    assert host.at(31) == []
    assert host.at(45) == [45]
    assert host.progress().missed == 0


def test_a_pause_between_two_looks_moves_no_slot(host: Host) -> None:
    assert host.at(15) == [15]
    host.end_all()
    assert host.at(16) == []
    protections.pause(host.deployment, "hlr")
    protections.resume(host.deployment, "hlr")
    assert host.at(17) == []
    assert host.at(30) == [30]


def test_slots_are_not_looked_for_again_before_the_next_is_due(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(host.deployment, a_vnf("hlr", cron="*/15 * * * *", timezone="Europe/Berlin"))
    assert host.at(1) == host.at(1.1) == []
    looked, slot_at = list[float](), Schedule.slot_at

    def counted(self: Schedule, at: float) -> float | None:
        looked.append(at)
        return slot_at(self, at)

    monkeypatch.setattr(Schedule, "slot_at", counted)
    assert host.at(2) == host.at(14) == looked == []
    assert host.at(15) == [15]


def test_a_pause_does_not_stop_the_run_that_is_under_way(host: Host) -> None:
    host.at(15)
    (row,) = host.deployment.runs.open()
    assert protections.pause(host.deployment, "hlr") == row.id
    assert host.deployment.runs.get(row.id).abort_requested_at is None


def test_a_pause_before_any_service_has_looked_is_kept(path: Path) -> None:
    host = Host(path, Clock())
    add(host.deployment, a_vnf())
    protections.pause(host.deployment, "hlr")
    assert host.at(1) == host.at(15) == []
    add(host.deployment, a_vnf(every="5m"))  # another file is no reason to resume
    assert host.at(20) == host.at(25) == []


def test_what_has_no_schedule_cannot_be_paused(path: Path) -> None:
    deployment = Deployment(config.load(str(path)))
    add(deployment, samples.vnf())
    add(deployment, a_vnf("mme"))
    with pytest.raises(InvalidInput):
        protections.pause(deployment, "hlr")
    with pytest.raises(InvalidInput):
        protections.resume(deployment, "mme", "no-such-option")
    with pytest.raises(NotFound):
        protections.pause(deployment, "smf")


# The active site.


def test_while_a_vnf_fails_over_nothing_begins_and_afterwards_its_new_site_is_protected(
    host: Host,
) -> None:
    host.deployment.states.keep(samples.moved(VnfState.FAILING_OVER))
    assert host.at(15) == host.at(30) == []
    assert "failing over" in str(host.progress().reason)
    assert host.progress().missed == 1
    host.deployment.states.keep(samples.moved(VnfState.ACTIVE))
    assert host.at(31) == [30]
    (row,) = host.deployment.runs.open()
    request = ProtectRequest.of(row)
    assert (request.site, request.generation) == ("site-b", 2)


def test_an_open_failover_holds_the_schedule_up(host: Host) -> None:
    host.deployment.runs.create(new_run(kind_of("failover"), "hlr", {}))
    assert host.at(15) == []
    host.end_all()
    assert host.at(16) == [15]


# Hours to avoid.


def test_no_run_begins_in_the_hours_that_the_quiesce_avoids_and_none_of_those_was_missed(
    path: Path,
) -> None:
    host = Host(path, Clock())
    add(
        host.deployment,
        a_vnf(quiesce={"avoid": "13:20-14:10"}, every="15m", timezone="Europe/Berlin"),
    )  # noon in UTC is 13:00
    host.at(1)
    assert host.at(15) == [15]
    host.end_all()
    assert host.at(30) == host.at(45) == host.at(60) == []
    assert "13:20-14:10" in str(host.progress().reason)
    assert host.at(71) == [60]
    assert host.progress().missed == 0


@pytest.mark.parametrize("accepted", ["group", "volume"])
def test_a_file_that_accepts_members_as_they_run_has_points_in_hours_to_avoid(
    path: Path, accepted: str
) -> None:
    host = Host(path, Clock())
    protection = {
        "schedule": {"every": "15m"},
        "quiesce": {"avoid": "12:10-12:50"},
        "consistency": accepted,
    }
    add(host.deployment, samples.vnf(protections=protection))
    host.at(1)
    assert host.at(15) == [15]
    host.end_all()
    assert host.at(46) == [45]
    assert host.progress().missed == 1  # it would have begun a run


def test_hours_to_avoid_without_a_schedule_are_refused(tmp_path: Path) -> None:
    from antipode.operations.vnfs import read_file

    file = tmp_path / "hlr.yaml"
    text = samples.VNF_FILE + "protections:\n- quiesce: {avoid: 08:00-09:00}\n"
    settings = config.load(str(samples.write_config(tmp_path)))
    file.write_text(text)
    with pytest.raises(InvalidInput):
        read_file(file, settings)
    file.write_text(text + "  schedule: {every: 15m}\n")
    assert read_file(file, settings).protections[0].schedule is not None


# Clocks.


def test_a_clock_that_jumps_ahead_and_back_begins_one_run_too_many_and_loses_none(
    host: Host,
) -> None:
    assert host.at(15) == [15]
    host.end_all()
    assert host.at(600) == [600]
    host.end_all()
    assert host.at(16) == [15]  # what was settled ahead of its time does not count
    host.end_all()
    assert host.at(17) == []
    assert host.at(30) == [30]


def test_a_clock_that_is_corrected_by_seconds_begins_no_slot_twice(host: Host) -> None:
    assert host.at(15) == [15]
    host.end_all()
    assert host.at(15 - (AHEAD_S - 1) / MINUTE) == []
    assert host.at(15.1) == []


def test_the_clock_of_a_file_is_that_of_the_host(path: Path) -> None:
    deployment = Deployment(config.load(str(path)))
    before = datetime.now().timestamp()
    Scheduler(deployment).look()
    assert database.now(deployment.database) >= before


# Several hosts, and what may happen to them.


def test_of_many_hosts_that_look_at_the_same_moment_one_begins_each_slot(
    path: Path, host: Host
) -> None:
    hosts = [Host(path, host.clock) for _ in range(4)]
    for made in hosts:
        made.scheduler.look()
    for slot in range(1, 6):
        host.clock.now = NOON + slot * 15 * MINUTE
        together = threading.Barrier(len(hosts))

        def look(made: Host, together: threading.Barrier = together) -> None:
            together.wait(WITHIN_S)
            made.scheduler.look()

        with ThreadPoolExecutor(len(hosts)) as threads:
            list(threads.map(look, hosts))
        assert [slot_of(row) for row in host.deployment.runs.open()] == [host.clock.now]
        host.end_all()
    assert host.progress().missed == 0
    assert len(host.deployment.runs.all()) == 5


def test_a_host_that_read_before_another_settled_a_slot_changes_nothing(
    path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Host(path, host.clock)
    known = host.deployment.schedules.all()
    assert other.at(15) == [15]
    other.end_all()
    monkeypatch.setattr(host.deployment.schedules, "all", lambda: known)
    host.scheduler.look()
    assert len(host.deployment.runs.all()) == 1


def test_a_vnf_that_is_removed_or_paused_at_the_last_moment_is_not_begun(
    path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, known = Host(path, host.clock), host.deployment.schedules.all()
    monkeypatch.setattr(host.deployment.schedules, "all", lambda: known)
    protections.pause(other.deployment, "hlr")
    assert host.at(15) == []
    protections.resume(other.deployment, "hlr")
    assert host.at(15) == []
    remove_vnf.remove(other.deployment, "hlr")
    assert host.at(30) == []
    assert other.deployment.schedules.all() == {}


def test_a_scheduler_that_is_killed_at_any_statement_loses_no_slot_and_begins_none_twice(
    path: Path, host: Host
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.killed_scheduler", str(path), str(NOON + 15 * MINUTE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    slots = json.loads(done.stdout)
    assert len(slots) > 8  # the statements of a look at which it was killed
    rows = host.deployment.runs.all()
    assert sorted(slot_of(row) for row in rows) == slots
    assert host.progress().missed == 0


def test_a_database_that_is_away_is_reported_and_the_slot_begins_when_it_is_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LOOK_S", 0.01)
    monkeypatch.setattr(scheduler, "AGAIN_S", 0.01)
    away, stop, real = threading.Event(), threading.Event(), host.deployment.schedules.all
    seen_away, seen_back = threading.Event(), threading.Event()

    def all_of_them() -> dict[Any, ScheduleRow]:
        if away.is_set():
            (seen_away if host.scheduler.trouble else threading.Event()).set()
            raise OperationalError("SELECT", {}, ConnectionError("the server is away"))
        if seen_away.is_set() and host.scheduler.trouble is None:
            seen_back.set()
        return real()

    monkeypatch.setattr(host.deployment.schedules, "all", all_of_them)
    away.set()
    host.clock.now = NOON + 15 * MINUTE
    thread = threading.Thread(target=host.scheduler.follow, args=(stop,))
    thread.start()
    try:
        assert seen_away.wait(WITHIN_S)
        away.clear()
        assert seen_back.wait(WITHIN_S)
    finally:
        stop.set()
        thread.join(WITHIN_S)
    assert [slot_of(row) for row in host.deployment.runs.open()] == [host.clock.now]


def test_a_damaged_definition_is_reported_and_keeps_no_other_vnf_waiting(host: Host) -> None:
    add(host.deployment, a_vnf("bad"))
    with host.deployment.database.begin() as connection:
        connection.execute(update(VnfRow).where(VnfRow.name == "bad").values(definition={"vnf": 1}))
    assert host.at(15) == [15]
    assert set(host.scheduler.damaged) == {"bad"}
    add(host.deployment, a_vnf("bad"))
    host.at(16)
    assert host.scheduler.damaged == {}


def test_two_protections_of_a_vnf_take_turns(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from antipode.protect.option import OPTIONS

    with OPTIONS.registered("other", OPTIONS.get("quiesced-snapshot")):
        both = [
            {"option": "quiesced-snapshot", "schedule": {"every": "5m"}},
            {"option": "other", "schedule": {"every": "1h"}},
        ]
        add(host.deployment, samples.vnf(protections=both))
        host.at(56)
        assert host.at(60) == [60]
        assert host.at(65) == []
        host.end_all()
        assert host.at(66) == [60]  # the one that was due first
        host.end_all()
        assert host.at(67) == [65]
