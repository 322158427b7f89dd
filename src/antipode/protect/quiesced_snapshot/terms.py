# SPDX-License-Identifier: Apache-2.0
"""What is particular about one quiesce window: members that are not quiesced, and what is made
beside the snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from antipode.model.capture import OF_RUNNING_MEMBERS, Consistency
from antipode.model.topology import Server, Topology
from antipode.protect import application_data, guest_agents
from antipode.protect.option import Protecting

Positions = Callable[[float, Callable[[], None]], Mapping[str, str]]
"""Makes positions of data, datastore -> position: within so many seconds, calling the function
meanwhile, which raises when the window must end.
"""


def _no_positions(_within_s: float, _go_on: Callable[[], None]) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Terms:
    """What a window does beside quiescing all members that run."""

    bare: frozenset[str] = frozenset()
    """ids of servers that run and are not quiesced, as the operator accepts"""
    positions: Positions = _no_positions
    """has positions of data made that is on none of the volumes, while the snapshots are taken"""

    group: str | None = None
    """id of the volume group that has all volumes and no other: one snapshot of it is taken in the
    place of one of each volume
    """

    @classmethod
    def of(cls, p: Protecting, topology: Topology, group: str | None = None) -> Terms:
        """Those of a protection."""
        return cls(bare_of(p, topology), application_data.in_window(p), group)

    def label(self, topology: Topology) -> Consistency:
        """What the snapshots of a window by these terms are, as a whole."""
        if not self.bare:
            return "application"
        return "group" if self.group or len(topology.volumes) == 1 else "volume"


def bare_of(p: Protecting, topology: Topology) -> frozenset[str]:
    """The ids of the members that are captured without being quiesced."""
    return frozenset(s.id for s in as_they_run(p, topology))


def as_they_run(p: Protecting, topology: Topology) -> list[Server]:
    """The members that run and are captured without being quiesced, where the operator accepts what
    that gives: all of them in hours to avoid, else those that have no guest agent.
    """
    if p.accepts not in OF_RUNNING_MEMBERS:
        return []
    running = [s for s in topology.servers if not s.is_off]
    if not p.quiesces:
        return running
    return guest_agents.lacking(topology.model_copy(update={"servers": running}))
