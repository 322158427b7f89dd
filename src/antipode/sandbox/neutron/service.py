# SPDX-License-Identifier: Apache-2.0
"""Neutron of an embedded site: networks, subnets, ports and security groups."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Refused, Route, Service, public
from antipode.sandbox.neutron.floating_ips import FloatingIps
from antipode.sandbox.neutron.qos import Qos
from antipode.sandbox.neutron.resources import find, listed, refuse_unknown, sees
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


class Neutron(Service):
    type = "network"
    prefix = "/network"

    def __init__(self, database: Database, conditions: Conditions) -> None:
        self.networks = database.table("network")
        self.subnets = database.table("subnet")
        self.ports = database.table("port")
        self.groups = database.table("security_group")
        self._rules = database.table("security_group_rule")
        self._quotas = Quotas(database.table("network_quota"), lambda: QUOTAS)
        self._quotas.count(self._usage_of)
        self._conditions = conditions
        self._qos = Qos(database, self._now)
        self._trunks = Trunks(database, self.ports, self._now)
        floating = FloatingIps(database, self.networks, self.subnets, self.ports, self._now)
        self.parts = [self._qos, self._trunks, floating]

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
            Route("DELETE", f"{v2}/networks/{{item}}", self._delete_network, 204),
            Route("GET", f"{v2}/subnets", self._list_subnets),
            Route("POST", f"{v2}/subnets", self._create_subnet, 201),
            Route("GET", f"{v2}/subnets/{{item}}", self._show_subnet),
            Route("DELETE", f"{v2}/subnets/{{item}}", self._delete_subnet, 204),
            Route("GET", f"{v2}/ports", self._list_ports),
            Route("POST", f"{v2}/ports", self._create_port, 201),
            Route("GET", f"{v2}/ports/{{item}}", self._show_port),
            Route("PUT", f"{v2}/ports/{{item}}", self._update_port),
            Route("DELETE", f"{v2}/ports/{{item}}", self._delete_port, 204),
            Route("PUT", f"{v2}/ports/{{item}}/tags", self._tag_port),
            Route("GET", f"{v2}/security-groups", self._list_groups),
            Route("POST", f"{v2}/security-groups", self._create_group, 201),
            Route("GET", f"{v2}/security-groups/{{item}}", self._show_group),
            Route("DELETE", f"{v2}/security-groups/{{item}}", self._delete_group, 204),
            Route("POST", f"{v2}/security-group-rules", self._create_rule, 201),
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
            (self._view_network(n) for n in self.networks if sees(call.caller, n)),
        )

    async def _show_network(self, call: Call, item: str) -> Json:
        return {"network": self._view_network(find(call, self.networks, item, "Network"))}

    def _view_network(self, network: Json) -> Json:
        return {
            **public(network),
            "subnets": [
                s["id"] for s in self.subnets.where(lambda s: s["network_id"] == network["id"])
            ],
        }

    async def _create_network(self, call: Call) -> Json:
        wanted = call.part("network")
        self._reserve(call.caller.project_id, "network")
        return {
            "network": self._view_network(
                self.networks.keep(self._new_network(self._owner(call, wanted), wanted))
            )
        }

    def _new_network(self, project_id: str, wanted: Json) -> Json:
        return {
            **self._common(project_id, wanted),
            "admin_state_up": True,
            "status": "ACTIVE",
            "shared": bool(wanted.get("shared", False)),
            "router:external": bool(wanted.get("router:external", False)),
            "mtu": wanted.get("mtu", 1450),
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
                "host_routes": [],
                "shared": network["shared"],
            }
        )
        if subnet["enable_dhcp"]:
            self.make_port(
                network,
                project_id,
                {"device_id": f"dhcp-{network['id']}", "device_owner": "network:dhcp"},
            )
        return subnet

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
                [self._default_group(project_id)["id"]]
                if enabled and not wanted.get("device_owner", "").startswith("network:")
                else []
            )
        for group in groups:
            if group not in self.groups:
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
        kept = self.ports.keep(port, **changes, updated_at=self._now())
        return {"port": self._view_port(call, kept)}

    async def _tag_port(self, call: Call, item: str) -> Json:
        port = find(call, self.ports, item, "Port")
        self.ports.keep(port, tags=sorted(call.body.get("tags", [])))
        return {"tags": port["tags"]}

    async def _delete_port(self, call: Call, item: str) -> None:
        port = find(call, self.ports, item, "Port")
        self._trunks.refuse_its_port(port["id"])
        self.ports.drop(port["id"])

    # ---- security groups ----

    def _default_group(self, project_id: str) -> Json:
        """The project's group `default`, made when it is first needed."""
        there = self.groups.where(
            lambda g: g["project_id"] == project_id and g["name"] == "default"
        )
        return (
            there[0] if there else self._make_group(project_id, "default", "Default security group")
        )

    def _make_group(self, project_id: str, name: str, description: str) -> Json:
        now = self._now()
        group = {
            "id": str(uuid.uuid4()),
            "name": name,
            "description": description,
            "project_id": project_id,
            "tenant_id": project_id,
        }
        made = self.groups.keep(
            {
                **group,
                "stateful": True,
                "shared": False,
                "tags": [],
                "created_at": now,
                "updated_at": now,
            }
        )
        for family in ("IPv4", "IPv6"):
            self._make_rule(made, {"direction": "egress", "ethertype": family})
        return made

    def _make_rule(self, group: Json, wanted: Json) -> Json:
        optional = (
            "protocol",
            "port_range_min",
            "port_range_max",
            "remote_ip_prefix",
            "remote_group_id",
        )
        return self._rules.keep(
            {
                "id": str(uuid.uuid4()),
                "security_group_id": group["id"],
                "project_id": group["project_id"],
                "tenant_id": group["project_id"],
                "direction": wanted["direction"],
                "ethertype": wanted.get("ethertype", "IPv4"),
                "description": wanted.get("description", ""),
                **{name: wanted.get(name) for name in optional},
            }
        )

    def _view_group(self, group: Json) -> Json:
        rules = self._rules.where(lambda r: r["security_group_id"] == group["id"])
        return {**public(group), "security_group_rules": [public(r) for r in rules]}

    async def _list_groups(self, call: Call) -> Json:
        self._default_group(call.query.get("project_id", call.caller.project_id))
        return listed(
            call,
            "security_groups",
            (self._view_group(g) for g in self.groups if sees(call.caller, g)),
        )

    async def _show_group(self, call: Call, item: str) -> Json:
        return {"security_group": self._view_group(find(call, self.groups, item, "Security group"))}

    async def _create_group(self, call: Call) -> Json:
        wanted = call.part("security_group")
        self._default_group(call.caller.project_id)
        self._reserve(call.caller.project_id, "security_group")
        return {
            "security_group": self._view_group(
                self._make_group(
                    call.caller.project_id, wanted["name"], wanted.get("description", "")
                )
            )
        }

    async def _delete_group(self, call: Call, item: str) -> None:
        group = find(call, self.groups, item, "Security group")
        if self.ports.where(lambda p: item in p["security_groups"]):
            raise Refused(409, f"Security Group {item} in use.", "SecurityGroupInUse")
        if group["name"] == "default" and not call.caller.is_admin:
            raise Refused(
                409,
                "Removing the default security group is not allowed.",
                "SecurityGroupCannotRemoveDefault",
            )
        for rule in self._rules.where(lambda r: r["security_group_id"] == item):
            self._rules.drop(rule["id"])
        self.groups.drop(item)

    async def _create_rule(self, call: Call) -> Json:
        wanted = call.part("security_group_rule")
        group = find(call, self.groups, wanted["security_group_id"], "Security group")
        same = (
            "direction",
            "ethertype",
            "protocol",
            "port_range_min",
            "port_range_max",
            "remote_ip_prefix",
            "remote_group_id",
        )
        for rule in self._rules.where(lambda r: r["security_group_id"] == group["id"]):
            if all(rule[k] == wanted.get(k, "IPv4" if k == "ethertype" else None) for k in same):
                raise Refused(
                    409,
                    f"Security group rule already exists. Rule id is {rule['id']}.",
                    "SecurityGroupRuleExists",
                )
        return {"security_group_rule": public(self._make_rule(group, wanted))}

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
        self._default_group(project_id)
        self._make_rule(self._make_group(project_id, group, ""), {"direction": "ingress"})

    # ---- quotas ----

    def _usage_of(self, project: str) -> dict[str, int]:
        tables = {
            "network": self.networks,
            "subnet": self.subnets,
            "port": self.ports,
            "security_group": self.groups,
        }
        return {
            name: len(table.where(lambda i: i["project_id"] == project))
            for name, table in tables.items()
        }

    def _reserve(self, project: str, resource: str) -> None:
        if self._quotas.exceeded(project, {resource: 1}):
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
