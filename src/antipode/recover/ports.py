# SPDX-License-Identifier: Apache-2.0
"""Creates the ports of a server with the MAC and fixed addresses they had at the primary (step
1.7.2).
"""

from __future__ import annotations

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import key_in, maker_in, words
from antipode.model.plan import PortPlan
from antipode.model.steps import Steps
from antipode.recover.recovery import Recovery


def create_ports(recovery: Recovery, server: str) -> list[str]:
    """Create the ports of a server and return their ids in the order of its interfaces.

    Raises:
        ResourceFailed: an address or MAC is in use, or Neutron refuses for another reason.
    """
    with recovery.timeline.step(Steps.CREATE_PORTS, server) as step:
        ports = [
            _port(recovery.site, port, recovery.key(port.source_id), recovery.run)
            for port in recovery.plan.server(server).ports
        ]
        step.result(ports=ports)
        return ports


def _port(site: Site, port: PortPlan, key: str, run: str) -> str:
    there = site.networks.port_with_mac(port.network_id, port.mac_address)
    if there is None:
        try:
            return site.networks.create_port(_wanted(port, key, run), port.tags)
        except ApiError as error:
            # The request of a process that died may have come through, and the port is ours.
            there = site.networks.port_with_mac(port.network_id, port.mac_address)
            if there is None:
                label = (
                    f"port with {', '.join(port.fixed) or 'no address'} on network {port.network}"
                )
                raise ResourceFailed(
                    f"{site.name}: {label} could not be created: {error.reason}"
                ) from error
    if not key_in(there.get("description"), key):
        raise ResourceFailed(
            f"{site.name}: MAC address {port.mac_address} is in use on network {port.network} by "
            f"port {there['id']}"
        )
    if maker_in(there.get("description")) != run:
        # it is this run's now, to be rolled back with it
        site.networks.describe_port(there["id"], words(run, key))
    if port.tags and sorted(there.get("tags") or ()) != sorted(port.tags):
        # its maker died between the two calls
        site.networks.tag_port(there["id"], port.tags)
    return str(there["id"])


def _wanted(port: PortPlan, key: str, run: str) -> Json:
    wanted: Json = {
        "network_id": port.network_id,
        "name": port.name,
        "description": words(run, key),
        "mac_address": port.mac_address,
        "fixed_ips": [
            {"ip_address": address, "subnet_id": subnet} for address, subnet in port.fixed.items()
        ],
        "allowed_address_pairs": port.allowed_address_pairs,
        "port_security_enabled": port.port_security_enabled,
    }
    if port.port_security_enabled:
        wanted["security_groups"] = port.security_group_ids
    return wanted
