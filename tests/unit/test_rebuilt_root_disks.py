# SPDX-License-Identifier: Apache-2.0
"""A member with `root: rebuild`: its volumes are protected, and its root disk is made again from
an image of the same bytes that the backup site has of its own.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed, ResourceFailed, SiteUnreachable, VaultCorrupt
from antipode.model import point_v2, source
from antipode.model.marks import RUN
from antipode.model.plan import RecoveryPlan
from antipode.model.vnf import Vnf
from antipode.operations.expiry import delete, expire, plan_deletion
from antipode.operations.failover import prepare
from antipode.operations.inspect import look
from antipode.operations.protect import protect
from antipode.operations.recovery_points import verify
from antipode.vault import points
from tests.unit.fakecloud import PROJECT, refuse
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]

BYTES = b"as it was when it booted"
ROOT = "id-db_disk"


def with_root(option: str = "quiesced-snapshot", root: str | None = "rebuild") -> Vnf:
    fields = VNF.model_dump(mode="json")
    fields["members"][0]["root"] = root
    return Vnf.model_validate(
        fields | {"protections": [{"option": option, "quiesce": {"timeout": "5m"}}]}
    )


def add_image(world: World, image: str, **fields: Any) -> None:
    """The backup site has an image of these bytes."""
    properties = {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"}
    golden = {"name": "golden", "owner": "others", "created_at": "2026-01-01"}
    formats = {"disk_format": "qcow2", "visibility": "public"}
    world.b.images[image] = {"id": image, **golden, **formats, **properties, **fields}
    world.b._keep_image(image, BYTES)


@pytest.fixture
def rebuilt(world: World) -> World:
    """The member db boots from an image, and the backup site has one of the same bytes."""
    world.a.boots_from_image("id-db", b"what the guest has written")
    for cloud in (world.a, world.b):
        cloud.flavors[0]["disk"] = 1
    add_image(world, "own")
    world.here.vnfs.put(with_root())
    return world


def plan_of(world: World) -> RecoveryPlan:
    return prepare(world.here, "v", "site-b", None).plan


def newest(world: World) -> Any:
    return points.read(world.here.vault, "v")


def test_a_root_disk_is_made_again_with_nothing_of_the_dead_site(rebuilt: World) -> None:
    record = rebuilt.protect()
    assert record["consistency"] == "application"
    assert {v: s.kind for v, s in newest(rebuilt).sources.items()} == {
        ROOT: "base-image",
        "db-data": "backup-chain",
        "front-root": "backup-chain",
    }

    def dead(event: str) -> None:
        raise SiteUnreachable(event)

    rebuilt.a.before = dead
    rebuilt.a.images.clear()
    made = rebuilt.failover()
    booted = rebuilt.b.servers[made["servers"]["db"]]
    assert booted["imageRef"] == "own"
    disks = booted["block_device_mapping_v2"]
    assert [(d["destination_type"], d["boot_index"]) for d in disks] == [
        ("local", 0),
        ("volume", -1),
    ]


def test_an_image_that_came_later_under_another_id_is_found(rebuilt: World) -> None:
    rebuilt.protect()
    rebuilt.b.images["again"] = rebuilt.b.images.pop("own") | {"id": "again"}
    made = rebuilt.failover()
    assert rebuilt.b.servers[made["servers"]["db"]]["imageRef"] == "again"


def without_image(world: World) -> None:
    del world.b.images["own"]


def with_other_bytes(world: World) -> None:
    world.b._keep_image("own", b"of next month")


def deactivated(world: World) -> None:
    world.b.images["own"]["status"] = "deactivated"


def in_another_format(world: World) -> None:
    """Of the same bytes: a disk that begins with the header of the other format."""
    world.b.images["own"]["disk_format"] = "raw"


def of_another_tenant(world: World) -> None:
    """As an administrator is shown it."""
    world.b.images["own"]["visibility"] = "private"


def offered(world: World) -> None:
    world.b.images["own"]["visibility"] = "shared"
    world.b.image_members["own", PROJECT] = "pending"


def of_anybody(world: World) -> None:
    world.b.images["own"]["visibility"] = "community"


def of_a_recovery_point(world: World) -> None:
    """A copy that antipode has brought, and removes with its point."""
    ours = {"name": "antipode root disk of db", RUN: "protect-1", "owner": PROJECT}
    world.b.images["own"] |= ours


def of_another_who_shares_it_with_others(world: World) -> None:
    """As an administrator is shown it, who may not see with whom it is shared."""
    world.b.images["own"]["visibility"] = "shared"

    def before(event: str) -> None:
        if event == "look at members of own":
            refuse(403, "not allowed")

    world.b.before = before


LACKING = [
    of_another_who_shares_it_with_others,
    of_a_recovery_point,
    without_image,
    with_other_bytes,
    deactivated,
    in_another_format,
    of_another_tenant,
    offered,
    of_anybody,
]


@pytest.mark.parametrize("lacking", LACKING)
def test_a_site_without_the_image_is_found_before_anything_is_frozen(
    rebuilt: World, lacking: Any
) -> None:
    lacking(rebuilt)
    rebuilt.a.events.clear()
    with pytest.raises(PreflightFailed, match="db"):
        rebuilt.protect()
    assert not [e for e in rebuilt.a.events if e.startswith(("quiesce", "snapshot"))]


@pytest.mark.parametrize("lacking", LACKING)
def test_a_failover_to_a_site_that_has_lost_the_image_creates_nothing(
    rebuilt: World, lacking: Any
) -> None:
    rebuilt.protect()
    lacking(rebuilt)
    with pytest.raises(PreflightFailed, match="db"):
        rebuilt.failover()
    assert not rebuilt.b.servers
    assert not rebuilt.b.volumes


@pytest.mark.parametrize(
    "digests", [{"os_hash_algo": "sha256"}, {"os_hash_value": None, "checksum": "0" * 32}], ids=str
)
def test_an_image_with_another_digest_only_is_refused(
    rebuilt: World, digests: dict[str, str | None]
) -> None:
    """It could be compared, so that its name alone does not do."""
    rebuilt.a.images["base-of-id-db"] |= digests
    rebuilt.b.images["own"]["name"] = "base-of-id-db"
    with pytest.raises(PreflightFailed, match="sha512"):
        rebuilt.protect()


# An image of whose bytes Glance has no digest.


@pytest.fixture
def by_name(rebuilt: World) -> World:
    """The image at the primary was made by its location; that of the backup site by an upload."""
    image = rebuilt.a.images["base-of-id-db"]
    image |= {"os_hash_algo": None, "os_hash_value": None, "checksum": None}
    rebuilt.b.images["own"] |= {"name": "base-of-id-db", "size": image["size"]}
    add_image(rebuilt, "other")
    return rebuilt


def test_an_image_without_a_digest_is_found_by_its_name(by_name: World) -> None:
    by_name.protect()
    kept = newest(by_name).sources[ROOT]
    assert (kept.kind, kept.name) == ("named-image", "base-of-id-db")
    by_name.a.images.clear()
    made = by_name.failover()
    assert by_name.b.servers[made["servers"]["db"]]["imageRef"] == "own"


def with_another_name(world: World) -> None:
    world.b.images["own"]["name"] = "base"


def with_another_size(world: World) -> None:
    world.b.images["own"]["size"] += 1


def with_two(world: World) -> None:
    world.b.images["twin"] = world.b.images["own"] | {"id": "twin"}


def of_a_server_on_volumes(world: World) -> None:
    world.b.images["own"]["block_device_mapping"] = "[]"


LACKING_BY_NAME = [
    *(lack for lack in LACKING if lack not in (with_other_bytes, of_a_recovery_point)),
    *(with_another_name, with_another_size, with_two, of_a_server_on_volumes),
]


@pytest.mark.parametrize("lacking", LACKING_BY_NAME)
def test_a_site_without_exactly_one_image_of_the_name_is_found_before_anything_is_frozen(
    by_name: World, lacking: Any
) -> None:
    lacking(by_name)
    by_name.a.events.clear()
    with pytest.raises(PreflightFailed, match="base-of-id-db"):
        by_name.protect()
    assert not [e for e in by_name.a.events if e.startswith(("quiesce", "snapshot"))]


@pytest.mark.parametrize("lacking", LACKING_BY_NAME)
def test_a_failover_without_exactly_one_image_of_the_name_creates_nothing(
    by_name: World, lacking: Any
) -> None:
    by_name.protect()
    lacking(by_name)
    with pytest.raises(PreflightFailed, match="base-of-id-db"):
        by_name.failover()
    assert not by_name.b.servers
    assert not by_name.b.volumes


@pytest.mark.parametrize("unknown", ["size", "disk_format"])
@pytest.mark.parametrize("site", ["a", "b"])
def test_what_is_not_known_of_both_images_is_not_compared(
    by_name: World, unknown: str, site: str
) -> None:
    ours, theirs = by_name.a.images["base-of-id-db"], by_name.b.images["own"]
    ours[unknown], theirs[unknown] = (
        (None, theirs[unknown]) if site == "a" else (ours[unknown], None)
    )
    by_name.protect()
    assert plan_of(by_name).servers[0].root_disk is not None


def test_size_and_format_tell_images_of_one_name_apart(by_name: World) -> None:
    with_two(by_name)
    by_name.b.images["twin"] |= {"disk_format": "raw"}
    by_name.protect()
    made = by_name.failover()
    assert by_name.b.servers[made["servers"]["db"]]["imageRef"] == "own"


def test_an_image_with_neither_digest_nor_name_is_refused(by_name: World) -> None:
    by_name.a.images["base-of-id-db"]["name"] = None
    with pytest.raises(PreflightFailed, match="db"):
        by_name.protect()


def test_it_is_said_that_bytes_were_not_compared(by_name: World) -> None:
    warned = [w for w in look(by_name.here, "v").warnings if "not compared" in w]
    assert len(warned) == 1 and "base-of-id-db" in warned[0]
    assert warned[0] in by_name.protect()["warnings"]
    assert [w for w in plan_of(by_name).warnings if "not compared" in w and "db" in w]


def test_nothing_is_said_of_bytes_that_are_compared(rebuilt: World) -> None:
    rebuilt.protect()
    said = [*look(rebuilt.here, "v").warnings, *plan_of(rebuilt).warnings]
    assert not [w for w in said if "not compared" in w]


def test_a_point_with_an_image_of_a_name_comes_back_and_is_refused_by_older_readers(
    by_name: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name.protect()
    assert point_v2.BASE_IMAGES in point_v2.manifest_of(newest(by_name), {}, "").requires
    monkeypatch.delitem(source._KINDS, "named-image")
    with pytest.raises(VaultCorrupt):
        newest(by_name)


def test_none_expires_in_favour_of_a_point_whose_named_image_is_lost(by_name: World) -> None:
    vnf = with_root().model_dump(mode="json")
    vnf["protections"][0]["retention"] = {"last": 1}
    first = by_name.protect()["recovery_point"]
    image = by_name.a.images["base-of-id-db"] | {"id": "next", "name": "next"}
    by_name.a.images["next"] = image
    by_name.a.servers["id-db"]["image"] = {"id": "next"}
    by_name.b.images["next"] = by_name.b.images["own"] | {"id": "next", "name": "next"}
    by_name.protect()
    by_name.here.vnfs.put(Vnf.model_validate(vnf))
    lost = by_name.b.images.pop("next")
    assert first not in expire(by_name.here, "v", Unobserved())["expired"]
    by_name.b.images["next"] = lost
    assert expire(by_name.here, "v", Unobserved())["expired"] == [first]


@pytest.mark.parametrize(
    "fields", [{"os_hidden": True}, {"visibility": "shared"}, {"owner": PROJECT}], ids=str
)
def test_an_image_that_is_hidden_accepted_or_our_own_is_found(
    rebuilt: World, fields: dict[str, Any]
) -> None:
    """A golden image is hidden once there is a newer one, for servers that came from it."""
    without_image(rebuilt)
    add_image(rebuilt, "found", **({"visibility": "private"} | fields), created_at="2026-02-01")
    if fields.get("os_hidden"):
        rebuilt.b.images["found"]["visibility"] = "public"
    rebuilt.b.image_members["found", PROJECT] = "accepted"
    rebuilt.protect()
    made = rebuilt.failover()
    assert rebuilt.b.servers[made["servers"]["db"]]["imageRef"] == "found"


def test_of_several_images_the_one_with_the_same_properties_is_taken(rebuilt: World) -> None:
    rebuilt.b.images["own"]["hw_firmware_type"] = "uefi"
    add_image(rebuilt, "newer", created_at="2026-06-01")
    rebuilt.protect()
    assert not [w for w in plan_of(rebuilt).warnings if "hw_firmware_type" in w]
    made = rebuilt.failover()
    assert rebuilt.b.servers[made["servers"]["db"]]["imageRef"] == "newer"


def test_other_properties_of_the_image_are_said_in_the_plan(rebuilt: World) -> None:
    rebuilt.b.images["own"]["hw_firmware_type"] = "uefi"
    del rebuilt.b.images["own"]["hw_qemu_guest_agent"]
    rebuilt.protect()
    (said,) = [w for w in plan_of(rebuilt).warnings if "hw_firmware_type" in w]
    assert "hw_qemu_guest_agent not set instead of yes" in said


def test_the_plan_says_that_nothing_of_the_root_disk_was_captured(rebuilt: World) -> None:
    rebuilt.protect()
    assert [w for w in plan_of(rebuilt).warnings if "db" in w and "lost" in w]


@pytest.mark.parametrize("limit", [{"min_disk": 2}, {"min_ram": 4096}, {"size": 2 << 30}], ids=str)
def test_an_image_that_does_not_fit_the_flavor_is_a_problem_of_the_plan(
    rebuilt: World, limit: dict[str, int]
) -> None:
    rebuilt.protect()
    rebuilt.b.images["own"] |= limit
    with pytest.raises(PreflightFailed, match="own"):
        rebuilt.failover()
    assert not rebuilt.b.servers


@pytest.mark.parametrize("beside", ["kernel_id", "ramdisk_id"])
def test_a_kernel_that_lies_beside_the_root_disk_is_refused(rebuilt: World, beside: str) -> None:
    rebuilt.a.images["base-of-id-db"][beside] = "another-image"
    with pytest.raises(PreflightFailed, match=beside):
        rebuilt.protect()


@pytest.mark.parametrize("content", [b"", BYTES], ids=["no bytes", "a mapping"])
def test_an_image_of_a_server_on_volumes_is_refused(rebuilt: World, content: bytes) -> None:
    """All such images have the same digest: that of nothing."""
    rebuilt.a._keep_image("base-of-id-db", content)
    if content:
        rebuilt.a.images["base-of-id-db"]["block_device_mapping"] = "[]"
    rebuilt.b._keep_image("own", content)
    with pytest.raises(PreflightFailed, match="db"):
        rebuilt.protect()


def test_a_root_disk_that_may_be_a_volume_is_not_made_again(rebuilt: World) -> None:
    """Nova names the image of a server whose creator has named one beside its root volume, and says
    to administrators only from which of them it boots.
    """
    for attached in rebuilt.a.attachments["id-db"]:
        attached["device"] = "/dev/vda"
    del rebuilt.a.servers["id-db"]["OS-EXT-SRV-ATTR:root_device_name"]
    with pytest.raises(PreflightFailed, match="root volume is unknown"):
        rebuilt.protect()


def test_a_server_that_is_rebuilt_while_it_is_protected_makes_no_point(rebuilt: World) -> None:
    def rebuild(event: str) -> None:
        if event.startswith("quiesce"):
            rebuilt.a.images["next"] = rebuilt.a.images["base-of-id-db"] | {"id": "next"}
            rebuilt.a._keep_image("next", b"of next month")
            rebuilt.a.servers["id-db"]["image"] = {"id": "next"}

    before = points.list_ids(rebuilt.here.vault, "v")
    rebuilt.a.before = rebuild
    with pytest.raises(ResourceFailed, match="another image"):
        rebuilt.protect()
    assert points.list_ids(rebuilt.here.vault, "v") == before


def test_a_backup_site_that_is_away_keeps_nothing_from_being_protected(rebuilt: World) -> None:
    def away(event: str) -> None:
        raise SiteUnreachable("site-b does not answer")

    rebuilt.b.before = away
    assert rebuilt.protect()["consistency"] == "application"


@pytest.mark.parametrize("known_by", ["rebuilt", "by_name"])
def test_a_verification_looks_for_the_image(
    world: World, known_by: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(known_by)
    world.protect()
    assert all(f.ok for f in verify(world.here, "v", None))
    without_image(world)
    assert [f.volume for f in verify(world.here, "v", None) if not f.ok] == ["db root disk"]


def test_none_expires_in_favour_of_a_point_whose_image_the_backup_site_has_lost(
    rebuilt: World,
) -> None:
    vnf = with_root().model_dump(mode="json")
    vnf["protections"][0]["retention"] = {"last": 1}
    first = rebuilt.protect()["recovery_point"]
    rebuilt.a._keep_image("base-of-id-db", b"of next month")
    add_image(rebuilt, "next")
    rebuilt.b._keep_image("next", b"of next month")
    rebuilt.protect()
    rebuilt.here.vnfs.put(Vnf.model_validate(vnf))
    del rebuilt.b.images["next"]
    assert first not in expire(rebuilt.here, "v", Unobserved())["expired"]
    add_image(rebuilt, "next")
    rebuilt.b._keep_image("next", b"of next month")
    assert expire(rebuilt.here, "v", Unobserved())["expired"] == [first]


def test_no_image_goes_with_a_point(rebuilt: World) -> None:
    rebuilt.protect()
    deletion = plan_deletion(rebuilt.here, "v", [newest(rebuilt).id])
    delete(rebuilt.here, deletion, Unobserved())
    assert "own" in rebuilt.b.images
    assert "base-of-id-db" in rebuilt.a.images


def test_an_option_that_captures_root_disks_refuses_it(rebuilt: World) -> None:
    rebuilt.here.vnfs.put(with_root("server-snapshot"))
    with pytest.raises(PreflightFailed, match="root: rebuild"):
        protect(rebuilt.here, "v", Unobserved(), option="server-snapshot")


def test_a_root_disk_that_is_not_to_be_made_again_is_refused(rebuilt: World) -> None:
    rebuilt.here.vnfs.put(with_root(root=None))
    with pytest.raises(PreflightFailed, match="boots from an image"):
        rebuilt.protect()


def test_it_is_said_what_is_lost(rebuilt: World) -> None:
    rebuilt.protect()
    assert [w for w in look(rebuilt.here, "v").warnings if "db" in w and "root disk" in w]


def test_a_reader_that_does_not_know_it_refuses_the_point(rebuilt: World) -> None:
    rebuilt.protect()
    manifest = point_v2.manifest_of(newest(rebuilt), {}, "")
    assert point_v2.BASE_IMAGES in manifest.requires
    assert point_v2.IMAGES not in manifest.requires


def test_the_definition_comes_back_from_the_vault(rebuilt: World) -> None:
    rebuilt.protect()
    assert newest(rebuilt).vnf.members[0].root == "rebuild"
    prepared = prepare(rebuilt.here, "v", "site-b", None)
    (root,) = [s.root_disk for s in prepared.plan.servers if s.root_disk]
    assert root.source_kind == "base-image"
    assert "base-of-id-db" in root.source_reference
