# SPDX-License-Identifier: Apache-2.0
"""Whether the backups of a VNF stay within a quota while its recovery points expire by policy: a
look ahead over the next points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from antipode.model.retention import Dated, Retention, judge

AHEAD = 60
"""How many points are looked ahead."""
Weights = Mapping[str, int]
"""backup -> what it counts of the quota"""


@dataclass(frozen=True)
class Room:
    """The recovery points that there are, and the quota of their backups."""

    points: Sequence[tuple[Dated, Weights]]
    policies: Mapping[str, Retention | Literal["all"]]
    new: Weights
    """what the backups of one more point count, by volume"""
    limit: int
    """what all backups of the VNF may count"""

    def lasts(self, first: Dated, rests_on: Collection[str], every: timedelta) -> bool:
        """Whether there is room for the next point and for those after it, each of full backups.

        Args:
            first: the next point.
            rests_on: the backups that the next point rests on; none for one of full backups.
            every: the time between two points.
        """
        held = list(self.points)
        serial = 1 + max((point.serial for point, _ in held), default=0)
        known = {backup: size for _, weights in held for backup, size in weights.items()}
        for number in range(AHEAD):
            weights = {f"{number}/{volume}": size for volume, size in self.new.items()}
            total = sum({b: s for _, ws in held for b, s in ws.items()}.values())
            if total + sum(weights.values()) > self.limit:
                return False
            if number == 0:
                weights |= {backup: known[backup] for backup in rests_on if backup in known}
            point = first._replace(
                id=f"{first.id}+{number:03}",
                consistent_at=first.consistent_at + number * every,
                stored_at=first.stored_at + number * every,
                serial=serial + number,
            )
            held.append((point, weights))
            held = self._kept(held, point.consistent_at)
        return True

    def _kept(
        self, held: Sequence[tuple[Dated, Weights]], now: datetime
    ) -> list[tuple[Dated, Weights]]:
        kept = judge([point for point, _ in held], self.policies, now, {}).kept
        return [(point, weights) for point, weights in held if point.id in kept]
