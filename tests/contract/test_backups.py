# SPDX-License-Identifier: Apache-2.0
"""Cinder's backups, their records, and volumes made of them at the other site, as antipode calls
them.
"""

from __future__ import annotations

import base64
import json
import uuid
from contextlib import AbstractContextManager
from typing import Any

import pytest

from antipode.cloud.backups import read_record
from antipode.cloud.site import Site
from antipode.model.source import BackupRecord
from antipode.recover.sources import backup as backups_of_recovery
from antipode.vault.verify import stored_objects
from tests.contract.conftest import (
    CONTAINER,
    PATIENCE_S,
    Machine,
    Things,
    refused,
    storage,
    there,
    until,
)

NOBODY = str(uuid.UUID(int=7))


def record_of(site: Site, backup: dict[str, Any]) -> BackupRecord:
    service, url = site.backups.export_record(backup["id"])
    return BackupRecord(
        id=backup["id"],
        volume_id=backup["volume_id"],
        parent_id=read_record(url).get("parent_id"),
        size_gib=backup["size"],
        object_count=backup["object_count"],
        container=backup["container"],
        created_at=backup["created_at"],
        service=service,
        url=url,
    )


def backup_of(things: Things, volume_id: str, *, incremental: bool = False) -> dict[str, Any]:
    return things.backup(
        volume_id,
        things.snapshot(volume_id)["id"],
        incremental=incremental,
        **{"antipode:key": "k"},
    )


# ---- making backups ----


def test_a_backup_of_a_snapshot_leaves_the_volume_as_it_was(
    site: Site, things: Things, machine: Machine
) -> None:
    backup = backup_of(things, machine.data["id"])
    assert (backup["volume_id"], backup["size"], backup["container"]) == (
        machine.data["id"],
        1,
        CONTAINER,
    )
    assert (backup["is_incremental"], backup["metadata"], backup["fail_reason"]) == (
        False,
        {"antipode:key": "k"},
        None,
    )
    assert backup["object_count"] > 0
    assert there(site.volumes.volume(machine.data["id"]))["status"] == "in-use"


def test_the_data_of_a_backup_is_as_old_as_its_snapshot(things: Things) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"])
    backup = things.backup(volume["id"], snapshot["id"])
    assert backup["data_timestamp"] == snapshot["created_at"]
    assert backup["snapshot_id"] == snapshot["id"]


def test_a_snapshot_is_busy_while_it_is_backed_up_and_available_again_after_it(
    site: Site, things: Things, backups_under_way: AbstractContextManager[None]
) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"])
    with backups_under_way:
        backup_id = site.backups.create_backup(
            volume["id"], snapshot["id"], things.name(), {}, incremental=False
        )
        things.removals.append(lambda: things.remove_backup(backup_id))
        assert (
            storage(site).get(f"/snapshots/{snapshot['id']}")["snapshot"]["status"] == "backing-up"
        )
        error = refused(lambda: site.volumes.delete_snapshot(snapshot["id"]))
    assert error.status == 400
    assert (
        error.reason
        == "Invalid snapshot: Snapshot status must be available or error and must not be part of "
        "a group."
    )
    site.backups.watch.wait_for([backup_id], timeout_s=300)
    until(
        lambda: (
            storage(site).get(f"/snapshots/{snapshot['id']}")["snapshot"]["status"] == "available"
        ),
        "the snapshot is free",
    )


@pytest.mark.core
def test_an_increment_rests_on_the_newest_backup_of_its_volume(site: Site, things: Things) -> None:
    volume = things.volume()
    first = backup_of(things, volume["id"])
    second = backup_of(things, volume["id"], incremental=True)
    third = backup_of(things, volume["id"], incremental=True)
    assert [b["is_incremental"] for b in (first, second, third)] == [False, True, True]
    parents = [
        read_record(site.backups.export_record(b["id"])[1])["parent_id"]
        for b in (first, second, third)
    ]
    assert parents == [None, first["id"], second["id"]]
    listed = {b["id"]: b for b in site.backups.backups()}
    assert [listed[b["id"]]["has_dependent_backups"] for b in (first, second, third)] == [
        True,
        True,
        False,
    ]


def test_an_increment_of_an_unchanged_volume_has_no_data(
    things: Things, site: Site, image: dict[str, Any]
) -> None:
    volume = things.volume(imageRef=image["id"])
    first = backup_of(things, volume["id"])
    second = backup_of(things, volume["id"], incremental=True)
    assert first["object_count"] > 0
    assert second["object_count"] == 0


def test_a_first_backup_cannot_be_an_increment(site: Site, things: Things) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"])
    error = refused(
        lambda: site.backups.create_backup(
            volume["id"], snapshot["id"], "never", {}, incremental=True
        )
    )
    assert (error.status, error.reason) == (
        400,
        "Invalid backup: No backups available to do an incremental backup.",
    )


def test_a_backup_is_of_a_snapshot_of_its_volume(site: Site, things: Things) -> None:
    one, other = things.volume(), things.volume()
    snapshot = things.snapshot(other["id"])
    assert (
        refused(
            lambda: site.backups.create_backup(
                one["id"], snapshot["id"], "never", {}, incremental=False
            )
        ).status
        == 400
    )
    assert (
        refused(
            lambda: site.backups.create_backup(one["id"], NOBODY, "never", {}, incremental=False)
        ).status
        == 404
    )
    assert (
        refused(
            lambda: site.backups.create_backup(
                NOBODY, snapshot["id"], "never", {}, incremental=False
            )
        ).status
        == 404
    )


def test_a_backup_on_which_an_increment_rests_is_not_deleted(site: Site, things: Things) -> None:
    volume = things.volume()
    base = backup_of(things, volume["id"])
    backup_of(things, volume["id"], incremental=True)
    error = refused(lambda: site.backups.delete_backup(base["id"]))
    assert (error.status, error.reason) == (
        400,
        "Invalid backup: Incremental backups exist for this backup.",
    )


def test_a_backup_that_is_not_there_is_deleted_without_complaint(site: Site) -> None:
    site.backups.delete_backup(NOBODY)


def test_the_quota_of_backups_refuses_with_413(site: Site, things: Things) -> None:
    volume = things.volume()
    snapshot = things.snapshot(volume["id"])
    row = site.volumes.quota(site.project_id)["backups"]
    path = f"/os-quota-sets/{site.project_id}"
    try:
        storage(site).call("PUT", path, {"quota_set": {"backups": row["in_use"]}})
        error = refused(
            lambda: site.backups.create_backup(
                volume["id"], snapshot["id"], "never", {}, incremental=False
            )
        )
    finally:
        storage(site).call("PUT", path, {"quota_set": {"backups": row["limit"]}})
    assert error.status == 413
    assert (
        error.reason
        == f"BackupLimitExceeded: Maximum number of backups allowed ({row['in_use']}) exceeded"
    )


# ---- what is in the store ----


def test_the_store_holds_a_backup_as_the_chunked_driver_lays_it_out(
    site: Site, things: Things, store: Any
) -> None:
    volume = things.volume()
    backup = backup_of(things, volume["id"])
    record = record_of(site, backup)
    found = stored_objects(record, store)
    assert found.objects == backup["object_count"] + 2
    assert found.prefix.startswith(f"volume_{volume['id']}/")
    document = json.loads(store.get(CONTAINER, f"{found.prefix}_metadata"))
    assert (document["backup_id"], document["volume_id"], document["parent_id"]) == (
        backup["id"],
        volume["id"],
        None,
    )
    parts = [part for entry in document["objects"] for part in entry.values()]
    assert set(parts[0]) == {"offset", "length", "compression", "md5"}
    assert sum(part["length"] for part in parts) == 1 << 30
    digests = json.loads(store.get(CONTAINER, f"{found.prefix}_sha256file"))
    assert len(digests["sha256s"]) * digests["chunk_size"] == 1 << 30


def test_a_deleted_backup_leaves_nothing_in_the_store(
    site: Site, things: Things, store: Any
) -> None:
    volume = things.volume()
    backup = backup_of(things, volume["id"])
    prefix = stored_objects(record_of(site, backup), store).prefix
    things.remove_backup(backup["id"])
    assert store.listing(CONTAINER, prefix) == []


# ---- records, and the other site ----


def test_a_record_tells_what_the_backup_is(site: Site, things: Things) -> None:
    volume = things.volume()
    backup = backup_of(things, volume["id"])
    service, url = site.backups.export_record(backup["id"])
    fields = read_record(url)
    assert service == "cinder.backup.drivers.swift.SwiftBackupDriver"
    assert (fields["id"], fields["volume_id"], fields["parent_id"], fields["size"]) == (
        backup["id"],
        volume["id"],
        None,
        1,
    )
    assert (fields["container"], fields["object_count"]) == (CONTAINER, backup["object_count"])
    assert fields["service_metadata"].endswith(f"_backup_{backup['id']}")


def test_only_an_administrator_exchanges_records(site: Site, tenant: Site, things: Things) -> None:
    backup = backup_of(things, things.volume()["id"])
    assert site.backups.may_exchange_records()
    assert not tenant.backups.may_exchange_records()
    assert refused(lambda: tenant.backups.export_record(backup["id"])).status == 403
    no_record, no_base64 = base64.b64encode(b"no record").decode(), "x"
    assert refused(lambda: tenant.backups.import_record("antipode", no_record)).status == 403
    assert refused(lambda: tenant.backups.import_record("antipode", no_base64)).status == 400, (
        "the body is looked at before the rights"
    )


def test_a_record_is_not_imported_where_the_backup_is_known(site: Site, things: Things) -> None:
    backup = backup_of(things, things.volume()["id"])
    error = refused(lambda: site.backups.import_record(*site.backups.export_record(backup["id"])))
    assert (error.status, error.reason) == (
        400,
        "Invalid backup: Backup already exists in database.",
    )


@pytest.mark.parametrize(
    "content", [b"not json", json.dumps({"size": 1}).encode(), json.dumps({"id": NOBODY}).encode()]
)
def test_what_is_no_record_is_refused_with_400(site: Site, content: bytes) -> None:
    url = base64.b64encode(content).decode()
    assert (
        refused(
            lambda: site.backups.import_record("cinder.backup.drivers.swift.SwiftBackupDriver", url)
        ).status
        == 400
    )


@pytest.mark.core
def test_a_chain_is_known_restored_and_forgotten_at_the_other_site(
    site: Site, other_site: Site, things: Things, other_things: Things, image: dict[str, Any]
) -> None:
    volume = things.volume(
        imageRef=image["id"], metadata={"of": "the primary"}, description="there"
    )
    base = backup_of(things, volume["id"])
    increment = backup_of(things, volume["id"], incremental=True)
    for backup in (base, increment):
        other_site.backups.import_record(*site.backups.export_record(backup["id"]))
    there = other_site.backups.watch.wait_for([base["id"], increment["id"]], timeout_s=PATIENCE_S)
    assert {b["volume_id"] for b in there.values()} == {volume["id"]}
    assert there[increment["id"]]["is_incremental"]
    assert there[base["id"]]["object_count"] == base["object_count"]

    wanted = {
        "size": 1,
        "backup_id": increment["id"],
        "name": other_things.name(),
        "description": "key",
        "volume_type": "standard",
    }
    restored = other_things.volume(**wanted, metadata={"antipode:key": "k"})
    assert (restored["size"], restored["volume_type"]) == (1, "standard")
    assert (restored["name"], restored["description"]) == (wanted["name"], "key")
    assert restored["metadata"]["of"] == "the primary"
    assert restored["metadata"]["src_backup_id"] == increment["id"]
    assert restored["bootable"] == "true"
    assert restored["volume_image_metadata"]["hw_qemu_guest_agent"] == "yes"
    # as they were, though they are not new
    other_site.backups.watch.wait_for([base["id"], increment["id"]], timeout_s=PATIENCE_S)

    # The objects go with the other site's backups; the primary's own deletion, when this test is
    # over, does not mind.
    other_things.remove_backup(increment["id"])
    other_things.remove_backup(base["id"])


def test_a_backup_is_restored_into_one_volume_at_a_time(site: Site, things: Things) -> None:
    backup = backup_of(things, things.volume(metadata={"of": "the source"}, description="d")["id"])
    blank, other = (
        things.volume(metadata={"antipode:blank": backup["id"]}, description="key")
        for _ in range(2)
    )
    site.backups.restore_into(backup["id"], blank["id"])
    assert there(site.volumes.volume(blank["id"]))["status"] != "available", "before it answers"
    error = refused(lambda: site.backups.restore_into(backup["id"], other["id"]))
    assert error.status == 400
    assert error.reason == "Invalid backup: Backup status must be available"
    wanted = {"size": 1, "name": things.name(), "backup_id": backup["id"]}
    error = refused(lambda: site.volumes.create_volume(wanted))
    assert error.status == 400
    assert backups_of_recovery.TAKEN.search(error.reason)
    restored = site.volumes.watch.wait_for([blank["id"]], timeout_s=PATIENCE_S)[blank["id"]]
    assert restored["description"] == "key", "its own name keeps it"
    assert restored["metadata"]["of"] == "the source"
    assert "antipode:blank" not in restored["metadata"]
    assert restored["metadata"]["src_backup_id"] == backup["id"]
    site.backups.watch.wait_for([backup["id"]], timeout_s=PATIENCE_S)
    assert there(site.volumes.volume(other["id"]))["metadata"] == other["metadata"]


def test_a_restored_volume_without_metadata_of_its_backup_keeps_its_own_beside_the_backup(
    site: Site, things: Things
) -> None:
    backup = backup_of(things, things.volume()["id"])
    blank = things.volume(metadata={"antipode:blank": backup["id"]})
    site.backups.restore_into(backup["id"], blank["id"])
    restored = site.volumes.watch.wait_for([blank["id"]], timeout_s=PATIENCE_S)[blank["id"]]
    assert restored["metadata"] == {
        "antipode:blank": backup["id"],
        "src_backup_id": backup["id"],
    }
    site.backups.watch.wait_for([backup["id"]], timeout_s=PATIENCE_S)


def test_a_backup_of_a_volume_itself_is_full(site: Site, things: Things) -> None:
    volume = things.volume()
    made = site.backups.create_backup(volume["id"], None, things.name(), {}, incremental=False)
    things.removals.append(lambda: things.remove_backup(made))
    shown = site.backups.watch.wait_for([made], timeout_s=PATIENCE_S)[made]
    assert (shown["is_incremental"], shown["snapshot_id"]) == (False, None)
    until(
        lambda: there(site.volumes.volume(volume["id"]))["status"] == "available",
        "the volume is free",
    )


def test_a_volume_smaller_than_its_backup_is_refused(site: Site, things: Things) -> None:
    backup = backup_of(things, things.volume(size=2)["id"])
    error = refused(
        lambda: site.volumes.create_volume({"size": 1, "backup_id": backup["id"], "name": "never"})
    )
    assert error.status == 400
    assert error.reason.startswith(
        "Invalid input received: Volume size 1GB cannot be smaller than the backup size 2GB."
    )


def test_cinder_backup_is_up(site: Site, tenant: Site) -> None:
    assert site.backups.services_up()
    assert {
        (s["binary"], s["state"], s["status"]) for s in site.volumes.services("cinder-volume")
    } == {("cinder-volume", "up", "enabled")}
    assert refused(lambda: tenant.backups.services_up()).status == 403
