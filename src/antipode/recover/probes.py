# SPDX-License-Identifier: Apache-2.0
"""Waits until a recovered member answers, in the way that its VNF file names (the end of step
1.7.2), and sees to it that no other copy answers in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from antipode.errors import ResourceFailed
from antipode.model.marks import made_by
from antipode.model.plan import ServerPlan
from antipode.model.probe import Probe
from antipode.model.steps import Steps
from antipode.model.topology import Server
from antipode.pace import Pace
from antipode.recover import servers
from antipode.recover.other_copies import ANSWERED, Place
from antipode.recover.recovery import Recovery
from antipode.topology import answering
from antipode.topology.answering import Wait

POLL_S = 0.5
SHOWN_S = 60.0
"""How long Neutron may take to put a port down or up."""


def look_for_other_copy(recovery: Recovery, server: str) -> None:
    """See whether another copy answers at the address of a member that is about to be booted;
    nothing waits for that.
    """
    planned = recovery.plan.server(server)
    if (place := _shared_place(recovery, planned)) is None:
        return
    there = servers.there_already(recovery, planned)
    if there is None:
        recovery.others.look(server, place)
    else:
        recovery.others.remember(server, place, made_by(there) or recovery.run)


def await_answer(recovery: Recovery, server: str, server_id: str) -> None:
    """Probe a member until it answers; return at once when its VNF file names no probe.

    The address of a member exists at both sites. A connection to it counts only while Neutron at
    the recovering site shows the port as ACTIVE. Where another copy may answer (`OtherCopies`), the
    port is cut off for a moment: an answer counts when there is none without it. The result of the
    step says that the copy at either site may have answered (`reaches`, see `Reach`).

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
        as_planned = _as_planned(recovery.point.topology.server(server), planned)
        if _shared_place(recovery, planned) and recovery.others.may_answer(server):
            _connect_port(recovery, as_planned, server_id)  # a killed process has cut it off
        probe = answering.await_answer(
            recovery.site,
            as_planned,
            server_id,
            answers,
            Wait(
                step.waits_for,
                recovery.go_on,
                recovery.plan.environment,
                partial(_not_the_member, recovery, server),
            ),
            is_moved=planned.is_moved,
        )
        step.result(asked=str(probe), reaches=probe.reaches.value)


def _not_the_member(
    recovery: Recovery, server: str, port: str, ask: Callable[[], str | None]
) -> str | None:
    """Why an answer may be that of another copy; None when it is the member's.

    Args:
        ask: asks the address once more; None for an answer.
    """
    others = recovery.others
    if not others.may_answer(server):
        return None
    words = (
        "another copy of it answers: stop that, or cut it off, and resume the run; where its site"
        f" answers, `antipode failover {recovery.point.vnf.vnf} --to {recovery.site.name} --fence`"
        " does"
    )
    if not others.is_due(server):
        return words
    with recovery.timeline.step(Steps.CUT_OFF, server) as step:
        try:
            recovery.site.networks.update_port(port, {"admin_state_up": False})
            _await_port(recovery, port, is_active=False)
            answers = ask() is None or ask() is None  # one may be lost on the way
        finally:  # also where the run is to stop, or the call was not answered
            _put_up(recovery, port)
        step.result(port=port, **{ANSWERED: answers})
    if answers:
        return words
    others.is_the_member(server)
    _await_port(recovery, port, is_active=True)
    return ask()


def _await_port(recovery: Recovery, port: str, *, is_active: bool) -> None:
    """Wait until Neutron shows a port as it was put."""
    deadline, pace = time.monotonic() + SHOWN_S, Pace(POLL_S)
    while is_active is not any(
        p.get("status") == "ACTIVE" for p in recovery.site.networks.ports([port])
    ):
        if time.monotonic() > deadline:
            raise ResourceFailed(
                f"{recovery.site.name}: port {port} is {'not' if is_active else 'still'} ACTIVE"
                f" {SHOWN_S:g} s after it was put {'up' if is_active else 'down'} to see whether"
                " another copy answers in the place of the member",
                resource=f"port {port}",
            )
        recovery.go_on()
        pace.pause()


def _connect_port(recovery: Recovery, server: Server, server_id: str) -> None:
    port = answering.port_of(recovery.site, server, server_id)
    if port is not None and not port.get("admin_state_up", True):
        _put_up(recovery, port["id"])


def _put_up(recovery: Recovery, port: str) -> None:
    site = recovery.site.under(lambda: None)
    site.networks.update_port(port, {"admin_state_up": True})


def _shared_place(recovery: Recovery, planned: ServerPlan) -> Place | None:
    """Where a member is asked, if its copy elsewhere has that address too."""
    site = recovery.site.name
    if planned.answers is None or not planned.answers.connects_to(site) or planned.is_moved:
        return None
    server = _as_planned(recovery.point.topology.server(planned.name), planned)
    address = answering.fixed_address(server)
    probe = Probe.of(planned.answers, site, server.name, address)
    return Place(address, probe.port) if address and probe.port is not None else None


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
