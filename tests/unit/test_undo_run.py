# SPDX-License-Identifier: Apache-2.0
"""A failover is undone while its time for that is open: the new copy is fenced, the old one runs
again. Whatever fails before it answers leaves the new copy running, and never do both run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    Busy,
    InvalidInput,
    NotFenced,
    NotFound,
    PreflightFailed,
    SiteUnreachable,
)
from antipode.model.marks import marks
from antipode.model.state import Claim, ProtectedVnf
from antipode.model.vnf import Answers, Vnf
from antipode.operations import fence as fencing
from antipode.operations import reprotect
from antipode.operations.abort import abort
from antipode.operations.commit import commit
from antipode.operations.commit import prepare as prepare_commit
from antipode.operations.commit import request as request_commit
from antipode.operations.failover import failover, prepare, request
from antipode.operations.inspect import status
from antipode.operations.resume import resume
from antipode.operations.undo import prepare as prepare_undo
from antipode.operations.undo import request as request_undo
from antipode.operations.undo import undo
from antipode.recover import switching
from antipode.runs import commit as commit_run
from antipode.runs import failover as failover_run
from antipode.runs import fence as fence_run
from antipode.runs import undo as undo_run
from antipode.service.queue import enqueue
from antipode.store.runs import Runs
from antipode.store.tables import RunRow
from antipode.vault import generations, windows
from tests.unit.fakecloud import refuse
from tests.unit.test_dns_run import KEY, THEIRS, FakeZone, zone
from tests.unit.test_durable_runs import InBackground, World, until, world
from tests.unit.test_failover_fence import expect_as_before, fails, of_a_patient_fence
from tests.unit.test_migrate_run import statuses
from tests.unit.test_reprotect_run import is_fenced

__all__ = ["world", "zone"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)


def failed_over(world: World, undo_within_s: float | None = 3600.0) -> World:
    here = world.process()
    prepared = prepare(here, "v", "site-b", None)
    failover(here, prepared, Unobserved(), request(prepared, None, undo_within_s))
    for port in world.a.ports.values():
        port.setdefault("admin_state_up", True)
    return world


@pytest.fixture
def moved(world: World) -> World:
    """A VNF that has failed over, which can be undone; its old copy is fenced."""
    failed_over(world)
    here = world.process()
    fencing.fence(here, fencing.request(fencing.prepare(here, "v", "site-a")), Unobserved())
    return world


def undone(world: World) -> dict[str, Any]:
    here = world.process()
    return undo(here, request_undo(prepare_undo(here, "v")), Unobserved())


def committed(here: Deployment, state: ProtectedVnf | None = None) -> dict[str, Any]:
    """Commit the failover, as it was confirmed in a state."""
    row = commit_run.requested(state) if state else request_commit(prepare_commit(here, "v"))
    return commit(here, row, Unobserved())


def newest(world: World) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == "undo")


def active(world: World) -> tuple[str, int]:
    state = status(world.process(), "v").state
    return state.active_site, state.generation


def expect_the_new_copy(world: World) -> None:
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert not any(s.get("locked") for s in world.b.servers.values())
    assert all(p.get("admin_state_up", True) for p in world.b.ports.values())
    assert active(world) == ("site-b", 2)


def test_the_old_copy_runs_again_and_the_new_one_is_fenced(moved: World) -> None:
    record = undone(moved)
    expect_as_before(moved)
    assert is_fenced(moved.b)
    assert active(moved) == ("site-a", 3)
    assert record["lost_s"] > 0


def test_members_start_in_their_boot_order_when_the_new_copy_is_off(moved: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("os-start"):
            assert is_fenced(moved.b)

    moved.a.before = before
    begun = len(moved.a.events)
    undone(moved)
    assert [e for e in moved.a.events[begun:] if e.startswith("os-start")] == [
        "os-start db",
        "os-start front",
    ]


def test_an_old_copy_that_was_never_fenced_and_is_off_is_started(world: World) -> None:
    failed_over(world)
    for server in world.a.servers.values():
        server["status"] = "SHUTOFF"
    undone(world)
    expect_as_before(world)


def test_a_failover_without_time_for_it_is_not_undone(world: World) -> None:
    failed_over(world, None)
    with pytest.raises(InvalidInput):
        prepare_undo(world.process(), "v")


def test_the_time_of_the_vnf_file_counts(world: World) -> None:
    here = world.process()
    known = here.vnfs.get("v").model_dump(mode="json")
    here.vnfs.put(Vnf.model_validate(known | {"undo_within": "2h"}))
    failed_over(world, None)
    assert status(world.process(), "v").undo_until is not None


def test_it_asks_the_probes_that_were_confirmed(moved: World, tmp_path: Path) -> None:
    here = moved.process()
    row = request_undo(prepare_undo(here, "v"))
    known = here.vnfs.get("v")
    probe = Answers(command=["touch", str(tmp_path / "probed")])
    first, *others = known.members
    changed = [first.model_copy(update={"answers": probe}), *others]
    here.vnfs.put(known.model_copy(update={"members": changed}))
    undo(here, row, Unobserved())
    assert not (tmp_path / "probed").exists()
    assert active(moved)[0] == "site-a"


def test_the_plan_says_how_members_are_probed(moved: World) -> None:
    here = moved.process()
    known = here.vnfs.get("v")
    probe = Answers(command=["check-it", "{server}", "{site}"])
    first, *others = known.members
    probed = [first.model_copy(update={"answers": probe}), *others]
    here.vnfs.put(known.model_copy(update={"members": probed}))
    assert any("check-it db site-a" in line for line in prepare_undo(here, "v").probes)


def test_it_waits_until_no_fence_by_policy_may_stop_the_old_copy_again(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = moved.process()
    row = fence_run.requested(status(here, "v").state, "site-a", by_policy=True)
    run, looks, beside = row.id, list[str](), list[str]()
    enqueue(here, row)
    is_fencing = fence_run.is_fencing

    def looked_at(row: RunRow) -> bool:
        looks.append(row.id)
        return is_fencing(row)

    monkeypatch.setattr(fence_run, "POLL_S", 0.01)
    monkeypatch.setattr(fence_run, "is_fencing", looked_at)
    moved.b.before = lambda event: beside.append(here.runs.get(run).state)
    undoing = InBackground(lambda: undone(moved))
    until(lambda: bool(looks or beside))
    with here.claims.take(run) as claim:
        here.runs.end(run, claim.number, "succeeded", time.time(), None, {})
    undoing.join()
    assert undoing.error is None
    assert set(beside) == {"succeeded"}


def test_after_its_time_it_is_refused(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    until = prepare_commit(moved.process(), "v").until
    monkeypatch.setattr("antipode.vault.windows.time.time", lambda: until + 1)
    with pytest.raises(InvalidInput):
        prepare_undo(moved.process(), "v")


def test_after_a_commit_it_is_refused_on_every_host(moved: World) -> None:
    here = moved.process()
    committed(here)
    with pytest.raises(InvalidInput):
        prepare_undo(moved.process(), "v")
    with pytest.raises(InvalidInput):
        committed(here, status(here, "v").state)
    assert status(moved.process(), "v").undo_until is None


def test_one_that_is_overtaken_by_a_commit_stops_nothing(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commits(*_: object) -> None:
        here = moved.process()
        committed(here)

    monkeypatch.setattr(undo_run, "must_be_whole", commits, raising=True)
    here = moved.process()
    row = undo_run.requested(prepare_commit(here, "v").state, "site-a")
    with pytest.raises(InvalidInput):
        undo(here, row, Unobserved())
    expect_the_new_copy(moved)
    assert is_fenced(moved.a)


def test_a_commit_that_is_overtaken_by_an_undo_or_by_moves_says_so(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = moved.process()
    state = prepare_commit(here, "v").state
    with pytest.raises(Busy):
        committed(here, state.model_copy(update={"generation": 4}))
    assert prepare_commit(here, "v").state.generation == 2

    def claims_first(*args: object) -> None:
        generations.claim(here.vaults(), state, "site-a", "undo-x")

    commits = windows.commit
    monkeypatch.setattr(windows, "commit", claims_first)
    with pytest.raises(Busy):
        committed(here, state)
    monkeypatch.setattr(windows, "commit", commits)


def test_a_commit_that_is_written_beside_the_claim_of_an_undo_has_failed(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, commits = moved.process(), windows.commit
    state = prepare_commit(here, "v").state

    def claimed_too(vaults: Any, of: ProtectedVnf) -> None:
        commits(vaults, of)
        generations.claim(here.vaults(), state, "site-a", "undo-x")

    monkeypatch.setattr(windows, "commit", claimed_too)
    with pytest.raises(Busy):
        committed(here, state)
    row = next(r for r in here.runs.all("v") if r.kind == "commit")
    assert row.state == "failed"


def test_a_commit_whose_process_died_after_it_was_written_is_done(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, commits = moved.process(), windows.commit

    def dies(vaults: Any, of: ProtectedVnf) -> None:
        commits(vaults, of)
        raise AntipodeError("it is dead")

    monkeypatch.setattr(windows, "commit", dies)
    assert committed(here)["not_done"] == "it is dead"
    row = next(r for r in here.runs.all("v") if r.kind == "commit")
    assert row.state == "succeeded"
    with pytest.raises(InvalidInput):
        abort(here, row.id, Unobserved())


def test_the_old_copy_is_not_removed_while_its_time_is_open(moved: World) -> None:
    with pytest.raises(PreflightFailed):
        reprotect.prepare(moved.process(), "v", "remove")
    here = moved.process()
    committed(here)
    assert reprotect.prepare(moved.process(), "v", "remove").removes is not None


@pytest.mark.parametrize("what", ["servers", "ports", "attachments"])
def test_an_old_copy_that_is_not_whole_is_refused_and_nothing_is_done(
    moved: World, what: str
) -> None:
    if what == "attachments":
        moved.a.attachments["id-db"].pop()
    else:
        held = getattr(moved.a, what)
        del held[next(k for k in held if k.endswith("id-db"))]
    with pytest.raises(PreflightFailed):
        prepare_undo(moved.process(), "v")
    expect_the_new_copy(moved)


def test_a_vnf_file_with_other_members_is_refused_before_anything_is_stopped(
    moved: World,
) -> None:
    here = moved.process()
    row = undo_run.requested(status(here, "v").state, "site-a")  # as an older antipode asks
    known = here.vnfs.get("v").model_dump(mode="json")
    fewer = {"members": [m for m in known["members"] if m["server"] != "front"]}
    here.vnfs.put(Vnf.model_validate(known | fewer))
    with pytest.raises(InvalidInput):
        prepare_undo(moved.process(), "v")
    begun = len(moved.b.events)
    with pytest.raises(InvalidInput):
        undo(here, row, Unobserved())
    assert not any("stop" in event for event in moved.b.events[begun:])
    expect_the_new_copy(moved)


def test_a_copy_that_is_older_still_is_not_taken_for_the_old_one(moved: World) -> None:
    here = moved.process()
    for run, site in (("failover-3", "site-a"), ("failover-4", "site-b")):
        state = status(here, "v").state
        claim = generations.claim(here.vaults(), state, site, run, undo_within_s=3600.0)
        generations.complete(here.vaults(), claim)
    fenced = moved.a.servers["id-db"]
    newer = {"id": "id-newer", "status": "ACTIVE", "metadata": marks("failover-3", "key")}
    moved.a.servers["id-newer"] = {**fenced, **newer, "locked": False}
    with pytest.raises(NotFound):
        prepare_undo(moved.process(), "v")
    del moved.a.servers["id-newer"]
    assert prepare_undo(moved.process(), "v").starts


def test_a_new_copy_that_cannot_be_fenced_runs_on(moved: World) -> None:
    moved.b.before = fails("lock front")
    with pytest.MonkeyPatch.context() as patch:
        of_a_patient_fence(patch)
        with pytest.raises(NotFenced):
            undone(moved)
    moved.b.before = lambda happens: None
    assert newest(moved).state == "failed"
    expect_the_new_copy(moved)
    assert is_fenced(moved.a)


@pytest.mark.parametrize("event", ["unlock", "os-start db", "os-start front"])
def test_an_old_copy_that_does_not_start_is_fenced_again_and_the_new_one_runs(
    moved: World, event: str
) -> None:
    def before(happens: str) -> None:
        if happens.startswith(event):
            raise SiteUnreachable("site-a: no answer")

    def seen(happens: str) -> None:
        if happens.startswith("os-start"):
            assert is_fenced(moved.a)

    moved.a.before, moved.b.before = before, seen
    with pytest.raises(AntipodeError):
        undone(moved)
    moved.a.before = moved.b.before = lambda happens: None
    assert newest(moved).state == "failed"
    assert is_fenced(moved.a)
    expect_the_new_copy(moved)


def test_the_old_copy_is_not_started_where_the_database_does_not_keep_it(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OperationalError("insert", {}, OSError("disk full"))

    moved.b.before = lambda happens: (
        monkeypatch.setattr(Runs, "keep", refuses) if happens == "lock front" else None
    )
    begun = len(moved.a.events)
    with pytest.raises(AntipodeError):
        undone(moved)
    assert moved.a.events[begun:] == []
    expect_the_new_copy(moved)


def test_an_abort_goes_back_to_the_new_copy(moved: World) -> None:
    here, row = moved.process(), request_undo(prepare_undo(moved.process(), "v"))
    run = row.id

    def before(happens: str) -> None:
        if happens == "os-start front":
            moved.here.runs.request_abort(run)
            raise SiteUnreachable("site-a: no answer")

    moved.a.before = before
    with pytest.raises(AntipodeError):
        undo(here, row, Unobserved())
    moved.a.before = lambda happens: None
    if newest(moved).state != "aborted":
        abort(moved.process(), run, Unobserved())
    assert is_fenced(moved.a)
    expect_the_new_copy(moved)


def test_one_that_has_lost_its_claim_starts_nothing(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise Busy("another failover has it")

    moved.b.before = lambda happens: (
        monkeypatch.setattr(generations, "confirm", lost) if happens == "lock front" else None
    )
    with pytest.raises(AntipodeError):
        undone(moved)
    assert is_fenced(moved.a)


def claims(world: World, kind: RunKind) -> str:
    """A run to the former site that has failed and keeps its claim; its id."""
    here = world.process()
    row = new_run(kind, "v", {})
    with here.claims.begin(row) as claim:
        run = claim.run
        here.runs.end(run, claim.number, "failed", time.time(), "no host", {})
    generations.claim(here.vaults(), status(here, "v").state, "site-a", run)
    return run


def test_it_does_not_begin_where_a_failed_failover_may_have_made_another_copy(
    moved: World,
) -> None:
    here = moved.process()
    row = request_undo(prepare_undo(here, "v"))
    failed = claims(moved, failover_run.KIND)
    with pytest.raises(Busy):
        undo(here, row, Unobserved())
    assert is_fenced(moved.a)
    assert statuses(moved.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert generations.claim_of(here.vaults(), "v", failed) is not None


def test_no_failover_takes_the_claim_of_one_that_may_have_started_the_old_copy(
    moved: World,
) -> None:
    claims(moved, undo_run.KIND)
    with pytest.raises(Busy):
        prepare(moved.process(), "v", "site-a", None)


def test_a_lost_one_is_resumed(moved: World) -> None:
    row = request_undo(prepare_undo(moved.process(), "v"))
    with moved.here.claims.begin(row) as claim:
        run = claim.run
    resume(moved.process(), run, Unobserved())
    expect_as_before(moved)
    assert active(moved) == ("site-a", 3)


def test_it_is_too_late_to_abort_one_that_is_done(moved: World) -> None:
    record = undone(moved)
    moved.dies_before_its_end(record["run"])
    with pytest.raises(InvalidInput):
        abort(moved.process(), record["run"], Unobserved())


def test_the_vnf_moves_on_after_an_undo(moved: World) -> None:
    undone(moved)
    assert status(moved.process(), "v").undo_until is None
    with pytest.raises(InvalidInput):
        prepare_undo(moved.process(), "v")


def test_its_dns_records_lead_to_the_old_copy_again(world: World, zone: FakeZone) -> None:
    before = {key: record.values for key, record in zone.records.items()}
    failed_over(world)
    assert before != {key: record.values for key, record in zone.records.items()}
    undone(world)
    assert before == {key: record.values for key, record in zone.records.items()}


def test_a_record_that_somebody_has_changed_since_the_failover_is_left_alone(
    world: World, zone: FakeZone
) -> None:
    failed_over(world)
    zone.records[KEY] = THEIRS
    dns = undone(world)["dns"]
    assert zone.records[KEY] == THEIRS
    assert "192.0.2.77" in dns["problems"][0] and dns["finish"]


def test_a_claim_without_time_for_it_is_written_as_before() -> None:
    claim = Claim(
        vnf="v",
        generation=2,
        site="site-b",
        former_site="site-a",
        run="failover-1",
        host="h",
        since="2026-11-22T16:05:00+00:00",
    )
    assert "undo_within_s" not in claim.model_dump(mode="json")
    open_one = claim.model_copy(update={"undo_within_s": 60.0})
    assert Claim.model_validate_json(open_one.model_dump_json()) == open_one


def test_a_rollback_right_after_a_failover_starts_the_new_copy_in_its_boot_order(
    moved: World,
) -> None:
    def before(happens: str) -> None:
        if happens == "os-start db":
            raise AntipodeError("the old copy does not start")

    moved.a.before = before
    begun = len(moved.b.events)
    with pytest.raises(AntipodeError):
        undone(moved)
    starts = [e for e in moved.b.events[begun:] if e.startswith("os-start")]
    assert starts == ["os-start db", "os-start front"]
    expect_the_new_copy(moved)


@pytest.mark.parametrize("is_admin", [False, True])
def test_a_member_that_was_locked_and_ran_runs_again_and_is_locked_again(
    world: World, is_admin: bool
) -> None:
    world.a.site.roles = ["admin" if is_admin else "member"]
    world.a.servers["id-db"]["locked"] = True
    failed_over(world)

    def as_nova(happens: str) -> None:
        locked = world.a.servers["id-db"].get("locked")
        if happens in ("os-stop db", "os-start db") and locked and not is_admin:
            refuse(409, "Instance id-db is locked")

    world.a.before = as_nova
    here = world.process()
    fencing.fence(here, fencing.request(fencing.prepare(here, "v", "site-a")), Unobserved())
    undone(world)
    assert statuses(world.a) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert world.a.servers["id-db"]["locked"] is True
    assert not world.a.servers["id-front"].get("locked")


@pytest.mark.parametrize("is_admin", [False, True])
def test_a_lock_that_cannot_be_released_is_named_before_anything_is_stopped(
    moved: World, is_admin: bool
) -> None:
    moved.a.site.roles = ["admin" if is_admin else "member"]
    moved.a.server_actions["id-db"].insert(0, {"action": "lock", "project_id": "of-the-operator"})
    if is_admin:
        undone(moved)
        return expect_as_before(moved)
    begun = len(moved.b.events)
    with pytest.raises(PreflightFailed) as caught:
        prepare_undo(moved.process(), "v")
    assert [p for p in caught.value.problems if "id-db" in p and "unlock" in p]
    assert len(caught.value.problems) == 1
    assert moved.b.events[begun:] == []
    expect_the_new_copy(moved)
    return None


def test_a_lock_of_a_member_that_runs_is_no_obstacle(world: World) -> None:
    failed_over(world)
    world.a.site.roles = ["member"]
    world.a.servers["id-db"]["locked"] = True
    world.a.server_actions["id-db"] = [{"action": "lock", "project_id": "of-the-operator"}]
    prepare_undo(world.process(), "v")


@pytest.mark.parametrize("tells", [[], None])
def test_a_nova_that_does_not_say_who_has_locked_a_server_is_no_obstacle(
    moved: World, tells: list[Any] | None
) -> None:
    moved.a.site.roles = ["member"]
    if tells is None:
        moved.a.server_actions["id-db"] = [{"action": "lock"}]  # no project
    else:
        moved.a.server_actions.clear()
    prepare_undo(moved.process(), "v")
