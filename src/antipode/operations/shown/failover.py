# SPDX-License-Identifier: Apache-2.0
"""The plan of a failover."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from antipode.model.probe import Probe, Reach, asked_address
from antipode.operations.shown import dns
from antipode.screen import span

if TYPE_CHECKING:
    from antipode.model.plan import NetworkPlan, PortPlan, SecurityGroupPlan, ServerPlan, VolumePlan
    from antipode.operations.failover import Prepared


def questions(prepared: Prepared) -> Iterator[tuple[str, str]]:
    """What the operator is asked, and the word that has to be typed."""
    if (lost := prepared.instead_of) is not None:
        yield (
            f"Type the id of the run if it is dead, with its host {lost.host}; it claimed "
            f"{lost.vnf} for {lost.site} at {lost.since} ({lost.run}):",
            lost.run,
        )
    vnf = prepared.plan.vnf
    yield f"Type the name of the VNF to recover it now ({vnf}):", vnf


def fenced_first(prepared: Prepared, fences: list[str], unfenced: list[str]) -> Iterator[str]:
    """What is fenced first, for the operator, a line each."""
    site = prepared.state.active_site
    if fences:
        yield f"Before anything is created, the copy at {site} is cut off, stopped and locked"
        for server in fences:
            yield f"  {server}"
    for warning in unfenced:
        yield f"WARNING: {warning}"


def record(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    plan, point = prepared.plan, prepared.point
    return {
        "vnf": plan.vnf,
        "site": plan.site,
        "recovery_point": plan.recovery_point,
        "taken_at": point.site,
        "consistency": point.consistency,
        "consistent_at": point.consistent_at,
        "moments": dict(point.moments),
        "moments_apart_s": round(point.moments_apart_s, 3),
        "rpo_s": round(point.age_s),
        "losses_s": losses(prepared),
        "takes_heads": plan.takes_heads,
        "heads": [h.model_dump(mode="json") for h in plan.heads],
        "estimated_s": prepared.earlier_rto_s,
        "restored_gib": sum(v.size_gib for v in plan.volumes),
        "servers": [_planned_server(s, plan.site) for s in plan.servers],
        "boot_order": point.vnf.boot_waves(),
        "unattached_volumes": [v.model_dump(mode="json") for v in plan.unattached],
        "vip_ports": [p.model_dump(mode="json") for p in plan.vip_ports],
        "floating_ips": {f.former: f.address for f in plan.floating_ips},
        "networks": [_planned_network(n) for n in plan.networks],
        "security_groups": [_planned_network(g) for g in plan.security_groups],
        "datastores": [d.model_dump(mode="json") for d in plan.datastores],
        "dns": dns.changes(plan.dns),
        "steps": [str(step) for step in plan.steps],
        "keypairs_to_import": [k.name for k in plan.keypairs_to_import],
        "quotas": [q.model_dump() for q in plan.quotas],
        "already_there": plan.already_there,
        "warnings": prepared.warnings,
    }


def losses(prepared: Prepared) -> dict[str, float | None]:
    """What would be lost by each choice, in seconds: from the recovery point, and from the newest
    heads as their storage last looked; None where it does not say. No heads: no such choice.
    """
    lost: dict[str, float | None] = {"recovery_point": round(prepared.point.age_s, 3)}
    if heads := prepared.plan.heads:
        known = [h.lag_s for h in heads if h.lag_s is not None]
        lost["newest_heads"] = max(known) if len(known) == len(heads) else None
    return lost


def _planned_network(one: NetworkPlan | SecurityGroupPlan) -> dict[str, Any]:
    """A network or security group of a plan: whether it is created or mapped, and its changes."""
    found = one.model_dump(mode="json", exclude={"is_created"})
    return {**found, "how": "created" if one.is_created else "mapped"}


def _planned_server(server: ServerPlan, site: str) -> dict[str, Any]:
    """A server of a plan, without its user_data, which may hold secrets."""
    return {
        **server.model_dump(mode="json", exclude={"user_data", "answers"}),
        "has_user_data": server.user_data is not None,
        "answers": _probe(server, site),
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    plan, point = prepared.plan, prepared.point
    yield f"VNF {plan.vnf} is going to be recovered at {plan.site}"
    yield (
        f"  from recovery point {plan.recovery_point} ({point.consistency} consistency, "
        f"taken at {point.site})"
    )
    if plan.takes_heads:
        yield (
            "  with the newest data that has arrived of each volume, of no common moment; at most"
            f" {span(point.age_s)} is lost (RPO)"
        )
    else:
        yield f"  as of {point.consistent_at}: data newer than {span(point.age_s)} is lost (RPO)"
    for head in plan.heads:
        taken = "is taken" if plan.takes_heads else "with --newest-heads"
        yield f"  newest of volume {head.volume}: {head.behind} behind, {head.health} ({taken})"
    if prepared.earlier_rto_s is not None:
        yield f"  the newest failover that succeeded took {span(prepared.earlier_rto_s)} (RTO)"
    for server in plan.servers:
        yield ""
        yield from _server(server, is_there=server.name in plan.already_there)
        yield f"    {_probe(server, plan.site)}"
    if plan.networks or plan.security_groups:
        yield ""
        for network in plan.networks:
            yield from _network("network", network)
            for subnet in network.subnets:
                dhcp = ", with DHCP" if subnet.serves_addresses else ""
                yield f"    subnet {subnet.attributes['cidr']}{dhcp}"
        for group in plan.security_groups:
            yield from _network("security group", group)
            if group.is_created:
                yield f"    {len(group.rules)} rules"
    if plan.vip_ports:
        yield ""
        yield "  ports of no server"
        for port in plan.vip_ports:
            yield from _port(port)
    if plan.unattached:
        yield ""
        yield "  volumes of no server"
        yield from map(_volume, plan.unattached)
    for floating in plan.floating_ips:
        yield ""
        yield (
            f"  floating IP {floating.address} leads to {floating.fixed_address}, in the place of "
            f"{floating.former}"
        )
    for data in plan.datastores:
        yield ""
        yield f"  {data}"
    if plan.dns:
        yield ""
        yield from (f"  {record}" for record in plan.dns)
    for keypair in plan.keypairs_to_import:
        yield ""
        yield f"  keypair {keypair.name} is imported"
    for step in plan.steps:
        yield ""
        yield f"  runbook step {step}"
    for warning in prepared.warnings:
        yield ""
        yield f"  WARNING: {warning}"
    yield ""


def _network(kind: str, one: NetworkPlan | SecurityGroupPlan) -> Iterator[str]:
    if one.is_created:
        yield f"  {kind} {one.name} is created"
    elif one.name != one.former:
        yield f"  {kind} {one.name} takes the place of {one.former}"
    else:
        yield f"  {kind} {one.name} is there"
    for changed in one.changes:
        yield f"    {changed}"


def _probe(server: ServerPlan, site: str) -> str:
    """How it is seen that a server answers."""
    if server.is_off:
        return "was off: it boots once, cut off from its networks, and is switched off again"
    if server.answers is None:
        return "counts as recovered once it is ACTIVE; its VNF file has no `answers`"
    address = asked_address(port.fixed for port in server.ports)
    probe = Probe.of(server.answers, site, server.name, address, is_moved=server.is_moved)
    if probe.reaches is Reach.COMMAND:
        return f"answers when this command exits with 0: {probe}"
    if probe.console is not None:
        return f"answers when there is {probe}"
    accepts = f"{probe} accepts a connection" if probe.http is None else f"it answers {probe}"
    if probe.reaches is Reach.THIS_SITE:
        return f"answers when {accepts}"
    return (
        f"answers when {accepts}; both sites have this address: where another copy answers as the"
        " boot begins, the port is cut off for a moment to tell them apart (`answers.at` in the VNF"
        " file asks this site only)"
    )


def _server(server: ServerPlan, *, is_there: bool) -> Iterator[str]:
    there = " (there already, from an earlier try)" if is_there else ""
    after = f", after {', '.join(server.after)}" if server.after else ""
    zone = f", zone {server.availability_zone}" if server.availability_zone else ""
    yield f"  server {server.name}, flavor {server.flavor}{zone}{after}{there}"
    if group := server.server_group:
        yield f"    in server group {group.name}, policy {group.policy}"
    if server.clone_of:
        yield f"    a clone of {server.clone_of}: it was not captured, and gets the same bytes"
    if server.locked:
        yield "    locked"
    if server.drops_user_data:
        yield "    without its user_data"
    if disk := server.root_disk:
        image = f"from image {disk.source_reference}"
        yield f"    root disk on the hypervisor, {disk.size_gib} GiB, {image}"
    yield from map(_volume, server.volumes)
    for port in server.ports:
        yield from _port(port)


def _volume(volume: VolumePlan) -> str:
    boot = ", boot" if volume.is_root else ""
    return (
        f"    volume {volume.name or volume.source_id}, {volume.size_gib} GiB, type "
        f"{volume.volume_type}{boot}; {volume.way}"
    )


def _port(port: PortPlan) -> Iterator[str]:
    mac = port.mac_address or "the MAC address of its device"
    kind = "" if port.vnic_type == "normal" else f", {port.vnic_type}"
    yield f"    port on {port.network}: {_addresses(port)}, {mac}{kind}"
    for below in port.trunk.subports if port.trunk else []:
        tag = f"{below.segmentation_type} {below.segmentation_id}"
        yield f"      {tag} on {below.port.network}: {_addresses(below.port)}"


def _addresses(port: PortPlan) -> str:
    each = (f"{a} (was {port.former[a]})" if a in port.former else a for a in port.fixed)
    return ", ".join(each) or "no address"
