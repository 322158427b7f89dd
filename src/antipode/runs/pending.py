# SPDX-License-Identifier: Apache-2.0
"""What runs have left that is still to be removed, though its time has come: somebody may have to
see to it.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING

from antipode import clock
from antipode.engine.execution import can_be_resumed
from antipode.model.plan_file import PREFIX
from antipode.runs import drill_cleanup, find_kind, orphans

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment
    from antipode.store.tables import RunRow

SLACK_S = 3600.0
"""How long after its time a service may take to remove something by itself."""


class Left(StrEnum):
    """What there may be of a run."""

    FAILED = "failed-run"
    """all that it made: it has failed, and is neither resumed nor aborted"""
    DRILL = "drill"
    """the copy of a drill that was kept, and whose time is over"""
    ORPHANS = "orphans"
    """what its rollback could not remove, or what may have appeared after its end, and no service
    could look for in a day
    """


def pending(deployment: Deployment) -> Counter[tuple[str, Left]]:
    """How many runs have left something, by VNF and what it is.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    now = clock.now()
    drills = drill_cleanup.expired(deployment)
    found = Counter((row.vnf, Left.DRILL) for row in drills)
    counted = {row.id for row in drills}
    for row in deployment.runs.to_collect(now):
        if row.id in counted or row.vnf.startswith(PREFIX):
            continue  # of a plan, its parts are counted
        if (what := _left_by(deployment, row, now)) is not None:
            found[row.vnf, what] += 1
    return found


def _left_by(deployment: Deployment, row: RunRow, now: float) -> Left | None:
    if (kind := find_kind(row.kind)) is None:
        return None
    if can_be_resumed(deployment, kind, row):
        return Left.FAILED
    is_due = row.ended_at is not None and now - row.ended_at > orphans.LATE_S + SLACK_S
    return Left.ORPHANS if is_due and kind.may_have_orphans(row) else None
