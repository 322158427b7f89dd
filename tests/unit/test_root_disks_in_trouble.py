# SPDX-License-Identifier: Apache-2.0
"""Members that boot from an image, when something is in the way: freezes of others, an unquiesce
that fails, guests without an agent, sites and uploads that fall silent, copies that are to be made
again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, PreflightFailed, ResourceFailed, SiteUnreachable
from antipode.model.capture import Capture
from antipode.model.source import Image
from antipode.model.steps import Steps
from antipode.operations import recovery_points
from antipode.operations.abort import abort
from antipode.operations.expiry import delete, plan_deletion
from antipode.operations.protect import protect
from antipode.protect.option import Protecting
from antipode.protect.server_snapshot import OPTION, image_booted
from antipode.runs.protect import _brought_to
from antipode.topology.discovery import ROOT_DEVICE, discover
from antipode.transfer.images import MOST_UPLOADS, TRANSFER
from antipode.vault import points
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, FakeTimeline, refuse
from tests.unit.test_durable_runs import World, world
from tests.unit.test_images_of_root_disks import (
    DISK,
    ROOT,
    by_option_2,
    copies,
    imaged,
    of_option_2,
    source_of,
)
from tests.unit.test_kill_matrix import VNF, backup_site

__all__ = ["imaged", "world"]

UPLOAD = "upload antipode root disk of front"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_booted, "THAW_PAUSE_S", 0.01)


def quiesces_front_at(world: World, event: str) -> None:
    """Somebody quiesces the member front at an event."""

    def quiesced(happens: str) -> None:
        if happens == event:
            world.a.frozen.add("id-front")

    world.a.before = quiesced


def fails_when_the_image_is_made(world: World, unquiesce: Callable[[], object]) -> None:
    def act(event: str) -> None:
        if event == "unquiesce front" and "image front" in world.a.events:
            unquiesce()

    world.a.before = act


# ---- freezes ----


def test_a_member_that_somebody_has_quiesced_is_left_to_them(imaged: World) -> None:
    makes = imaged.a._create_image

    def too_late(server: str, name: str, metadata: Any) -> str:
        if server == "id-front":
            imaged.a.frozen.add(server)
        return makes(server, name, metadata)

    imaged.a._create_image = too_late  # type: ignore[method-assign]
    with pytest.raises(ResourceFailed, match="quiesced"):
        by_option_2(imaged)
    assert imaged.a.frozen == {"id-front"}
    assert not imaged.here.freezes.open()


def test_a_member_that_somebody_quiesces_when_its_image_is_made_is_left_to_them(
    imaged: World,
) -> None:
    quiesces_front_at(imaged, "image front")
    by_option_2(imaged)
    assert imaged.a.frozen == {"id-front"}


def test_an_unquiesce_that_fails_is_tried_again(imaged: World) -> None:
    left = [503, 500]
    fails_when_the_image_is_made(imaged, lambda: left and refuse(left.pop(), "restarts"))
    by_option_2(imaged)
    assert not left
    assert not imaged.here.freezes.open()


def test_an_unquiesce_that_keeps_failing_is_left_to_reapers_at_once(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_booted, "THAW_LONGEST_S", 0.05)
    fails_when_the_image_is_made(imaged, lambda: refuse(503, "nova-compute restarts"))
    with pytest.raises(AntipodeError, match="may still be frozen"):
        by_option_2(imaged)
    ledger = imaged.here.freezes
    assert [row.server for row in ledger.overdue("site-a", ledger.now() + 1)] == ["front"]


def test_a_member_without_a_guest_agent_is_captured(imaged: World) -> None:
    del imaged.a.images["base-of-id-front"]["hw_qemu_guest_agent"]

    def without_agent(event: str) -> None:
        if event == "unquiesce front":
            refuse(409, "QEMU guest agent is not enabled")

    imaged.a.before = without_agent
    assert by_option_2(imaged)["consistency"] == "volume"
    assert not imaged.here.freezes.open()


# ---- what boots from an image, and what does not ----


def boots_from_a_snapshot_image(cloud: FakeCloud) -> None:
    """The member db was booted from the image of a volume-backed server: Nova names it for ever."""
    mapping = '[{"source_type": "snapshot", "snapshot_id": "s", "boot_index": 0}]'
    cloud.images["snapshot"] = {
        "id": "snapshot",
        "name": "somebody's",
        "status": "active",
        "owner": "others",
        "size": 0,
        "block_device_mapping": mapping,
    }
    cloud.servers["id-db"]["image"] = {"id": "snapshot"}


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot"])
def test_a_server_that_was_booted_from_the_image_of_a_volume_backed_one_has_a_root_volume(
    world: World, option: str
) -> None:
    boots_from_a_snapshot_image(world.a)
    protect(world.here, "v", Unobserved(), option=option)
    point = points.read(world.here.vault, "v")
    assert point.topology.server("db").root_disk is None
    assert {v: s.kind for v, s in point.sources.items()} == dict.fromkeys(
        ("db-root", "db-data", "front-root"), "backup-chain"
    )


def test_a_root_volume_that_only_administrators_are_shown_is_no_disk_on_a_hypervisor(
    world: World,
) -> None:
    world.here.vnfs.put(of_option_2())
    boots_from_a_snapshot_image(world.a)
    world.a.servers["id-db"].pop(ROOT_DEVICE, None)
    with pytest.raises(PreflightFailed, match="root volume is unknown"):
        by_option_2(world)


# ---- copies ----


def test_a_full_protection_brings_the_bytes_again(imaged: World) -> None:
    by_option_2(imaged)
    first = source_of(imaged).copies["site-b"]
    imaged.b.images[first]["content"] = b"rotten"  # and Glance does not notice
    protect(imaged.here, "v", Unobserved(), option="server-snapshot", full=True)
    second = source_of(imaged)
    assert second.copies["site-b"] != first
    assert second.carried_bytes == len(DISK)
    assert imaged.b.images[second.copies["site-b"]]["content"] == DISK


def carried(imaged: World, *sites: FakeCloud) -> Image:
    """The root disk of front brought to these sites, of three that the VNF has, after its newest
    recovery point.
    """
    vnf = VNF.model_copy(update={"backup": ["site-b", "site-c"]})
    p = parts.protecting(
        imaged.a,
        vnf,
        "protect-20300101T000000Z-000000",
        elsewhere=lambda: [cloud.site for cloud in sites],
    )
    found = discover(vnf, imaged.a.site)
    front = found.model_copy(update={"servers": [found.server("front")]})
    image = imaged.a._create_image("id-front", "temporary", {})
    capture = Capture(images={ROOT: image}, consistent_at=found.discovered_at, window=None)
    previous = points.read(imaged.here.vault, "v")
    moved = TRANSFER.transfer(p, front, capture, lambda ids: dict.fromkeys(ids, previous))
    made = moved.sources[ROOT]
    assert isinstance(made, Image)
    return made


def site_c() -> FakeCloud:
    cloud = backup_site()
    cloud.site.name = "site-c"
    return cloud


def test_only_the_sites_that_lack_the_bytes_get_them(imaged: World) -> None:
    by_option_2(imaged)
    first, uploads = source_of(imaged), imaged.b.events.count(UPLOAD)
    there = site_c()
    source = carried(imaged, imaged.b, there)
    assert imaged.b.events.count(UPLOAD) == uploads
    assert source.copies == {**first.copies, "site-c": next(iter(copies(there)))}
    assert source.carried_bytes == len(DISK)


def test_a_site_that_is_away_keeps_its_copy_of_the_same_bytes_in_the_point(imaged: World) -> None:
    by_option_2(imaged)
    there = site_c()
    source = carried(imaged, there)
    assert set(source.copies) == {"site-b", "site-c"}
    assert source.copies["site-b"] == source_of(imaged).copies["site-b"]


def test_an_upload_whose_answer_does_not_come_begins_again(imaged: World) -> None:
    left = [1]

    def breaks(event: str) -> None:
        if event == UPLOAD and left:
            left.pop()
            raise SiteUnreachable("the connection is reset")

    imaged.b.before = breaks
    by_option_2(imaged)
    assert list(copies(imaged.b).values()) == [DISK]


def test_an_upload_that_breaks_each_time_fails_the_run_and_leaves_nothing(imaged: World) -> None:
    tried: list[str] = []

    def breaks(event: str) -> None:
        if event == UPLOAD:
            tried.append(event)
            raise SiteUnreachable("the connection is reset")

    imaged.b.before = breaks
    with pytest.raises(SiteUnreachable):
        by_option_2(imaged)
    assert len(tried) == MOST_UPLOADS
    assert not [i for i in imaged.b.images.values() if "antipode:vnf" in i]


def test_an_upload_whose_source_falls_silent_does_not_begin_again(imaged: World) -> None:
    tried: list[str] = []

    def silent(event: str) -> None:
        if event == "download image id-front":
            raise SiteUnreachable("the connection is reset")

    def upload(event: str) -> None:
        if event.startswith("new image"):
            tried.append(event)

    imaged.a.before, imaged.b.before = silent, upload
    with pytest.raises(SiteUnreachable):
        by_option_2(imaged)
    assert len(tried) == 1
    assert not copies(imaged.b)


def test_a_copy_that_goes_while_volumes_are_backed_up_is_in_no_point(imaged: World) -> None:
    before = by_option_2(imaged)["recovery_point"]
    copy = source_of(imaged).copies["site-b"]

    def deleted(event: str) -> None:
        if "backup db-data" in event:
            imaged.b.images.pop(copy, None)

    imaged.a.before = deleted
    with pytest.raises(ResourceFailed, match=copy):
        by_option_2(imaged)
    assert points.read(imaged.here.vault, "v").id == before
    imaged.a.before = lambda event: None
    by_option_2(imaged)
    assert source_of(imaged).copies["site-b"] in imaged.b.images


def test_no_copy_is_deleted_while_a_protection_may_use_it_again(imaged: World) -> None:
    point = by_option_2(imaged)["recovery_point"]
    copy = source_of(imaged).copies["site-b"]
    run = imaged.die_in("protect")
    record = delete(imaged.here, plan_deletion(imaged.here, "v", [point]), Unobserved())
    assert any(run in left for left in record["left"])
    assert copy in imaged.b.images
    abort(imaged.here, run, Unobserved())
    delete(imaged.here, plan_deletion(imaged.here, "v", [point]), Unobserved())
    assert copy not in imaged.b.images


def test_room_for_the_temporary_image_is_looked_for_beforehand(imaged: World) -> None:
    imaged.a.image_limits = {"image_size_total": {"limit": 1100, "usage": 90}}
    with pytest.raises(PreflightFailed, match=r"site-a.*image_size_total"):
        by_option_2(imaged)
    assert "image front" not in imaged.a.events
    imaged.a.image_limits = {"image_size_total": {"limit": 1200, "usage": 90}}
    by_option_2(imaged)


def test_a_copy_at_a_site_that_is_away_is_no_copy_and_ends_no_verification(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_option_2(imaged)
    copy = source_of(imaged).copies["site-b"]

    def away(*_: Any, **__: Any) -> Any:
        raise SiteUnreachable("site-b does not answer")

    monkeypatch.setattr(imaged.b.site._image, "_send", away)
    found = {f.backup: f for f in recovery_points.verify(imaged.here, "v", None)}
    assert not found.pop(copy).ok
    assert all(f.ok for f in found.values() if f.backup)
    assert len(found) > 1


# ---- what is left ----


def test_a_site_that_is_away_keeps_nothing_of_a_dead_run_at_the_others(imaged: World) -> None:
    run = imaged.here.runs.get(by_option_2(imaged)["run"])
    vnf = of_option_2().model_copy(update={"backup": ["site-c", "site-b"]})
    request = {**(run.request or {}), "vnf": vnf.model_dump(mode="json")}
    steps = [SimpleNamespace(name=Steps.CONNECT_ELSEWHERE.words)]
    runs: Any = SimpleNamespace(runs=SimpleNamespace(steps=lambda _: steps))
    row: Any = SimpleNamespace(id=run.id, vnf="v", request=request)

    def connect(name: str) -> Any:
        if name == "site-c":
            raise SiteUnreachable("site-c does not answer")
        return imaged.b.site

    assert copies(imaged.b)
    with pytest.raises(ResourceFailed, match="site-c"):
        TRANSFER.remove_elsewhere(_brought_to(runs, [row], connect), {run.id}, set, FakeTimeline())
    assert not copies(imaged.b)


def left_by_a_run(cloud: FakeCloud) -> Protecting:
    """A run that has made an image of each member, and snapshots of all volumes."""
    for server in ("id-db", "id-front"):
        marked = {"antipode:run": "protect-1"}
        cloud._create_image(server, f"antipode protect-1 {server}", marked)
    return parts.protecting(cloud, VNF, "protect-1")


def test_an_image_that_cannot_be_removed_keeps_no_other(imaged: World) -> None:
    p = left_by_a_run(imaged.a)

    def protected(event: str) -> None:
        if event == "delete image id-db":
            refuse(403, "the image is protected")

    imaged.a.before = protected
    with pytest.raises(AntipodeError, match="protected"):
        OPTION.release(p, set)
    ours = [i["name"] for i in imaged.a.images.values() if "protect-1" in i["name"]]
    assert ours == ["antipode protect-1 id-db"]
    assert not imaged.a.snapshots


def test_a_snapshot_that_cannot_be_removed_keeps_no_other(imaged: World) -> None:
    p = left_by_a_run(imaged.a)

    def depended_on(event: str) -> None:
        if event == "delete snapshot of db-root":
            refuse(400, "the snapshot has dependent volumes")

    imaged.a.before = depended_on
    with pytest.raises(AntipodeError, match="dependent"):
        OPTION.release(p, set)
    assert [s["volume_id"] for s in imaged.a.snapshots.values()] == ["db-root"]


def test_a_glance_that_is_down_keeps_no_snapshot_of_such_a_member(
    imaged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = {"antipode:run": "protect-1", "antipode:key": "protect-1/id-db"}
    imaged.a._snapshot_of({"volume_id": "db-data", "name": "one", "metadata": marked})

    def down(*_: Any, **__: Any) -> Any:
        raise SiteUnreachable("glance is down")

    monkeypatch.setattr(imaged.a.site._image, "_send", down)
    with pytest.raises(SiteUnreachable):
        OPTION.release(parts.protecting(imaged.a, VNF, "protect-1"), set)
    assert not imaged.a.snapshots


def test_a_quiesce_that_the_add_on_allows_only_shorter_is_found_beforehand(world: World) -> None:
    world.a.boots_from_image("id-db", b"root of db")
    world.here.vnfs.put(of_option_2(quiesce={"required": False, "timeout": "10m"}))
    compute = world.a._compute

    def allows_less(method: str, path: list[str], *rest: Any) -> Any:
        if path == ["os-quiesce"]:
            return {"quiesce": {"version": "1", "default_timeout": 60, "maximum_timeout": 300}}
        return compute(method, path, *rest)

    world.a.site.compute._api._send = world.a._transport(allows_less)
    with pytest.raises(PreflightFailed, match=r"600 s.*300 s"):
        by_option_2(world)
