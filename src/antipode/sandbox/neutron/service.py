# SPDX-License-Identifier: Apache-2.0
"""Neutron of an embedded site: networks, subnets and ports."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Refused, Route, Service, public
from antipode.sandbox.neutron.floating_ips import FloatingIps
from antipode.sandbox.neutron.qos import Qos
from antipode.sandbox.neutron.resources import find, listed, refuse_unknown, sees, tagged
from antipode.sandbox.neutron.security_groups import SecurityGroups
from antipode.sandbox.neutron.trunks import Trunks
from antipode.sandbox.quotas import Quotas

QUOTAS = {
    "network": 100,
    "subnet": 100,
    "port": 500,
    "security_group": 10,
    "security_group_rule": 100,
    "router": 10,
    "floatingip": 50,
}


PORT = (
    "network_id",
    "name",
    "description",
    "mac_address",
    "fixed_ips",
    "admin_state_up",
    "security_groups",
    "allowed_address_pairs",
    "port_security_enabled",
    "extra_dhcp_opts",
    "dns_name",
    "dns_domain",
    "qos_policy_id",
    "numa_affinity_policy",
    "propagate_uplink_status",
    "binding:vnic_type",
    "binding:profile",
    "binding:host_id",
    "device_id",
    "device_owner",
    "project_id",
    "tenant_id",
    "tags",
)
"""What a new port may be given; tags are accepted and forgotten."""
NETWORK = (
    "name",
    "description",
    "admin_state_up",
    "shared",
    "router:external",
    "mtu",
    "port_security_enabled",
    "dns_domain",
    "qos_policy_id",
    "vlan_transparent",
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
    "project_id",
    "tenant_id",
)
SUBNET = (
    "network_id",
    "name",
    "description",
    "cidr",
    "ip_version",
    "allocation_pools",
    "gateway_ip",
    "enable_dhcp",
    "dns_nameservers",
    "host_routes",
    "service_types",
    "ipv6_address_mode",
    "ipv6_ra_mode",
    "project_id",
    "tenant_id",
)
LARGEST_MTU = 1450


class Neutron(Service):
    type = "network"
    prefix = "/network"

    def __init__(self, database: Database, conditions: Conditions) -> None:
        self.networks = database.table("network")
        self.subnets = database.table("subnet")
        self.ports = database.table("port")
        self._quotas = Quotas(database.table("network_quota"), lambda: QUOTAS)
        self._quotas.count(self._usage_of)
        self._conditions = conditions
        self._qos = Qos(database, self._now)
        self._trunks = Trunks(database, self.ports, self._now)
        floating = FloatingIps(database, self.networks, self.subnets, self.ports, self._now)
        self._lead_to = floating.routers_lead_to
        self._groups = SecurityGroups(database, self.ports, self._reserve, self._now)
        self.parts = [self._qos, self._trunks, floating, floating.forwardings, self._groups]

    def routes(self) -> Sequence[Route]:
        v2 = "/v2.0"
        return [
            Route("GET", "/", self._versions, open=True),
            Route("GET", "/v2.0", self._version, open=True),
            Route("GET", "/v2.0/", self._version, open=True),
            Route("GET", f"{v2}/extensions", self._extensions),
            Route("GET", f"{v2}/networks", self._list_networks),
            Route("POST", f"{v2}/networks", self._create_network, 201),
            Route("GET", f"{v2}/networks/{{item}}", self._show_network),
            Route("PUT", f"{v2}/networks/{{item}}", self._update_network),
            Route("PUT", f"{v2}/networks/{{item}}/tags", self._tag_network),
            Route("DELETE", f"{v2}/networks/{{item}}", self._delete_network, 204),
            Route("GET", f"{v2}/subnets", self._list_subnets),
            Route("POST", f"{v2}/subnets", self._create_subnet, 201),
            Route("GET", f"{v2}/subnets/{{item}}", self._show_subnet),
            Route("PUT", f"{v2}/subnets/{{item}}", self._update_subnet),
            Route("PUT", f"{v2}/subnets/{{item}}/tags", self._tag_subnet),
            Route("DELETE", f"{v2}/subnets/{{item}}", self._delete_subnet, 204),
            Route("GET", f"{v2}/ports", self._list_ports),
            Route("POST", f"{v2}/ports", self._create_port, 201),
            Route("GET", f"{v2}/ports/{{item}}", self._show_port),
            Route("PUT", f"{v2}/ports/{{item}}", self._update_port),
            Route("DELETE", f"{v2}/ports/{{item}}", self._delete_port, 204),
            Route("PUT", f"{v2}/ports/{{item}}/tags", self._tag_port),
            Route("GET", f"{v2}/agents", self._list_agents, admin=True),
            Route("GET", f"{v2}/quotas/{{project}}/details.json", self._quota_details),
            Route("GET", f"{v2}/quotas/{{project}}", self._quota),
            Route("PUT", f"{v2}/quotas/{{project}}", self._set_quota, admin=True),
        ]

    def fault(self, refused: Refused) -> web.Response:
        if refused.status == 401:
            return super().fault(refused)
        kind = refused.kind or {403: "PolicyNotAuthorized", 404: "HTTPNotFound"}.get(
            refused.status, "HTTPInternalServerError"
        )
        return web.json_response(
            {"NeutronError": {"type": kind, "message": refused.message, "detail": ""}},
            status=refused.status,
        )

    # ---- agents ----

    async def _list_agents(self, call: Call) -> Json:
        agents = {
            "DHCP agent": "neutron-dhcp-agent",
            "Open vSwitch agent": "neutron-openvswitch-agent",
        }
        about = {"host": "network-1", "alive": True, "admin_state_up": True}
        return {
            "agents": [
                {"id": binary, "agent_type": kind, "binary": binary, **about}
                for kind, binary in agents.items()
            ]
        }

    # ---- versions ----

    async def _versions(self, call: Call) -> Json:
        return {"versions": [self._describe(call)]}

    async def _version(self, call: Call) -> Json:
        return {"resources": [], "versions": [self._describe(call)]}

    def _describe(self, call: Call) -> Json:
        return {
            "id": "v2.0",
            "status": "CURRENT",
            "links": [{"rel": "self", "href": f"{call.base}{self.prefix}/v2.0/"}],
        }

    async def _extensions(self, call: Call) -> Json:
        known = (
            "port-security",
            "allowed-address-pairs",
            "security-group",
            "quota_details",
            "standard-attr-tag",
            "binding",
            "quotas",
            "extra_dhcp_opt",
            "dns-integration",
            "dns-domain-ports",
            "qos",
            "trunk",
            "router",
            "floating-ip-port-forwarding",
            "expose-port-forwarding-in-fip",
            "floating-ip-port-forwarding-description",
            "floating-ip-port-forwarding-port-ranges",
            "port-numa-affinity-policy",
            "uplink-status-propagation",
        )
        return {
            "extensions": [
                {"alias": alias, "name": alias, "description": "", "links": []} for alias in known
            ]
        }

    # ---- networks and subnets ----

    async def _list_networks(self, call: Call) -> Json:
        return listed(
            call,
            "networks",
            (self._view_network(call, n) for n in self.networks if sees(call.caller, n)),
        )

    async def _show_network(self, call: Call, item: str) -> Json:
        return {"network": self._view_network(call, find(call, self.networks, item, "Network"))}

    def _view_network(self, call: Call, network: Json) -> Json:
        shown = public(network)
        if not call.caller.is_admin:
            shown = {k: v for k, v in shown.items() if not k.startswith("provider:")}
        return {
            **shown,
            "subnets": [
                s["id"] for s in self.subnets.where(lambda s: s["network_id"] == network["id"])
            ],
        }

    async def _create_network(self, call: Call) -> Json:
        wanted = call.part("network")
        refuse_unknown(wanted, NETWORK)
        if wanted.get("mtu", 0) > LARGEST_MTU:
            message = (
                f"Invalid input for operation: Requested MTU is too big, maximum is {LARGEST_MTU}."
            )
            raise Refused(400, message, "InvalidInput")
        self._reserve(call.caller.project_id, "network")
        made = self._new_network(self._owner(call, wanted), wanted) | {"_of_a_project": True}
        return {"network": self._view_network(call, self.networks.keep(made))}

    async def _update_network(self, call: Call, item: str) -> Json:
        network = find(call, self.networks, item, "Network")
        wanted = call.part("network")
        refuse_unknown(wanted, NETWORK, "PUT")
        return {"network": self._view_network(call, self._changed(self.networks, network, wanted))}

    async def _tag_network(self, call: Call, item: str) -> Json:
        network = find(call, self.networks, item, "Network")
        return {"tags": tagged(call, self.networks, network)}

    def _changed(self, table: Table, item: Json, wanted: Json) -> Json:
        return table.keep(item, **wanted, updated_at=self._now())

    def _new_network(self, project_id: str, wanted: Json) -> Json:
        return {
            **self._common(project_id, wanted),
            "admin_state_up": wanted.get("admin_state_up", True),
            "status": "ACTIVE",
            "shared": bool(wanted.get("shared", False)),
            "router:external": bool(wanted.get("router:external", False)),
            "mtu": wanted.get("mtu") or LARGEST_MTU,
            "dns_domain": wanted.get("dns_domain", ""),
            "qos_policy_id": wanted.get("qos_policy_id"),
            "vlan_transparent": wanted.get("vlan_transparent"),
            "provider:network_type": wanted.get("provider:network_type", "vxlan"),
            "provider:physical_network": wanted.get("provider:physical_network"),
            "provider:segmentation_id": wanted.get("provider:segmentation_id")
            or 1 + len(self.networks),
            "port_security_enabled": wanted.get("port_security_enabled", True),
            "availability_zones": ["nova"],
            "availability_zone_hints": [],
            "is_default": False,
        }

    async def _delete_network(self, call: Call, item: str) -> None:
        network = find(call, self.networks, item, "Network")
        on_it = self.ports.where(lambda p: p["network_id"] == network["id"])
        if any(not p["device_owner"].startswith("network:") for p in on_it):
            message = (
                f"Unable to complete operation on network {item}. There are one or more "
                "ports still in use on the network, "
            )
            raise Refused(
                409,
                message + f"id for these ports is {','.join(p['id'] for p in on_it)}.",
                "NetworkInUse",
            )
        for port in on_it:
            self.ports.drop(port["id"])
        for subnet in self.subnets.where(lambda s: s["network_id"] == network["id"]):
            self.subnets.drop(subnet["id"])
        self.networks.drop(item)

    async def _list_subnets(self, call: Call) -> Json:
        return listed(call, "subnets", (public(s) for s in self.subnets if sees(call.caller, s)))

    async def _show_subnet(self, call: Call, item: str) -> Json:
        return {"subnet": public(find(call, self.subnets, item, "Subnet"))}

    async def _create_subnet(self, call: Call) -> Json:
        wanted = call.part("subnet")
        refuse_unknown(wanted, SUBNET)
        _refuse_modes_without_dhcp(wanted)
        network = find(call, self.networks, wanted["network_id"], "Network")
        try:
            cidr = ip_network(wanted["cidr"])
        except ValueError:
            raise Refused(
                400,
                f"Invalid input for cidr. Reason: '{wanted['cidr']}' is not a valid IP subnet.",
                "HTTPBadRequest",
            ) from None
        self._reserve(call.caller.project_id, "subnet")
        for other in self.subnets.where(lambda s: s["network_id"] == network["id"]):
            if cidr.overlaps(ip_network(other["cidr"])):
                message = (
                    f"Invalid input for operation: Requested subnet with cidr: {cidr} for "
                    f"network: {network['id']} overlaps with another"
                )
                raise Refused(400, f"{message} subnet.", "InvalidInput")
        return {"subnet": public(self._make_subnet(network, self._owner(call, wanted), wanted))}

    def _make_subnet(self, network: Json, project_id: str, wanted: Json) -> Json:
        cidr = ip_network(wanted["cidr"])
        pools = wanted.get("allocation_pools") or [{"start": str(cidr[2]), "end": str(cidr[-2])}]
        subnet = self.subnets.keep(
            {
                **self._common(project_id, wanted),
                "network_id": network["id"],
                "cidr": str(cidr),
                "ip_version": cidr.version,
                "allocation_pools": pools,
                "gateway_ip": wanted.get("gateway_ip", str(cidr[1])),
                "enable_dhcp": wanted.get("enable_dhcp", True),
                "dns_nameservers": wanted.get("dns_nameservers", []),
                "host_routes": wanted.get("host_routes", []),
                "service_types": wanted.get("service_types", []),
                "ipv6_address_mode": wanted.get("ipv6_address_mode"),
                "ipv6_ra_mode": wanted.get("ipv6_ra_mode"),
                "shared": network["shared"],
            }
        )
        if subnet["enable_dhcp"]:
            self._serve(network, subnet)
        return subnet

    def _serve(self, network: Json, subnet: Json) -> None:
        """DHCP takes an address of the subnet for itself."""
        wanted = {
            "device_id": f"dhcp-{network['id']}",
            "device_owner": "network:dhcp",
            "fixed_ips": [{"subnet_id": subnet["id"]}],
        }
        self.make_port(network, subnet["project_id"], wanted)

    async def _update_subnet(self, call: Call, item: str) -> Json:
        subnet = find(call, self.subnets, item, "Subnet")
        wanted = call.part("subnet")
        fixed = ("network_id", "cidr", "ip_version", "ipv6_address_mode", "ipv6_ra_mode")
        refuse_unknown(wanted, [name for name in SUBNET if name not in fixed], "PUT")
        starts = wanted.get("enable_dhcp", False) and not subnet["enable_dhcp"]
        kept = self._changed(self.subnets, subnet, wanted)
        if starts:
            self._serve(self.networks[subnet["network_id"]], kept)
        return {"subnet": public(kept)}

    async def _tag_subnet(self, call: Call, item: str) -> Json:
        return {"tags": tagged(call, self.subnets, find(call, self.subnets, item, "Subnet"))}

    async def _delete_subnet(self, call: Call, item: str) -> None:
        subnet = find(call, self.subnets, item, "Subnet")
        using = self.ports.where(
            lambda p: any(f["subnet_id"] == subnet["id"] for f in p["fixed_ips"])
        )
        if any(not p["device_owner"].startswith("network:") for p in using):
            message = (
                f"Unable to complete operation on subnet {item}: One or more ports have an "
                "IP allocation from this subnet."
            )
            raise Refused(409, message, "SubnetInUse")
        for port in using:
            self.ports.drop(port["id"])
        self.subnets.drop(item)

    # ---- ports ----

    async def _list_ports(self, call: Call) -> Json:
        seen = (self._view_port(call, p) for p in self.ports if sees(call.caller, p))
        return listed(call, "ports", seen)

    def _view_port(self, call: Call, port: Json) -> Json:
        shown = public(port)
        if trunk := self._trunks.of_parent(port["id"]):
            shown["trunk_details"] = {
                "trunk_id": trunk["id"],
                "sub_ports": [
                    {**below, "mac_address": self.ports[below["port_id"]]["mac_address"]}
                    for below in trunk["sub_ports"]
                ],
            }
        if not call.caller.is_admin:
            for name in ("binding:profile", "binding:host_id", "binding:vif_type"):
                shown.pop(name, None)
        return shown

    async def _show_port(self, call: Call, item: str) -> Json:
        return {"port": self._view_port(call, find(call, self.ports, item, "Port"))}

    async def _create_port(self, call: Call) -> Json:
        wanted = call.part("port")
        refuse_unknown(wanted, PORT)
        _refuse_profile(wanted)
        if policy := wanted.get("qos_policy_id"):
            self._qos.find(call, policy)
        network = find(call, self.networks, str(wanted.get("network_id")), "Network")
        self._reserve(call.caller.project_id, "port")
        made = self.make_port(network, call.caller.project_id, wanted)
        return {"port": self._view_port(call, made)}

    def make_port(self, network: Json, project_id: str, wanted: Json) -> Json:
        """Create a port, with what is wanted of it.

        Raises:
            Refused: an address or MAC is in use, an address is in no subnet, or a security group
                does not exist.
        """
        on_it = self.ports.where(lambda p: p["network_id"] == network["id"])
        mac = wanted.get("mac_address") or _new_mac()
        if any(p["mac_address"] == mac.lower() for p in on_it):
            message = (
                f"Unable to complete operation for network {network['id']}. The mac "
                f"address {mac} is in use."
            )
            raise Refused(409, message, "MacAddressInUse")
        enabled = wanted.get("port_security_enabled", True)
        groups = wanted.get("security_groups")
        if groups is None:
            groups = (
                [self._groups.default(project_id)["id"]]
                if enabled and not wanted.get("device_owner", "").startswith("network:")
                else []
            )
        for group in groups:
            if group not in self._groups.table:
                raise Refused(
                    404, f"Security group {group} does not exist", "SecurityGroupNotFound"
                )
        pairs = wanted.get("allowed_address_pairs") or []
        if pairs and not enabled:
            raise Refused(
                409,
                "Port Security must be enabled in order to have allowed address pairs on a port.",
                "AddressPairAndPortSecurityRequired",
            )
        if groups and not enabled:
            raise Refused(
                409,
                "Port security must be enabled and port must have an IP address in order to use"
                " security groups.",
                "PortSecurityAndIPRequiredForSecurityGroups",
            )
        now = self._now()
        owner = wanted.get("device_owner", "")
        return self.ports.keep(
            {
                "id": str(uuid.uuid4()),
                "name": wanted.get("name", ""),
                "description": wanted.get("description", ""),
                "project_id": project_id,
                "tenant_id": project_id,
                "network_id": network["id"],
                "mac_address": mac.lower(),
                "fixed_ips": self._addresses(network, on_it, wanted.get("fixed_ips")),
                "security_groups": groups,
                "allowed_address_pairs": [
                    {"ip_address": p["ip_address"], "mac_address": p.get("mac_address") or mac}
                    for p in pairs
                ],
                "port_security_enabled": enabled,
                "device_id": wanted.get("device_id", ""),
                "device_owner": owner,
                "status": "ACTIVE" if owner.startswith("network:") else "DOWN",
                "admin_state_up": wanted.get("admin_state_up", True),
                "ip_allocation": "none" if wanted.get("fixed_ips") == [] else "immediate",
                "dns_name": wanted.get("dns_name", ""),
                "dns_domain": wanted.get("dns_domain", ""),
                "qos_policy_id": wanted.get("qos_policy_id"),
                "numa_affinity_policy": wanted.get("numa_affinity_policy"),
                "propagate_uplink_status": wanted.get("propagate_uplink_status", True),
                "binding:vnic_type": wanted.get("binding:vnic_type", "normal"),
                "binding:host_id": "",
                "binding:vif_type": "unbound",
                "binding:profile": {},
                "binding:vif_details": {},
                "extra_dhcp_opts": [
                    {"ip_version": 4, **option} for option in wanted.get("extra_dhcp_opts") or []
                ],
                "tags": [],
                "created_at": now,
                "updated_at": now,
                "revision_number": 1,
            }
        )

    def _addresses(self, network: Json, on_it: list[Json], wanted: list[Json] | None) -> list[Json]:
        subnets = self.subnets.where(lambda s: s["network_id"] == network["id"])
        used = {f["ip_address"] for p in on_it for f in p["fixed_ips"]}
        if wanted is None:
            wanted = [{"subnet_id": s["id"]} for s in subnets[:1]]
        found = []
        for fixed in wanted:
            address = fixed.get("ip_address")
            if address is None:
                subnet = next(s for s in subnets if s["id"] == fixed["subnet_id"])
                address = _free_address(subnet, used)
                if address is None:
                    raise Refused(
                        409,
                        f"No more IP addresses available on network {network['id']}.",
                        "IpAddressGenerationFailure",
                    )
            else:
                holding = [s for s in subnets if ip_address(address) in ip_network(s["cidr"])]
                if not holding or fixed.get("subnet_id") not in (None, *(s["id"] for s in holding)):
                    message = (
                        f"IP address {address} is not a valid IP for any of the subnets on "
                        "the specified network."
                    )
                    raise Refused(400, message, "InvalidIpForNetwork")
                if address in used:
                    message = f"IP address {address} already allocated in subnet {holding[0]['id']}"
                    raise Refused(409, message, "IpAddressAlreadyAllocated")
                subnet = holding[0]
            used.add(address)
            found.append({"subnet_id": subnet["id"], "ip_address": address})
        return found

    async def _update_port(self, call: Call, item: str) -> Json:
        port = find(call, self.ports, item, "Port")
        _refuse_profile(call.part("port"))
        changes = {
            k: v
            for k, v in call.part("port").items()
            if k in port and k not in ("id", "project_id", "network_id", "fixed_ips")
        }
        if "admin_state_up" in changes and port["binding:host_id"]:
            changes["status"] = "ACTIVE" if changes["admin_state_up"] else "DOWN"
        kept = self.ports.keep(port, **changes, updated_at=self._now())
        return {"port": self._view_port(call, kept)}

    async def _tag_port(self, call: Call, item: str) -> Json:
        return {"tags": tagged(call, self.ports, find(call, self.ports, item, "Port"))}

    async def _delete_port(self, call: Call, item: str) -> None:
        port = find(call, self.ports, item, "Port")
        self._trunks.refuse_its_port(port["id"])
        self.ports.drop(port["id"])

    def furnish(
        self, project_id: str, network: str, cidr: str, pool: dict[str, str], group: str
    ) -> None:
        """A network with one subnet, and a security group that lets everything in."""
        made = self.networks.keep(self._new_network(project_id, {"name": network}))
        self._make_subnet(
            made,
            project_id,
            {"name": network, "cidr": cidr, "allocation_pools": [pool], "gateway_ip": None},
        )
        self._groups.furnish(project_id, group)

    def is_reached(self, network_id: str) -> bool:
        """Whether a network is reached from outside the site: one that the site came with, an
        external one, or one with a router to such a network.
        """
        network = self.networks.get(network_id)
        if network is None:
            return False
        came_with_the_site = "_of_a_project" not in network
        return came_with_the_site or network["router:external"] or self._lead_to(network_id)

    # ---- quotas ----

    def _usage_of(self, project: str) -> dict[str, int]:
        tables = {
            "network": self.networks,
            "subnet": self.subnets,
            "port": self.ports,
            "security_group": self._groups.table,
            "security_group_rule": self._groups.rules,
        }
        return {
            name: len(table.where(lambda i: i["project_id"] == project))
            for name, table in tables.items()
        }

    def _reserve(self, project: str, resource: str, amount: int = 1) -> None:
        if self._quotas.exceeded(project, {resource: amount}):
            raise Refused(409, f"Quota exceeded for resources: ['{resource}'].", "OverQuota")

    async def _quota(self, call: Call, project: str) -> Json:
        self._may_see(call, project)
        return {"quota": self._quotas.limits_of(project)}

    async def _quota_details(self, call: Call, project: str) -> Json:
        self._may_see(call, project)
        rows = self._quotas.details_of(project).items()
        return {
            "quota": {
                name: {"limit": row["limit"], "used": row["in_use"], "reserved": 0}
                for name, row in rows
            }
        }

    async def _set_quota(self, call: Call, project: str) -> Json:
        return {"quota": self._quotas.change(project, call.part("quota"))}

    def _may_see(self, call: Call, project: str) -> None:
        if not call.caller.is_admin and call.caller.project_id != project:
            raise Refused(
                403, "Only admin is authorized to access quotas for another tenant", "AdminRequired"
            )

    def _owner(self, call: Call, wanted: Json) -> str:
        """Whose a new resource is: an administrator may make it for another project."""
        named = wanted.get("project_id") or wanted.get("tenant_id")
        return str(named) if call.caller.is_admin and named else call.caller.project_id

    def _common(self, project: str, wanted: Json) -> Json:
        now = self._now()
        return {
            "id": str(uuid.uuid4()),
            "name": wanted.get("name", ""),
            "description": wanted.get("description", ""),
            "project_id": project,
            "tenant_id": project,
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 1,
        }

    def _now(self) -> str:
        return self._conditions.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _refuse_modes_without_dhcp(wanted: Json) -> None:
    modes = wanted.get("ipv6_address_mode") or wanted.get("ipv6_ra_mode")
    if modes and not wanted.get("enable_dhcp", True):
        message = (
            "Invalid input for operation: ipv6_ra_mode or ipv6_address_mode cannot be set when "
            "enable_dhcp is set to False."
        )
        raise Refused(400, message, "InvalidInput")


def _refuse_profile(wanted: Json) -> None:
    """Only services may write the binding of a port to its hypervisor."""
    if "binding:profile" in wanted:
        raise Refused(
            403,
            "(rule:create_port and rule:create_port:binding:profile) is disallowed by policy",
            "PolicyNotAuthorized",
        )


def _free_address(subnet: Json, used: set[str]) -> str | None:
    taken = used | {subnet["gateway_ip"]}
    for pool in subnet["allocation_pools"]:
        for number in range(int(ip_address(pool["start"])), int(ip_address(pool["end"])) + 1):
            if (address := str(ip_address(number))) not in taken:
                return address
    return None


def _new_mac() -> str:
    tail = uuid.uuid4().bytes[:3]
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in tail)
