# SPDX-License-Identifier: Apache-2.0
"""Routers and floating IPs of Neutron: which address of which port a public address leads to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Part, Refused, Route, public
from antipode.sandbox.neutron.port_forwardings import PortForwardings
from antipode.sandbox.neutron.resources import find, listed, sees


class FloatingIps(Part):
    def __init__(
        self,
        database: Database,
        networks: Table,
        subnets: Table,
        ports: Table,
        now: Callable[[], str],
    ) -> None:
        self._floating = database.table("floating_ip")
        self._routers = database.table("router")
        self._networks = networks
        self._subnets = subnets
        self._ports = ports
        self._now = now
        self.forwardings = PortForwardings(database, self._floating, ports, self._router_between)

    def routes(self) -> Sequence[Route]:
        floating, routers = "/v2.0/floatingips", "/v2.0/routers"
        return [
            Route("GET", floating, self._list),
            Route("POST", floating, self._create, 201),
            Route("GET", f"{floating}/{{item}}", self._show),
            Route("PUT", f"{floating}/{{item}}", self._associate),
            Route("DELETE", f"{floating}/{{item}}", self._delete, 204),
            Route("POST", routers, self._create_router, 201),
            Route("DELETE", f"{routers}/{{item}}", self._delete_router, 204),
            Route("PUT", f"{routers}/{{item}}/add_router_interface", self._add_interface),
            Route("PUT", f"{routers}/{{item}}/remove_router_interface", self._remove_interface),
        ]

    def _view(self, floating: Json) -> Json:
        """A floating IP; one whose port is gone leads nowhere."""
        shown = public(floating)
        if shown["port_id"] and shown["port_id"] not in self._ports:
            shown |= {"port_id": None, "fixed_ip_address": None, "router_id": None}
        shown |= self.forwardings.with_floating_ip(floating["id"])
        leads = shown["port_id"] or shown["port_forwardings"]
        return {**shown, "status": "ACTIVE" if leads else "DOWN"}

    async def _list(self, call: Call) -> Json:
        seen = (self._view(f) for f in self._floating if sees(call.caller, f))
        return listed(call, "floatingips", seen)

    async def _show(self, call: Call, item: str) -> Json:
        return {"floatingip": self._view(find(call, self._floating, item, "Floating IP"))}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("floatingip")
        network = find(call, self._networks, str(wanted.get("floating_network_id")), "Network")
        address = wanted.get("floating_ip_address")
        if address and not call.caller.is_admin:
            raise Refused(403, "create_floatingip:floating_ip_address is disallowed by policy")
        now = self._now()
        floating = {
            "id": str(uuid.uuid4()),
            "floating_network_id": network["id"],
            "floating_ip_address": self._address(network, address),
            "description": wanted.get("description", ""),
            "fixed_ip_address": None,
            "port_id": None,
            "router_id": None,
            "project_id": call.caller.project_id,
            "tenant_id": call.caller.project_id,
            "dns_name": "",
            "dns_domain": "",
            "qos_policy_id": None,
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 1,
        }
        if wanted.get("port_id"):
            self._lead(call, floating, wanted)
        return {"floatingip": self._view(self._floating.keep(floating))}

    def _address(self, network: Json, wanted: str | None) -> str:
        taken = {f["floating_ip_address"] for f in self._floating}
        ranges = [
            ip_network(s["cidr"])
            for s in self._subnets.where(lambda s: s["network_id"] == network["id"])
        ]
        if wanted is None:
            free = (str(a) for r in ranges for a in r.hosts() if str(a) not in taken)
            return next(free)
        if not any(ip_address(wanted) in r for r in ranges):
            raise Refused(
                400,
                f"IP address {wanted} is not a valid IP for any of the subnets on the "
                "specified network.",
                "InvalidIpForNetwork",
            )
        if wanted in taken:
            raise Refused(
                409, f"IP address {wanted} already allocated", "IpAddressAlreadyAllocated"
            )
        return wanted

    async def _associate(self, call: Call, item: str) -> Json:
        floating = find(call, self._floating, item, "Floating IP")
        wanted = call.part("floatingip")
        if wanted.get("port_id") is None:
            floating |= {"port_id": None, "fixed_ip_address": None, "router_id": None}
        else:
            self.forwardings.refuse_in_use(floating["id"])
            self._lead(call, floating, wanted)
        return {"floatingip": self._view(self._floating.keep(floating))}

    def _lead(self, call: Call, floating: Json, wanted: Json) -> None:
        """Have a floating IP lead to an address of a port, through a router between them."""
        port = find(call, self._ports, str(wanted["port_id"]), "Port")
        fixed = wanted.get("fixed_ip_address") or port["fixed_ips"][0]["ip_address"]
        on = next((f["subnet_id"] for f in port["fixed_ips"] if f["ip_address"] == fixed), None)
        if on is None:
            raise Refused(400, f"Port {port['id']} does not have fixed IP {fixed}.", "BadRequest")
        router = self._router_between(on, floating["floating_network_id"])
        if router is not None:
            floating |= {"port_id": port["id"], "fixed_ip_address": fixed, "router_id": router}
            return
        raise Refused(
            404,
            f"External network {floating['floating_network_id']} is not reachable from subnet "
            f"{on}.  Therefore, cannot associate Port {port['id']} with a Floating IP.",
            "ExternalGatewayForFloatingIPNotFound",
        )

    def _router_between(self, subnet: str, external: str) -> str | None:
        """The router with an interface on a subnet and a gateway to an external network."""
        for router in self._routers:
            gateway = (router["external_gateway_info"] or {}).get("network_id")
            if subnet in router["_subnets"] and gateway == external:
                return str(router["id"])
        return None

    def routers_lead_to(self, network_id: str) -> bool:
        """Whether a router with a gateway has an interface on a network."""
        on_it = {s["id"] for s in self._subnets.where(lambda s: s["network_id"] == network_id)}
        return any(
            on_it.intersection(router["_subnets"])
            for router in self._routers
            if (router["external_gateway_info"] or {}).get("network_id")
        )

    async def _delete(self, call: Call, item: str) -> None:
        floating = find(call, self._floating, item, "Floating IP")
        self.forwardings.refuse_in_use(floating["id"])
        self._floating.drop(floating["id"])

    async def _create_router(self, call: Call) -> Json:
        wanted = call.part("router")
        router = {
            "id": str(uuid.uuid4()),
            "name": wanted.get("name", ""),
            "external_gateway_info": wanted.get("external_gateway_info"),
            "project_id": call.caller.project_id,
            "tenant_id": call.caller.project_id,
            "_subnets": [],
        }
        return {"router": public(self._routers.keep(router))}

    async def _delete_router(self, call: Call, item: str) -> None:
        self._routers.drop(find(call, self._routers, item, "Router")["id"])

    async def _add_interface(self, call: Call, item: str) -> Json:
        router = find(call, self._routers, item, "Router")
        subnet = find(call, self._subnets, str(call.body.get("subnet_id")), "Subnet")
        self._routers.keep(router, _subnets=[*router["_subnets"], subnet["id"]])
        return {"id": router["id"], "subnet_id": subnet["id"]}

    async def _remove_interface(self, call: Call, item: str) -> Json:
        router = find(call, self._routers, item, "Router")
        subnet = str(call.body.get("subnet_id"))
        if subnet not in router["_subnets"]:
            raise Refused(
                404,
                f"Router {item} has no interface on subnet {subnet}",
                "RouterInterfaceNotFoundForSubnet",
            )
        self._routers.keep(router, _subnets=[s for s in router["_subnets"] if s != subnet])
        return {"id": router["id"], "subnet_id": subnet}
