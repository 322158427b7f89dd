# SPDX-License-Identifier: Apache-2.0
"""Switches members of a VNF off and on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.model.point import RecoveryPoint
from antipode.model.steps import Step
from antipode.pace import Pace

if TYPE_CHECKING:
    from antipode.cloud.site import Site

POLL_S = 1.0
SWITCHED_WITHIN_S = 600.0
"""How long the members of one wave may take to be off, or on: Nova waits for a guest for a minute,
then cuts its power; an image may say longer.
"""


@dataclass(frozen=True)
class Switching:
    """What a switching works with."""

    vnf: str
    site: Site
    step: Step
    """which says what is waited for"""
    may: Callable[[], object]
    """raises when no server may be changed any more; asked before each change"""
    go_on: Callable[[], None]


def waves_of(point: RecoveryPoint) -> list[list[str]]:
    """The ids of the members at the site of a point, in the waves in which they boot."""
    ids = {
        member.label: server.id
        for member, server in zip(point.vnf.members, point.topology.servers, strict=True)
    }
    return [[ids[label] for label in wave] for wave in point.vnf.boot_waves()]


def switch(switching: Switching, ids: Sequence[str], to: str) -> list[str]:
    """Have servers be SHUTOFF or ACTIVE, as far as Nova does it.

    Returns:
        what is not so, and why: one is gone, Nova refuses, or it takes too long.
    """
    compute = switching.site.compute
    act = compute.stop_server if to == "SHUTOFF" else compute.start_server
    deadline, asked, conflicts = time.monotonic() + SWITCHED_WITHIN_S, set[str](), set[str]()
    problems, pace = dict[str, str](), Pace(POLL_S)
    while True:
        there = {s["id"]: s for s in compute.servers()}
        problems |= {i: f"{i} of {switching.vnf} is not there" for i in ids if i not in there}
        other = [there[i] for i in ids if i not in problems and not _is(there[i], to)]
        late = time.monotonic() > deadline
        if late or not other:
            return [*problems.values(), *([f"{said(other)}, and not {to}"] if other else [])]
        for server in other:
            id_ = server["id"]
            if id_ in asked or server.get("OS-EXT-STS:task_state"):
                continue
            switching.may()
            try:
                act(id_)
                asked.add(id_)
            except ApiError as error:
                if error.status == 409 and id_ not in conflicts:
                    conflicts.add(id_)  # it may be on its way, by a process that died
                    continue
                problems[id_] = (
                    f"server {server['name']} is {server['status']} and does not become {to}:"
                    f" {error.reason}"
                )
        switching.step.waits_for(f"{said(other)} to be {to}")
        switching.go_on()
        pace.pause()


def _is(server: Json, status: str) -> bool:
    """Whether a server has a status for good: one that is ACTIVE may be about to power off."""
    return server["status"] == status and not server.get("OS-EXT-STS:task_state")


def said(servers: Sequence[Json]) -> str:
    """Servers and their status, for people."""
    return ", ".join(
        f"server {s['name']} is {s.get('OS-EXT-STS:task_state') or s['status']}" for s in servers
    )
