# SPDX-License-Identifier: Apache-2.0
"""A tenant network per site whose guests reach those of the other site's, routed by the sites
themselves. The extra `replication`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lab import inside
from lab.service import NotReady, Program, Service
from lab.services import identity, neutron, tenant
from lab.site import LINK_DEVICE, SITES, Site

OWNER = "network:antipode-lab"


class Network(NamedTuple):
    """The linked network of one site."""

    name: str
    cidr: str
    mac: str
    """of its gateway"""

    @property
    def gateway(self) -> ipaddress.IPv4Interface:
        subnet = ipaddress.IPv4Network(self.cidr)
        return ipaddress.IPv4Interface((subnet[1], subnet.prefixlen))

    @property
    def pool(self) -> Mapping[str, str]:
        """Where Neutron may choose, as in the tenant's other network."""
        subnet = ipaddress.IPv4Network(self.cidr)
        return {"start": str(subnet[200]), "end": str(subnet[250])}


NETWORKS = {
    "site-a": Network("linked-net", "10.8.1.0/24", "fa:16:3e:08:01:01"),
    "site-b": Network("linked-net-b", "10.8.2.0/24", "fa:16:3e:08:02:01"),
}


class Link(Service):
    """The network, and its gateway: a port of the switch in the site's own namespace, which
    forwards between it and the WAN.
    """

    name = "link"
    after = ("neutron-agents",)

    def prepare(self, site: Site) -> None:
        port = _gateway_port(site)
        # as Nova's driver marks a guest's: the switch agent finds the port by its id
        inside.run(
            site,
            [
                *("ovs-vsctl", "--may-exist", "add-port", "br-int", LINK_DEVICE),
                *("--", "set", "Interface", LINK_DEVICE, "type=internal"),
                f"external-ids:iface-id={port}",
                f"external-ids:attached-mac={NETWORKS[site.name].mac}",
                "external-ids:iface-status=active",
            ],
        )

    def programs(self, site: Site) -> Sequence[Program]:
        own = NETWORKS[site.name]
        routes = [
            word for other in SITES.values() if other != site
            for word in (NETWORKS[other.name].cidr, other.address)
        ]  # fmt: skip
        command = [str(inside.BIN / "keep-link-up"), LINK_DEVICE, own.mac, str(own.gateway)]
        return [Program("keep-link-up", [*command, *routes])]

    def check_ready(self, site: Site) -> None:
        own = NETWORKS[site.name]
        shown = inside.run(
            site, ["ip", "-json", "address", "show", "dev", LINK_DEVICE, "up"], check=False
        ).stdout
        # a device that is not up yet is shown as an empty entry
        devices = json.loads(shown or "[]")
        addresses = [a["local"] for device in devices for a in device.get("addr_info", ())]
        if str(own.gateway.ip) not in addresses:
            raise NotReady(f"{LINK_DEVICE} does not have the address {own.gateway.ip} yet")
        ports = identity.ask(site, neutron.PORT, f"/v2.0/ports?device_owner={OWNER}")["ports"]
        if [port["status"] for port in ports] != ["ACTIVE"]:
            raise NotReady(f"the gateway of {own.name} is not ACTIVE in Neutron yet")


def _gateway_port(site: Site) -> str:
    """The id of the port in Neutron that has the gateway's address."""
    own = NETWORKS[site.name]
    network = tenant.make_network(
        identity.connect(site, tenant.USER, tenant.PROJECT),
        own.name,
        cidr=own.cidr,
        allocation_pools=[own.pool],
        gateway_ip=str(own.gateway.ip),
    )
    admin: Any = identity.connect(site).network
    known = next(admin.ports(network_id=network, device_owner=OWNER), None)
    port = known or admin.create_port(
        network_id=network,
        name=f"{own.name}-gateway",
        device_owner=OWNER,
        mac_address=own.mac,
        fixed_ips=[{"ip_address": str(own.gateway.ip)}],
        binding_host_id=site.compute_host,
    )
    return str(port.id)


SERVICES: Sequence[Service] = (Link(),)
