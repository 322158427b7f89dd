# SPDX-License-Identifier: Apache-2.0
"""The networks and security groups of a recovery, planned: those of the backup site that take the
place of the former ones, how they differ, and those that are created as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from antipode.cloud.api import Json
from antipode.cloud.networks import ROUTER_INTERFACES
from antipode.cloud.site import Site
from antipode.model.marks import KEY, key_tag, neutron_key
from antipode.model.plan import NetworkPlan, SecurityGroupPlan, SubnetPlan, stand_in
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Network, Port, SecurityGroup, SecurityGroupRule, Subnet
from antipode.model.vnf import Mapping
from antipode.recover.findings import Findings, Named, by_name, usable
from antipode.recover.recovery import network_key

DEFAULT = "default"
"""Each project has one security group of this name, and Neutron makes no other."""
NO_POLICY = "none"
"""In the place of a QoS policy: what had it comes back without one."""
RULE = ("direction", "ethertype", "protocol", "port_range_min", "port_range_max")


class NetworkPlanner:
    """The networks and groups of the backup site as they are going to be: those that it has, and
    those that are created, which have stand-ins for their ids.
    """

    def __init__(self, point: RecoveryPoint, site: Site, findings: Findings) -> None:
        self._site = site
        self._findings = findings
        self._vnf = point.vnf
        self._map = point.vnf.map_between(point.site, site.name)
        self._former = {n.id: moved(n, self._map) for n in point.topology.networks}
        self._ranges = {s.id: s.cidr for n in point.topology.networks for s in n.subnets}
        """id of a subnet -> its range at the former site"""
        self._rows = site.networks.networks()
        self._group_rows = site.networks.security_groups(site.project_id)
        self.networks: Named = usable(by_name(self._rows), site.project_id)
        """by name"""
        self.groups: Named = usable(by_name(self._group_rows), site.project_id)
        """by name"""
        with_policy = [
            *(p for p in point.topology.ports if p.qos_policy),
            *(n for n in point.topology.networks if n.qos_policy),
        ]
        policies = site.networks.qos_policies() if with_policy else []
        self.policies: Named = usable(by_name(policies), site.project_id)
        self._created: dict[str, Json] = {}
        """id at the former site -> the network that is created in its place"""
        self._make_rows()
        used = {i["id"] for port in point.topology.ports for i in self.candidates(port)}
        real = sorted(i for i in used if i in {row["id"] for row in self._rows})
        self._subnets = site.networks.subnets(real)
        self.ports_there = site.networks.ports_on(real)
        """the ports on the networks of the VNF"""
        self.planned = [self._network(n) for n in self._former.values()]
        self.planned_groups = self._groups(point.topology.security_groups)
        self._refuse_doubles(point)

    def of(self, whose: str, port: Port) -> tuple[str, str]:
        """The name and the id of the network that a port is going to be on; a problem, and no id,
        unless there is exactly one.
        """
        if port.network_id in self._created:
            row = self._created[port.network_id]
            return row["name"], row["id"]
        name = self._map.networks.get(port.network, port.network)
        return name, self._findings.one("network", name, self.networks, whose)

    def qos_policy(self, whose: str, policy: str) -> str | None:
        """The id of the QoS policy that takes the place of one; None: none is wanted."""
        name = self._map.qos_policies.get(policy, policy)
        if name == NO_POLICY:
            self._findings.warnings.append(
                f"{whose} comes back without its QoS policy {policy}, as the VNF file says"
            )
            return None
        return self._findings.one("QoS policy", name, self.policies, whose)

    def candidates(self, port: Port) -> Sequence[Json]:
        """The networks that a port may be going to be on."""
        if port.network_id in self._created:
            return [self._created[port.network_id]]
        return self.networks.get(self._map.networks.get(port.network, port.network), [])

    def subnets_of(self, network_id: str) -> list[Json]:
        """The subnets of a network; those that are created have an id, a network and a range."""
        return [s for s in self._subnets if s["network_id"] == network_id]

    def _refuse_doubles(self, point: RecoveryPoint) -> None:
        """What goes by its name must be one thing: one of two of a name is not the other."""
        networks = {
            name: ids - self._created.keys()
            for name, ids in point.topology.networks_by_name.items()
            if name not in self._map.networks
        }
        groups = {
            name: ids
            for name, ids in point.topology.groups_by_name.items()
            if name not in self._map.security_groups and self._vnf.networks != "create"
        }
        for what, where, ids_of in (
            ("networks", "networks", networks),
            ("security groups", "security_groups", groups),
        ):
            self._findings.problems += [
                f"ports of the VNF use {len(ids)} {what} that are named {name} at {point.site}, and"
                f" they go by name: rename one and protect again, or name in map.{where} of the VNF"
                " file what takes the place of all"
                for name, ids in sorted(ids_of.items())
                if len(ids) > 1
            ]

    def _warn_of_own(self, what: str, name: str, rows: Sequence[Json], *, is_own: bool) -> None:
        """Say that the project's own is taken for what another project shared.

        Args:
            rows: all of that kind at the backup site.
            is_own: whether it was the project's own at the former site.
        """
        same = [r for r in rows if r["name"] == name]
        own = [r for r in same if r.get("project_id") == self._site.project_id]
        if not is_own and own and any(r.get("shared") for r in same if r not in own):
            self._findings.warnings.append(
                f"{what} {name} belongs to another project at the former site; at"
                f" {self._site.name} the project has one of its own beside the shared one, which is"
                " taken: rename it if that is wrong"
            )

    # ---- networks ----

    def _make_rows(self) -> None:
        """The rows of networks that are created, beside those of the site."""
        if self._vnf.networks != "create":
            return
        mine = [
            r
            for r in self._rows
            if r.get("project_id", self._site.project_id) == self._site.project_id
            or r.get("shared")
        ]
        for network in self._former.values():
            if not network.is_own or network.name in self._map.networks:
                continue
            ours = made_for(network.id, self._rows)
            if ours is None and network.name and any(r["name"] == network.name for r in mine):
                continue
            self._created[network.id] = ours or {
                "id": stand_in(network.id),
                "name": network.name,
                "port_security_enabled": network.port_security_enabled,
            }

    def _network(self, network: Network) -> NetworkPlan:
        row = self._created.get(network.id)
        if row is not None:
            return self._new_network(network, row)
        name = self._map.networks.get(network.name, network.name)
        there = self.networks.get(name, [])
        self._warn_of_own("network", name, self._rows, is_own=network.is_own)
        known = len(there) == 1  # else each port on it has its problem
        changes = list(self._differences(network, there[0])) if known else []
        if changes:
            self._findings.warnings.append(
                f"network {name} is another here than {network.name} was: {', '.join(changes)}"
            )
        return NetworkPlan(
            source_id=network.id,
            former=network.name,
            name=name,
            network_id=there[0]["id"] if known else "",
            is_created=False,
            changes=changes,
        )

    def _new_network(self, network: Network, row: Json) -> NetworkPlan:
        subnets = []
        there = self.subnets_of(row["id"])
        for subnet in network.subnets:
            same = next((s for s in there if s["cidr"] == subnet.cidr), None)
            if same is None:
                if is_complete(row):
                    self._findings.problems.append(
                        f"network {network.name} ({row['id']}) was made by an earlier recovery and "
                        f"has no subnet {subnet.cidr}; create it there, or delete the network"
                    )
                same = {
                    "id": stand_in(subnet.id),
                    "network_id": row["id"],
                    "cidr": subnet.cidr,
                    "ipv6_address_mode": subnet.ipv6_address_mode,
                }
                self._subnets.append(same)
            subnets.append(
                SubnetPlan(
                    subnet_id=same["id"],
                    attributes=_of_subnet(subnet),
                    tags=subnet.tags,
                    serves_addresses=subnet.enable_dhcp,
                )
            )
        return NetworkPlan(
            source_id=network.id,
            former=network.name,
            name=network.name,
            network_id=row["id"],
            is_created=True,
            changes=list(self._not_carried(network)),
            description=network.description,
            attributes=self._attributes(network),
            tags=network.tags,
            subnets=subnets,
        )

    def _attributes(self, network: Network) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "name": network.name,
            "admin_state_up": network.admin_state_up,
            "mtu": network.mtu,
            "port_security_enabled": network.port_security_enabled,
            "dns_domain": network.dns_domain or None,
            "vlan_transparent": network.vlan_transparent or None,
            "qos_policy_id": network.qos_policy
            and self.qos_policy(f"network {network.name}", network.qos_policy),
        }
        if self._vnf.provider_attributes == "keep":
            provider = {f"provider:{name}": value for name, value in network.provider.items()}
            if physical := network.provider.get("physical_network"):
                there = self._map.physical_networks.get(physical, physical)
                provider["provider:physical_network"] = there
            wanted |= provider
            self._see_that_segment_is_free(network, provider)
        return {name: value for name, value in wanted.items() if value is not None}

    def _see_that_segment_is_free(self, network: Network, provider: Json) -> None:
        if "provider:segmentation_id" not in provider:
            return
        for row in self._rows:
            same = all(row.get(name) == value for name, value in provider.items())
            if same and neutron_key(row) != key_tag(network_key(network.id)):
                self._findings.problems.append(
                    f"segment {provider['provider:segmentation_id']} of network {network.name} is "
                    f"in use at {self._site.name} by network {row['name']} ({row['id']}); map the "
                    "network, or let it get another segment: `provider_attributes: drop`"
                )

    def _not_carried(self, network: Network) -> Iterator[str]:
        """The features that a created network does not have; warnings name them, too."""
        for subnet in network.subnets:
            if (was := self._ranges[subnet.id]) != subnet.cidr:
                yield f"subnet {subnet.cidr} instead of {was}"
            if subnet.has_router:
                yield f"no router in subnet {subnet.cidr}"
                self._findings.warnings.append(
                    f"subnet {subnet.cidr} of network {network.name} had a router, and antipode "
                    "creates none: connect one, or what is outside of it is not reached"
                )
        if network.shared:
            yield "not shared with other projects"
            self._findings.warnings.append(
                f"network {network.name} was shared with other projects; the one that is created "
                "is not"
            )

    def _differences(self, network: Network, here: Json) -> Iterator[str]:
        """In which respects a network of the backup site differs from the former one."""
        if network.mtu and here.get("mtu") and here["mtu"] < network.mtu:
            yield f"MTU {here['mtu']} instead of {network.mtu}"
        routed = {
            fixed["subnet_id"]
            for port in self.ports_there
            if port.get("device_owner") in ROUTER_INTERFACES
            for fixed in port["fixed_ips"]
        }
        for subnet in network.subnets:
            same = next((s for s in self.subnets_of(here["id"]) if s["cidr"] == subnet.cidr), None)
            if same is not None:
                yield from _of_one_range(subnet, same, is_routed=same["id"] in routed)

    # ---- security groups ----

    def _groups(self, groups: Sequence[SecurityGroup]) -> list[SecurityGroupPlan]:
        mapped = self._map.security_groups
        names = Counter(g.name for g in groups if mapped.get(g.name, g.name) == g.name)
        if self._vnf.networks == "create" and (twice := sorted(n for n in names if names[n] > 1)):
            self._findings.problems.append(
                f"several security groups of the VNF are named {', '.join(twice)}, and ports name "
                "theirs by name; create them at the backup site, and `networks: map`"
            )
        planned = {g.id: self._group_here(g) for g in groups}
        return [self._group(g, planned) for g in groups]

    def _group_here(self, group: SecurityGroup) -> tuple[str, Json | None, bool]:
        """The name of a group at the backup site, its row there, and whether it is created."""
        name = self._map.security_groups.get(group.name, group.name)
        there = self.groups.get(name, [])
        if self._vnf.networks == "create" and name == group.name != DEFAULT:
            ours = made_for(group.id, self._group_rows)
            if ours is not None or not there:
                row = ours or {"id": stand_in(group.id), "name": name}
                self.groups[name] = [row]
                return name, row, True
        self._warn_of_own("security group", name, self._group_rows, is_own=group.is_own)
        return name, there[0] if len(there) == 1 else None, False

    def _group(
        self, group: SecurityGroup, planned: dict[str, tuple[str, Json | None, bool]]
    ) -> SecurityGroupPlan:
        name, row, is_created = planned[group.id]
        rules = [self._moved_rule(name, r) for r in group.rules]
        lost = [r for r in rules if r.remote_group and not planned.get(r.remote_group)]
        for rule in lost if is_created else []:
            self._findings.warnings.append(
                f"security group {name} loses the rule {_words(_body(rule), '')} about a group "
                "that is not in the recovery point"
            )
        wanted = [
            _body(r) | self._remote(r, planned, is_created=is_created)
            for r in rules
            if r not in lost
        ]
        changes = (
            list(self._rule_differences(wanted, row)) if row is not None and not is_created else []
        )
        if changes:
            self._findings.warnings.append(
                f"security group {name} is another here than {group.name} was: {', '.join(changes)}"
            )
        return SecurityGroupPlan(
            source_id=group.id,
            former=group.name,
            name=name,
            group_id=row["id"] if row else "",
            is_created=is_created,
            changes=changes,
            description=group.description,
            attributes={"name": name} | ({} if group.stateful else {"stateful": False}),
            tags=group.tags,
            rules=wanted if is_created else [],
        )

    def _moved_rule(self, group: str, rule: SecurityGroupRule) -> SecurityGroupRule:
        """A rule about the range that takes the place of its former one."""
        if not (was := rule.remote_ip_prefix):
            return rule
        if (covered := self._map.moved_within(was)) and ip_network(was, strict=False).prefixlen:
            self._findings.warnings.append(
                f"security group {group} has a rule about {was}, of which only {covered} has "
                "another place at this site: look whether it still says what it should"
            )
        return rule.model_copy(update={"remote_ip_prefix": self._map.range(was)})

    def _remote(
        self,
        rule: SecurityGroupRule,
        planned: dict[str, tuple[str, Json | None, bool]],
        *,
        is_created: bool,
    ) -> Json:
        if rule.remote_group is None:
            return {}
        name, row, _ = planned[rule.remote_group]
        if row is None and is_created:
            self._findings.one("security group", name, self.groups, "a rule that is about it")
        return {"remote_group_id": row["id"] if row else name}

    def _rule_differences(self, wanted: Sequence[Json], row: Json) -> Iterator[str]:
        names = {g["id"]: g["name"] for g in self._group_rows}
        here = {rule_key(r): r for r in row.get("security_group_rules", [])}
        were = {rule_key(r): r for r in wanted}
        for key in sorted({*here, *were}, key=str):
            if key not in here:
                yield f"it lacks {_words(were[key], names.get(key[-1] or '', ''))}"
            elif key not in were:
                yield f"it also has {_words(here[key], names.get(key[-1] or '', ''))}"


def moved(network: Network, mapping: Mapping) -> Network:
    """A network with the ranges and addresses that take the place of its former ones."""
    if not mapping.addresses:
        return network

    def of(subnet: Subnet) -> Subnet:
        changes: dict[str, Any] = {
            "cidr": mapping.range(subnet.cidr),
            "gateway_ip": subnet.gateway_ip and mapping.address(subnet.gateway_ip),
            "dns_nameservers": [mapping.address(a) for a in subnet.dns_nameservers],
            "host_routes": [
                {
                    "destination": mapping.range(r["destination"]),
                    "nexthop": mapping.address(r["nexthop"]),
                }
                for r in subnet.host_routes
            ],
            "allocation_pools": [
                {end: mapping.address(a) for end, a in pool.items()}
                for pool in subnet.allocation_pools
            ],
        }
        return subnet.model_copy(update=changes)

    return network.model_copy(update={"subnets": [of(s) for s in network.subnets]})


def made_for(source_id: str, rows: Sequence[Json]) -> Json | None:
    """The network or group among these that was created for one of the former site.

    Of two, made by a request that came through late or by another process, the one that is
    complete, which its tags tell; else the older one.
    """
    ours = [r for r in rows if neutron_key(r) == key_tag(network_key(source_id))]
    return min(
        ours,
        key=lambda r: (not is_complete(r), r.get("created_at") or "", r["id"]),
        default=None,
    )


def is_complete(row: Json) -> bool:
    """Whether a network or group of ours has all that it is to have: it gets its tags last."""
    return any(tag.startswith(f"{KEY}=") for tag in row.get("tags") or ())


def rule_key(rule: Json) -> tuple[Any, ...]:
    """The fields by which Neutron considers two rules equal."""
    prefix = rule.get("remote_ip_prefix")
    return (
        *(rule.get(name) for name in RULE),
        str(ip_network(prefix, strict=False)) if prefix else None,
        rule.get("remote_address_group_id"),
        rule.get("remote_group_id"),
    )


def _body(rule: SecurityGroupRule) -> Json:
    """As for `POST /security-group-rules`, which takes no null."""
    fields = rule.model_dump(exclude={"remote_group"}, exclude_none=True)
    if not rule.description:
        del fields["description"]
    return fields


def _words(rule: Json, remote: str) -> str:
    """A rule for people."""
    lowest, highest = rule.get("port_range_min"), rule.get("port_range_max")
    ports = None if lowest is None else f"{lowest}" if lowest == highest else f"{lowest}-{highest}"
    prefix = rule.get("remote_ip_prefix")
    other = prefix or (f"group {remote}" if remote else None)
    word = {"ingress": "from", "egress": "to"}[rule["direction"]]
    return " ".join(
        p
        for p in (
            rule["direction"],
            rule["ethertype"],
            rule.get("protocol"),
            ports,
            other and f"{word} {other}",
        )
        if p
    )


def _of_subnet(subnet: Subnet) -> Json:
    """As for `POST /subnets`. Neutron serves addresses from the moment at which DHCP is on, and
    its own port could take one that a port of the VNF needs: it is off at first, but for IPv6 with
    a mode, which Neutron does not take without.
    """
    has_mode = bool(subnet.ipv6_address_mode or subnet.ipv6_ra_mode)
    optional = {
        "dns_nameservers": subnet.dns_nameservers,
        "host_routes": subnet.host_routes,
        "allocation_pools": subnet.allocation_pools,
        "service_types": subnet.service_types,
        "description": subnet.description,
        "ipv6_address_mode": subnet.ipv6_address_mode,
        "ipv6_ra_mode": subnet.ipv6_ra_mode,
    }
    return {
        "name": subnet.name,
        "cidr": subnet.cidr,
        "ip_version": subnet.ip_version,
        "gateway_ip": subnet.gateway_ip,
        "enable_dhcp": subnet.enable_dhcp and has_mode,
        **{name: value for name, value in optional.items() if value},
    }


def _of_one_range(subnet: Subnet, here: Json, *, is_routed: bool) -> Iterator[str]:
    """In which respects a subnet of the backup site differs from one of the same range."""
    compared = (
        ("gateway", subnet.gateway_ip, here.get("gateway_ip")),
        ("DNS servers", subnet.dns_nameservers, here.get("dns_nameservers", [])),
        ("host routes", subnet.host_routes, here.get("host_routes", [])),
    )
    for what, was, now in compared:
        if was != now:
            yield f"{what} {_value(now)} instead of {_value(was)} in subnet {subnet.cidr}"
    if subnet.enable_dhcp and not here.get("enable_dhcp", True):
        yield f"no DHCP in subnet {subnet.cidr}"
    if subnet.has_router and not is_routed:
        yield f"no router in subnet {subnet.cidr}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        each = (" via ".join(v.values()) if isinstance(v, dict) else str(v) for v in value)
        return ", ".join(each) or "none"
    return str(value or "none")
