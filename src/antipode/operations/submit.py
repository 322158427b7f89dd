# SPDX-License-Identifier: Apache-2.0
"""Queues a run for whichever service is free."""

from __future__ import annotations

import logging
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.operations import approvals
from antipode.service.daemon import status_of
from antipode.service.queue import enqueue
from antipode.store.runs import Room
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)


def submit(deployment: Deployment, run: RunRow, room: Room | None = None) -> dict[str, Any]:
    """Keep a new run as queued, or as one that awaits approval; its record. A service of this host,
    or of any that share the board, carries it out.

    Args:
        room: how many its project may have.

    Raises:
        Busy: another run of the VNF is queued or under way.
        QuotaExceeded: its project has as many runs as it may.
    """
    run_id = run.id
    record: dict[str, Any] = {"run": run_id, "vnf": run.vnf, "state": "queued"}
    if approvals.needed(deployment, run):
        record = approvals.ask(deployment, run, room)
    else:
        enqueue(deployment, run, room)
    if deployment.config.jobboard is None and not _is_served(deployment):
        LOG.warning(
            "run %s is queued, but no service runs on this host to execute it; start one: antipode "
            "serve",
            run_id,
        )
    return record


def _is_served(deployment: Deployment) -> bool:
    """Whether a service runs on this host."""
    return (service := status_of(deployment.config)) is not None and service.is_alive
