# SPDX-License-Identifier: Apache-2.0
"""The pace of the captures: no member is frozen before all others are seen to be well."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from antipode.errors import ResourceFailed
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Member
from antipode.protect.option import Protecting
from antipode.protect.server_snapshot.steps import ServerSnapshotSteps as Steps
from antipode.topology import answering

LOOK_S = 0.5
"""Between two looks whether the run must stop, in a pause."""
WELL_S = 30.0
"""How long a member that was not touched may take to answer."""


def silent_members(protecting: Protecting, topology: Topology) -> Iterator[str]:
    """The members that do not answer before any of them is captured, a sentence each: a VNF of
    which one member does not work may be down while another one is frozen.
    """
    p = protecting
    if len(p.vnf.members) == 1:
        return
    for member, server in zip(p.vnf.members, topology.servers, strict=True):
        if member.answers is None or server.is_off:
            continue
        soon = member.answers.model_copy(update={"within": min(member.answers.within, WELL_S)})
        try:
            answering.await_answer(
                p.site, server, server.id, soon, tell=lambda _: None, go_on=p.go_on
            )
        except ResourceFailed as error:
            yield f"{error}. Repair it first: the VNF may be down while another member is frozen"


def await_health(
    protecting: Protecting, member: Member, server: Server, following: Sequence[str]
) -> None:
    """Wait until a captured member answers, and for the pause that its VNF file wants.

    Args:
        following: the members that are captured after it.

    Raises:
        ResourceFailed: it does not answer; the members that follow are not captured.
    """
    p = protecting
    if member.answers is not None:
        with p.timeline.step(Steps.AWAIT_ANSWER, server.name) as step:
            try:
                probe = answering.await_answer(
                    p.site, server, server.id, member.answers, tell=step.waits_for, go_on=p.go_on
                )
            except ResourceFailed as error:
                raise ResourceFailed(
                    f"{error}. It was captured just before, so the next members are left alone: "
                    f"{', '.join(following)}. Repair it, then protect the VNF again",
                    resource=error.resource,
                ) from error
            step.result(asked=str(probe))
    if member.pause:
        with p.timeline.step(Steps.PAUSE, server.name):
            _pause(p, member.pause)


def _pause(p: Protecting, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        p.go_on()
        threading.Event().wait(min(left, LOOK_S))
