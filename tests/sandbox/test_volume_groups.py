# SPDX-License-Identifier: Apache-2.0
"""Volume groups on embedded sites, with a back end that snapshots them at one moment and without:
members that are not quiesced come back in order with each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from antipode.sandbox import canary, records
from tests.sandbox.conftest import BACKUP, PRIMARY, World, make, until

pytestmark = pytest.mark.sandbox
TAKEN = "block-storage POST /v3/group_snapshots"
ROOT = "/dev/vda"


@pytest.fixture(scope="module")
def shared_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = make(tmp_path_factory.mktemp("grouped"))
    yield world
    world.sandbox.down()


@pytest.fixture
def grouped(shared_group: World) -> Iterator[World]:
    """All volumes are in a group that the back end snapshots at one moment."""
    shared_group.mend()
    shared_group.know()
    shared_group.conditions(PRIMARY, consistent_groups=True)
    shared_group.operator.ask("vnf", "prepare", "canary")
    yield shared_group
    shared_group.mend()


def group_snapshots(world: World) -> int:
    """How many were asked for so far."""
    return int(world.sandbox.ask(PRIMARY, "GET", "/calls").get(TAKEN, 0))


def left(world: World) -> list[Any]:
    storage = world.cloud(PRIMARY).block_storage
    return [*world.snapshots(), *(g.id for g in storage.group_snapshots())]


def accepting(world: World, consistency: str) -> None:
    quiesce = {"timeout": "120s"}
    option = {"option": "quiesced-snapshot", "quiesce": quiesce, "consistency": consistency}
    world.know(protections=[option])


def have_no_agents(world: World) -> None:
    """Nova knows of no guest agent in any member."""
    cloud = world.cloud(f"{PRIMARY}-admin")
    here = world.cloud(PRIMARY).compute
    for server in here.servers():
        for attached in here.volume_attachments(server):
            if attached.device == ROOT:
                wanted = {"os-set_image_metadata": {"metadata": {"hw_qemu_guest_agent": "no"}}}
                path = f"/volumes/{attached.volume_id}/action"
                answer = cloud.block_storage.post(path, json=wanted)
                assert answer.ok, answer.text


def test_one_group_snapshot_is_taken_in_the_window_and_nothing_of_it_is_left(
    grouped: World,
) -> None:
    before = group_snapshots(grouped)
    assert grouped.protect()["consistency"] == "application"
    assert group_snapshots(grouped) == before + 1
    assert left(grouped) == []
    grouped.verify()
    assert grouped.protect()["incremental"]


@pytest.mark.rest
def test_a_back_end_that_cannot_do_it_any_more_gets_single_snapshots(grouped: World) -> None:
    grouped.conditions(PRIMARY, consistent_groups=False)
    before = group_snapshots(grouped)
    assert grouped.protect()["consistency"] == "application"
    assert group_snapshots(grouped) == before


@pytest.mark.rest
@pytest.mark.parametrize("fault", [r"^group_snapshot\.create$", r"POST /v3/group_snapshots$"])
def test_a_group_snapshot_that_fails_leaves_no_member_frozen_and_nothing_behind(
    grouped: World, fault: str
) -> None:
    points = grouped.points()
    grouped.fault(PRIMARY, fault, "error", times=None)
    done = grouped.operator.run("protect", "canary")
    assert done.returncode == 1, done.stderr
    assert grouped.struck(PRIMARY)
    grouped.sandbox.ask(PRIMARY, "DELETE", "/faults")
    until(lambda: not grouped.frozen(), "no member is frozen")
    assert grouped.points() == points
    assert grouped.protect()["recovery_point"]
    assert left(grouped) == []


@pytest.mark.rest
def test_a_quota_that_is_short_for_all_of_them_makes_none(grouped: World) -> None:
    admin = grouped.cloud(f"{PRIMARY}-admin").block_storage
    path = f"/os-quota-sets/{grouped.cloud(PRIMARY).current_project_id}"
    storage = grouped.cloud(PRIMARY).block_storage
    (group,) = storage.groups()
    admin.put(path, json={"quota_set": {"snapshots": 2}})
    wanted = {"group_snapshot": {"group_id": group.id, "name": "too many"}}
    answer = storage.post("/group_snapshots", json=wanted, microversion="3.14")
    refused = grouped.operator.run("protect", "canary")
    admin.put(path, json={"quota_set": {"snapshots": 100}})
    assert answer.status_code == 413, answer.text
    assert "quota snapshots" in refused.stderr
    assert left(grouped) == []


def test_a_vnf_without_agents_comes_back_in_order_from_a_group(tmp_path: Any) -> None:
    world = make(tmp_path / "own")
    try:
        world.conditions(PRIMARY, consistent_groups=True)
        have_no_agents(world)
        accepting(world, "group")
        refused = world.operator.run("protect", "canary")
        assert refused.returncode == 3
        assert "volume now" in refused.stderr
        world.operator.ask("vnf", "prepare", "canary")
        canary.await_records(world.sandbox, PRIMARY, 20)
        assert world.protect()["consistency"] == "group"
        world.sandbox.kill(PRIMARY)
        world.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
        canary.await_work(world.sandbox, BACKUP)
        assert records.check(canary.records(world.sandbox, BACKUP)).consistent
    finally:
        world.sandbox.down()
