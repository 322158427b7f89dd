# SPDX-License-Identifier: Apache-2.0
"""Waits until a recovered member answers, in the way that its VNF file names (the end of step
1.7.2).
"""

from __future__ import annotations

from antipode.model.plan import ServerPlan
from antipode.model.steps import Steps
from antipode.model.topology import Server
from antipode.recover.recovery import Recovery
from antipode.topology import answering
from antipode.topology.answering import Wait


def await_answer(recovery: Recovery, server: str, server_id: str) -> None:
    """Probe a member until it answers; return at once when its VNF file names no probe.

    The address of a member exists at both sites. A connection to it counts only while Neutron at
    the recovering site shows the port as ACTIVE, and the result of the step says that the copy at
    either site may have answered (`reaches`, see `Reach`).

    Args:
        server_id: of the recovered server.

    Raises:
        ResourceFailed: the member does not answer within the time that its VNF file gives it.
    """
    planned = recovery.plan.server(server)
    answers = planned.answers
    if answers is None:
        return
    with recovery.timeline.step(Steps.PROBE, server) as step:
        probe = answering.await_answer(
            recovery.site,
            _as_planned(recovery.point.topology.server(server), planned),
            server_id,
            answers,
            Wait(step.waits_for, recovery.go_on, recovery.plan.environment),
            is_moved=planned.is_moved,
        )
        step.result(asked=str(probe), reaches=probe.reaches.value)


def _as_planned(server: Server, planned: ServerPlan) -> Server:
    """A server of the former site with the addresses that it has at this one."""
    new = {was: here for port in planned.ports for here, was in port.former.items()}
    ports = [
        port.model_copy(
            update={
                "fixed": [
                    f.model_copy(update={"address": new.get(f.address, f.address)})
                    for f in port.fixed
                ]
            }
        )
        for port in server.ports
    ]
    return server.model_copy(update={"ports": ports})
