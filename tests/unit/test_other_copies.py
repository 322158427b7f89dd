# SPDX-License-Identifier: Apache-2.0
"""A copy at the other site that answers at the address of a member is not taken for the recovered
member, and neither a silent site nor one that dies later fails or delays a failover.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import ResourceFailed, Stopped
from antipode.model.plan import ServerPlan
from antipode.model.steps import Steps
from antipode.model.vnf import Vnf
from antipode.operations.failover import failover, prepare, request
from antipode.operations.resume import resume
from antipode.recover import other_copies, probes
from antipode.recover.other_copies import OtherCopies, Place, looks_in
from antipode.topology import answering, web
from tests.unit import test_kill_matrix as of_kills
from tests.unit.fakecloud import FakeTimeline
from tests.unit.test_durable_runs import World
from tests.unit.test_durable_runs import world as world  # the fixture

DB = Place("10.0.0.10", 5432)
REFUSED = "refused"


class Line:
    """What a connection to the address of db meets, at either site: the old copy while it runs,
    the new one while its server runs and its port is up.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.old_answers = True
        self.asked: list[tuple[Place, float]] = []
        self.before: Callable[[int], None] = lambda times: None
        """called with how often it was asked, before each answer"""

    def connect(self, address: str, port: int, within_s: float) -> str | None:
        self.asked.append((Place(address, port), within_s))
        self.before(len(self.asked))
        return None if self.old_answers or self.new_answers() else REFUSED

    def new_answers(self) -> bool:
        is_up = all(p.get("admin_state_up", True) for p in ports_of_db(self._world))
        return is_up and any(s["name"] == "db" for s in self._world.b.servers.values())


def ports_of_db(world: World) -> list[dict[str, Any]]:
    return [p for p in world.b.ports.values() if any(DB.address in str(f) for f in p["fixed_ips"])]


@pytest.fixture
def line(world: World, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A look ends before the boot begins: in a cloud a server takes longer to answer."""
    look = OtherCopies.look

    def and_wait(others: OtherCopies, server: str, place: Place) -> None:
        look(others, server, place)
        others._under_way[server].join()

    made = Line(world)
    monkeypatch.setattr(answering, "connect", made.connect)
    monkeypatch.setattr(OtherCopies, "look", and_wait)
    monkeypatch.setattr(other_copies, "AGAIN_S", 0.0)
    return made


def probed(within: float, how: dict[str, Any] | None = None) -> Vnf:
    members = [member.model_dump() for member in of_kills.VNF.members]
    members[0]["answers"] = {**(how or {"tcp": 5432}), "within": within}
    return Vnf.model_validate({**of_kills.VNF.model_dump(), "members": members})


def fail_over(
    world: World, within: float = 600, how: dict[str, Any] | None = None, fence: Any = None
) -> dict[str, Any]:
    world.here.vnfs.put(probed(within, how))
    prepared = prepare(world.here, "v", "site-b", None)
    return failover(world.here, prepared, Unobserved(), request(prepared, fence))


def newest(world: World) -> Any:
    return world.here.runs.all()[0]


def steps_of(world: World, name: Steps) -> list[dict[str, Any]]:
    steps = world.here.runs.steps(newest(world).id)
    return [s.result for s in steps if (s.name, s.resource) == (name.words, "db")]


def all_up(world: World) -> bool:
    return all(p.get("admin_state_up", True) for p in world.b.ports.values())


def test_a_copy_that_answers_all_the_time_fails_the_run(world: World, line: Line) -> None:
    with pytest.raises(ResourceFailed, match="another copy"):
        fail_over(world, within=0)
    assert newest(world).state == "failed"
    assert [s["answered"] for s in steps_of(world, Steps.CUT_OFF)] == [True]
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db"]
    assert all_up(world)
    with pytest.raises(ResourceFailed, match="another copy"):
        resume(world.process(), newest(world).id, Unobserved())
    assert all_up(world)


def test_a_run_whose_old_site_dies_after_it_has_answered_succeeds_when_it_is_resumed(
    world: World, line: Line
) -> None:
    with pytest.raises(ResourceFailed):
        fail_over(world, within=0)
    line.old_answers = False  # only the recovered member answers from now on
    resume(world.process(), newest(world).id, Unobserved())
    assert newest(world).state == "succeeded"
    assert all_up(world)


def test_a_copy_that_stops_while_the_run_waits_lets_the_next_answer_count(
    world: World, line: Line
) -> None:
    def stops(times: int) -> None:
        line.old_answers = times < 5

    line.before = stops
    fail_over(world)
    assert [s["answered"] for s in steps_of(world, Steps.CUT_OFF)][-1] is False
    assert all_up(world)


def test_another_failover_knows_what_the_one_before_has_seen_and_fences_that_copy(
    world: World, line: Line
) -> None:
    with pytest.raises(ResourceFailed):
        fail_over(world, within=0)
    with pytest.raises(ResourceFailed, match="another copy"):
        fail_over(world, within=0)  # it uses the server that the first has booted

    def stops(times: int) -> None:
        if {s["status"] for s in world.a.servers.values()} == {"SHUTOFF"}:
            line.old_answers = False

    line.before = stops
    fail_over(world, fence="required")
    assert newest(world).state == "succeeded"


def test_a_process_that_is_killed_while_the_port_is_off_leaves_it_to_be_put_up(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_up = probes._put_up
    with monkeypatch.context() as patch:
        patch.setattr(probes, "_put_up", lambda *_: None)  # it dies before
        with pytest.raises(ResourceFailed):
            fail_over(world, within=0)
    assert not all_up(world)
    line.old_answers = False
    assert put_up is probes._put_up
    resume(world.process(), newest(world).id, Unobserved())
    assert newest(world).state == "succeeded"
    assert all_up(world)


def test_a_run_that_is_to_stop_puts_the_port_up(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **how: Any) -> None:
        raise Stopped("the run must stop")

    monkeypatch.setattr(probes, "_await_port", stop)
    with pytest.raises(Stopped):
        fail_over(world)
    assert all_up(world)


def test_where_nothing_answers_before_the_boot_no_port_is_cut_off(world: World, line: Line) -> None:
    line.old_answers = False
    fail_over(world)
    assert [s["answered"] for s in steps_of(world, Steps.LOOK_FOR_OTHER_COPY)] == [False]
    assert steps_of(world, Steps.CUT_OFF) == []
    assert not OtherCopies("r", FakeTimeline(), lambda run: {"db": False}).may_answer("db")


def test_an_address_that_neither_answers_nor_refuses_delays_no_boot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, booted = threading.Event(), threading.Event()

    def connect(address: str, port: int, within_s: float) -> str | None:
        if within_s == other_copies.ASK_S:
            over.wait(600)
            return REFUSED
        booted.set()
        over.set()
        return None

    may_answer = OtherCopies.may_answer

    def when_booted(others: OtherCopies, server: str) -> bool:
        assert any(s["name"] == "db" for s in world.b.servers.values())
        over.set()
        return may_answer(others, server)

    monkeypatch.setattr(answering, "connect", connect)
    monkeypatch.setattr(OtherCopies, "may_answer", when_booted)
    try:
        fail_over(world)
    finally:
        over.set()
    assert booted.is_set()


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
    fail_over(world, how=how)
    assert line.asked == []


def test_a_member_with_another_address_is_not_asked_before_the_boot(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerPlan, "is_moved", True)
    monkeypatch.setattr(answering, "_ask", lambda *_: None)
    fail_over(world)
    assert line.asked == []


def test_a_probe_by_http_is_asked_as_such_without_the_port(
    world: World, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old proxy that refuses its page is no copy that answers."""
    monkeypatch.setattr(web, "get", lambda *_: None if line.new_answers() else "503")
    fail_over(world, how={"http": {"port": 5432}})
    assert [s["answered"] for s in steps_of(world, Steps.CUT_OFF)] == [False]
    assert {place for place, _ in line.asked} == {DB}


def test_a_member_that_was_booted_in_a_moment_of_which_nothing_is_kept_is_suspected() -> None:
    others = OtherCopies("run", FakeTimeline(), lambda run: {})
    assert others.may_answer("db")
    others.remember("front", DB, "another-run")
    assert others.may_answer("front")
    assert not OtherCopies().may_answer("db")  # of a drill


def test_what_a_run_says_last_of_a_member_counts() -> None:
    look, cut = Steps.LOOK_FOR_OTHER_COPY.words, Steps.CUT_OFF.words
    answers, silent = {"answered": True}, {"answered": False}
    assert looks_in([(look, "db", answers), (look, "front", answers), (cut, "db", silent)]) == {
        "db": False,
        "front": True,
    }
    assert looks_in([(look, "db", {}), (Steps.PROBE.words, "db", answers)]) == {}


def test_a_place_is_named_as_it_is_written() -> None:
    assert str(Place("fd00::4", 80)) == "TCP [fd00::4]:80"
