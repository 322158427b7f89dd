# SPDX-License-Identifier: Apache-2.0
"""Creates ports as they were at the primary, with their trunks and floating IPs (step 1.7.2)."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.marks import as_tags, neutron_carries, words
from antipode.model.plan import PortPlan, TrunkPlan
from antipode.model.steps import Steps
from antipode.recover.networks import placed
from antipode.recover.recovery import Recovery


def create_ports(recovery: Recovery, server: str) -> list[str]:
    """Create the ports of a server, their trunks and their floating IPs.

    Returns:
        the ids of the ports, in the order of its interfaces.

    Raises:
        ResourceFailed: an address or MAC is in use, or Neutron refuses for another reason.
    """
    with recovery.timeline.step(Steps.CREATE_PORTS, server) as step:
        planned = recovery.plan.server(server)
        wanted = placed(recovery.site, recovery.plan, planned.ports)
        # One that was off boots once all the same: nothing of it reaches its networks.
        ports = [_whole(recovery, port, cut_off=planned.is_off) for port in wanted]
        step.result(ports=ports)
        return ports


def create_vip_ports(recovery: Recovery) -> list[str]:
    """Create the ports that belong to no server, with their floating IPs; their ids.

    Raises:
        ResourceFailed: as for `create_ports`.
    """
    if not recovery.plan.vip_ports:
        return []
    with recovery.timeline.step(Steps.CREATE_PORTS, "of no server") as step:
        wanted = placed(recovery.site, recovery.plan, recovery.plan.vip_ports)
        ports = [_whole(recovery, port) for port in wanted]
        step.result(ports=ports)
        return ports


def complete_ports(recovery: Recovery, server: str, ports: Sequence[str]) -> None:
    """Give the ports of a server what they cannot have before it has booted: DNS names that differ
    from its hostname; and their networks, if it is off.

    Raises:
        ResourceFailed: Neutron refuses.
    """
    planned = recovery.plan.server(server)
    for port, port_id in zip(planned.ports, ports, strict=True):
        changes: Json = {"dns_name": port.dns_name} if port.dns_name else {}
        if planned.is_off and port.attributes.get("admin_state_up", True):
            changes["admin_state_up"] = True
        if changes:
            _change(recovery.site, port, port_id, changes)
        if planned.is_off and port.trunk is not None:
            _connect_subports(recovery.site, port.trunk, port_id)


def _connect_subports(site: Site, trunk: TrunkPlan, parent_id: str) -> None:
    planned = {(s.segmentation_type, s.segmentation_id): s.port for s in trunk.subports}
    for found in site.networks.trunks([parent_id]):
        for below in found["sub_ports"]:
            port = planned.get((below["segmentation_type"], below["segmentation_id"]))
            if port is not None and port.attributes.get("admin_state_up", True):
                _change(site, port, below["port_id"], {"admin_state_up": True})


def _change(site: Site, port: PortPlan, port_id: str, changes: Json) -> None:
    try:
        site.networks.update_port(port_id, changes)
    except ApiError as error:
        raise ResourceFailed(
            f"{site.name}: {port.label} could not be given {', '.join(changes)}: {error.reason}"
        ) from error


def _whole(recovery: Recovery, port: PortPlan, *, cut_off: bool = False) -> str:
    """A port with all that belongs to it; `cut_off`: it is not to carry anything yet."""
    port_id = _port(recovery, port, cut_off=cut_off)
    if port.trunk is not None:
        _trunk(recovery, port, port_id, port.trunk, cut_off=cut_off)
    for floating in recovery.plan.floating_ips:
        if floating.source_port == port.source_id:
            try:
                recovery.site.networks.associate(
                    floating.floating_ip_id, port_id, floating.fixed_address
                )
            except ApiError as error:
                raise ResourceFailed(
                    f"{recovery.site.name}: floating IP {floating.address} could not be associated "
                    f"with {port.label}: {error.reason}"
                ) from error
    return port_id


def _port(recovery: Recovery, port: PortPlan, *, cut_off: bool = False) -> str:
    site, key = recovery.site, recovery.key(port.source_id)
    there = _found(site, port, key)
    if there is None:
        try:
            there = _create(site, port, words(recovery.run, key), cut_off=cut_off)
        except ApiError as error:
            # The request of a process that died may have come through, and the port is ours.
            there = _found(site, port, key)
            if there is None:
                raise ResourceFailed(
                    f"{site.name}: {port.label} could not be created: {error.reason}"
                ) from error
    if not neutron_carries(there, key):
        raise ResourceFailed(
            f"{site.name}: MAC address {port.mac_address} is in use on network {port.network} by "
            f"port {there['id']}"
        )
    # Neutron takes no tags when it creates a port, so the description has our mark until the tags
    # have it. Tags of an earlier run make way: the port is this run's now, to be rolled back with
    # it.
    tags = [*port.tags, *as_tags(recovery.run, key)]
    if sorted(there.get("tags") or ()) != sorted(tags):
        site.networks.tag_port(there["id"], tags)
    if there.get("description") != port.description:
        site.networks.update_port(there["id"], {"description": port.description})
    return str(there["id"])


def _found(site: Site, port: PortPlan, key: str) -> Json | None:
    """The port that has the MAC address, whosever it is; ours, where it has none of its own."""
    if port.mac_address:
        return site.networks.port_with_mac(port.network_id, port.mac_address)
    on_it = site.networks.ports_on([port.network_id])
    return next((p for p in on_it if neutron_carries(p, key)), None)


def _create(site: Site, port: PortPlan, description: str, *, cut_off: bool) -> Json:
    """A new port as it is to be looked at."""
    wanted = _wanted(port, description)
    if cut_off:
        wanted["admin_state_up"] = False
    try:
        port_id = site.networks.create_port(wanted)
    except ApiError as error:
        # Only services may write a profile, unless the site's policy says otherwise.
        if error.status != 403 or "binding:profile" not in wanted:
            raise
        del wanted["binding:profile"]
        port_id = site.networks.create_port(wanted)
    return {"id": port_id, "description": description, "tags": []}


def _wanted(port: PortPlan, description: str) -> Json:
    wanted: Json = {
        "network_id": port.network_id,
        "name": port.name,
        "description": description,
        # without a list Neutron would give it addresses
        "fixed_ips": [
            {"ip_address": address, "subnet_id": subnet} for address, subnet in port.fixed.items()
        ],
        **port.attributes,
    }
    if port.mac_address:
        wanted["mac_address"] = port.mac_address
    if port.allowed_address_pairs:
        wanted["allowed_address_pairs"] = port.allowed_address_pairs
    if port.port_security_enabled is not None:
        wanted["port_security_enabled"] = port.port_security_enabled
    if port.port_security_enabled is not False:
        wanted["security_groups"] = port.security_group_ids
    if port.binding_profile:
        wanted["binding:profile"] = port.binding_profile
    return wanted


def _trunk(
    recovery: Recovery, parent: PortPlan, parent_id: str, trunk: TrunkPlan, *, cut_off: bool
) -> None:
    """A trunk is made whole in one call, before its server boots; a port has one at most."""
    site = recovery.site
    below = [
        {
            "port_id": _port(recovery, subport.port, cut_off=cut_off),
            "segmentation_type": subport.segmentation_type,
            "segmentation_id": subport.segmentation_id,
        }
        for subport in trunk.subports
    ]
    if site.networks.trunks([parent_id]):
        return
    wanted: Json = {
        "port_id": parent_id,
        "name": trunk.name,
        "description": trunk.description,
        "admin_state_up": trunk.admin_state_up,
        "sub_ports": below,
    }
    try:
        site.networks.create_trunk(wanted, trunk.tags)
    except ApiError as error:
        if site.networks.trunks([parent_id]):
            return  # a request of a process that died has come through
        raise ResourceFailed(
            f"{site.name}: the trunk of {parent.label} could not be created: {error.reason}"
        ) from error
