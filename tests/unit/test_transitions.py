# SPDX-License-Identifier: Apache-2.0
"""The states of VNFs have names that follow from runs: what one is in the middle of, and what has
failed and may be tried again. Nothing is known of what would be lost once a recovery begins.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.engine.run import asked_again
from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, InvalidInput
from antipode.operations import migrate as migrating
from antipode.operations import reprotect as reprotecting
from antipode.operations.abort import abort
from antipode.operations.inspect import Status, status
from antipode.operations.migrate import migrate
from antipode.operations.reprotect import reprotect
from antipode.operations.resume import resume
from antipode.recover import switching
from antipode.runs import kind_of
from antipode.service.events import _of_run
from tests.unit.test_durable_runs import World, world
from tests.unit.test_migrate_run import claims_it, fail, migrated

__all__ = ["world"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)


def seen(world: World) -> Status:
    found = status(world.process(), "v")
    assert isinstance(found, Status)
    return found


def failing(world: World, event: str) -> Any:
    """Have an event at site-b fail."""
    world.b.before = lambda happens: fail("no answer") if happens.startswith(event) else None


def mended(world: World) -> None:
    world.b.before = lambda happens: None


def test_a_vnf_in_the_middle_of_nothing_is_active(world: World) -> None:
    found = seen(world)
    assert (found.name, found.transition) == ("active", None)


def test_a_failed_failover_is_named_until_it_succeeds(world: World) -> None:
    failing(world, "boot front")
    with pytest.raises(AntipodeError):
        world.failover(world.process())
    mended(world)
    found = seen(world)
    assert found.name == "error-failing-over"
    assert found.transition is not None
    run = found.transition.run
    assert found.transition.next == [f"antipode run resume {run}", f"antipode run abort {run}"]
    resume(world.process(), run, Unobserved())
    assert seen(world).name == "active"


def test_an_aborted_one_leaves_no_error(world: World) -> None:
    failing(world, "boot front")
    with pytest.raises(AntipodeError):
        world.failover(world.process())
    mended(world)
    failed = seen(world).transition
    assert failed is not None
    abort(world.process(), failed.run, Unobserved())
    assert seen(world).name == "active"


def test_a_failed_migration_is_named_and_the_command_that_repeats_it(world: World) -> None:
    failing(world, "boot db")
    here = world.process()
    with pytest.raises(AntipodeError):
        migrate(here, migrating.request(migrating.prepare(here, "v")), Unobserved())
    mended(world)
    found = seen(world)
    assert found.name == "error-migrating"
    assert found.transition is not None
    assert found.transition.next[0] == "antipode migrate v --to site-b"
    assert found.rpo.age_s is not None


def test_a_failed_failback_is_repeated_by_a_failback_and_a_part_of_it_by_the_whole(
    world: World,
) -> None:
    migrated(world)
    world.a.before = lambda happens: fail("no answer") if happens.startswith("boot db") else None
    with pytest.raises(AntipodeError):
        migrated(world, back=True)
    world.a.before = lambda happens: None
    found = seen(world).transition
    assert found is not None
    assert found.next[0] == "antipode failback v --to site-a"
    here = world.process()
    with pytest.raises(InvalidInput, match="antipode failback v --to site-a"):
        resume(here, found.run, Unobserved())
    part = next(r.id for r in here.runs.all("v") if r.kind == "failover" and r.state != "succeeded")
    with pytest.raises(InvalidInput):
        resume(here, part, Unobserved())
    assert asked_again(kind_of("failover"), here.runs.get(part)) == (
        f"antipode run resume {found.run}"
    )


def test_a_failed_reprotection_is_named_and_is_over_when_the_vnf_moves_on(world: World) -> None:
    world.failover(world.process())
    failing(world, "quiesce")
    here = world.process()
    with pytest.raises(AntipodeError):
        reprotect(here, reprotecting.request(reprotecting.prepare(here, "v")), Unobserved())
    mended(world)
    assert seen(world).name == "error-reprotecting"
    claims_it(world)
    assert seen(world).name == "failing-over"


def test_a_failover_of_another_host_is_named_though_no_run_is_here(world: World) -> None:
    claims_it(world)
    found = seen(world)
    assert (found.name, found.transition) == ("failing-over", None)


def test_what_would_be_lost_is_not_known_from_the_begin_of_a_failover(world: World) -> None:
    assert seen(world).rpo.age_s is not None
    world.die_in("failover")  # before it has claimed anything
    found = seen(world)
    assert found.state.state.value == "active"
    assert found.name == "failing-over"
    assert (found.rpo.state.value, found.rpo.age_s) == ("failing-over", None)


def test_events_of_runs_tell_the_state_of_the_vnf(world: World) -> None:
    failing(world, "boot front")
    with pytest.raises(AntipodeError):
        world.failover(world.process())
    row = world.here.runs.all("v")[0]
    assert [e.data.get("vnf_state") for e in _of_run(row, None)] == [
        "failing-over",
        "error-failing-over",
    ]
