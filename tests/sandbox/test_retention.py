# SPDX-License-Identifier: Apache-2.0
"""Backups within Cinder's quota, and chains that Cinder cannot continue, with real bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox.conftest import PRIMARY, World

pytestmark = pytest.mark.sandbox
VOLUMES = 6


@pytest.fixture
def keeping_one(world: World) -> Iterator[World]:
    """A VNF of six volumes of which one recovery point is kept."""
    keep(world, {"last": 1})
    yield world
    limit_backups(world, -1)
    world.conditions(PRIMARY, backup_block_size=None)


def keep(world: World, retention: Any, full_every: int = 100) -> None:
    protection = {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}
    policy = {"retention": retention, "full_every": full_every}
    world.know(protections={**protection, **policy})


def limit_backups(world: World, many: int) -> None:
    project = world.cloud(PRIMARY).current_project_id
    storage = world.cloud(f"{PRIMARY}-admin").block_storage
    answer = storage.put(f"/os-quota-sets/{project}", json={"quota_set": {"backups": many}})
    assert answer.status_code == 200


def test_with_cinders_default_quota_a_second_point_is_refused_before_the_window(
    keeping_one: World,
) -> None:
    world = keeping_one
    limit_backups(world, 10)
    world.protect()
    points, backups = world.points(), world.backups()
    assert len(backups) == VOLUMES
    done = world.operator.run("protect", "canary")
    assert done.returncode == 3, done.stderr
    assert (world.points(), world.backups()) == (points, backups)
    assert world.snapshots() == []


@pytest.mark.rest
def test_a_quota_for_two_points_lasts_for_ever(keeping_one: World) -> None:
    world = keeping_one
    limit_backups(world, 2 * VOLUMES)
    for _ in range(3):
        world.protect()
        assert len(world.points()) == 1
        assert len(world.backups()) == VOLUMES
    world.verify()


def test_a_clock_of_cinder_that_goes_back_by_an_hour_costs_not_the_newest_point(
    keeping_one: World,
) -> None:
    world = keeping_one
    world.protect()
    world.conditions(PRIMARY, clock_skew_s=-3600)
    newest = world.protect()["recovery_point"]
    assert newest in world.points()
    world.verify()
    world.conditions(PRIMARY, clock_skew_s=0)
    newest = world.protect()["recovery_point"]
    assert world.points() == [newest]
    assert len(world.backups()) == VOLUMES * len(world.points())
    world.verify()


@pytest.mark.rest
def test_a_changed_block_size_costs_full_backups_with_the_reason_and_no_failure(
    keeping_one: World,
) -> None:
    world = keeping_one
    world.protect()
    world.conditions(PRIMARY, backup_block_size=128 << 10)
    record = world.protect()
    assert record["incremental"] is False
    steps = world.operator.ask("run", "show", record["run"])["steps"]
    reasons = [s["result"]["full_because"] for s in steps if "full_because" in s["result"]]
    assert len(reasons) == VOLUMES
    assert all("block size" in reason for reason in reasons)
    assert set(world.backups().values()) == {"available"}
    assert len(world.backups()) == VOLUMES
    world.verify()
    assert world.protect()["incremental"] is True
