# SPDX-License-Identifier: Apache-2.0
"""The plan of a drill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from antipode.screen import span

if TYPE_CHECKING:
    from antipode.model.plan import ServerPlan
    from antipode.runs.drill_preparation import PreparedDrill


def record(prepared: PreparedDrill) -> dict[str, Any]:
    """The plan as a record."""
    plan, point = prepared.plan, prepared.point
    return {
        "vnf": plan.vnf,
        "site": plan.site,
        "recovery_point": plan.recovery_point,
        "consistent_at": point.consistent_at,
        "rpo_s": round(point.age_s),
        "restored_gib": sum(v.size_gib for v in plan.volumes),
        "networks": [
            {"name": n.name, "subnets": [s.attributes["cidr"] for s in n.subnets]}
            for n in plan.networks
        ],
        "servers": [
            {
                "name": s.name,
                "called": s.called,
                "addresses": [a for p in s.ports for a in p.fixed],
                "mac_addresses": [p.mac_address for p in s.ports],
                "answers": _probe(s),
            }
            for s in plan.servers
        ],
        "steps": [str(step) for step in plan.steps],
        "quotas": [q.model_dump() for q in plan.quotas],
        "warnings": list(prepared.warnings),
    }


def _probe(server: ServerPlan) -> str:
    if server.is_off:
        return "is not probed: it was off, and is switched off again"
    if server.answers is None:
        return "is not probed: the VNF file has no `console` text for it"
    return f"answers when its console log has {server.answers.console!r}"


def lines(prepared: PreparedDrill, keep_s: float | None) -> Iterator[str]:
    """The plan for the operator, a line each."""
    plan, point = prepared.plan, prepared.point
    yield f"Drill of VNF {plan.vnf} at {plan.site}; it stays active at {prepared.state.active_site}"
    yield f"  from recovery point {plan.recovery_point}, as of {point.consistent_at}"
    for network in plan.networks:
        ranges = ", ".join(s.attributes["cidr"] for s in network.subnets) or "no subnet"
        yield f"  network {network.name} ({ranges}): no router, not shared"
    for server in plan.servers:
        addresses = ", ".join(a for p in server.ports for a in p.fixed) or "no address"
        yield f"  server {server.called}, {len(server.volumes)} volumes, {addresses}"
        if disk := server.root_disk:
            yield f"    root disk on the hypervisor, from image {disk.source_reference}"
        yield f"    {_probe(server)}"
    for step in plan.steps:
        yield f"  runbook step {step}"
    if keep_s is None:
        yield "  all of it is removed at the end"
    else:
        yield f"  all of it stays for {span(keep_s)} after the end of the drill"
        yield f"  remove it earlier: antipode drill cleanup {plan.vnf}"
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"
