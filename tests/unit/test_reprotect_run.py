# SPDX-License-Identifier: Apache-2.0
"""A reprotection: the old copy is fenced, the active one gets a first recovery point, and the old
one goes only where that was confirmed, and only after that point.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from antipode.engine import parts
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    Halted,
    InvalidInput,
    PreflightFailed,
    SiteUnreachable,
)
from antipode.model.vnf import Vnf
from antipode.operations import protect as protecting
from antipode.operations.abort import abort
from antipode.operations.inspect import status
from antipode.operations.protect import protect
from antipode.operations.reprotect import prepare, reprotect, request
from antipode.operations.resume import resume
from antipode.runs import failover_checks
from antipode.runs import protect as protect_run
from antipode.runs import reprotect as kind
from antipode.store.tables import RunRow
from antipode.vault import points
from tests.unit.test_durable_runs import World, until, world
from tests.unit.test_migrate_run import claims_it, fail, statuses, stops

__all__ = ["world"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "POLL_S", 0.005)


@pytest.fixture
def moved(world: World) -> World:
    """A VNF that has failed over; its old copy still runs."""
    world.failover()
    return world


def reprotected(world: World, **wanted: Any) -> dict[str, Any]:
    here = world.process()
    return reprotect(here, request(prepare(here, "v", **wanted)), Unobserved())


def newest(world: World) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == "reprotect")


def part(world: World, kind: str) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == kind and parts.part_of(r))


def is_fenced(cloud: Any) -> bool:
    servers, ports = cloud.servers.values(), cloud.ports.values()
    locked = {(s["status"], s.get("locked", False)) for s in servers} == {("SHUTOFF", True)}
    return locked and not any(p["admin_state_up"] for p in ports if p["device_id"])


def test_the_old_copy_is_fenced_and_the_active_one_has_a_point(moved: World) -> None:
    record = reprotected(moved)
    assert is_fenced(moved.a)
    assert statuses(moved.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    point = points.find(moved.process().vaults(()), "v", record["recovery_point"]).point
    assert (point.site, point.generation) == ("site-b", 2)
    assert record["old_copy"] == "kept"


def test_there_is_no_rpo_before_its_point_is_made(moved: World) -> None:
    seen: set[str] = set()
    moved.b.before = lambda happens: seen.add(status(moved.process(), "v").rpo.state.value)
    assert status(moved.process(), "v").rpo.age_s is None
    reprotected(moved)
    moved.b.before = lambda happens: None
    assert "no-point" in seen
    assert status(moved.process(), "v").rpo.age_s is not None


def test_an_old_copy_is_removed_after_the_point_is_made_and_only_it(moved: World) -> None:
    held = set(moved.b.servers), set(moved.b.volumes), set(moved.b.ports)

    def before(happens: str) -> None:
        if happens.startswith("delete"):
            newest = points.newest_or_none(moved.process().vaults(()), "v")
            assert newest is not None and newest.generation == 2

    moved.a.before = before
    record = reprotected(moved, old_copy="remove")
    assert (moved.a.servers, moved.a.volumes, moved.a.ports) == ({}, {}, {})
    assert (set(moved.b.servers), set(moved.b.volumes), set(moved.b.ports)) == held
    assert sorted(record["removed"]["servers"].values()) == ["db", "front"]


def test_once_the_old_copy_is_gone_the_vnf_can_be_recovered_at_its_former_site(
    moved: World,
) -> None:
    assert reprotected(moved, old_copy="remove")["missing"] == []


def test_a_former_site_that_lacks_something_is_named_and_the_point_is_there(moved: World) -> None:
    moved.a.quotas["instances"] = {"limit": 1}
    record = reprotected(moved, old_copy="remove")
    assert not record["recoverable"]
    assert record["missing"]
    assert record["recovery_point"]


def test_the_plan_names_each_server_volume_and_port_that_is_removed(moved: World) -> None:
    removes = prepare(moved.process(), "v", "remove").removes
    assert removes is not None
    assert set(removes.servers) == set(moved.a.servers)
    assert set(removes.volumes) == set(moved.a.volumes)
    assert set(removes.ports) == set(moved.a.ports)


def test_what_was_attached_since_the_plan_is_not_removed(moved: World) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "remove"))
    moved.a.volumes["new"] = {**moved.a.volumes["db-data"], "id": "new"}
    moved.a.attachments["id-db"].append({**moved.a.attachments["id-db"][0], "volumeId": "new"})
    held = set(moved.a.servers), set(moved.a.volumes)
    with pytest.raises(AntipodeError):
        reprotect(here, row, Unobserved())
    assert (set(moved.a.servers), set(moved.a.volumes)) == held


def test_one_that_has_never_moved_is_not_reprotected(world: World) -> None:
    with pytest.raises(InvalidInput):
        prepare(world.here, "v")


def test_one_that_is_protected_and_whose_old_copy_is_as_wanted_is_refused(moved: World) -> None:
    reprotected(moved)
    with pytest.raises(InvalidInput):
        prepare(moved.process(), "v")
    reprotected(moved, old_copy="remove")
    with pytest.raises(InvalidInput):
        prepare(moved.process(), "v", "remove")


def test_a_point_that_a_schedule_has_made_is_the_first_point(moved: World) -> None:
    made = protect(moved.process(), "v", Unobserved())["recovery_point"]
    assert reprotected(moved)["recovery_point"] == made
    assert is_fenced(moved.a)


def test_a_protection_under_way_is_awaited(
    moved: World,
) -> None:
    here = moved.process()
    claim = here.claims.begin(protecting.request(here, "v"))

    def scheduled() -> None:
        with claim:
            execute(here, protect_run.KIND, claim, Unobserved())

    by_schedule = threading.Timer(0.2, scheduled)
    by_schedule.start()
    record = reprotected(moved)
    by_schedule.join()
    assert record["recovery_point"] == claim.run.removeprefix("protect-")


def test_a_protection_whose_process_died_stops_it_and_is_named(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "NOT_RUNNING_S", 0.05)
    with moved.here.claims.begin(protecting.request(moved.here, "v")) as claim:
        lost = claim.run
    with pytest.raises(Busy, match=lost):
        reprotected(moved)


def test_a_former_site_that_does_not_answer_is_refused_and_nothing_is_done(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Deployment.site
    monkeypatch.setattr(
        Deployment,
        "site",
        lambda here, name, of: silent() if name == "site-a" else site(here, name, of),
    )
    with pytest.raises(SiteUnreachable):
        prepare(moved.process(), "v")
    assert all(r.kind != "reprotect" for r in moved.here.runs.all("v"))
    assert not is_fenced(moved.a)


def silent() -> Any:
    raise SiteUnreachable("site-a: no answer")


def test_backups_that_would_be_lost_with_the_active_site_are_refused(moved: World) -> None:
    here = moved.process()
    known = here.vnfs.get("v").model_dump(mode="json")
    here.vnfs.put(Vnf.model_validate(known | {"store_at_active_site": None}))
    with pytest.raises(PreflightFailed):
        prepare(here, "v")


def test_it_does_not_begin_beside_a_failover(moved: World) -> None:
    row = request(prepare(moved.process(), "v"))
    claims_it(moved)
    with pytest.raises(Busy):
        reprotect(moved.process(), row, Unobserved())
    assert not is_fenced(moved.a)


def test_one_whose_protection_fails_is_resumed(moved: World) -> None:
    moved.b.before = lambda happens: fail("no answer") if " backup " in happens else None
    with pytest.raises(AntipodeError):
        reprotected(moved, old_copy="remove")
    moved.b.before = lambda happens: None
    assert newest(moved).state == "failed"
    assert moved.a.servers
    assert moved.b.all_frozen == set()
    record = resume(moved.process(), newest(moved).id, Unobserved())
    assert record["recovery_point"]
    assert moved.a.servers == {}


def test_an_old_copy_that_cannot_be_fenced_stops_it_and_it_is_resumed(moved: World) -> None:
    moved.a.before = lambda happens: fail("no answer") if happens.startswith("lock") else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antipode.recover.fencing.WITHIN_S", 0.1)
        patch.setattr("antipode.recover.fencing.POLL_S", 0.01)
        with pytest.raises(AntipodeError):
            reprotected(moved)
    moved.a.before = lambda happens: None
    assert newest(moved).state == "failed"
    resume(moved.process(), newest(moved).id, Unobserved())
    assert is_fenced(moved.a)


def test_an_abort_while_it_protects_leaves_no_point_and_the_fence(moved: World) -> None:
    def before(happens: str) -> None:
        if " backup " in happens:
            moved.here.runs.request_abort(newest(moved).id)
            until(lambda: stops(moved, part(moved, "protect")))

    moved.b.before = before
    with pytest.raises(Aborted):
        reprotected(moved)
    moved.b.before = lambda happens: None
    assert newest(moved).state == "aborted"
    assert is_fenced(moved.a)
    assert moved.b.snapshots == {}
    assert moved.b.all_frozen == set()
    found = points.newest_or_none(moved.process().vaults(()), "v")
    assert found is not None and found.generation == 1


def test_one_that_is_halted_is_resumed_and_begins_no_part_twice(moved: World) -> None:
    halt = threading.Event()

    def before(happens: str) -> None:
        if " backup " in happens:
            halt.set()
            until(lambda: stops(moved, part(moved, "protect")))

    moved.b.before = before
    here, row = moved.process(), request(prepare(moved.process(), "v"))
    run = row.id
    with here.claims.begin(row) as claim, pytest.raises(Halted):
        execute(here, kind.KIND, claim, Unobserved(), halt)
    moved.b.before = lambda happens: None
    resume(moved.process(), run, Unobserved())
    mine = [r.kind for r in moved.here.runs.all("v") if parts.part_of(r) == run]
    assert sorted(mine) == ["fence", "protect"]


def test_a_protection_that_has_committed_and_was_lost_is_brought_to_its_end(moved: World) -> None:
    halt = threading.Event()

    def before(happens: str) -> None:
        if happens.startswith("delete snapshot"):  # its point is committed by now
            halt.set()
            until(lambda: stops(moved, part(moved, "protect")))

    moved.b.before = before
    here, row = moved.process(), request(prepare(moved.process(), "v"))
    run = row.id
    with here.claims.begin(row) as claim, pytest.raises(Halted):
        execute(here, kind.KIND, claim, Unobserved(), halt)
    moved.b.before = lambda happens: None
    moved.dies_before_its_end(part(moved, "protect").id)
    assert part(moved, "protect").state == "running"
    resume(moved.process(), run, Unobserved())
    assert part(moved, "protect").state == "succeeded"
    assert moved.b.snapshots == {}


def test_it_is_too_late_to_abort_one_that_is_done(moved: World) -> None:
    record = reprotected(moved)
    moved.dies_before_its_end(record["run"])
    with pytest.raises(InvalidInput):
        abort(moved.process(), record["run"], Unobserved())
    assert newest(moved).state == "succeeded"


@pytest.fixture
def alone(moved: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """It was protected since it has moved, and then its active site has died."""
    protect(moved.process(), "v", Unobserved())
    falls_silent(monkeypatch)
    monkeypatch.setattr(failover_checks, "store_warnings", lambda *_: [])
    return moved


def falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Deployment.site
    monkeypatch.setattr(
        Deployment,
        "site",
        lambda here, name, of=None: silent() if name == "site-b" else site(here, name, of),
    )


def test_an_old_copy_is_removed_though_the_active_site_has_died(alone: World) -> None:
    held = set(alone.b.servers), set(alone.b.volumes), set(alone.b.ports)
    plan = prepare(alone.process(), "v", "remove")
    assert [said for said in plan.warnings if "site-b" in said]
    record = reprotected(alone, old_copy="remove")
    assert (alone.a.servers, alone.a.volumes, alone.a.ports) == ({}, {}, {})
    assert (set(alone.b.servers), set(alone.b.volumes), set(alone.b.ports)) == held
    assert record["missing"] == []  # a failover to its site may begin


def test_such_a_removal_that_has_failed_in_the_middle_is_resumed(alone: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("delete volume"):
            fail("no answer")

    alone.a.before = before
    with pytest.raises(AntipodeError):
        reprotected(alone, old_copy="remove")
    assert (alone.a.servers, len(alone.a.volumes) > 0) == ({}, True)
    alone.a.before = lambda happens: None
    resume(alone.process(), newest(alone).id, Unobserved())
    assert (alone.a.volumes, alone.a.ports) == ({}, {})


def test_the_last_copy_is_not_removed_where_its_data_may_be_gone_with_the_active_site(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(moved.process(), "v", Unobserved())
    falls_silent(monkeypatch)  # no backup store is known that could be looked at
    with pytest.raises(PreflightFailed):
        prepare(moved.process(), "v", "remove")
    assert set(statuses(moved.a).values()) == {"ACTIVE"}


def test_the_last_copy_is_not_removed_where_the_active_one_was_never_protected(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    falls_silent(monkeypatch)
    with pytest.raises(PreflightFailed):
        prepare(moved.process(), "v", "remove")


def test_what_has_gone_missing_since_the_plan_stops_the_removal(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = request(prepare(alone.process(), "v", "remove"))
    monkeypatch.setattr(failover_checks, "store_warnings", lambda *_: ["it is not known"])
    held = set(alone.a.servers), set(alone.a.volumes), set(alone.a.ports)
    with pytest.raises(AntipodeError):
        reprotect(alone.process(), row, Unobserved())
    assert (set(alone.a.servers), set(alone.a.volumes), set(alone.a.ports)) == held


def test_volumes_on_which_points_may_rest_stay_where_the_active_site_has_died(
    alone: World,
) -> None:
    mark = {"antipode:run": "protect-old"}
    alone.a.snapshots["s"] = {
        "id": "s",
        "name": "s",
        "volume_id": "db-data",
        "status": "available",
        "metadata": mark,
    }
    removes = prepare(alone.process(), "v", "remove").removes
    assert removes is not None and "db-data" not in removes.volumes
    record = reprotected(alone, old_copy="remove")
    assert (set(alone.a.volumes), set(alone.a.snapshots)) == ({"db-data"}, {"s"})
    assert alone.a.servers == {}
    assert [said for said in record["left"] if "db-data" in said]


def test_an_old_copy_that_runs_is_not_removed_where_a_vault_is_said_to_be_lost(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    vaults, asked = Deployment.vaults, list[Any]()

    def without(here: Deployment, wanted: Any = (), *, lost: Any = (), **more: Any) -> Any:
        asked.append(list(lost))
        return vaults(here, wanted, **more)

    monkeypatch.setattr(Deployment, "vaults", without)
    with pytest.raises(PreflightFailed):
        prepare(moved.process(), "v", "remove", ["other"])
    assert ["other"] in asked
    reprotected(moved)  # which fences it
    asked.clear()
    reprotected(moved, old_copy="remove", lost_vaults=["other"])
    assert asked.count(["other"]) > 5  # by each part of it, before each change
    assert moved.a.servers == {}
