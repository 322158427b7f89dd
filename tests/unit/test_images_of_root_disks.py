# SPDX-License-Identifier: Apache-2.0
"""A member that boots from an image, as runs: its root disk is carried to the backup site before
the recovery point is committed, it boots from there, and its image goes with the last point that
needs it.
"""

from __future__ import annotations

from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
)
from antipode.model import point_v2
from antipode.model.source import Image
from antipode.model.vnf import Vnf
from antipode.operations import recovery_points
from antipode.operations.expiry import delete, expire, plan_deletion
from antipode.operations.expiry import look as look_at_expiry
from antipode.operations.failover import failover, prepare
from antipode.operations.inspect import look
from antipode.operations.protect import protect
from antipode.protect.server_snapshot import image_booted, member
from antipode.runs.protect import answering_sites
from antipode.vault import points
from tests.unit.fakecloud import FakeCloud, refuse
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import lists_without
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]

DISK = b"what was on the root disk of front, "
ROOT = "id-front_disk"


def of_option_2(**settings: Any) -> Vnf:
    protection = {
        "option": "server-snapshot",
        "quiesce": {"required": False, "timeout": "60s"},
        **settings,
    }
    return Vnf.model_validate(VNF.model_dump(mode="json") | {"protections": [protection]})


@pytest.fixture
def imaged(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The member front boots from an image."""
    monkeypatch.setattr(member, "POLL_S", 0.01)
    monkeypatch.setattr(member, "NOVA_LOOKS_S", 0.0)
    monkeypatch.setattr(member, "UPDATED_EVERY_S", 0.0)
    monkeypatch.setattr(image_booted, "POLL_S", 0.01)
    world.a.boots_from_image("id-front", DISK)
    for cloud in (world.a, world.b):
        cloud.flavors[0]["disk"] = 1
    world.here.vnfs.put(of_option_2())
    return world


def by_option_2(world: World) -> Any:
    return protect(world.here, "v", Unobserved(), option="server-snapshot")


def source_of(world: World, point: str | None = None) -> Image:
    source = points.read(world.here.vault, "v", point).sources[ROOT]
    assert isinstance(source, Image)
    return source


def copies(cloud: FakeCloud) -> dict[str, bytes]:
    """The images that antipode has made at a site."""
    return {i: made["content"] for i, made in cloud.images.items() if "antipode:vnf" in made}


def test_the_bits_are_at_the_backup_site_when_the_point_is_committed(imaged: World) -> None:
    record = by_option_2(imaged)
    source = source_of(imaged)
    assert copies(imaged.b) == {source.copies["site-b"]: DISK}
    assert source.carried_bytes == source.image_bytes == len(DISK)
    assert record["consistency"] == "volume", "Nova does not say whether it has quiesced"
    assert list(imaged.a.images) == ["base-of-id-front"], "the temporary image is gone"
    assert not imaged.a.snapshots
    assert not imaged.a.all_frozen
    assert not imaged.here.freezes.overdue("site-a", 1e12)


def test_a_copy_is_none_of_the_temporary_image_and_has_its_properties(imaged: World) -> None:
    by_option_2(imaged)
    (copy,) = [i for i in imaged.b.images.values() if "antipode:vnf" in i]
    assert copy["hw_qemu_guest_agent"] == "yes"
    assert copy["disk_format"] == "raw"
    assert copy["visibility"] == "private"
    assert copy["antipode:run"].startswith("protect-")


def test_the_server_boots_from_the_copy_with_nothing_of_the_dead_site(imaged: World) -> None:
    by_option_2(imaged)
    copy = source_of(imaged).copies["site-b"]

    def dead(event: str) -> None:
        raise SiteUnreachable(event)

    imaged.a.before = dead
    imaged.a.images.clear()
    made = imaged.failover()
    booted = imaged.b.servers[made["servers"]["front"]]
    assert booted["imageRef"] == copy
    local = [d for d in booted["block_device_mapping_v2"] if d["destination_type"] == "local"]
    assert [(d["uuid"], d["boot_index"]) for d in local] == [(copy, 0)]


def test_the_volumes_of_such_a_member_are_captured_in_a_window_of_their_own(world: World) -> None:
    world.a.boots_from_image("id-db", b"root of db")
    world.here.vnfs.put(of_option_2())
    record = by_option_2(world)
    point = points.read(world.here.vault, "v")
    assert {v: s.kind for v, s in point.sources.items()} == {
        "id-db_disk": "image",
        "db-data": "backup-chain",
        "front-root": "backup-chain",
    }
    assert record["consistency"] == "volume"
    assert record["quiesce_window_per_member_s"].keys() >= {"db"}
    quiesced = [e for e in world.a.events if e in ("quiesce db", "snapshot db-data", "image db")]
    assert quiesced[-3:] == ["quiesce db", "snapshot db-data", "image db"]
    assert not world.a.snapshots
    made = world.failover()
    booted = world.b.servers[made["servers"]["db"]]["block_device_mapping_v2"]
    assert [d["boot_index"] for d in booted] == [0, -1]


def test_the_same_bytes_are_carried_once(imaged: World) -> None:
    by_option_2(imaged)
    first = source_of(imaged)
    uploads = imaged.b.events.count("upload antipode root disk of front")
    by_option_2(imaged)
    again = source_of(imaged)
    assert again.copies == first.copies
    assert again.carried_bytes == 0
    assert imaged.b.events.count("upload antipode root disk of front") == uploads
    imaged.a.root_disks["id-front"] += b"and more"
    by_option_2(imaged)
    assert source_of(imaged).copies != first.copies
    assert sorted(copies(imaged.b).values()) == sorted([DISK, DISK + b"and more"])


def test_a_copy_that_was_changed_is_not_used_again(imaged: World) -> None:
    by_option_2(imaged)
    first = source_of(imaged).copies["site-b"]
    del imaged.b.images[first]
    by_option_2(imaged)
    assert source_of(imaged).copies["site-b"] != first
    assert list(copies(imaged.b).values()) == [DISK]


def test_a_stream_that_breaks_off_continues_where_it_broke(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = imaged.a.site.images.streams
    begins: list[int] = []

    class Breaking:
        def read(self, image_id: str, begin: int = 0) -> Any:
            begins.append(begin)
            return _broken(streams.read(image_id, begin), 10)

        def write(self, *_: Any) -> None:
            raise AssertionError("nothing is uploaded at the active site")

    imaged.a.site._image_streams = lambda gate: Breaking()
    by_option_2(imaged)
    assert begins[0] == 0
    assert begins[1:] == sorted(set(begins[1:])), "it continues, and never begins again"
    assert list(copies(imaged.b).values()) == [DISK]


class _broken:
    """A stream that ends in an error after its first pieces."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream, self._size = stream, size

    def __enter__(self) -> Any:
        return self._pieces(self._stream.__enter__())

    def _pieces(self, pieces: Any) -> Any:
        given = 0
        for piece in pieces:
            if given >= self._size:
                raise SiteUnreachable("the connection is reset")
            given += len(piece)
            yield piece

    def __exit__(self, *error: Any) -> Any:
        return self._stream.__exit__(*error)


def test_other_bytes_on_the_way_are_noticed_and_no_point_is_made(imaged: World) -> None:
    before = points.read(imaged.here.vault, "v").id
    streams = imaged.b.site.images.streams

    class Wrong:
        read = streams.read

        def write(self, image_id: str, content: Any) -> None:
            changed = b"".join(content).replace(b"front", b"FRONT")
            api = imaged.b.site._image
            assert api is not None
            api.call("PUT", f"/images/{image_id}/file", {"content": changed})

    imaged.b.site._image_streams = lambda gate: Wrong()
    with pytest.raises(ResourceFailed, match="sha512"):
        by_option_2(imaged)
    assert points.read(imaged.here.vault, "v").id == before
    assert not copies(imaged.b)
    assert list(imaged.a.images) == ["base-of-id-front"]


@pytest.mark.parametrize(
    ("event", "status"),
    [("upload antipode root disk of front", 413), ("new image antipode root disk of front", 403)],
)
def test_a_glance_that_is_full_leaves_nothing(imaged: World, event: str, status: int) -> None:
    def full(happens: str) -> None:
        if happens == event:
            refuse(status, "Image storage media is full")

    imaged.b.before = full
    with pytest.raises(AntipodeError, match="full"):
        by_option_2(imaged)
    imaged.b.before = lambda event: None
    assert not copies(imaged.b)
    by_option_2(imaged)


def test_a_limit_of_glance_that_is_short_is_found_before_anything_is_captured(
    imaged: World,
) -> None:
    imaged.b.image_limits = {"image_size_total": {"limit": 100, "usage": 90}}
    with pytest.raises(PreflightFailed, match="image_size_total"):
        by_option_2(imaged)
    assert "image front" not in imaged.a.events
    imaged.b.image_limits = {"image_size_total": {"limit": -1, "usage": 90}}
    by_option_2(imaged)


def test_a_backup_site_that_is_away_is_found_before_anything_is_captured(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise SiteUnreachable("site-b does not answer")

    monkeypatch.setattr(imaged.b.site._image, "_send", away)
    with pytest.raises(PreflightFailed, match="site-b"):
        by_option_2(imaged)
    assert "image front" not in imaged.a.events


def test_an_image_that_nova_cannot_make_fails_the_run(imaged: World) -> None:
    def lost(event: str) -> None:
        if event == "image front":
            refuse(409, "Cannot 'createImage' instance while it is in task_state rebuilding")

    imaged.a.before = lost
    with pytest.raises(ResourceFailed, match="front"):
        by_option_2(imaged)
    assert not copies(imaged.b)
    assert not imaged.here.freezes.overdue("site-a", 1e12)


def test_an_image_that_stays_in_the_making_is_given_up_and_the_member_unquiesced(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = imaged.a._keep_image

    def never_made(image: str, content: bytes) -> None:
        made(image, content)
        if image.startswith("image-"):
            imaged.a.images[image]["status"] = "saving"
            imaged.a.servers["id-front"][image_booted.TASK] = "image_uploading"

    imaged.a._keep_image = never_made  # type: ignore[method-assign]
    monkeypatch.setattr(image_booted, "LONGEST_S", 0.05)
    before = imaged.a.events.count("unquiesce front")
    with pytest.raises(ResourceFailed, match="saving"):
        by_option_2(imaged)
    assert imaged.a.events.count("unquiesce front") > before
    assert list(imaged.a.images) == ["base-of-id-front"]


def test_an_image_that_nova_has_given_up_is_not_waited_for(imaged: World) -> None:
    made = imaged.a._keep_image

    def given_up(image: str, content: bytes) -> None:
        made(image, content)
        if image.startswith("image-"):
            imaged.a.images[image]["status"] = "saving"  # and the server has no task

    imaged.a._keep_image = given_up  # type: ignore[method-assign]
    before = imaged.a.events.count("unquiesce front")
    with pytest.raises(ResourceFailed, match="given up"):
        by_option_2(imaged)
    assert imaged.a.events.count("unquiesce front") > before
    assert list(imaged.a.images) == ["base-of-id-front"]


def test_the_images_of_others_are_never_touched(imaged: World) -> None:
    imaged.a.images["mine"] = {
        **imaged.a.images["base-of-id-front"],
        "id": "mine",
        "name": "golden",
        "owner": "project-1",
        "antipode:run": "protect-20260101T000000Z-aaaaaa",
        "antipode:vnf": "v",
    }
    imaged.b.images["mine"] = dict(imaged.a.images["mine"])
    imaged.here.vnfs.put(of_option_2(retention={"last": 1}))
    for _ in range(3):
        imaged.a.root_disks["id-front"] += b"more"
        by_option_2(imaged)
    expire(imaged.here, "v", Unobserved())
    assert "mine" in imaged.a.images
    assert "mine" in imaged.b.images


def test_an_image_goes_with_the_last_point_that_needs_it(imaged: World) -> None:
    imaged.here.vnfs.put(of_option_2(retention={"last": 2}))
    by_option_2(imaged)
    first = source_of(imaged).copies["site-b"]
    by_option_2(imaged)  # the same bytes
    imaged.a.root_disks["id-front"] += b"more"
    by_option_2(imaged)
    expire(imaged.here, "v", Unobserved())
    assert first in imaged.b.images, "the second point rests on it"
    by_option_2(imaged)
    expire(imaged.here, "v", Unobserved())
    assert first not in imaged.b.images
    for point in points.list_ids(imaged.here.vault, "v"):
        for image in points.read(imaged.here.vault, "v", point).images:
            assert image in imaged.b.images


def test_an_image_stays_while_its_point_is_there_though_it_is_not_listed(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    imaged.here.vnfs.put(of_option_2(retention="all"))
    kept = by_option_2(imaged)["recovery_point"]
    going = by_option_2(imaged)["recovery_point"]  # the same bytes
    copy = source_of(imaged, kept).copies["site-b"]
    with monkeypatch.context() as patch:
        lists_without(patch, kept, range(1, 1000))
        deletion = plan_deletion(imaged.here, "v", [going])
        assert [w for w in delete(imaged.here, deletion, Unobserved())["left"] if kept in w]
    assert copy in imaged.b.images


@pytest.mark.parametrize(
    "changed",
    [
        None,
        {"status": "deactivated"},
        {"os_hash_value": "0" * 128},
        {"size": 1},
    ],
    ids=str,
)
def test_no_point_expires_in_favour_of_one_whose_image_is_gone_or_has_other_bytes(
    imaged: World, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object] | None
) -> None:
    there = [by_option_2(imaged)["recovery_point"]]
    for _ in range(2):
        imaged.a.root_disks["id-front"] += b"more"
        there.append(by_option_2(imaged)["recovery_point"])
    newest = source_of(imaged).copies["site-b"]
    if changed is None:
        del imaged.b.images[newest]
    else:
        imaged.b.images[newest].update(changed)
    imaged.here.vnfs.put(of_option_2(retention={"last": 1}))
    calls = calls_of_glance(imaged, monkeypatch)
    assert look_at_expiry(imaged.here, "v").expired == there[:1]
    assert calls == ["GET /images"], "one list, whatever there is"
    assert expire(imaged.here, "v", Unobserved())["expired"] == there[:1]
    assert source_of(imaged, there[1]).copies["site-b"] in imaged.b.images
    # the next one that can be recovered from is kept instead
    assert by_option_2(imaged)["expired"] == there[1:]


def test_a_backup_site_that_does_not_answer_keeps_no_point_from_expiring(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [by_option_2(imaged)["recovery_point"] for _ in range(2)]
    imaged.here.vnfs.put(of_option_2(retention={"last": 1}))

    def away(*_: Any, **__: Any) -> Any:
        raise SiteUnreachable("site-b does not answer")

    monkeypatch.setattr(imaged.b.site._image, "_send", away)
    assert look_at_expiry(imaged.here, "v").expired == there[:1]


def calls_of_glance(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of Glance at the backup site from now on."""
    calls: list[str] = []
    glance = world.b.site._image
    assert glance is not None
    send = glance._send

    def called(method: str, path: str, *about: Any, **more: Any) -> Any:
        calls.append(f"{method} {path}")
        return send(method, path, *about, **more)

    monkeypatch.setattr(glance, "_send", called)
    return calls


def test_an_image_that_a_server_boots_from_stays_when_its_point_expires(imaged: World) -> None:
    by_option_2(imaged)
    image = source_of(imaged).copies["site-b"]
    user = imaged.b.add_server("copy", 9)
    imaged.b.servers[user]["image"] = {"id": image}
    imaged.here.vnfs.put(of_option_2(retention={"last": 1}))
    imaged.a.root_disks["id-front"] += b"more"
    by_option_2(imaged)
    record = expire(imaged.here, "v", Unobserved())
    assert image in imaged.b.images
    assert any("copy" in left for left in record["left"])
    del imaged.b.servers[user]
    assert expire(imaged.here, "v", Unobserved())["images_removed"] == 1
    assert image not in imaged.b.images


def test_a_failed_run_leaves_no_image_anywhere(imaged: World) -> None:
    def refused(event: str) -> None:
        if "backup" in event:
            refuse(403, "the quota of backups is exhausted")

    imaged.a.before = refused
    with pytest.raises(AntipodeError):
        by_option_2(imaged)
    imaged.a.before = lambda event: None
    assert not copies(imaged.b)
    assert list(imaged.a.images) == ["base-of-id-front"]


def test_a_failed_run_keeps_the_image_that_an_earlier_point_needs(imaged: World) -> None:
    by_option_2(imaged)
    kept = source_of(imaged).copies["site-b"]

    def refused(event: str) -> None:
        if "backup" in event:
            refuse(403, "the quota of backups is exhausted")

    imaged.a.before = refused
    with pytest.raises(AntipodeError):
        by_option_2(imaged)
    assert list(copies(imaged.b)) == [kept]


def test_verify_looks_at_the_copy_and_deep_verify_reads_it(imaged: World) -> None:
    by_option_2(imaged)
    copy = source_of(imaged).copies["site-b"]
    found = recovery_points.verify(imaged.here, "v", None)
    assert [f.ok for f in found if f.backup == copy] == [True]
    imaged.b.images[copy]["status"] = "deactivated"
    found = recovery_points.verify(imaged.here, "v", None)
    assert [f.ok for f in found if f.backup == copy] == [False]
    del imaged.b.images[copy]
    found = recovery_points.verify(imaged.here, "v", None)
    assert [f.ok for f in found if f.backup == copy] == [False]


def test_a_plan_finds_an_image_that_is_gone_or_has_other_bytes(imaged: World) -> None:
    by_option_2(imaged)
    copy = source_of(imaged).copies["site-b"]
    right = dict(imaged.b.images[copy])
    imaged.b.images[copy]["os_hash_value"] = "0" * 128
    with pytest.raises(PreflightFailed, match="sha512"):
        prepare(imaged.here, "v", "site-b", None)
    del imaged.b.images[copy]
    with pytest.raises(PreflightFailed, match="front"):
        prepare(imaged.here, "v", "site-b", None)
    imaged.b.images[copy] = right
    failover(imaged.here, prepare(imaged.here, "v", "site-b", None), Unobserved())


def test_option_1_says_that_it_cannot_and_which_option_can(imaged: World) -> None:
    imaged.here.vnfs.put(VNF)
    with pytest.raises(PreflightFailed, match="server-snapshot"):
        protect(imaged.here, "v", Unobserved(), option="quiesced-snapshot")
    only_1 = VNF.model_dump(mode="json") | {"protections": [{"option": "quiesced-snapshot"}]}
    imaged.here.vnfs.put(Vnf.model_validate(only_1))
    assert any("server-snapshot" in w for w in look(imaged.here, "v").warnings)
    imaged.here.vnfs.put(of_option_2())
    assert not any("server-snapshot" in w for w in look(imaged.here, "v").warnings)


def test_a_quiesce_that_cannot_be_promised_is_refused_where_it_is_required(imaged: World) -> None:
    imaged.here.vnfs.put(of_option_2(quiesce={"required": True, "timeout": "60s"}))
    with pytest.raises(PreflightFailed, match="front"):
        by_option_2(imaged)


def test_a_member_that_is_off_is_captured_consistently_and_stays_off(imaged: World) -> None:
    for server in ("id-front", "id-db"):
        imaged.a.servers[server] |= {"status": "SHUTOFF", "updated": "2026-01-01T00:00:00Z"}
    imaged.here.vnfs.put(of_option_2(quiesce={"required": True, "timeout": "60s"}))
    record = by_option_2(imaged)
    assert record["consistency"] == "member"
    assert record["quiesce_window_s"] is None
    assert imaged.a.servers["id-db"]["status"] == "SHUTOFF"


@pytest.mark.parametrize("back", [False, True])
def test_a_member_that_is_off_and_is_started_meanwhile_fails_the_run(
    imaged: World, back: bool
) -> None:
    db = imaged.a.servers["id-db"]
    db |= {"status": "SHUTOFF", "updated": "2026-01-01T00:00:00Z"}

    def started(event: str) -> None:
        if event == "snapshot db-root":
            db["status"] = "SHUTOFF" if back else "ACTIVE"
            db["updated"] = "2026-01-01T00:00:09Z"

    imaged.a.before = started
    with pytest.raises(ResourceFailed, match="started"):
        by_option_2(imaged)
    assert not imaged.a.all_frozen
    assert not imaged.a.snapshots


def test_a_point_with_an_image_requires_a_reader_that_knows_images(imaged: World) -> None:
    by_option_2(imaged)
    point = points.read(imaged.here.vault, "v")
    assert point_v2.manifest_of(point, {}, "").requires == ["images"]
    before = points.read(imaged.here.vault, "v", points.list_ids(imaged.here.vault, "v")[0])
    assert point_v2.manifest_of(before, {}, "").requires == []


def test_a_volume_that_is_attached_meanwhile_fails_the_run(imaged: World) -> None:
    def attached(event: str) -> None:
        if event == "image front":
            imaged.a.attachments["id-front"].append({"volumeId": "db-data", "device": "/dev/vdb"})

    imaged.a.before = attached
    with pytest.raises(ResourceFailed, match="db-data"):
        by_option_2(imaged)
    assert not copies(imaged.b)


def test_a_member_that_is_resized_meanwhile_fails_the_run(imaged: World) -> None:
    def resized(event: str) -> None:
        if event == "image front":
            front = imaged.a.servers["id-front"]
            front["flavor"] = {**front["flavor"], "original_name": "large"}

    imaged.a.before = resized
    with pytest.raises(ResourceFailed, match="resized"):
        by_option_2(imaged)
    assert not copies(imaged.b)


def test_a_flavor_whose_disk_is_too_small_is_found_by_the_plan(imaged: World) -> None:
    imaged.a.servers["id-front"]["flavor"]["disk"] = 2
    by_option_2(imaged)
    with pytest.raises(PreflightFailed, match="2 GiB"):
        prepare(imaged.here, "v", "site-b", None)
    imaged.b.flavors[0]["disk"] = 0
    prepare(imaged.here, "v", "site-b", None)


def test_one_of_several_backup_sites_that_is_away_does_not_keep_a_vnf_from_being_protected(
    imaged: World, caplog: pytest.LogCaptureFixture
) -> None:
    vnf = of_option_2().model_copy(update={"backup": ["site-b", "site-c"]})
    assert [s.name for s in answering_sites(vnf, "site-a", _but_for("site-c", imaged))] == [
        "site-b"
    ]
    assert any("site-c" in r.message for r in caplog.records)
    with pytest.raises(SiteUnreachable):
        answering_sites(of_option_2(), "site-a", _but_for("site-b", imaged))


def _but_for(away: str, world: World) -> Any:
    def connect(name: str) -> Any:
        if name == away:
            raise SiteUnreachable(f"{name} does not answer")
        return world.b.site

    return connect


def test_the_image_of_a_damaged_point_that_is_deleted_goes_too(imaged: World) -> None:
    by_option_2(imaged)
    damaged, copy = points.read(imaged.here.vault, "v").id, source_of(imaged).copies["site-b"]
    imaged.a.root_disks["id-front"] += b"more"
    by_option_2(imaged)
    kept = source_of(imaged).copies["site-b"]
    imaged.here.vault.put(f"v/{damaged}.json", b"{")
    delete(imaged.here, plan_deletion(imaged.here, "v", [damaged]), Unobserved())
    assert copy not in imaged.b.images
    assert kept in imaged.b.images
