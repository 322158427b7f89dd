# SPDX-License-Identifier: Apache-2.0
"""Volume groups: one group snapshot in the place of many, where it is of one moment."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.cloud.api import Api, ApiError, Reply
from antipode.cloud.groups import VolumeGroups
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, PreflightFailed, ResourceFailed
from antipode.model.marks import marks, words
from antipode.model.steps import Unrecorded
from antipode.operations import fence
from antipode.operations.volume_groups import prepare
from antipode.protect import snapshots, volume_groups
from antipode.protect.volume_groups import CAPABILITY, PROMISE, TYPE_NAME
from antipode.runs import old_copy_removal
from antipode.runs.fence import must_be_old
from antipode.vault import points
from tests.unit.fakecloud import FakeCloud, refuse
from tests.unit.test_accepted_consistency import accepting, touched, without_agent
from tests.unit.test_durable_runs import World, world

__all__ = ["world"]


@pytest.fixture
def grouped(world: World) -> World:
    """All volumes are in a group that the storage snapshots at one moment."""
    world.a.snapshots_groups_at_once = True
    prepare(world.here, "v")
    world.a.events.clear()
    return world


def test_one_group_snapshot_takes_the_place_of_many(grouped: World) -> None:
    assert grouped.protect()["consistency"] == "application"
    assert touched(grouped, "snapshot ") == ["snapshot group antipode v"]
    assert grouped.a.snapshots == {}
    assert grouped.a.group_snapshots == {}
    sources = points.read(grouped.here.vault, "v").sources
    assert sorted(sources) == ["db-data", "db-root", "front-root"]


def test_the_group_snapshot_lies_inside_the_window(grouped: World) -> None:
    grouped.protect()
    events = grouped.a.events
    begins = [i for i, e in enumerate(events) if e.startswith("quiesce")]
    ends = [i for i, e in enumerate(events) if e.startswith("unquiesce")]
    (taken,) = [i for i, e in enumerate(events) if e.startswith("snapshot group")]
    inside = [i for i in ends if i > taken]
    assert max(begins) < taken
    assert inside


def test_members_without_agents_are_consistent_as_a_group(grouped: World) -> None:
    grouped.here.vnfs.put(accepting("group"))
    without_agent(grouped, "db", "front")
    assert grouped.protect()["consistency"] == "group"
    assert not touched(grouped, "quiesce")


def incapable(cloud: FakeCloud) -> None:
    cloud.snapshots_groups_at_once = False


def unpromising(cloud: FakeCloud) -> None:
    for kind in cloud.group_types.values():
        kind["group_specs"] = {}


def no_administrator(cloud: FakeCloud) -> None:
    for kind in cloud.group_types.values():
        del kind["group_specs"]


def half_empty(cloud: FakeCloud) -> None:
    cloud.volumes["db-data"]["group_id"] = None


def with_a_stranger(cloud: FakeCloud) -> None:
    (group,) = cloud.volume_groups
    cloud.volumes["other"] = {**cloud.volumes["db-data"], "id": "other", "group_id": group}


def in_error(cloud: FakeCloud) -> None:
    for group in cloud.volume_groups.values():
        group["status"] = "error"


def elsewhere(cloud: FakeCloud) -> None:
    cloud.volumes["db-data"]["os-vol-host-attr:host"] = "host@rbd#other"


WRONG = [incapable, unpromising, no_administrator, half_empty, with_a_stranger, in_error, elsewhere]


@pytest.mark.parametrize("wrong", WRONG)
def test_single_snapshots_are_taken_where_one_moment_is_not_certain(
    grouped: World, wrong: Any
) -> None:
    wrong(grouped.a)
    assert grouped.protect()["consistency"] == "application"  # as all members were quiesced
    assert len(touched(grouped, "snapshot ")) == 3
    assert not touched(grouped, "snapshot group")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_group_that_is_not_of_one_moment_is_no_group(grouped: World, wrong: Any) -> None:
    grouped.here.vnfs.put(accepting("group"))
    without_agent(grouped, "db", "front")
    wrong(grouped.a)
    with pytest.raises(PreflightFailed, match="volume now"):
        grouped.protect()
    assert not touched(grouped, "snapshot", "quiesce")
    grouped.here.vnfs.put(accepting("volume"))
    assert grouped.protect()["consistency"] == "volume"


def test_a_volume_that_joins_the_group_inside_the_window_makes_no_point(grouped: World) -> None:
    before = points.read(grouped.here.vault, "v").id

    def joins(event: str) -> None:
        if event.startswith("snapshot group"):
            with_a_stranger(grouped.a)

    grouped.a.before = joins
    with pytest.raises(ResourceFailed, match="other volumes"):
        grouped.protect()
    grouped.a.before = lambda event: None
    assert points.read(grouped.here.vault, "v").id == before
    assert (grouped.a.snapshots, grouped.a.group_snapshots) == ({}, {})
    assert not grouped.a.all_frozen


def test_a_group_snapshot_that_is_refused_leaves_nothing_frozen(grouped: World) -> None:
    def refused(event: str) -> None:
        if event.startswith("snapshot group"):
            refuse(413, "quota")

    grouped.a.before = refused
    with pytest.raises(ResourceFailed, match="could not be snapshotted"):
        grouped.protect()
    assert not grouped.a.all_frozen
    assert grouped.a.snapshots == {}


def test_a_group_snapshot_in_error_leaves_nothing(grouped: World) -> None:
    age = grouped.a._age

    def in_error(resources: dict[str, Any]) -> None:
        age(resources)
        if resources is grouped.a.snapshots:
            for snapshot in resources.values():
                snapshot["status"] = "error"

    grouped.a._age = in_error  # type: ignore[method-assign]
    with pytest.raises(AntipodeError):
        grouped.protect()
    assert not grouped.a.all_frozen
    assert (grouped.a.snapshots, grouped.a.group_snapshots) == ({}, {})


@pytest.mark.parametrize("status", ["available", "updating"])
def test_an_old_copy_is_removed_with_the_volumes_in_its_group(grouped: World, status: str) -> None:
    grouped.protect()
    grouped.failover()
    grouped.protect()
    here = grouped.here
    fence.fence(here, fence.request(fence.prepare(here, "v", "site-a")), Unobserved())
    standing = must_be_old(here, "v", "site-a")
    row = old_copy_removal.requested(standing.state, "site-a")
    for group in grouped.a.volume_groups.values():  # an attempt was killed, maybe
        group |= {"status": status, "looks": 3}
    with here.claims.begin(row) as claim:
        execute(here, old_copy_removal.KIND, claim, Unobserved())
    assert not grouped.a.servers
    assert not grouped.a.volumes


def test_a_volume_that_another_server_uses_by_now_stays_in_its_group(grouped: World) -> None:
    grouped.protect()
    grouped.failover()
    grouped.protect()
    here, taken = grouped.here, {"id": "a", "server_id": "other", "attachment_id": "a"}
    fence.fence(here, fence.request(fence.prepare(here, "v", "site-a")), Unobserved())

    def takes(event: str) -> None:
        over = event.startswith(("change volume group", "delete volume"))
        if not over and not grouped.a.servers:
            grouped.a.volumes["db-data"]["attachments"] = [taken]

    (group,) = grouped.a.volume_groups
    standing = must_be_old(here, "v", "site-a")
    row = old_copy_removal.requested(standing.state, "site-a")
    found = old_copy_removal.holdings(here, standing, here.site("site-a"))
    assert "db-data" in found.volumes
    grouped.a.before = takes
    with here.claims.begin(row) as claim, pytest.raises(ResourceFailed, match="another server"):
        execute(here, old_copy_removal.KIND, claim, Unobserved())
    assert {v["id"]: v["group_id"] for v in grouped.a.volumes.values()} == {"db-data": group}


# ---- group snapshots that are removed ----


def half_made(cloud: FakeCloud, **statuses: str) -> str:
    """A group snapshot of a run, whose parts have these statuses; its id."""
    status = "creating" if "creating" in statuses.values() else "available"
    cloud.group_snapshots["g"] = {"id": "g", "status": status}
    for volume, status in statuses.items():
        cloud.snapshots[volume] = {
            "id": volume,
            "volume_id": volume,
            "name": "antipode v",
            "status": status,
            "looks": 3,
            "metadata": {},
            "description": words("protect-1", "protect-1"),
            "group_snapshot_id": "g",
        }
    return "g"


def removed(world: World) -> None:
    snapshots.remove_snapshots(world.here.site("site-a"), "protect-1", Unrecorded())


def test_a_group_snapshot_that_is_half_made_is_removed_once(world: World) -> None:
    half_made(world.a, one="available", other="creating")
    world.a.events.clear()
    removed(world)
    assert (world.a.snapshots, world.a.group_snapshots) == ({}, {})
    assert touched(world, "delete group snapshot") == ["delete group snapshot"]


def test_a_group_snapshot_that_is_being_backed_up_stays(world: World) -> None:
    """Cinder would delete it beneath the backup."""
    half_made(world.a, one="available", other="backing-up")
    with pytest.raises(ResourceFailed, match="backing-up"):
        removed(world)
    assert sorted(world.a.snapshots) == ["one", "other"]
    world.a.snapshots["other"]["status"] = "available"
    removed(world)
    assert world.a.snapshots == {}


def test_a_group_snapshot_that_is_stuck_keeps_no_other_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_TIMEOUT_S", 0.1)
    half_made(world.a, one="creating")
    world.a.snapshots["one"]["looks"] = 1_000_000
    single: dict[str, Any] = {"id": "single", "status": "available", "group_snapshot_id": None}
    single["metadata"] = marks("protect-1", "protect-1")
    world.a.snapshots["single"] = world.a.snapshots["one"] | single
    with pytest.raises(ResourceFailed, match="group snapshot"):
        removed(world)
    assert sorted(world.a.snapshots) == ["one"]


def test_a_group_snapshot_that_cannot_be_deleted_is_known_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts may be in no error; the group snapshot is."""
    half_made(world.a, one="available")
    site = world.here.site("site-a")
    monkeypatch.setattr(snapshots, "TIMEOUT_S", 20.0)

    def fails(snapshot: str) -> None:
        world.a.group_snapshots[snapshot]["status"] = "error"

    monkeypatch.setattr(site.groups, "delete_snapshot", fails)
    with pytest.raises(ResourceFailed, match="is in status error"):
        snapshots.remove_snapshots(site, "protect-1", Unrecorded())


# ---- preparing ----


def test_a_group_and_its_type_are_made_once(world: World) -> None:
    world.a.snapshots_groups_at_once = True
    first = prepare(world.here, "v").prepared
    assert sorted(first.added) == ["db-data", "db-root", "front-root"]
    (kind,) = world.a.group_types.values()
    assert (kind["name"], kind["group_specs"]) == (TYPE_NAME, {CAPABILITY: PROMISE})
    again = prepare(world.here, "v").prepared
    assert (again.group, again.added) == (first.group, [])
    assert len(world.a.volume_groups) == 1


def test_a_volume_that_came_later_is_put_into_the_group(grouped: World) -> None:
    half_empty(grouped.a)
    assert prepare(grouped.here, "v").prepared.added == ["db-data"]


@pytest.mark.parametrize("status", ["creating", "updating"])
def test_a_preparation_that_was_killed_is_finished_by_the_next(grouped: World, status: str) -> None:
    half_empty(grouped.a)
    for group in grouped.a.volume_groups.values():
        group |= {"status": status, "looks": 3}
    assert prepare(grouped.here, "v").prepared.added == ["db-data"]


def test_a_group_that_is_of_no_use_is_not_called_prepared(grouped: World) -> None:
    grouped.a.events.clear()
    with_a_stranger(grouped.a)
    with pytest.raises(PreflightFailed, match="other"):
        prepare(grouped.here, "v")
    del grouped.a.volumes["other"]
    in_error(grouped.a)
    with pytest.raises(PreflightFailed, match="error"):
        prepare(grouped.here, "v")
    assert grouped.a.events == []


def test_a_group_of_a_type_that_cannot_be_seen_is_not_called_prepared(grouped: World) -> None:
    grouped.a.group_types.clear()
    with pytest.raises(ResourceFailed, match="does not promise"):
        prepare(grouped.here, "v")


def test_volume_types_that_are_not_listed_are_no_obstacle(world: World) -> None:
    """Cinder lists no private types to an administrator, and takes names."""
    world.a.snapshots_groups_at_once = True
    for volume in world.a.volumes.values():
        volume["volume_type"] = "private"
    prepare(world.here, "v")
    (group,) = world.a.volume_groups.values()
    assert group["volume_types"] == ["private"]


def test_a_new_group_that_takes_no_volume_is_deleted(world: World) -> None:
    """The scheduler may have put it on another host than the volumes."""
    world.a.snapshots_groups_at_once = True

    def not_local(event: str) -> None:
        if event.startswith("change volume group"):
            refuse(400, "Volume is not local to this node")

    world.a.before = not_local
    with pytest.raises(ApiError, match="not local"):
        prepare(world.here, "v")
    assert world.a.volume_groups == {}


def test_nothing_is_made_where_the_storage_cannot_do_it(world: World) -> None:
    world.a.events.clear()
    with pytest.raises(PreflightFailed, match=CAPABILITY):
        prepare(world.here, "v")
    assert world.a.events == []


def test_nothing_is_made_without_the_rights(world: World) -> None:
    world.a.snapshots_groups_at_once = True
    world.a.site.roles.remove("admin")
    world.a.events.clear()
    with pytest.raises(PreflightFailed, match="admin"):
        prepare(world.here, "v")
    assert world.a.events == []


def test_a_volume_in_a_group_of_others_stays_there(world: World) -> None:
    world.a.snapshots_groups_at_once = True
    world.a.volumes["db-data"]["group_id"] = "theirs"
    world.a.events.clear()
    with pytest.raises(PreflightFailed, match="theirs"):
        prepare(world.here, "v")
    assert world.a.events == []


def test_a_type_of_the_name_that_promises_nothing_is_not_used(world: World) -> None:
    world.a.snapshots_groups_at_once = True
    world.a.group_types["t"] = {"id": "t", "name": TYPE_NAME, "group_specs": {}}
    with pytest.raises(PreflightFailed, match="does not promise"):
        prepare(world.here, "v")
    assert world.a.volume_groups == {}


def test_only_captured_members_are_prepared(world: World) -> None:
    del world.a.volumes["db-data"]
    world.a.attachments["id-db"] = [
        a for a in world.a.attachments["id-db"] if a["volumeId"] != "db-data"
    ]
    world.here.vnfs.put(accepting(None, capture="standby"))
    world.a.snapshots_groups_at_once = True
    assert prepare(world.here, "v").prepared.added == ["front-root"]


def test_what_cinder_does_not_say_is_no_promise(
    grouped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied() -> Any:
        raise ApiError("site-a", "GET /scheduler-stats/get_pools", 403, "policy")

    site = grouped.here.site("site-a")
    monkeypatch.setattr(site.backends, "pools", denied)
    volumes = points.read(grouped.here.vault, "v").topology.volumes
    found = volume_groups.standing(site, volumes)
    assert found.group is None
    assert "unknown" in found.why_not


def test_a_user_who_may_not_list_groups_gets_single_snapshots(
    grouped: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied() -> Any:
        raise ApiError("site-a", "GET /groups/detail", 403, "policy")

    site = grouped.here.site("site-a")
    monkeypatch.setattr(site.groups, "groups", denied)
    volumes = points.read(grouped.here.vault, "v").topology.volumes
    assert volume_groups.standing(site, volumes).group is None


def test_the_parts_of_a_group_snapshot_are_read_from_the_first_pages_only() -> None:
    asked: list[str] = []

    def send(method: str, path: str, **_: Any) -> Reply:
        asked.append(path)
        number = len(asked)
        part: dict[str, Any] = {
            "id": f"s-{number}",
            "volume_id": f"v-{number}",
            "name": "",
            "status": "creating",
            "metadata": {},
            "group_snapshot_id": "g" if number < 3 else None,
        }
        following = [{"rel": "next", "href": f"http://site/v3/snapshots/detail?marker={number}"}]
        return Reply(200, {"snapshots": [part], "snapshots_links": following if number < 9 else []})

    groups = VolumeGroups(Api("site-a", "block-storage", send, (3, 70)))
    assert groups.parts("g", 1.0, 2) == {"v-1": "s-1", "v-2": "s-2"}
    assert len(asked) == 2
    asked.clear()
    assert groups.parts("g", 1.0) == {"v-1": "s-1", "v-2": "s-2"}
    assert len(asked) == 9
