# SPDX-License-Identifier: Apache-2.0
"""A copy at the other site that answers at the address of a member is not taken for the recovered
member, and a site that is silent delays nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import ResourceFailed
from antipode.model.plan import ServerPlan
from antipode.model.steps import Steps
from antipode.model.vnf import Vnf
from antipode.operations.failover import failover, prepare, request
from antipode.operations.resume import resume
from antipode.recover import other_copies, probes
from antipode.recover.other_copies import Known, OtherCopies, Place, seen_in
from antipode.recover.recovery import Recovery
from antipode.runs import stopped_copies
from antipode.topology import answering, web
from antipode.vault.old_copies import OldCopy
from tests.unit import test_kill_matrix as of_kills
from tests.unit.fakecloud import FakeTimeline
from tests.unit.test_durable_runs import World
from tests.unit.test_durable_runs import world as world  # the fixture

DB = Place("10.0.0.10", 5432)
REFUSED = "refused"


class Line:
    """What a connection to the address of db meets, at either site."""

    def __init__(self) -> None:
        self.is_silent = False
        self.asked: list[tuple[Place, float]] = []
        self.before: Callable[[int], None] = lambda times: None
        """called with how often it was asked, before each answer"""

    def connect(self, address: str, port: int, within_s: float) -> str | None:
        self.asked.append((Place(address, port), within_s))
        self.before(len(self.asked))
        return REFUSED if self.is_silent else None


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """Before anything else is done, the addresses were asked: in a cloud that is long before."""
    ask = probes.ask_before_boot

    def and_wait(recovery: Recovery) -> None:
        ask(recovery)
        asked(recovery.others)

    made = Line()
    monkeypatch.setattr(answering, "connect", made.connect)
    monkeypatch.setattr(answering, "_port_not_active", lambda *_: None)
    monkeypatch.setattr(probes, "ask_before_boot", and_wait)
    monkeypatch.setattr(stopped_copies, "AGAIN_S", 0.02)
    return made


def asked(others: OtherCopies) -> None:
    others._pool.shutdown(wait=True)


def probed(within: float, how: dict[str, Any] | None = None) -> Vnf:
    members = [member.model_dump() for member in of_kills.VNF.members]
    members[0]["answers"] = {**(how or {"tcp": 5432}), "within": within}
    return Vnf.model_validate({**of_kills.VNF.model_dump(), "members": members})


def fail_over(world: World, within: float, fence: Any = None) -> dict[str, Any]:
    world.here.vnfs.put(probed(within))
    prepared = prepare(world.here, "v", "site-b", None)
    return failover(world.here, prepared, Unobserved(), request(prepared, fence))


def fail_over_asking(world: World, how: dict[str, Any], within: float = 600) -> dict[str, Any]:
    world.here.vnfs.put(probed(within, how))
    return failover(world.here, prepare(world.here, "v", "site-b", None), Unobserved())


def assert_(true: bool) -> None:
    assert true


def newest(world: World) -> Any:
    return world.here.runs.all()[0]


def probe_of(world: World, run: str) -> dict[str, Any]:
    """The result of the last step that has asked db."""
    steps = world.here.runs.steps(run)
    return [s.result for s in steps if (s.name, s.resource) == (Steps.PROBE.words, "db")][-1]


def test_a_copy_that_answers_before_the_boot_and_ever_after_fails_the_run(
    world: World, line: Line
) -> None:
    with pytest.raises(ResourceFailed) as caught:
        fail_over(world, within=0)
    run = newest(world)
    assert run.state == "failed"
    assert str(DB) in str(caught.value) and run.id in str(caught.value)
    assert run.result["answered_before"] == {"db": str(DB)}
    assert probe_of(world, run.id)["answered_before"] == str(DB)
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db"]
    with pytest.raises(ResourceFailed):  # what it has booted answers now as well as the other
        resume(world.process(), run.id, Unobserved())


def test_a_copy_that_falls_silent_lets_the_next_answer_count(world: World, line: Line) -> None:
    def falls_silent(times: int) -> None:
        line.is_silent = times == 5

    line.before = falls_silent
    record = fail_over(world, within=600)
    assert len(line.asked) >= 6
    assert record["answered_before"] == {"db": str(DB)}
    assert record["answered_from"] == {"db": "either-site"}
    assert probe_of(world, record["run"])["answered_before"] == str(DB)


def test_silence_that_was_seen_is_known_to_a_process_that_resumes_the_run(
    world: World, line: Line
) -> None:
    def silent_then_dead(times: int) -> None:
        line.is_silent = times == 2
        if times == 3:
            raise ResourceFailed("the process dies")

    line.before = silent_then_dead
    with pytest.raises(ResourceFailed, match="dies"):
        fail_over(world, within=0)
    line.before = lambda times: None
    resume(world.process(), newest(world).id, Unobserved())
    assert newest(world).state == "succeeded"


def test_a_copy_that_is_stopped_while_the_run_waits_lets_an_answer_count(
    world: World, line: Line
) -> None:
    def stop(times: int) -> None:
        if times == 5:
            world.a.servers["id-db"]["status"] = "SHUTOFF"

    line.before = stop
    assert fail_over(world, within=600)["answered_before"] == {"db": str(DB)}


@pytest.mark.parametrize("gone", [True, False])
def test_a_run_is_resumed_after_the_copy_was_stopped_or_deleted(
    world: World, line: Line, gone: bool
) -> None:
    def die(times: int) -> None:
        if times == 2:
            raise ResourceFailed("the process dies")

    line.before = die
    with pytest.raises(ResourceFailed, match="dies"):
        fail_over(world, within=600)
    if gone:
        del world.a.servers["id-db"]
    else:
        world.a.servers["id-db"]["status"] = "SHUTOFF"
    resume(world.process(), newest(world).id, Unobserved())
    assert newest(world).state == "succeeded"


def test_another_failover_knows_what_the_one_before_has_seen_and_fences_that_copy(
    world: World, line: Line
) -> None:
    with pytest.raises(ResourceFailed):
        fail_over(world, within=0)
    with pytest.raises(ResourceFailed) as caught:
        fail_over(world, within=0)  # it uses the server that the first has booted
    assert str(DB) in str(caught.value)
    record = fail_over(world, within=600, fence="required")
    assert record["answered_before"] == {"db": str(DB)}
    assert {s["status"] for s in world.a.servers.values()} == {"SHUTOFF"}


@pytest.mark.parametrize("known", [{}, {"id-db": "renamed"}])
def test_a_member_that_is_recovered_runs_there_whatever_newer_points_say_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
) -> None:
    copy = OldCopy("site-a", {**known, "id-front": "front"}, set(), set(), set())
    run = SimpleNamespace(site=lambda name: world.a.site)
    former: Any = SimpleNamespace(site="site-a", copy=copy, run=run)
    stopped = stopped_copies.StoppedCopies(former, {"id-db": "db"})
    assert stopped._ask() == {"db", "front"}
    world.a.servers["id-db"]["status"] = "SHUTOFF"
    assert stopped._ask() == {"front"}
    monkeypatch.setattr(stopped_copies, "is_unreadable", lambda server: True)
    assert stopped._ask() is None  # a cell that does not answer shows no status


def test_a_silent_former_site_is_not_asked(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped_copies.StoppedCopies, "_look", lambda self: pytest.fail("asked"))

    def silent_before_the_boot(times: int) -> None:
        line.is_silent = times == 1

    line.before = silent_before_the_boot
    record = fail_over(world, within=600)
    assert "answered_before" not in record
    assert [s.name for s in world.here.runs.steps(record["run"])].count(
        Steps.ASK_BEFORE_BOOT.words
    ) == 0


def test_an_address_that_neither_answers_nor_refuses_delays_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def connect(address: str, port: int, within_s: float) -> str | None:
        if within_s == other_copies.ASK_S:
            over.wait(600)
        return None

    monkeypatch.setattr(answering, "connect", connect)
    monkeypatch.setattr(answering, "_port_not_active", lambda *_: None)
    try:
        assert "answered_before" not in fail_over(world, within=600)
    finally:
        over.set()


@pytest.mark.parametrize(
    "how",
    [
        {"tcp": 5432, "at": {"site-b": "203.0.113.7"}},
        {"command": ["true"]},
        {"console": "login:"},
    ],
)
def test_a_probe_that_no_other_copy_can_answer_is_not_asked_before_the_boot(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(answering, "_ask", lambda *_: None)
    assert "answered_before" not in fail_over_asking(world, how)
    assert line.asked == []


def test_a_member_with_another_address_is_not_asked_before_the_boot(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerPlan, "is_moved", True)
    monkeypatch.setattr(answering, "_ask", lambda *_: None)
    fail_over_asking(world, {"tcp": 5432})
    assert line.asked == []


def test_a_probe_by_http_looks_for_another_copy_by_a_connection(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "get", lambda *_: None)
    with pytest.raises(ResourceFailed):
        fail_over_asking(world, {"http": {"port": 5432}}, within=0)
    assert newest(world).result["answered_before"] == {"db": str(DB)}
    assert {place for place, _ in line.asked} == {DB}


def test_what_answers_when_the_member_is_booted_already_is_no_other_copy(line: Line) -> None:
    timeline = FakeTimeline()
    others = OtherCopies("run", timeline)
    others.ask("db", DB)
    asked(others)
    assert not others.boots("db", "run")
    assert others.may_answer("db", DB) is None
    assert timeline.steps == []


def test_an_answer_that_comes_after_the_boot_is_not_taken_for_another_copy(line: Line) -> None:
    held = threading.Event()
    line.before = lambda times: assert_(held.wait(600))
    others = OtherCopies("run", FakeTimeline())
    others.ask("db", DB)
    assert not others.boots("db", None)
    held.set()
    asked(others)
    assert others.seen("db") is None


def test_silence_before_the_boot_ends_what_an_earlier_process_has_seen(line: Line) -> None:
    line.is_silent = True
    others = OtherCopies("run", FakeTimeline(), Known({"db": str(DB)}))
    others.ask("db", DB)
    asked(others)
    assert not others.boots("db", None)


def test_what_steps_of_a_run_say_last_of_a_member_counts() -> None:
    name = Steps.ASK_BEFORE_BOOT.words
    answers, silent = ({"asked": f"TCP {DB}", "answered": is_so} for is_so in (True, False))
    assert seen_in([(name, "db", answers), (name, "front", answers), (name, "db", silent)]) == {
        "front": str(DB)
    }
    assert seen_in([(name, "db", silent), (name, "db", answers)]) == {"db": str(DB)}
    assert seen_in([(name, "db", {}), (Steps.PROBE.words, "db", answers)]) == {}


def test_a_place_is_named_as_it_is_written() -> None:
    assert str(Place("fd00::4", 80)) == "[fd00::4]:80"
