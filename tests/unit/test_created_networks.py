# SPDX-License-Identifier: Apache-2.0
"""Networks and security groups of a recovery: which are created, once and whole, and which not."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.cloud.api import ApiError
from antipode.errors import Busy, PreflightFailed, ResourceFailed
from antipode.model.marks import as_tags
from antipode.model.point import RecoveryPoint
from antipode.model.steps import Unrecorded
from antipode.model.vnf import Mapping, Vnf
from antipode.recover.networks import create_networks, remove_twins, start_dhcp
from antipode.recover.plan import make_plan
from antipode.recover.ports import create_ports
from antipode.recover.recovery import network_key
from antipode.recover.rollback import made_at, remove
from antipode.runs import failover
from antipode.topology.discovery import discover
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, Refuse
from tests.unit.test_protect_steps import VNF as BARE
from tests.unit.test_protect_steps import back_up, recovery_point, snapshots

Json = dict[str, Any]
NETWORK: Json = {
    "id": "net-1",
    "name": "net",
    "description": "of the members",
    "mtu": 1400,
    "tags": ["red"],
    "provider:network_type": "vlan",
    "provider:physical_network": "left",
    "provider:segmentation_id": 7,
}
SUBNET: Json = {
    "id": "subnet-1",
    "name": "subnet",
    "network_id": "net-1",
    "cidr": "10.0.0.0/24",
    "ip_version": 4,
    "gateway_ip": None,
    "enable_dhcp": True,
    "dns_nameservers": ["10.0.0.53"],
    "tags": ["blue"],
}
RULES: list[Json] = [
    {"id": "r1", "direction": "ingress", "ethertype": "IPv4", "remote_group_id": "group-2"},
    {
        "id": "r2",
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": "tcp",
        "port_range_min": 80,
        "port_range_max": 80,
        "description": "web",
    },
]


@pytest.fixture
def here() -> FakeCloud:
    cloud = FakeCloud()
    cloud.networks = [dict(NETWORK)]
    cloud.subnets = [dict(SUBNET)]
    cloud.groups = [
        {"id": "group-1", "name": "default"},
        {"id": "group-2", "name": "peers", "security_group_rules": []},
        {
            "id": "group-3",
            "name": "web",
            "description": "of the web",
            "security_group_rules": [dict(r) for r in RULES],
        },
    ]
    cloud.ports["port-id-db"]["security_groups"] = ["group-3"]
    return cloud


@pytest.fixture
def there() -> FakeCloud:
    cloud = FakeCloud("site-b", empty=True)
    cloud.networks, cloud.subnets = [], []
    cloud.types = [{"id": "type-2", "name": "standard"}]
    return cloud


def point_of(cloud: FakeCloud, **changes: Any) -> RecoveryPoint:
    vnf = Vnf.model_validate(
        {
            **BARE.model_dump(),
            "map": {"volume_types": {"fast": "standard"}},
            "networks": "create",
            **changes,
        }
    )
    topology = discover(vnf, cloud.site)
    made = back_up(
        parts.protecting(cloud, vnf, "p"), topology, snapshots(cloud, topology, "p"), {}, {}
    )
    return recovery_point(topology, made, "p").model_copy(update={"vnf": vnf})


def recover(cloud: FakeCloud, point: RecoveryPoint, run: str = "run") -> list[str]:
    """The ids of the ports of `db`, with all that a plan creates for them."""
    recovery = parts.recovery(cloud, point, make_plan(point, cloud.site), run=run)
    create_networks(recovery)
    ports = create_ports(recovery, "db")
    start_dhcp(recovery)
    return ports


def problems_of(point: RecoveryPoint, cloud: FakeCloud) -> list[str]:
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point, cloud.site)
    return list(failure.value.problems)


def whole(cloud: FakeCloud) -> Json:
    """The networks and groups of a site, as their owner sees them."""

    def own(row: Json) -> Json:
        kept = {k: v for k, v in row.items() if k not in ("id", "network_id", "project_id", "tags")}
        tags = [t for t in row.get("tags", []) if not t.startswith("antipode:")]
        return {**kept, "tags": tags}

    names = {g["id"]: g["name"] for g in cloud.groups}
    return {
        "networks": [own(n) for n in cloud.networks],
        "subnets": [own(s) for s in cloud.subnets],
        "rules": {
            g["name"]: [
                {k: v for k, v in r.items() if k not in ("id", "security_group_id")}
                | {"remote_group_id": names.get(r.get("remote_group_id"))}
                for r in g.get("security_group_rules", [])
            ]
            for g in cloud.groups
        },
    }


def test_what_the_site_lacks_is_created_as_it_was(here: FakeCloud, there: FakeCloud) -> None:
    (port,) = recover(there, point_of(here))
    (network,) = there.networks
    assert (there.ports[port]["network_id"], network["mtu"]) == (network["id"], 1400)
    assert not [k for k in network if k.startswith("provider:")]
    found, before = whole(there), whole(here)
    assert found["rules"] == before["rules"] | {"default": []}
    assert found["subnets"] == before["subnets"]
    assert {k: found["networks"][0][k] for k in ("name", "description", "tags")} == {
        k: NETWORK[k] for k in ("name", "description", "tags")
    }


EVENTS = (
    "security group web",
    "rules",
    "tags of security-groups",
    "change of security-groups",
    "network net",
    "subnet subnet",
    "tags of subnets",
    "tags of networks",
    "change of networks",
    "port",
    "change of subnets",
)


@pytest.mark.parametrize("last", EVENTS)
@pytest.mark.parametrize("answered", [True, False])
def test_a_maker_that_dies_leaves_nothing_twice_and_nothing_half(
    here: FakeCloud, there: FakeCloud, last: str, answered: bool
) -> None:
    point = point_of(here)

    class Killed(BaseException):
        pass

    seen: list[str] = []

    def die(event: str) -> None:
        if seen:
            raise Killed
        if event.startswith(last):
            seen.append(event)
            if not answered:
                raise Killed  # before it takes effect

    there.before = die
    with pytest.raises(Killed):
        recover(there, point)
        raise Killed  # it was the very last event
    there.before = lambda event: None
    assert seen
    recover(there, point, "second")
    undisturbed = FakeCloud("site-b", empty=True)
    undisturbed.networks, undisturbed.subnets = [], []
    undisturbed.types = there.types
    recover(undisturbed, point)
    assert whole(there) == whole(undisturbed)


def test_dhcp_starts_only_when_all_ports_have_their_addresses(
    here: FakeCloud, there: FakeCloud
) -> None:
    point = point_of(here)
    recovery = parts.recovery(there, point, make_plan(point, there.site))
    create_networks(recovery)
    assert [s["enable_dhcp"] for s in there.subnets] == [False]
    create_ports(recovery, "db")
    start_dhcp(recovery)
    assert [s["enable_dhcp"] for s in there.subnets] == [True]
    before = len(there.events)
    start_dhcp(recovery)
    assert there.events[before:] == []


@pytest.mark.parametrize("kind", [failover.MakeNetworks, failover.StartDhcp, failover.MakeVipPorts])
def test_a_failover_without_its_claim_changes_no_network(
    here: FakeCloud, there: FakeCloud, kind: Any
) -> None:
    def is_lost() -> None:
        raise Busy("another failover has the claim")

    point = point_of(here)
    recovery = parts.recovery(there, point, make_plan(point, there.site))
    before = list(there.events)
    with pytest.raises(Busy):
        kind.execute.__wrapped__(kind(recovery, None, is_lost))
    assert there.events == before


def test_an_ipv6_subnet_with_a_mode_has_dhcp_from_the_beginning(
    here: FakeCloud, there: FakeCloud
) -> None:
    here.subnets.append(
        {
            **SUBNET,
            "id": "subnet-6",
            "cidr": "fd00::/64",
            "ip_version": 6,
            "ipv6_address_mode": "dhcpv6-stateful",
            "ipv6_ra_mode": "dhcpv6-stateful",
        }
    )
    point = point_of(here)
    create_networks(parts.recovery(there, point, make_plan(point, there.site)))
    assert {s["cidr"]: s["enable_dhcp"] for s in there.subnets} == {
        "10.0.0.0/24": False,
        "fd00::/64": True,
    }


def test_an_mtu_that_the_site_cannot_carry_is_left_to_it(here: FakeCloud, there: FakeCloud) -> None:
    point = point_of(here)
    tried: list[Json] = []

    def refuse(event: str) -> None:
        if event == "network net" and not tried:
            tried.append({})
            raise Refuse(400, "Requested MTU is too big, maximum is 1350")

    there.before = refuse
    recover(there, point)
    (network,) = there.networks
    assert "mtu" not in network


def test_a_refusal_that_is_not_about_the_mtu_is_a_failure(
    here: FakeCloud, there: FakeCloud
) -> None:
    point = point_of(here)

    def refuse(event: str) -> None:
        if event == "network net":
            raise Refuse(400, "no tenant network is available for allocation")

    there.before = refuse
    with pytest.raises(ResourceFailed):
        recover(there, point)


def test_provider_attributes_are_kept_only_where_the_file_asks_for_it_and_the_segment_is_free(
    here: FakeCloud, there: FakeCloud
) -> None:
    mapping = {"volume_types": {"fast": "standard"}, "physical_networks": {"left": "right"}}
    point = point_of(here, provider_attributes="keep", map=mapping)
    there.networks = [
        {
            **{k: v for k, v in NETWORK.items() if k.startswith("provider:")},
            "id": "other",
            "name": "other",
            "provider:physical_network": "right",
        }
    ]
    assert any("segment 7" in p for p in problems_of(point, there))
    there.networks = []
    recover(there, point)
    (network,) = there.networks
    assert {k: v for k, v in network.items() if k.startswith("provider:")} == {
        "provider:network_type": "vlan",
        "provider:physical_network": "right",
        "provider:segmentation_id": 7,
    }


def test_a_network_that_the_map_names_must_be_there(here: FakeCloud, there: FakeCloud) -> None:
    mapping = {"volume_types": {"fast": "standard"}, "networks": {"net": "net-b"}}
    assert any("net-b" in p for p in problems_of(point_of(here, map=mapping), there))


def test_a_network_of_another_project_is_never_created(here: FakeCloud, there: FakeCloud) -> None:
    here.networks[0] |= {"project_id": "somebody", "shared": True}
    assert any("there is no network net" in p for p in problems_of(point_of(here), there))


def test_a_group_of_the_name_is_used_and_its_rules_are_compared(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.groups.append(
        {
            "id": "web-b",
            "name": "web",
            "security_group_rules": [
                {"id": "x", "direction": "ingress", "ethertype": "IPv4", "protocol": "udp"}
            ],
        }
    )
    plan = make_plan(point_of(here), there.site)
    (web,) = [g for g in plan.security_groups if g.name == "web"]
    assert (web.is_created, web.group_id) == (False, "web-b")
    assert len([c for c in web.changes if c.startswith("it lacks")]) == 2
    assert len([c for c in web.changes if c.startswith("it also has")]) == 1
    assert [w for w in plan.warnings if "security group web" in w]


def test_two_groups_of_one_name_are_created_by_hand_and_mapped(
    here: FakeCloud, there: FakeCloud
) -> None:
    here.groups.append({"id": "group-4", "name": "web"})
    here.ports["port-id-app"]["security_groups"] = ["group-4"]
    with pytest.raises(PreflightFailed, match="several security groups of the VNF are named web"):
        make_plan(point_of(here), there.site)
    there.groups.append({"id": "web-b", "name": "web-b"})
    known = {"volume_types": {"fast": "standard"}, "security_groups": {"web": "web-b"}}
    plan = make_plan(point_of(here, map=known), there.site)
    assert {(g.name, g.is_created) for g in plan.security_groups if g.former == "web"} == {
        ("web-b", False)
    }


def test_quotas_count_what_is_created(here: FakeCloud, there: FakeCloud) -> None:
    for name in ("network", "subnet", "security_group", "security_group_rule"):
        there.quotas[name] = {"limit": 0}
    found = problems_of(point_of(here), there)
    for name, needed in (
        ("network", 1),
        ("subnet", 1),
        ("security_group", 2),
        ("security_group_rule", 4),
    ):
        assert any(p.startswith(f"quota {name} ") and f" {needed} more" in p for p in found), name


def test_a_rollback_removes_them_and_keeps_those_that_others_use(
    here: FakeCloud, there: FakeCloud
) -> None:
    point = point_of(here)
    plan = make_plan(point, there.site)
    recover(there, point)
    assert {w.split(" (")[0] for w in made_at(there.site, "run").values()} >= {
        "network net",
        "security group web",
        "security group peers",
    }
    stranger: Json = {
        "id": "stranger",
        "network_id": there.networks[0]["id"],
        "device_id": "",
        "name": "",
        "mac_address": "fa:16:3e:99:99:99",
        "fixed_ips": [],
    }
    there.ports["stranger"] = stranger
    left = remove(there.site, "run", plan, Unrecorded(), lambda: None)
    assert [w for w in left if w.startswith("network net")]
    assert (len(there.networks), [g["name"] for g in there.groups]) == (1, ["default"])
    del there.ports["stranger"]
    left = remove(there.site, "run", plan, Unrecorded(), lambda: None)
    assert not [w for w in left if w.startswith("network net")]
    assert (there.networks, there.subnets) == ([], [])


def test_a_network_that_came_through_late_is_removed_and_never_the_one_in_use(
    here: FakeCloud, there: FakeCloud
) -> None:
    point = point_of(here)
    plan = make_plan(point, there.site)
    (port,) = recover(there, point)
    used = there.ports[port]["network_id"]
    late: Json = {
        "id": "a-late-one",
        "name": "net",
        "description": f"antipode:key={network_key('net-1')} antipode:run=run",
        "tags": [],
        "created_at": "2020-01-01T00:00:00Z",
    }
    there.networks.insert(0, late)
    assert make_plan(point, there.site).networks[0].network_id == used
    assert remove_twins(there.site, plan) == []
    assert [n["id"] for n in there.networks] == [used]
    there.networks.append({**late, "tags": as_tags("x", network_key("net-1"))})
    assert len(remove_twins(there.site, plan)) == 1
    assert len(there.networks) == 2


def test_a_recovery_from_another_point_finds_it(here: FakeCloud, there: FakeCloud) -> None:
    point = point_of(here)
    recover(there, point)
    there.ports.clear()
    plan = make_plan(point.model_copy(update={"id": "another-point"}), there.site)
    assert plan.networks[0].network_id == there.networks[0]["id"]
    assert not [q for q in plan.quotas if q.resource in ("network", "subnet", "security_group")]


def test_a_network_that_is_complete_is_never_changed_again(
    here: FakeCloud, there: FakeCloud
) -> None:
    point = point_of(here)
    recover(there, point)
    there.ports.clear()
    there.subnets.clear()
    assert any("has no subnet 10.0.0.0/24" in p for p in problems_of(point, there))


def test_a_point_without_networks_maps_them(here: FakeCloud, there: FakeCloud) -> None:
    point = point_of(here)
    bare = point.topology.model_copy(update={"networks": [], "security_groups": []})
    old = point.model_copy(update={"topology": bare})
    assert any("there is no network net" in p for p in problems_of(old, there))
    there.networks = [{"id": "net-b", "name": "net"}]
    there.subnets = [{**SUBNET, "id": "subnet-b", "network_id": "net-b"}]
    there.groups.append({"id": "web-b", "name": "web"})
    assert not make_plan(old, there.site).creates_networks


def test_a_map_of_the_networks_counts_on_the_way_back(here: FakeCloud) -> None:
    vnf = point_of(here, map=Mapping(networks={"net": "net-b"})).vnf
    assert vnf.map_between("site-b", "site-a").networks == {"net-b": "net"}


def test_a_site_that_refuses_is_named_with_the_resource(here: FakeCloud, there: FakeCloud) -> None:
    point = point_of(here)

    def refuse(event: str) -> None:
        if event == "rules":
            raise Refuse(409, "Quota exceeded for resources: ['security_group_rule'].")

    there.before = refuse
    with pytest.raises(ResourceFailed) as failure:
        recover(there, point)
    assert isinstance(failure.value.__cause__, ApiError)
