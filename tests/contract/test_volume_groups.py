# SPDX-License-Identifier: Apache-2.0
"""Cinder's volume groups as antipode uses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import key_said, maker_in, words
from antipode.protect import volume_groups
from antipode.protect.volume_groups import CAPABILITY, PROMISE
from antipode.sandbox.supervision import Sandbox
from tests.contract.conftest import PATIENCE_S, PRIMARY, Things, refused, storage, until


@pytest.fixture
def group_type(site: Site, things: Things) -> str:
    """One that promises snapshots at one moment."""
    kind = site.groups.create_type(things.name(), {CAPABILITY: PROMISE})
    things.removals.append(lambda: storage(site).delete(f"/group_types/{kind}"))
    return kind


@pytest.fixture
def new_group(site: Site, things: Things, group_type: str) -> Callable[[], str]:
    def make() -> str:
        types = {t["name"]: t["id"] for t in site.volumes.types()}
        return things.group(group_type, types["fast"])

    return make


@pytest.fixture
def group(new_group: Callable[[], str]) -> str:
    return new_group()


def volumes_in(site: Site, things: Things, group: str, how_many: int = 2) -> list[dict[str, Any]]:
    """Volumes that were put into a group, and go with it."""
    volumes = [things.volume(volume_type="fast") for _ in range(how_many)]
    del things.removals[-how_many:]
    site.groups.add_volumes(group, [v["id"] for v in volumes])
    site.groups.watch.wait_for([group], timeout_s=PATIENCE_S)
    return volumes


def test_a_group_type_shows_what_it_promises_to_administrators_only(
    site: Site, tenant: Site, group_type: str
) -> None:
    (shown,) = [t for t in site.groups.types() if t["id"] == group_type]
    assert volume_groups.promises(shown)
    (hidden,) = [t for t in tenant.groups.types() if t["id"] == group_type]
    assert not volume_groups.promises(hidden)


def test_a_group_type_is_made_by_administrators_only(tenant: Site, things: Things) -> None:
    assert refused(lambda: tenant.groups.create_type(things.name(), {})).status == 403


def test_volumes_are_in_their_group_once_it_is_available_again(
    site: Site, things: Things, group: str
) -> None:
    volumes = volumes_in(site, things, group)
    found = {v["id"]: v.get("group_id") for v in site.volumes.volumes()}
    assert {found[v["id"]] for v in volumes} == {group}


def test_a_volume_is_in_one_group_at_most(
    site: Site, things: Things, new_group: Callable[[], str]
) -> None:
    first, second = new_group(), new_group()
    (volume,) = volumes_in(site, things, first, 1)
    assert refused(lambda: site.groups.add_volumes(second, [volume["id"]])).status == 400


def test_a_group_takes_volumes_of_its_types_only(site: Site, things: Things, group: str) -> None:
    other = next((t["name"] for t in site.volumes.types() if t["name"] != "fast"), None)
    if other is None:
        pytest.skip("the site has one volume type")
    volume = things.volume(volume_type=other)
    assert refused(lambda: site.groups.add_volumes(group, [volume["id"]])).status == 400


def test_a_volume_leaves_its_group_and_can_be_deleted_then(
    site: Site, things: Things, group: str
) -> None:
    (volume,) = volumes_in(site, things, group, 1)
    assert refused(lambda: site.volumes.delete_volume(volume["id"])).status == 400
    site.groups.remove_volumes(group, [volume["id"]])
    site.groups.watch.wait_for([group], timeout_s=PATIENCE_S)
    site.volumes.delete_volume(volume["id"])
    site.volumes.watch.wait_gone([volume["id"]], timeout_s=PATIENCE_S)


def test_the_parts_of_a_group_snapshot_are_known_at_once_and_carry_its_marks(
    site: Site, things: Things, group: str
) -> None:
    volumes = volumes_in(site, things, group)
    described = words("protect-1", "key-1")
    taken = site.groups.create_snapshot(group, things.name(), described, 60)
    parts = site.groups.parts(taken, 60)
    assert set(parts) == {v["id"] for v in volumes}
    found = site.volumes.snapshot_watch.wait_for(list(parts.values()), timeout_s=PATIENCE_S)
    for part in found.values():
        assert part["group_snapshot_id"] == taken
        assert maker_in(part.get("description")) == "protect-1"
        assert key_said(part.get("description")) == "key-1"
        assert part["metadata"] == {}
        assert refused(partial(site.volumes.delete_snapshot, part["id"])).status == 400
    site.groups.snapshot_watch.wait_for([taken], timeout_s=PATIENCE_S)
    site.groups.delete_snapshot(taken)
    site.volumes.snapshot_watch.wait_gone(list(parts.values()), timeout_s=PATIENCE_S)
    until(
        lambda: storage(site).find(f"/group_snapshots/{taken}") is None,
        "the group snapshot is gone",
    )
    site.groups.delete_snapshot(taken)  # which is fine


def test_a_group_snapshot_that_cannot_be_deleted_is_in_an_error_and_can_be_asked_again(
    sandbox: Sandbox | None, site: Site, things: Things, group: str
) -> None:
    if sandbox is None:
        pytest.skip("no driver of the lab fails to delete a snapshot")
    volumes_in(site, things, group)
    taken = site.groups.create_snapshot(group, things.name(), "", 60)
    parts = site.groups.parts(taken, 60)
    site.groups.snapshot_watch.wait_for([taken], timeout_s=PATIENCE_S)
    failing = {"on": r"^snapshot\.delete$", "effect": "error", "times": None}
    rule = sandbox.ask(PRIMARY, "POST", "/faults", failing)["id"]
    try:
        site.groups.delete_snapshot(taken)
        with pytest.raises(ResourceFailed, match="group snapshot"):
            site.groups.snapshot_watch.wait_gone([taken], timeout_s=PATIENCE_S)
    finally:
        sandbox.ask(PRIMARY, "DELETE", f"/faults/{rule}")
    found = {s["id"]: s["status"] for s in site.volumes.snapshots()}
    assert {found[part] for part in parts.values()} == {"error"}
    site.groups.delete_snapshot(taken)
    site.groups.snapshot_watch.wait_gone([taken], timeout_s=PATIENCE_S)
    assert not set(parts.values()) & {s["id"] for s in site.volumes.snapshots()}


def test_an_empty_group_can_be_deleted_and_no_other(
    site: Site, things: Things, new_group: Callable[[], str]
) -> None:
    group = new_group()
    volumes_in(site, things, group, 1)
    assert refused(lambda: site.groups.delete(group)).status == 400
    empty = new_group()
    del things.removals[-1]
    site.groups.delete(empty)
    until(lambda: empty not in {g["id"] for g in site.groups.groups()}, "it is gone")
    site.groups.delete(empty)  # which is fine


def test_a_part_of_a_group_snapshot_can_be_backed_up(
    site: Site, things: Things, group: str
) -> None:
    (volume,) = volumes_in(site, things, group, 1)
    taken = site.groups.create_snapshot(group, things.name(), "", 60)
    (part,) = site.groups.parts(taken, 60).values()
    site.volumes.snapshot_watch.wait_for([part], timeout_s=PATIENCE_S)
    backup = things.backup(volume["id"], part)
    assert backup["snapshot_id"] == part
    site.groups.snapshot_watch.wait_for([taken], timeout_s=PATIENCE_S)
    site.groups.delete_snapshot(taken)
    site.volumes.snapshot_watch.wait_gone([part], timeout_s=PATIENCE_S)


def test_a_driver_without_group_snapshots_reports_nothing(site: Site, things: Things) -> None:
    """Cinder takes a snapshot of such a group all the same, one volume after another."""
    volume = things.volume(volume_type="fast")
    (listed,) = [v for v in site.volumes.volumes() if v["id"] == volume["id"]]
    assert CAPABILITY in volume_groups.unable(site, [listed])


def test_a_back_end_that_can_do_it_says_so(
    sandbox: Sandbox | None, site: Site, things: Things
) -> None:
    if sandbox is None:
        pytest.skip("no driver of the lab snapshots groups at one moment")
    volume = things.volume(volume_type="fast")
    sandbox.ask(PRIMARY, "PUT", "/conditions", {"consistent_groups": True})
    try:
        (listed,) = [v for v in site.volumes.volumes() if v["id"] == volume["id"]]
        assert volume_groups.unable(site, [listed]) == ""
    finally:
        sandbox.ask(PRIMARY, "PUT", "/conditions", {"consistent_groups": False})
