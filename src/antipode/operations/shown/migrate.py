# SPDX-License-Identifier: Apache-2.0
"""The plan of a migration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antipode.operations.migrate import Prepared


def record(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    state, plan = prepared.state, prepared.plan
    return {
        "vnf": state.vnf,
        "from": state.active_site,
        "to": prepared.to,
        "generation": state.generation + 1,
        "planned_from": None if plan is None else plan.recovery_point,
        "servers": [] if plan is None else [s.name for s in plan.servers],
        "steps": [str(step) for step in prepared.steps],
        "removes": None if prepared.removes is None else prepared.removes.record(),
        "quotas": [] if plan is None else [q.model_dump() for q in plan.quotas],
        "warnings": list(prepared.warnings),
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    state, plan = prepared.state, prepared.plan
    yield f"VNF {state.vnf} moves from {state.active_site} to {prepared.to}"
    yield "  1. a recovery point is made while it runs"
    if (removes := prepared.removes) is not None:
        yield f"     if {prepared.to} can take it, its old copy there is removed, for good:"
        for kind, what in (("server", removes.servers), ("volume", removes.volumes)):
            for id_, name in what.items():
                yield f"       {kind} {name or 'without a name'} ({id_})"
        yield f"       {len(removes.ports)} ports"
    yield "  2. its members are switched off, against their boot order; it does not serve from here"
    yield "  3. a last recovery point is made, with all members off"
    yield f"  4. it is recovered at {prepared.to} from that point"
    yield f"  5. its old copy at {state.active_site} is locked, and its ports are put down"
    if plan is None:
        so_far = "no member is off yet" + ("" if removes is None else " and nothing is removed")
        yield f"  what {prepared.to} lacks is known after step 1, when {so_far}"
    for server in plan.servers if plan else ():
        addresses = ", ".join(a for p in server.ports for a in p.fixed) or "no address"
        yield f"  server {server.name}, {len(server.volumes)} volumes, {addresses}"
    for step in prepared.steps:
        yield f"  runbook step {step}"
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"
