# SPDX-License-Identifier: Apache-2.0
"""Port forwardings of Neutron: what single ports of a floating IP lead to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence

from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Part, Refused, Route, public
from antipode.sandbox.neutron.resources import find, listed, refuse_unknown

PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "icmp6", "dccp")
FORWARDING = (
    "protocol",
    "internal_port_id",
    "internal_ip_address",
    "internal_port",
    "internal_port_range",
    "external_port",
    "external_port_range",
    "description",
    "project_id",
)
WITH_FLOATING_IP = (
    "id",
    "protocol",
    "internal_port_id",
    "internal_ip_address",
    "internal_port",
    "external_port",
)
"""What a floating IP tells of each; only the forwarding itself tells a range of ports."""


class PortForwardings(Part):
    def __init__(
        self,
        database: Database,
        floating: Table,
        ports: Table,
        router_between: Callable[[str, str], str | None],
    ) -> None:
        """`router_between`: the router between a subnet and an external network."""
        self._forwardings = database.table("port_forwarding")
        self._floating = floating
        self._ports = ports
        self._router_between = router_between

    def routes(self) -> Sequence[Route]:
        forwardings = "/v2.0/floatingips/{floating}/port_forwardings"
        return [
            Route("GET", forwardings, self._list),
            Route("POST", forwardings, self._create, 201),
            Route("GET", f"{forwardings}/{{item}}", self._show),
            Route("DELETE", f"{forwardings}/{{item}}", self._delete, 204),
        ]

    def of(self, floating: str) -> list[Json]:
        """The forwardings of a floating IP; those of a port, or an address of it, go with it."""
        return [f for f in self._alive() if f["_floating_ip"] == floating]

    def with_floating_ip(self, floating: str) -> Json:
        """What a floating IP tells of its forwardings."""
        found = self.of(floating)
        rows = [{k: f[k] for k in WITH_FLOATING_IP if k in f} for f in found]
        router = {"router_id": found[0]["_router"]} if found else {}
        return {"port_forwardings": rows, **router}

    def refuse_in_use(self, floating: str) -> None:
        """Refuse that a floating IP with forwardings leads to a port, or is deleted."""
        if self.of(floating):
            raise Refused(
                409,
                f"Floating IP {floating} in use by Port Forwarding resources.",
                "FipInUseByPortForwarding",
            )

    def _alive(self) -> list[Json]:
        return [
            forwarding
            for forwarding in self._forwardings
            if (port := self._ports.get(forwarding["internal_port_id"]))
            and forwarding["internal_ip_address"] in {f["ip_address"] for f in port["fixed_ips"]}
        ]

    def _find(self, call: Call, floating: str, item: str) -> Json:
        find(call, self._floating, floating, "Floating IP")
        for forwarding in self.of(floating):
            if forwarding["id"] == item:
                return forwarding
        raise Refused(404, f"Port Forwarding {item} could not be found.", "PortForwardingNotFound")

    async def _list(self, call: Call, floating: str) -> Json:
        find(call, self._floating, floating, "Floating IP")
        return listed(call, "port_forwardings", map(public, self.of(floating)))

    async def _show(self, call: Call, floating: str, item: str) -> Json:
        return {"port_forwarding": public(self._find(call, floating, item))}

    async def _delete(self, call: Call, floating: str, item: str) -> None:
        self._forwardings.drop(self._find(call, floating, item)["id"])

    async def _create(self, call: Call, floating: str) -> Json:
        wanted = call.part("port_forwarding")
        refuse_unknown(wanted, FORWARDING)
        if wanted.get("protocol") not in PROTOCOLS:
            raise _bad(f"{wanted.get('protocol')} is not a protocol that can be forwarded")
        public_ip = find(call, self._floating, floating, "Floating IP")
        port = find(call, self._ports, str(wanted.get("internal_port_id")), "Port")
        subnets = {f["ip_address"]: f["subnet_id"] for f in port["fixed_ips"]}
        address = str(wanted.get("internal_ip_address") or next(iter(subnets), ""))
        forwarding = {
            "id": str(uuid.uuid4()),
            "protocol": wanted["protocol"],
            "internal_port_id": port["id"],
            "internal_ip_address": address,
            **_ports(wanted, "internal"),
            **_ports(wanted, "external"),
            "description": wanted.get("description", ""),
            "_floating_ip": floating,
        }
        self._refuse_collisions(forwarding)
        self._refuse_floating_ips(public_ip, port, address)
        if address not in subnets:
            raise _bad(
                f"Requested internal IP address {address} is not suitable for internal neutron"
                f" port {port['id']}"
            )
        router = self._router_between(subnets[address], public_ip["floating_network_id"])
        if router is None:
            raise _bad(
                f"External network {public_ip['floating_network_id']} is not reachable from subnet"
                f" {subnets[address]}. Cannot set Port forwarding for port {port['id']} with"
                f" Floating IP {floating}"
            )
        kept = self._forwardings.keep({**forwarding, "_router": router})
        return {"port_forwarding": public(kept)}

    def _refuse_collisions(self, wanted: Json) -> None:
        """Refuse a forwarding that takes a port on either side which another one has."""
        alike = [f for f in self._alive() if f["protocol"] == wanted["protocol"]]
        inside = ("internal_port_id", "internal_ip_address")
        _refuse_collision(
            wanted, (f for f in alike if all(f[k] == wanted[k] for k in inside)), "internal"
        )
        _refuse_collision(
            wanted, (f for f in alike if f["_floating_ip"] == wanted["_floating_ip"]), "external"
        )

    def _refuse_floating_ips(self, public_ip: Json, port: Json, address: str) -> None:
        """Refuse a port to which a floating IP leads as a whole, and a floating IP that does so."""
        for floating in self._floating:
            if floating["port_id"] == port["id"]:
                raise Refused(
                    409,
                    "Cannot create port forwarding to floating IP"
                    f" {floating['floating_ip_address']} ({floating['id']}) with port {port['id']}"
                    f" using fixed IP {address}, as that port already has a binding floating IP.",
                    "PortHasBindingFloatingIP",
                )
        if public_ip["port_id"] in self._ports:
            raise Refused(
                409,
                f"Cannot associate floating IP {public_ip['floating_ip_address']}"
                f" ({public_ip['id']}) with port {port['id']} using fixed IP {address}, as that"
                " fixed IP already has a floating IP on external network"
                f" {public_ip['floating_network_id']}.",
                "FloatingIPPortAlreadyAssociated",
            )


def _ports(wanted: Json, side: str) -> Json:
    """The ports of one side: a range, and the port itself where the range has only one."""
    given = str(wanted.get(f"{side}_port_range") or wanted.get(f"{side}_port") or "")
    first, _, last = given.partition(":")
    try:
        begin, end = int(first), int(last or first)
    except ValueError:
        raise _bad(f"'{given}' is not a valid {side} port") from None
    if not 1 <= begin <= end <= 65535:
        raise _bad("Invalid port value, the port value must be a value between 1 and 65535.")
    return {
        f"{side}_port_range": f"{begin}:{end}",
        **({f"{side}_port": begin} if begin == end else {}),
    }


def _refuse_collision(wanted: Json, others: Iterable[Json], side: str) -> None:
    key = f"{side}_port_range"
    begin, end = map(int, wanted[key].split(":"))
    for other in others:
        first, last = map(int, other[key].split(":"))
        if first <= end and begin <= last:
            raise _bad(
                f"There is a port collision with the {key}. The following ranges collide:"
                f" {other[key]} and {wanted[key]}"
            )


def _bad(message: str) -> Refused:
    return Refused(400, f"Bad port_forwarding request: {message}.", "BadRequest")
