# SPDX-License-Identifier: Apache-2.0
"""Waits until a recovered member answers, in the way that its VNF file names (the end of step
1.7.2).
"""

from __future__ import annotations

from antipode.model.steps import Steps
from antipode.recover.recovery import Recovery
from antipode.topology import answering


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
    answers = recovery.plan.server(server).answers
    if answers is None:
        return
    with recovery.timeline.step(Steps.PROBE, server) as step:
        probe = answering.await_answer(
            recovery.site,
            recovery.point.topology.server(server),
            server_id,
            answers,
            tell=step.waits_for,
            go_on=recovery.go_on,
        )
        step.result(asked=str(probe), reaches=probe.reaches.value)
