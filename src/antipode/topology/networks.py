# SPDX-License-Identifier: Apache-2.0
"""The networks and security groups that the ports of a VNF need, as Neutron has them: enough to
create them elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.marks import undescribed, untagged
from antipode.model.topology import Network, SecurityGroup, SecurityGroupRule, Subnet

PROVIDER = ("network_type", "physical_network", "segmentation_id")


def networks_of(
    site: Site, networks: Sequence[Json], subnets: Sequence[Json], policies: Mapping[str, str]
) -> list[Network]:
    """The models of networks.

    Args:
        networks: as Neutron lists them.
        subnets: theirs.
        policies: id -> name of the QoS policies.
    """
    routed = {
        fixed["subnet_id"]
        for port in site.networks.ports_of_routers([n["id"] for n in networks])
        for fixed in port["fixed_ips"]
    }
    return [
        _network(
            row,
            [_subnet(s, s["id"] in routed) for s in subnets if s["network_id"] == row["id"]],
            policies,
            is_own=row.get("project_id", site.project_id) == site.project_id,
        )
        for row in networks
    ]


def _network(
    row: Json, subnets: list[Subnet], policies: Mapping[str, str], *, is_own: bool
) -> Network:
    policy = row.get("qos_policy_id")
    return Network(
        id=row["id"],
        name=row["name"],
        subnets=subnets,
        description=undescribed(row.get("description")),
        tags=untagged(row.get("tags", [])),
        admin_state_up=row.get("admin_state_up", True),
        mtu=row.get("mtu"),
        port_security_enabled=row.get("port_security_enabled"),
        dns_domain=row.get("dns_domain", ""),
        qos_policy=policies.get(policy, policy) if policy else None,
        vlan_transparent=row.get("vlan_transparent", False),
        shared=row.get("shared", False),
        is_own=is_own and not row.get("router:external", False),
        provider={
            name: value for name in PROVIDER if (value := row.get(f"provider:{name}")) is not None
        },
    )


def _subnet(row: Json, has_router: bool) -> Subnet:
    return Subnet(
        id=row["id"],
        name=row["name"],
        cidr=row["cidr"],
        ip_version=row.get("ip_version", 6 if ":" in row["cidr"] else 4),
        gateway_ip=row.get("gateway_ip"),
        enable_dhcp=row.get("enable_dhcp", True),
        dns_nameservers=row.get("dns_nameservers", []),
        host_routes=row.get("host_routes", []),
        allocation_pools=row.get("allocation_pools", []),
        ipv6_address_mode=row.get("ipv6_address_mode"),
        ipv6_ra_mode=row.get("ipv6_ra_mode"),
        service_types=row.get("service_types", []),
        description=undescribed(row.get("description")),
        tags=untagged(row.get("tags", [])),
        has_router=has_router,
    )


def groups_of(site: Site, groups: Sequence[Json], used: Collection[str]) -> list[SecurityGroup]:
    """The models of security groups, with all those that their rules are about.

    A rule about an address group is taken as one rule for each of its addresses: an address group
    has no tags, so one that antipode makes could not be distinguished from its owner's.

    Args:
        groups: those that the project sees, as Neutron lists them.
        used: ids of those that ports have.
    """
    by_id = {g["id"]: g for g in groups}
    found: dict[str, Json] = {}
    unseen = {i for i in used if i in by_id}
    while unseen:
        group = by_id[unseen.pop()]
        found[group["id"]] = group
        unseen |= {
            other
            for rule in group.get("security_group_rules", [])
            if (other := rule.get("remote_group_id")) in by_id and other not in found
        }
    addresses = _addresses(site, found.values())
    return [
        SecurityGroup(
            id=group["id"],
            name=group["name"],
            rules=[
                made
                for rule in group.get("security_group_rules", [])
                for made in _rules(rule, addresses)
            ],
            description=undescribed(group.get("description")),
            tags=untagged(group.get("tags", [])),
            stateful=group.get("stateful", True),
            is_own=group.get("project_id", site.project_id) == site.project_id,
        )
        for group in sorted(found.values(), key=lambda g: (g["name"], g["id"]))
    ]


def _addresses(site: Site, groups: Collection[Json]) -> dict[str, list[str]]:
    """Id of an address group -> its addresses, for those that rules of these groups name."""
    named = any(
        rule.get("remote_address_group_id")
        for group in groups
        for rule in group.get("security_group_rules", [])
    )
    return {a["id"]: a["addresses"] for a in site.networks.address_groups()} if named else {}


def _rules(rule: Json, addresses: Mapping[str, list[str]]) -> Iterator[SecurityGroupRule]:
    of_group = rule.get("remote_address_group_id")
    for prefix in addresses.get(of_group, []) if of_group else [rule.get("remote_ip_prefix")]:
        yield SecurityGroupRule(
            direction=rule["direction"],
            ethertype=rule["ethertype"],
            protocol=rule.get("protocol"),
            port_range_min=rule.get("port_range_min"),
            port_range_max=rule.get("port_range_max"),
            remote_ip_prefix=prefix,
            remote_group=rule.get("remote_group_id"),
            description=rule.get("description") or "",
        )
