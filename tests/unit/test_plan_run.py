# SPDX-License-Identifier: Apache-2.0
"""A plan over many VNFs: its groups follow one another, each VNF is a run of its own, and what has
succeeded is never repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from antipode import identity, processes
from antipode.engine import parts
from antipode.engine.approval import plan_of as plan_of_row
from antipode.engine.execution import execute
from antipode.engine.kind import Priority, RunKind
from antipode.engine.run import WAITING, Run, new_run, state_of
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    Busy,
    Halted,
    Interrupted,
    InvalidInput,
    NotFound,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
    StepFailed,
)
from antipode.model.plan_file import PlanFile
from antipode.operations import approvals, plans
from antipode.operations import failover as failing
from antipode.operations.abort import abort
from antipode.operations.answer import answer, open_step
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.operations.submit import submit
from antipode.runs import KINDS, expire, failover_fence, migrate_preparation, plan
from antipode.runs.plan import FAILOVER
from antipode.runs.plan_verbs import Look, PlanVerb, Target
from antipode.service.conductor import Conductor
from antipode.store.tables import RunRow
from tests.unit.fakecloud import refuse
from tests.unit.planworld import PlanWorld, plan_of, vnf_of, world
from tests.unit.test_durable_runs import InBackground, until

__all__ = ["world"]
Json = dict[str, Any]


def children(world: PlanWorld) -> dict[str, RunRow]:
    """The newest run of each VNF that is a part of a plan."""
    return {
        row.vnf: row
        for row in reversed(world.here.runs.all())
        if (parts.part_of(row) or "").startswith("plan-")
    }


def whole(world: PlanWorld) -> RunRow:
    """The newest plan that was begun."""
    return next(row for row in world.here.runs.all() if row.kind.startswith("plan-"))


def test_groups_follow_one_another_and_every_vnf_is_recovered(world: PlanWorld) -> None:
    record = world.carry_out(plan_of(["v2", "v3"], ["v1"]))
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert (record["succeeded"], record["failed"], record["not_begun"]) == (3, 0, 0)
    of = children(world)
    assert of["v1"].started_at >= max(of["v2"].ended_at or 0, of["v3"].ended_at or 0)
    assert {row.kind for row in of.values()} == {"failover"}
    assert whole(world).state == "succeeded"


def in_flight(world: PlanWorld) -> list[int]:
    """How many failovers were in progress at each boot."""
    seen: list[int] = []

    def before(event: str) -> None:
        if event.startswith("boot"):
            rows = world.here.runs.open()
            seen.append(sum(row.kind == "failover" for row in rows))

    world.b.before = before
    return seen


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_vnfs_are_in_progress_than_the_group_allows(world: PlanWorld, most: int) -> None:
    seen = in_flight(world)
    world.carry_out(plan_of({"vnfs": ["v1", "v2", "v3", "v4"], "at_once": most}))
    assert max(seen) <= most


def fails(world: PlanWorld, *vnfs: str) -> None:
    """The servers of these VNFs do not boot."""
    wrong = {f"boot s-{vnf}" for vnf in vnfs}
    world.b.before = lambda event: refuse(500, "Nova is broken") if event in wrong else None


def works(world: PlanWorld) -> None:
    world.b.before = lambda event: None


CONTINUE = {"on_failure": "continue"}


def test_a_plan_that_continues_does_all_others_and_fails_in_the_end(world: PlanWorld) -> None:
    fails(world, "v1")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1", "v2"], ["v3"], **CONTINUE))
    assert world.servers_there() == {"s-v2", "s-v3"}
    row = whole(world)
    assert row.state == "failed"
    assert [one["state"] for one in row.result["vnfs"]] == ["failed", "succeeded", "succeeded"]
    assert (row.result["succeeded"], row.result["failed"]) == (2, 1)


def test_a_plan_that_stops_begins_no_other_and_those_under_way_come_to_their_ends(
    world: PlanWorld,
) -> None:
    asks = {"name": "ok", "before": "all", "prompt": "Is it time?"}
    world.here.vnfs.put(vnf_of("v2", steps=[asks]))

    def before(event: str) -> None:
        if event == "boot s-v1":
            until(lambda: world.here.questions.open())  # v2 is under way
            refuse(500, "Nova is broken")

    world.b.before = before
    two = plan_of({"vnfs": ["v1", "v2", "v3"], "at_once": 2}, ["v4"])
    under_way = InBackground(lambda: world.carry_out(two))
    until(lambda: "v1" in children(world) and children(world)["v1"].state == "failed")
    answer(world.here, children(world)["v2"].id, "ok", True)
    under_way.join()
    assert isinstance(under_way.error, ResourceFailed)
    assert world.servers_there() == {"s-v2"}
    states = {one["vnf"]: one["state"] for one in whole(world).result["vnfs"]}
    assert states == {
        "v1": "failed",
        "v2": "succeeded",
        "v3": "not begun",
        "v4": "not begun",
    }


def test_a_group_decides_for_itself_whether_the_plan_stops(world: PlanWorld) -> None:
    fails(world, "v1", "v2")
    with pytest.raises(ResourceFailed):
        world.carry_out(
            plan_of({"vnfs": ["v1"], **CONTINUE}, {"vnfs": ["v2"], "on_failure": "stop"}, ["v3"])
        )
    assert set(children(world)) == {"v1", "v2"}


def test_a_resume_takes_failed_vnfs_up_again_and_repeats_none_that_succeeded(
    world: PlanWorld,
) -> None:
    fails(world, "v1")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1", "v2"], ["v3"]))
    first = children(world)
    works(world)
    record = resume(world.process(), whole(world).id, Unobserved())
    assert record["succeeded"] == 3
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert {vnf: row.id for vnf, row in children(world).items() if vnf in first} == {
        vnf: row.id for vnf, row in first.items()
    }
    assert len(world.b.servers) == 3
    assert whole(world).state == "succeeded"


def test_a_failed_vnf_that_was_resumed_by_itself_is_done(world: PlanWorld) -> None:
    fails(world, "v1")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"], ["v2"]))
    works(world)
    resume(world.process(), children(world)["v1"].id, Unobserved())
    resume(world.process(), whole(world).id, Unobserved())
    assert world.servers_there() == {"s-v1", "s-v2"}


def test_a_vnf_that_failed_and_was_recovered_by_hand_is_left_as_it_is(world: PlanWorld) -> None:
    fails(world, "v1")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"], ["v2"]))
    works(world)
    by_hand = plans.prepare(world.process(), *only(["v1"]))
    here = world.process()
    plans.carry_out(here, by_hand.kind, plans.request(by_hand), Unobserved())
    record = resume(world.process(), first_plan(world).id, Unobserved())
    assert [one["state"] for one in record["vnfs"]] == ["done", "succeeded"]
    assert len(world.b.servers) == 2


def only(vnfs: list[str]) -> tuple[Any, str]:
    return plans.Source(plan_of(vnfs, plan="by-hand"), "from a test"), "failover"


def first_plan(world: PlanWorld) -> RunRow:
    return [r for r in world.here.runs.all() if r.kind.startswith("plan-")][-1]


def test_an_abort_rolls_back_those_that_have_not_succeeded_and_names_those_that_have(
    world: PlanWorld,
) -> None:
    reached = threading.Event()

    def before(event: str) -> None:
        if event == "boot s-v2":
            reached.set()
            until(lambda: any("stops" in s.name for s in world.here.runs.steps(part("v2"))))

    def part(vnf: str) -> str:
        return children(world)[vnf].id

    world.b.before = before
    under_way = InBackground(lambda: world.carry_out(plan_of(["v1"], ["v2"], ["v3"])))
    assert reached.wait(60)
    told = abort(world.here, whole(world).id, Unobserved())
    under_way.join()
    assert isinstance(under_way.error, Aborted)
    assert told["state"] == "aborted"
    assert [line for line in told["left"] if line.startswith("v1:") and "has succeeded" in line]
    assert world.servers_there() == {"s-v1"}
    assert {vnf: row.state for vnf, row in children(world).items()} == {
        "v1": "succeeded",
        "v2": "aborted",
    }
    works(world)
    world.carry_out(plan_of(["v1", "v2", "v3"]))
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}


def test_a_failed_plan_can_be_aborted_and_leaves_nothing_of_what_failed(world: PlanWorld) -> None:
    fails(world, "v2")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"], ["v2"]))
    works(world)
    abort(world.process(), whole(world).id, Unobserved())
    assert world.servers_there() == {"s-v1"}
    assert children(world)["v2"].state == "aborted"
    assert {v["name"] for v in world.b.volumes.values()} == {"s-v1-root", "s-v1-data"}


def test_one_that_has_come_to_its_end_cannot_be_aborted(world: PlanWorld) -> None:
    run = world.carry_out(plan_of(["v1"]))["run"]
    with pytest.raises(InvalidInput):
        abort(world.process(), run, Unobserved())
    world.dies_before_its_end(run)
    with pytest.raises(InvalidInput):
        abort(world.process(), run, Unobserved())
    assert whole(world).state == "succeeded"


@pytest.mark.parametrize("event", ["restore s-v1-root", "boot s-v2", "boot s-v3"])
def test_a_plan_whose_process_was_halted_is_resumed_to_its_end(
    world: PlanWorld, event: str
) -> None:
    halt = threading.Event()
    here = world.process()

    def before(happens: str) -> None:
        if happens == event:
            halt.set()
            until(lambda: any("stops" in s.name for s in world.here.runs.steps(whole(world).id)))

    world.b.before = before
    prepared = world.prepare(plan_of(["v1", "v2"], ["v3"]))
    with here.claims.begin(plans.request(prepared)) as claim, pytest.raises(Halted):
        execute(here, FAILOVER, claim, Unobserved(), halt)
    works(world)
    begun = {row.id for row in children(world).values()}
    resume(world.process(), whole(world).id, Unobserved())
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert len(world.b.servers) == 3
    assert begun <= {row.id for row in children(world).values()}
    assert {row.state for row in world.here.runs.all()} == {"succeeded"}


def test_a_plan_whose_process_died_at_once_is_resumed(world: PlanWorld) -> None:
    prepared = world.prepare(plan_of(["v1"]))
    with world.here.claims.begin(plans.request(prepared)) as claim:
        run = claim.run
    resume(world.process(), run, Unobserved())
    assert world.servers_there() == {"s-v1"}


def test_a_signal_stops_all_of_its_vnfs_and_each_is_resumed(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = True

    def interrupted(futures: Any) -> Any:
        nonlocal first
        if first:
            first = False
            until(lambda: len(children(world)) == 2)
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(plan, "wait", interrupted)
    world.b.before = lambda event: until(lambda: len(children(world)) == 2)
    with pytest.raises(Interrupted):
        world.carry_out(plan_of(["v1", "v2"], ["v3"]))
    assert whole(world).state == "failed"
    begun = {row.id for row in children(world).values()}
    works(world)
    resume(world.process(), whole(world).id, Unobserved())
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert begun <= {row.id for row in children(world).values()}


def signal_once(monkeypatch: pytest.MonkeyPatch, when: Callable[[], Any]) -> None:
    """A signal arrives at the plan once this is so."""
    first = True

    def interrupted(futures: Any) -> Any:
        nonlocal first
        if first:
            first = False
            until(when)
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(plan, "wait", interrupted)


def test_a_signal_leaves_no_members_off_and_no_vnf_that_a_service_would_take_up(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_off() -> bool:
        return any(s["name"] == "s-v1" and s["status"] == "SHUTOFF" for s in servers.values())

    servers = world.a.servers
    signal_once(monkeypatch, is_off)
    with pytest.raises(Interrupted):
        world.carry_out(plan_of(["v1"], ["v2"]), "migrate")
    assert world.here.runs.open() == []
    assert {row.state for row in children(world).values()} == {"failed"}
    assert {s["status"] for s in servers.values()} == {"ACTIVE"}
    assert not world.b.servers


def test_the_result_says_what_was_under_way_when_the_plan_was_interrupted(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_once(monkeypatch, lambda: "v1" in children(world))
    world.b.before = lambda event: until(lambda: first_stopped(world))
    with pytest.raises(Interrupted, match="antipode run resume plan-failover-"):
        world.carry_out(plan_of(["v1"], ["v2"]))
    run = children(world)["v1"].id
    shown = [(one["state"], one["run"]) for one in whole(world).result["vnfs"]]
    assert shown == [("failed", run), ("not begun", None)]


def first_stopped(world: PlanWorld) -> bool:
    return any("stops" in s.name for s in world.here.runs.steps(whole(world).id))


def test_the_points_of_vnfs_that_have_not_succeeded_do_not_expire(world: PlanWorld) -> None:
    fails(world, "v2")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"], ["v2"], ["v3"]))
    run = whole(world).id
    point = world.prepare(plan_of(["v3"])).looks["v3"].target.recovery_point
    assert expire.users(world.here, "v3") == {point: run}
    assert expire.users(world.here, "v1") == {}
    works(world)
    abort(world.process(), run, Unobserved())
    assert expire.users(world.here, "v3") == {}


def test_a_plan_that_is_never_taken_up_holds_no_points_for_ever(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(world, "v1")
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"], ["v3"]))
    assert expire.users(world.here, "v3")
    monkeypatch.setattr(plan, "HELD_S", -1.0)
    assert expire.users(world.here, "v3") == {}


def test_the_request_of_a_newer_antipode_does_not_stop_expiries(world: PlanWorld) -> None:
    prepared = world.prepare(plan_of(["v1"]))
    row = plans.request(prepared)
    request = dict(row.request or {})
    request["targets"] = [{**target, "hue": "blue"} for target in request["targets"]]
    row.request = {**request, "of_tomorrow": {"x": 1}}
    run, point = row.id, prepared.looks["v1"].target.recovery_point
    world.here.approvals.ask(row)
    assert expire.users(world.here, "v1") == {point: run}


# ---- what stands in the way ----


def in_the_way(world: PlanWorld, plan: PlanFile, verb: str = "failover") -> dict[str, str]:
    return {vnf: why.code for vnf, why in world.prepare(plan, verb).in_the_way.items()}


def test_an_unknown_vnf_is_named_before_anything_changes(world: PlanWorld) -> None:
    prepared = world.prepare(plan_of(["v1", "nobody"]))
    assert {vnf: why.code for vnf, why in prepared.in_the_way.items()} == {"nobody": "not-found"}
    with pytest.raises(PreflightFailed):
        prepared.must_begin(without=False)
    prepared.must_begin(without=True)
    assert not world.b.servers


def test_blocked_vnfs_are_left_out_where_the_operator_says_so(world: PlanWorld) -> None:
    record = world.carry_out(plan_of(["nobody", "v1"]))
    states = {one["vnf"]: one["state"] for one in record["vnfs"]}
    assert states == {"nobody": "left out", "v1": "succeeded"}
    assert record["left_out"] == 1


def test_a_vnf_that_is_there_already_is_left_as_it_is(world: PlanWorld) -> None:
    world.carry_out(plan_of(["v1"]))
    prepared = world.prepare(plan_of(["v1", "v2"]))
    assert {vnf: look.done is not None for vnf, look in prepared.looks.items()} == {
        "v1": True,
        "v2": False,
    }
    before = dict(world.b.servers)
    world.carry_out(plan_of(["v1", "v2"]))
    assert before.items() <= world.b.servers.items()
    assert len(world.b.servers) == 2
    with pytest.raises(InvalidInput):
        world.prepare(plan_of(["v1", "v2"])).must_begin(without=False)


def test_a_vnf_with_a_run_under_way_stands_in_the_way(world: PlanWorld) -> None:
    row = failing.request(failing.prepare(world.here, "v2", "site-b", None))
    with world.here.claims.begin(row):
        assert in_the_way(world, plan_of(["v1", "v2"])) == {"v2": "busy"}
        assert in_the_way(world, plan_of(["v1", "v2"]), "drill") == {"v2": "busy"}


def test_a_vnf_of_another_plan_under_way_stands_in_the_way(world: PlanWorld) -> None:
    other = plan_of(["v2", "v3"], plan="other")
    with world.here.claims.begin(plans.request(world.prepare(other))):
        assert in_the_way(world, plan_of(["v1", "v2"])) == {"v2": "busy"}
        assert in_the_way(world, plan_of(["v1", "v2"]), "precheck") == {}


def test_a_precheck_of_a_plan_under_way_is_in_no_way(world: PlanWorld) -> None:
    with world.here.claims.begin(plans.request(world.prepare(plan_of(["v1"]), "precheck"))):
        assert in_the_way(world, plan_of(["v1"])) == {}


def test_quotas_must_suffice_for_all_together(world: PlanWorld) -> None:
    world.b.quotas["instances"] = {"limit": 2}
    prepared = world.prepare(plan_of(["v1", "v2"], ["v3"]))
    assert (prepared.in_the_way, len(prepared.problems)) == ({}, 1)
    with pytest.raises(PreflightFailed):
        prepared.must_begin(without=True)
    world.prepare(plan_of(["v1", "v2"])).must_begin(without=False)
    world.prepare(plan_of(["v1", "v2"], ["v3"]), "drill").must_begin(without=False)


def test_a_failover_and_a_migration_want_a_site(world: PlanWorld) -> None:
    plan = plan_of(["v1"], to=None)
    for verb in ("failover", "migrate"):
        with pytest.raises(InvalidInput):
            world.prepare(plan, verb)
    assert set(world.prepare(plan, "failover", to="site-b").looks) == {"v1"}
    assert set(world.prepare(plan, "drill").looks) == {"v1"}
    with pytest.raises(NotFound):
        world.prepare(plan, "failover", to="site-x")


def test_what_was_changed_since_it_was_confirmed_is_not_done(world: PlanWorld) -> None:
    prepared = world.prepare(plan_of(["v1"], ["v2"], **CONTINUE))
    row = plans.request(prepared)
    world.here.vnfs.put(vnf_of("v1", steps=[{"name": "x", "before": "all", "command": ["false"]}]))
    with pytest.raises(ResourceFailed):
        plans.carry_out(world.process(), FAILOVER, row, Unobserved())
    assert world.servers_there() == {"s-v2"}


def test_the_same_plan_is_carried_out_once_at_a_time(world: PlanWorld) -> None:
    prepared, again = world.prepare(plan_of(["v1"])), world.prepare(plan_of(["v1"]))
    with world.here.claims.begin(plans.request(prepared)), pytest.raises(Busy):
        plans.carry_out(world.process(), FAILOVER, plans.request(again), Unobserved())


# ---- steps ----


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, world: PlanWorld) -> list[Any]:
    """The commands of steps, with the servers that were there."""
    seen: list[Any] = []

    def run(argv: Any, _limit: float, **options: Any) -> Any:
        seen.append((tuple(argv), sorted(world.servers_there()), options["environment"]))
        return processes.Ended(1 if argv[0] == "no" else 0, "")

    monkeypatch.setattr(processes, "run", run)
    return seen


def step(name: str, **fields: Any) -> Json:
    if not {"prompt", "command"} & fields.keys():
        fields["command"] = [name, "{plan}", "{vnf}"]
    return {"name": name, **fields}


def test_steps_are_done_between_the_groups_and_only_those_of_the_verb(
    world: PlanWorld, said: list[Any]
) -> None:
    steps = [
        step("end", after="all"),
        step("between", after="g1"),
        step("first", before="all"),
        step("then", before="g2"),
        step("only-drills", before="all", on="drill"),
    ]
    world.carry_out(plan_of(["v1"], ["v2"], steps=steps))
    assert [(argv[0], there) for argv, there, _ in said] == [
        ("first", []),
        ("between", ["s-v1"]),
        ("then", ["s-v1"]),
        ("end", ["s-v1", "s-v2"]),
    ]
    argv, _, environment = said[0]
    assert argv == ("first", "p", "")
    assert (environment["ANTIPODE_PLAN"], environment["ANTIPODE_VNF"]) == ("p", "")


def test_a_step_that_fails_stops_the_plan_and_those_that_were_done_are_not_repeated(
    world: PlanWorld, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = step("wrong", before="g2", command=["no"])
    with pytest.raises(StepFailed):
        world.carry_out(plan_of(["v1"], ["v2"], steps=[step("first", before="all"), wrong]))
    assert world.servers_there() == {"s-v1"}
    failed = processes.run

    def now_works(*arguments: Any, **options: Any) -> Any:
        failed(*arguments, **options)
        return processes.Ended(0, "")

    monkeypatch.setattr(processes, "run", now_works)
    resume(world.process(), whole(world).id, Unobserved())
    assert world.servers_there() == {"s-v1", "s-v2"}
    assert [argv[0] for argv, _, _ in said] == ["first", "no", "no"]


def test_a_question_of_a_plan_is_answered_with_its_id(world: PlanWorld) -> None:
    plan = plan_of(["v1"], ["v2"], steps=[step("ok", before="g2", prompt="Go on?")])
    under_way = InBackground(lambda: world.carry_out(plan))
    until(lambda: world.here.questions.open())
    assert state_of(whole(world), world.here) == WAITING
    assert world.servers_there() == {"s-v1"}
    answer(world.here, whole(world).id, "ok", True)
    under_way.join()
    assert under_way.error is None
    assert world.servers_there() == {"s-v1", "s-v2"}


def test_of_vnfs_that_ask_at_once_one_must_be_named(world: PlanWorld) -> None:
    for vnf in ("v1", "v2"):
        asks = {"name": "ok", "after": "all", "prompt": "Does it work?"}
        world.here.vnfs.put(vnf_of(vnf, steps=[asks]))
    under_way = InBackground(lambda: world.carry_out(plan_of(["v1", "v2"])))
    until(lambda: len(world.here.questions.open()) == 2)
    assert state_of(whole(world), world.here) == WAITING
    with pytest.raises(InvalidInput):
        answer(world.here, whole(world).id, "ok", True)
    answer(world.here, children(world)["v1"].id, "ok", True)
    answer(world.here, whole(world).id, "ok", True)
    under_way.join()
    assert under_way.error is None


def test_a_question_within_the_migration_of_a_vnf_is_answered_with_the_id_of_the_plan(
    world: PlanWorld,
) -> None:
    asks = {"name": "ok", "after": "all", "prompt": "Does it work?"}
    world.here.vnfs.put(vnf_of("v1", steps=[asks]))
    under_way = InBackground(lambda: world.carry_out(plan_of(["v1"]), "migrate"))
    until(lambda: world.here.questions.open())
    assert state_of(whole(world), world.here) == WAITING
    assert open_step(world.here, whole(world).id) == "ok"
    answer(world.here, whole(world).id, "ok", True)
    under_way.join()
    assert under_way.error is None


# ---- approvals ----


def test_a_plan_is_approved_once_for_all_of_its_vnfs(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.here.vnfs.put(vnf_of("v2", approvals={"failover": 1}))
    prepared = world.prepare(plan_of(["v1", "v2"]))
    assert approvals.needed(world.here, plans.request(prepared)) == 1
    alone = plans.request(world.prepare(plan_of(["v1"])))
    assert approvals.needed(world.here, alone) == 0
    row = plans.request(prepared)
    run = row.id
    under_way = InBackground(lambda: plans.carry_out(world.process(), FAILOVER, row, Unobserved()))
    until(lambda: world.here.approvals.awaiting())
    with pytest.raises(InvalidInput):  # of one's own
        approvals.approve(world.here, run, plan_of_row(world.here.runs.get(run)))
    shown, words = approvals.shown(world.here, run)
    assert [line for line in words if "VNF v2 at site-b" in line]
    monkeypatch.setattr(identity, "current", lambda: "somebody-else@host")
    approvals.approve(world.here, run, shown)
    under_way.join()
    assert under_way.error is None
    assert world.servers_there() == {"s-v1", "s-v2"}
    assert {row.approvals_needed for row in children(world).values()} == {0}


# ---- other verbs ----


def at(world: PlanWorld) -> dict[str, str]:
    """Where each VNF is active."""
    states = world.here.states.all()
    return {vnf: state.active_site for vnf, state in states.items()}


def test_vnfs_move_and_move_back_and_given_again_nothing_moves(world: PlanWorld) -> None:
    plan = plan_of(["v1", "v2"])
    world.carry_out(plan, "migrate")
    assert at(world) | {"v1": "site-b", "v2": "site-b"} == at(world)
    assert {row.kind for row in children(world).values()} == {"migrate"}
    assert all(look.done for look in world.prepare(plan, "migrate").looks.values())
    back = world.prepare(plan, "failback")
    assert all(look.target.removes for look in back.looks.values())
    world.carry_out(plan, "failback")
    assert at(world) | {"v1": "site-a", "v2": "site-a"} == at(world)
    assert all(look.done for look in world.prepare(plan, "failback").looks.values())
    assert world.servers_there() == {"s-v1", "s-v2"}  # off and locked


def test_quotas_that_old_copies_free_suffice_for_a_failback_of_all_together(
    world: PlanWorld,
) -> None:
    plan = plan_of(["v1", "v2"], ["v3"])
    world.carry_out(plan, "migrate")
    for vnf in plan.vnfs:
        protect(world.process(), vnf, Unobserved())
    world.a.quotas["instances"] = {"limit": 4, "in_use": 4}
    back = world.prepare(plan, "failback")
    assert (back.in_the_way, back.problems) == ({}, [])
    needs = [n for look in back.looks.values() for n in look.quotas if n.resource == "instances"]
    assert [(n.used, n.freed) for n in needs] == [(4, 1)] * 3
    world.a.quotas["instances"] = {"limit": 3, "in_use": 4}
    assert set(in_the_way(world, plan, "failback")) == {"v1", "v2", "v3"}


def test_a_failback_whose_vnf_came_from_another_site_than_its_primary_wants_the_site(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.carry_out(plan_of(["v1"]), "migrate")
    real = migrate_preparation.prepare

    def from_elsewhere(*arguments: Any, **options: Any) -> migrate_preparation.Prepared:
        return replace(real(*arguments, **options), to="site-c")

    monkeypatch.setattr(migrate_preparation, "prepare", from_elsewhere)
    assert in_the_way(world, plan_of(["v1"]), "failback") == {"v1": "invalid-input"}


def test_a_migration_that_is_to_be_rolled_back_first_is_named_by_a_resume(
    world: PlanWorld,
) -> None:
    fails(world, "v1")
    world.a.before = lambda event: refuse(500, "no") if event.startswith("os-start") else None
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"]), "migrate")
    world.a.before = lambda event: None
    works(world)
    migration = children(world)["v1"].id
    with pytest.raises(ResourceFailed, match=f"antipode run abort {migration}"):
        resume(world.process(), whole(world).id, Unobserved())
    abort(world.process(), whole(world).id, Unobserved())
    assert {server["status"] for server in world.a.servers.values()} == {"ACTIVE"}


def test_an_abort_removes_what_each_drill_of_a_vnf_has_left(world: PlanWorld) -> None:
    refused = ["boot", "delete volume"]
    world.b.before = lambda event: refuse(500, "no") if event.startswith(tuple(refused)) else None
    with pytest.raises(ResourceFailed):
        world.carry_out(plan_of(["v1"]), "drill")
    assert world.b.volumes
    refused[:] = ["boot"]
    with pytest.raises(ResourceFailed):
        resume(world.process(), whole(world).id, Unobserved())
    works(world)
    abort(world.process(), whole(world).id, Unobserved())
    assert not world.b.volumes


def test_a_drill_rehearses_each_vnf_and_leaves_nothing(world: PlanWorld) -> None:
    record = world.carry_out(plan_of(["v1", "v2"]), "drill")
    assert record["succeeded"] == 2
    assert {row.kind for row in children(world).values()} == {"drill"}
    assert not world.b.servers and not world.b.volumes
    assert at(world)["v1"] == "site-a"


def test_the_verdict_of_a_plan_is_the_worst_of_its_vnfs(world: PlanWorld) -> None:
    record = world.carry_out(plan_of(["v1", "v2"]), "precheck")
    assert record["verdict"] in ("green", "yellow")
    assert world.carry_out(plan_of(["v1", "nobody"]), "precheck")["verdict"] == "red"
    assert whole(world).state == "succeeded"


def test_a_service_carries_a_plan_out_that_was_queued(world: PlanWorld) -> None:
    prepared = world.prepare(plan_of(["v1", "v2"], ["v3"]))
    run = submit(world.here, plans.request(prepared))["run"]
    conductor = Conductor(world.process())
    conducting = InBackground(conductor.conduct)
    until(lambda: world.here.runs.get(run).state == "succeeded")
    conductor.halt.set()
    conducting.join()
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert len(children(world)) == 3


def test_a_service_and_a_resume_share_what_a_dead_process_has_left(world: PlanWorld) -> None:
    halt, here = threading.Event(), world.process()

    def before(happens: str) -> None:
        if happens == "boot s-v1":
            halt.set()
            until(lambda: any("stops" in s.name for s in world.here.runs.steps(whole(world).id)))

    world.b.before = before
    row = plans.request(world.prepare(plan_of(["v1"], ["v2"])))
    with here.claims.begin(row) as claim, pytest.raises(Halted):
        execute(here, FAILOVER, claim, Unobserved(), halt)
    works(world)
    conductor = Conductor(world.process())  # finds the plan and the failover lost
    conducting = InBackground(conductor.conduct)
    until(lambda: whole(world).state == "succeeded")
    conductor.halt.set()
    conducting.join()
    assert len(children(world)) == 2
    assert len(world.b.servers) == 2
    assert {row.state for row in world.here.runs.all()} == {"succeeded"}


# ---- without the failed site ----


def test_a_failover_needs_nothing_but_the_vault_and_the_backup_site(
    world: PlanWorld, tmp_path: Path
) -> None:
    plans.put(world.here, plan_of(["v1", "v2"], ["v3"]))
    for database in world.folder.glob("antipode.db*"):
        database.unlink()
    called: list[str] = []
    world.a.before = called.append
    here = world.process()
    assert here.vnfs.names() == []
    found = plans.find(here, "p", "failover")
    prepared = plans.prepare(here, found, "failover")
    assert not prepared.in_the_way
    plans.carry_out(here, prepared.kind, plans.request(prepared), Unobserved())
    assert world.servers_there() == {"s-v1", "s-v2", "s-v3"}
    assert called == []


def test_a_failover_with_a_fence_stops_and_locks_the_copies_that_it_leaves(
    world: PlanWorld,
) -> None:
    prepared = world.prepare(plan_of(["v1", "v2"]), fence="required")
    assert [w for w in prepared.looks["v1"].target.words if "locks server s-v1" in w]
    plans.carry_out(world.process(), FAILOVER, plans.request(prepared), Unobserved())
    left = {s["name"]: (s["status"], bool(s.get("locked"))) for s in world.a.servers.values()}
    assert left == {
        "s-v1": ("SHUTOFF", True),
        "s-v2": ("SHUTOFF", True),
        "s-v3": ("ACTIVE", False),
        "s-v4": ("ACTIVE", False),
    }
    assert world.servers_there() == {"s-v1", "s-v2"}


def test_a_site_that_cannot_be_fenced_stands_in_the_way_unless_the_operator_accepts_it(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(deployment: Any, state: Any) -> list[str]:
        raise SiteUnreachable("site-a: no answer")

    monkeypatch.setattr(failover_fence, "members", silent)
    prepared = world.prepare(plan_of(["v1"]), fence="required")
    assert {vnf: why.code for vnf, why in prepared.in_the_way.items()} == {"v1": "site-unreachable"}
    prepared = world.prepare(plan_of(["v1"]), fence="try")
    assert "cannot be fenced" in prepared.looks["v1"].warnings[0]


# ---- many ----


class Toy(RunKind):
    """A run that only counts how many are in progress."""

    name = "toy"
    flow_version = 1
    priority = Priority.UPKEEP
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.several = threading.Event()

    def site_of(self, row: RunRow) -> str:
        return "site-b"

    def execute(self, run: Run) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now > 1:
                self.several.set()
        assert self.several.wait(60)
        with self.lock:
            self.now -= 1
        if run.vnf == "v42" and run.claim.number == 1 and not run.request.get("again"):
            raise ResourceFailed("it did not work")

    def roll_back(self, run: Run) -> list[str]:
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return None


class OfToy(PlanVerb):
    name = "toy"
    wants_site = False

    def __init__(self, child: Toy) -> None:
        self.child = child  # type: ignore[misc]
        self.made_for: list[str] = []

    def look(self, deployment: Any, vnf: str, to: str | None, given: Any) -> Look:
        return Look(Target(vnf=vnf, site="site-b"))

    def made(self, deployment: Any, target: Target, given: Any) -> RunRow:
        again = target.vnf in self.made_for
        self.made_for.append(target.vnf)
        return new_run(self.child, target.vnf, {"again": again})


def test_a_hundred_vnfs_are_done_by_few_threads_and_a_failed_one_is_taken_up_again(
    world: PlanWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy()
    verb = OfToy(toy)
    kind = plan.Plan(verb)
    monkeypatch.setitem(plan.OF_VERB, "toy", kind)
    vnfs = [f"v{number}" for number in range(100)]
    many = plan_of(vnfs[:50], vnfs[50:], at_once=8, on_failure="continue")
    threads = threading.active_count()
    with KINDS.registered("toy", toy), KINDS.registered("plan-toy", kind):
        with pytest.raises(ResourceFailed):
            world.carry_out(many, "toy")
        assert whole(world).result["succeeded"] == 99
        record = resume(world.process(), whole(world).id, Unobserved())
    assert record["succeeded"] == 100
    assert len(children(world)) == 100
    assert sorted(verb.made_for) == sorted([*vnfs, "v42"])
    assert 1 < toy.most <= 8
    assert threading.active_count() <= threads + 2
