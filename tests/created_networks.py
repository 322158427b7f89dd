# SPDX-License-Identifier: Apache-2.0
"""Networks and security groups as an owner may make them: made at a site, embedded or the lab's,
and seen there field by field.
"""

from __future__ import annotations

from typing import Any

from tests.messy import Cloud, Json, bare_network, bare_port

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
    member = furnish_inside(cloud)
    bare = bare_network(cloud)
    return [member, bare_port(cloud, bare["id"], "fa:16:3e:20:00:03"), *furnish_twins(cloud)]


def furnish_twins(cloud: Cloud) -> list[Json]:
    """Two networks of one name, `twin`; a port of each."""
    ports = []
    for number in (1, 2):
        home = cloud.make("network", "/networks", name="twin", description=f"number {number}")
        cloud.make_subnet(home, f"10.2{number}.0.0/24", enable_dhcp=False)
        wanted = {
            "name": f"twin-{number}",
            "mac_address": f"fa:16:3e:20:01:0{number}",
            "fixed_ips": [{"ip_address": f"10.2{number}.0.20"}],
            "security_groups": [],
        }
        ports.append(cloud.make("port", "/ports", network_id=home["id"], **wanted))
    return ports


def furnish_inside(cloud: Cloud, **provider: Any) -> Json:
    """The network `inside`, and the groups `peers` and `web`; a port that has all of them.

    Args:
        provider: attributes of the network that only an administrator gives.
    """
    inside = cloud.make(
        "network",
        "/networks",
        name="inside",
        description="für alle Mitglieder",
        mtu=1400,
        dns_domain="vnf.example.",
        tags=["red", "inside"],
        **provider,
    )
    first = cloud.make_subnet(
        inside,
        "10.20.0.0/24",
        name="v4",
        description="of IPv4",
        gateway_ip="10.20.0.254",
        dns_nameservers=["10.20.0.53", "10.20.1.53"],
        host_routes=[{"destination": "192.0.2.0/24", "nexthop": "10.20.0.7"}],
        allocation_pools=[{"start": "10.20.0.2", "end": "10.20.0.99"}],
        enable_dhcp=False,  # or it would take the first address of the pool, which a member has
        tags=["four"],
    )
    second = cloud.make_subnet(
        inside, "fd00:20::/64", name="v6", gateway_ip=None, enable_dhcp=False
    )
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
    return member


def seen(cloud: Cloud, names: tuple[str, ...] = ("bare", "inside", "twin")) -> Json:
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
            key=lambda n: (str(n["name"]), str(n["description"])),
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
