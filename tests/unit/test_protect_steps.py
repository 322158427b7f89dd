# SPDX-License-Identifier: Apache-2.0
"""Discovery, the checks before protection, and backups: complete, incremental only on what the
manifest knows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from antipode.errors import NotFound, PreflightFailed, ResourceFailed, Stalled
from antipode.model.capture import Capture, QuiesceWindow, Transferred
from antipode.model.full_every import FullEvery
from antipode.model.point import RecoveryPoint
from antipode.model.topology import ServerGroup, Topology
from antipode.model.vnf import Answers, Member, Protection, Vnf
from antipode.protect.quiesced_snapshot import OPTION
from antipode.protect.snapshots import remove_snapshots
from antipode.runs.protect import problems_of
from antipode.topology.discovery import discover
from antipode.topology.losses import losses
from antipode.transfer import Earlier
from antipode.transfer.cinder_backup import TRANSFER, back_up
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, FakeTimeline, refuse

VNF = Vnf(
    vnf="v",
    primary="site-a",
    backup=["site-b"],
    members=[Member(server=s) for s in ("db", "app", "front")],
)
MOMENT = "2026-01-01T00:00:00+00:00"


def check_protect(vnf: Vnf, cloud: FakeCloud) -> None:
    protecting = parts.protecting(cloud, vnf, "run")
    if found := problems_of(protecting, discover(vnf, cloud.site), OPTION, TRANSFER):
        raise PreflightFailed("test", found)


def snapshots(cloud: FakeCloud, topology: Topology, key: str) -> Capture:
    made = {
        v.id: cloud.site.volumes.create_snapshot(v.id, "s", {"antipode:key": key}, 5)
        for v in topology.volumes
    }
    return Capture(
        snapshots=made, consistent_at=MOMENT, window=QuiesceWindow(total_s=1, per_member_s={})
    )


def recovery_point(topology: Topology, made: Transferred, name: str) -> RecoveryPoint:
    return RecoveryPoint(
        id=name,
        vnf=VNF,
        run=name,
        consistent_at=MOMENT,
        created_at=MOMENT,
        consistency="application",
        quiesce_window=None,
        topology=topology,
        sources=made.sources,
        made_by="test",
    )


def protect(
    cloud: FakeCloud,
    key: str,
    previous: RecoveryPoint | None = None,
    timeline: FakeTimeline | None = None,
) -> RecoveryPoint:
    topology = discover(VNF, cloud.site)
    protecting = parts.protecting(cloud, VNF, key, timeline=timeline or FakeTimeline())
    made = back_up(protecting, topology, snapshots(cloud, topology, key), stored(previous), {})
    return recovery_point(topology, made, key)


def stored(previous: RecoveryPoint | None) -> dict[str, RecoveryPoint]:
    """Volume id -> the newest recovery point that has a backup of it."""
    return {} if previous is None else dict.fromkeys(previous.sources, previous)


def earlier(previous: RecoveryPoint | None) -> Earlier:
    return lambda _disks: stored(previous)


def last(point: RecoveryPoint, volume: str) -> str:
    """The id of the backup that is restored for a volume."""
    return point.chain(volume)[-1].id


# Discovery.


def test_the_topology_has_the_members_in_order_with_devices_in_order_and_the_root_first() -> None:
    topology = discover(VNF, FakeCloud().site)
    assert [s.name for s in topology.servers] == ["db", "app", "front"]
    assert [(a.volume.name, a.is_root) for a in topology.server("app").attachments] == [
        ("app-root", True),
        ("app-data", False),
    ]
    db = topology.server("db")
    assert db.ports[0].fixed[0].address == "10.0.0.10"
    assert db.ports[0].fixed[0].subnet_cidr == "10.0.0.0/24"
    assert db.ports[0].security_groups == ["default"]
    assert (db.user_data, db.config_drive, db.keypair.public_key if db.keypair else None) == (
        "cm9sZQ==",
        True,
        "ssh-ed25519 AAAA me",
    )


def test_ports_have_the_order_in_which_nova_has_plugged_them() -> None:
    cloud = FakeCloud()
    first = {**cloud.ports["port-id-db"], "id": "port-first", "mac_address": "fa:16:3e:ff:ff:ff"}
    cloud.ports["port-first"] = first
    cloud.servers["id-db"]["addresses"]["net"].insert(
        0, {"addr": "10.0.0.99", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:ff:ff:ff"}
    )
    assert [p.id for p in discover(VNF, cloud.site).server("db").ports] == [
        "port-first",
        "port-id-db",
    ]


def test_the_group_of_a_server_is_found_among_the_groups_as_no_listing_of_servers_tells_it() -> (
    None
):
    cloud = FakeCloud()
    cloud.server_groups = [
        {"id": "g1", "name": "apart", "policy": "anti-affinity", "members": ["id-app", "id-front"]},
        {"id": "g2", "name": "others", "policy": "affinity", "members": ["id-else"]},
    ]
    groups = [s.server_group for s in discover(VNF, cloud.site).servers]
    assert groups == [
        None,
        ServerGroup(name="apart", policy="anti-affinity"),
        ServerGroup(name="apart", policy="anti-affinity"),
    ]


def test_marks_of_earlier_runs_are_not_part_of_the_topology() -> None:
    cloud = FakeCloud()
    cloud.servers["id-db"]["metadata"]["antipode:key"] = "old"
    cloud.volumes["db-root"]["metadata"]["antipode:run"] = "old"
    server = discover(VNF, cloud.site).server("db")
    assert server.metadata == {"role": "db"}
    assert server.volumes[0].metadata == {"kind": "root"}


def test_members_that_do_not_exist_or_are_not_unique_are_all_named() -> None:
    cloud = FakeCloud()
    del cloud.servers["id-front"]
    cloud.add_server("app", 7, "id-other-app")
    with pytest.raises(NotFound, match=r"app.*id-app, id-other-app.*front"):
        discover(VNF, cloud.site)


def test_a_member_can_be_named_by_id() -> None:
    vnf = Vnf(vnf="v", primary="site-a", backup=["site-b"], members=[Member(server="id-app")])
    assert [s.name for s in discover(vnf, FakeCloud().site).servers] == ["app"]


# Preflight.


def test_a_vnf_that_is_fit_passes() -> None:
    cloud = FakeCloud()
    check_protect(VNF, cloud)


def test_everything_that_is_wrong_is_told_at_once_and_nothing_was_done() -> None:
    cloud = FakeCloud()
    cloud.add_on = False
    cloud.backup_state = "down"
    cloud.servers["id-db"]["status"] = "PAUSED"
    cloud.servers["id-app"]["OS-EXT-STS:task_state"] = "image_snapshot"
    cloud.servers["id-front"]["flavor"]["ephemeral"] = 1
    cloud.volumes["app-root"]["volume_image_metadata"] = {}
    cloud.volumes["db-data"]["encrypted"] = True
    cloud.volumes["front-data"] |= {"attachments": [{"server_id": "id-else"}]}
    cloud.quotas = {"snapshots": {"limit": 5}, "backup_gigabytes": {"limit": 8, "in_use": 3}}
    with pytest.raises(PreflightFailed) as failure:
        check_protect(VNF, cloud)
    found = "\n".join(failure.value.problems)
    for words in (
        "nova-quiesce add-on",
        "server db is PAUSED",
        "server app is busy (image_snapshot)",
        "server front has an ephemeral disk",
        "server app has no guest agent",
        "encrypted are: db-data",
        "volume front-data is attached to a server, too, that is not captured",
        "cinder-backup is not up",
        "quota snapshots of the project: 6 more are needed, 5 of 5 are free",
        "quota backup_gigabytes of the project: 6 more are needed, 5 of 8 are free",
    ):
        assert words in found
    assert not cloud.events


@pytest.mark.parametrize("counted", [True, False])
def test_snapshots_need_gigabytes_unless_the_site_does_not_count_them(counted: bool) -> None:
    cloud = FakeCloud()
    cloud.quotas = {"gigabytes": {"limit": 5}, "gigabytes_fast": {"limit": 5}}
    cloud.site.snapshots_count_gigabytes = counted
    if not counted:
        check_protect(VNF, cloud)
        return
    with pytest.raises(PreflightFailed) as failure:
        check_protect(VNF, cloud)
    short = [problem.split()[1] for problem in failure.value.problems]
    assert short == ["gigabytes", "gigabytes_fast"]
    assert all("no_snapshot_gb_quota" in problem for problem in failure.value.problems)


@pytest.mark.parametrize("has_other", [False, True])
def test_a_member_that_no_probe_could_reach_is_found_before(has_other: bool) -> None:
    cloud = FakeCloud()
    for port in cloud.ports.values():
        if port["device_id"] == "id-app":
            port["fixed_ips"] = []
    at = {"site-b": "192.0.2.1"} if has_other else {}
    members = [
        m.model_copy(update={"answers": Answers(tcp=80, at=at)}) if m.server == "app" else m
        for m in VNF.members
    ]
    vnf = VNF.model_copy(update={"members": members})
    if has_other:
        check_protect(vnf, cloud)
        return
    with pytest.raises(PreflightFailed) as failure:
        check_protect(vnf, cloud)
    assert [p for p in failure.value.problems if "app" in p and "probe" in p]


@pytest.mark.parametrize(
    ("specs", "image", "words"),
    [
        ({"hw:tpm_version": "2.0"}, {}, ["TPM"]),
        ({}, {"hw_tpm_version": "2.0", "hw_firmware_type": "uefi"}, ["TPM", "UEFI"]),
        ({}, {"hw_firmware_type": "bios"}, []),
    ],
)
def test_what_a_hypervisor_keeps_of_a_server_is_said_to_be_lost(
    specs: dict[str, str], image: dict[str, str], words: list[str]
) -> None:
    cloud = FakeCloud()
    cloud.servers["id-app"]["flavor"]["extra_specs"] = specs
    cloud.volumes["app-root"]["volume_image_metadata"] |= image
    said = [x for x in losses(VNF, discover(VNF, cloud.site)) if "TPM" in x or "UEFI" in x]
    assert len(said) == len(words)
    for word in words:
        assert [x for x in said if word in x and "app" in x]


def test_servers_whose_machine_type_is_left_to_the_backup_site_are_named_in_one_line() -> None:
    def said(cloud: FakeCloud) -> list[str]:
        return [x for x in losses(VNF, discover(VNF, cloud.site)) if "machine type" in x]

    cloud = FakeCloud()
    cloud.volumes["app-root"]["volume_image_metadata"] |= {"hw_machine_type": "q35"}
    others = [s.name for s in discover(VNF, cloud.site).servers if s.name != "app"]
    (named,) = said(cloud)
    assert ", ".join(others) in named and "app" not in named
    for name in others:
        cloud.volumes[f"{name}-root"]["volume_image_metadata"] |= {"hw_machine_type": "pc"}
    assert said(cloud) == []


def test_a_member_that_is_off_needs_no_agent_and_a_vnf_that_is_off_no_add_on() -> None:
    cloud = FakeCloud()
    cloud.servers["id-db"]["status"] = "SHUTOFF"
    cloud.volumes["db-root"]["volume_image_metadata"] = {}
    check_protect(VNF, cloud)
    cloud.add_on = False
    with pytest.raises(PreflightFailed, match="add-on"):
        check_protect(VNF, cloud)
    for server in cloud.servers.values():
        server["status"] = "SHUTOFF"
    check_protect(VNF, cloud)


def test_a_guest_agent_that_does_not_answer_is_found_before_anything_is_frozen() -> None:
    cloud = FakeCloud()

    def dead_agent(event: str) -> None:
        if event == "unquiesce app":
            refuse(409, "QEMU guest agent is not connected")

    cloud.before = dead_agent
    with pytest.raises(PreflightFailed, match=r"app.*QEMU guest agent is not connected") as failure:
        check_protect(VNF, cloud)
    assert len(failure.value.problems) == 1
    assert set(cloud.events) == {"unquiesce db", "unquiesce front"}


def test_to_ask_a_guest_agent_thaws_nobody_whom_another_has_frozen() -> None:
    cloud = FakeCloud()
    cloud.frozen.add("id-app")
    check_protect(VNF, cloud)
    assert cloud.frozen == {"id-app"}


def test_a_volume_that_something_is_happening_to_is_found_before() -> None:
    cloud = FakeCloud()
    cloud.volumes["db-data"]["status"] = "extending"
    with pytest.raises(PreflightFailed, match=r"db-data.*db.*extending"):
        check_protect(VNF, cloud)


def test_members_of_one_name_are_found_before() -> None:
    cloud = FakeCloud()
    cloud.servers["id-app"]["name"] = "db"
    vnf = VNF.model_copy(update={"members": [Member(server=i) for i in ("id-db", "id-app")]})
    with pytest.raises(PreflightFailed, match="db"):
        check_protect(vnf, cloud)


def test_a_quiesce_timeout_longer_than_the_site_allows_is_found_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud = FakeCloud()
    monkeypatch.setattr(cloud.site.compute, "quiesce_support", lambda: {"maximum_timeout": 5})
    vnf = VNF.model_copy(
        update={"protections": [Protection.model_validate({"quiesce": {"timeout": 6}})]}
    )
    with pytest.raises(PreflightFailed, match=r"6 s.*site-a.*5 s"):
        check_protect(vnf, cloud)


# Backups.


def test_the_first_point_is_full_and_the_next_rests_on_it_and_names_the_whole_chain() -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    assert not first.incremental
    second = protect(cloud, "two", first)
    third = protect(cloud, "three", second)
    assert third.incremental
    for volume in third.sources:
        chain = third.chain(volume)
        assert [r.id for r in chain] == [
            last(first, volume),
            last(second, volume),
            last(third, volume),
        ]
        assert chain[0].parent_id is None


def test_a_backup_of_somebody_else_in_between_makes_the_next_one_full_and_says_why() -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    foreign = cloud.add_backup("db-data")
    timeline = FakeTimeline()
    second = protect(cloud, "two", first, timeline)
    assert second.chain("db-data")[-1].parent_id is None
    assert second.chain("db-root")[-1].parent_id == last(first, "db-root")
    assert foreign in str(timeline.facts[("1.6", "db-data")]["full_because"])


@pytest.mark.parametrize("broken", ["deleted", "error"])
def test_a_chain_that_is_not_whole_at_the_primary_any_more_is_not_continued(broken: str) -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    if broken == "deleted":
        del cloud.backups[last(first, "app-data")]
    else:
        cloud.backups[last(first, "app-data")]["status"] = "error"
    second = protect(cloud, "two", first)
    assert second.chain("app-data")[-1].parent_id is None


def test_a_chain_that_must_not_be_continued_is_not_though_cinder_calls_it_available() -> None:
    cloud, timeline = FakeCloud(), FakeTimeline()
    first = protect(cloud, "one")
    topology = discover(VNF, cloud.site)
    made = back_up(
        parts.protecting(cloud, VNF, "two", timeline=timeline),
        topology,
        snapshots(cloud, topology, "two"),
        stored(first),
        {"db-data": "objects are lost"},
    )
    assert {v for v, source in made.sources.items() if not source.incremental} == {"db-data"}
    assert made.full_because == {"db-data": "objects are lost"}
    assert last(first, "db-data") not in recovery_point(topology, made, "two").backups
    third = protect(cloud, "three", (of_two := recovery_point(topology, made, "two")))
    assert [r.id for r in third.chain("db-data")] == [
        last(of_two, "db-data"),
        last(third, "db-data"),
    ]


def test_a_volume_that_has_grown_or_is_new_gets_a_full_backup() -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    cloud.volumes["db-root"]["size"] = 2
    previous = first.model_copy(
        update={"sources": {v: s for v, s in first.sources.items() if v != "app-root"}}
    )
    second = protect(cloud, "two", previous)
    assert {v for v in second.sources if second.chain(v)[-1].parent_id is None} == {
        "db-root",
        "app-root",
    }


def test_an_increment_that_cinder_built_on_another_backup_after_all_is_replaced_by_a_full_one() -> (
    None
):
    cloud = FakeCloud()
    first = protect(cloud, "one")
    topology = discover(VNF, cloud.site)
    # not available yet when the backups are listed
    made_before = cloud.add_backup("front-data", status="creating", looks=10**6)
    snaps = snapshots(cloud, topology, "two")

    def becomes_available(event: str) -> None:
        if event == "incremental backup front-data":
            cloud.backups[made_before]["status"] = "available"

    cloud.before = becomes_available
    made = back_up(parts.protecting(cloud, VNF, "two"), topology, snaps, stored(first), {})
    of_two = recovery_point(topology, made, "two")
    record = of_two.chain("front-data")[-1]
    assert record.parent_id is None
    assert made_before in made.full_because["front-data"]
    assert "delete backup of front-data" in cloud.events
    assert made_before in cloud.backups
    assert set(of_two.backups) >= {last(first, "front-root")}


REASONS = (
    "Invalid backup: Hash block size has changed since the last backup. New hash block size: 65536."
    " Old hash block size: 32768. Do a full backup.",
    "Invalid backup: Volume size increased since the last backup. Do a full backup.",
    "Backup 5b3c could not be found.",
    "Object GET failed: https://store/v1/c/volume_1/2_sha256file 404 Not Found",
)


@pytest.mark.parametrize("reason", REASONS)
def test_an_increment_that_cannot_continue_its_chain_is_replaced_by_a_full_backup_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    cloud, timeline = FakeCloud(), FakeTimeline()
    first = protect(cloud, "one")
    add = cloud.add_backup

    def fails_on_a_parent(volume: str, **fields: Any) -> str:
        bad = {"becomes": "error", "fail_reason": reason}
        broken = volume == "db-data" and fields["parent_id"] is not None
        return add(volume, **fields, **(bad if broken else {}))

    monkeypatch.setattr(cloud, "add_backup", fails_on_a_parent)
    second = protect(cloud, "two", first, timeline)
    assert [r.parent_id for r in second.chain("db-data")] == [None]
    assert len(second.chain("db-root")) == 2
    assert reason in str(timeline.facts[("1.6", "db-data")]["full_because"])
    assert {b["status"] for b in cloud.backups.values()} == {"available"}


def test_an_increment_that_cinder_refuses_for_want_of_a_parent_is_replaced_by_a_full_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud, timeline = FakeCloud(), FakeTimeline()
    first = protect(cloud, "one")
    backup, reason = cloud._backup, "No backups available to do an incremental backup."

    def refuses(wanted: dict[str, Any]) -> str:
        if wanted["volume_id"] == "db-data" and wanted["incremental"]:
            refuse(400, reason)
        return backup(wanted)

    monkeypatch.setattr(cloud, "_backup", refuses)
    second = protect(cloud, "two", first, timeline)
    assert [r.parent_id for r in second.chain("db-data")] == [None]
    assert reason in str(timeline.facts[("1.6", "db-data")]["full_because"])


def test_an_increment_that_fails_as_the_store_does_is_a_failure_and_no_full_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    failing = partial(cloud.add_backup, becomes="error", fail_reason="503 Service Unavailable")
    monkeypatch.setattr(cloud, "add_backup", failing)
    cloud.events.clear()
    with pytest.raises(ResourceFailed, match="503"):
        protect(cloud, "two", first)
    assert not [e for e in cloud.events if e.startswith("full")]


def test_a_chain_ends_after_as_many_backups_as_the_policy_says() -> None:
    cloud, previous, lengths = FakeCloud(), None, []
    for number in range(7):
        topology = discover(VNF, cloud.site)
        protecting = parts.protecting(cloud, VNF, f"r{number}", full_every=FullEvery(backups=3))
        taken = snapshots(cloud, topology, f"r{number}")
        made = TRANSFER.transfer(protecting, topology, taken, earlier(previous))
        previous = recovery_point(topology, made, f"r{number}")
        lengths.append({len(previous.chain(v)) for v in previous.sources})
    assert lengths == [{1}, {2}, {3}, {1}, {2}, {3}, {1}]
    assert "full_every" in made.full_because["db-data"]


def test_a_chain_ends_when_its_full_backup_is_as_old_as_the_policy_says() -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    topology = discover(VNF, cloud.site)
    for days, lengths in (("100000d", {2}), ("1d", {1})):
        protecting = parts.protecting(
            cloud, VNF, days, full_every=FullEvery.model_validate({"age": days})
        )
        taken = snapshots(cloud, topology, days)
        made = TRANSFER.transfer(protecting, topology, taken, earlier(first))
        point = recovery_point(topology, made, days)
        assert {len(point.chain(v)) for v in point.sources} == lengths
        for backup in [b for b in cloud.backups if b not in first.backups]:
            del cloud.backups[backup]


def test_a_backup_that_an_interrupted_attempt_has_made_is_not_made_again() -> None:
    cloud = FakeCloud()
    topology = discover(VNF, cloud.site)
    snaps = snapshots(cloud, topology, "one")
    once = back_up(parts.protecting(cloud, VNF, "one"), topology, snaps, {}, {})
    again = back_up(parts.protecting(cloud, VNF, "one"), topology, snaps, {}, {})
    assert once.sources == again.sources
    assert sum("backup" in e for e in cloud.events) == 6


def test_a_backup_that_fails_is_named_with_cinders_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud = FakeCloud()
    cloud.before = lambda event: None
    topology = discover(VNF, cloud.site)
    snaps = snapshots(cloud, topology, "one")
    failing = partial(cloud.add_backup, becomes="error", fail_reason="store is full")
    monkeypatch.setattr(cloud, "add_backup", failing)
    with pytest.raises(ResourceFailed, match="store is full"):
        back_up(parts.protecting(cloud, VNF, "one"), topology, snaps, {}, {})


# What is left is removed.


def test_only_what_carries_the_key_is_removed() -> None:
    cloud = FakeCloud()
    first = protect(cloud, "one")
    protect(cloud, "two", first)
    foreign = cloud.add_backup("db-data")
    remove_snapshots(cloud.site, "two", FakeTimeline())
    TRANSFER.roll_back(parts.protecting(cloud, VNF, "two"))
    assert {s["metadata"]["antipode:key"] for s in cloud.snapshots.values()} == {"one"}
    assert set(cloud.backups) == {*first.backups, foreign}


def test_a_backup_that_shows_no_change_is_given_up_and_named() -> None:
    cloud = FakeCloud()
    cloud.looks_until_available = 10**9
    topology = discover(VNF, cloud.site)
    protecting = parts.protecting(cloud, VNF, "one", stalls_after_s=lambda size_gib: 0.0)
    cloud.looks_until_available = 0
    taken = snapshots(cloud, topology, "one")
    cloud.looks_until_available = 10**9
    with pytest.raises(Stalled, match="backup"):
        back_up(protecting, topology, taken, {}, {})
