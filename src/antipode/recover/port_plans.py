# SPDX-License-Identifier: Apache-2.0
"""The ports of a recovery, planned: their networks, subnets, groups and policies found at the
backup site, their addresses seen to be free, and what Neutron cannot bring back there named.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.model.addresses import is_about, is_in, one_address
from antipode.model.marks import key_tag, neutron_key, neutron_maker
from antipode.model.plan import FloatingIpPlan, PortPlan, SubportPlan, TrunkPlan
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Port, Trunk
from antipode.recover.findings import Findings
from antipode.recover.network_plans import NetworkPlanner
from antipode.recover.recovery import resource_key

WHOLE_DEVICE = "direct-physical"
"""A port of this vnic type has the MAC address of the device that it gets."""
EXTENSIONS = {
    "extra_dhcp_opts": "extra_dhcp_opt",
    "dns_domain": "dns-domain-ports",
    "numa_affinity_policy": "port-numa-affinity-policy",
    "propagate_uplink_status": "uplink-status-propagation",
}
"""attribute of a port -> the extension of Neutron that it takes"""


class PortPlanner:
    """What Neutron of the backup site has, read once, and what is wrong with it for the ports."""

    def __init__(
        self, point: RecoveryPoint, site: Site, findings: Findings, *, beside: bool = False
    ) -> None:
        """`beside`: see `plan.make_plan`."""
        self._beside = beside
        self._point = point
        self._site = site
        self._findings = findings
        self._map = point.vnf.map_between(point.site, site.name)
        ports = point.topology.ports
        self.networks = NetworkPlanner(point, site, findings)
        self.there = self.networks.ports_there
        """the ports on the networks of the VNF"""
        self._extensions = site.networks.extensions()
        keys = {key_tag(resource_key(point.keyed_by, p.id)) for p in ports}
        self._ours = {p["id"] for p in self.there if neutron_key(p) in keys}
        """ids of the ports that an earlier attempt has made"""
        others = [p for p in self.there if p["id"] not in self._ours]
        self._taken = {
            (p["network_id"], f["ip_address"]): p for p in others for f in p["fixed_ips"]
        }
        self._macs = {(p["network_id"], p["mac_address"].lower()): p for p in others}

    def of_server(self, server: str, hostname: str, ports: Sequence[Port]) -> list[PortPlan]:
        """The ports of a server, in the order of its interfaces."""
        planned = []
        for port in ports:
            self._see_that_nova_takes_it(server, port)
            plan = self._port(f"server {server}", port)
            planned.append(plan.model_copy(update={"dns_name": self._dns_name(port, hostname)}))
        return planned

    def unattached(self) -> list[PortPlan]:
        """The ports that belong to no server."""
        planned = []
        for port in self._point.topology.vip_ports:
            plan = self._port(f"port {port.name or port.id}", port)
            more = {"device_owner": port.device_owner} if port.device_owner else {}
            if port.dns_name and "dns-integration" in self._extensions:
                more["dns_name"] = port.dns_name
            planned.append(plan.model_copy(update={"attributes": {**plan.attributes, **more}}))
        return planned

    def floating_ips(self) -> list[FloatingIpPlan]:
        """The floating IPs that take the place of those of the former site; those that nothing
        takes the place of are named as lost.
        """
        former = self._point.topology.floating_ips
        if not former or self._beside:
            return []
        there = {
            row["floating_ip_address"]: row
            for row in self._site.networks.floating_ips(project_id=self._site.project_id)
        }
        planned = []
        for one in former:
            if (wanted := self._map.floating_ips.get(one.address)) is None:
                self._findings.warnings.append(
                    f"floating IP {one.address} of {one.fixed_address} is lost; map.floating_ips "
                    "in the VNF file may name one of the backup site in its place"
                )
                continue
            row = there.get(wanted)
            if row is None:
                self._findings.problems.append(
                    f"the project has no floating IP {wanted} at {self._site.name}, which takes "
                    f"the place of {one.address}; create it there"
                )
            elif row.get("port_id") and row["port_id"] not in self._ours:
                self._findings.problems.append(
                    f"floating IP {wanted}, which takes the place of {one.address}, leads to port "
                    f"{row['port_id']}; free it, or map another"
                )
            else:
                planned.append(
                    FloatingIpPlan(
                        former=one.address,
                        address=wanted,
                        floating_ip_id=row["id"],
                        source_port=one.port,
                        fixed_address=self._map.address(one.fixed_address)
                        if one.fixed_address
                        else "",
                    )
                )
        return planned

    def _port(self, whose: str, port: Port) -> PortPlan:
        network, network_id = self.networks.of(whose, port)
        if network_id and not self._beside:
            self._see_that_it_is_free(whose, port, network, network_id)
        has_security = "port-security" in self._extensions
        if not has_security and not port.port_security_enabled:
            self._lost(whose, "port security that is off", "port-security")
        return PortPlan(
            source_id=port.id,
            name=port.name,
            network=network,
            network_id=network_id,
            mac_address="" if port.vnic_type == WHOLE_DEVICE else port.mac_address,
            fixed={
                a: self._subnet(whose, network, network_id, a)
                for a in (self._map.address(f.address) for f in port.fixed)
            }
            if network_id
            else {},
            former={
                there: f.address
                for f in port.fixed
                if (there := self._map.address(f.address)) != f.address
            },
            security_group_ids=[
                self._findings.one(
                    "security group",
                    self._map.security_groups.get(group, group),
                    self.networks.groups,
                    whose,
                )
                for group in port.security_groups
            ],
            allowed_address_pairs=self._pairs(port),
            port_security_enabled=port.port_security_enabled if has_security else None,
            vnic_type=port.vnic_type,
            device_tag=port.device_tag,
            tags=port.tags,
            description=port.description,
            attributes=self._attributes(whose, port),
            binding_profile=port.binding_profile,
            trunk=self._trunk(whose, port.trunk) if port.trunk else None,
        )

    def _pairs(self, port: Port) -> list[dict[str, str]]:
        return [
            {**pair, "ip_address": self._map.range(pair["ip_address"])}
            if "ip_address" in pair
            else pair
            for pair in port.allowed_address_pairs
        ]

    def _attributes(self, whose: str, port: Port) -> dict[str, Any]:
        """More attributes of a port; those that Neutron has no extension for are named as lost."""
        wanted: dict[str, Any] = {
            "extra_dhcp_opts": [
                {"opt_name": o.name, "opt_value": o.value, "ip_version": o.ip_version}
                for o in port.dhcp_options
            ],
            "dns_domain": port.dns_domain,
            "numa_affinity_policy": port.numa_affinity_policy,
            "propagate_uplink_status": port.propagate_uplink_status,
        }
        found: dict[str, Any] = {"admin_state_up": False} if not port.admin_state_up else {}
        for name, value in wanted.items():
            if value in (None, "", []):
                continue
            if EXTENSIONS[name] in self._extensions:
                found[name] = value
            elif name != "propagate_uplink_status":  # it is on by default, without a wish
                self._lost(whose, name, EXTENSIONS[name])
        if port.vnic_type != "normal":
            found["binding:vnic_type"] = port.vnic_type
        return found | self._qos(whose, port)

    def _qos(self, whose: str, port: Port) -> dict[str, Any]:
        if port.qos_policy is None:
            return {}
        policy = self.networks.qos_policy(whose, port.qos_policy)
        return {} if policy is None else {"qos_policy_id": policy}

    def _dns_name(self, port: Port, hostname: str) -> str:
        if not port.dns_name or port.dns_name == hostname:
            return ""
        if "dns-integration" not in self._extensions:
            self._lost(
                f"port {port.name or port.id}", f"dns_name {port.dns_name}", "dns-integration"
            )
            return ""
        return port.dns_name

    def _trunk(self, whose: str, trunk: Trunk) -> TrunkPlan | None:
        if "trunk" not in self._extensions:
            self._findings.problems.append(
                f"Neutron of {self._site.name} has no trunks, needed for {whose}"
            )
            return None
        return TrunkPlan(
            name=trunk.name,
            description=trunk.description,
            admin_state_up=trunk.admin_state_up,
            tags=trunk.tags,
            subports=[
                SubportPlan(
                    port=self._port(
                        f"{whose}, subport of VLAN {below.segmentation_id}", below.port
                    ),
                    segmentation_type=below.segmentation_type,
                    segmentation_id=below.segmentation_id,
                )
                for below in trunk.subports
            ],
        )

    def _lost(self, whose: str, what: str, extension: str) -> None:
        self._findings.warnings.append(
            f"{whose} loses {what}: Neutron of {self._site.name} has no extension {extension}"
        )

    def _see_that_nova_takes_it(self, server: str, port: Port) -> None:
        """Nova boots no server on a network without subnets that filters its ports."""
        for network in self.networks.candidates(port):
            bare = not self.networks.subnets_of(network["id"])
            if bare and network.get("port_security_enabled"):
                self._findings.problems.append(
                    f"network {network['name']} has no subnet and port security that is on: Nova "
                    f"boots no server on it, needed for server {server}. Switch off the port "
                    "security of the network"
                )

    def _see_that_it_is_free(self, whose: str, port: Port, network: str, network_id: str) -> None:
        """The addresses and the MAC address of a port are not somebody else's."""
        for address in (self._map.address(f.address) for f in port.fixed):
            if other := self._taken.get((network_id, address)):
                self._findings.problems.append(
                    f"address {address} of {whose} is in use on network {network} by"
                    f" {self._in_the_way(other)}"
                )
        other = self._macs.get((network_id, port.mac_address.lower()))
        if other and port.vnic_type != WHOLE_DEVICE:
            self._findings.problems.append(
                f"MAC address {port.mac_address} of {whose} is in use on network {network} by "
                f"{self._in_the_way(other)}"
            )
        for pair in sorted(_of_pairs(self._pairs(port))):
            for address, other in self._taken_of(pair, network_id):
                self._findings.warnings.append(
                    f"address {address}, which {whose} may use too, is in use on network {network} "
                    f"by {owner(other)}"
                )

    def _taken_of(self, pair: str, network_id: str) -> list[tuple[str, Json]]:
        """The addresses in use that a pair is about; none of one that has their whole subnet."""
        if address := one_address(pair):
            other = self._taken.get((network_id, address))
            return [(address, other)] if other else []
        subnets = [s["cidr"] for s in self.networks.subnets_of(network_id)]
        return [
            (address, other)
            for (network, address), other in self._taken.items()
            if network == network_id
            and any(is_in(address, s) and is_about(pair, address, s) for s in subnets)
            and not (other.get("device_owner") or "").startswith("network:")
        ]

    def _in_the_way(self, other: Json) -> str:
        """A port that is in the way, and how it is removed if it is one of ours."""
        maker = neutron_maker(other)
        ways = [f"if that was aborted, again: antipode run abort {maker}"] if maker else []
        if maker or self._point.generation > 1:
            ways.append(removal_of_old_copy(self._point))
        return "; ".join([owner(other), *ways])

    def _subnet(self, whose: str, network: str, network_id: str, address: str) -> str:
        mine = self.networks.subnets_of(network_id)
        for subnet in mine:
            if ip_address(address) in ip_network(subnet["cidr"]):
                return str(subnet["id"])
        have = ", ".join(s["cidr"] for s in mine) or "none"
        self._findings.problems.append(
            f"network {network} has no subnet with address {address} of {whose} (its "
            f"subnets: {have})"
        )
        return ""


def _of_pairs(pairs: Sequence[AnyMapping[str, str]]) -> set[str]:
    return {pair["ip_address"] for pair in pairs if pair.get("ip_address")}


def owner(port: Json) -> str:
    """A port that is in the way, and the run that made it if it is one of ours."""
    maker = neutron_maker(port)
    return (
        f"port {port['id']} ({port.get('device_owner') or 'not plugged'} "
        f"{port.get('device_id', '')})".replace(" )", ")")
        + (f", made by {maker}" if maker else "")
    )


def removal_of_old_copy(point: RecoveryPoint) -> str:
    """How that which is in the way is removed, if it is of an old copy of the VNF."""
    vnf = point.vnf.vnf
    return (
        f"if it is of an old copy, whether or not the active site answers: antipode reprotect {vnf}"
        " --old-copy remove --plan"
    )
