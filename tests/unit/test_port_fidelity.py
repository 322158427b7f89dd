# SPDX-License-Identifier: Apache-2.0
"""Ports come back as they were, with their trunks, VIPs and floating IPs; a loss is named."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from antipode.errors import PreflightFailed, ResourceFailed
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.steps import Unrecorded
from antipode.model.vnf import Mapping, Vnf
from antipode.recover.plan import make_plan
from antipode.recover.ports import complete_ports, create_ports, create_vip_ports
from antipode.recover.rollback import remove
from antipode.topology.discovery import discover
from antipode.topology.losses import losses
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_protect_steps import VNF as BARE
from tests.unit.test_protect_steps import back_up, recovery_point, snapshots
from tests.unit.test_recovery import VNF, of, there

__all__ = ["there"]

Json = dict[str, Any]


def point_of(cloud: FakeCloud, vnf: Vnf = BARE, mapping: Mapping = VNF.map) -> RecoveryPoint:
    """A recovery point of the VNF as it is in a cloud now."""
    topology = discover(vnf, cloud.site)
    made = back_up(
        parts.protecting(cloud, vnf, "p"), topology, snapshots(cloud, topology, "p"), {}, {}
    )
    point = recovery_point(topology, made, "p")
    return point.model_copy(update={"vnf": vnf.model_copy(update={"map": mapping})})


def mapped(**names: Any) -> Mapping:
    return Mapping.model_validate(VNF.map.model_dump() | names)


def ports_of(cloud: FakeCloud, point: RecoveryPoint, server: str = "db") -> list[Json]:
    """The ports of a server as a recovery makes them."""
    recovery = parts.recovery(cloud, point, make_plan(point, cloud.site))
    return [cloud.ports[p] for p in create_ports(recovery, server)]


def warned(plan: RecoveryPlan, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in plan.warnings)


RICH: Json = {
    "name": "db-signalling",
    "description": "of the signalling network",
    "admin_state_up": False,
    "extra_dhcp_opts": [{"opt_name": "tftp-server", "opt_value": "10.0.0.9", "ip_version": 4}],
    "dns_domain": "vnf.example.",
    "qos_policy_id": "qos-1",
    "numa_affinity_policy": "preferred",
    "propagate_uplink_status": True,
    "allowed_address_pairs": [{"ip_address": "10.0.0.200", "mac_address": "fa:16:3e:00:00:00"}],
    "tags": ["one", "two"],
}


@pytest.fixture
def here() -> FakeCloud:
    cloud = FakeCloud()
    cloud.policies = [{"id": "qos-1", "name": "gold"}]
    cloud.ports["port-id-db"] |= RICH
    return cloud


def test_a_port_comes_back_with_all_that_neutron_takes(here: FakeCloud, there: FakeCloud) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    (port,) = ports_of(there, point_of(here))
    assert {k: port[k] for k in RICH if k != "tags"} == {
        **{k: v for k, v in RICH.items() if k != "tags"},
        "qos_policy_id": "qos-b",
    }


def test_networks_and_security_groups_are_read_side_by_side(
    here: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, networks = threading.Barrier(2, timeout=300), here.site.networks
    for name in ("networks", "security_groups"):
        read = getattr(networks, name)
        monkeypatch.setattr(networks, name, lambda *of, read=read: (both.wait(), read(*of))[1])
    found = discover(VNF, here.site)
    assert found.networks
    assert found.security_groups


def test_our_marks_cost_a_port_neither_its_description_nor_its_tags(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    point = point_of(here)
    (port,) = ports_of(there, point)
    assert port["description"] == RICH["description"]
    assert set(RICH["tags"]) < set(port["tags"])
    assert {tag for tag in port["tags"] if len(tag) > 60} == set()
    before = len(there.events)
    ports_of(there, point)
    assert there.events[before:] == []  # found by its tags, and as it is to be
    # and protected again, it has its owner's words alone
    there.ports[port["id"]]["device_id"] = "id-x"
    there.add_server("x", 9, "id-x")
    del there.ports["port-id-x"]
    vnf = Vnf.model_validate(
        {"vnf": "v", "primary": "site-b", "backup": "site-a", "members": [{"server": "x"}]}
    )
    (again,) = discover(vnf, there.site).server("x").ports
    assert (again.description, sorted(again.tags)) == (RICH["description"], RICH["tags"])


@pytest.mark.parametrize("died_after", ["port", "tag"])
def test_a_port_whose_maker_died_before_it_was_whole_is_completed(
    here: FakeCloud, there: FakeCloud, died_after: str
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    point = point_of(here)
    recovery = parts.recovery(there, point, make_plan(point, there.site))

    class Killed(BaseException):
        pass

    last = {"port": "tag", "tag": "describe"}[died_after]

    def die(event: str) -> None:
        if event.startswith(last):
            raise Killed

    there.before = die
    with pytest.raises(Killed):
        create_ports(recovery, "db")
    there.before = lambda event: None
    plan = make_plan(point, there.site)
    assert [q.needed for q in plan.quotas if q.resource == "port"] == [2]
    (port,) = ports_of(there, point)
    assert port["description"] == RICH["description"]
    assert set(RICH["tags"]) < set(port["tags"])
    assert len(of(there, "port")) == 1


def test_a_qos_policy_is_found_by_name_or_mapped_or_left_out(
    here: FakeCloud, there: FakeCloud
) -> None:
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point_of(here), there.site)
    assert any("there is no QoS policy gold" in p for p in failure.value.problems)
    there.policies = [{"id": "qos-b", "name": "silver"}]
    (port,) = ports_of(there, point_of(here, mapping=mapped(qos_policies={"gold": "silver"})))
    assert port["qos_policy_id"] == "qos-b"
    there.ports.clear()
    bare = point_of(here, mapping=mapped(qos_policies={"gold": "none"}))
    assert warned(make_plan(bare, there.site), "server db", "without its QoS policy gold")
    (port,) = ports_of(there, bare)
    assert "qos_policy_id" not in port


def test_what_neutron_of_the_backup_site_has_no_extension_for_is_named_and_left_out(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    there.extensions = ["qos"]
    point = point_of(here)
    plan = make_plan(point, there.site)
    for lost in ("extra_dhcp_opts", "dns_domain", "numa_affinity_policy"):
        assert warned(plan, "server db loses", lost)
    (port,) = ports_of(there, point)
    assert not {"extra_dhcp_opts", "dns_domain", "port_security_enabled"} & set(port)


def test_a_dns_name_that_is_no_hostname_is_given_when_the_server_is_active(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    for server in ("db", "app"):
        here.servers[f"id-{server}"]["OS-EXT-SRV-ATTR:hostname"] = server
    here.ports["port-id-db"]["dns_name"] = "signalling"
    here.ports["port-id-app"]["dns_name"] = "app"
    point = point_of(here)
    recovery = parts.recovery(there, point, make_plan(point, there.site))
    made = create_ports(recovery, "db")
    assert not there.ports[made[0]].get("dns_name")
    complete_ports(recovery, "db", made)
    assert there.ports[made[0]]["dns_name"] == "signalling"
    others = create_ports(recovery, "app")
    complete_ports(recovery, "app", others)
    assert not there.ports[others[0]].get("dns_name")


def test_a_port_of_another_vnic_type_comes_back_so_and_without_a_profile_that_may_not_be_given(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    here.ports["port-id-db"] |= {
        "binding:vnic_type": "direct",
        "binding:profile": {"trusted": "true", "pci_slot": "0000:05:00.1"},
    }
    here.ports["port-id-app"]["binding:vnic_type"] = "direct-physical"
    point = point_of(here)
    assert point.topology.server("db").ports[0].binding_profile == {"trusted": "true"}
    (port,) = ports_of(there, point)
    assert (port["binding:vnic_type"], port["mac_address"]) == ("direct", "fa:16:3e:00:00:00")
    assert "binding:profile" not in port
    (physical,) = ports_of(there, point, "app")
    assert physical["mac_address"] != "fa:16:3e:00:00:01"
    assert ports_of(there, point, "app") == [physical]


def test_a_network_without_subnet_that_filters_takes_no_server(
    here: FakeCloud, there: FakeCloud
) -> None:
    here.ports = {"port-id-db": {**here.ports["port-id-app"], "device_id": "id-db"}}
    here.ports["port-id-db"]["fixed_ips"] = []
    there.subnets = []
    there.networks[0]["port_security_enabled"] = True
    with pytest.raises(PreflightFailed, match="Nova boots no server on it"):
        make_plan(point_of(here), there.site)
    there.networks[0]["port_security_enabled"] = False
    make_plan(point_of(here), there.site)


# Ports of no server.


def vip(cloud: FakeCloud, address: str = "10.0.0.200", **more: Any) -> Json:
    port = {
        **cloud.ports["port-id-db"],
        "id": "port-vip",
        "name": "vip",
        "mac_address": "fa:16:3e:00:00:aa",
        "device_id": "",
        "device_owner": "vip:hlr",
        "fixed_ips": [{"ip_address": address, "subnet_id": "subnet-1"}],
        "allowed_address_pairs": [],
        **more,
    }
    cloud.ports["port-vip"] = port
    return port


def test_a_port_of_no_server_whose_address_a_member_may_use_comes_back(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    vip(here)
    vip(here, "10.0.0.201")["id"] = "other"
    here.ports["other"] = here.ports.pop("port-vip")
    vip(here)
    point = point_of(here)
    assert [p.name for p in point.topology.vip_ports] == ["vip"]
    plan = make_plan(point, there.site)
    assert [q.needed for q in plan.quotas if q.resource == "port"] == [4]
    recovery = parts.recovery(there, point, plan)
    (made,) = create_vip_ports(recovery)
    port = there.ports[made]
    assert (port["name"], port["device_owner"], port["description"]) == (
        "vip",
        "vip:hlr",
        RICH["description"],
    )
    assert port["fixed_ips"] == [{"ip_address": "10.0.0.200", "subnet_id": "subnet-2"}]
    assert port["mac_address"] == "fa:16:3e:00:00:aa"
    assert create_vip_ports(recovery) == [made]


def test_a_port_of_no_server_is_named_in_the_vnf_file(here: FakeCloud) -> None:
    vip(here, "10.0.0.99")
    assert discover(BARE, here.site).vip_ports == []
    named = BARE.model_copy(update={"ports": ["vip"]})
    assert [p.id for p in discover(named, here.site).vip_ports] == ["port-vip"]
    unknown = BARE.model_copy(update={"ports": ["vip", "nobody"]})
    with pytest.raises(ResourceFailed, match="nobody"):
        discover(unknown, here.site)


def test_a_vip_that_somebody_has_at_the_backup_site_is_a_problem(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    vip(here)
    there.ports["theirs"] = {
        **here.ports["port-vip"],
        "id": "theirs",
        "network_id": "net-2",
        "description": "",
        "tags": [],
    }
    with pytest.raises(PreflightFailed) as failure:
        make_plan(point_of(here), there.site)
    assert any("address 10.0.0.200 of port vip is in use" in p for p in failure.value.problems)


def with_range(here: FakeCloud, there: FakeCloud, pair: str) -> RecoveryPoint:
    """A point of a VNF whose member may use a range, with a VIP port in it whose address another
    has at the backup site.
    """
    there.policies = [{"id": "qos-b", "name": "gold"}]
    here.ports["port-id-db"]["allowed_address_pairs"] = [{"ip_address": pair}]
    vip(here, "10.0.0.222")
    there.ports["theirs"] = {**here.ports["port-vip"], "id": "theirs", "network_id": "net-2"}
    there.ports["theirs"] |= {"description": "", "tags": [], "mac_address": "fa:16:3e:00:00:77"}
    return point_of(here)


@pytest.mark.parametrize("pair", ["10.0.0.222/32", "10.0.0.216/29", "10.0.0.217/29"])
def test_a_range_in_a_subnet_is_about_the_ports_of_no_server_in_it(
    here: FakeCloud, there: FakeCloud, pair: str
) -> None:
    point = with_range(here, there, pair)
    assert [p.name for p in point.topology.vip_ports] == ["vip"]
    assert point.topology.not_carried == []
    with pytest.raises(PreflightFailed, match=r"address 10\.0\.0\.222 of port vip is in use"):
        make_plan(point, there.site)
    here.ports.pop("port-vip")  # the address is taken by what the guests themselves say
    assert warned(make_plan(point_of(here), there.site), "10.0.0.222", "server db may use too")


@pytest.mark.parametrize("pair", ["10.0.0.0/24", "10.0.0.1/24", "0.0.0.0/0"])
def test_a_range_with_a_whole_subnet_says_which_ports_of_no_server_are_left_out(
    here: FakeCloud, there: FakeCloud, pair: str
) -> None:
    point = with_range(here, there, pair)
    assert point.topology.vip_ports == []
    assert [x for x in losses(BARE, point.topology) if "vip (10.0.0.222)" in x]
    plan = make_plan(point, there.site)
    assert warned(plan, "vip (10.0.0.222)")
    assert not warned(plan, "server db may use too")
    named = discover(BARE.model_copy(update={"ports": ["vip"]}), here.site)
    assert ([p.name for p in named.vip_ports], named.not_carried) == (["vip"], [])


def test_a_range_is_about_its_own_network_and_its_own_version_of_addresses(
    here: FakeCloud,
) -> None:
    here.networks.append({"id": "net-o", "name": "other"})
    here.ports["port-id-app"]["network_id"] = "net-o"
    pairs = [{"ip_address": "10.0.0.216/29"}, {"ip_address": "::/0"}, {"ip_address": "0.0.0.0/0"}]
    here.ports["port-id-db"]["allowed_address_pairs"] = pairs
    vip(here, "10.0.0.222", network_id="net-o")
    found = discover(BARE, here.site)
    assert (found.vip_ports, found.not_carried) == ([], [])


# Trunks.


def trunked(cloud: FakeCloud) -> None:
    """The port of db gets a trunk with a subport."""
    below = {
        **cloud.ports["port-id-db"],
        "id": "port-below",
        "name": "below",
        "mac_address": "fa:16:3e:00:00:bb",
        "device_id": "",
        "device_owner": "trunk:subport",
        "fixed_ips": [{"ip_address": "10.0.0.77", "subnet_id": "subnet-1"}],
    }
    cloud.ports["port-below"] = below
    cloud.ports["port-id-db"]["trunk_details"] = {"trunk_id": "t"}
    cloud.trunks["t"] = {
        "id": "t",
        "name": "db-trunk",
        "description": "of db",
        "admin_state_up": True,
        "tags": ["blue"],
        "port_id": "port-id-db",
        "sub_ports": [
            {"port_id": "port-below", "segmentation_type": "vlan", "segmentation_id": 100}
        ],
    }


def test_a_trunk_comes_back_with_its_subports_and_is_removed_with_them(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    trunked(here)
    point = point_of(here)
    plan = make_plan(point, there.site)
    assert [q.needed for q in plan.quotas if q.resource == "port"] == [4]
    (parent,) = ports_of(there, point)
    (trunk,) = there.trunks.values()
    assert (trunk["name"], trunk["description"], trunk["tags"], trunk["port_id"]) == (
        "db-trunk",
        "of db",
        ["blue"],
        parent["id"],
    )
    ((below,)) = trunk["sub_ports"]
    assert (below["segmentation_type"], below["segmentation_id"]) == ("vlan", 100)
    assert there.ports[below["port_id"]]["mac_address"] == "fa:16:3e:00:00:bb"
    ports_of(there, point)
    assert len(there.trunks) == 1
    assert remove(there.site, "run", plan, Unrecorded(), lambda: None) == []
    assert (there.trunks, there.ports) == ({}, {})


@pytest.mark.parametrize("pair", ["10.0.0.222", "10.0.0.222/32"])
def test_a_port_of_no_server_whose_address_a_subport_may_use_comes_back(
    here: FakeCloud, pair: str
) -> None:
    trunked(here)
    here.networks.append({"id": "net-below", "name": "below"})
    here.subnets.append(
        {"id": "s-below", "name": "s", "network_id": "net-below", "cidr": "10.0.0.0/24"}
    )
    here.ports["port-id-db"]["allowed_address_pairs"] = []
    on = {"network_id": "net-below"}
    fixed = [{"ip_address": "10.0.0.222", "subnet_id": "s-below"}]
    here.ports["port-below"] |= on | {"allowed_address_pairs": [{"ip_address": pair}]}
    vip(here, "10.0.0.222", **on)["fixed_ips"] = fixed
    assert [p.name for p in discover(BARE, here.site).vip_ports] == ["vip"]


def test_a_trunk_that_neutron_does_not_know_is_a_problem(here: FakeCloud, there: FakeCloud) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    there.extensions.remove("trunk")
    trunked(here)
    with pytest.raises(PreflightFailed, match="has no trunks, needed for server db"):
        make_plan(point_of(here), there.site)


# Floating IPs.


def public(cloud: FakeCloud, address: str, port: str | None, fixed: str | None = None) -> None:
    cloud.floating_ips.append(
        {
            "id": f"floating-{address}",
            "floating_ip_address": address,
            "floating_network_id": "net-public",
            "port_id": port,
            "fixed_ip_address": fixed,
        }
    )


def test_a_floating_ip_is_named_as_lost_or_another_takes_its_place(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    public(here, "203.0.113.7", "port-id-db", "10.0.0.10")
    public(here, "203.0.113.8", "port-of-somebody", "10.0.0.99")
    point = point_of(here)
    assert [f.address for f in point.topology.floating_ips] == ["203.0.113.7"]
    assert warned(make_plan(point, there.site), "floating IP 203.0.113.7", "is lost")
    wanted = point_of(here, mapping=mapped(floating_ips={"203.0.113.7": "198.51.100.7"}))
    with pytest.raises(PreflightFailed, match=r"no floating IP 198\.51\.100\.7"):
        make_plan(wanted, there.site)
    public(there, "198.51.100.7", "somebody")
    with pytest.raises(PreflightFailed, match="leads to port somebody"):
        make_plan(wanted, there.site)
    del there.floating_ips[0]["port_id"]  # as Neutron may show one of no port
    (port,) = ports_of(there, wanted)
    assert there.floating_ips[0]["port_id"] == port["id"]
    assert there.floating_ips[0]["fixed_ip_address"] == "10.0.0.10"
    make_plan(wanted, there.site)  # it leads to a port of ours


@pytest.mark.parametrize("names_port", [True, False])
def test_port_forwardings_are_named_as_lost(
    here: FakeCloud, there: FakeCloud, names_port: bool
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    public(here, "203.0.113.9", None)
    address = here.ports["port-id-db"]["fixed_ips"][0]["ip_address"]
    rule: Json = {"protocol": "tcp", "external_port": 2022, "internal_port": 22}
    rule |= {"internal_ip_address": address} | (
        {"internal_port_id": "port-id-db"} if names_port else {}
    )
    other = {**rule, "external_port": 3022, "internal_ip_address": "10.9.9.9"}
    other |= {"internal_port_id": "port-of-somebody"} if names_port else {}
    here.floating_ips[0]["port_forwardings"] = [rule, other]
    point = point_of(here)
    (said,) = point.topology.not_carried
    assert all(w in said for w in ("203.0.113.9", "2022/tcp", f"{address}:22", "server db"))
    assert said in losses(BARE, point.topology)
    assert warned(make_plan(point, there.site), said)
    here.ports["port-id-db"]["fixed_ips"][0]["ip_address"] = "10.0.0.99"
    assert len(discover(BARE, here.site).not_carried) == (1 if names_port else 0)


def test_a_forwarding_of_a_range_of_ports_is_named_without_them(here: FakeCloud) -> None:
    public(here, "203.0.113.9", None)
    address = here.ports["port-id-db"]["fixed_ips"][0]["ip_address"]
    rule = {"protocol": "udp", "internal_ip_address": address, "internal_port_id": "port-id-db"}
    here.floating_ips[0]["port_forwardings"] = [rule]
    (said,) = discover(BARE, here.site).not_carried
    assert f"udp to {address} of server db" in said
    assert "None" not in said


# The order of the interfaces.


def plugged(cloud: FakeCloud, *networks: str) -> list[str]:
    """db gets a port on each of these networks, in this order; their ids, as Nova has plugged them.

    A network that begins with l2 has no subnet.
    """
    cloud.networks = [{"id": n, "name": n} for n in sorted({*networks, "net-1"})]
    cloud.subnets = [
        {"id": f"s-{n['id']}", "name": "s", "network_id": n["id"], "cidr": "10.0.0.0/24"}
        for n in cloud.networks
        if not n["id"].startswith("l2")
    ]
    template = cloud.ports.pop("port-id-db")
    for server in ("app", "front"):
        cloud.ports[f"port-id-{server}"]["fixed_ips"][0]["subnet_id"] = "s-net-1"
    addresses: Json = {}
    for index, network in enumerate(networks):
        mac, bare = f"fa:16:3e:11:00:{index:02x}", network.startswith("l2")
        fixed = (
            [] if bare else [{"ip_address": f"10.0.0.{50 + index}", "subnet_id": f"s-{network}"}]
        )
        cloud.ports[f"nic-{index}"] = {
            **template,
            "id": f"nic-{index}",
            "name": f"nic{index}",
            "network_id": network,
            "mac_address": mac,
            "fixed_ips": fixed,
        }
        addresses.setdefault(network, [])
        addresses[network] += [
            {"addr": f["ip_address"], "OS-EXT-IPS-MAC:mac_addr": mac} for f in fixed
        ]
    cloud.ports = dict(sorted(cloud.ports.items(), reverse=True))
    cloud.servers["id-db"]["addresses"] = addresses
    return [f"nic-{index}" for index in range(len(networks))]


@pytest.mark.parametrize(
    "networks",
    [
        ("a", "b", "c"),
        ("l2", "a", "l2b"),
        ("a", "b", "b"),
        ("a", "a", "a"),
    ],
)
def test_the_order_of_interfaces_is_told_by_the_addresses_where_it_can(
    networks: tuple[str, ...],
) -> None:
    cloud = FakeCloud()
    ids = plugged(cloud, *networks)
    db = discover(BARE, cloud.site).server("db")
    assert ([p.id for p in db.ports], db.interfaces_in_order) == (ids, True)


@pytest.mark.parametrize("networks", [("a", "b", "a"), ("a", "a", "b"), ("l2", "a", "l2")])
def test_else_it_is_told_by_the_hypervisor_or_by_the_vnf_file(networks: tuple[str, ...]) -> None:
    cloud = FakeCloud()
    ids = plugged(cloud, *networks)
    assert not discover(BARE, cloud.site).server("db").interfaces_in_order
    cloud.nics["id-db"] = [cloud.ports[i]["mac_address"] for i in ids]
    db = discover(BARE, cloud.site).server("db")
    assert ([p.id for p in db.ports], db.interfaces_in_order) == (ids, True)
    members = [
        m.model_copy(update={"interfaces": ["nic2", "nic-0", "FA:16:3E:11:00:01"]})
        if m.server == "db"
        else m
        for m in BARE.members
    ]
    db = discover(BARE.model_copy(update={"members": members}), cloud.site).server("db")
    assert ([p.id for p in db.ports], db.interfaces_in_order) == (["nic-2", "nic-0", "nic-1"], True)


@pytest.mark.parametrize("order", [["nic0"], ["nic0", "nic1", "nic1"], ["nic0", "nic1", "nic9"]])
def test_an_order_in_the_vnf_file_that_is_not_that_of_the_ports_is_refused(
    order: list[str],
) -> None:
    cloud = FakeCloud()
    plugged(cloud, "a", "b", "a")
    members = [
        m.model_copy(update={"interfaces": order}) if m.server == "db" else m for m in BARE.members
    ]
    with pytest.raises(ResourceFailed, match="must name each of its ports once"):
        discover(BARE.model_copy(update={"members": members}), cloud.site)


# Shared groups.


def test_a_security_group_that_another_project_shares_goes_by_its_name(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    here.groups.append({"id": "g-infra", "name": "infra", "project_id": "infra", "shared": True})
    here.ports["port-id-db"]["security_groups"] = ["g-infra"]
    point = point_of(here)
    assert point.topology.server("db").ports[0].security_groups == ["infra"]
    there.groups.append({"id": "g-b", "name": "infra", "project_id": "infra", "shared": True})
    (port,) = ports_of(there, point)
    assert port["security_groups"] == ["g-b"]


def test_a_keypair_that_is_gone_from_nova_is_named_when_a_vnf_is_looked_at_and_in_the_plan(
    here: FakeCloud, there: FakeCloud
) -> None:
    there.policies = [{"id": "qos-b", "name": "gold"}]
    here.servers["id-app"]["key_name"] = "deleted"
    topology = discover(BARE, here.site)
    said = [loss for loss in losses(BARE, topology) if "keypair" in loss]
    assert len(said) == 1 and "server app" in said[0] and "deleted" in said[0]
    plan = make_plan(point_of(here), there.site)
    assert warned(plan, "server app", "keypair deleted")
    assert not warned(plan, "server db", "keypair")
