# SPDX-License-Identifier: Apache-2.0
"""A protection that something goes wrong with: no member stays frozen, no recovery point is
half made, and the next one is good.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from antipode.freezes.unquiesce import THAW_CALL_S
from antipode.protect.quiesced_snapshot.window import THAW_LONGEST_S
from tests.sandbox.conftest import BACKUP, PRIMARY, World, await_thaw, quiesced_within, until

pytestmark = pytest.mark.sandbox
QUIESCE_S = 6
THAWED_WITHIN_S = QUIESCE_S + 20
"""After that a member that is still frozen was forgotten, and is not just thawed by a busy machine.
"""


def expect_the_next_one_to_be_good(world: World) -> None:
    """And to have removed all that the failed one left."""
    world.sandbox.ask(PRIMARY, "DELETE", "/faults")
    points = world.points()
    result = world.protect()
    assert world.points() == [*points, result["recovery_point"]]
    world.verify()
    assert world.snapshots() == []
    assert set(world.backups().values()) == {"available"}
    assert world.frozen() == set()


def by_somebody(world: World, server: str, *actions: Mapping[str, object]) -> None:
    """Somebody who knows nothing of antipode acts on a server."""
    compute = world.cloud(PRIMARY).compute
    path = f"/servers/{compute.find_server(server, ignore_missing=False).id}/action"
    for action in actions:
        assert compute.post(path, json=action, microversion="2.1").status_code == 202


QUIESCE, THAW = {"quiesce": {"timeout": 600}}, {"unquiesce": None}


def test_a_snapshot_that_stays_creating_ends_the_window_in_time(world: World) -> None:
    world.know(**quiesced_within(QUIESCE_S))
    points = world.points()
    world.fault(PRIMARY, r"^snapshot\.create$", "stuck")
    with world.meanwhile("protect", "canary") as end:
        until(lambda: len(world.frozen()) == 3, "all members are frozen")
        await_thaw(world, THAWED_WITHIN_S)
        # Cinder never deletes a snapshot that it never made; what is stuck is healed here before
        # the run has given up on removing it.
        world.sandbox.ask(PRIMARY, "DELETE", "/faults")
        done = end()
    assert done.returncode == 1, done.stderr
    assert world.points() == points
    expect_the_next_one_to_be_good(world)


def test_a_snapshot_that_fails_is_told_and_leaves_nothing(world: World) -> None:
    world.fault(PRIMARY, r"^snapshot\.create$", "error", message="no space in the pool")
    done = world.operator.run("protect", "canary")
    assert done.returncode == 1, done.stderr
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()
    assert world.snapshots() == []
    expect_the_next_one_to_be_good(world)


@pytest.mark.parametrize("effect", ["error", "stuck"])
def test_a_second_member_that_is_not_quiesced_ends_the_window_of_all(
    world: World, effect: str
) -> None:
    world.know(**quiesced_within(QUIESCE_S))
    points = world.points()
    world.fault(PRIMARY, r"^server\.quiesce$", effect, after=1)
    done = world.operator.run("protect", "canary")
    assert done.returncode == 1, done.stderr
    assert world.struck(PRIMARY) == 1
    assert (world.frozen(), world.snapshots(), world.points()) == (set(), [], points)
    expect_the_next_one_to_be_good(world)


def test_an_agent_that_dies_while_its_member_is_frozen_leaves_none_so(world: World) -> None:
    world.fault(PRIMARY, r"^server\.unquiesce$", "error", times=2, message="no answer of the agent")
    world.operator.run("protect", "canary")
    assert world.struck(PRIMARY) == 2
    await_thaw(world, THAWED_WITHIN_S)
    expect_the_next_one_to_be_good(world)


@pytest.mark.parametrize("times", [1, None], ids=["once", "for good"])
@pytest.mark.parametrize(
    ("site", "what", "effect"),
    [
        (PRIMARY, r"^backup\.create$", "error"),
        (BACKUP, r"^object-store PUT /v1/[^/]+/volumebackups/", "drop"),  # the WAN is cut
    ],
    ids=["backups fail", "the way to the store is cut"],
)
def test_backups_that_fail_in_the_middle_make_no_point_and_leave_nothing(
    world: World, site: str, what: str, effect: str, times: int | None
) -> None:
    points, backups = world.points(), world.backups()
    world.fault(site, what, effect, after=2, times=times)
    done = world.operator.run("protect", "canary")
    assert world.struck(site)
    world.sandbox.ask(site, "DELETE", "/faults")
    assert world.frozen() == set()
    if times == 1 and effect == "drop":
        assert (done.returncode, len(world.points())) == (0, len(points) + 1)  # it is sent again
    else:
        assert done.returncode == 1, done.stderr
        assert (world.points(), world.backups()) == (points, backups)
    expect_the_next_one_to_be_good(world)


def test_a_backup_site_that_is_away_from_the_beginning_leaves_all_as_it_is(world: World) -> None:
    points = world.points()
    world.sandbox.kill(BACKUP)
    world.sandbox.ask(PRIMARY, "DELETE", "/calls")
    done = world.operator.run("protect", "canary")
    assert done.returncode in (3, 5), done.stderr
    calls = world.sandbox.ask(PRIMARY, "GET", "/calls")
    assert not [c for c in calls if c.endswith(" quiesce") or "POST /v3/" in c]
    world.sandbox.start(BACKUP)
    assert world.points() == points
    expect_the_next_one_to_be_good(world)


def test_a_backup_that_somebody_has_deleted_costs_full_backups_and_breaks_no_chain(
    world: World,
) -> None:
    world.protect()
    storage = world.cloud(PRIMARY).block_storage
    newest = max(storage.backups(details=True), key=lambda backup: backup.created_at)
    storage.delete_backup(newest)
    until(lambda: newest.id not in world.backups(), "it is gone")
    result = world.protect()
    assert newest.id not in world.backups()
    full = [b for b in storage.backups(details=True) if not b.is_incremental]
    assert newest.volume_id in {b.volume_id for b in full if b.created_at > newest.created_at}, (
        result
    )
    world.verify()


@pytest.mark.parametrize("call", ["POST /v3/snapshots$", "POST /v3/backups$"])
def test_a_creation_whose_answer_is_lost_leaves_neither_a_frozen_member_nor_an_orphan(
    world: World, call: str
) -> None:
    world.fault(PRIMARY, f"^block-storage {call}", "lost")
    points = world.points()
    done = world.operator.run("protect", "canary")
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()
    if (
        done.returncode
    ):  # it may find again what it has made, and go on; if it does not, there is no new point
        assert world.points() == points
    else:
        assert len(world.points()) == len(points) + 1
    expect_the_next_one_to_be_good(world)


def test_a_thaw_whose_answer_is_lost_is_made_again(world: World) -> None:
    # the first three ask whether agents answer
    world.fault(PRIMARY, "^compute POST /v2.1/servers/.*/action unquiesce", "lost", after=3)
    result = world.protect()
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()
    assert result["consistency"] == "application"


def test_a_quiesce_whose_answer_is_lost_is_thawed_at_once(world: World) -> None:
    world.fault(PRIMARY, "^compute POST /v2.1/servers/.*/action quiesce", "lost")
    done = world.operator.run("protect", "canary")
    assert done.returncode == 1, done.stderr
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()
    expect_the_next_one_to_be_good(world)


@pytest.mark.parametrize("member", [0, 2])
def test_a_quiesce_that_is_delivered_twice_is_known_for_ours_and_thawed_at_once(
    world: World, member: int
) -> None:
    world.fault(PRIMARY, "^compute POST /v2.1/servers/.*/action quiesce", "twice", after=member)
    done = world.operator.run("protect", "canary")
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()
    assert done.returncode == 1, done.stderr
    expect_the_next_one_to_be_good(world)


def test_a_thaw_that_is_delivered_twice_is_a_thaw(world: World) -> None:
    world.fault(PRIMARY, "^compute POST /v2.1/servers/.*/action unquiesce", "twice", after=3)
    assert world.protect()["consistency"] == "application"
    assert world.struck(PRIMARY) == 1
    assert world.frozen() == set()


def test_what_somebody_else_has_quiesced_is_left_to_him(world: World) -> None:
    server = world.guests()[0]["server"]
    by_somebody(world, server, QUIESCE)
    try:
        done = world.operator.run("protect", "canary")
        assert done.returncode == 3, done.stderr
        assert world.frozen() == {server}
    finally:
        by_somebody(world, server, THAW)
    expect_the_next_one_to_be_good(world)


@pytest.mark.rest
def test_a_thaw_and_a_new_quiesce_by_somebody_else_in_the_window_make_no_point(
    world: World,
) -> None:
    points = world.points()
    with world.protecting() as end:
        server = sorted(world.frozen())[0]
        by_somebody(world, server, THAW, QUIESCE)
        try:
            done = end()
            assert done.returncode == 1, done.stderr
            assert world.frozen() == {server}  # his, not ours
        finally:
            by_somebody(world, server, THAW)
    assert world.points() == points
    expect_the_next_one_to_be_good(world)


def test_a_full_store_is_told_and_no_point_is_made(world: World) -> None:
    world.protect()
    points = world.points()
    # less than the backups take, and more than the vault: it is in another account
    world.conditions("site-b", store_capacity=8 << 20)
    done = world.operator.run("protect", "canary", "--full")
    assert done.returncode == 1, done.stderr
    assert world.frozen() == set()
    assert world.points() == points
    world.conditions("site-b", store_capacity=None)
    expect_the_next_one_to_be_good(world)


def test_a_site_that_stops_answering_while_its_members_are_frozen_thaws_them_by_itself(
    world: World,
) -> None:
    world.know(**quiesced_within(QUIESCE_S))
    points = world.points()
    world.fault(PRIMARY, r"^snapshot\.create$", "slow", seconds=QUIESCE_S)
    with world.meanwhile("protect", "canary") as end:
        until(
            lambda: len(world.frozen()) == 3 and world.struck(PRIMARY),
            "snapshots of frozen members are being made",
        )
        world.sandbox.isolate(PRIMARY)
        await_thaw(world, THAWED_WITHIN_S)  # nothing gets in: the add-on's own timers do it
        world.sandbox.rejoin(PRIMARY)
        done = end()
    assert done.returncode != 0, done.stdout
    assert world.points() == points
    expect_the_next_one_to_be_good(world)


def test_a_site_that_falls_silent_with_members_frozen_is_told_soon_after_the_last_thaw(
    world: World,
) -> None:
    world.know(**quiesced_within(QUIESCE_S))
    points = world.points()
    world.fault(PRIMARY, r"^snapshot\.create$", "slow", seconds=QUIESCE_S)
    with world.meanwhile("protect", "canary") as end:
        until(
            lambda: len(world.frozen()) == 3 and world.struck(PRIMARY), "snapshots are being made"
        )
        world.sandbox.isolate(PRIMARY)
        began = time.monotonic()
        done = end()
    # Unquiesce calls are tried for so long, and once more in the rollback. Nothing else at that
    # site is waited for again.
    assert time.monotonic() - began < QUIESCE_S + THAW_LONGEST_S + 2 * THAW_CALL_S + 30
    assert done.returncode == 1, done.stderr
    world.sandbox.rejoin(PRIMARY)
    assert world.points() == points
    expect_the_next_one_to_be_good(world)


def test_a_clock_that_jumps_while_members_are_frozen_neither_leaves_them_so_nor_ends_the_run(
    world: World,
) -> None:
    with world.protecting() as end:
        world.conditions(PRIMARY, clock_skew_s=2 * 3600)  # every token of the site has expired
        done = end()
    assert done.returncode == 0, done.stderr
    assert world.frozen() == set()
    world.verify()


def test_a_clock_that_was_set_back_costs_a_full_backup_and_no_wrong_chain(world: World) -> None:
    world.protect()
    world.conditions(PRIMARY, clock_skew_s=-24 * 3600)
    world.protect()
    world.verify()


def test_a_slow_answer_within_the_timeout_is_only_slow(world: World) -> None:
    world.fault(PRIMARY, "^block-storage POST /v3/snapshots$", "slow", seconds=2)
    began = time.monotonic()
    result = world.protect()
    assert world.struck(PRIMARY) == 1
    assert result["quiesce_window_s"] >= 2
    assert time.monotonic() - began >= 2
