# SPDX-License-Identifier: Apache-2.0
"""createImage of Nova and the images of Glance, as antipode uses them for servers that boot from
volumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from antipode.cloud.image_bytes import Content
from antipode.cloud.site import Site
from antipode.errors import SiteUnreachable
from tests.contract.conftest import (
    PATIENCE_S,
    Machine,
    Things,
    agent_answers,
    compute,
    flavor,
    refused,
    storage,
    there,
    until,
)

ANSWER_S = 150.0
"""Longer than nova-api waits for nova-compute."""


def image_of(things: Things, server_id: str, name: str | None = None) -> dict[str, Any]:
    """An image of a server, its snapshots available; removed with them when the test is over."""
    site, name = things.site, name or things.name("image")
    things.removals.append(lambda: remove_snapshots(site, name))
    image_id = site.compute.create_image(
        server_id, name, {"antipode:run": "run-1", "antipode:key": "run-1/db"}, ANSWER_S
    )
    things.removals.append(lambda: site.images.delete_image(image_id))
    image = there(site.images.image(image_id))
    site.volumes.snapshot_watch.wait_for(site.images.snapshots_of(image), timeout_s=PATIENCE_S)
    return image


def snapshots_named(site: Site, name: str) -> list[dict[str, Any]]:
    return [s for s in site.volumes.snapshots() if str(s["name"]).endswith(name)]


def remove_snapshots(site: Site, name: str) -> None:
    left = [s["id"] for s in snapshots_named(site, name)]
    until(
        lambda: all(s["status"] != "creating" for s in snapshots_named(site, name)),
        "the snapshots are made",
    )
    for snapshot in left:
        site.volumes.delete_snapshot(snapshot)
    site.volumes.snapshot_watch.wait_gone(left, timeout_s=PATIENCE_S)


@contextmanager
def quota(site: Site, name: str, more: int) -> Iterator[None]:
    """While it is entered a quota of Cinder allows so many more."""
    row = site.volumes.quota(site.project_id)[name]

    def put(limit: int) -> None:
        body = {"quota_set": {name: limit}}
        storage(site).call("PUT", f"/os-quota-sets/{site.project_id}", body)

    put(row["in_use"] + more)
    try:
        yield
    finally:
        put(row["limit"])


@pytest.mark.core
def test_an_image_of_a_server_names_the_snapshots_of_its_volumes_and_carries_our_marks(
    site: Site, things: Things, machine: Machine
) -> None:
    image = image_of(things, machine.id)
    assert (image["status"], image["size"], image["visibility"]) == ("active", 0, "private")
    assert (image["antipode:run"], image["antipode:key"]) == ("run-1", "run-1/db")
    assert image["bdm_v2"] == "True"
    assert image["root_device_name"] == "/dev/vda"
    mapping = json.loads(image["block_device_mapping"])
    assert [(d["source_type"], d["destination_type"], d["boot_index"]) for d in mapping] == [
        ("snapshot", "volume", 0),
        ("snapshot", "volume", -1),
    ]
    assert [d["volume_id"] for d in mapping] == [None, None], "only the snapshot tells its volume"
    made = {s["id"]: s for s in snapshots_named(site, image["name"])}
    named = site.images.snapshots_of(image)
    assert [made[s]["volume_id"] for s in named] == [machine.root["id"], machine.data["id"]]
    assert set(made) == set(named)
    for snapshot in made.values():
        assert snapshot["name"] == f"snapshot for {image['name']}"
        assert snapshot["metadata"] == {}, "there is no place for a mark but the name"


@pytest.mark.core
def test_an_image_of_a_server_has_what_its_image_said_when_it_booted(
    site: Site, things: Things, machine: Machine
) -> None:
    image = image_of(things, machine.id)
    assert image["hw_qemu_guest_agent"] == "yes"
    assert image["os_require_quiesce"] == "yes"


def test_nothing_about_the_server_tells_of_its_image_and_it_is_unquiesced_afterwards(
    site: Site, things: Things, machine: Machine
) -> None:
    image_of(things, machine.id)
    server = there(site.compute.server(machine.id))
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
    assert site.compute.freeze_of(machine.id) is None
    # Nova looks each half second whether the snapshots are made; only then a quiesce is possible
    until(lambda: can_be_quiesced(site, machine.id), "the guest is unquiesced")


def test_an_image_changes_no_moment_of_the_server_and_an_unquiesce_does(
    site: Site, things: Things, machine: Machine
) -> None:
    """By this it is seen that somebody has ended a freeze of Nova in the middle."""

    def changed_at() -> str:
        return str(there(site.compute.server(machine.id))["updated"])

    def changes_it() -> bool:
        site.compute.unquiesce(machine.id, 30)
        return changed_at() != before

    before = changed_at()
    image_of(things, machine.id)
    assert changed_at() == before
    until(changes_it, "an unquiesce changes the server")


def can_be_quiesced(site: Site, server_id: str) -> bool:
    from antipode.cloud.api import ApiError

    try:
        site.compute.quiesce(server_id, 30, 30)
    except ApiError as error:
        assert error.status == 409, error
        return False
    site.compute.unquiesce(server_id, 30)
    return True


def test_the_images_of_the_project_are_listed(site: Site, things: Things, machine: Machine) -> None:
    image = image_of(things, machine.id)
    listed = next(i for i in site.images.images() if i["id"] == image["id"])
    assert listed["antipode:run"] == "run-1"
    assert site.images.snapshots_of(listed) == site.images.snapshots_of(image)


def test_an_image_that_is_deleted_leaves_its_snapshots(
    site: Site, things: Things, machine: Machine
) -> None:
    image = image_of(things, machine.id)
    site.images.delete_image(image["id"])
    assert site.images.image(image["id"]) is None
    site.images.delete_image(image["id"])  # what is not there is fine
    assert {s["id"] for s in snapshots_named(site, image["name"])} == set(
        site.images.snapshots_of(image)
    )


def test_snapshots_that_are_deleted_leave_an_image_that_looks_well(
    site: Site, things: Things, machine: Machine
) -> None:
    image = image_of(things, machine.id)
    remove_snapshots(site, image["name"])
    assert there(site.images.image(image["id"]))["status"] == "active"


def test_a_server_that_the_add_on_has_quiesced_has_no_image_made(
    site: Site, machine: Machine
) -> None:
    until(lambda: can_be_quiesced(site, machine.id), "the guest is unquiesced")
    site.compute.quiesce(machine.id, 60, 30)
    try:
        error = refused(lambda: site.compute.create_image(machine.id, "never", {}, ANSWER_S))
    finally:
        site.compute.unquiesce(machine.id, 30)
    assert (error.status, "task_state quiesced" in error.reason) == (409, True)


def test_a_quota_too_short_for_all_snapshots_refuses_before_anything_is_made(
    site: Site, things: Things, machine: Machine
) -> None:
    name = things.name("never")
    with quota(site, "snapshots", 1):
        error = refused(lambda: site.compute.create_image(machine.id, name, {}, ANSWER_S))
    assert error.status == 403
    assert snapshots_named(site, name) == []
    assert [i for i in site.images.images() if i["name"] == name] == []


def test_a_quota_too_short_for_the_second_snapshot_leaves_the_first_and_no_image(
    site: Site, things: Things, machine: Machine
) -> None:
    name = things.name("half")
    things.removals.append(lambda: remove_snapshots(site, name))
    with quota(site, "snapshots_fast", 0):
        error = refused(lambda: site.compute.create_image(machine.id, name, {}, ANSWER_S))
    assert error.status == 403
    assert [s["volume_id"] for s in snapshots_named(site, name)] == [machine.root["id"]]
    assert [i for i in site.images.images() if i["name"] == name] == []
    until(lambda: can_be_quiesced(site, machine.id), "the guest is unquiesced")


def blank_root(things: Things, **properties: str) -> dict[str, Any]:
    """A root volume from which no guest ever starts, so that no agent answers."""
    root = things.volume()
    things.site.volumes.set_bootable(root["id"])
    if properties:
        things.site.volumes.set_image_metadata(root["id"], properties)
    return root


def test_a_guest_that_cannot_be_frozen_is_snapshot_all_the_same_unless_its_image_demands_it(
    site: Site, things: Things
) -> None:
    server = things.server(blank_root(things))
    image = image_of(things, server["id"])
    assert len(site.images.snapshots_of(image)) == 1
    assert "os_require_quiesce" not in image, "which is how to see that it was not demanded"


def test_a_guest_that_must_be_frozen_and_whose_agent_does_not_answer_is_refused(
    site: Site, things: Things
) -> None:
    demands = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
    server = things.server(blank_root(things, **demands))
    name = things.name("never")
    error = refused(lambda: site.compute.create_image(server["id"], name, {}, ANSWER_S))
    assert error.status == 409
    assert "agent" in error.reason
    assert snapshots_named(site, name) == []


def test_a_property_that_is_set_after_the_boot_demands_nothing(site: Site, things: Things) -> None:
    root = blank_root(things)
    server = things.server(root)
    demands = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
    site.volumes.set_image_metadata(root["id"], demands)
    assert "os_require_quiesce" not in image_of(things, server["id"])


def test_an_image_of_a_server_that_is_not_there_is_refused(site: Site) -> None:
    unknown = "00000000-0000-0000-0000-000000000007"
    assert refused(lambda: site.compute.create_image(unknown, "n", {}, ANSWER_S)).status == 404
    assert site.images.image(unknown) is None


def test_a_tenant_has_images_of_its_servers_made(
    tenant: Site, things: Things, machine: Machine
) -> None:
    image = image_of(Things(tenant, things.prefix, things.removals), machine.id)
    assert image["owner"] == tenant.project_id
    assert compute(tenant).microversion is not None


# ---- servers that boot from an image ----


def booted_from(things: Things, image: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """A server whose root disk is on the hypervisor, ACTIVE."""
    site = things.site
    body = {
        "name": things.name(),
        "flavorRef": flavor(site)["id"],
        "imageRef": image["id"],
        "networks": "none",
        **wanted,
    }
    server_id = site.compute.create_server(body)
    things.removals.append(lambda: things.remove_server(server_id))
    return site.compute.watch.wait_for([server_id], wanted=("active",), timeout_s=PATIENCE_S)[
        server_id
    ]


def test_an_image_of_a_server_that_boots_from_an_image_has_the_bytes_of_its_root_disk(
    site: Site, things: Things, image: dict[str, Any]
) -> None:
    server = booted_from(things, image)
    assert server["image"]["id"] == image["id"]
    assert site.compute.attachments(server["id"]) == []
    until(lambda: agent_answers(site, server["id"]), "the guest's agent answers")
    name = things.name("root")
    image_id = site.compute.create_image(server["id"], name, {"antipode:run": "run-1"}, ANSWER_S)
    things.removals.append(lambda: site.images.delete_image(image_id))
    until(lambda: there(site.images.image(image_id))["status"] == "active", "the image is uploaded")
    made = there(site.images.image(image_id))
    assert made["size"] > 0
    assert made["os_hash_algo"] == "sha512"
    assert len(made["os_hash_value"]) == 128
    assert made["antipode:run"] == "run-1"
    assert made["os_require_quiesce"] == "yes"
    assert "block_device_mapping" not in made
    assert snapshots_named(site, name) == []
    until(
        lambda: there(site.compute.server(server["id"]))["OS-EXT-STS:task_state"] is None,
        "Nova has done with the server",
    )


def test_a_volume_beside_a_root_disk_on_the_hypervisor_is_the_second_device(
    site: Site, things: Things, image: dict[str, Any]
) -> None:
    data = things.volume()
    disk = {
        "uuid": data["id"],
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": -1,
    }
    root = {
        "uuid": image["id"],
        "source_type": "image",
        "destination_type": "local",
        "boot_index": 0,
        "delete_on_termination": True,
    }
    server = booted_from(things, image, block_device_mapping_v2=[root, disk])
    assert [a["volumeId"] for a in site.compute.attachments(server["id"])] == [data["id"]]
    assert site.compute.attachments(server["id"])[0]["device"] == "/dev/vdb"


def queued(things: Things, **properties: object) -> str:
    """The id of an image that waits for its bytes."""
    site = things.site
    formats = {"disk_format": "raw", "container_format": "bare"}
    image_id = site.images.create_image(things.name("copy"), {**formats, **properties})
    things.removals.append(lambda: site.images.delete_image(image_id))
    return image_id


def pieces_of(content: bytes) -> Iterator[bytes]:
    return iter([content[i : i + (1 << 20)] for i in range(0, len(content), 1 << 20)])


CONTENT = bytes(range(256)) * (12 << 10)
"""3 MiB."""


@pytest.mark.core
def test_an_image_takes_a_stream_of_known_length_and_tells_its_digest(things: Things) -> None:
    site = things.site
    image_id = queued(things, **{"antipode:run": "run-1", "hw_qemu_guest_agent": "yes"})
    assert there(site.images.image(image_id))["status"] == "queued"
    site.images.streams.write(image_id, Content(pieces_of(CONTENT), len(CONTENT)))
    image = there(site.images.image(image_id))
    assert (image["status"], image["size"]) == ("active", len(CONTENT))
    assert image["os_hash_algo"] == "sha512"
    assert image["os_hash_value"] == hashlib.sha512(CONTENT).hexdigest()
    assert (image["antipode:run"], image["visibility"]) == ("run-1", "private")
    assert site.images.sha512_of(image_id, lambda: None) == (image["os_hash_value"], len(CONTENT))


@pytest.mark.core
def test_an_image_is_found_by_its_bytes_though_it_is_hidden(things: Things) -> None:
    site, content = things.site, things.name("bytes").encode()
    hidden, shown = queued(things, os_hidden=True), queued(things)
    for image_id in (hidden, shown):
        site.images.streams.write(image_id, Content(iter([content]), len(content)))
    found = site.images.of_bytes(hashlib.sha512(content).hexdigest())
    assert [image["id"] for image in found] == [shown, hidden]


@pytest.mark.core
def test_an_image_is_found_by_its_name_and_no_part_of_it(things: Things) -> None:
    site, content = things.site, b"of some image"
    image_id, hidden = queued(things), queued(things, os_hidden=True)
    for made in (image_id, hidden):
        site.images.streams.write(made, Content(iter([content]), len(content)))
    waiting = queued(things)
    image = site.images.image(image_id)
    assert image is not None
    of_name = [i["id"] for i in site.images.of_name(image["name"])]
    assert [i for i in of_name if i in (image_id, hidden, waiting)] == [image_id, hidden]
    assert site.images.of_name(image["name"][:-1]) == []


@pytest.mark.core
@pytest.mark.parametrize("begin", [1, 1 << 20, len(CONTENT) - 1])
def test_the_bytes_of_an_image_are_read_from_wherever_a_stream_broke(
    things: Things, begin: int
) -> None:
    site = things.site
    image_id = queued(things)
    site.images.streams.write(image_id, Content(pieces_of(CONTENT), len(CONTENT)))
    with site.images.streams.read(image_id, begin) as pieces:
        assert b"".join(pieces) == CONTENT[begin:]


def test_an_image_whose_upload_breaks_off_does_not_become_active(things: Things) -> None:
    site = things.site
    image_id = queued(things)

    def breaks() -> Iterator[bytes]:
        yield CONTENT[: 1 << 20]
        raise SiteUnreachable("the source does not answer")

    with pytest.raises(SiteUnreachable):
        site.images.streams.write(image_id, Content(breaks(), len(CONTENT)))
    image = there(site.images.image(image_id))
    assert image["status"] != "active"
    assert image["os_hash_value"] is None
    site.images.delete_image(image_id)
    assert site.images.image(image_id) is None


def test_an_image_that_has_its_bytes_takes_no_others(things: Things) -> None:
    site = things.site
    image_id = queued(things)
    site.images.streams.write(image_id, Content(pieces_of(CONTENT), len(CONTENT)))
    again = Content(pieces_of(b"x" * 1000), 1000)
    assert refused(lambda: site.images.streams.write(image_id, again)).status == 409
    assert there(site.images.image(image_id))["size"] == len(CONTENT)


def test_the_bytes_of_an_image_that_is_not_there_are_refused(site: Site) -> None:
    unknown = "00000000-0000-0000-0000-000000000007"

    def read() -> None:
        with site.images.streams.read(unknown):
            raise AssertionError("there is nothing to read")

    assert refused(read).status == 404
    content = Content(iter([b"x"]), 1)
    assert refused(lambda: site.images.streams.write(unknown, content)).status == 404


def test_what_glance_limits_is_told_or_nothing_is(site: Site) -> None:
    for name, (limit, used) in site.images.usage().items():
        assert name.startswith("image_")
        assert limit >= 0
        assert used >= 0


def test_a_server_boots_from_an_image_that_was_brought_by_us(
    things: Things, image: dict[str, Any]
) -> None:
    site = things.site
    source = there(site.images.image(image["id"]))
    properties = {k: source[k] for k in ("hw_qemu_guest_agent", "disk_format", "container_format")}
    copy = site.images.create_image(things.name("copy"), properties)
    things.removals.append(lambda: site.images.delete_image(copy))
    with site.images.streams.read(image["id"]) as pieces:
        site.images.streams.write(copy, Content(iter(pieces), source["size"]))
    assert there(site.images.image(copy))["os_hash_value"] == source["os_hash_value"]
    server = booted_from(things, {"id": copy})
    until(lambda: agent_answers(site, server["id"]), "the guest's agent answers")
