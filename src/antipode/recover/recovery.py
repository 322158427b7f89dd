# SPDX-License-Identifier: Apache-2.0
"""All that the parts of one recovery work with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from antipode.config import BOOTS_WITHIN_S, IMPORTS_WITHIN_S
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.steps import Timeline
from antipode.recover.other_copies import OtherCopies

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.mover.child import Mover
    from antipode.recover.existing import Found


class Slots(Protocol):
    """Bounds the volumes that are provided at once."""

    def hold(self) -> AbstractContextManager[None]:
        """One slot, waited for when it is entered; another thread may leave it."""
        ...

    def at(self, place: int) -> Slots:
        """The way to the same slots for those of this place: the lowest goes first."""
        ...


Answer = TypeVar("Answer")
OF_NO_SERVER = "of no server"
"""In the place of a server's name: volumes that none has. It has a space, unlike a hostname."""


@dataclass(frozen=True)
class Recovery:
    """One recovery: its point, its plan, its site, and what the site has already."""

    run: str
    """the run; every resource that it creates carries its id"""
    point: RecoveryPoint
    plan: RecoveryPlan
    site: Site
    found: Found
    slots: Slots
    pool: Executor
    """for work on volumes, which holds a slot: the threads of a run do not grow with its volumes"""
    timeline: Timeline
    stalls_after_s: Callable[[int], float] = lambda size_gib: math.inf
    """by the size of a volume in GiB: seconds after which a restore without change is given up"""
    imports_within_s: float = IMPORTS_WITHIN_S
    """how long the import of records may take"""
    boots_within_s: float = BOOTS_WITHIN_S
    """how long a server may take to become ACTIVE"""
    go_on: Callable[[], None] = lambda: None
    """called in waits; raises when the run must stop"""
    mover: Mover | None = None
    """writes standing volumes; None: there are none"""
    mover_restores: bool = False
    """whether it writes volumes also where none stand, before Cinder is asked to restore them"""
    others: OtherCopies = field(default_factory=OtherCopies)
    """the copies of its members that answer elsewhere"""
    keys: str = ""
    """what the keys of its resources begin with; the recovery point's id by default"""

    def key(self, source_id: str) -> str:
        """The key of the resource that is created for one of the former site.

        It is the same at each attempt with one recovery point.
        """
        return resource_key(self.keys or self.point.keyed_by, source_id)

    def slots_of(self, server: str) -> Slots:
        """The slots for the volumes of a server: those of servers that boot earlier go first."""
        last = len(self.plan.servers)
        return self.slots.at(last if server == OF_NO_SERVER else len(self.plan.all_before(server)))


def of_each(
    recovery: Recovery,
    server: str,
    volumes: Sequence[VolumePlan],
    do: Callable[[VolumePlan, AbstractContextManager[object]], Answer],
) -> dict[str, Answer]:
    """What is done for each volume of a server, for all of them at once; by the id of the volume at
    the former site.

    Args:
        do: gets a slot, which it leaves.
    """
    slots = recovery.slots_of(server)
    begun: dict[str, Future[Answer]] = {}
    for volume in volumes:
        with ExitStack() as slot:
            slot.enter_context(slots.hold())  # waited for here, so that no thread of the pool waits
            begun[volume.source_id] = recovery.pool.submit(do, volume, slot.pop_all())
    return {source: done.result() for source, done in begun.items()}


def resource_key(point: str, source_id: str) -> str:
    """The key of the resource that a recovery from a point creates for one of the former site."""
    return f"{point}/{source_id}"


def network_key(source_id: str) -> str:
    """The key of a network or security group that is created for one of the former site. It is the
    same for all points and VNFs: they share it.
    """
    return f"network/{source_id}"
