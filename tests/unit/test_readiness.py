# SPDX-License-Identifier: Apache-2.0
"""Readiness by itself: which look is made, by which host, what is kept of it, whatever dies and
whatever the clock does. The clock is the test's; nothing here waits for time to pass.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.config import ReadinessConfig
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.errors import NotFound, SiteUnreachable, VaultError
from antipode.model.readiness import Finding, Level
from antipode.model.state import ProtectedVnf
from antipode.operations import readiness as operations
from antipode.operations import remove_vnf
from antipode.operations.vnfs import add
from antipode.runs import kind_of
from antipode.runs.looks import Looked, Subject
from antipode.service import readiness as loops
from antipode.service.readiness import AHEAD_S, TAKEN_S, ReadinessLoop
from antipode.store.tables import LookRow
from tests.unit import samples
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]
MINUTE, EVERY = 60.0, 1800.0
NOON = 1_796_000_000.0
WITHIN_S = 60.0


def found(level: Level = Level.GREEN, detail: str = "as it should be") -> Looked:
    return Looked([Finding(check="state", level=level, detail=detail)], None, None)


class Host:
    """A loop for site-b with a connection of its own to the database of all."""

    def __init__(self, path: Path, site: str = "site-b") -> None:
        self.deployment = Deployment(config.load(str(path)))
        self.now = NOON
        self.sees: Callable[[Subject], Looked] = lambda _: found()
        self.looked: list[str] = []
        self.loop = ReadinessLoop(self.deployment, site, now=lambda: self.now, look=self._look)

    def _look(self, subject: Subject) -> Looked:
        self.looked.append(subject.vnf)
        return self.sees(subject)

    def at(self, minutes: float) -> list[str]:
        """Look at so many minutes after noon; the VNFs that were looked at."""
        before = len(self.looked)
        self.now = NOON + minutes * MINUTE
        self.loop.look()
        return self.looked[before:]

    @property
    def history(self) -> list[tuple[str, float, int]]:
        """What was seen, the oldest first: level, minutes, looks."""
        rows = self.deployment.readiness.history(None, 1000)[::-1]
        return [(r.level, (r.seen_at - r.since) / MINUTE, r.looks) for r in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return samples.write_config(tmp_path)


@pytest.fixture
def host(path: Path) -> Host:
    made = Host(path)
    add(made.deployment, samples.vnf())
    return made


def test_a_vnf_is_looked_at_when_it_is_new_and_then_every_half_hour(host: Host) -> None:
    assert host.at(0) == ["hlr"]
    assert host.at(29) == []
    assert host.at(30) == ["hlr"]
    assert host.history == [("green", 30, 2)]


def test_it_is_not_looked_at_where_it_is_active(path: Path) -> None:
    there = Host(path, "site-a")
    add(there.deployment, samples.vnf())
    assert there.at(0) == []
    there.deployment.states.keep(ProtectedVnf(vnf="hlr", active_site="site-b", generation=2))
    assert there.at(1) == ["hlr"]
    back = ProtectedVnf(vnf="hlr", active_site="site-a", generation=3)
    there.deployment.states.keep(back)
    assert there.at(60) == []
    (other,) = operations.ready(there.deployment)
    assert (other.site, other.level) == ("site-b", None)
    assert len(there.history) == 1  # what was seen stays in the history


def test_a_verdict_is_kept_of_no_site_that_has_become_the_active_one_during_the_look(
    host: Host,
) -> None:
    def moves(_: Subject) -> Looked:
        moved = ProtectedVnf(vnf="hlr", active_site="site-b", generation=2)
        host.deployment.states.keep(moved)
        return found(Level.RED, "it is active there")

    host.sees = moves
    assert host.at(0) == ["hlr"]
    assert host.history == []


def test_a_vnf_that_is_being_moved_is_not_looked_at_until_that_is_over(host: Host) -> None:
    row = new_run(kind_of("failover"), "hlr", {})
    run = row.id
    host.deployment.runs.create(row)
    assert host.at(0) == []
    host.deployment.runs.end(run, 0, "failed", NOON, None, {})
    assert host.at(1) == ["hlr"]


def test_what_stays_the_same_is_one_line_though_ages_and_ids_differ(host: Host) -> None:
    host.sees = lambda _: found(Level.YELLOW, f"point {host.now:.0f} is {host.now:.0f} s old")
    host.at(0)
    host.at(30)
    host.sees = lambda _: found(Level.YELLOW, "another reason")
    host.at(60)
    host.sees = lambda _: found()
    host.at(90)
    assert host.history == [("yellow", 30, 2), ("yellow", 0, 1), ("green", 0, 1)]
    assert [r.before for r in host.deployment.readiness.history("hlr", 9)] == [
        *("yellow", "yellow", None)
    ]
    first = host.deployment.readiness.history("hlr", 9)[-1]
    assert first.findings[0]["detail"].endswith(f" {NOON + EVERY:.0f} s old")


def test_another_thing_of_the_same_kind_is_another_reason(host: Host) -> None:
    for number, detail in enumerate(("vault one", "vault1: 7.5s", "vault2: 8.1s", "vault2: 9s")):
        host.sees = lambda _, of=detail: found(Level.YELLOW, of)  # type: ignore[misc]
        host.at(30 * number)
    assert [looks for *_, looks in host.history] == [1, 1, 2]


def test_of_many_hosts_one_looks(path: Path, host: Host) -> None:
    hosts = [Host(path) for _ in range(6)]
    barrier = threading.Barrier(len(hosts))

    def look(one: Host) -> list[str]:
        barrier.wait(WITHIN_S)
        return one.at(0)

    with ThreadPoolExecutor(len(hosts)) as pool:
        looked = [vnf for vnfs in pool.map(look, hosts) for vnf in vnfs]
    assert looked == ["hlr"]
    assert host.history == [("green", 0, 1)]


def test_a_look_of_a_host_that_is_slow_is_taken_by_another_and_not_kept(
    path: Path, host: Host
) -> None:
    other = Host(path)

    def slow(_: Subject) -> Looked:
        assert other.at(TAKEN_S / MINUTE - 1) == []
        assert other.at(TAKEN_S / MINUTE + 1) == ["hlr"]
        return found(Level.RED, "seen long ago")

    host.sees = slow
    host.at(0)
    assert host.history == [("green", 0, 1)]


def test_it_is_killed_at_any_moment_and_each_look_is_kept_once(path: Path, host: Host) -> None:
    assert host.at(0) == ["hlr"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.killed_readiness", str(path), str(NOON + 7200)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    rounds = int(done.stdout)
    assert rounds > 8  # the statements of a look at which it was killed
    assert len(host.history) == 1 + rounds  # of each round there is one line
    (row,) = host.deployment.readiness.looks("site-b").values()
    assert row.not_before == 0


def test_a_clock_that_was_ahead_delays_no_look(host: Host) -> None:
    assert host.at(100_000) == ["hlr"]
    assert host.at(1) == ["hlr"]
    assert host.at(2) == []
    assert host.at(32) == ["hlr"]


def test_a_look_that_was_taken_by_a_clock_that_was_ahead_is_not_lost(host: Host) -> None:
    host.at(0)
    (row,) = host.deployment.readiness.looks("site-b").values()
    assert host.deployment.readiness.take(row, NOON + TAKEN_S + EVERY + 2 * AHEAD_S + 9e6)
    assert host.at(31) == ["hlr"]


def test_a_service_that_stops_leaves_the_look_to_the_next(host: Host) -> None:
    stop = threading.Event()
    host.loop._stop = stop

    def stopped(subject: Subject) -> Looked:
        stop.set()
        subject.go_on()
        raise AssertionError("it goes on")

    host.sees = stopped
    assert host.at(0) == ["hlr"]
    assert host.history == []
    stop.clear()
    host.sees = lambda _: found()
    assert host.at(1) == ["hlr"]


def test_a_fault_with_one_vnf_keeps_no_other_from_being_looked_at(host: Host) -> None:
    add(host.deployment, samples.vnf(vnf="sms"))

    def falls(subject: Subject) -> Looked:
        if subject.vnf == "hlr":
            raise ZeroDivisionError
        return found()

    host.sees = falls
    assert sorted(host.at(0)) == ["hlr", "sms"]
    assert host.loop.trouble.keys() == {"hlr"}
    seen = {r.vnf: r for r in operations.ready(host.deployment)}
    assert (seen["hlr"].level, seen["sms"].level) == (Level.RED, Level.GREEN)


def test_what_was_green_is_red_once_it_cannot_be_seen_any_more(host: Host) -> None:
    host.at(0)

    def falls(_: Subject) -> Looked:
        raise ZeroDivisionError

    host.sees = falls
    assert host.at(30) == ["hlr"]
    (seen,) = operations.ready(host.deployment)
    assert seen.level is Level.RED and seen.reasons[0].startswith("red: look:")
    host.sees = lambda _: found()
    assert host.at(60) == ["hlr"]
    assert [level for level, *_ in host.history] == ["green", "red", "green"]


def test_a_look_during_which_a_recovery_begins_is_not_kept(host: Host) -> None:
    row = new_run(kind_of("failover"), "hlr", {})

    def begins(_: Subject) -> Looked:
        host.deployment.runs.create(row)
        return found(Level.RED, "it is failing over")

    host.sees = begins
    assert host.at(0) == ["hlr"]
    assert host.history == []


def test_a_vnf_whose_look_hangs_holds_up_no_other(host: Host) -> None:
    for number in range(3):
        add(host.deployment, samples.vnf(vnf=f"sms{number}"))
    others, limit = threading.Semaphore(0), threading.Event()

    def hangs(subject: Subject) -> Looked:
        if subject.vnf == "hlr":
            # until all others were looked at
            assert all(others.acquire(timeout=WITHIN_S) for _ in range(3))
            limit.set()
        else:
            others.release()
        return found()

    host.sees = hangs
    host.at(0)
    assert limit.is_set() and host.loop.trouble == {}
    assert len(operations.ready(host.deployment)) == 4


def test_a_recovery_that_began_since_the_looks_were_listed_is_not_looked_at(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "AT_ONCE", 1)
    add(host.deployment, samples.vnf(vnf="sms"))

    def begins(subject: Subject) -> Looked:
        other = {"hlr": "sms", "sms": "hlr"}[subject.vnf]
        host.deployment.runs.create(new_run(kind_of("failover"), other, {}))
        return found()

    host.sees = begins
    assert len(host.at(0)) == 1


def test_a_look_that_gets_on_is_taken_by_no_other_host(
    path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "RENEWED_S", 0.0)
    other = Host(path)

    def slow(subject: Subject) -> Looked:
        host.now += TAKEN_S - MINUTE
        subject.go_on()
        assert other.at(TAKEN_S / MINUTE + 1) == []
        return found(Level.YELLOW, "it was slow")

    host.sees = slow
    assert host.at(0) == ["hlr"]
    assert host.history == [("yellow", 0, 1)]


def test_a_vnf_that_was_never_looked_at_has_a_line_and_is_stale_once_it_should_have_been(
    host: Host,
) -> None:
    (seen,) = operations.ready(host.deployment)
    assert (seen.vnf, seen.site, seen.level, seen.is_stale) == ("hlr", "site-b", None, False)
    with host.deployment.database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE vnfs SET added_at = added_at - {3 * EVERY + 60}")
    (seen,) = operations.ready(host.deployment, "hlr")
    assert (seen.level, seen.is_stale) == (None, True)
    moved = ProtectedVnf(
        vnf="hlr", active_site="site-b", generation=2, since=datetime.now(UTC).isoformat()
    )
    host.deployment.states.keep(moved)
    (seen,) = operations.ready(host.deployment)
    assert (seen.site, seen.is_stale) == ("site-a", False)


def test_a_site_that_is_in_the_configuration_no_more_has_no_line(host: Host) -> None:
    host.now = time.time()
    host.loop.look()
    host.deployment.readiness.want("hlr", "site-z", None, 0.0)
    look = host.deployment.readiness.take(host.deployment.readiness.looks("site-z")["hlr"], 9.0)
    assert look is not None
    assert host.deployment.readiness.keep(look, [], 1.0, 2.0)
    assert [r.site for r in operations.ready(host.deployment)] == ["site-b"]


def test_a_database_that_is_away_is_reported_and_looked_for_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "LOOK_S", 0.01)
    away, seen_away, seen_back, stop = (threading.Event() for _ in range(4))
    real = host.deployment.readiness.looks

    def looks(site: str) -> dict[str, LookRow]:
        if away.is_set():
            if host.loop.trouble:
                seen_away.set()
            raise OperationalError("", {}, Exception("the database is away"))
        if seen_away.is_set() and host.history:
            seen_back.set()
        return real(site)

    monkeypatch.setattr(host.deployment.readiness, "looks", looks)
    away.set()
    thread = threading.Thread(target=host.loop.follow, args=(stop,))
    thread.start()
    try:
        assert seen_away.wait(WITHIN_S)
        away.clear()
        assert seen_back.wait(WITHIN_S)
    finally:
        stop.set()
        thread.join()
    assert host.loop.trouble == {}


def test_a_removed_vnf_is_forgotten_and_a_look_under_way_keeps_nothing(host: Host) -> None:
    host.at(0)

    def removes(_: Subject) -> Looked:
        remove_vnf.remove(host.deployment, "hlr")
        return found(Level.RED, "gone")

    host.sees = removes
    host.at(30)
    assert host.history == []
    assert host.deployment.readiness.looks("site-b") == {}
    with pytest.raises(NotFound):
        operations.ready(host.deployment, "hlr")


def test_the_history_is_bounded_and_the_newest_line_stays(host: Host) -> None:
    for number in range(6):
        host.sees = lambda _, n=number: found(Level.YELLOW, "x" * (n + 1))  # type: ignore[misc]
        host.at(30 * number)
    assert host.deployment.readiness.prune(0, most=4) == 2
    assert len(host.history) == 4
    host.deployment.readiness.prune(NOON + 1e9)
    assert len(host.history) == 1
    assert [r.reasons for r in operations.ready(host.deployment)] == [["yellow: state: xxxxxx"]]


def test_a_look_that_is_old_is_stale(host: Host) -> None:
    host.at(0)
    (seen,) = operations.ready(host.deployment)
    assert seen.is_stale == (time.time() - NOON > 3 * EVERY)
    host.now = time.time()
    host.deployment.readiness.forget("hlr")
    host.loop.look()
    (seen,) = operations.ready(host.deployment)
    assert not seen.is_stale


def test_it_can_be_turned_off(path: Path) -> None:
    path.write_text(path.read_text() + "readiness: {every: null}\n")
    off = Host(path)
    add(off.deployment, samples.vnf())
    assert off.at(0) == []
    with pytest.raises(ValidationError):
        ReadinessConfig.model_validate({"every": "1s"})


# The look itself.


def loop(world: World) -> ReadinessLoop:
    return ReadinessLoop(world.here, "site-b", now=lambda: NOON)


def test_the_look_is_a_light_precheck_that_calls_the_backup_site_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def connect(name: str, cloud: str) -> Any:
        called.append(name)
        if name == "site-a":
            raise SiteUnreachable("site-a: black hole")
        return world.b.site

    monkeypatch.setattr(cloud_site, "connect", connect)
    before = (list(world.a.events), list(world.b.events))
    loop(world).look()
    (seen,) = operations.ready(world.here)
    assert (seen.level, seen.site) == (Level.YELLOW, "site-b")  # no content was ever proven
    assert called == ["site-b"]
    assert (world.a.events, world.b.events) == before
    assert world.here.runs.all()[0].kind == "protect"  # a look is no run


def test_what_is_in_the_way_is_red_with_its_reason(world: World) -> None:
    world.b.flavors = []
    loop(world).look()
    (seen,) = operations.ready(world.here)
    assert seen.level is Level.RED
    assert any(r.startswith("red: plan:") for r in seen.reasons)


def test_a_vnf_that_could_not_be_recovered_is_looked_at_again_after_its_next_point(
    world: World,
) -> None:
    one = loop(world)
    flavors, world.b.flavors = world.b.flavors, []
    one.look()
    assert [r.level for r in operations.ready(world.here)] == [Level.RED]
    world.b.flavors = flavors
    one.look()
    assert [r.level for r in operations.ready(world.here)] == [Level.RED]  # not due yet
    world.here.readiness.hasten("v", NOON)
    one.look()
    assert [r.level for r in operations.ready(world.here)] == [Level.YELLOW]
    (due,) = world.here.readiness.looks("site-b").values()
    world.here.readiness.hasten("v", NOON)
    assert world.here.readiness.looks("site-b")["v"].due_at == due.due_at  # it is not red


def test_a_protection_has_a_red_vnf_looked_at_now(world: World) -> None:
    readiness = world.here.readiness
    readiness.want("v", "site-b", None, NOON)
    look = readiness.take(readiness.looks("site-b")["v"], NOON)
    assert look is not None
    missing = Finding(check="recovery point", level=Level.RED, detail="there is none")
    far = time.time() + EVERY
    readiness.keep(look, [missing], time.time(), far)
    world.protect()
    assert readiness.looks("site-b")["v"].due_at < far


@pytest.mark.parametrize(
    ("level", "seconds", "is_again"),
    [
        (Level.RED, 5, True),
        (Level.RED, -60, False),
        (Level.RED, 9000, False),
        (Level.GREEN, 5, False),
    ],
)
def test_a_point_that_is_made_during_a_look_has_a_red_vnf_looked_at_again(
    host: Host, level: Level, seconds: float, is_again: bool
) -> None:
    def lacks_it(_: Subject) -> Looked:
        row = new_run(kind_of("protect"), "hlr", {})
        run = row.id
        host.deployment.runs.create(row)
        host.deployment.runs.end(run, 0, "succeeded", NOON + seconds, None, {})
        host.now = NOON + 10
        return found(level, "there is no point")

    host.sees = lacks_it
    assert host.at(0) == ["hlr"]
    host.sees = lambda _: found()
    assert (host.at(1) == ["hlr"]) is is_again
    assert host.at(2) == []
    assert len(host.at(32)) == 1


def test_vaults_that_do_not_answer_are_red_and_not_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise VaultError("no vault answers")

    monkeypatch.setattr("antipode.engine.activity.before_failover", silent)
    one = loop(world)
    one.look()
    assert one.trouble == {}
    assert [r.level for r in operations.ready(world.here)] == [Level.RED]


def test_a_drill_that_is_overdue_is_yellow_by_policy(world: World) -> None:
    world.here.vnfs.put(VNF.model_copy(update={"drill_every": 3600.0}))
    loop(world).look()
    (seen,) = operations.ready(world.here)
    assert any(r.startswith("yellow: drill:") for r in seen.reasons)
    row = new_run(kind_of("drill"), "v", {})
    run = row.id
    world.here.runs.create(row)
    world.here.runs.end(run, 0, "succeeded", time.time(), None, {})
    ReadinessLoop(world.here, "site-b", now=lambda: NOON + EVERY).look()
    (seen,) = operations.ready(world.here)
    assert not any(": drill:" in r for r in seen.reasons)
