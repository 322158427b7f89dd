# SPDX-License-Identifier: Apache-2.0
"""Prunes the history: runs that ended long ago are deleted, with their timelines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from antipode import clock
from antipode.engine.execution import is_over_for_good
from antipode.runs.orphans import is_collected

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment

LOG = logging.getLogger(__name__)
MOST = 200
"""Runs that are deleted at once, so that pruning a long history does not delay a protection."""


def prune(deployment: Deployment) -> int:
    """Delete runs that ended before the time that `history` of the configuration keeps; how many.

    These stay: the newest of each VNF, its newest success of each kind, by which the next is
    estimated, runs that can be resumed, and runs whose orphans were not collected. A failure is
    logged, as nothing depends on it.
    """
    settings, runs, pruned = deployment.config.history, deployment.runs, 0
    try:
        old = runs.prunable(clock.now() - settings.days * 86400, settings.keep_at_least)
        for first in range(0, len(old), MOST):
            found = runs.some(old[first : first + MOST])  # another process prunes too
            gone = [r for r in found if is_over_for_good(deployment, r) and is_collected(r)]
            pruned += runs.delete(gone[: MOST - pruned])
            if pruned == MOST:
                break
        deployment.schedules.forget_missed(clock.now() - settings.days * 86400)
    except SQLAlchemyError as error:
        LOG.warning("the history could not be pruned: %s", error)
    if pruned:
        LOG.info("%d runs that ended long ago were deleted from the history", pruned)
    return pruned
