# SPDX-License-Identifier: Apache-2.0
"""The two-person rule: a run that needs approval changes nothing before others than its author have
approved it as it is, and is in the way of nothing meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import update

from antipode import identity
from antipode.engine.approval import plan_of
from antipode.engine.execution import execute
from antipode.engine.run import AWAITING_APPROVAL, new_run, state_of
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    ApprovalExpired,
    Busy,
    InvalidInput,
    NotApproved,
    NotFound,
    Rejected,
)
from antipode.model.vnf import Vnf
from antipode.operations import approvals
from antipode.operations import drill as drilling
from antipode.operations import failover as failing
from antipode.operations import migrate as migrating
from antipode.operations.abort import abort
from antipode.operations.approvals import approve, needed, reject, shown
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.operations.submit import submit
from antipode.recover import switching
from antipode.runs import expire, kind_of
from antipode.service.conductor import Conductor
from antipode.store.tables import ApprovalRow, RunRow
from tests.unit.test_durable_runs import VNF, InBackground, World, until, world

__all__ = ["world"]
Json = dict[str, Any]
As = Callable[[str], None]


@pytest.fixture
def acting_as(monkeypatch: pytest.MonkeyPatch) -> As:
    """Have this process act on behalf of a person."""

    def become(name: str) -> None:
        monkeypatch.setattr(identity, "current", lambda: name)

    monkeypatch.setattr(approvals, "LOOK_S", 0.01)
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    become("alice@ops-1")
    return become


def needing(world: World, **wanted: int) -> None:
    world.here.vnfs.put(Vnf.model_validate(VNF.model_dump(mode="json") | {"approvals": wanted}))


def asked(world: World) -> str:
    """A failover that awaits approval, asked for by alice."""
    row = failing.request(failing.prepare(world.here, "v", "site-b", None))
    record = submit(world.here, row)
    assert record["state"] == AWAITING_APPROVAL
    return str(record["run"])


def approved(world: World, run: str) -> Json:
    return approve(world.process(), run, shown(world.here, run)[0])


def newest(world: World, kind: str = "failover") -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == kind)


def awaits(world: World, kind: str = "failover") -> str:
    until(lambda: any(r.kind == kind for r in world.here.approvals.awaiting()))
    return newest(world, kind).id


def test_a_run_begins_when_another_person_has_approved_it(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    prepared = failing.prepare(world.here, "v", "site-b", None)
    assert needed(world.here, failing.request(prepared)) == 1
    here = world.process()
    recovering = InBackground(lambda: failing.failover(here, prepared, Unobserved()))
    run = awaits(world)
    row = newest(world)
    assert (row.author, state_of(row, world.here)) == ("alice@ops-1", AWAITING_APPROVAL)
    assert world.b.events == []
    acting_as("bob@ops-2")
    record = approved(world, run)
    assert record["approved_by"] == ["bob@ops-2"]
    recovering.join()
    assert recovering.error is None
    assert newest(world).state == "succeeded"


def test_the_author_does_not_approve_from_any_host_and_no_person_counts_twice(
    world: World, acting_as: As
) -> None:
    needing(world, failover=2)
    run = asked(world)
    for mine in ("alice@ops-1", "alice@ops-2"):
        acting_as(mine)
        with pytest.raises(InvalidInput):
            approved(world, run)
    acting_as("bob@ops-1")
    assert approved(world, run)["state"] == AWAITING_APPROVAL
    acting_as("bob@ops-2")
    with pytest.raises(InvalidInput):
        approved(world, run)
    acting_as("carol@ops-1")
    assert approved(world, run)["state"] == "queued"


def test_the_stricter_of_configuration_and_vnf_file_counts(world: World, acting_as: As) -> None:
    path = world.config
    path.write_text(path.read_text() + "approvals: {failover: 2, drill: 1}\n")
    needing(world, failover=1, drill=3)
    here = world.process()
    assert needed(here, failing.request(failing.prepare(here, "v", "site-b", None))) == 2
    assert needed(here, drilling.request(drilling.prepare(here, "v"))) == 3
    assert needed(here, migrating.request(migrating.prepare(here, "v"))) == 0


@pytest.mark.parametrize("wrong", [{"failover": -1}, {"failover": True}, {"protect": 1}])
def test_approvals_that_make_no_sense_are_refused(wrong: Json) -> None:
    with pytest.raises(ValidationError):
        Vnf.model_validate(VNF.model_dump(mode="json") | {"approvals": wrong})


def test_a_run_that_awaits_approval_is_in_the_way_of_no_other(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    run = asked(world)
    protect(world.process(), "v", Unobserved())
    assert run in expire.users(world.here, "v").values()  # and its point stays
    second = asked(world)
    assert {r.id for r in world.here.approvals.awaiting()} == {run, second}


def test_no_process_begins_a_run_that_is_not_approved(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    run = asked(world)
    conductor = Conductor(world.here)
    conductor.look()
    assert conductor.under_way() == []
    with pytest.raises(InvalidInput):
        resume(world.here, run, Unobserved())
    with pytest.raises(Busy):
        world.here.claims.take(run)
    row = failing.request(failing.prepare(world.here, "v", "site-b", None))
    with world.here.claims.begin(row) as claim, pytest.raises(NotApproved):
        execute(world.here, kind_of("failover"), claim, Unobserved())
    assert world.here.runs.get(claim.run).state == "rejected"
    assert world.b.events == []


def test_an_approval_covers_what_was_seen_and_nothing_else(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    run = asked(world)
    plan, _ = shown(world.here, run)

    def change(request: Json) -> None:
        with world.here.database.begin() as connection:
            connection.execute(update(RunRow).where(RunRow.id == run).values(request=request))

    as_it_was = dict(world.here.runs.get(run).request or {})
    acting_as("bob@ops-1")
    change(as_it_was | {"to": "site-c"})
    with pytest.raises(InvalidInput):
        approve(world.here, run, plan)
    change(as_it_was)
    approve(world.here, run, plan)
    change(as_it_was | {"to": "site-c"})
    there = world.process()
    with there.claims.take(run) as claim, pytest.raises(NotApproved):
        execute(there, kind_of("failover"), claim, Unobserved())
    assert world.here.runs.get(run).state == "rejected"
    assert world.b.events == []


def test_a_run_that_is_rejected_ends_with_a_code_of_its_own_and_has_changed_nothing(
    world: World, acting_as: As
) -> None:
    needing(world, failover=1)
    prepared = failing.prepare(world.here, "v", "site-b", None)
    here = world.process()
    recovering = InBackground(lambda: failing.failover(here, prepared, Unobserved()))
    run = awaits(world)
    acting_as("bob@ops-1")
    record = reject(world.here, run, "site-a answers again")
    assert record["state"] == "rejected" and "site-a answers again" in record["reason"]
    recovering.join()
    assert isinstance(recovering.error, Rejected)
    assert (recovering.error.code, recovering.error.exit_code) == ("rejected", 8)
    assert world.b.events == []
    for late in (lambda: approved(world, run), lambda: reject(world.here, run)):
        with pytest.raises(InvalidInput):
            late()
    with pytest.raises(InvalidInput):
        resume(world.here, run, Unobserved())
    with pytest.raises(NotFound):
        reject(world.here, "failover-of-nobody")


def test_a_run_that_is_not_approved_in_time_is_over(world: World, acting_as: As) -> None:
    path = world.config
    path.write_text(path.read_text() + "approve_within: 0.05\n")
    needing(world, failover=1)
    here = world.process()
    with pytest.raises(ApprovalExpired) as late:
        failing.failover(here, failing.prepare(here, "v", "site-b", None), Unobserved())
    assert late.value.exit_code == 8
    assert newest(world).state == "expired"
    row = failing.request(failing.prepare(here, "v", "site-b", None))
    run = submit(here, row)["run"]
    time.sleep(0.06)
    acting_as("bob@ops-1")
    with pytest.raises(InvalidInput):
        approve(here, run, plan_of(here.runs.get(run)))
    assert here.runs.get(run).state == "expired"
    assert world.b.events == []


def test_the_clock_of_the_approvers_host_has_no_say(
    world: World, acting_as: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(world, failover=1)
    run = asked(world)
    plan, late = shown(world.here, run)[0], time.time() + 2 * world.here.config.approve_within
    monkeypatch.setattr("antipode.store.approvals.now", lambda engine: late)
    acting_as("bob@ops-2")
    mine = ApprovalRow(run=run, person="bob", identity="bob@ops-2", plan=plan, at=time.time())
    with pytest.raises(InvalidInput):
        world.here.approvals.approve(mine)
    assert [row.id for row in world.here.approvals.expire()] == [run]


def test_an_abort_of_a_run_that_awaits_approval_ends_it(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    run = asked(world)
    for _ in range(2):
        assert abort(world.here, run, Unobserved())["state"] == "rejected"
    assert world.b.events == []


def test_a_run_that_was_not_begun_replaces_none_that_failed(world: World, acting_as: As) -> None:
    world.b.before = lambda event: (_ for _ in ()).throw(Busy("no")) if "boot" in event else None
    with pytest.raises(Busy):
        world.failover()
    failed = newest(world).id
    world.b.before = lambda event: None
    needing(world, failover=1)
    for _ in range(2):
        last = asked(world)
    reject(world.here, last)
    assert world.here.runs.successor(world.here.runs.get(failed)) is None


def test_an_approval_waits_while_another_run_has_the_slot(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    first, second = asked(world), asked(world)
    acting_as("bob@ops-1")
    approved(world, first)
    with pytest.raises(Busy):
        approved(world, second)
    assert world.here.approvals.of(second) == []
    abort(world.here, first, Unobserved())
    assert approved(world, second)["state"] == "queued"


def test_an_approval_is_a_new_confirmation_for_the_service(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    run = asked(world)
    acting_as("bob@ops-1")
    approved(world, run)
    long_ago = time.time() - 10 * world.here.config.failover_confirmed_for
    row = world.here.runs.get(run)
    row.request = {**(row.request or {}), "confirmed_at": long_ago}
    row.started_at = long_ago
    assert Conductor(world.here)._idle_s(row) < 60


def test_a_migration_is_approved_once_for_all_its_parts(world: World, acting_as: As) -> None:
    needing(world, migrate=1, failover=1)
    here = world.process()
    row = migrating.request(migrating.prepare(here, "v"))
    before = list(world.a.events)
    moving = InBackground(lambda: migrating.migrate(here, row, Unobserved()))
    run = awaits(world, "migrate")
    assert world.a.events == before
    acting_as("bob@ops-1")
    approved(world, run)
    moving.join()
    assert moving.error is None
    assert newest(world, "migrate").state == "succeeded"


def test_what_is_to_be_approved_is_shown(world: World, acting_as: As) -> None:
    steps = [{"name": "say", "after": "all", "command": ["notify", "it"]}]
    more = {"approvals": {"failover": 1, "migrate": 1, "drill": 1}, "steps": steps}
    world.here.vnfs.put(Vnf.model_validate(VNF.model_dump(mode="json") | more))
    requests = [
        failing.request(failing.prepare(world.here, "v", "site-b", None)),
        migrating.request(migrating.prepare(world.here, "v")),
        drilling.request(drilling.prepare(world.here, "v")),
    ]
    for row in requests:
        kind = row.kind
        words = "\n".join(shown(world.here, submit(world.here, row)["run"])[1])
        assert "alice@ops-1" in words and "site-b" in words
        assert ("notify it" in words) == (kind != "drill")


def test_what_was_asked_beside_the_plan_is_shown(world: World, acting_as: As) -> None:
    needing(world, failover=1)
    prepared = failing.prepare(world.here, "v", "site-b", None)
    row = failing.request(prepared, "try", 600.0)
    dangers = {"instead_of": "failover-lost", "lost_vaults": ["third"]}
    row.request = {**(row.request or {}), **dangers}
    words = "\n".join(shown(world.here, submit(world.here, row)["run"])[1])
    for word in ("locks", "all the same", "failover-lost", "third", "600 s"):
        assert word in words, word


def test_the_person_is_the_user_that_has_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = tmp_path / "loginuid"
    monkeypatch.setattr(identity, "_LOGIN", login)
    names = {0: "root", 1000: "alice"}
    monkeypatch.setattr(identity, "_name", lambda uid: names[uid])
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert identity.person(identity.current()) == "root"  # there is no such file
    login.write_text("1000")
    assert identity.person(identity.current()) == "alice"
    login.write_text("0")
    monkeypatch.setattr(os, "getuid", lambda: 1000)  # root, behind `su alice`
    assert identity.person(identity.current()) == "root"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    login.write_text(str(2**32 - 1))
    assert identity.person(identity.current()) == "root"


@pytest.mark.parametrize(
    "other", ["JOSÉ", "jose\u0301", "\uff4aosé", "Jos\u00c9", "JOSE\u0301", "\u2c7cosé"]
)
def test_a_name_that_is_spelled_otherwise_is_the_same_person(other: str) -> None:
    assert identity.person(f"{other}@site-b") == identity.person("josé@ops-1")
    assert identity.person("jose@site-b") != identity.person("josé@ops-1")


def test_every_run_has_its_author(acting_as: As) -> None:
    acting_as("dora@ops-1")
    assert new_run(kind_of("protect"), "hlr", {}).author == "dora@ops-1"
