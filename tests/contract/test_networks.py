# SPDX-License-Identifier: Apache-2.0
"""Neutron, as antipode calls it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.marks import as_tags, neutron_carries, neutron_maker
from tests.contract.conftest import Machine, Things, network, refused, tenant_network, until

NOBODY = str(uuid.UUID(int=7))


def subnet(site: Site) -> dict[str, Any]:
    return site.networks.subnets([tenant_network(site)["id"]])[0]


def test_networks_are_found_by_id_and_tell_whose_they_are(site: Site) -> None:
    home = tenant_network(site)
    assert [n["id"] for n in site.networks.networks([home["id"]])] == [home["id"]]
    assert home["project_id"] == site.project_id
    assert home["shared"] is False
    assert site.networks.networks([NOBODY]) == []


def test_subnets_tell_their_network_and_their_addresses(site: Site) -> None:
    assert {"id", "name", "cidr", "network_id"} <= set(subnet(site))
    assert subnet(site)["cidr"] == "10.7.0.0/24"


@pytest.mark.core
def test_a_port_has_the_addresses_and_the_description_that_were_wanted(
    site: Site, things: Things
) -> None:
    group = next(g for g in site.networks.security_groups(site.project_id) if g["name"] == "canary")
    pair = {"ip_address": "10.7.0.99"}
    port = things.port(
        mac_address="fa:16:3e:aa:bb:cc",
        fixed_ips=[{"ip_address": "10.7.0.66", "subnet_id": subnet(site)["id"]}],
        description="antipode:key=k antipode:run=r",
        security_groups=[group["id"]],
        allowed_address_pairs=[pair],
        tags=["one", "two"],
    )
    assert port["mac_address"] == "fa:16:3e:aa:bb:cc"
    assert port["fixed_ips"] == [{"ip_address": "10.7.0.66", "subnet_id": subnet(site)["id"]}]
    assert port["description"] == "antipode:key=k antipode:run=r"
    assert port["security_groups"] == [group["id"]]
    assert [p["ip_address"] for p in port["allowed_address_pairs"]] == ["10.7.0.99"]
    assert (port["device_id"], port["port_security_enabled"], port["binding:vnic_type"]) == (
        "",
        True,
        "normal",
    )
    assert sorted(network(site).get(f"/ports/{port['id']}")["port"]["tags"]) == ["one", "two"]


@pytest.mark.core
def test_a_port_is_found_by_its_mac_on_its_network(site: Site, things: Things) -> None:
    port = things.port()
    found = site.networks.port_with_mac(port["network_id"], port["mac_address"])
    assert found is not None
    assert found["id"] == port["id"]
    assert site.networks.port_with_mac(port["network_id"], "fa:16:3e:00:00:00") is None


def test_ports_are_listed_by_network_by_server_and_by_project(site: Site, things: Things) -> None:
    port = things.port()
    assert port["id"] in {p["id"] for p in site.networks.ports_on([port["network_id"]])}
    assert port["id"] in {p["id"] for p in site.networks.ports_of_project(site.project_id)}
    assert site.networks.ports_of_project(NOBODY) == []
    assert site.networks.ports_on([NOBODY]) == []
    assert site.networks.ports_of([NOBODY]) == []


def test_a_port_without_wishes_gets_an_address_of_the_pool_and_the_default_group(
    site: Site, things: Things
) -> None:
    port = things.port()
    assert port["fixed_ips"][0]["ip_address"].startswith("10.7.0.2")
    default = next(
        g for g in site.networks.security_groups(site.project_id) if g["name"] == "default"
    )
    assert port["security_groups"] == [default["id"]]


@pytest.mark.core
def test_an_address_in_use_is_a_conflict(site: Site, things: Things) -> None:
    port = things.port()
    wanted = {
        "network_id": port["network_id"],
        "fixed_ips": [{"ip_address": port["fixed_ips"][0]["ip_address"]}],
    }
    error = refused(lambda: site.networks.create_port(wanted))
    assert error.status == 409
    assert port["fixed_ips"][0]["ip_address"] in error.reason


def test_a_mac_in_use_is_a_conflict(site: Site, things: Things) -> None:
    port = things.port()
    error = refused(
        lambda: site.networks.create_port(
            {"network_id": port["network_id"], "mac_address": port["mac_address"]}
        )
    )
    expected = (
        f"Unable to complete operation for network {port['network_id']}. The mac address "
        f"{port['mac_address']} is in use."
    )
    assert (error.status, error.reason) == (409, expected)


def test_an_address_of_no_subnet_is_a_bad_request(site: Site) -> None:
    wanted = {"network_id": tenant_network(site)["id"], "fixed_ips": [{"ip_address": "192.0.2.1"}]}
    error = refused(lambda: site.networks.create_port(wanted))
    assert error.status == 400
    assert "192.0.2.1" in error.reason


def test_what_a_port_is_to_be_of_has_to_exist(site: Site) -> None:
    home = tenant_network(site)["id"]
    group = refused(
        lambda: site.networks.create_port({"network_id": home, "security_groups": [NOBODY]})
    )
    assert (group.status, group.reason) == (404, f"Security group {NOBODY} does not exist")
    nowhere = refused(lambda: site.networks.create_port({"network_id": NOBODY}))
    assert (nowhere.status, nowhere.reason) == (404, f"Network {NOBODY} could not be found.")


def test_a_port_that_is_not_there_is_deleted_without_complaint(site: Site) -> None:
    site.networks.delete_port(NOBODY)
    error = refused(lambda: network(site).get(f"/ports/{NOBODY}"))
    assert (error.status, error.reason) == (404, f"Port {NOBODY} could not be found.")


@pytest.mark.core
def test_security_groups_are_those_of_the_project(site: Site) -> None:
    groups = site.networks.security_groups(site.project_id)
    assert {"default", "canary"} <= {g["name"] for g in groups}
    assert {g["project_id"] for g in groups} == {site.project_id}


def test_the_quota_of_ports_tells_limit_and_use(site: Site, things: Things) -> None:
    before = site.networks.quota(site.project_id)["port"]
    things.port()
    after = site.networks.quota(site.project_id)["port"]
    assert after["used"] == before["used"] + 1
    assert {"limit", "used", "reserved"} <= set(after)


def test_a_quota_that_is_exhausted_is_a_conflict(site: Site) -> None:
    row = site.networks.quota(site.project_id)["port"]
    try:
        network(site).call("PUT", f"/quotas/{site.project_id}", {"quota": {"port": row["used"]}})
        error = refused(
            lambda: site.networks.create_port({"network_id": tenant_network(site)["id"]})
        )
    finally:
        network(site).call("PUT", f"/quotas/{site.project_id}", {"quota": {"port": row["limit"]}})
    assert (error.status, error.reason) == (409, "Quota exceeded for resources: ['port'].")


@pytest.mark.core
def test_an_agent_of_each_kind_is_alive_as_administrators_are_told(site: Site) -> None:
    agents = site.networks.agents()
    assert {"DHCP agent", "Open vSwitch agent"} <= {a["agent_type"] for a in agents}
    assert all(a["host"] for a in agents)
    assert {(a["alive"], a["admin_state_up"]) for a in agents} == {(True, True)}


# ---- what belongs to a port ----


def need(site: Site, extension: str) -> None:
    """Skip a test at a site whose Neutron has no such extension."""
    if extension not in site.networks.extensions():
        pytest.skip(f"Neutron of {site.name} has no extension {extension}")


def shown(site: Site, port: Json) -> Json:
    found: Json = network(site).get(f"/ports/{port['id']}")["port"]
    return found


@pytest.mark.core
def test_tags_are_not_taken_when_a_port_is_made_and_may_be_as_long_as_our_marks(
    site: Site, things: Things
) -> None:
    port = things.port()
    made = network(site).post("/ports", {"port": {"network_id": port["network_id"], "tags": ["x"]}})
    things.removals.append(lambda: site.networks.delete_port(made["port"]["id"]))
    assert shown(site, made["port"])["tags"] == []
    marks = as_tags("failover-20261122T160501Z-1a2b3c", f"20261122T160501Z-1a2b3c/{NOBODY}")
    site.networks.tag_port(port["id"], ["own", *marks])
    assert sorted(shown(site, port)["tags"]) == sorted(["own", *marks])
    (listed,) = [p for p in site.networks.ports_on([port["network_id"]]) if p["id"] == port["id"]]
    assert neutron_carries(listed, f"20261122T160501Z-1a2b3c/{NOBODY}")
    assert neutron_maker(listed) == "failover-20261122T160501Z-1a2b3c"


def test_a_port_is_off_has_dhcp_options_and_a_description_of_any_script(
    site: Site, things: Things
) -> None:
    need(site, "extra_dhcp_opt")
    port = things.port(
        admin_state_up=False,
        extra_dhcp_opts=[{"opt_name": "tftp-server", "opt_value": "10.7.0.9", "ip_version": 4}],
        description="für alle",
    )
    assert port["admin_state_up"] is False
    assert port["description"] == "für alle"
    assert [(o["opt_name"], o["opt_value"], o["ip_version"]) for o in port["extra_dhcp_opts"]] == [
        ("tftp-server", "10.7.0.9", 4)
    ]
    site.networks.update_port(port["id"], {"description": "other"})
    assert shown(site, port)["description"] == "other"


def test_a_port_without_port_security_takes_no_groups_and_no_pairs(
    site: Site, things: Things
) -> None:
    port = things.port(port_security_enabled=False)
    assert (port["port_security_enabled"], port["security_groups"]) == (False, [])
    home = tenant_network(site)["id"]
    pair = [{"ip_address": "10.7.0.99"}]
    error = refused(
        lambda: site.networks.create_port(
            {
                "network_id": home,
                "port_security_enabled": False,
                "allowed_address_pairs": pair,
            }
        )
    )
    assert error.status == 409


def test_a_port_of_no_server_keeps_the_owner_that_it_is_given(site: Site, things: Things) -> None:
    port = things.port(device_owner="vip:contract", fixed_ips=[{"ip_address": "10.7.0.98"}])
    assert (port["device_owner"], port["device_id"], port["status"]) == ("vip:contract", "", "DOWN")
    unplugged = site.networks.unplugged_ports([port["network_id"]])
    assert port["id"] in {p["id"] for p in unplugged}


def test_a_port_without_addresses_has_none_when_the_list_is_given(
    site: Site, things: Things
) -> None:
    assert things.port(fixed_ips=[])["fixed_ips"] == []


def test_a_binding_profile_is_refused_with_403(site: Site) -> None:
    wanted = {"network_id": tenant_network(site)["id"], "binding:profile": {}}
    assert refused(lambda: site.networks.create_port(wanted)).status == 403


def test_a_vnic_type_is_taken_as_wanted(site: Site, things: Things) -> None:
    assert things.port(**{"binding:vnic_type": "direct"})["binding:vnic_type"] == "direct"


def test_security_groups_that_are_shared_are_listed_once(site: Site) -> None:
    ids = [g["id"] for g in site.networks.security_groups(site.project_id)]
    assert len(ids) == len(set(ids))


def test_a_trunk_has_its_subports_and_its_ports_are_not_deleted_before_it(
    site: Site, things: Things
) -> None:
    need(site, "trunk")
    parent, below = things.port(), things.port()
    wanted = {
        "port_id": parent["id"],
        "name": "contract",
        "description": "of the suite",
        "admin_state_up": True,
        "sub_ports": [
            {"port_id": below["id"], "segmentation_type": "vlan", "segmentation_id": 100}
        ],
    }
    trunk = site.networks.create_trunk(wanted, ["one"])
    things.removals.append(lambda: site.networks.delete_trunk(trunk))
    (found,) = site.networks.trunks([parent["id"]])
    assert {k: found[k] for k in ("id", "name", "description", "tags")} == {
        "id": trunk,
        "name": "contract",
        "description": "of the suite",
        "tags": ["one"],
    }
    assert [(s["port_id"], s["segmentation_id"]) for s in found["sub_ports"]] == [
        (below["id"], 100)
    ]
    assert shown(site, parent)["trunk_details"]["trunk_id"] == trunk
    for port in (parent, below):
        assert refused(partial(site.networks.delete_port, port["id"])).status == 409
    assert refused(lambda: site.networks.create_trunk(wanted)).status == 409
    assert site.networks.trunks([below["id"]]) == []


def test_a_port_has_the_qos_policy_that_it_is_given(site: Site, things: Things) -> None:
    need(site, "qos")
    policy = network(site).post("/qos/policies", {"policy": {"name": things.name("gold")}})
    policy_id = policy["policy"]["id"]
    things.removals.append(lambda: network(site).delete(f"/qos/policies/{policy_id}"))
    assert things.port(qos_policy_id=policy_id)["qos_policy_id"] == policy_id
    assert policy_id in {q["id"] for q in site.networks.qos_policies()}
    home = tenant_network(site)["id"]
    wanted = {"network_id": home, "qos_policy_id": NOBODY}
    assert refused(lambda: site.networks.create_port(wanted)).status == 404


def test_a_floating_ip_leads_to_an_address_only_through_a_router(
    site: Site, things: Things
) -> None:
    need(site, "router")
    api = network(site)
    wanted = {"name": things.name("public"), "router:external": True}
    public = api.post("/networks", {"network": wanted})["network"]["id"]
    things.removals.append(lambda: api.delete(f"/networks/{public}"))
    pool = {"network_id": public, "cidr": "203.0.113.0/24", "ip_version": 4, "enable_dhcp": False}
    api.post("/subnets", {"subnet": pool})
    body = {"floating_network_id": public, "floating_ip_address": "203.0.113.77"}
    floating = api.post("/floatingips", {"floatingip": body})["floatingip"]["id"]
    things.removals.append(lambda: api.delete(f"/floatingips/{floating}"))
    port = things.port(fixed_ips=[{"ip_address": "10.7.0.97"}])
    error = refused(lambda: site.networks.associate(floating, port["id"], "10.7.0.97"))
    assert error.status == 404
    (found,) = [f for f in site.networks.floating_ips() if f["id"] == floating]
    assert (found["floating_ip_address"], found["port_id"]) == ("203.0.113.77", None)


@dataclass(frozen=True)
class Outside:
    """A floating IP, and a port that a router has between them."""

    floating: str
    port: Json
    subnet: str
    address: str = "10.78.0.66"
    public_address: str = "203.0.113.78"


def outside(site: Site, things: Things) -> Outside:
    api = network(site)

    def make(kind: str, path: str, **wanted: Any) -> Json:
        made: Json = api.post(path, {kind: wanted})[kind]
        things.removals.append(lambda: api.delete(f"{path}/{made['id']}"))
        return made

    public = make("network", "/networks", name=things.name("public"), **{"router:external": True})
    pool = {"network_id": public["id"], "cidr": "203.0.113.0/24", "ip_version": 4}
    api.post("/subnets", {"subnet": {**pool, "enable_dhcp": False}})
    inner = make("network", "/networks", name=things.name("inner"))
    subnet = {"network_id": inner["id"], "cidr": "10.78.0.0/24", "ip_version": 4}
    subnet_id = api.post("/subnets", {"subnet": {**subnet, "enable_dhcp": False}})["subnet"]["id"]
    gateway = {"network_id": public["id"]}
    router = make("router", "/routers", name=things.name(), external_gateway_info=gateway)["id"]
    body = {"subnet_id": subnet_id}
    api.call("PUT", f"/routers/{router}/add_router_interface", body)
    things.removals.append(
        lambda: api.call("PUT", f"/routers/{router}/remove_router_interface", body)
    )
    fixed = [{"ip_address": Outside.address}]
    port = make("port", "/ports", network_id=inner["id"], name=things.name(), fixed_ips=fixed)
    of_public = {"floating_network_id": public["id"]}
    wanted = {**of_public, "floating_ip_address": Outside.public_address}
    return Outside(make("floatingip", "/floatingips", **wanted)["id"], port, subnet_id)


def forwarding_of(there: Outside, **changes: Any) -> Json:
    return {
        "port_forwarding": {
            "protocol": "tcp",
            "internal_port_id": there.port["id"],
            "internal_ip_address": there.address,
            "internal_port": 22,
            "external_port": 2022,
            **changes,
        }
    }


def floating_ip(site: Site, floating: str) -> Json:
    (found,) = [f for f in site.networks.floating_ips() if f["id"] == floating]
    return found


def test_a_floating_ip_tells_its_port_forwardings_and_leads_to_no_port(
    site: Site, things: Things
) -> None:
    need(site, "floating-ip-port-forwarding")
    api, there = network(site), outside(site, things)
    path = f"/floatingips/{there.floating}/port_forwardings"
    assert floating_ip(site, there.floating).get("port_forwardings") == []
    made = api.post(path, forwarding_of(there))["port_forwarding"]
    described = {"protocol": "tcp", "internal_port_id": there.port["id"]}
    described |= {"internal_ip_address": there.address, "internal_port": 22, "external_port": 2022}
    assert {k: made[k] for k in described} == described
    assert [f["id"] for f in api.get(path)["port_forwardings"]] == [made["id"]]
    shown = api.get(f"{path}/{made['id']}")["port_forwarding"]
    assert {k: shown[k] for k in described} == described
    found = floating_ip(site, there.floating)
    (rule,) = found["port_forwardings"]
    assert described | rule == {**described, "id": made["id"]}
    assert (found["port_id"], found["fixed_ip_address"]) == (None, None)

    api.delete(f"{path}/{made['id']}")
    assert api.get(path)["port_forwardings"] == []
    assert floating_ip(site, there.floating)["port_forwardings"] == []
    assert refused(lambda: api.get(f"{path}/{made['id']}")).status == 404


def test_what_forwards_ports_leads_nowhere_else_and_is_not_deleted(
    site: Site, things: Things
) -> None:
    need(site, "floating-ip-port-forwarding")
    api, there = network(site), outside(site, things)
    path = f"/floatingips/{there.floating}/port_forwardings"
    made = api.post(path, forwarding_of(there))["port_forwarding"]["id"]

    def is_refused(**changes: Any) -> int:
        return refused(partial(api.post, path, forwarding_of(there, **changes))).status

    assert is_refused(internal_port=23) == 400  # the external port is taken
    assert is_refused(external_port=2023) == 400  # and so is the internal one
    assert is_refused(internal_port=23, external_port=23, internal_ip_address="10.78.0.67") == 400
    assert is_refused(internal_port=23, external_port=70000) == 400
    associate = partial(site.networks.associate, there.floating, there.port["id"], there.address)
    assert refused(associate).status == 409
    assert refused(lambda: api.delete(f"/floatingips/{there.floating}")).status == 409
    api.delete(f"{path}/{made}")
    associate()
    assert is_refused() == 409  # it leads to a port as a whole


def test_port_forwardings_go_with_their_port_and_only_they_tell_ranges(
    site: Site, things: Things
) -> None:
    need(site, "floating-ip-port-forwarding")
    need(site, "floating-ip-port-forwarding-port-ranges")
    api, there = network(site), outside(site, things)
    path = f"/floatingips/{there.floating}/port_forwardings"
    wanted = {"protocol": "udp", "internal_port_id": there.port["id"]}
    wanted |= {"internal_ip_address": there.address}
    ranges = {"internal_port_range": "5000:5009", "external_port_range": "6000:6009"}
    made = api.post(path, {"port_forwarding": {**wanted, **ranges}})["port_forwarding"]
    assert {k: made[k] for k in ranges} == ranges
    (rule,) = floating_ip(site, there.floating)["port_forwardings"]
    assert rule["protocol"] == "udp"
    assert not {"internal_port", "external_port", *ranges} & rule.keys()
    site.networks.delete_port(there.port["id"])
    assert floating_ip(site, there.floating)["port_forwardings"] == []


# ---- networks and security groups that are created ----


def test_a_network_is_made_with_its_attributes_and_gets_its_tags_afterwards(
    site: Site, things: Things
) -> None:
    api = network(site)
    wanted = {
        "name": things.name("net"),
        "description": "für alle",
        "mtu": 1400,
        "port_security_enabled": False,
        "admin_state_up": False,
    }
    made = site.networks.create_network(wanted)
    things.removals.append(lambda: site.networks.delete_network(made))
    error = refused(lambda: api.post("/networks", {"network": {**wanted, "tags": ["x"]}}))
    assert error.status == 400
    marks = as_tags("failover-20261122T160501Z-1a2b3c", f"network/{NOBODY}")
    site.networks.tag("networks", made, ["red", *marks])
    site.networks.describe("networks", made, "other")
    (found,) = site.networks.networks([made])
    assert {k: found[k] for k in wanted} == {**wanted, "description": "other"}
    assert sorted(found["tags"]) == sorted(["red", *marks])
    assert found["provider:network_type"]
    assert neutron_maker(found) == "failover-20261122T160501Z-1a2b3c"
    too_much = refused(lambda: site.networks.create_network({"name": "x", "mtu": 99999}))
    assert too_much.status == 400
    assert "mtu" in too_much.reason.lower()


@pytest.mark.core
def test_a_subnet_is_made_without_dhcp_and_served_later(site: Site, things: Things) -> None:
    home = site.networks.create_network({"name": things.name("net")})
    things.removals.append(lambda: site.networks.delete_network(home))
    wanted = {
        "network_id": home,
        "name": things.name("subnet"),
        "ip_version": 4,
        "cidr": "10.77.0.0/24",
        "gateway_ip": None,
        "enable_dhcp": False,
        "dns_nameservers": ["10.77.0.53"],
        "host_routes": [{"destination": "192.0.2.0/24", "nexthop": "10.77.0.7"}],
        "allocation_pools": [{"start": "10.77.0.2", "end": "10.77.0.9"}],
    }
    made = site.networks.create_subnet(wanted)
    site.networks.tag("subnets", made, ["blue"])
    (found,) = site.networks.subnets([home])
    assert {k: found[k] for k in wanted} == wanted
    assert found["tags"] == ["blue"]
    assert site.networks.ports_on([home]) == []
    again = refused(lambda: site.networks.create_subnet(wanted))
    assert again.status == 400
    port = site.networks.create_port(
        {"network_id": home, "fixed_ips": [{"ip_address": "10.77.0.2", "subnet_id": made}]}
    )
    things.removals.append(lambda: site.networks.delete_port(port))
    site.networks.serve_addresses(made)
    until(
        lambda: [p for p in site.networks.ports_on([home]) if p["device_owner"] == "network:dhcp"],
        "DHCP has an address of its own",
    )
    in_use = refused(lambda: site.networks.delete_network(home))
    assert in_use.status == 409


def test_an_ipv6_subnet_with_a_mode_is_refused_without_dhcp(site: Site, things: Things) -> None:
    home = site.networks.create_network({"name": things.name("net")})
    things.removals.append(lambda: site.networks.delete_network(home))
    wanted = {
        "network_id": home,
        "ip_version": 6,
        "cidr": "fd00:77::/64",
        "enable_dhcp": False,
        "ipv6_address_mode": "slaac",
        "ipv6_ra_mode": "slaac",
    }
    assert refused(lambda: site.networks.create_subnet(wanted)).status == 400
    site.networks.create_subnet({**wanted, "enable_dhcp": True})
    (found,) = site.networks.subnets([home])
    assert (found["ipv6_address_mode"], found["ipv6_ra_mode"]) == ("slaac", "slaac")


@pytest.mark.core
def test_rules_of_a_group_are_made_all_or_none_and_may_be_about_other_groups(
    site: Site, things: Things
) -> None:
    made = [
        site.networks.create_security_group({"name": things.name(n), "description": "für alle"})
        for n in ("web", "peers")
    ]
    for group in made:
        things.removals.append(partial(site.networks.delete_security_group, group["id"]))
    web, peers = made
    born = web["security_group_rules"]
    assert {(r["direction"], r["ethertype"]) for r in born} == {
        ("egress", "IPv4"),
        ("egress", "IPv6"),
    }

    def rule(**more: Any) -> Json:
        of = {"security_group_id": web["id"], "direction": "ingress", "ethertype": "IPv4"}
        return {**of, **more}

    ssh = rule(protocol="tcp", port_range_min=22, port_range_max=22, description="Zugang")
    others = [rule(remote_group_id=peers["id"]), rule(remote_ip_prefix="10.7.0.5/24")]
    twice = refused(lambda: site.networks.create_rules([ssh, rule(direction="egress")]))
    assert twice.status == 409
    unknown = refused(lambda: site.networks.create_rules([ssh, rule(remote_group_id=NOBODY)]))
    assert unknown.status == 404
    null = refused(lambda: site.networks.create_rules([rule(protocol="udp", description=None)]))
    assert null.status == 400
    site.networks.delete_rule(next(r["id"] for r in born if r["ethertype"] == "IPv6"))
    site.networks.create_rules([ssh, *others])

    def rules() -> set[tuple[Any, ...]]:
        groups = site.networks.security_groups(site.project_id)
        found = next(g for g in groups if g["id"] == web["id"])["security_group_rules"]
        return {
            (r["direction"], r["protocol"], r["remote_group_id"], r["remote_ip_prefix"])
            for r in found
        }

    assert rules() == {
        ("egress", None, None, None),
        ("ingress", "tcp", None, None),
        ("ingress", None, peers["id"], None),
        ("ingress", None, None, "10.7.0.5/24"),
    }
    site.networks.delete_security_group(peers["id"])
    assert ("ingress", None, peers["id"], None) not in rules()


def test_the_group_default_cannot_be_made_and_tags_are_not_taken_with_a_group(
    site: Site, things: Things
) -> None:
    site.networks.security_groups(site.project_id)
    default = refused(lambda: site.networks.create_security_group({"name": "default"}))
    assert default.status == 409
    tagged = {"name": things.name(), "tags": ["x"]}
    assert refused(lambda: site.networks.create_security_group(tagged)).status == 400
    group = site.networks.create_security_group({"name": things.name()})["id"]
    things.removals.append(lambda: site.networks.delete_security_group(group))
    site.networks.tag("security-groups", group, ["one"])
    port = things.port(security_groups=[group])
    assert refused(lambda: site.networks.delete_security_group(group)).status == 409
    site.networks.delete_port(port["id"])


def test_a_network_that_no_router_is_on_has_no_ports_of_routers(site: Site) -> None:
    assert site.networks.ports_of_routers([]) == []
    assert site.networks.ports_of_routers([NOBODY]) == []


@pytest.mark.core
def test_a_port_of_a_server_is_active_while_it_is_up(site: Site, machine: Machine) -> None:
    """As the port of a member is cut off, to see what answers without it."""
    [port] = [p["id"] for p in site.networks.ports_of([machine.id])]

    def is_shown(status: str) -> bool:
        return bool(site.networks.ports([port])[0]["status"] == status)

    until(partial(is_shown, "ACTIVE"), "the port is wired")
    for is_up, wanted in ((False, "DOWN"), (True, "ACTIVE")):
        site.networks.update_port(port, {"admin_state_up": is_up})
        until(partial(is_shown, wanted), f"the port is {wanted}")
