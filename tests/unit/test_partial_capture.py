# SPDX-License-Identifier: Apache-2.0
"""Members that are not captured: nothing touches them, and they come back from those that are."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.engine import activity
from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed
from antipode.model import point_v2, source
from antipode.model.source import Copy
from antipode.model.steps import Steps
from antipode.model.vnf import Vnf
from antipode.operations.drill import drill, request
from antipode.operations.drill import prepare as prepare_drill
from antipode.operations.failover import prepare
from antipode.operations.inspect import look
from antipode.operations.migrate import migrate
from antipode.operations.migrate import prepare as prepare_migration
from antipode.operations.migrate import request as migrating
from antipode.operations.recovery_points import verify
from antipode.operations.site_check import check_all
from antipode.protect.partial import choose
from antipode.recover import switching
from antipode.recover.sources import PROVIDERS, backup
from antipode.runs import fence, forecast, kind_of, protect
from antipode.runs.measured import Measured, Sample, typical
from antipode.vault import points
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF
from tests.unit.test_rebuilt_root_disks import add_image

__all__ = ["world"]


def with_capture(
    capture: Any = "standby",
    option: str = "quiesced-snapshot",
    db: dict[str, Any] | None = None,
    front: dict[str, Any] | None = None,
) -> Vnf:
    members = [
        {"server": "db", "role": "active", **(db or {})},
        {"server": "front", "role": "standby", **(front or {})},
    ]
    protections = [{"option": option, "quiesce": {"timeout": "5m"}}]
    fields = VNF.model_dump(mode="json", exclude={"members", "protections"})
    return Vnf.model_validate(
        fields | {"members": members, "protections": protections, "capture": capture}
    )


CLUSTER = with_capture("cluster=web", db={"role": "cluster=web"}, front={"role": "cluster=web"})


@pytest.fixture
def pair(world: World) -> World:
    """Of the pair the active member db is left untouched."""
    del world.a.volumes["db-data"]
    world.a.attachments["id-db"] = [
        a for a in world.a.attachments["id-db"] if a["volumeId"] != "db-data"
    ]
    world.here.vnfs.put(with_capture())
    world.a.events.clear()
    return world


def newest(world: World) -> Any:
    return points.read(world.here.vault, "v")


def touched(world: World) -> list[str]:
    """What has frozen a server or captured a volume."""
    return [e for e in world.a.events if e.startswith(("quiesce", "snapshot", "image"))]


def touching(world: World, name: str) -> list[str]:
    """What has happened to a server and its volumes."""
    return [e for e in world.a.events if name in e]


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot"])
def test_nothing_touches_a_member_that_is_not_captured(pair: World, option: str) -> None:
    pair.here.vnfs.put(with_capture(option=option))
    record = pair.protect()
    assert not touching(pair, "db")
    assert touching(pair, "front")
    assert record["consistency"] == "member"
    assert record["not_captured"] == {"db": "a clone of front"}
    sources = newest(pair).sources
    assert sources["db-root"] == Copy(of="front-root")
    assert sources["front-root"].kind == "backup-chain"


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot"])
def test_a_clone_has_its_own_identity_and_the_bytes_of_the_captured_one(
    pair: World, option: str
) -> None:
    pair.a.servers["id-db"]["OS-EXT-SRV-ATTR:user_data"] = "b2Y= db"
    pair.here.vnfs.put(with_capture(option=option))
    pair.protect()
    made = pair.failover()["servers"]
    db, front = pair.b.servers[made["db"]], pair.b.servers[made["front"]]
    assert db["metadata"]["role"] == "db"
    assert db["user_data"] == "b2Y= db"
    assert front["user_data"] != db["user_data"]
    roots = [v for v in pair.b.volumes.values() if v["bootable"] == "true"]
    assert sorted(v["name"] for v in roots) == ["db-root", "front-root"]
    (backup,) = {v["metadata"].get("src_backup_id") or v["backup_id"] for v in roots}
    assert backup == newest(pair).chain("front-root")[-1].id == newest(pair).chain("db-root")[-1].id
    macs = {p["device_id"]: p["mac_address"] for p in pair.b.ports.values()}
    assert macs[made["db"]] == pair.a.ports["port-id-db"]["mac_address"]


def test_a_second_point_is_an_increment_for_the_captured_member_only(pair: World) -> None:
    pair.protect()
    record = pair.protect()
    assert record["incremental"]
    assert len(newest(pair).backups) > 1
    assert {b.volume_id for b in newest(pair).backups.values()} == {"front-root"}


def test_the_member_of_a_cluster_that_is_captured_is_the_first_that_is_active(pair: World) -> None:
    pair.here.vnfs.put(CLUSTER)
    assert pair.protect()["not_captured"] == {"front": "a clone of db"}
    pair.a.servers["id-db"]["status"] = "SHUTOFF"
    assert pair.protect()["not_captured"] == {"db": "a clone of front"}
    assert pair.a.servers["id-db"]["status"] == "SHUTOFF"


@pytest.mark.parametrize("status", ["SHUTOFF", "ERROR", "PAUSED"])
def test_a_standby_that_is_not_active_is_refused_before_anything_is_frozen(
    pair: World, status: str
) -> None:
    pair.a.servers["id-front"]["status"] = status
    with pytest.raises(PreflightFailed, match="front"):
        pair.protect()
    assert not [e for e in pair.a.events if e.startswith(("quiesce", "snapshot"))]


def test_a_cluster_without_an_active_member_is_refused(pair: World) -> None:
    pair.here.vnfs.put(CLUSTER)
    for server in pair.a.servers.values():
        server["status"] = "SHUTOFF"
    with pytest.raises(PreflightFailed, match="web"):
        pair.protect()


def test_an_untouched_member_may_be_in_any_state(pair: World) -> None:
    pair.a.servers["id-db"]["status"] = "ERROR"
    pair.protect()
    assert newest(pair).clones == {"db": "front"}


def test_a_member_of_another_shape_is_no_clone(pair: World) -> None:
    pair.a.attachments["id-db"].append(
        {"volumeId": "more", "device": "/dev/vdb", "delete_on_termination": False, "tag": None}
    )
    pair.a.volumes["more"] = {**pair.a.volumes["db-root"], "id": "more", "name": "more"}
    with pytest.raises(PreflightFailed, match="clone of front"):
        pair.protect()
    assert not [e for e in pair.a.events if e.startswith(("quiesce", "snapshot"))]


def test_a_volume_of_several_members_is_not_cloned(pair: World) -> None:
    shared = {"volumeId": "front-root", "device": "/dev/vdb", "delete_on_termination": False}
    pair.a.attachments["id-db"].append(shared | {"tag": None})
    pair.a.events.clear()
    with pytest.raises(PreflightFailed, match="several members"):
        pair.protect()
    assert not [e for e in pair.a.events if e.startswith(("quiesce", "snapshot"))]


def test_a_larger_volume_of_a_clone_stays_as_large(pair: World) -> None:
    pair.a.volumes["db-root"]["size"] = 3
    pair.protect()
    plan = prepare(pair.here, "v", "site-b", None).plan
    assert [v.size_gib for s in plan.servers for v in s.volumes] == [3, 1]


def test_quotas_count_each_volume_and_each_backup_once(pair: World) -> None:
    pair.protect()
    needs = {q.resource: q.needed for q in prepare(pair.here, "v", "site-b", None).plan.quotas}
    assert needs["volumes"] == 2
    assert needs["gigabytes"] == 2
    assert needs["backups"] == len(newest(pair).chain("front-root"))
    assert needs["instances"] == 2


def test_the_plan_says_who_is_a_clone(pair: World) -> None:
    pair.protect()
    prepared = prepare(pair.here, "v", "site-b", None)
    assert {s.name: s.clone_of for s in prepared.plan.servers} == {"db": "front", "front": ""}
    assert any("db were not captured" in w for w in prepared.warnings)
    seen = look(pair.here, "v")
    assert seen.untouched == {"db": "clone=front"}


def test_a_member_that_is_not_to_come_back_does_not(pair: World) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    assert pair.protect()["not_captured"] == {"db": "not recovered"}
    prepared = prepare(pair.here, "v", "site-b", None)
    assert [s.name for s in prepared.plan.servers] == ["front"]
    assert any("db" in w and "not recovered" in w for w in prepared.warnings)
    assert set(pair.failover()["servers"]) == {"front"}


def test_a_member_that_did_not_come_back_is_not_missed(pair: World) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    pair.protect()
    pair.failover()
    pair.protect()
    point = newest(pair)
    assert (point.site, [s.name for s in point.topology.servers]) == ("site-b", ["front"])
    assert point.consistency == "application"  # all members that there are were captured


def test_a_point_still_names_a_server_that_does_not_come_back(pair: World) -> None:
    """It is fenced with the others when its site returns."""
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    pair.protect()
    assert [s.id for s in newest(pair).topology.servers] == ["id-db", "id-front"]


def test_a_member_is_made_again_from_its_image(pair: World) -> None:
    pair.a.boots_from_image("id-db", b"what the guest has written")
    for cloud in (pair.a, pair.b):
        cloud.flavors[0]["disk"] = 1
    add_image(pair, "own")
    pair.here.vnfs.put(with_capture(db={"recover": "rebuild"}))
    assert pair.protect()["not_captured"] == {"db": "made again from its image"}
    made = pair.failover()["servers"]
    assert pair.b.servers[made["db"]]["imageRef"] == "own"


def test_a_member_with_volumes_is_not_made_again_from_an_image(pair: World) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "rebuild"}))
    with pytest.raises(PreflightFailed, match="has volumes"):
        pair.protect()


def test_replication_does_not_leave_members_out(pair: World) -> None:
    vnf = with_capture(option="replication")
    stores = {"d": {"storage": "s"}}
    pair.here.vnfs.put(Vnf.model_validate(vnf.model_dump(mode="json") | {"datastores": stores}))
    with pytest.raises(PreflightFailed, match="captures all members"):
        pair.protect()


@pytest.mark.parametrize(
    ("capture", "db", "front"),
    [
        ("cluster=web", {}, {}),
        ("standby", {"role": None}, {}),
        ([], {"recover": "clone"}, {}),
        ("standby", {}, {"recover": "clone"}),
        ("standby", {"recover": "clone=db"}, {}),
        ("standby", {"recover": "none"}, {"boot_after": ["db"]}),
        ("active", {}, {}),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(capture: Any, db: Any, front: Any) -> None:
    with pytest.raises(ValidationError):
        with_capture(capture, db=db, front=front)


def test_a_reader_that_knows_no_copies_refuses_the_point(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.protect()
    monkeypatch.delitem(source._KINDS, "copy")
    with pytest.raises(Exception, match="newer antipode"):
        newest(pair)


def test_a_point_requires_what_says_that_a_member_does_not_come_back(pair: World) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    pair.protect()
    manifest = point_v2.manifest_of(newest(pair), {}, "")
    assert "Member.recover" in manifest.requires


def test_content_is_proven_of_what_was_captured(pair: World) -> None:
    pair.protect()
    findings = verify(pair.here, "v", None)
    assert {f.volume for f in findings[1:]} == {"front-root"}


def test_a_copy_of_a_copy_is_refused(pair: World) -> None:
    pair.protect()
    point = newest(pair)
    sources = {**point.sources, "front-root": Copy(of="db-root")}
    with pytest.raises(ValidationError, match="no bytes"):
        type(point).model_validate(point.model_dump() | {"sources": sources})


def test_a_site_check_knows_which_members_are_captured(pair: World) -> None:
    pair.a.servers["id-db"]["status"] = "ERROR"
    checks = {c.check: c for c in check_all(pair.here)}
    assert checks["vnf v"].ok


def test_a_drill_has_clones_too(pair: World) -> None:
    pair.protect()
    prepared = prepare_drill(pair.here, "v", "site-b", None)
    made = drill(pair.here, request(prepared), Unobserved())
    assert made["vnf"] == "v"


def test_a_standby_that_went_off_after_it_was_chosen_is_refused(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(vnf: Vnf, *given: Any, **how: Any) -> Any:
        made = choose(vnf, *given, **how)
        pair.a.servers["id-front"]["status"] = "SHUTOFF"
        return made

    monkeypatch.setattr(protect, "choose", chosen)
    with pytest.raises(PreflightFailed, match="off by now"):
        pair.protect()
    assert not touched(pair)


def test_a_flavor_with_a_smaller_root_disk_takes_no_clone(pair: World) -> None:
    for number, server in enumerate(("id-db", "id-front"), 1):
        pair.a.boots_from_image(server, b"written by the guest")
        flavor = pair.a.servers[server]["flavor"]
        pair.a.servers[server]["flavor"] = {**flavor, "disk": number}
    vnf = with_capture(option="server-snapshot")
    protections = [{"option": "server-snapshot", "quiesce": {"required": False}}]
    pair.here.vnfs.put(
        Vnf.model_validate(vnf.model_dump(mode="json") | {"protections": protections})
    )
    with pytest.raises(PreflightFailed, match="root disk of its flavor has 1 GiB"):
        pair.protect()
    assert not touched(pair)


def test_no_two_volumes_are_made_of_one_backup_at_once(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cinder takes both, and cancels the restore of one when that of the other is done."""
    pair.protect()
    both, met, create = threading.Barrier(2), list[str](), backup._create

    def creates(r: Any, volume: Any, *given: Any) -> str:
        try:
            both.wait(2)
            met.append(volume.label)
        except threading.BrokenBarrierError:
            both.reset()
        return create(r, volume, *given)

    monkeypatch.setattr(backup, "_create", creates)
    assert set(pair.failover()["servers"]) == {"db", "front"}
    assert not met


def test_a_recovery_of_clones_is_forecast(pair: World) -> None:
    pair.protect()
    pair.failover()
    restored = [
        s.result["moved_bytes"]
        for row in pair.here.runs.all("v")
        if row.kind == "failover"
        for s in pair.here.runs.steps(row.id)
        if s.name == Steps.RESTORE_VOLUME.words
    ]
    assert len(restored) == 2
    assert len(set(restored)) == 1
    assert restored[0] > 0
    made = forecast.forecast(pair.here, newest(pair), "site-b", kind_of("failover"))
    assert made.back_in_s is not None


def test_a_clone_is_forecast_to_wait_for_its_turn(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Steps.RESTORE_VOLUME.words
    found = Measured(volumes={words: [Sample(1.0, 10.0)]}, boots={"v": [1.0]})
    for provider in PROVIDERS.names:
        monkeypatch.setattr(type(PROVIDERS.get(provider)), "moved_bytes", lambda *_: 1)

    def volumes() -> list[list[float]]:
        roads = forecast._roads(pair.here, newest(pair), "site-b", found)
        work = forecast._work(newest(pair), found, roads, kind_of("failover"), typical)
        return [list(server.volumes_s) for server in work.servers]

    pair.protect()
    assert sorted(map(sum, volumes())) == [10.0, 20.0]
    pair.here.vnfs.put(VNF)
    pair.protect()
    assert sorted(map(sum, volumes())) == [10.0, 10.0]


def test_a_point_without_a_member_is_recovered_by_a_file_that_orders_its_boot(
    pair: World,
) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    pair.protect()
    addresses = {"name": "v.example.org", "members": ["db"]}
    changed = with_capture([], front={"boot_after": ["db"]}).model_dump(mode="json")
    pair.here.vnfs.put(Vnf.model_validate(changed | {"dns": [addresses]}))
    prepared = prepare(pair.here, "v", "site-b", None)
    assert [(s.name, s.after) for s in prepared.plan.servers] == [("front", [])]
    assert not prepared.plan.dns


def test_a_migration_moves_a_member_that_does_not_come_back_otherwise(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    monkeypatch.setattr(fence, "POLL_S", 0.005)
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    here = pair.process()
    migrate(here, migrating(prepare_migration(here, "v")), Unobserved())
    assert sorted(s["name"] for s in pair.b.servers.values()) == ["db", "front"]
    assert {s["status"] for s in pair.a.servers.values()} == {"SHUTOFF"}
    assert "quiesce db" not in pair.a.events


def test_what_only_a_member_that_does_not_come_back_lacks_is_found_before_any_is_off(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    here = pair.process()
    planned = migrating(prepare_migration(here, "v"))
    pair.a.servers["id-db"]["flavor"]["original_name"] = "huge"
    with pytest.raises(PreflightFailed, match="huge"):
        migrate(here, planned, Unobserved())
    assert {s["status"] for s in pair.a.servers.values()} == {"ACTIVE"}
    assert not [e for e in pair.a.events if "stop" in e]
    assert pair.b.servers == {}
    with pytest.raises(PreflightFailed, match="huge"):  # by its point it is known beforehand
        prepare_migration(pair.process(), "v")


def test_a_migration_captures_and_moves_all_members(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    monkeypatch.setattr(fence, "POLL_S", 0.005)
    pair.protect()
    here = pair.process()
    migrate(here, migrating(prepare_migration(here, "v")), Unobserved())
    point = newest(pair)
    assert (point.clones, point.consistency) == ({}, "application")
    backups = {
        v["metadata"].get("src_backup_id") or v["backup_id"] for v in pair.b.volumes.values()
    }
    assert len(backups) == 2


def test_a_migration_captures_no_root_disk_that_is_made_again(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "POLL_S", 0.005)
    monkeypatch.setattr(fence, "POLL_S", 0.005)
    pair.a.boots_from_image("id-db", b"what the guest has written")
    for cloud in (pair.a, pair.b):
        cloud.flavors[0]["disk"] = 1
    add_image(pair, "own")
    pair.here.vnfs.put(with_capture(db={"recover": "rebuild"}))
    here = pair.process()
    migrate(here, migrating(prepare_migration(here, "v")), Unobserved())
    assert {s["name"]: s.get("imageRef") for s in pair.b.servers.values()}["db"] == "own"
    assert {s["status"] for s in pair.a.servers.values()} == {"SHUTOFF"}


def test_a_selector_of_members_that_did_not_come_back_finds_none(pair: World) -> None:
    pair.a.servers["id-db"]["tags"] = ["serving"]
    fields = with_capture().model_dump(mode="json")
    serving = {"name": "serving", "select": {"tag": "serving"}, "role": "active"}
    members = [serving | {"recover": "none"}, fields["members"][1]]
    pair.here.vnfs.put(Vnf.model_validate(fields | {"members": members}))
    assert pair.protect()["not_captured"] == {"db": "not recovered"}
    assert set(pair.failover()["servers"]) == {"front"}
    record = pair.protect()
    assert (record["members"], record["consistency"]) == (["front"], "application")
    assert [s.name for s in newest(pair).topology.servers] == ["front"]
    assert not look(pair.here, "v").untouched


def test_a_server_that_did_not_come_back_is_of_the_old_copy_when_its_points_are_gone(
    pair: World,
) -> None:
    pair.here.vnfs.put(with_capture(db={"recover": "none"}))
    pair.protect()
    pair.failover()
    for point, _ in list(points.list_points(pair.here.vault, "v")):
        for name in pair.here.vault.list("v/"):
            if point in name:
                pair.here.vault.delete(name)
    assert not list(points.list_points(pair.here.vault, "v"))
    standing = activity.decided(pair.here, "v")
    assert set(fence.old_copy(pair.here, standing, "site-a").servers) == {"id-db", "id-front"}


def test_failing_back_leaves_the_clone_untouched_again(pair: World) -> None:
    pair.protect()
    pair.failover()
    pair.b.events.clear()
    assert pair.protect()["not_captured"] == {"db": "a clone of front"}
    assert newest(pair).site == "site-b"
    quiesced = [e for e in pair.b.events if e.startswith("quiesce")]
    assert len(quiesced) == 1
