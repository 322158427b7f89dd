# SPDX-License-Identifier: Apache-2.0
"""A planned migration: the last point is taken with all members off, the VNF is recovered from it,
and its old copy is fenced. Whatever fails before that leaves the VNF running where it was.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from antipode.cli.app import COMMANDS
from antipode.engine import activity, parts
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.run import Run
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
from antipode.model.marks import RUN, TRACKED
from antipode.operations import failover as failing
from antipode.operations.abort import abort
from antipode.operations.migrate import migrate, prepare, request
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.recover import switching
from antipode.runs import KINDS, failover, fence, kind_of, old_copy_removal
from antipode.runs import migrate as migrate_run
from antipode.store.tables import RunRow
from antipode.vault import generations, points
from tests.unit.test_durable_runs import World, until, world

__all__ = ["world"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    monkeypatch.setattr(fence, "POLL_S", 0.005)


def migrated(world: World, **wanted: Any) -> dict[str, Any]:
    here = world.process()
    return migrate(here, request(prepare(here, "v", **wanted)), Unobserved())


def newest(world: World) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == "migrate")


def parts_of(world: World, kind: str) -> list[RunRow]:
    return [r for r in world.here.runs.all("v") if r.kind == kind and parts.part_of(r)]


def stops(world: World, part: RunRow) -> bool:
    """Whether a part has seen that it must stop."""
    return any("stops" in step.name for step in world.here.runs.steps(part.id))


def statuses(cloud: Any) -> dict[str, str]:
    return {s["name"]: s["status"] for s in cloud.servers.values()}


def expect_as_before(world: World) -> None:
    """The VNF runs at site-a as if nothing had happened, and may be protected."""
    assert set(statuses(world.a).values()) == {"ACTIVE"}
    assert (world.b.servers, world.b.volumes, world.b.ports) == ({}, {}, {})
    assert world.a.all_frozen == set()
    protect(world.process(), "v", Unobserved())


def test_a_vnf_moves_and_its_old_copy_is_off_and_locked(world: World) -> None:
    record = migrated(world)
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}
    assert all(s["locked"] for s in world.a.servers.values())
    assert record["downtime_s"] >= 0
    state = prepare(world.process(), "v", to="site-a").state
    assert (state.active_site, state.generation) == ("site-b", 2)


def test_a_vnf_whose_definition_was_changed_since_it_was_confirmed_stays_where_it_is(
    world: World,
) -> None:
    here = world.process()
    row = request(prepare(here, "v"))
    before = list(world.a.events)
    known = here.vnfs.get("v")
    here.vnfs.put(known.model_copy(update={"undo_within": 60.0}))
    with pytest.raises(Busy):
        migrate(here, row, Unobserved())
    assert world.a.events == before
    here.vnfs.put(known)
    migrated(world)


def test_one_that_is_resumed_with_another_definition_is_rolled_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = world.process()
    known, demote = here.vnfs.get("v"), migrate_run._must_have_all

    def changes(*args: Any) -> None:
        here.vnfs.put(known.model_copy(update={"undo_within": 60.0}))
        demote(*args)
        raise Halted("its service stops")

    monkeypatch.setattr(migrate_run, "_must_have_all", changes)
    row = request(prepare(here, "v"))
    run = row.id
    with pytest.raises(Halted):
        migrate(here, row, Unobserved())
    assert set(statuses(world.a).values()) == {"SHUTOFF"}
    monkeypatch.setattr(migrate_run, "_must_have_all", demote)
    with pytest.raises(Busy):
        resume(world.process(), run, Unobserved())
    expect_as_before(world)


def test_members_are_switched_off_against_their_boot_order_before_the_last_point(
    world: World,
) -> None:
    migrated(world)
    events = world.a.events
    off = [e for e in events if e.startswith("os-stop")]
    assert off == ["os-stop front", "os-stop db"]
    last = [e for e in events[events.index("os-stop db") :] if " backup " in e]
    assert len(last) == 3
    assert not [e for e in events[events.index("os-stop front") :] if e.startswith("quiesce")]


def test_the_last_point_has_members_that_are_on_as_they_were(world: World) -> None:
    world.a.servers["id-front"]["status"] = "SHUTOFF"
    record = migrated(world)
    here = world.process()
    point = points.find(here.vaults(()), "v", record["recovery_point"]).point
    assert {s.name: s.is_off for s in point.topology.servers} == {"db": False, "front": True}
    assert statuses(world.b) == {"db": "ACTIVE", "front": "SHUTOFF"}
    assert "os-stop front" not in world.a.events


def test_what_the_other_site_lacks_is_named_and_no_member_is_switched_off(world: World) -> None:
    world.b.quotas["instances"] = {"limit": 1}
    with pytest.raises(PreflightFailed):
        migrated(world)
    assert not [e for e in world.a.events if e.startswith("os-stop")]
    assert [r.kind for r in world.here.runs.all("v")].count("migrate") == 0


def test_a_member_that_is_neither_on_nor_off_has_none_switched_off(world: World) -> None:
    def before(happens: str) -> None:
        if " backup " in happens:
            world.a.servers["id-front"]["status"] = "PAUSED"

    world.a.before = before
    with pytest.raises(PreflightFailed):
        migrated(world)
    assert statuses(world.a) == {"db": "ACTIVE", "front": "PAUSED"}
    assert not [e for e in world.a.events if e.startswith(("os-stop", "os-start"))]
    assert newest(world).state == "failed"


@pytest.mark.parametrize(
    ("site", "event"),
    [
        ("site-a", "os-stop db"),
        ("site-a", "snapshot db-data"),
        ("site-b", "restore db-root"),
        ("site-b", "boot db"),
        ("site-b", "boot front"),
    ],
)
def test_after_a_failure_the_members_are_on_again_and_nothing_is_left(
    world: World, site: str, event: str
) -> None:
    switched_off: list[str] = []

    def before(happens: str) -> None:
        switched_off.extend([happens] if happens.startswith("os-stop") else [])
        if happens == event and (site == "site-b" or switched_off):
            raise SiteUnreachable(f"{site}: no answer")

    world.clouds[site].before = before
    if site == "site-b":
        world.a.before = lambda happens: None
    with pytest.raises(AntipodeError):
        migrated(world)
    for cloud in world.clouds.values():
        cloud.before = lambda happens: None
    assert newest(world).state == "failed"
    expect_as_before(world)


def test_an_abort_while_it_recovers_takes_it_back(world: World) -> None:
    def before(happens: str) -> None:
        if happens == "boot db":
            world.here.runs.request_abort(newest(world).id)
            until(lambda: any(stops(world, part) for part in parts_of(world, "failover")))

    world.b.before = before
    with pytest.raises(AntipodeError):
        migrated(world)
    world.b.before = lambda happens: None
    assert newest(world).state == "aborted"
    expect_as_before(world)


def test_it_is_too_late_to_abort_one_that_has_moved(world: World) -> None:
    record = migrated(world)
    with pytest.raises(InvalidInput):
        abort(world.process(), record["run"], Unobserved())


def test_one_whose_old_copy_cannot_be_fenced_has_moved_all_the_same(world: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("lock"):
            raise SiteUnreachable("site-a: no answer")

    world.a.before = before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antipode.recover.fencing.WITHIN_S", 0.1)
        patch.setattr("antipode.recover.fencing.POLL_S", 0.01)
        record = migrated(world)
    assert record["not_done"]
    assert newest(world).state == "succeeded"
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert set(statuses(world.a).values()) == {"SHUTOFF"}


def test_a_fence_that_a_service_has_begun_is_awaited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, by_policy = parts.done, list[threading.Timer]()

    def then_a_service_fences(whole: Run, step: Any, *args: Any) -> RunRow:
        ended = done(whole, step, *args)
        if step is migrate_run.MigrateSteps.RECOVER:
            here = world.process()
            state = fence.must_be_old(here, "v", "site-a").state
            claim = here.claims.begin(fence.requested(state, "site-a", by_policy=True))

            def service() -> None:
                with claim:
                    execute(here, fence.KIND, claim, Unobserved())

            by_policy.append(threading.Timer(0.2, service))
            by_policy[0].start()
        return ended

    monkeypatch.setattr(parts, "done", then_a_service_fences)
    record = migrated(world)
    by_policy[0].join()
    assert "not_done" not in record
    assert len(parts_of(world, "fence")) == 1


def test_a_protection_does_not_begin_beside_it(world: World) -> None:
    with world.here.claims.begin(request(prepare(world.here, "v"))), pytest.raises(Busy):
        protect(world.process(), "v", Unobserved())


def test_it_does_not_begin_beside_a_protection(world: World) -> None:
    from antipode.operations.protect import request as protection

    with world.here.claims.begin(protection(world.here, "v")), pytest.raises(Busy):
        migrated(world)
    assert not [e for e in world.a.events if e.startswith("os-stop")]


def test_it_is_not_moved_to_where_it_is(world: World) -> None:
    with pytest.raises(InvalidInput):
        prepare(world.here, "v", to="site-a")


def test_a_lost_one_is_resumed(world: World) -> None:
    row = request(prepare(world.here, "v"))
    with world.here.claims.begin(row) as claim:
        run = claim.run
    record = resume(world.process(), run, Unobserved())
    assert record["run"] == run
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def halted(world: World, row: RunRow, halt: threading.Event) -> None:
    """A migration is executed until it is halted, and can be resumed."""
    here = world.process()
    with here.claims.begin(row) as claim, pytest.raises(Halted):
        execute(here, migrate_run.KIND, claim, Unobserved(), halt)


def test_one_whose_member_was_started_after_the_last_point_does_not_recover_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt, made = threading.Event(), failover.requested

    def requested(*args: Any, **kwargs: Any) -> RunRow:
        halt.set()
        until(lambda: stops(world, newest(world)))
        return made(*args, **kwargs)

    monkeypatch.setattr(failover, "requested", requested)
    row = request(prepare(world.here, "v"))
    run = row.id
    halted(world, row, halt)
    assert set(statuses(world.a).values()) == {"SHUTOFF"}
    world.a.servers["id-db"]["status"] = "ACTIVE"  # and it writes
    with pytest.raises(AntipodeError):
        resume(world.process(), run, Unobserved())
    assert newest(world).state == "failed"
    expect_as_before(world)


def test_a_member_that_runs_while_the_last_point_is_made_stops_it(world: World) -> None:
    def before(happens: str) -> None:
        if " backup " in happens and "os-stop db" in world.a.events:
            world.a.servers["id-front"]["status"] = "ACTIVE"

    world.a.before = before
    with pytest.raises(AntipodeError):
        migrated(world)
    world.a.before = lambda happens: None
    expect_as_before(world)


def test_where_a_member_is_gone_the_others_are_on_again(world: World) -> None:
    def before(happens: str) -> None:
        if happens == "restore db-root":
            del world.a.servers["id-db"]
            fail("no answer")

    world.b.before = before
    with pytest.raises(AntipodeError):
        migrated(world)
    assert statuses(world.a) == {"front": "ACTIVE"}
    assert [left for left in newest(world).result["left"] if "id-db" in left]


def claims_it(world: World) -> None:
    """Another host begins to fail the VNF over."""
    state, vaults = activity.decided(world.process(), "v")
    other = "site-a" if state.active_site == "site-b" else "site-b"
    generations.claim(vaults, state, other, "failover-of-another-host")


def test_no_more_members_are_switched_on_once_a_failover_begins(world: World) -> None:
    world.b.before = lambda happens: fail("no answer") if happens == "restore db-root" else None
    world.a.before = lambda happens: claims_it(world) if happens == "os-start db" else None
    with pytest.raises(AntipodeError):
        migrated(world)
    assert statuses(world.a)["front"] == "SHUTOFF"
    assert [left for left in newest(world).result["left"] if "front" in left]


def test_one_that_has_moved_has_succeeded_though_the_vnf_moves_on(world: World) -> None:
    run = migrated(world)["run"]
    claims_it(world)
    world.dies_before_its_end(run)
    with pytest.raises(InvalidInput):
        abort(world.process(), run, Unobserved())
    assert newest(world).state == "succeeded"


def test_one_whose_part_is_aborted_fails_and_is_rolled_back(world: World) -> None:
    def before(happens: str) -> None:
        if happens == "boot db":
            world.here.runs.request_abort(parts_of(world, "failover")[0].id)
            until(lambda: stops(world, parts_of(world, "failover")[0]))

    world.b.before = before
    with pytest.raises(AntipodeError):
        migrated(world)
    world.b.before = lambda happens: None
    assert newest(world).state == "failed"
    expect_as_before(world)


def test_after_one_that_is_not_rolled_back_no_other_begins(world: World) -> None:
    def before(happens: str) -> None:
        if happens == "boot db" or happens.startswith("delete"):
            fail("no answer")

    world.b.before = before
    with pytest.raises(AntipodeError):
        migrated(world)
    assert newest(world).result["may_be_off"] == ["db", "front"]
    world.b.before = lambda happens: None
    with pytest.raises(Busy):
        prepare(world.process(), "v")
    abort(world.process(), newest(world).id, Unobserved())
    assert "may_be_off" not in newest(world).result
    prepare(world.process(), "v")
    expect_as_before(world)


def test_one_that_does_not_know_whether_it_has_moved_names_what_may_be_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.b.before = lambda happens: fail("no answer") if happens == "boot db" else None
    with monkeypatch.context() as patch:
        patch.setattr(
            migrate_run.Migrate, "point_of_no_return", lambda kind, run: fail("vaults: no answer")
        )
        with pytest.raises(AntipodeError):
            migrated(world)
    world.b.before = lambda happens: None
    assert newest(world).result["may_be_off"] == ["db", "front"]
    record = resume(world.process(), newest(world).id, Unobserved())
    assert "may_be_off" not in record
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_a_part_does_not_go_on_when_its_whole_is_rolled_back(world: World) -> None:
    here = world.here
    with here.claims.begin(request(prepare(here, "v"))) as whole:
        here.runs.begin_ending(whole.run, whole.number, "aborted", "was asked to")
    part = failing.request(failing.prepare(here, "v", "site-b", None))
    part.request = {**(part.request or {}), parts.PART_OF: whole.run}
    with here.claims.begin(part) as claim:
        lost = claim.run
    with pytest.raises(Aborted):
        resume(world.process(), lost, Unobserved())
    assert (world.b.servers, world.b.volumes, world.b.ports) == ({}, {}, {})


def test_back_at_a_site_with_its_old_copy_it_needs_that_removed(world: World) -> None:
    migrated(world)
    plan = prepare(world.process(), "v", back=True)
    assert (plan.to, plan.plan) == ("site-a", None)
    assert plan.removes is not None
    assert sorted(plan.removes.servers.values()) == ["db", "front"]
    assert set(plan.removes.volumes) == set(world.a.volumes)


def test_an_old_copy_in_the_way_of_a_migration_is_named_in_its_plan(world: World) -> None:
    assert not [w for w in prepare(world.process(), "v").warnings if "failback v" in w]
    migrated(world)
    warnings = [w for w in prepare(world.process(), "v").warnings if "failback v" in w]
    assert len(warnings) == 2  # db and front


def test_nothing_is_removed_before_there_is_a_point_of_the_active_copy(world: World) -> None:
    migrated(world)
    world.b.before = lambda happens: fail("no answer") if happens.startswith("quiesce") else None
    with pytest.raises(AntipodeError):
        migrated(world, back=True)
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_what_would_stop_a_failback_is_in_its_plan_and_the_old_copy_counts_as_gone(
    world: World,
) -> None:
    migrated(world)
    world.protect()
    world.a.quotas = {
        "instances": {"limit": 2, "in_use": 2},
        "volumes": {"limit": 3, "in_use": 3},
        "port": {"limit": 2, "used": 2},
    }
    planned = prepare(world.process(), "v", back=True).plan
    assert planned is not None and not planned.unattached
    world.a.quotas["volumes"] = {"limit": 3, "in_use": 4}  # one of them is of a stranger
    with pytest.raises(PreflightFailed, match="volumes"):
        prepare(world.process(), "v", back=True)


def test_a_failback_that_cannot_succeed_any_more_keeps_the_old_copy(world: World) -> None:
    migrated(world)
    row = request(prepare(world.process(), "v", back=True))
    flavors, world.a.flavors = world.a.flavors, []
    with pytest.raises(PreflightFailed):
        migrate(world.process(), row, Unobserved())
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    world.a.flavors = flavors
    migrated(world, back=True)
    assert statuses(world.a) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_snapshots_that_go_with_the_old_copy_free_gigabytes(world: World) -> None:
    migrated(world)
    world.protect()
    snapshot = {"id": "s", "name": "s", "volume_id": "db-data", "status": "available", "size": 7}
    world.a.snapshots["s"] = {**snapshot, "metadata": {RUN: "protect-1", TRACKED: "v"}}
    planned = prepare(world.process(), "v", back=True).plan
    assert planned is not None
    sizes = sum(v["size"] for v in world.a.volumes.values())
    freed = {q.resource: q.freed for q in planned.quotas}
    assert (freed["volumes"], freed["gigabytes"]) == (len(world.a.volumes), sizes + 7)


@pytest.mark.parametrize("back", [False, True])
def test_a_newest_point_with_other_members_than_the_file_is_in_the_way_of_no_migration(
    world: World, back: bool
) -> None:
    if back:
        migrated(world)
        world.protect()
    known = world.here.vnfs.get("v")
    world.here.vnfs.put(known.without(["front"]))
    prepared = prepare(world.process(), "v", back=back)
    assert prepared.plan is None
    assert [w for w in prepared.warnings if "other members" in w]


def test_a_newest_point_of_another_option_is_in_the_way_of_no_failback(world: World) -> None:
    migrated(world)
    world.protect()
    world.a.quotas["volumes"] = {"limit": 0}
    with pytest.raises(PreflightFailed):
        prepare(world.process(), "v", back=True)
    prepared = prepare(world.process(), "v", option="server-snapshot", back=True)
    assert prepared.plan is None
    assert [w for w in prepared.warnings if "quota volumes" in w]


def test_what_does_not_go_with_the_old_copy_any_more_stops_a_failback_before_it_is_removed(
    world: World,
) -> None:
    migrated(world)
    row = request(prepare(world.process(), "v", back=True))
    world.a.ports["port-id-db"]["device_id"] = "a-stranger"
    with pytest.raises(PreflightFailed):
        migrate(world.process(), row, Unobserved())
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}


def test_a_server_that_nova_shows_nothing_of_stops_a_failback_and_nothing_is_removed(
    world: World,
) -> None:
    migrated(world)
    row = request(prepare(world.process(), "v", back=True))
    whole = world.a.servers["id-db"]
    world.a.servers["id-db"] = {"id": "id-db", "status": "UNKNOWN", "name": ""}
    with pytest.raises(PreflightFailed):
        migrate(world.process(), row, Unobserved())
    world.a.servers["id-db"] = whole
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}


def test_after_half_a_removal_a_failback_counts_what_is_left_as_gone(world: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("delete volume"):
            fail("no answer")

    migrated(world)
    world.protect()
    world.a.before = before
    with pytest.raises(AntipodeError):
        migrated(world, back=True)
    world.a.before = lambda happens: None
    assert not world.a.servers
    left = len(world.a.volumes)
    assert left
    world.a.quotas["volumes"] = {"limit": left, "in_use": left}
    prepared = prepare(world.process(), "v", back=True)
    assert prepared.removes is not None and prepared.plan is not None
    assert len(prepared.removes.volumes) == left
    world.a.quotas.clear()  # the usage that it tells stays as it was set
    migrate(world.process(), request(prepared), Unobserved())
    assert statuses(world.a) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_an_old_copy_that_runs_is_not_removed(world: World) -> None:
    migrated(world)
    world.a.servers["id-db"]["status"] = "ACTIVE"
    with pytest.raises(PreflightFailed):
        prepare(world.process(), "v", back=True)


def removal(here: Deployment) -> RunRow:
    """A removal of the old copy at site-a."""
    return old_copy_removal.requested(fence.must_be_old(here, "v", "site-a").state, "site-a")


def removed(world: World) -> dict[str, Any]:
    """The old copy at site-a is removed."""
    here = world.process()
    with here.claims.begin(removal(here)) as claim:
        return execute(here, old_copy_removal.KIND, claim, Unobserved())


def test_the_last_other_copy_is_not_removed(world: World) -> None:
    migrated(world)
    with pytest.raises(PreflightFailed):  # the VNF has not been protected since it moved
        removed(world)
    assert statuses(world.a) == {"db": "SHUTOFF", "front": "SHUTOFF"}


@pytest.fixture
def replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A VNF that has moved, and has points of its new generation."""
    migrated(world)
    monkeypatch.setattr(old_copy_removal, "must_be_replaced", lambda standing: None)
    return world


def test_servers_ports_and_volumes_of_the_old_copy_are_removed_and_nothing_else(
    replaced: World,
) -> None:
    a = replaced.a
    a.servers["stranger"] = {**a.servers["id-db"], "id": "stranger", "metadata": {}}
    a.attachments["stranger"] = []
    a.volumes["of-a-stranger"] = {**a.volumes["db-data"], "id": "of-a-stranger"}
    a.volumes["db-data"]["attachments"] = [{"server_id": "id-db"}, {"server_id": "stranger"}]
    backups = set(a.backups)
    record = removed(replaced)
    assert set(a.servers) == {"stranger"}
    assert set(a.volumes) == {"of-a-stranger", "db-data"}
    assert a.ports == {}
    assert set(a.backups) == backups
    assert len(record["left"]) == 1  # a volume that another server uses
    assert statuses(replaced.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_what_the_plan_has_not_named_is_not_removed(replaced: World) -> None:
    a, here = replaced.a, replaced.process()
    plan = prepare(here, "v", back=True)
    assert plan.removes is not None
    row = old_copy_removal.requested(plan.state, "site-a", plan.removes.ids)
    a.volumes["new"] = {**a.volumes["db-data"], "id": "new"}
    a.attachments["id-db"].append({**a.attachments["id-db"][0], "volumeId": "new"})
    before = set(a.servers), set(a.volumes), set(a.ports)
    with here.claims.begin(row) as claim, pytest.raises(PreflightFailed):
        execute(here, old_copy_removal.KIND, claim, Unobserved())
    assert (set(a.servers), set(a.volumes), set(a.ports)) == before


def test_a_removal_that_fails_in_the_middle_is_repeated_with_what_is_left(
    replaced: World,
) -> None:
    def before(happens: str) -> None:
        if happens == "delete server front":
            fail("no answer")

    replaced.a.before = before
    with pytest.raises(AntipodeError):
        removed(replaced)
    replaced.a.before = lambda happens: None
    assert replaced.a.volumes and replaced.a.ports
    removed(replaced)
    assert (replaced.a.servers, replaced.a.volumes, replaced.a.ports) == ({}, {}, {})


def test_a_removal_under_way_ends_with_its_migration(
    replaced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, halt = replaced, threading.Event()

    def only_removes(run: Run, wanted: object) -> None:
        run.touches_clouds()
        parts.done(
            run,
            migrate_run.MigrateSteps.REMOVE_OLD_COPY,
            old_copy_removal.KIND,
            lambda: removal(run.deployment),
        )

    def before(happens: str) -> None:
        if happens.startswith("delete server"):
            halt.set()
            until(lambda: any(stops(world, r) for r in parts_of(world, "old-copy-removal")))

    monkeypatch.setattr(migrate_run, "_capture", only_removes)
    world.a.before = before
    row = request(prepare(world.process(), "v", back=True))
    run = row.id
    halted(world, row, halt)
    world.a.before = lambda happens: None
    abort(world.process(), run, Unobserved())
    assert [r.state for r in parts_of(world, "old-copy-removal")] == ["aborted"]
    assert world.a.servers


def test_one_that_has_never_moved_does_not_go_back(world: World) -> None:
    with pytest.raises(InvalidInput):
        prepare(world.here, "v", back=True)


def fail(why: str) -> None:
    raise SiteUnreachable(f"site: {why}")


def test_each_kind_of_run_is_begun_by_a_command_that_exists() -> None:
    commands = {kind_of(name).command.partition(" --")[0] for name in KINDS.names}
    assert commands <= set(COMMANDS)
