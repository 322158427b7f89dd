# SPDX-License-Identifier: Apache-2.0
"""The plan of a reprotection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antipode.operations.reprotect import Prepared
from antipode.runs.runbook import in_words


def record(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    state = prepared.state
    return {
        "vnf": state.vnf,
        "active_site": state.active_site,
        "backup_site": prepared.site,
        "generation": state.generation,
        "recovery_point": prepared.newest.id if prepared.newest else None,
        "fences": {
            k: v for k, v in prepared.fencing.record().items() if k in ("servers", "ports", "gone")
        },
        "removes": None if prepared.removes is None else prepared.removes.record(),
        "steps": in_words(prepared.steps),
        "warnings": list(prepared.warnings),
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    state, fences = prepared.state, prepared.fencing
    yield (
        f"VNF {state.vnf}, active at {state.active_site} since {state.since}, is going to be"
        f" protected for a recovery at {prepared.site}"
    )
    yield f"  1. its old copy at {prepared.site} is fenced"
    for server in fences.servers:
        does = " and ".join(server["does"]) or "off and locked already"
        yield f"       server {server['server']} ({server['id']}): {does}"
    for port in fences.ports:
        yield f"       port {port['id']} of {port['server']}: put down"
    if prepared.newest is not None:
        yield f"  2. it has recovery point {prepared.newest.id} of {state.active_site} already"
    else:
        yield f"  2. a first recovery point is made at {state.active_site}; until then it has none"
    if (removes := prepared.removes) is not None:
        yield f"  3. its old copy at {prepared.site} is removed, for good:"
        for kind in ("servers", "volumes", "ports"):
            for id_, name in getattr(removes, kind).items():
                yield f"       {kind[:-1]} {name or 'without a name'} ({id_})"
    else:
        yield f"  3. its old copy at {prepared.site} stays, off and locked"
    yield from (f"  {line}" for line in in_words(prepared.steps))
    for warning in prepared.warnings:
        yield f"  WARNING: {warning}"
