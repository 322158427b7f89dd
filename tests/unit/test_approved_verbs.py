# SPDX-License-Identifier: Apache-2.0
"""Each verb that an operator confirms can want approvals, by whichever name it is called; and a run
that is aborted and approved at once ends in one way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, get_args

import pytest

from antipode.engine.approval import plan_of
from antipode.engine.deployment import Deployment
from antipode.engine.run import AWAITING_APPROVAL
from antipode.engine.timeline import Unobserved
from antipode.errors import Aborted, AntipodeError, InvalidInput
from antipode.model.runbook import Deliberate, Verb
from antipode.model.vnf import Vnf
from antipode.operations import (
    approvals,
    commit,
    dns,
    drill,
    failover,
    fence,
    migrate,
    reprotect,
    undo,
)
from antipode.operations.abort import abort
from antipode.operations.approvals import approve, needed, reject, shown
from antipode.operations.submit import submit
from antipode.runs import KINDS, kind_of
from antipode.runs import fence as fence_run
from antipode.service.conductor import Conductor
from antipode.service.queue import enqueue
from antipode.store.approvals import Approvals
from antipode.store.runs import NEVER_BEGUN
from antipode.store.tables import ApprovalRow, RunRow
from tests.unit.test_approvals import As, acting_as
from tests.unit.test_dns_run import FakeZone, zone
from tests.unit.test_durable_runs import World, until, world
from tests.unit.test_undo_run import failed_over, quick

__all__ = ["acting_as", "quick", "world", "zone"]
VERBS: tuple[str, ...] = get_args(Deliberate)
ASKED: dict[str, Callable[[Deployment], RunRow]] = {
    "failover": lambda here: failover.request(failover.prepare(here, "v", "site-b", None)),
    "migrate": lambda here: migrate.request(migrate.prepare(here, "v", "site-b")),
    "drill": lambda here: drill.request(drill.prepare(here, "v")),
    "undo": lambda here: undo.request(undo.prepare(here, "v")),
    "commit": lambda here: commit.request(commit.prepare(here, "v")),
    "fence": lambda here: fence.request(fence.prepare(here, "v", "site-a")),
    "reprotect": lambda here: reprotect.request(reprotect.prepare(here, "v")),
    "dns-switch": lambda here: dns.request(dns.prepare(here, "v")),
}
AFTER_A_FAILOVER = ("undo", "commit", "fence", "reprotect", "dns-switch")


def wants(world: World, **approvals: int) -> Deployment:
    """A process of a host whose configuration wants approvals."""
    text = "".join(f"  {verb}: {number}\n" for verb, number in approvals.items())
    world.config.write_text(world.config.read_text() + f"approvals:\n{text}")
    return world.process()


def known_with(here: Deployment, **changes: Any) -> None:
    known = here.vnfs.get("v").model_dump(mode="json", exclude_unset=True)
    here.vnfs.put(Vnf.model_validate(known | changes))


def pictured(world: World) -> list[Any]:
    files = sorted(world.folder.glob("vault*/**/*"))
    return [*world.a.events, *world.b.events, *files]


@pytest.mark.parametrize("verb", ASKED)
def test_a_run_of_a_verb_waits_until_another_has_approved_it(
    world: World, zone: FakeZone, acting_as: As, verb: str
) -> None:
    if verb in AFTER_A_FAILOVER:
        failed_over(world)
    here = wants(world, **{verb: 1})
    row = ASKED[verb](here)
    before = pictured(world), dict(zone.records)
    record = submit(here, row)
    assert (record["state"], record["needed"]) == (AWAITING_APPROVAL, 1)
    conductor = Conductor(here)
    conductor.look()
    assert conductor.under_way() == []
    plan, words = shown(here, record["run"])
    assert len(words) > 2, "what it is going to do is not shown"
    with pytest.raises(InvalidInput):
        approve(here, record["run"], plan)
    assert (pictured(world), zone.records) == before
    acting_as("bob@ops-2")
    assert approve(here, record["run"], plan)["state"] == "queued"
    conductor.look()
    until(lambda: here.runs.get(record["run"]).state == "succeeded")


@pytest.mark.parametrize("verb", ["undo", "commit", "fence", "reprotect", "dns-switch"])
def test_one_that_is_rejected_has_changed_nothing(
    world: World, zone: FakeZone, acting_as: As, verb: str
) -> None:
    failed_over(world)
    known_with(world.here, approvals={verb: 1})
    here = world.process()
    row = ASKED[verb](here)
    before = pictured(world), dict(zone.records)
    run = submit(here, row)["run"]
    acting_as("bob@ops-2")
    assert reject(here, run, "no")["state"] == "rejected"
    assert (pictured(world), zone.records) == before


@pytest.mark.parametrize("verb", ["commit", "fence"])
def test_a_host_without_the_vnf_file_knows_what_the_recovery_point_wants(
    world: World, acting_as: As, verb: str
) -> None:
    known_with(world.here, approvals={verb: 2})
    world.protect()
    failed_over(world)
    here = world.process()
    here.vnfs.remove("v")
    assert needed(here, ASKED[verb](here)) == 2


def test_every_verb_that_can_want_approvals_is_of_some_kind_of_run() -> None:
    named = {*ASKED, "failback"}
    assert set(VERBS) == named
    assert set(get_args(Verb)) <= named
    assert {"undo", "commit", "dns-switch"} <= set(KINDS.names)


def test_a_move_to_where_the_vnf_came_from_wants_the_approvals_of_both_names(
    world: World, acting_as: As
) -> None:
    here = wants(world, failback=2, migrate=1)
    assert needed(here, migrate.request(migrate.prepare(here, "v", "site-b"))) == 1
    failed_over(world)
    back = migrate.request(migrate.prepare(here, "v", "site-a"))
    assert needed(here, back) == 2
    record = submit(here, back)
    assert record["needed"] == 2


def test_a_failback_wants_the_approvals_of_a_migration_too(world: World, acting_as: As) -> None:
    failed_over(world, None)
    for server in world.a.servers.values():
        server["status"] = "SHUTOFF"
    here = wants(world, migrate=3)
    assert needed(here, migrate.request(migrate.prepare(here, "v", back=True))) == 3


def test_what_fences_by_another_name_wants_the_approvals_of_a_fence(
    world: World, acting_as: As
) -> None:
    here = wants(world, fence=1)
    prepared = failover.prepare(here, "v", "site-b", None)
    assert needed(here, failover.request(prepared)) == 0
    assert needed(here, failover.request(prepared, "required")) == 1
    failed_over(world)
    assert needed(here, ASKED["reprotect"](here)) == 1


def test_a_fence_by_policy_awaits_no_approval(world: World, acting_as: As) -> None:
    here = wants(world, fence=1)
    failed_over(world)
    state = fence.prepare(here, "v", "site-a").state
    row = fence_run.requested(state, "site-a", by_policy=True)
    run = row.id
    enqueue(here, row)
    Conductor(here).look()
    until(lambda: here.runs.get(run).state == "succeeded")


def test_what_its_author_was_shown_is_shown_to_the_others_and_covered(
    world: World, acting_as: As
) -> None:
    here = wants(world, failover=1)
    row = ASKED["failover"](here)
    row.shown = ["WARNING: the store was not checked"]
    run = submit(here, row)["run"]
    plan, words = shown(here, run)
    assert any("the store was not checked" in line for line in words)
    with here.database.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET shown = '[]' WHERE id = ?", (run,))
    acting_as("bob@ops-2")
    with pytest.raises(InvalidInput):
        approve(here, run, plan)


def test_what_was_approved_before_there_was_anything_shown_still_counts(world: World) -> None:
    row = ASKED["failover"](world.here)
    assert row.shown is None
    before = plan_of(row)
    row.shown = ["x"]
    assert plan_of(row) != before


# ---- an abort and an approval at once ----


def bob(run: RunRow) -> ApprovalRow:
    return ApprovalRow(
        run=run.id, person="bob", identity="bob@x", plan=plan_of(run), at=run.started_at
    )


def test_an_abort_of_a_run_that_is_approved_just_before_rolls_it_back(
    world: World, acting_as: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = wants(world, failover=1)
    run = submit(here, ASKED["failover"](here))["run"]
    rejects = Approvals.reject

    def approved_first(self: Approvals, which: str, reason: str) -> bool:
        assert self.approve(bob(here.runs.get(run)))
        return rejects(self, which, reason)

    monkeypatch.setattr(Approvals, "reject", approved_first)
    assert abort(here, run, Unobserved())["state"] == "aborted"
    assert world.b.events == []


def test_the_author_that_waits_learns_that_an_approved_run_was_aborted(
    world: World, acting_as: As
) -> None:
    here = wants(world, failover=1)
    run = submit(here, ASKED["failover"](here))["run"]
    assert here.approvals.approve(bob(here.runs.get(run)))
    abort(here, run, Unobserved())
    with pytest.raises(Aborted):
        approvals._executed(here, kind_of("failover"), run, Unobserved())
    assert world.b.events == []


@pytest.mark.parametrize("again", range(5))
def test_of_an_abort_and_an_approval_at_once_one_counts(
    world: World, acting_as: As, again: int
) -> None:
    here = wants(world, failover=1)
    run = submit(here, ASKED["failover"](here))["run"]
    row, begin = here.runs.get(run), threading.Barrier(2)
    found: dict[str, Any] = {}

    def approves() -> None:
        there = world.process()
        begin.wait()
        try:
            found["queued"] = there.approvals.approve(bob(row))
        except AntipodeError as error:
            found["refused"] = error

    thread = threading.Thread(target=approves)
    thread.start()
    there = world.process()
    begin.wait()
    state = abort(there, run, Unobserved())["state"]
    thread.join()
    wanted = "aborted" if "queued" in found else NEVER_BEGUN[0]
    assert state == wanted == here.runs.get(run).state
    assert world.b.events == []
