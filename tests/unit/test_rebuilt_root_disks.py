# SPDX-License-Identifier: Apache-2.0
"""A member with `root: rebuild`: its volumes are protected, and its root disk is made again from
an image of the same bytes that the backup site has of its own.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed, SiteUnreachable
from antipode.model import point_v2
from antipode.model.vnf import Vnf
from antipode.operations.expiry import delete, plan_deletion
from antipode.operations.failover import prepare
from antipode.operations.inspect import look
from antipode.operations.protect import protect
from antipode.vault import points
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


@pytest.fixture
def rebuilt(world: World) -> World:
    """The member db boots from an image, and the backup site has one of the same bytes."""
    world.a.boots_from_image("id-db", b"what the guest has written")
    for cloud in (world.a, world.b):
        cloud.flavors[0]["disk"] = 1
    own = {"id": "own", "name": "golden", "owner": "others", "created_at": "2026-01-01"}
    world.b.images["own"] = own
    world.b._keep_image("own", BYTES)
    world.here.vnfs.put(with_root())
    return world


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


@pytest.mark.parametrize("lacking", [without_image, with_other_bytes, deactivated])
def test_a_site_without_the_image_is_found_before_anything_is_frozen(
    rebuilt: World, lacking: Any
) -> None:
    lacking(rebuilt)
    rebuilt.a.events.clear()
    with pytest.raises(PreflightFailed, match="db"):
        rebuilt.protect()
    assert not [e for e in rebuilt.a.events if e.startswith(("quiesce", "snapshot"))]


@pytest.mark.parametrize("lacking", [without_image, with_other_bytes, deactivated])
def test_a_failover_to_a_site_that_has_lost_the_image_creates_nothing(
    rebuilt: World, lacking: Any
) -> None:
    rebuilt.protect()
    lacking(rebuilt)
    with pytest.raises(PreflightFailed, match="db"):
        rebuilt.failover()
    assert not rebuilt.b.servers
    assert not rebuilt.b.volumes


def test_an_image_without_a_digest_is_refused(rebuilt: World) -> None:
    del rebuilt.a.images["base-of-id-db"]["os_hash_value"]
    with pytest.raises(PreflightFailed, match="sha512"):
        rebuilt.protect()


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
