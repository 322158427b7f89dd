# SPDX-License-Identifier: Apache-2.0
"""How old the newest valid recovery point of a VNF is, against what its file allows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from antipode.model.state import ProtectedVnf, VnfState

AHEAD_S = 120.0
"""A point that is further ahead than that was made with a clock that was wrong."""


class RpoState(StrEnum):
    """Whether the RPO target of a VNF is kept now."""

    MET = "met"
    EXCEEDED = "exceeded"
    NO_POINT = "no-point"
    """there is no valid recovery point of the copy that is active"""
    FAILING_OVER = "failing-over"
    """points of the former copy say nothing about the one that is being recovered"""
    UNKNOWN = "unknown"
    """the vaults do not answer, or the newest point is of the future"""
    NO_TARGET = "no-target"


@dataclass(frozen=True)
class Rpo:
    """What a VNF would lose now. `target_s` and `age_s` are in seconds.

    `age_s` is None where there is no valid point of the active copy, or it is not known.
    """

    target_s: float | None
    age_s: float | None
    state: RpoState


class Dated(Protocol):
    """A recovery point, as far as an RPO goes by it."""

    @property
    def generation(self) -> int: ...

    @property
    def consistent_at(self) -> str:
        """RFC 3339 with its offset."""
        ...


def rpo(
    target_s: float | None,
    state: ProtectedVnf,
    newest: Dated | None,
    now: float,
    *,
    is_moving: bool = False,
) -> Rpo:
    """The RPO of a VNF at a moment (seconds since the epoch).

    Args:
        target_s: as in its file; None for none.
        newest: of its recovery points that are valid; None where there is none.
        is_moving: whether a recovery of it was begun that has not ended.
    """
    if is_moving or state.state is VnfState.FAILING_OVER:
        return Rpo(target_s, None, RpoState.FAILING_OVER)
    if newest is None or newest.generation != state.generation:
        return Rpo(target_s, None, RpoState.NO_POINT)
    age_s = now - datetime.fromisoformat(newest.consistent_at).timestamp()
    if age_s < -AHEAD_S:
        return Rpo(target_s, None, RpoState.UNKNOWN)
    age_s = max(age_s, 0.0)
    if target_s is None:
        return Rpo(None, age_s, RpoState.NO_TARGET)
    return Rpo(target_s, age_s, RpoState.MET if age_s <= target_s else RpoState.EXCEEDED)
