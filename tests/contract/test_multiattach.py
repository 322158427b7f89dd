# SPDX-License-Identifier: Apache-2.0
"""Volumes that several servers have: what decides that they may, and how they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.cloud.volumes import users_of
from antipode.recover.plan import MULTIATTACH, YES
from tests.contract.conftest import PATIENCE_S, Things, flavor, refused, storage, there, until


@pytest.fixture
def sharable(site: Site, things: Things) -> Iterator[str]:
    """A volume type whose volumes several servers may have."""
    backend = "rbd1"
    wanted = {
        "name": things.name("shared"),
        "extra_specs": {"volume_backend_name": backend, MULTIATTACH: YES},
    }
    made = storage(site).post("/types", {"volume_type": wanted})["volume_type"]
    yield str(made["name"])
    things.remove_all()  # before the type: no volume may be left of it
    things.removals.clear()
    storage(site).delete(f"/types/{made['id']}")


def body(things: Things, root: Json, shared: Json) -> dict[str, Any]:
    disks = [
        {
            "uuid": volume["id"],
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": index,
        }
        for volume, index in ((root, 0), (shared, -1))
    ]
    return {
        "name": things.name(),
        "flavorRef": flavor(things.site)["id"],
        "block_device_mapping_v2": disks,
        "networks": "none",
    }


def booted(things: Things, wanted: Json) -> str:
    server_id = things.site.compute.create_server(wanted)
    things.removals.append(lambda: things.remove_server(server_id))
    return server_id


def active(site: Site, server_id: str) -> None:
    site.compute.watch.wait_for([server_id], wanted=("active",), timeout_s=PATIENCE_S)


def bootable(things: Things) -> Json:
    volume = things.volume()
    things.site.volumes.set_bootable(volume["id"])
    return volume


def test_the_type_decides_whether_a_volume_may_be_shared(
    site: Site, things: Things, sharable: str
) -> None:
    specs = {t["name"]: t.get("extra_specs", {}) for t in site.volumes.types()}
    assert specs[sharable][MULTIATTACH] == YES
    assert things.volume(volume_type=sharable)["multiattach"] is True
    assert things.volume()["multiattach"] is False


def test_servers_get_a_shared_volume_one_after_another(
    site: Site, things: Things, sharable: str
) -> None:
    shared = things.volume(volume_type=sharable)
    wanted = [body(things, bootable(things), shared) for _ in range(2)]
    first = booted(things, wanted[0])
    # while the first is built, the volume is reserved for it
    assert refused(lambda: site.compute.create_server(wanted[1])).status == 400
    active(site, first)
    site.volumes.watch.wait_for([shared["id"]], wanted=("in-use",), timeout_s=PATIENCE_S)
    second = booted(things, wanted[1])
    active(site, second)
    assert users_of(there(site.volumes.volume(shared["id"]))) == {first, second}
    assert site.volumes.users(shared["id"], 30) == {first, second}
    attached = [site.compute.attachments(s) for s in (first, second)]
    assert all(shared["id"] in {a["volumeId"] for a in of_one} for of_one in attached)

    snapshot = things.snapshot(shared["id"])
    assert snapshot["status"] == "available"
    things.removals.pop()()  # the snapshot
    things.removals.pop()()  # the second server
    until(lambda: site.volumes.users(shared["id"], 30) == {first}, "the other has it alone")
    assert there(site.volumes.volume(shared["id"]))["status"] == "in-use"
    assert refused(lambda: site.volumes.delete_volume(shared["id"])).status == 400


def test_a_volume_of_another_type_is_for_one_server(site: Site, things: Things) -> None:
    volume = things.volume()
    first = booted(things, body(things, bootable(things), volume))
    active(site, first)
    second = body(things, bootable(things), volume)
    assert refused(lambda: site.compute.create_server(second)).status == 400
