# SPDX-License-Identifier: Apache-2.0
"""The pace of the captures: no member is frozen before all others are seen to be well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from antipode.errors import ResourceFailed
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Member, Vnf
from antipode.protect.option import Protecting
from antipode.protect.server_snapshot.steps import ServerSnapshotSteps as Steps
from antipode.topology import answering
from antipode.topology.answering import Wait

LOOK_S = 0.5
"""Between two looks whether the run must stop, in a pause."""
WELL_S = 30.0
"""How long a member that was not touched may take to answer."""


def silent_members(protecting: Protecting, topology: Topology) -> Iterator[str]:
    """The members that do not answer before any of them is captured, a sentence each: a VNF of
    which one member does not work may be down while another one is frozen.
    """
    if len(protecting.vnf.members) == 1:
        return
    for member, server in _with_probes(protecting.vnf, topology):
        try:
            _await_soon(protecting, member, server, lambda _: None)
        except ResourceFailed as error:
            yield f"{error}. Repair it first: the VNF may be down while another member is frozen"


def await_others(protecting: Protecting, topology: Topology, batch: Collection[str]) -> None:
    """See that all members answer but those that are captured next: it may be hours since they were
    seen to be well, by long pauses and large root disks.

    Raises:
        ResourceFailed: one does not; the members of the batch are not captured.
    """
    p = protecting
    others = [(m, s) for m, s in _with_probes(p.vnf, topology) if m.server not in batch]
    if not others:
        return
    with p.timeline.step(Steps.LOOK_AT_OTHERS, ", ".join(batch)) as step:
        for member, server in others:
            try:
                _await_soon(p, member, server, step.waits_for)
            except ResourceFailed as error:
                raise ResourceFailed(
                    f"{error}. So {', '.join(batch)} is left alone: the VNF may be down while it is"
                    " frozen. Repair it, then protect the VNF again",
                    resource=error.resource,
                ) from error
        step.result(members=len(others))


def _with_probes(vnf: Vnf, topology: Topology) -> list[tuple[Member, Server]]:
    """The members that are on and have a probe, each with its server."""
    members = zip(vnf.members, topology.servers, strict=True)
    return [(m, s) for m, s in members if m.answers is not None and not s.is_off]


def _await_soon(p: Protecting, member: Member, server: Server, tell: Callable[[str], None]) -> None:
    """Wait until a member that was not touched answers.

    Raises:
        ResourceFailed: it does not within WELL_S.
    """
    assert member.answers is not None  # asked of members with a probe only
    soon = member.answers.model_copy(update={"within": min(member.answers.within, WELL_S)})
    answering.await_answer(p.site, server, server.id, soon, Wait(tell, p.go_on))


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
                    p.site, server, server.id, member.answers, Wait(step.waits_for, p.go_on)
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
