# SPDX-License-Identifier: Apache-2.0
"""Queues runs, and makes them known to the services that may execute them."""

from __future__ import annotations

import logging

from antipode.claims.board import BoardUnreachable
from antipode.claims.board_claims import BoardClaims
from antipode.engine.deployment import Deployment
from antipode.store.runs import Room
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)


def enqueue(deployment: Deployment, run: RunRow, room: Room | None = None) -> None:
    """Keep a new run as queued, and announce it.

    Raises:
        Busy: another run of the VNF is queued or under way.
        QuotaExceeded: its project has as many runs as it may.
    """
    name, run.state = run.id, "queued"
    deployment.runs.create(run, room)
    announce(deployment, name)


def announce(deployment: Deployment, run: str) -> None:
    """Put a run that is queued in the database on the jobboard, if there is one.

    A board that does not answer is no error: a service posts the run once it answers.
    """
    if not isinstance(deployment.claims, BoardClaims):
        return
    try:
        deployment.claims.offer(deployment.runs.get(run))
    except BoardUnreachable as error:
        LOG.warning(
            "run %s is queued and will be put on the jobboard by a service, once it answers: %s",
            run,
            error,
        )
