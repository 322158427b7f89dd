# SPDX-License-Identifier: Apache-2.0
"""What can be measured of a VNF, and what each option says to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FREQUENT_S = 300.0
"""A shorter RPO than this leaves backups little time."""
RARELY = 0.1
"""The part of its recovery points before which a VNF that is scaled rarely has other members."""


class Weight(StrEnum):
    """What a remark means for an option."""

    FOR = "for"
    AGAINST = "against"
    RULES_OUT = "rules out"
    """the option cannot protect the VNF as it is"""


@dataclass(frozen=True)
class Remark:
    """One thing that speaks for an option or against it, in a sentence."""

    weight: Weight
    words: str


@dataclass(frozen=True)
class Facts:
    """What was measured of a VNF. None: it is not known."""

    members: int
    without_agent: int
    """captured members that run and of which Nova knows no guest agent"""
    root_disks: int
    """of captured members on hypervisors, that are not made again"""
    has_roles: bool
    """whether the file says which members are active and which are standby"""
    volumes: int
    gib: int
    """of all volumes"""
    has_add_on: bool | None
    """whether the active site can quiesce members"""
    replicated: int
    """volumes on a storage of the configuration that is at another site of the VNF, too"""
    application_data: bool
    """whether the file names data that the application replicates"""
    bytes_per_hour: float | None
    """that change, by increments that were backed up"""
    carried_per_s: float | None
    """bytes that backups have brought to the store, per second"""
    rpo_s: float | None
    rto_s: float | None
    restores_in_s: float | None
    """how long a recovery from backups would take"""
    accepts_running: bool = False
    """whether the file accepts points of members that were not quiesced"""
    left_out: int = 0
    """members that are not captured, as the file has it"""
    unattached: int = 0
    """volumes of no server"""
    shared: int = 0
    """volumes that several members have"""
    points: int = 0
    """the newest recovery points by which it is known how often members change"""
    scaled: int = 0
    """those of them before which members had come or gone"""

    def carries_in_s(self) -> float | None:
        """How long it takes to bring away what changes within one RPO."""
        if self.rpo_s is None or self.bytes_per_hour is None or not self.carried_per_s:
            return None
        return self.bytes_per_hour * self.rpo_s / 3600 / self.carried_per_s


@dataclass(frozen=True)
class Cost:
    """What one recovery point takes."""

    calls: int
    """to the APIs of the active site that change something, without those that look"""
    stores_changes: bool
    """whether what has changed goes to a backup store"""


def backup_remarks(facts: Facts) -> list[Remark]:
    """What every option says that brings bytes away by backups."""
    found: list[Remark] = []
    carries_s = facts.carries_in_s()
    if carries_s is not None and facts.rpo_s is not None:
        within = carries_s <= facts.rpo_s / 2
        words = (
            f"what changes within the RPO of {facts.rpo_s:.0f} s is brought away in"
            f" {carries_s:.0f} s"
        )
        found.append(Remark(Weight.FOR if within else Weight.AGAINST, words))
    if facts.scaled > RARELY * facts.points:
        words = (
            f"members came or went before {facts.scaled} of its newest {facts.points} points: the"
            " volumes of each new one are backed up whole, which suits a VNF that is scaled rarely"
        )
        found.append(Remark(Weight.AGAINST, words))
    if facts.rpo_s is not None and facts.rpo_s < FREQUENT_S:
        words = f"an RPO of {facts.rpo_s:.0f} s leaves a backup little time"
        found.append(Remark(Weight.AGAINST, words))
    if facts.rto_s is not None and facts.restores_in_s is not None:
        within = facts.restores_in_s <= facts.rto_s
        words = (
            f"a recovery from backups is forecast to take {facts.restores_in_s:.0f} s, and"
            f" {facts.rto_s:.0f} s are wanted"
        )
        found.append(Remark(Weight.FOR if within else Weight.AGAINST, words))
    return found


def window_remarks(facts: Facts) -> list[Remark]:
    """What every option says that quiesces all members in one window."""
    found: list[Remark] = []
    if facts.has_add_on is False:
        words = "its active site has no quiesce add-on: install nova-quiesce"
        found.append(Remark(Weight.RULES_OUT, words))
    if facts.root_disks:
        words = (
            f"{facts.root_disks} members have their root disk on the hypervisor: it is not"
            " captured; have it made again (root: rebuild), or choose another option"
        )
        found.append(Remark(Weight.RULES_OUT, words))
    if facts.without_agent:
        words = f"{facts.without_agent} members have no guest agent, and cannot be quiesced"
        if facts.accepts_running:
            found.append(Remark(Weight.AGAINST, f"{words}: they are captured as they run"))
        else:
            words += ": install it, or accept `consistency: group` or `volume`"
            found.append(Remark(Weight.RULES_OUT, words))
    together = facts.members - facts.left_out
    if together > 1 and not facts.without_agent:
        words = f"its {together} members are captured in one moment"
        found.append(Remark(Weight.FOR, words))
    return found


def shared_remarks(facts: Facts) -> list[Remark]:
    """What an option says that captures no volume which several members have."""
    if not facts.shared:
        return []
    words = f"{facts.shared} volumes are attached to several members, and it captures none of these"
    return [Remark(Weight.RULES_OUT, words)]
