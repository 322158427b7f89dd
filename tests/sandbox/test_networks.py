# SPDX-License-Identifier: Apache-2.0
"""Networks and security groups come into being at the backup site as they were, when the VNF file
says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_fidelity import Cloud, Json, boot, world

__all__ = ["world"]

NETWORK = (
    "name",
    "description",
    "tags",
    "mtu",
    "dns_domain",
    "port_security_enabled",
    "admin_state_up",
)
SUBNET = (
    "name",
    "description",
    "tags",
    "cidr",
    "ip_version",
    "gateway_ip",
    "enable_dhcp",
    "dns_nameservers",
    "host_routes",
    "allocation_pools",
    "ipv6_address_mode",
    "ipv6_ra_mode",
)
RULE = (
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "remote_ip_prefix",
    "description",
)


def furnish(cloud: Cloud) -> list[Json]:
    """Networks, groups and ports as an owner may make them; the ports."""
    inside = cloud.make(
        "network",
        "/networks",
        name="inside",
        description="für alle Mitglieder",
        mtu=1400,
        dns_domain="vnf.example.",
        tags=["red", "inside"],
    )
    first = cloud.make(
        "subnet",
        "/subnets",
        network_id=inside["id"],
        name="v4",
        description="of IPv4",
        ip_version=4,
        cidr="10.20.0.0/24",
        gateway_ip="10.20.0.254",
        dns_nameservers=["10.20.0.53", "10.20.1.53"],
        host_routes=[{"destination": "192.0.2.0/24", "nexthop": "10.20.0.7"}],
        allocation_pools=[{"start": "10.20.0.2", "end": "10.20.0.99"}],
        tags=["four"],
    )
    second = cloud.make(
        "subnet",
        "/subnets",
        network_id=inside["id"],
        name="v6",
        ip_version=6,
        cidr="fd00:20::/64",
        gateway_ip=None,
        enable_dhcp=False,
    )
    bare = cloud.make("network", "/networks", name="bare", port_security_enabled=False)
    peers = cloud.make("security_group", "/security-groups", name="peers", description="Nachbarn")
    web = cloud.make("security_group", "/security-groups", name="web", tags=["public"])
    egress = [r for r in web["security_group_rules"] if r["ethertype"] == "IPv6"]
    cloud.network("DELETE", f"/security-group-rules/{egress[0]['id']}")
    for rule in (
        {"protocol": "tcp", "port_range_min": 443, "port_range_max": 443},
        {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "description": "Zugang"},
        {"remote_group_id": peers["id"], "ethertype": "IPv6"},
        {"remote_ip_prefix": "10.20.0.7/24", "protocol": "sctp"},
    ):
        wanted = {"security_group_id": web["id"], "direction": "ingress", **rule}
        cloud.make("security_group_rule", "/security-group-rules", **wanted)
    # DHCP has taken the first address of the pool; a member has it, where DHCP is made later
    (dhcp,) = [p for p in ports_on(cloud, inside["id"]) if p["device_owner"] == "network:dhcp"]
    cloud.network("PUT", f"/subnets/{first['id']}", {"subnet": {"enable_dhcp": False}})
    cloud.network("DELETE", f"/ports/{dhcp['id']}")
    member = cloud.make(
        "port",
        "/ports",
        network_id=inside["id"],
        name="member",
        mac_address="fa:16:3e:20:00:02",
        fixed_ips=[
            {"ip_address": "10.20.0.2", "subnet_id": first["id"]},
            {"ip_address": "fd00:20::2", "subnet_id": second["id"]},
        ],
        security_groups=[web["id"]],
    )
    cloud.network("PUT", f"/subnets/{first['id']}", {"subnet": {"enable_dhcp": True}})
    other = cloud.make(
        "port",
        "/ports",
        network_id=bare["id"],
        name="bare",
        mac_address="fa:16:3e:20:00:03",
        fixed_ips=[],
        port_security_enabled=False,
    )
    return [member, other]


def ports_on(cloud: Cloud, network: str) -> list[Json]:
    found: list[Json] = cloud.network("GET", f"/ports?network_id={network}")["ports"]
    return found


def seen(cloud: Cloud, names: tuple[str, ...] = ("bare", "inside")) -> Json:
    """The networks of these names with their subnets, and the groups `peers` and `web`, as their
    owner has made them.
    """
    rows = cloud.network("GET", "/networks")["networks"]
    subnets = cloud.network("GET", "/subnets")["subnets"]
    groups = cloud.network("GET", "/security-groups")["security_groups"]
    by_id = {g["id"]: g["name"] for g in groups}

    def own(row: Json, kept: tuple[str, ...]) -> Json:
        tags = sorted(t for t in row["tags"] if not t.startswith("antipode:"))
        return {**{name: row[name] for name in kept}, "tags": tags}

    def rule(row: Json) -> tuple[Any, ...]:
        return (*(row[k] or "" for k in RULE), by_id.get(row["remote_group_id"], ""))

    return {
        "networks": sorted(
            (
                own(n, NETWORK)
                | {
                    "subnets": sorted(
                        (own(s, SUBNET) for s in subnets if s["network_id"] == n["id"]),
                        key=lambda s: str(s["cidr"]),
                    )
                }
                for n in rows
                if n["name"] in names
            ),
            key=lambda n: str(n["name"]),
        ),
        "groups": {
            g["name"]: (
                g["description"],
                sorted(t for t in g["tags"] if not t.startswith("antipode:")),
                sorted(map(rule, g["security_group_rules"]), key=str),
            )
            for g in groups
            if g["name"] in ("peers", "web")
        },
    }


def know(world: World, **changes: Any) -> None:
    world.know(
        vnf="messy",
        members=[{"server": "alone", "user_data": "keep"}],
        **{"map": {"volume_types": {"fast": "standard"}}, "networks": "create", **changes},
    )


@pytest.fixture
def protected(world: World) -> Iterator[tuple[World, Cloud, Json]]:
    """A VNF with a recovery point whose site is lost, its backup site, and what was at its own."""
    here, there = Cloud(world, PRIMARY), Cloud(world, BACKUP)
    boot(here, "alone", furnish(here))
    know(world)
    before = seen(here)
    world.operator.ask("protect", "messy")
    world.sandbox.kill(PRIMARY)
    yield world, there, before


def hows(planned: Json, kind: str) -> dict[str, str]:
    return {one["former"]: one["how"] for one in planned[kind]}


def test_networks_and_groups_are_created_once_and_as_they_were(
    protected: tuple[World, Cloud, Json],
) -> None:
    world, there, before = protected
    planned = world.operator.ask("failover", "messy", "--to", BACKUP, "--plan")
    assert hows(planned, "networks") == {"inside": "created", "bare": "created"}
    assert hows(planned, "security_groups") == {"peers": "created", "web": "created"}
    assert seen(there) == {"networks": [], "groups": {}}
    world.fault(BACKUP, r"^server\.create$", "error")
    failed = world.operator.run("failover", "messy", "--to", BACKUP, "--yes")
    assert failed.returncode != 0
    made = there.names("/networks", "networks")
    world.operator.ask("failover", "messy", "--to", BACKUP, "--yes")
    assert there.names("/networks", "networks") == made
    assert seen(there) == before
    ports = {p["name"]: p for p in there.network("GET", "/ports")["ports"]}
    assert [f["ip_address"] for f in ports["member"]["fixed_ips"]] == ["10.20.0.2", "fd00:20::2"]
    assert ports["bare"]["fixed_ips"] == []


def test_an_aborted_recovery_leaves_none_of_them_and_those_that_are_there_are_used(
    protected: tuple[World, Cloud, Json],
) -> None:
    world, there, _before = protected
    know(world, networks="map")
    refused = world.operator.run("failover", "messy", "--to", BACKUP, "--plan")
    assert refused.returncode == 3
    know(world)
    networks = there.names("/networks", "networks")
    groups = there.names("/security-groups", "security_groups")
    world.fault(BACKUP, r"^server\.create$", "error", times=None)
    failed = world.operator.run("failover", "messy", "--to", BACKUP, "--yes")
    assert failed.returncode != 0
    assert len(there.names("/networks", "networks")) == len(networks) + 2
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    world.operator.tell("run", "abort", world.newest_run()["run"], "--yes")
    assert there.names("/networks", "networks") == networks
    assert there.names("/security-groups", "security_groups") == groups

    inside = there.make("network", "/networks", name="inside")["id"]
    for version, cidr in ((4, "10.20.0.0/24"), (6, "fd00:20::/64")):
        wanted = {"network_id": inside, "ip_version": version, "enable_dhcp": False, "cidr": cidr}
        there.make("subnet", "/subnets", **wanted)
    planned = world.operator.ask("failover", "messy", "--to", BACKUP, "--plan")
    (mapped,) = [n for n in planned["networks"] if n["former"] == "inside"]
    assert (mapped["how"], mapped["network_id"]) == ("mapped", inside)
    changed = " ".join(mapped["changes"])
    for word in ("DHCP", "10.20.0.254", "10.20.0.53", "192.0.2.0/24"):
        assert word in changed
    assert [w for w in planned["warnings"] if "10.20.0.254" in w]
