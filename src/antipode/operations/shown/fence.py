# SPDX-License-Identifier: Apache-2.0
"""The plan of a fencing."""

from __future__ import annotations

from collections.abc import Iterator

from antipode.operations.fence import Prepared
from antipode.runs.runbook import in_words


def lines(prepared: Prepared) -> Iterator[str]:
    """The plan for the operator, a line each."""
    yield f"The old copy of VNF {prepared.state.vnf} at {prepared.site} is going to be fenced"
    yield f"  {prepared.state}, generation {prepared.state.generation}; that copy is not touched"
    for server in prepared.servers:
        locked = ", locked" if server["locked"] else ""
        does = " and ".join(server["does"]) or "nothing to do"
        yield f"  server {server['server']} ({server['id']}), {server['status']}{locked}: {does}"
    for port in prepared.ports:
        yield f"  port {port['id']} of {port['server']}: put down"
    if prepared.gone:
        yield f"  not there any more: {', '.join(prepared.gone)}"
    for stranger in prepared.strangers:
        yield (
            f"  WARNING: server {stranger} has the name of a member, and nothing proves that it is"
            " of the old copy: it is left alone"
        )
    yield from (f"  {line}" for line in in_words(prepared.steps))
    yield ""
