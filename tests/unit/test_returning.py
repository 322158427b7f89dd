# SPDX-License-Identifier: Apache-2.0
"""A site returns with the members of an old copy running: the service says so, and fences them
where the VNF file has it so; never the active copy, and never without the vaults.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.activity import two_copies
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import Aborted, Busy, SiteUnreachable, UnexpectedAnswer, VaultError
from antipode.model.runbook import RunbookStep
from antipode.operations import inspect
from antipode.operations.fence import fence as fence_operation
from antipode.recover import fencing
from antipode.runs import fence, kind_of
from antipode.service import observer, returning
from antipode.service.daemon import serve
from antipode.service.returning import Returning
from tests.unit.test_durable_runs import InBackground, World, until, world
from tests.unit.test_fence_run import OLD, back, claimed, is_fenced, picture
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]


@pytest.fixture
def returned(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The VNF has failed over to site-b; site-a is back, and the old copy runs there."""
    monkeypatch.setattr(fencing, "POLL_S", 0.01)
    world.failover()
    policy(world, "fence")
    return world


def policy(world: World, on_return: str) -> None:
    world.here.vnfs.put(VNF.model_copy(update={"on_return": on_return}))


def queued(here: Deployment) -> list[str]:
    return [row.id for row in here.runs.open("v") if row.kind == "fence"]


def carry_out(here: Deployment, run: str) -> None:
    """As the conductor does."""
    with here.claims.take(run) as claim:
        execute(here, kind_of("fence"), claim, Unobserved())


def test_a_copy_that_runs_at_a_returned_site_is_fenced_and_then_it_is_over(
    returned: World,
) -> None:
    here = returned.process()
    look = Returning(here, "site-a")
    look.look()
    assert list(two_copies(here)) == ["v"]
    assert list(inspect.status(here, "v").old_copies) == ["site-a"]
    (run,) = queued(here)
    assert here.runs.get(run).request["by_policy"] is True  # type: ignore[index]
    carry_out(here, run)
    assert all(is_fenced(returned.a, server) for server in OLD)
    look.look()
    assert (two_copies(here), queued(here), look.trouble) == ({}, [], {})
    types = [event.type for event in here.events.newest(9)]
    assert types == ["dr.vnf.two-copies", "dr.vnf.one-copy"]


def test_a_service_notices_it_where_a_host_with_another_database_has_failed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.folder / "another.yaml"
    file.write_text(world.config.read_text().replace("antipode.db", "another.db"))
    here, stop = Deployment(config.load(str(file))), threading.Event()
    here.vnfs.put(VNF)
    for module in (returning, observer):
        monkeypatch.setattr(module, "LOOK_S", 0.05)
    serving = InBackground(lambda: serve(here, stop))
    try:
        until(lambda: here.states.find("v") is not None)
        world.failover()
        until(lambda: list(two_copies(here)) == ["v"])
    finally:
        stop.set()
        serving.join()


def test_with_the_policy_alarm_it_is_said_and_nothing_is_changed(returned: World) -> None:
    policy(returned, "alarm")
    before = picture(returned.a)
    here = returned.process()
    Returning(here, "site-a").look()
    assert (list(two_copies(here)), queued(here)) == (["v"], [])
    assert picture(returned.a) == before


def test_a_bug_with_one_vnf_is_shown_and_keeps_no_other_from_being_looked_at(
    returned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = returned.process()
    look, judge = Returning(here, "site-a"), Returning._judge
    other = VNF.model_copy(update={"vnf": "a-vnf-before-it"})
    monkeypatch.setattr(look, "_may_be_old", lambda vnf: True)
    here.vnfs.put(other)

    def wrong_with_one(self: Returning, vnf: Any, servers: Any) -> None:
        if vnf.vnf == other.vnf:
            raise KeyError("a bug")
        judge(self, vnf, servers)

    monkeypatch.setattr(Returning, "_judge", wrong_with_one)
    look.look()
    assert list(look.trouble) == [other.vnf]
    assert len(queued(here)) == 1


def test_an_answer_of_the_site_that_cannot_be_used_is_shown(
    returned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = returned.process()

    def servers() -> Any:
        raise UnexpectedAnswer("site-a", "GET /servers/detail", "it has no servers")

    monkeypatch.setattr(here.site("site-a").compute, "servers", servers)
    look = Returning(here, "site-a")
    look.look()
    assert list(look.trouble) == ["v"]
    assert queued(here) == []


def test_a_copy_that_is_off_and_not_locked_is_fenced_and_no_alarm(returned: World) -> None:
    for server in OLD:
        returned.a.servers[server]["status"] = "SHUTOFF"
    here = returned.process()
    Returning(here, "site-a").look()
    assert (two_copies(here), len(queued(here))) == ({}, 1)


def test_services_of_two_hosts_fence_once(returned: World) -> None:
    one, other = returned.process(), returned.process()
    for here in (one, other):
        Returning(here, "site-a").look()
    (run,) = queued(one)
    carry_out(one, run)
    for here in (one, other):
        Returning(here, "site-a").look()
    assert queued(other) == []
    assert len([row for row in one.runs.all("v") if row.kind == "fence"]) == 1
    assert len([e for e in one.events.newest(9) if e.type == "dr.vnf.two-copies"]) == 1


def test_the_active_copy_is_left_alone(returned: World) -> None:
    before = picture(returned.b)
    here = returned.process()
    Returning(here, "site-b").look()
    assert (two_copies(here), queued(here), picture(returned.b)) == ({}, [], before)


def test_a_copy_that_has_become_the_active_one_again_is_left_alone(returned: World) -> None:
    here = returned.process()
    look = Returning(here, "site-a")
    look.look()  # this host has seen it as old
    (run,) = queued(here)
    before = picture(returned.a)
    back(returned)  # by another host: this one does not know yet
    with pytest.raises(Exception, match="never fenced"):
        carry_out(here, run)
    look.look()
    assert picture(returned.a) == before
    assert (queued(here), two_copies(here)) == ([], {})


def test_without_the_vaults_it_is_said_and_nothing_is_fenced(
    returned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(returned, "alarm")
    here = returned.process()
    look = Returning(here, "site-a")
    look.look()
    policy(returned, "fence")

    def silent(*_: object, **__: object) -> Any:
        raise VaultError("the vault does not answer")

    monkeypatch.setattr(here, "_open", silent)
    look.look()
    assert list(two_copies(here)) == ["v"]
    assert (queued(here), list(look.trouble)) == ([], ["v"])


def test_the_alarm_stays_while_the_vnf_is_failing_over_once_more(returned: World) -> None:
    here = returned.process()
    policy(returned, "alarm")
    look = Returning(here, "site-a")
    look.look()
    since = two_copies(here)
    assert list(since) == ["v"]
    claimed(returned, "failover-next", "site-a")
    with pytest.raises(Busy):
        fence.must_be_old(here, "v", "site-a")  # this host has learned of it
    look.look()
    assert two_copies(here) == since


def test_no_alarm_is_raised_about_a_copy_that_is_the_active_one_again(returned: World) -> None:
    policy(returned, "alarm")
    here = returned.process()
    look = Returning(here, "site-a")
    for server in OLD:
        returned.a.servers[server] |= {"status": "SHUTOFF", "locked": True}
    look.look()  # it is known as an old one, and is fenced
    known = here.states.find("v")
    assert known is not None
    back(returned)
    here.states.forget("v")
    here.states.keep(known)  # this host does not know that it is active again
    for server in OLD:
        returned.a.servers[server] |= {"status": "ACTIVE", "locked": False}
    look.look()
    assert (two_copies(here), queued(here)) == ({}, [])


def test_a_site_that_does_not_answer_has_not_returned(
    returned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(name: str, cloud: str) -> Any:
        raise SiteUnreachable(f"{name}: black hole")

    monkeypatch.setattr(cloud_site, "connect", connect)
    here = returned.process()
    look = Returning(here, "site-a")
    look.look()
    assert (two_copies(here), queued(here), look.trouble) == ({}, [], {})


def test_a_vnf_that_never_moved_costs_no_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world.process()
    called: list[str] = []
    monkeypatch.setattr(here, "site", called.append)
    for site in ("site-a", "site-b"):
        Returning(here, site).look()
    assert called == []


@pytest.mark.parametrize(("ended_ago_s", "runs"), [(1.0, 0), (301.0, 1), (-3600.0, 1)])
def test_an_old_copy_that_cannot_be_fenced_is_not_tried_at_every_look_of_any_service(
    returned: World, ended_ago_s: float, runs: int
) -> None:
    here, there = returned.process(), returned.process()
    Returning(here, "site-a").look()
    (run,) = queued(here)
    with here.claims.take(run) as claim:
        ended_at = time.time() - ended_ago_s
        here.runs.end(run, claim.number, "failed", ended_at, "not all of it is fenced", {})
    for deployment in (here, there):
        Returning(deployment, "site-a").look()
    assert len(queued(here)) == runs


def test_a_fencing_that_was_not_approved_holds_none_up_by_policy(returned: World) -> None:
    here = returned.process()
    state = fence.must_be_old(here, "v", "site-a").state
    row = fence.requested(state, "site-a")
    run = row.id
    here.approvals.ask(row)
    assert here.approvals.reject(run, "no")
    Returning(here, "site-a").look()
    assert len(queued(here)) == 1


def test_a_question_before_a_fence_does_not_hold_up_one_by_policy(returned: World) -> None:
    here = returned.process()
    asks = {"name": "q", "before": "all", "on": "fence", "prompt": "Is it old?", "within": "1h"}
    state = fence.must_be_old(here, "v", "site-a").state
    row = fence.requested(state, "site-a", steps=[RunbookStep.model_validate(asks)])
    run = row.id
    fencing_by_hand = InBackground(lambda: fence_operation(here, row, Unobserved()))
    until(lambda: bool(here.questions.open([run])))
    look = Returning(here, "site-a")
    look.look()
    fencing_by_hand.join()
    assert isinstance(fencing_by_hand.error, Aborted)
    look.look()
    (by_policy,) = queued(here)
    assert here.runs.get(by_policy).request["by_policy"] is True  # type: ignore[index]
    carry_out(here, by_policy)
    assert all(is_fenced(returned.a, server) for server in OLD)
