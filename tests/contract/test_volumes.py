# SPDX-License-Identifier: Apache-2.0
"""Cinder's volumes and snapshots, as antipode calls them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from antipode.cloud import answers
from antipode.cloud.backends import UnmanagedSnapshot, UnmanagedVolume
from antipode.cloud.site import Site
from antipode.errors import CounterpartRefused, SiteUnreachable
from antipode.model.marks import KEY, VOLUME
from antipode.model.reference import BackendReference
from antipode.recover.counterparts import counterpart
from antipode.sandbox.supervision import Sandbox
from tests.contract.conftest import (
    PATIENCE_S,
    PRIMARY,
    Machine,
    Things,
    refused,
    storage,
    there,
    until,
)

NOBODY = str(uuid.UUID(int=7))


def put_quota(site: Site, **limits: int) -> None:
    storage(site).call("PUT", f"/os-quota-sets/{site.project_id}", {"quota_set": limits})


def test_the_microversion_used_is_one_that_both_sides_know(site: Site) -> None:
    assert (3, 47) <= tuple(map(int, site.volumes.version.split("."))) <= (3, 70)


@pytest.mark.core
def test_a_volume_is_listed_with_all_that_is_needed_to_make_it_again(
    site: Site, things: Things
) -> None:
    volume = things.volume(volume_type="fast", metadata={"a": "b"}, description="words")
    assert (volume["size"], volume["volume_type"], volume["metadata"]) == (1, "fast", {"a": "b"})
    assert (volume["status"], volume["bootable"], volume["encrypted"], volume["multiattach"]) == (
        "available",
        "false",
        False,
        False,
    )
    assert (volume["description"], volume["availability_zone"]) == ("words", "nova")
    assert volume["attachments"] == []
    assert "volume_image_metadata" not in volume
    assert "@" in volume["os-vol-host-attr:host"]
    assert volume["os-vol-mig-status-attr:name_id"] is None
    listed = site.volumes.volume(volume["id"])
    assert listed is not None
    # Cinder writes which service has the volume after it shows the volume as available.
    settled = volume.keys() - {"service_uuid", "shared_targets", "updated_at"}
    assert {key: volume[key] for key in settled} == {key: listed[key] for key in settled}
    assert volume.keys() == listed.keys()


def test_a_volume_of_an_image_is_bootable_and_knows_its_agent(
    things: Things, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    assert volume["bootable"] == "true"
    about = volume["volume_image_metadata"]
    assert (about["image_id"], about["image_name"], about["hw_qemu_guest_agent"]) == (
        image["id"],
        image["name"],
        "yes",
    )


@pytest.mark.core
def test_volumes_are_found_by_their_metadata(site: Site, things: Things) -> None:
    key = uuid.uuid4().hex
    volume = things.volume(metadata={"antipode:key": key, "other": "x"})
    assert [v["id"] for v in site.volumes.volumes(**{"antipode:key": key})] == [volume["id"]]
    assert site.volumes.volumes(**{"antipode:key": "none"}) == []


@pytest.mark.core
def test_an_update_replaces_description_and_metadata(site: Site, things: Things) -> None:
    volume = things.volume(metadata={"old": "1"})
    site.volumes.update_volume(volume["id"], "", "new words", {"new": "2"})
    after = there(site.volumes.volume(volume["id"]))
    assert (after["description"], after["metadata"]) == ("new words", {"new": "2"})


def test_a_volume_can_be_made_bootable_and_given_image_metadata(site: Site, things: Things) -> None:
    volume = things.volume()
    site.volumes.set_bootable(volume["id"])
    site.volumes.set_image_metadata(volume["id"], {"hw_qemu_guest_agent": "yes"})
    site.volumes.set_image_metadata(volume["id"], {"os_require_quiesce": "yes"})
    after = there(site.volumes.volume(volume["id"]))
    assert after["bootable"] == "true"
    assert after["volume_image_metadata"] == {
        "hw_qemu_guest_agent": "yes",
        "os_require_quiesce": "yes",
    }


def test_a_volume_is_not_made_of_what_does_not_exist(site: Site) -> None:
    create = site.volumes.create_volume
    wanted = {"size": 1, "name": "never"}
    assert refused(lambda: create({**wanted, "volume_type": "no-such-type"})).status == 404
    zone = refused(lambda: create({**wanted, "availability_zone": "mars"}))
    assert (zone.status, zone.reason) == (400, "Availability zone 'mars' is invalid.")
    assert refused(lambda: create({**wanted, "size": 0})).status == 400
    assert refused(lambda: create({**wanted, "snapshot_id": NOBODY})).status == 404
    assert refused(lambda: create({**wanted, "backup_id": NOBODY})).status == 404
    assert refused(lambda: create({**wanted, "imageRef": NOBODY})).status == 400


def test_a_volume_that_is_in_use_or_has_snapshots_is_not_deleted(
    site: Site, things: Things, machine: Machine
) -> None:
    in_use = refused(lambda: site.volumes.delete_volume(machine.data["id"]))
    volume = things.volume()
    things.snapshot(volume["id"])
    with_snapshot = refused(lambda: site.volumes.delete_volume(volume["id"]))
    for error in (in_use, with_snapshot):
        assert error.status == 400
        assert error.reason.startswith(
            "Invalid volume: Volume status must be available or error or error_restoring or "
            "error_extending"
        )


def test_a_volume_that_is_not_there_is_none_and_its_deletion_is_fine(site: Site) -> None:
    assert site.volumes.volume(NOBODY) is None
    site.volumes.delete_volume(NOBODY)
    error = refused(lambda: storage(site).get(f"/volumes/{NOBODY}"))
    assert (
        error.reason == f"VolumeNotFound: Volume {NOBODY} could not be found."
        or error.reason == f"Volume {NOBODY} could not be found."
    )


def test_volumes_are_listed_page_by_page_newest_first(site: Site, things: Things) -> None:
    older = things.volume()
    until(
        lambda: datetime.now(UTC).isoformat()[:19] > older["created_at"][:19],
        "another second: Cinder's times are in whole ones",
    )
    newer = things.volume()
    pages = storage(site).pages("/volumes/detail", answers.VOLUMES, {"limit": 1})
    ids = [v["id"] for page in pages for v in page]
    assert ids.index(newer["id"]) < ids.index(older["id"])
    assert len(ids) == len(set(ids))


# ---- snapshots ----


def test_a_snapshot_of_a_volume_in_use_leaves_it_as_it_was(
    site: Site, things: Things, machine: Machine
) -> None:
    snapshot = things.snapshot(machine.data["id"], **{"antipode:key": "k"})
    assert (snapshot["volume_id"], snapshot["size"], snapshot["metadata"]) == (
        machine.data["id"],
        1,
        {"antipode:key": "k"},
    )
    assert there(site.volumes.volume(machine.data["id"]))["status"] == "in-use"
    assert snapshot["id"] in [s["id"] for s in site.volumes.snapshots()]


def test_metadata_of_a_snapshot_are_merged_and_say_nothing_of_the_volume(
    site: Site, things: Things
) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"], **{"antipode:key": "k"})
    site.volumes.merge_snapshot_metadata(snapshot["id"], {"antipode:tracked": "hlr"})
    [shown] = [s for s in site.volumes.snapshots() if s["id"] == snapshot["id"]]
    assert shown["metadata"] == {"antipode:key": "k", "antipode:tracked": "hlr"}
    found = site.volumes.volume(volume["id"])
    assert found is not None and "antipode:tracked" not in found["metadata"]
    refusal = refused(lambda: site.volumes.merge_snapshot_metadata(NOBODY, {"a": "b"}))
    assert refusal.status == 404


def test_a_snapshot_is_of_a_volume_that_exists(site: Site) -> None:
    assert refused(lambda: site.volumes.create_snapshot(NOBODY, "never", {}, 60)).status == 404


def test_a_snapshot_that_is_not_there_is_deleted_without_complaint(site: Site) -> None:
    site.volumes.delete_snapshot(NOBODY)


@pytest.mark.core
def test_a_volume_can_be_made_of_a_snapshot_and_is_as_large(things: Things) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"])
    assert things.volume(snapshot_id=snapshot["id"])["snapshot_id"] == snapshot["id"]


def test_a_volume_smaller_than_its_snapshot_is_refused(site: Site, things: Things) -> None:
    volume = things.volume(size=2)
    snapshot = things.snapshot(volume["id"])
    error = refused(lambda: site.volumes.create_volume({"size": 1, "snapshot_id": snapshot["id"]}))
    assert error.status == 400
    assert error.reason.startswith(
        "Invalid input received: Volume size '1'GB cannot be smaller than the snapshot size 2GB."
    )


# ---- types, zones, quotas ----


def test_types_and_zones_have_names(site: Site) -> None:
    assert "fast" in {t["name"] for t in site.volumes.types()}
    assert "nova" in site.volumes.availability_zones()


def test_quotas_tell_limit_and_use_also_of_each_type(site: Site, things: Things) -> None:
    before = site.volumes.quota(site.project_id)
    volume = things.volume(volume_type="fast")
    things.snapshot(volume["id"])
    after = site.volumes.quota(site.project_id)
    more = {name: after[name]["in_use"] - before[name]["in_use"] for name in before if name != "id"}
    assert {name: n for name, n in more.items() if n} == {
        "volumes": 1,
        "volumes_fast": 1,
        "snapshots": 1,
        "snapshots_fast": 1,
        "gigabytes": 2,
        "gigabytes_fast": 2,
    }
    assert set(after["volumes"]) >= {"limit", "in_use", "reserved"}


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        (
            "volumes",
            "VolumeLimitExceeded: Maximum number of volumes allowed ({limit}) exceeded for quota "
            "'volumes'.",
        ),
        (
            "gigabytes",
            "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed "
            "gigabytes quota. "
            "Requested 1G, quota is {limit}G and {limit}G has been consumed.",
        ),
    ],
)
def test_a_quota_that_is_exhausted_refuses_with_413_and_says_which(
    site: Site, things: Things, quota: str, reason: str
) -> None:
    things.volume()
    row = site.volumes.quota(site.project_id)[quota]
    try:
        put_quota(site, **{quota: row["in_use"]})
        error = refused(lambda: site.volumes.create_volume({"size": 1, "name": "never"}))
    finally:
        put_quota(site, **{quota: row["limit"]})
    assert (error.status, error.reason) == (413, reason.format(limit=row["in_use"]))


def test_the_quota_of_snapshots_refuses_with_413(site: Site, things: Things) -> None:
    volume = things.volume()
    row = site.volumes.quota(site.project_id)["snapshots"]
    try:
        put_quota(site, snapshots=row["in_use"])
        error = refused(lambda: site.volumes.create_snapshot(volume["id"], "never", {}, 60))
    finally:
        put_quota(site, snapshots=row["limit"])
    assert error.status == 413
    assert (
        error.reason
        == f"SnapshotLimitExceeded: Maximum number of snapshots allowed ({row['in_use']}) exceeded"
    )


# ---- groups ----


def test_the_snapshots_of_a_group_belong_to_its_snapshot_and_go_with_it(
    site: Site, things: Things
) -> None:
    api = storage(site)
    group_type = api.post(
        "/group_types", {"group_type": {"name": things.name(), "group_specs": {}}}
    )["group_type"]["id"]
    things.removals.append(lambda: api.delete(f"/group_types/{group_type}"))
    wanted = {
        "name": things.name(),
        "group_type": group_type,
        "volume_types": ["fast"],
        "availability_zone": "nova",
    }
    group = api.post("/groups", {"group": wanted})["group"]["id"]

    def remove_group() -> None:
        api.post(f"/groups/{group}/action", {"delete": {"delete-volumes": True}})
        until(lambda: api.find(f"/groups/{group}") is None, "the group is gone")

    things.removals.append(remove_group)
    until(
        lambda: api.get(f"/groups/{group}")["group"]["status"] == "available", "the group is there"
    )
    empty = refused(
        lambda: api.post(
            "/group_snapshots", {"group_snapshot": {"group_id": group, "name": "never"}}
        )
    )
    assert empty.status == 400
    volumes = [things.volume(volume_type="fast") for _ in range(2)]
    del things.removals[-2:]  # they go with their group
    ids = [v["id"] for v in volumes]
    api.call("PUT", f"/groups/{group}", {"group": {"add_volumes": ",".join(ids)}})
    until(
        lambda: {v["group_id"] for v in site.volumes.volumes() if v["id"] in ids} == {group},
        "the volumes are in the group",
    )
    taken = api.post(
        "/group_snapshots", {"group_snapshot": {"group_id": group, "name": things.name()}}
    )["group_snapshot"]["id"]
    until(
        lambda: api.get(f"/group_snapshots/{taken}")["group_snapshot"]["status"] == "available",
        "the group snapshot is there",
    )
    parts = [s for s in site.volumes.snapshots() if s.get("group_snapshot_id") == taken]
    assert {s["volume_id"] for s in parts} == set(ids)
    assert {s["status"] for s in parts} == {"available"}
    error = refused(lambda: site.volumes.delete_snapshot(parts[0]["id"]))
    assert (
        error.reason
        == "Invalid snapshot: Snapshot status must be available or error and must not be part of "
        "a group."
    )
    api.delete(f"/group_snapshots/{taken}")
    until(
        lambda: not [s for s in site.volumes.snapshots() if s.get("group_snapshot_id") == taken],
        "its snapshots are gone with it",
    )
    until(lambda: api.find(f"/group_snapshots/{taken}") is None, "the group snapshot is gone")


# ---- what a volume is really called ----


def attachment_of(site: Site, machine: Machine, volume: dict[str, Any]) -> dict[str, Any]:
    """The attachment of a machine's volume, by the id that Nova has of it (2.89)."""
    attached = site.compute.attachments(machine.server["id"])
    (found,) = [a for a in attached if a["volumeId"] == volume["id"]]
    shown: dict[str, Any] = storage(site).get(f"/attachments/{found['attachment_id']}")
    return dict(shown["attachment"])


@pytest.mark.core
def test_an_attachment_tells_what_the_storage_calls_its_volume(
    site: Site, machine: Machine
) -> None:
    attachment = attachment_of(site, machine, machine.data)
    assert (attachment["volume_id"], attachment["instance"]) == (
        machine.data["id"],
        machine.server["id"],
    )
    info = attachment["connection_info"]
    assert info["driver_volume_type"] == "rbd"
    assert info["name"].endswith(f"/volume-{machine.data['id']}")


@pytest.mark.core
def test_attachments_are_listed_with_the_connections_of_all_volumes_and_no_secrets(
    site: Site, tenant: Site, machine: Machine
) -> None:
    for user in (site, tenant):
        found = user.backends.connections([machine.root["id"], machine.data["id"]])
        assert {c.volume_id for c in found} == {machine.root["id"], machine.data["id"]}
        assert {c.server_id for c in found} == {machine.server["id"]}
        assert all(c.driver_volume_type == "rbd" for c in found)
        assert all(c.parts.keys() == {"name"} for c in found)


def test_attachments_are_listed_without_links_and_after_a_marker(
    site: Site, machine: Machine
) -> None:
    of_server: dict[str, Any] = {"instance_id": machine.server["id"]}
    first = storage(site).get("/attachments/detail", **of_server, limit=1)
    assert list(first) == ["attachments"]
    seen = [a["id"] for a in first["attachments"]]
    while page := storage(site).get("/attachments", **of_server, marker=seen[-1])["attachments"]:
        assert not {"connection_info"} & page[0].keys()
        seen += [a["id"] for a in page]
    attached = site.compute.attachments(machine.server["id"])
    assert sorted(seen) == sorted(a["attachment_id"] for a in attached)


def test_an_attachment_that_is_not_there_is_not_found(site: Site) -> None:
    assert refused(lambda: storage(site).get(f"/attachments/{NOBODY}")).status == 404


@pytest.mark.core
def test_the_scheduler_tells_which_storage_a_pool_is(site: Site, things: Things) -> None:
    host = things.volume()["os-vol-host-attr:host"]
    cluster, *_, pool = site.backends.locations()[host].split(":")
    assert (cluster, pool) == ("ceph", "volumes")


def test_only_administrators_see_pools_hosts_and_what_storages_hold(
    site: Site, tenant: Site, things: Things
) -> None:
    volume = things.volume()
    host = volume["os-vol-host-attr:host"]
    assert refused(tenant.backends.locations).status == 403
    assert refused(lambda: tenant.backends.manageable_volumes(host)).status == 403
    assert refused(lambda: tenant.backends.manageable_snapshots(host)).status == 403
    seen = there(tenant.volumes.volume(volume["id"]))
    assert not seen.keys() & {"os-vol-host-attr:host", "os-vol-mig-status-attr:name_id"}


@pytest.mark.core
def test_a_volume_that_is_retyped_or_renamed_keeps_its_real_name(
    site: Site, things: Things, machine: Machine
) -> None:
    specs = {"volume_backend_name": machine.data["os-vol-host-attr:host"].split("#")[1]}
    wanted = {"volume_type": {"name": things.name(), "extra_specs": specs}}
    kind = storage(site).post("/types", wanted)["volume_type"]
    path, before = f"/volumes/{machine.data['id']}/action", machine.data["volume_type"]

    def retype(name: str) -> None:
        storage(site).post(path, {"os-retype": {"new_type": name, "migration_policy": "never"}})
        until(lambda: shown()["volume_type"] == name, f"the volume is of type {name}")
        until(lambda: shown()["status"] == "in-use", "it is in use again")

    def shown() -> dict[str, Any]:
        return there(site.volumes.volume(machine.data["id"]))

    real = attachment_of(site, machine, machine.data)["connection_info"]["name"]
    try:
        retype(kind["name"])
        words = machine.data["description"], machine.data["metadata"]
        site.volumes.update_volume(machine.data["id"], "another name", *words)
        assert attachment_of(site, machine, machine.data)["connection_info"]["name"] == real
    finally:
        site.volumes.update_volume(machine.data["id"], machine.data["name"], *words)
        retype(before)
        storage(site).delete(f"/types/{kind['id']}")


# ---- what is managed ----


def unmanaged(site: Site, things: Things) -> tuple[str, str]:
    """What a back end holds and Cinder does not know: its host, and its real name."""
    volume_id = site.volumes.create_volume({"size": 1, "name": things.name()})
    volume = site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)[volume_id]
    site.backends.unmanage_volume(volume_id)
    site.volumes.watch.wait_gone([volume_id], timeout_s=PATIENCE_S)
    return volume["os-vol-host-attr:host"], f"volume-{volume_id}"


def managed(site: Site, things: Things, host: str, name: str) -> dict[str, Any]:
    """A volume that Cinder has taken over; found again by its key."""
    wanted = UnmanagedVolume(
        reference={"source-name": name},
        name=things.name(),
        metadata={KEY: uuid.uuid4().hex},
        host=host,
        volume_type="fast",
        bootable=True,
    )
    volume_id = site.backends.manage_volume(wanted)
    assert site.backends.manage_volume(wanted) == volume_id
    things.removals.append(lambda: things._remove_volume(volume_id))
    return site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)[volume_id]


def row_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    found = [r for r in rows if r["reference"] == {"source-name": name}]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.core
def test_a_volume_that_is_no_longer_managed_is_still_in_the_backend_and_can_be_managed_again(
    site: Site, things: Things
) -> None:
    host, name = unmanaged(site, things)
    row = there(row_of(site.backends.manageable_volumes(host), name))
    assert (row["safe_to_manage"], row["size"], row["cinder_id"]) == (True, 1, None)
    volume = managed(site, things, host, name)
    assert (volume["size"], volume["bootable"], volume["volume_type"]) == (1, "true", "fast")
    rows = site.backends.manageable_volumes(host)
    assert row_of(rows, name) is None
    row = there(row_of(rows, f"volume-{volume['id']}"))
    assert (row["safe_to_manage"], row["reason_not_safe"], row["cinder_id"]) == (
        False,
        "already managed",
        volume["id"],
    )


def test_a_copy_that_somebody_has_made_is_not_the_volume_that_is_managed(
    site: Site, things: Things
) -> None:
    host, name = unmanaged(site, things)
    wanted = UnmanagedVolume(
        reference={"source-name": name},
        name=things.name(),
        metadata={KEY: uuid.uuid4().hex},
        host=host,
    )
    marks = {**wanted.metadata, VOLUME: "another"}
    copied = site.volumes.create_volume({"size": 1, "name": things.name(), "metadata": marks})
    things.removals.append(lambda: things._remove_volume(copied))
    site.volumes.watch.wait_for([copied], timeout_s=PATIENCE_S)
    volume_id = site.backends.manage_volume(wanted)
    things.removals.append(lambda: things._remove_volume(volume_id))
    assert volume_id != copied
    site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)


def test_what_a_backend_holds_is_listed_page_by_page_without_links(
    site: Site, things: Things
) -> None:
    host, _ = unmanaged(site, things)
    other, name = unmanaged(site, things)
    managed(site, things, other, name)
    query: dict[str, Any] = {"host": host, "limit": 1, "sort": "reference:asc"}
    api = storage(site)
    pages = [
        api.get("/manageable_volumes/detail", **query, offset=begin)["manageable-volumes"]
        for begin in range(2)
    ]
    assert [len(page) for page in pages] == [1, 1]
    assert pages[0] != pages[1]
    after = json.dumps(pages[0][0]["reference"])
    marked = api.get("/manageable_volumes/detail", **query, marker=after)
    assert marked == {"manageable-volumes": pages[1]}
    short = api.get("/manageable_volumes", **query)["manageable-volumes"]
    assert short == [{k: pages[0][0][k] for k in ("reference", "size", "safe_to_manage")}]
    assert api.get("/manageable_volumes", host=host, offset=1 << 20)["manageable-volumes"] == []


def test_what_a_backend_holds_is_asked_of_one_that_exists(site: Site) -> None:
    assert refused(lambda: storage(site).get("/manageable_volumes/detail")).status == 400
    assert refused(lambda: site.backends.manageable_volumes("no@such#host")).status == 404
    wanted = UnmanagedVolume({"source-name": "x"}, "never", {KEY: "none"}, "no@such#host")
    assert refused(lambda: site.backends.manage_volume(wanted)).status == 400


def test_a_volume_that_is_known_is_not_managed_a_second_time(site: Site, things: Things) -> None:
    volume = things.volume()
    wanted = UnmanagedVolume(
        {"source-name": f"volume-{volume['id']}"},
        "never",
        {KEY: uuid.uuid4().hex},
        volume["os-vol-host-attr:host"],
    )
    error = refused(lambda: site.backends.manage_volume(wanted))
    assert error.status == 400
    assert "already managed" in error.reason


def test_a_volume_that_is_not_there_fails_to_be_managed_and_is_not_used_again(
    site: Site, things: Things
) -> None:
    host = things.volume()["os-vol-host-attr:host"]
    wanted = UnmanagedVolume(
        {"source-name": things.name()}, things.name(), {KEY: uuid.uuid4().hex}, host
    )
    failed = site.backends.manage_volume(wanted)

    def status() -> str:
        return str(there(site.volumes.volume(failed))["status"])

    until(lambda: status() == "error", "the volume has failed to be managed")
    again = site.backends.manage_volume(wanted)
    assert again != failed
    until(lambda: there(site.volumes.volume(again))["status"] == "error", "so has this")
    for volume_id in (failed, again):
        site.backends.unmanage_volume(volume_id)
        site.backends.unmanage_volume(volume_id)
    site.volumes.watch.wait_gone([failed, again], timeout_s=PATIENCE_S)


def test_to_forget_what_is_not_there_is_fine_and_what_is_in_use_is_refused(
    site: Site, machine: Machine
) -> None:
    site.backends.unmanage_volume(NOBODY)
    site.backends.unmanage_snapshot(NOBODY)
    assert refused(lambda: site.backends.unmanage_volume(machine.data["id"])).status == 400


@pytest.mark.core
def test_a_snapshot_moves_with_its_volume_and_is_managed_under_it_and_put_back(
    site: Site, things: Things
) -> None:
    volume_id = site.volumes.create_volume({"size": 1, "name": things.name()})
    volume = site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)[volume_id]
    host = volume["os-vol-host-attr:host"]
    snapshot_id = site.volumes.create_snapshot(volume_id, things.name(), {}, 60)
    site.volumes.snapshot_watch.wait_for([snapshot_id], timeout_s=PATIENCE_S)
    assert refused(lambda: site.backends.unmanage_volume(volume_id)).status == 400
    row = there(row_of(site.backends.manageable_snapshots(host), f"snapshot-{snapshot_id}"))
    assert (row["cinder_id"], row["safe_to_manage"]) == (snapshot_id, False)
    site.backends.unmanage_snapshot(snapshot_id)
    site.volumes.snapshot_watch.wait_gone([snapshot_id], timeout_s=PATIENCE_S)
    site.backends.unmanage_volume(volume_id)
    site.volumes.watch.wait_gone([volume_id], timeout_s=PATIENCE_S)

    taken = managed(site, things, host, f"volume-{volume_id}")
    row = there(row_of(site.backends.manageable_snapshots(host), f"snapshot-{snapshot_id}"))
    assert (row["cinder_id"], row["safe_to_manage"], row["source_reference"]) == (
        None,
        True,
        {"source-name": f"volume-{taken['id']}"},
    )
    assert refused(lambda: site.volumes.revert_to_snapshot(taken["id"], NOBODY)).status == 400
    wanted = UnmanagedSnapshot(
        row["reference"], things.name(), {KEY: uuid.uuid4().hex}, taken["id"]
    )
    snapshot = site.backends.manage_snapshot(wanted)
    assert site.backends.manage_snapshot(wanted) == snapshot
    things.removals.append(lambda: things._remove_snapshot(snapshot))
    site.volumes.snapshot_watch.wait_for([snapshot], timeout_s=PATIENCE_S)
    rows = site.backends.manageable_snapshots(host)
    assert row_of(rows, f"snapshot-{snapshot_id}") is None
    assert there(row_of(rows, f"snapshot-{snapshot}"))["cinder_id"] == snapshot

    site.volumes.revert_to_snapshot(taken["id"], snapshot)
    site.volumes.watch.wait_for([taken["id"]], timeout_s=PATIENCE_S)
    site.volumes.snapshot_watch.wait_for([snapshot], timeout_s=PATIENCE_S)


def test_a_snapshot_that_is_not_there_fails_to_be_managed(site: Site, things: Things) -> None:
    volume = things.volume()
    missing = {"source-name": things.name()}
    wanted = UnmanagedSnapshot(missing, things.name(), {KEY: uuid.uuid4().hex}, volume["id"])
    failed = site.backends.manage_snapshot(wanted)
    things.removals.append(lambda: things._remove_snapshot(failed))
    listed = site.volumes.snapshots
    until(lambda: {"error"} == {s["status"] for s in listed() if s["id"] == failed}, "it failed")


def test_only_the_newest_snapshot_is_put_back_and_only_where_nothing_uses_the_volume(
    site: Site, things: Things, machine: Machine
) -> None:
    volume = things.volume()
    assert refused(lambda: site.volumes.revert_to_snapshot(volume["id"], NOBODY)).status == 400
    older = things.snapshot(volume["id"])
    until(
        lambda: datetime.now(UTC).isoformat()[:19] > older["created_at"][:19],
        "another second: Cinder's times are in whole ones",
    )
    things.snapshot(volume["id"])
    assert refused(lambda: site.volumes.revert_to_snapshot(volume["id"], older["id"])).status == 400
    in_use = things.snapshot(machine.data["id"])
    error = refused(lambda: site.volumes.revert_to_snapshot(machine.data["id"], in_use["id"]))
    assert error.status == 409


# ---- what only the embedded sites can be made to do ----


@pytest.fixture
def embedded(sandbox: Sandbox | None) -> Sandbox:
    """tests/lab/test_real_references.py has the same of real sites, as far as they can."""
    return sandbox or pytest.skip("needs the control API of the embedded sites")


def test_the_data_of_a_volume_that_was_migrated_is_listed_as_unmanaged_and_never_managed(
    embedded: Sandbox, site: Site, things: Things
) -> None:
    volume = things.volume()
    host = volume["os-vol-host-attr:host"]
    moved = embedded.ask(PRIMARY, "POST", f"/volumes/{volume['id']}/migrate")["name_id"]
    assert there(site.volumes.volume(volume["id"]))["os-vol-mig-status-attr:name_id"] == moved
    rows = site.backends.manageable_volumes(host)
    row = there(row_of(rows, f"volume-{moved}"))
    assert (row["safe_to_manage"], row["cinder_id"]) == (True, None)
    assert row_of(rows, f"volume-{volume['id']}") is None
    with pytest.raises(CounterpartRefused) as error:
        counterpart(site, host, BackendReference(name=f"volume-{moved}"), 1)
    assert volume["id"] in str(error.value)


def test_a_call_to_manage_whose_answer_is_lost_makes_one_volume(
    embedded: Sandbox, site: Site, things: Things
) -> None:
    host, name = unmanaged(site, things)
    lost = {"on": "POST /v3/manageable_volumes", "effect": "lost"}
    rule = embedded.ask(PRIMARY, "POST", "/faults", lost)["id"]
    marked = {KEY: uuid.uuid4().hex}
    wanted = UnmanagedVolume({"source-name": name}, things.name(), marked, host)
    with pytest.raises(SiteUnreachable):
        site.backends.manage_volume(wanted)
    embedded.ask(PRIMARY, "DELETE", f"/faults/{rule}")
    volume_id = site.backends.manage_volume(wanted)
    things.removals.append(lambda: things._remove_volume(volume_id))
    site.volumes.watch.wait_for([volume_id], timeout_s=PATIENCE_S)
    assert [v["id"] for v in site.volumes.volumes(**marked)] == [volume_id]
