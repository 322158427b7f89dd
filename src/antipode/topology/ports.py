# SPDX-License-Identifier: Apache-2.0
"""The ports of a VNF as Neutron has them: those of its servers in the order of the interfaces,
their trunks, the ports that belong to no server, and the floating IPs that lead to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.addresses import is_about, is_in, one_address
from antipode.model.marks import is_throw_away_port, key_said, undescribed, untagged
from antipode.model.topology import (
    DhcpOption,
    FixedAddress,
    FloatingIp,
    Network,
    Port,
    SecurityGroup,
    Subport,
    Trunk,
)
from antipode.topology.networks import groups_of, networks_of

_OF_THE_HYPERVISOR = {
    "arq",
    "card_serial_number",
    "numa",
    "os_vif_delegation",
    "pci_slot",
    "pci_vendor_info",
    "pf_mac_address",
    "physical_network",
    "vf_num",
    "allocation",
    "migrating_to",
}
"""What Nova and Neutron write into the binding profile of a port: it belongs to one host."""
MANY = 10
"""Ports in one sentence."""


@dataclass(frozen=True)
class Interfaces:
    """The ports of a server, and whether their order is known to be that of its interfaces."""

    ports: list[Port]
    in_order: bool


@dataclass(frozen=True)
class Ports:
    """All ports of a VNF."""

    of_server: Mapping[str, Interfaces]
    """by the id of the server"""
    unattached: list[Port]
    floating_ips: list[FloatingIp]
    networks: list[Network]
    security_groups: list[SecurityGroup]
    not_carried: list[str] = field(default_factory=list)
    """a sentence for each thing that belongs to ports and does not come back"""


@dataclass(frozen=True)
class _Free:
    """The ports without a server that belong to a VNF, and those of which it is not known."""

    ours: list[Json]
    doubtful: Mapping[str, Json]
    """address -> port: a member's port may use its whole subnet"""


def discover_ports(
    site: Site,
    servers: Sequence[Json],
    order: Mapping[str, Sequence[str]],
    wanted: Collection[str] = (),
) -> Ports:
    """The ports of servers, and what belongs to them.

    A port that belongs to no server is found by its address, which a member's port may use too
    (`allowed_address_pairs`), or because it is named.

    Args:
        servers: as Nova lists them.
        order: server id -> names, ids or MAC addresses of its ports in the order of its interfaces,
            where the VNF file gives it.
        wanted: names or ids of ports without server that the VNF file names.

    Raises:
        ResourceFailed: Neutron does not list a network, a subnet, or a port that the VNF needs.
    """
    rows = site.networks.ports_of([s["id"] for s in servers])
    if not rows and not wanted:
        return Ports({s["id"]: Interfaces([], True) for s in servers}, [], [], [], [])
    trunks = site.networks.trunks([p["id"] for p in rows if p.get("trunk_details")])
    subports = site.networks.ports([s["port_id"] for t in trunks for s in t["sub_ports"]])
    free = _unattached(site, [*rows, *subports], wanted)
    vips = free.ours
    names = _Names(site, [*rows, *subports, *vips])
    hostnames = {s["id"]: s.get("OS-EXT-SRV-ATTR:hostname") for s in servers}
    made = _with_trunks(names, [*rows, *vips], trunks, subports, hostnames)
    of_server = {
        server["id"]: _interfaces(
            site,
            server,
            [p for p in rows if p["device_id"] == server["id"]],
            order.get(server["id"], ()),
            made,
        )
        for server in servers
    }
    public = site.networks.floating_ips(project_id=site.project_id)
    servers_by_port = {p["id"]: next(s for s in servers if s["id"] == p["device_id"]) for p in rows}
    labels = {
        below.id: f"server {servers_by_port[i]['name']}"
        if i in servers_by_port
        else f"port {port.name or port.id}"
        for i, port in made.items()
        for below in port.with_subports
    }
    return Ports(
        of_server,
        [made[p["id"]] for p in vips],
        _floating_ips(public, made.values()),
        names.networks(),
        names.security_groups(),
        [*_not_taken(free.doubtful), *_forwardings(public, made.values(), labels)],
    )


class _Names:
    """What ports name by ids, and the models of the ports."""

    def __init__(self, site: Site, ports: Sequence[Json]) -> None:
        with ThreadPoolExecutor(1, "security-groups") as pool:
            groups = pool.submit(site.networks.security_groups, site.project_id)
            listed = site.networks.networks({p["network_id"] for p in ports})
            self._networks = {n["id"]: n for n in listed}
            self._subnets = {s["id"]: s for s in site.networks.subnets(self._networks)}
        self._site = site
        self._all_groups = groups.result()
        self._groups = {g["id"]: g["name"] for g in self._all_groups}
        self._used_groups = {g for p in ports for g in p.get("security_groups", [])}
        has_qos = any(row.get("qos_policy_id") for row in (*ports, *listed))
        self._policies = {
            q["id"]: q["name"] for q in (site.networks.qos_policies() if has_qos else [])
        }
        self._neutron = f"Neutron of {site.name}"

    def networks(self) -> list[Network]:
        """The networks of the ports."""
        subnets = list(self._subnets.values())
        return networks_of(self._site, list(self._networks.values()), subnets, self._policies)

    def security_groups(self) -> list[SecurityGroup]:
        """The security groups of the ports, and those that their rules are about."""
        return groups_of(self._site, self._all_groups, self._used_groups)

    def port(self, row: Json, hostname: str | None, trunk: Trunk | None = None) -> Port:
        """A port as a model.

        Args:
            hostname: of its server, which Nova writes into `dns_name`.
        """
        label = (
            f"port {row['id']} of server {row['device_id']}"
            if row["device_id"]
            else (f"port {row['id']}")
        )
        network = listed(self._networks, row["network_id"], f"{label} is on network", self._neutron)
        dns_name = row.get("dns_name") or ""
        policy = row.get("qos_policy_id")
        return Port(
            id=row["id"],
            name=row["name"],
            network=network["name"],
            network_id=network["id"],
            mac_address=row["mac_address"],
            fixed=[self._fixed(label, fixed) for fixed in row["fixed_ips"]],
            security_groups=[self._groups.get(g, g) for g in row.get("security_groups", [])],
            allowed_address_pairs=row.get("allowed_address_pairs", []),
            port_security_enabled=row.get("port_security_enabled", True),
            vnic_type=row.get("binding:vnic_type", "normal"),
            tags=untagged(row.get("tags", [])),
            description=undescribed(row.get("description")),
            admin_state_up=row.get("admin_state_up", True),
            device_owner="" if row["device_id"] else row.get("device_owner", ""),
            dhcp_options=[_dhcp_option(o) for o in row.get("extra_dhcp_opts", [])],
            dns_name="" if dns_name == hostname else dns_name,
            dns_domain=row.get("dns_domain") or "",
            qos_policy=self._policies.get(policy, policy) if policy else None,
            numa_affinity_policy=row.get("numa_affinity_policy"),
            propagate_uplink_status=row.get("propagate_uplink_status"),
            binding_profile=_profile(row.get("binding:profile", {})),
            trunk=trunk,
        )

    def _fixed(self, label: str, fixed: Json) -> FixedAddress:
        subnet = listed(self._subnets, fixed["subnet_id"], f"{label} is on subnet", self._neutron)
        return FixedAddress(
            address=fixed["ip_address"], subnet_cidr=subnet["cidr"], subnet_name=subnet["name"]
        )


def _dhcp_option(option: Json) -> DhcpOption:
    return DhcpOption(
        name=option["opt_name"],
        value=option["opt_value"],
        ip_version=option.get("ip_version", 4),
    )


def _profile(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in profile.items() if k not in _OF_THE_HYPERVISOR}


def _with_trunks(
    names: _Names,
    rows: Sequence[Json],
    trunks: Sequence[Json],
    subports: Sequence[Json],
    hostnames: Mapping[str, str | None],
) -> dict[str, Port]:
    """The models of ports by id, each with its trunk."""
    row_of = {row["id"]: row for row in subports}
    of_parent = {trunk["port_id"]: trunk for trunk in trunks}

    def subport(trunk: Json, below: Json) -> Subport:
        label = f"trunk {trunk['name'] or trunk['id']} has subport"
        row = listed(row_of, below["port_id"], label, "Neutron")
        # Neutron calls it its own while it is bound: that is no owner's word.
        port = names.port({**row, "device_owner": ""}, None)
        return Subport(
            port=port,
            segmentation_type=below["segmentation_type"],
            segmentation_id=below["segmentation_id"],
        )

    def trunk_of(row: Json) -> Trunk | None:
        if (trunk := of_parent.get(row["id"])) is None:
            return None
        return Trunk(
            name=trunk["name"],
            description=undescribed(trunk.get("description")),
            admin_state_up=trunk.get("admin_state_up", True),
            tags=untagged(trunk.get("tags", [])),
            subports=[subport(trunk, below) for below in trunk["sub_ports"]],
        )

    return {
        row["id"]: names.port(row, hostnames.get(row["device_id"]), trunk_of(row)) for row in rows
    }


def _unattached(site: Site, rows: Sequence[Json], wanted: Collection[str]) -> _Free:
    """The ports without a server that belong to the VNF.

    Args:
        rows: the ports of its servers, those of trunks included.
    """
    pairs = {
        (p["network_id"], pair["ip_address"])
        for p in rows
        for pair in p.get("allowed_address_pairs", [])
        if pair.get("ip_address")
    }
    if not pairs and not wanted:
        return _Free([], {})
    homes = {p["network_id"] for p in rows}
    networks = homes | ({n["id"] for n in site.networks.networks()} if wanted else set())
    known = {p["id"] for p in rows}
    free = [
        p
        for p in site.networks.unplugged_ports(networks)
        if p["id"] not in known
        and p.get("project_id", site.project_id) == site.project_id
        # a port of a recovery that was given up belongs to that, not to the VNF
        and key_said(p.get("description")) is None
        and not is_throw_away_port(p)
        and not p.get("device_owner", "").startswith(("network:", "trunk:"))
    ]
    named = [p for p in free if {p["name"], p["id"]} & set(wanted)]
    if unknown := set(wanted) - {w for p in named for w in (p["name"], p["id"])}:
        raise ResourceFailed(
            f"{site.name}: there is no port without a server that is named"
            f" {', '.join(sorted(unknown))}; create it, or remove it from the VNF file"
        )
    allowed, doubtful = _allowed(site, [p for p in free if p["network_id"] in homes], pairs)
    ours = {p["id"]: p for p in [*named, *allowed]}
    return _Free(list(ours.values()), {a: p for a, p in doubtful.items() if p["id"] not in ours})


def _allowed(
    site: Site, free: Sequence[Json], pairs: Collection[tuple[str, str]]
) -> tuple[list[Json], dict[str, Json]]:
    """The ports whose addresses allowed address pairs are about, and by address those of which it
    is not known, as a pair has their whole subnet: that lets a router pass, and says nothing of who
    has the addresses.

    Args:
        pairs: (id of a network, range or address) each.
    """
    single = {address for _, cidr in pairs if (address := one_address(cidr))}
    ranges = {(network, cidr) for network, cidr in pairs if not one_address(cidr)}
    on = {p["network_id"] for p in free}
    subnets = {s["id"]: s["cidr"] for s in site.networks.subnets(on)} if ranges and on else {}
    ours, doubtful = [], {}
    for port in free:
        for fixed in port["fixed_ips"]:
            address, subnet = fixed["ip_address"], subnets.get(fixed["subnet_id"])
            having = [
                cidr
                for network, cidr in ranges
                if network == port["network_id"] and is_in(address, cidr)
            ]
            if address in single or any(subnet and is_about(c, address, subnet) for c in having):
                ours.append(port)
            elif having:
                doubtful[address] = port
    return ours, doubtful


def _not_taken(doubtful: Mapping[str, Json]) -> Iterator[str]:
    if doubtful:
        each = [f"{p['name'] or p['id']} ({address})" for address, p in sorted(doubtful.items())]
        more = f" and {len(each) - MANY} more" if len(each) > MANY else ""
        yield (
            f"ports of no server that do not come back: {', '.join(each[:MANY])}{more}. A member's "
            "port may use their whole subnet (allowed_address_pairs): name those of the VNF in "
            "`ports` of the VNF file"
        )


def _interfaces(
    site: Site,
    server: Json,
    rows: Sequence[Json],
    order: Sequence[str],
    made: Mapping[str, Port],
) -> Interfaces:
    """The ports of a server in the order in which Nova has plugged them.

    Nova's listing of interfaces has Neutron's order. Its addresses have that of the interfaces, but
    for networks with several of them.
    """
    ports = [made[row["id"]] for row in rows]
    if order:
        return Interfaces(_as_listed(ports, order, server["name"]), True)
    if len(ports) < 2:
        return Interfaces(ports, True)
    addresses = server["addresses"]
    if _addresses_tell(ports, list(addresses)):
        networks = list(addresses)
        macs = [a["OS-EXT-IPS-MAC:mac_addr"].lower() for of in addresses.values() for a in of]
        rank = partial(_rank, networks=networks, macs=macs)
        return Interfaces(sorted(ports, key=rank), True)
    plugged = site.compute.plugged(server["id"]) or []
    known = {p.mac_address.lower() for p in ports} <= set(plugged)
    macs = plugged or [
        a["OS-EXT-IPS-MAC:mac_addr"].lower() for of in addresses.values() for a in of
    ]
    position = {mac: macs.index(mac) for mac in macs}
    in_order = sorted(ports, key=lambda p: position.get(p.mac_address.lower(), len(macs)))
    return Interfaces(in_order, known)


def _rank(port: Port, networks: list[str], macs: list[str]) -> tuple[int, int]:
    mac = port.mac_address.lower()
    return networks.index(port.network), macs.index(mac) if mac in macs else len(macs)


def _addresses_tell(ports: Sequence[Port], networks: Sequence[str]) -> bool:
    """Whether the addresses of a server tell the order of its interfaces: they stand by network,
    the networks in the order of their first interface.
    """
    on = Counter(p.network for p in ports)
    bare = {p.network for p in ports if not p.fixed}
    return set(on) <= set(networks) and all(
        times == 1 or (network == networks[-1] and network not in bare)
        for network, times in on.items()
    )


def _as_listed(ports: Sequence[Port], order: Sequence[str], server: str) -> list[Port]:
    """The ports in the order that the VNF file gives.

    Raises:
        ResourceFailed: it does not name each port of the server once.
    """
    found = [
        p for word in order for p in ports if word in (p.id, p.name) or _is_mac(word, p.mac_address)
    ]
    if sorted(p.id for p in found) != sorted(p.id for p in ports):
        have = ", ".join(p.name or p.id for p in ports)
        raise ResourceFailed(
            f"`interfaces` of member {server} must name each of its ports once; it has: {have}"
        )
    return found


def _is_mac(word: str, mac_address: str) -> bool:
    return word.lower() == mac_address.lower()


def _floating_ips(public: Sequence[Json], ports: Collection[Port]) -> list[FloatingIp]:
    of = {p.id for port in ports for p in port.with_subports}
    return [
        FloatingIp(
            address=row["floating_ip_address"],
            fixed_address=row.get("fixed_ip_address") or "",
            port=row["port_id"],
            description=row.get("description", ""),
        )
        for row in public
        if row.get("port_id") in of
    ]


def _forwardings(
    public: Sequence[Json], ports: Collection[Port], labels: Mapping[str, str]
) -> Iterator[str]:
    """What floating IPs forward to ports of a VNF: such a floating IP leads to no port itself.

    Args:
        labels: whose a port is, by its id.
    """
    every = [p for port in ports for p in port.with_subports]
    at = {f.address: p.id for p in every for f in p.fixed}
    for floating in public:
        for rule in floating.get("port_forwardings", []):
            address = rule.get("internal_ip_address") or ""
            # a Neutron that does not name the port names its address
            port = rule.get("internal_port_id") or at.get(address, "")
            if port not in labels:
                continue
            outer, inner = (
                rule.get(f"{side}_port") or rule.get(f"{side}_port_range")
                for side in ("external", "internal")
            )
            # of a range of ports Neutron tells with the floating IP only that it is there
            what = f"port {outer}/{rule.get('protocol')}" if outer else f"{rule.get('protocol')}"
            where = f"{address}:{inner}" if inner else address
            yield (
                f"floating IP {floating['floating_ip_address']} forwards {what} to {where} of"
                f" {labels[port]}: port forwardings do not come back; add it by hand"
            )


def listed(there: Mapping[str, Json], wanted: str, used: str, service: str) -> Json:
    """A resource that another one refers to.

    Raises:
        ResourceFailed: the listing of its own service does not have it.
    """
    if wanted not in there:
        raise ResourceFailed(
            f"{used} {wanted}, which {service} does not list; detach it, or mend that service's "
            "database"
        )
    return there[wanted]
