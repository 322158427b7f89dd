# SPDX-License-Identifier: Apache-2.0
"""A failover that begins with a fence: where that fails nothing has changed, and where the failover
fails or is aborted the old copy is released, unless two copies might run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, Busy, NotFenced
from antipode.model.steps import Unrecorded
from antipode.operations.abort import abort
from antipode.operations.failover import failover, fenced_first, prepare, request
from antipode.operations.resume import resume
from antipode.recover import switching
from antipode.runs import failover as failover_run
from antipode.store.tables import RunRow
from antipode.vault import generations
from tests.unit.test_durable_runs import World, world
from tests.unit.test_migrate_run import fail, statuses
from tests.unit.test_reprotect_run import is_fenced

__all__ = ["world"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)


def failed_over(world: World, fence: Any = "required") -> dict[str, Any]:
    here = world.process()
    prepared = prepare(here, "v", "site-b", None)
    return failover(here, prepared, Unobserved(), request(prepared, fence))


def newest(world: World) -> RunRow:
    return next(r for r in world.here.runs.all("v") if r.kind == "failover")


def fails(beginning: str) -> Callable[[str], None]:
    return lambda happens: fail("no answer") if happens.startswith(beginning) else None


def of_a_patient_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("antipode.recover.fencing.WITHIN_S", 0.1)
    patch.setattr("antipode.recover.fencing.POLL_S", 0.01)


def expect_as_before(world: World) -> None:
    """The old copy runs, as if nothing had happened to it."""
    assert statuses(world.a) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert not any(s.get("locked") for s in world.a.servers.values())
    assert all(p.get("admin_state_up", True) for p in world.a.ports.values())
    marks = [k for s in world.a.servers.values() for k in s["metadata"] if "fenced" in k]
    tags = [t for p in world.a.ports.values() for t in p.get("tags", []) if "fenced" in t]
    assert (marks, tags) == ([], [])


def expect_nothing_made(world: World) -> None:
    assert (world.b.servers, world.b.volumes, world.b.ports) == ({}, {}, {})
    state = prepare(world.process(), "v", "site-b", None).state
    assert (state.active_site, state.state.value) == ("site-a", "active")


def test_the_old_copy_is_fenced_before_anything_is_made(world: World) -> None:
    world.b.before = lambda happens: None if is_fenced(world.a) else fail(f"{happens}: too early")
    record = failed_over(world)
    assert is_fenced(world.a)
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}
    assert sorted(s["server"] for s in record["fence"]["servers"]) == ["db", "front"]


def test_nothing_is_fenced_before_the_failover_has_its_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "claim", lambda *_, **__: fail("vaults: no answer"))
    with pytest.raises(AntipodeError):
        failed_over(world)
    expect_as_before(world)


def test_a_fence_that_is_not_complete_ends_it_and_is_undone(world: World) -> None:
    world.a.before = fails("lock front")
    with pytest.MonkeyPatch.context() as patch:
        of_a_patient_fence(patch)
        with pytest.raises(NotFenced):
            failed_over(world)
    world.a.before = lambda happens: None
    assert newest(world).state == "failed"
    expect_as_before(world)
    expect_nothing_made(world)


def test_one_that_may_go_on_without_it_recovers(world: World) -> None:
    world.a.before = fails("lock front")
    with pytest.MonkeyPatch.context() as patch:
        of_a_patient_fence(patch)
        record = failed_over(world, "try")
    assert record["fence"]["not_fenced"]
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_a_failure_before_any_boot_undoes_the_fence_and_a_resume_fences_again(
    world: World,
) -> None:
    world.b.before = fails("restore db-root")
    with pytest.raises(AntipodeError):
        failed_over(world)
    world.b.before = lambda happens: None
    expect_as_before(world)
    resume(world.process(), newest(world).id, Unobserved())
    assert is_fenced(world.a)
    assert statuses(world.b) == {"db": "ACTIVE", "front": "ACTIVE"}


def test_a_failure_after_a_boot_undoes_nothing_and_an_abort_does(world: World) -> None:
    world.b.before = fails("boot front")
    with pytest.raises(AntipodeError):
        failed_over(world)
    world.b.before = lambda happens: None
    assert is_fenced(world.a)
    abort(world.process(), newest(world).id, Unobserved())
    expect_as_before(world)
    expect_nothing_made(world)


def test_a_server_of_an_earlier_try_keeps_the_fence_and_an_abort_removes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.b.before = fails("boot front")
    with pytest.raises(AntipodeError):
        world.failover()
    world.b.before = lambda happens: None
    assert statuses(world.b) == {"db": "ACTIVE"}
    with monkeypatch.context() as patch, pytest.raises(AntipodeError):
        patch.setattr(failover_run, "run_flow", lambda *_, **__: fail("no answer"))
        failed_over(world)
    assert is_fenced(world.a)
    world.a.before = lambda happens: None if not world.b.servers else fail("two copies")
    abort(world.process(), newest(world).id, Unobserved())
    world.a.before = lambda happens: None
    expect_as_before(world)
    assert world.b.servers == {}


def test_members_are_started_in_their_boot_order_once_the_other_copy_is_gone(
    world: World,
) -> None:
    world.b.before = fails("boot front")
    with pytest.raises(AntipodeError):
        failed_over(world)
    world.b.before = lambda happens: None
    world.a.before = lambda happens: None if not world.b.servers else fail("two copies")
    abort(world.process(), newest(world).id, Unobserved())
    started = [e for e in world.a.events if e.startswith("os-start")]
    assert started == ["os-start db", "os-start front"]


def test_a_member_that_was_off_and_locked_before_stays_so(world: World) -> None:
    world.a.servers["id-front"] |= {"status": "SHUTOFF", "locked": True}
    world.b.before = fails("restore db-root")
    with pytest.raises(AntipodeError):
        failed_over(world)
    assert statuses(world.a) == {"db": "ACTIVE", "front": "SHUTOFF"}
    assert world.a.servers["id-front"]["locked"]


def test_an_aborted_one_that_has_lost_its_claim_starts_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.b.before = fails("boot front")
    with pytest.raises(AntipodeError):
        failed_over(world)
    world.b.before = lambda happens: None

    def lost(*_: object) -> None:
        raise Busy("another failover has it")

    monkeypatch.setattr(generations, "confirm", lost)
    abort(world.process(), newest(world).id, Unobserved())
    assert is_fenced(world.a)
    assert [left for left in newest(world).result["left"] if "two active copies" in left]


def test_a_member_that_is_still_being_stopped_is_started_again(world: World) -> None:
    looks: list[str] = []

    def listed() -> list[Any]:
        """As Nova shows a server that it is powering off: ACTIVE, until it is off."""
        looks.append("look")
        server = world.a.servers["id-db"]
        if len(looks) == 3:
            server |= {"status": "SHUTOFF", "OS-EXT-STS:task_state": None}
        return list(world.a.servers.values())

    world.a.servers["id-db"]["OS-EXT-STS:task_state"] = "powering-off"
    site = world.a.site
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.compute, "servers", listed)
        said = switching.Switching("v", site, Unrecorded(), lambda: None, lambda: None)
        assert switching.switch(said, ["id-db"], "ACTIVE") == []
    assert "os-start db" in world.a.events


def test_the_plan_names_what_is_fenced(world: World) -> None:
    here = world.process()
    prepared = prepare(here, "v", "site-b", None)
    servers, warnings = fenced_first(here, prepared, "required")
    assert [s.split()[1] for s in sorted(servers)] == ["db", "front"]
    assert warnings == []


def test_without_the_option_the_old_site_is_not_called(world: World) -> None:
    before = list(world.a.events)
    failed_over(world, None)
    assert world.a.events == before
