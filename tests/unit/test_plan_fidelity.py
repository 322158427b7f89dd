# SPDX-License-Identifier: Apache-2.0
"""Whether a plan says what comes back otherwise than it was: flavors, zones, server groups,
user_data; and whether it finds the quotas that would refuse it.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from antipode.errors import PreflightFailed
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed
from antipode.model.state import ProtectedVnf
from antipode.model.topology import Flavor, Server, ServerGroup
from antipode.model.vnf import Answers, Mapping
from antipode.recover.plan import make_plan
from antipode.recover.ports import complete_ports, create_ports
from antipode.recover.servers import HOST, boot
from antipode.runs.failover import FailoverRequest
from antipode.topology.losses import losses
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_recovery import VNF, imported, point, recover, restored, there

__all__ = ["point", "there"]


def changed(point: RecoveryPoint, server: str, **changes: Any) -> RecoveryPoint:
    """The point with a server that has other properties."""

    def of(one: Server) -> Server:
        return one.model_copy(update=changes) if one.name == server else one

    servers = [of(s) for s in point.topology.servers]
    return point.model_copy(
        update={"topology": point.topology.model_copy(update={"servers": servers})}
    )


def mapped(point: RecoveryPoint, **names: Any) -> RecoveryPoint:
    """The point with more names mapped."""
    mapping = Mapping.model_validate(VNF.map.model_dump() | names)
    return point.model_copy(update={"vnf": point.vnf.model_copy(update={"map": mapping})})


def problems(point: RecoveryPoint, cloud: FakeCloud) -> list[str]:
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, cloud.site)
    return failure.value.problems


def warned(plan: RecoveryPlan, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in plan.warnings)


# Flavors.


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"ram": 64}, "RAM in MiB 64 instead of 128"),
        ({"vcpus": 2}, "VCPUs 2 instead of 1"),
        ({"disk": 10}, "disk in GiB 10 instead of 0"),
        ({"swap": 4096}, "swap in MiB 4096 instead of 512"),
        ({"OS-FLV-EXT-DATA:ephemeral": 20}, "ephemeral disk in GiB 20 instead of 0"),
        ({"extra_specs": {"hw:cpu_policy": "shared"}}, "hw:cpu_policy shared instead of dedicated"),
        ({"extra_specs": {}}, "hw:cpu_policy not set instead of dedicated"),
    ],
)
def test_each_difference_of_a_flavor_of_the_same_name_is_named(
    point: RecoveryPoint, there: FakeCloud, here: dict[str, Any], words: str
) -> None:
    specs = {"hw:cpu_policy": "dedicated"}
    had = point.topology.server("app").flavor
    assert (had.swap_mib, had.ephemeral_gib) == (0, 0)
    flavor = had.model_copy(update={"extra_specs": specs, "swap_mib": 512})
    there.flavors[0] |= {"extra_specs": specs, **here}
    plan = make_plan(changed(point, "app", flavor=flavor), there.site)
    assert warned(plan, "flavor small", "server app", words)


def test_disks_of_a_flavor_that_an_older_point_does_not_know_are_no_matter_for_a_warning(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.flavors[0] |= {"swap": 4096, "OS-FLV-EXT-DATA:ephemeral": 20}
    flavor = Flavor(name="small", vcpus=1, ram_mib=128, disk_gib=0)
    older = [s.model_copy(update={"flavor": flavor}) for s in point.topology.servers]
    topology = point.topology.model_copy(update={"servers": older})
    plan = make_plan(point.model_copy(update={"topology": topology}), there.site)
    assert not warned(plan, "flavor")


def test_a_flavor_with_equal_extra_specs_is_no_matter_for_a_warning(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.flavors[0]["extra_specs"] = {}
    assert not warned(make_plan(point, there.site), "flavor")


# Probes.


def without_address(point: RecoveryPoint, answers: Answers) -> RecoveryPoint:
    """The point with a member that has no fixed address, and is probed."""
    (port,) = point.topology.server("app").ports
    bare = changed(point, "app", ports=[port.model_copy(update={"fixed": []})])
    members = [
        m.model_copy(update={"answers": answers}) if m.server == "app" else m
        for m in point.vnf.members
    ]
    return bare.model_copy(update={"vnf": point.vnf.model_copy(update={"members": members})})


def test_a_probe_without_an_address_is_found_before_anything_is_restored(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    assert [p for p in problems(without_address(point, Answers(tcp=80)), there) if "app" in p]
    for answers in (
        Answers(tcp=80, at={"site-b": "192.0.2.1"}),
        Answers(console="login:"),
        Answers(command=["true"]),
    ):
        make_plan(without_address(point, answers), there.site)


# Cells.


def test_a_cell_that_is_down_is_named_and_stops_no_recovery(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    assert not warned(make_plan(point, there.site), "cell")
    there.servers["unseen"] = {"id": "unseen", "status": "UNKNOWN", "links": []}
    assert warned(make_plan(point, there.site), "cell", "unseen")


# Zones.


def zoned(point: RecoveryPoint) -> RecoveryPoint:
    return changed(point, "app", availability_zone="az-1")


def test_zones_of_nova_and_of_cinder_are_mapped_apart(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.zones, there.volume_zones = ["az-b"], ["store-b"]
    wanted = mapped(
        zoned(point), server_zones={"az-1": "az-b"}, availability_zones={"nova": "store-b"}
    )
    plan = make_plan(wanted, there.site)
    assert plan.server("app").availability_zone == "az-b"
    assert {v.availability_zone for s in plan.servers for v in s.volumes} == {"store-b"}


def test_any_zone_leaves_the_choice_to_the_site(point: RecoveryPoint, there: FakeCloud) -> None:
    there.zones = ["other"]
    found = problems(zoned(point), there)
    assert any("Nova has no availability zone az-1" in p for p in found)
    assert any("Cinder has no availability zone nova" in p for p in found)
    plan = make_plan(
        mapped(zoned(point), server_zones={"az-1": "any"}, volume_zones={"nova": "any"}), there.site
    )
    assert plan.server("app").availability_zone is None
    assert {v.availability_zone for s in plan.servers for v in s.volumes} == {None}


def test_the_way_back_maps_no_zone_from_any() -> None:
    back = Mapping(server_zones={"az-1": "any", "az-2": "b"}).reversed()
    assert back.server_zones == {"b": "az-2"}
    assert Mapping(server_group_policies={"apart": "soft-anti-affinity"}).reversed() == Mapping()


# Server groups.


def grouped(point: RecoveryPoint, policy: str = "anti-affinity", **rules: int) -> RecoveryPoint:
    group = ServerGroup(name="apart", policy=policy, rules=rules)
    for server in ("db", "app", "front"):
        point = changed(point, server, server_group=group)
    return point


def test_a_hard_policy_that_the_hosts_cannot_hold_is_a_problem_and_can_be_relaxed(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    (problem,) = problems(grouped(point), there)
    assert "server group apart" in problem
    assert "needs 3 hosts" in problem
    assert "has 1" in problem
    soft = mapped(grouped(point), server_group_policies={"apart": "soft-anti-affinity"})
    plan = make_plan(soft, there.site)
    assert warned(plan, "server group apart", "soft-anti-affinity instead of anti-affinity")
    recover(there, soft, plan, "app")
    (made,) = there.server_groups
    assert (made["name"], made["policy"], made.get("rules")) == (
        "apart",
        "soft-anti-affinity",
        None,
    )


def test_members_of_others_need_hosts_of_their_own_and_ours_are_not_counted_twice(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.hosts = ["one", "two", "three"]
    wanted = grouped(point)
    recover(there, wanted, make_plan(wanted, there.site), "db")
    make_plan(wanted, there.site)
    there.server_groups[0]["members"] = ["somebody"]
    (problem,) = problems(wanted, there)
    assert "needs 4 hosts" in problem


def test_a_group_comes_back_with_its_rules(point: RecoveryPoint, there: FakeCloud) -> None:
    there.hosts = ["one", "two"]
    wanted = grouped(point, max_server_per_host=2)
    recover(there, wanted, make_plan(wanted, there.site), "app")
    (made,) = there.server_groups
    assert (made["policy"], made["rules"]) == ("anti-affinity", {"max_server_per_host": 2})


def test_a_group_is_mapped_by_name_and_another_policy_of_it_is_named(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.server_groups = [{"id": "g", "name": "b", "policy": "soft-affinity", "members": []}]
    wanted = mapped(grouped(point), server_groups={"apart": "b"})
    plan = make_plan(wanted, there.site)
    assert warned(plan, "server group b", "soft-affinity instead of anti-affinity")
    booted = recover(there, wanted, plan, "app")
    assert there.servers[booted]["hints"] == {"group": "g"}


def test_hints_come_back_beside_the_group_but_for_those_about_hosts_of_the_former_site(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    hints = {"rack": ["second"], "different_host": ["id-db"]}
    there.server_groups = [{"id": "g", "name": "apart", "policy": "affinity", "members": []}]
    wanted = changed(grouped(point), "app", scheduler_hints=hints)
    booted = recover(there, wanted, make_plan(wanted, there.site), "app")
    assert there.servers[booted]["hints"] == {"group": "g", "rack": ["second"]}
    [lost] = [said for said in losses(wanted.vnf, wanted.topology) if "hint" in said]
    assert "server app" in lost and "different_host" in lost


def test_gaps_between_device_names_are_named_as_lost(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    db = next(s for s in point.topology.servers if s.name == "db")
    assert [a.device for a in db.attachments] == ["/dev/vda", "/dev/vdb"]
    with_gap = [db.attachments[0], db.attachments[1].model_copy(update={"device": "/dev/vdd"})]
    gapped = changed(point, "db", attachments=with_gap)
    topology = gapped.topology
    [said] = [text for text in losses(point.vnf, topology) if "gaps" in text]
    assert said in make_plan(gapped, there.site).warnings
    assert "server db" in said and "/dev/vdd as /dev/vdb" in said
    assert not [text for text in losses(point.vnf, point.topology) if "gaps" in text]
    swapping = db.flavor.model_copy(update={"swap_mib": 512})
    after_swap = [with_gap[0], with_gap[1].model_copy(update={"device": "/dev/vdc"})]
    topology = changed(point, "db", attachments=after_swap, flavor=swapping).topology
    assert not [text for text in losses(point.vnf, topology) if "gaps" in text]


def test_no_gap_is_named_where_devices_are_called_by_another_bus(point: RecoveryPoint) -> None:
    db = next(s for s in point.topology.servers if s.name == "db")
    swapping = db.flavor.model_copy(update={"swap_mib": 512})
    devices = ("/dev/sda", "/dev/sdc")  # swap is sdb
    of_scsi = [
        a.model_copy(update={"device": device})
        for a, device in zip(db.attachments, devices, strict=True)
    ]
    topology = changed(point, "db", attachments=of_scsi, flavor=swapping).topology
    assert not [text for text in losses(point.vnf, topology) if "gaps" in text]


def test_servers_of_one_group_are_placed_one_after_another(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    wanted = grouped(point, "soft-anti-affinity")
    there.host_of_new_servers = None
    plan = make_plan(wanted, there.site)
    waiting: set[str] = set()
    deadline = time.monotonic() + 60

    def look(event: str) -> None:
        if event.startswith("boot "):
            placed = [s.get(HOST) or s["status"] != "BUILD" for s in there.servers.values()]
            assert all(placed), f"{event} while another has no host"

    def go_on() -> None:
        # a thread waits, for its turn or for a host; when all do, the first one gets its host
        assert time.monotonic() < deadline, "another thread has failed"
        waiting.add(threading.current_thread().name)
        if len(waiting) == 3:
            for server in there.servers.values():
                server[HOST] = "compute-1"

    there.before = look
    volumes, ports = {}, {}
    for server in ("db", "app", "front"):
        ports[server] = create_ports(parts.recovery(there, wanted, plan), server)
        imported(there, wanted, server)
        volumes[server] = restored(there, wanted, plan, server)
    recovery = parts.recovery(there, wanted, plan, go_on=go_on)
    assert recovery.found.servers("none") == []  # listed once, before any is booted
    with ThreadPoolExecutor(3) as pool:
        booted = [
            pool.submit(boot, recovery, server, volumes[server], ports[server])
            for server in ("db", "app", "front")
        ]
        ids = [b.result(60) for b in booted]
    assert len(set(ids)) == 3
    assert [e for e in there.events if e.startswith("group ")] == ["group apart"]


# Quotas.


def test_a_volume_larger_than_one_may_be_and_a_group_with_too_many_members_are_problems(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.hosts = ["one", "two", "three"]
    there.quotas = {
        "per_volume_gigabytes": {"limit": 0},
        "server_group_members": {"limit": 2},
        "server_groups": {"limit": 0},
    }
    found = "\n".join(problems(grouped(point), there))
    assert "quota per_volume_gigabytes of the project: 1 more are needed" in found
    assert "quota server_group_members of apart of the project: 3 more are needed" in found
    assert "quota server_groups of the project: 1 more are needed" in found


def test_a_server_with_more_metadata_than_one_may_have_is_a_problem_our_marks_counted(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    booted = there.servers[recover(there, point, make_plan(point, there.site), "db")]
    ours = len(booted["metadata"]) - len(point.topology.server("db").metadata)
    there.quotas = {"metadata_items": {"limit": 128}}
    full = {f"key-{n}": "v" for n in range(128 - ours)}
    fits = make_plan(changed(point, "app", metadata=full), there.site)
    [need] = [q for q in fits.quotas if q.resource == "metadata_items of server app"]
    assert (need.needed, need.limit, need.is_short) == (128, 128, False)
    found = problems(changed(point, "app", metadata=full | {"one": "more"}), there)
    assert ["server app" in problem for problem in found] == [True]


@pytest.mark.parametrize(
    ("resource", "adds_up"),
    [("metadata_items of server app", False), ("per_volume_gigabytes", False), ("volumes", True)],
)
def test_what_one_server_or_volume_needs_does_not_add_up(resource: str, adds_up: bool) -> None:
    assert QuotaNeed(resource=resource, needed=1, used=0, limit=1).adds_up is adds_up


# user_data.


def with_user_data(point: RecoveryPoint, setting: str) -> RecoveryPoint:
    members = [
        m.model_copy(update={"user_data": setting}) if m.server == "app" else m
        for m in point.vnf.members
    ]
    return point.model_copy(update={"vnf": point.vnf.model_copy(update={"members": members})})


def test_a_plan_warns_of_user_data_that_runs_again_unless_the_vnf_file_decides(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    assert warned(make_plan(point, there.site), "user_data", "db, app, front")
    plan = make_plan(with_user_data(point, "keep"), there.site)
    assert warned(plan, "user_data", "db, front")
    assert plan.server("app").user_data == point.topology.server("app").user_data


def test_user_data_that_is_dropped_does_not_come_back_when_the_run_is_resumed_either(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    wanted = with_user_data(point, "drop")
    plan = make_plan(wanted, there.site)
    assert plan.server("app").user_data is None
    state = ProtectedVnf(vnf="v", active_site="site-a", generation=1)
    request = FailoverRequest.confirmed(wanted, "", plan, state)
    kept = request.whole_plan(wanted)
    assert [s.user_data for s in kept.servers] == ["cm9sZQ==", None, "cm9sZQ=="]
    booted = recover(there, wanted, kept, "app")
    assert "user_data" not in there.servers[booted]


# Servers that are off or locked.


def test_a_server_that_was_off_boots_cut_off_from_its_networks_and_is_switched_off(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    wanted = changed(point, "app", is_off=True, locked=True, locked_reason="not to be touched")
    plan = make_plan(wanted, there.site)
    up: list[bool] = []

    def look(event: str) -> None:
        if event in ("boot app", "os-stop app"):
            up.extend(p.get("admin_state_up", True) for p in there.ports.values())

    there.before = look
    booted = recover(there, wanted, plan, "app")
    recovery = parts.recovery(there, wanted, plan)
    complete_ports(recovery, "app", [n["port"] for n in there.servers[booted]["networks"]])
    assert up == [False, False]
    assert [p["admin_state_up"] for p in there.ports.values()] == [True]
    assert (there.servers[booted]["status"], there.servers[booted]["locked"]) == ("SHUTOFF", True)
    before = len(there.events)
    assert recover(there, wanted, plan, "app") == booted
    assert [e for e in there.events[before:] if e.startswith(("boot", "os-", "lock"))] == []


def test_a_server_that_was_off_is_not_probed(point: RecoveryPoint, there: FakeCloud) -> None:
    members = [
        m.model_copy(update={"answers": Answers(tcp=22)}) if m.server == "app" else m
        for m in point.vnf.members
    ]
    asked = point.model_copy(update={"vnf": point.vnf.model_copy(update={"members": members})})
    assert make_plan(asked, there.site).server("app").answers is not None
    off = changed(asked, "app", is_off=True)
    assert make_plan(off, there.site).server("app").answers is None
