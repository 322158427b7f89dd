# SPDX-License-Identifier: Apache-2.0
"""Waits until a recovered member answers, in the way that its VNF file names (the end of step
1.7.2), and asks before the boot whether another copy does.
"""

from __future__ import annotations

from antipode.model.marks import made_by
from antipode.model.plan import ServerPlan
from antipode.model.probe import Probe, Reach
from antipode.model.steps import Steps
from antipode.model.topology import Server
from antipode.recover import servers
from antipode.recover.other_copies import Place
from antipode.recover.recovery import Recovery
from antipode.topology import answering
from antipode.topology.answering import Wait


def ask_before_boot(recovery: Recovery) -> None:
    """Have the members asked whose probes may be answered by a copy elsewhere, beside all else."""
    for planned in recovery.plan.servers:
        if (place := _shared_place(recovery, planned)) is not None:
            recovery.others.ask(planned.name, place)


def is_answered_before_boot(recovery: Recovery, server: str) -> bool:
    """Whether another copy answers of a member that is about to be booted."""
    planned = recovery.plan.server(server)
    if _shared_place(recovery, planned) is None:
        return False
    there = servers.there_already(recovery, planned)
    made = None if there is None else made_by(there) or recovery.run
    return recovery.others.boots(server, made)


def await_answer(recovery: Recovery, server: str, server_id: str) -> None:
    """Probe a member until it answers; return at once when its VNF file names no probe.

    The address of a member exists at both sites. A connection to it counts only while Neutron at
    the recovering site shows the port as ACTIVE, and while no copy that answered before the boot
    may answer still (`OtherCopies`). The result of the step says that the copy at either site may
    have answered (`reaches`, see `Reach`), and that one did before the boot (`answered_before`).

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
        if (before := recovery.others.seen(server)) is not None:
            step.result(answered_before=before)
        probe = answering.await_answer(
            recovery.site,
            _as_planned(recovery.point.topology.server(server), planned),
            server_id,
            answers,
            Wait(
                step.waits_for,
                recovery.go_on,
                recovery.plan.environment,
                lambda probe: recovery.others.may_answer(server, _place(probe)),
            ),
            is_moved=planned.is_moved,
        )
        facts = {"answered_before": before} if before is not None else {}
        step.result(asked=str(probe), reaches=probe.reaches.value, **facts)


def _shared_place(recovery: Recovery, planned: ServerPlan) -> Place | None:
    """Where a member is asked, if its copy elsewhere has that address too."""
    site = recovery.site.name
    if planned.answers is None or not planned.answers.connects_to(site) or planned.is_moved:
        return None
    server = _as_planned(recovery.point.topology.server(planned.name), planned)
    address = answering.fixed_address(server)
    return _place(Probe.of(planned.answers, site, server.name, address)) if address else None


def _place(probe: Probe) -> Place:
    assert probe.port is not None and probe.reaches is Reach.EITHER_SITE
    return Place(probe.address, probe.port)


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
