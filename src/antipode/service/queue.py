# SPDX-License-Identifier: Apache-2.0
"""Makes a queued run known to the services that may execute it."""

from __future__ import annotations

import logging

from antipode.claims.board import BoardUnreachable
from antipode.claims.board_claims import BoardClaims
from antipode.engine.deployment import Deployment

LOG = logging.getLogger(__name__)


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
