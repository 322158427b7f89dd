# SPDX-License-Identifier: Apache-2.0
"""The plan of an undo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from antipode.operations.undo import Prepared
from antipode.runs.runbook import in_words
from antipode.screen import moment, span


def record(prepared: Prepared) -> dict[str, Any]:
    """The plan as a record."""
    return {
        "vnf": prepared.state.vnf,
        "from": prepared.state.active_site,
        "to": prepared.site,
        "generation": prepared.state.generation + 1,
        "undo_until": moment(prepared.until),
        "lost_s": round(prepared.lost_s),
        "stops": prepared.stops,
        "starts": prepared.starts,
        "probes": prepared.probes,
        "steps": in_words(prepared.steps),
    }


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    state = prepared.state
    yield f"VNF {state.vnf} goes back from {state.active_site} to {prepared.site}"
    yield (
        f"  WARNING: all that it has written at {state.active_site} since {state.since}"
        f" ({span(prepared.lost_s)}) is lost to it; that copy is kept, off and locked"
    )
    for server in prepared.stops:
        yield f"  at {state.active_site}, {server}: cut off, stopped and locked"
    for server in prepared.starts:
        yield f"  at {prepared.site}, {server}: unlocked and started"
    yield from (f"  {line}" for line in prepared.probes)
    yield from (f"  {line}" for line in in_words(prepared.steps))
    yield f"  this is possible until {moment(prepared.until)}"
