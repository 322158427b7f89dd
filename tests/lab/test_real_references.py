# SPDX-License-Identifier: Apache-2.0
"""What Ceph really calls volumes of real Cinder: managed, renamed and migrated ones, and what is
done with an image that Cinder lists as unmanaged and that is the data of a volume.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.cloud.backends import UnmanagedVolume
from antipode.cloud.site import Site as Cloud
from antipode.cloud.site import connect
from antipode.errors import CounterpartRefused
from antipode.model.marks import KEY
from antipode.model.reference import BackendReference
from antipode.recover.counterparts import counterpart
from lab import clouds, inside
from lab.desk import EXAMPLE, Desk
from lab.services import mariadb
from lab.services.ceph import POOL
from lab.site import Site

pytestmark = pytest.mark.lab
PATIENCE_S = 300.0
CONNECTOR = {"host": "nobody", "ip": "192.0.2.1", "initiator": "iqn.2001-01.example:x"}

Json = dict[str, Any]


@pytest.fixture
def cloud(site_a: Site, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds.PATH))
    return connect(site_a.name, site_a.name)


def images(site: Site) -> set[str]:
    """What Ceph has, asked beside Cinder."""
    return set(inside.run(site, ["rbd", "--pool", POOL, "ls"]).stdout.split())


def available(cloud: Cloud, volume: str) -> Json:
    found: Json = cloud.volumes.watch.wait_for([volume], timeout_s=PATIENCE_S)[volume]
    return found


def attach(cloud: Cloud, volume: str) -> str:
    """Connect a volume to nothing, as Nova connects it to a server; the id of the attachment."""
    wanted = {"volume_uuid": volume, "connector": CONNECTOR}
    made = cloud.volumes._api.post("/attachments", {"attachment": wanted})
    return str(made["attachment"]["id"])


@pytest.fixture
def managed(cloud: Cloud, site_a: Site) -> Iterator[Json]:
    """A volume whose image had a name of its own before Cinder took it over."""
    first = available(cloud, cloud.volumes.create_volume({"size": 1, "name": "first"}))
    cloud.backends.unmanage_volume(first["id"])
    cloud.volumes.watch.wait_gone([first["id"]], timeout_s=PATIENCE_S)
    foreign = f"foreign-{uuid.uuid4().hex[:8]}"
    old = f"{POOL}/volume-{first['id']}"
    inside.run(site_a, ["rbd", "rename", old, f"{POOL}/{foreign}"])
    host = first["os-vol-host-attr:host"]
    marked = {KEY: uuid.uuid4().hex}
    wanted = UnmanagedVolume({"source-name": foreign}, "managed", marked, host)
    volume = available(cloud, cloud.backends.manage_volume(wanted))
    assert foreign not in images(site_a)
    yield volume
    cloud.volumes.delete_volume(volume["id"])
    cloud.volumes.watch.wait_gone([volume["id"]], timeout_s=PATIENCE_S)
    assert f"volume-{volume['id']}" not in images(site_a)


def real_name(cloud: Cloud, volume: Json) -> str:
    """As its connection says, without a server."""
    attachment = attach(cloud, volume["id"])
    try:
        (connection,) = cloud.backends.connections([volume["id"]])
        return connection.parts["name"].removeprefix(f"{POOL}/")
    finally:
        cloud.volumes._api.delete(f"/attachments/{attachment}")
        available(cloud, volume["id"])


def test_a_volume_that_was_managed_and_renamed_is_called_what_ceph_calls_it(
    cloud: Cloud, site_a: Site, managed: Json
) -> None:
    cloud.volumes.update_volume(managed["id"], "another name", "", managed["metadata"])
    assert real_name(cloud, managed) in images(site_a)


def test_a_volume_that_was_migrated_is_known_and_its_image_is_never_taken_from_it(
    cloud: Cloud, site_a: Site, managed: Json
) -> None:
    """As an in-use migration leaves it: the row has another id for its name, and Ceph that name."""
    own, moved = managed["id"], str(uuid.uuid4())
    names = [f"{POOL}/volume-{i}" for i in (own, moved)]
    inside.run(site_a, ["rbd", "rename", *names])
    mariadb.execute(site_a, f"UPDATE cinder.volumes SET _name_id = '{moved}' WHERE id = '{own}'")
    try:
        assert real_name(cloud, managed) == f"volume-{moved}"
        (row,) = [
            r
            for r in cloud.backends.manageable_volumes(managed["os-vol-host-attr:host"])
            if r["reference"] == {"source-name": f"volume-{moved}"}
        ]
        assert (row["safe_to_manage"], row["cinder_id"]) == (True, None)
        with pytest.raises(CounterpartRefused):
            wanted = BackendReference(name=f"volume-{moved}")
            counterpart(cloud, managed["os-vol-host-attr:host"], wanted, 1)
    finally:
        mariadb.execute(site_a, f"UPDATE cinder.volumes SET _name_id = NULL WHERE id = '{own}'")
        inside.run(site_a, ["rbd", "rename", *reversed(names)])


def test_the_volumes_of_the_canary_are_shown_as_ceph_has_them(
    site_a: Site, servers: dict[str, str], desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "vnf.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(EXAMPLE.read_text()), sort_keys=False))
    desk.tell("vnf", "add", str(path))
    references = desk.ask("vnf", "show", "canary")["real_references"]
    assert len(references) == 2 * len(servers)
    assert {r.rpartition("/")[2] for r in references.values()} <= images(site_a)
    volume = next(iter(references))
    shown = desk.ask("volume", "show", "canary", volume)
    fsid = inside.run(site_a, ["ceph", "fsid"]).stdout.strip()
    assert fsid in shown["location"]
    assert (shown["missing"], shown["counterparts"]) == ([], [])
