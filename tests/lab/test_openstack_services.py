# SPDX-License-Identifier: Apache-2.0
"""What antipode needs of each site's OpenStack, asked of the real services as the user that
antipode logs in as.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from antipode.sandbox.members import TENANTS
from lab import inside
from lab.services import ceph, identity, mariadb
from lab.site import BACKUP_STORE, SITES, Site

pytestmark = pytest.mark.lab

PRIMARY = SITES["site-a"]
USER_DATA = "openstack-services-test"


@pytest.fixture(scope="module")
def cloud_a() -> Any:
    return identity.connect(PRIMARY, "antipode", "vnf")


@pytest.fixture(scope="module")
def boot_volume(cloud_a: Any) -> Iterator[Any]:
    image = cloud_a.image.find_image("canary", ignore_missing=False)
    volume = cloud_a.block_storage.create_volume(
        name="services-test", size=1, image_id=image.id, volume_type="fast"
    )
    yield cloud_a.block_storage.wait_for_status(volume, "available", wait=300)
    until(
        lambda: cloud_a.block_storage.get_volume(volume).status in ("available", "error"),
        "the volume is free",
        300,
    )
    cloud_a.block_storage.delete_volume(volume)
    cloud_a.block_storage.wait_for_delete(volume, wait=300)


@pytest.fixture(scope="module")
def server(cloud_a: Any, boot_volume: Any) -> Iterator[Any]:
    """Boots from the volume, has a config drive, and its agent answers."""
    server = cloud_a.compute.create_server(
        name="services-test",
        flavor_id=cloud_a.compute.find_flavor("tiny").id,
        networks=[{"uuid": cloud_a.network.find_network(TENANTS[PRIMARY.name].network).id}],
        block_device_mapping=[
            {
                "boot_index": 0,
                "uuid": boot_volume.id,
                "source_type": "volume",
                "destination_type": "volume",
            }
        ],
        config_drive=True,
        user_data=base64.b64encode(USER_DATA.encode()).decode(),
    )
    yield cloud_a.compute.wait_for_server(server, wait=300)
    cloud_a.compute.delete_server(server)
    cloud_a.compute.wait_for_delete(server, wait=300)


def until(holds: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.5)


def test_a_server_boots_from_a_volume_with_a_config_drive(cloud_a: Any, server: Any) -> None:
    assert server.status == "ACTIVE"
    assert server.has_config_drive
    domain = inside.run(PRIMARY, ["virsh", "dumpxml", _domain(server)]).stdout
    assert "device='cdrom'" in domain


def _domain(server: Any) -> str:
    names: list[str] = inside.run(PRIMARY, ["virsh", "list", "--name"]).stdout.split()
    return next(
        name
        for name in names
        if server.id in inside.run(PRIMARY, ["virsh", "dumpxml", name]).stdout
    )


def test_quiesce_freezes_the_guest_and_unquiesce_thaws_it(cloud_a: Any, server: Any) -> None:
    domain = _domain(server)

    def agent(command: str) -> str:
        return inside.run(
            PRIMARY,
            ["virsh", "qemu-agent-command", domain, f'{{"execute": "{command}"}}'],
            check=False,
        ).stdout

    until(lambda: "return" in agent("guest-ping"), "the guest's agent answers", 300)
    action = f"/servers/{server.id}/action"
    assert cloud_a.compute.post(action, json={"quiesce": {"timeout": 300}}).status_code == 202
    until(lambda: '"frozen"' in agent("guest-fsfreeze-status"), "the guest is frozen", 60)
    assert cloud_a.compute.post(action, json={"quiesce": None}).status_code == 409
    assert cloud_a.compute.post(action, json={"unquiesce": None}).status_code == 202
    until(lambda: '"thawed"' in agent("guest-fsfreeze-status"), "the guest is thawed", 60)


def test_the_image_of_a_server_that_boots_from_an_image_becomes_active(cloud_a: Any) -> None:
    server = cloud_a.compute.create_server(
        name="image-booted-test",
        image_id=cloud_a.image.find_image("canary", ignore_missing=False).id,
        flavor_id=cloud_a.compute.find_flavor("tiny").id,
        networks="none",
    )
    try:
        server = cloud_a.compute.wait_for_server(server, wait=300)
        image = cloud_a.compute.create_server_image(server, "image-booted-test")
        try:
            image = cloud_a.image.wait_for_status(image, "active", wait=300)
            content = cloud_a.image.download_image(image).content
            assert len(content) == image.size > 0
            assert hashlib.new(image.hash_algo, content).hexdigest() == image.hash_value
        finally:
            cloud_a.image.delete_image(image)
    finally:
        cloud_a.compute.delete_server(server)
        cloud_a.compute.wait_for_delete(server, wait=300)


@pytest.fixture(scope="module")
def backups(cloud_a: Any, boot_volume: Any) -> Iterator[list[Any]]:
    """A full and an incremental backup, each from a snapshot."""
    made, snapshots = [], []
    for number in range(2):
        name = f"services-test-{number}"
        snapshot = cloud_a.block_storage.create_snapshot(
            volume_id=boot_volume.id, name=name, is_forced=True
        )
        snapshots.append(settled(cloud_a.block_storage, snapshot))
        options = {"snapshot_id": snapshot.id, "is_incremental": number > 0, "force": True}
        backup = cloud_a.block_storage.create_backup(volume_id=boot_volume.id, name=name, **options)
        made.append(settled(cloud_a.block_storage, backup))
    yield made
    for backup in reversed(made):
        cloud_a.block_storage.delete_backup(backup)
        cloud_a.block_storage.wait_for_delete(backup, wait=300)
    for snapshot in snapshots:
        cloud_a.block_storage.delete_snapshot(snapshot)
        cloud_a.block_storage.wait_for_delete(snapshot, wait=300)


def settled(block_storage: Any, resource: Any) -> Any:
    return block_storage.wait_for_status(
        resource, "available", failures=["error"], interval=0.5, wait=300
    )


def test_a_full_and_an_incremental_backup_reach_the_store_of_the_other_site(
    cloud_a: Any, backups: list[Any]
) -> None:
    assert [cloud_a.block_storage.get_backup(backup).is_incremental for backup in backups] == [
        False,
        True,
    ]
    store = identity.connect(BACKUP_STORE, "backup", "backup").object_store
    names = [
        stored.name
        for stored in store.objects("volumebackups", prefix=f"volume_{backups[0].volume_id}")
    ]
    for backup in backups:
        assert any(f"backup_{backup.id}" in name for name in names), (backup.id, names)


def test_the_records_restore_the_volume_at_site_b(cloud_a: Any, backups: list[Any]) -> None:
    cloud_b = identity.connect(BACKUP_STORE, "antipode", "vnf").block_storage
    imported, restored = [], None
    try:
        for backup in backups:
            record = cloud_a.block_storage.get(f"/backups/{backup.id}/export_record").json()
            answer = cloud_b.post("/backups/import_record", json=record)
            assert answer.status_code == 201, answer.text
            imported.append(settled(cloud_b, cloud_b.get_backup(answer.json()["backup"]["id"])))
        body = {
            "volume": {
                "size": 1,
                "backup_id": imported[-1].id,
                "volume_type": "standard",
                "name": "services-test",
            }
        }
        answer = cloud_b.post("/volumes", json=body, microversion="3.47")
        assert answer.status_code == 202, answer.text
        restored = settled(cloud_b, cloud_b.get_volume(answer.json()["volume"]["id"]))
        source = checksum(PRIMARY, backups[0].volume_id)
        assert checksum(BACKUP_STORE, restored.id) == source
        assert restored.is_bootable
    finally:
        if restored:
            cloud_b.delete_volume(restored)
        forget(imported)


def checksum(site: Site, volume_id: str) -> str:
    return inside.run(
        site,
        [
            "sh",
            "-c",
            f"rbd --id {ceph.CLIENT} --no-progress export {ceph.POOL}/volume-{volume_id} - | "
            "sha256sum",
        ],
    ).stdout


def forget(imported: list[Any]) -> None:
    """Drop site-b's records without the objects, which site-a's own records still name; Cinder has
    no API for it.
    """
    for backup in imported:
        mariadb.execute(
            BACKUP_STORE,
            f"UPDATE cinder.backups SET deleted = 1, status = 'deleted' WHERE id = '{backup.id}'",
        )


@pytest.mark.core
def test_antipode_writes_to_the_object_store_in_the_tenants_project() -> None:
    store = identity.connect(BACKUP_STORE, "antipode", "vnf").object_store
    store.create_container("services-test")
    store.upload_object("services-test", "x", data=b"1")
    assert store.download_object("x", "services-test") == b"1"
    store.delete_object("x", container="services-test")
    store.delete_container("services-test")


@pytest.mark.core
def test_the_sites_give_the_same_things_different_names() -> None:
    for site in SITES.values():
        cloud = identity.connect(site, "antipode", "vnf")
        names = TENANTS[site.name]
        assert cloud.network.find_network(names.network)
        assert cloud.block_storage.find_type(names.volume_type)
        assert bool(cloud.image.find_image("canary")) == names.has_image
        assert cloud.network.find_security_group("canary")
