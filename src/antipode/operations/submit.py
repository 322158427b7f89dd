# SPDX-License-Identifier: Apache-2.0
"""Queues a run for whichever service is free."""

from __future__ import annotations

import logging
from typing import Any

from antipode.claims.board import BoardUnreachable
from antipode.claims.board_claims import BoardClaims
from antipode.engine.deployment import Deployment
from antipode.service.daemon import status_of
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)


def submit(deployment: Deployment, run: RunRow) -> dict[str, Any]:
    """Keep a new run as queued; its record. A service of this host, or of any that share the board,
    carries it out.

    Raises:
        Busy: another run of the VNF is queued or under way.
    """
    run_id, run.state = run.id, "queued"
    record = {"run": run_id, "vnf": run.vnf, "state": run.state}
    deployment.runs.create(run)
    if isinstance(deployment.claims, BoardClaims):
        try:
            deployment.claims.offer(deployment.runs.get(run_id))
        except BoardUnreachable as error:
            LOG.warning(
                "run %s is queued and will be put on the jobboard by a service, once it answers: "
                "%s",
                run_id,
                error,
            )
    elif (service := status_of(deployment.config)) is None or not service.is_alive:
        LOG.warning(
            "run %s is queued, and no service is at work on this host to carry it out: antipode "
            "serve",
            run_id,
        )
    return record
