# SPDX-License-Identifier: Apache-2.0
"""The values that the DNS records of a VNF have while it is active at a site, from a recovery point
and the definition of the VNF alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from antipode.errors import InvalidInput
from antipode.model.dns import DnsRecord, RecordSet
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Port

_VERSIONS = {"A": 4, "AAAA": 6}


def wanted(point: RecoveryPoint, record: DnsRecord, site: str) -> RecordSet:
    """The records of one entry while the VNF is active at a site.

    Raises:
        InvalidInput: the point does not say which address is meant.
    """
    if record.type == "CNAME":
        if site not in record.targets:
            raise InvalidInput(f"DNS record {record.key} has no target for {site}")
        return record.with_values([record.targets[site]])
    return record.with_values(
        _address(point, record, whose, ports, site) for whose, ports in _ports(point, record)
    )


def _ports(point: RecoveryPoint, record: DnsRecord) -> Iterator[tuple[str, list[Port]]]:
    """The ports among which an address is looked for, for each address: of a member in the order
    of its interfaces, or the one that belongs to no server.
    """
    if record.port is not None:
        named = [p for p in point.topology.vip_ports if record.port in (p.name, p.id)]
        yield f"port {record.port}", named
        return
    servers = zip(point.vnf.members, point.topology.servers, strict=True)
    of_members = {member.server: server for member, server in servers}
    for label in record.members:
        found = of_members.get(label)
        yield f"member {label}", found.ports if found else []


def _address(
    point: RecoveryPoint, record: DnsRecord, whose: str, ports: list[Port], site: str
) -> str:
    names = point.vnf.map_between(point.vnf.primary, point.site).networks
    network = record.network and names.get(record.network, record.network)
    fixed = [
        (port.id, f.address)
        for port in ports
        if network in (None, port.network)
        for f in port.fixed
        if ip_address(f.address).version == _VERSIONS[record.type]
    ]
    if not fixed:
        on = f" on network {record.network}" if record.network else ""
        raise InvalidInput(
            f"DNS record {record.key}: recovery point {point.id} has no such address of {whose}{on}"
        )
    there = point.vnf.map_between(point.site, site)
    if not record.floating:
        return there.address(fixed[0][1])
    for port, address in fixed:
        for floating in point.topology.floating_ips:
            if floating.port == port and floating.fixed_address in ("", address):
                if site == point.site:
                    return floating.address
                if (moved := there.floating_ips.get(floating.address)) is not None:
                    return moved
                raise InvalidInput(
                    f"DNS record {record.key}: nothing takes the place of floating IP"
                    f" {floating.address} at {site}. Name it in map.floating_ips of the VNF file"
                )
    raise InvalidInput(
        f"DNS record {record.key}: recovery point {point.id} has no floating IP of {whose}"
    )
