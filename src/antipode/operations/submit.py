# SPDX-License-Identifier: Apache-2.0
"""Queues a run for any service that is free; also one that is resumed or rolled back."""

from __future__ import annotations

import logging
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.errors import Busy
from antipode.operations import approvals
from antipode.operations.abort import must_be_abortable
from antipode.operations.resume import must_be_resumable
from antipode.service.daemon import status_of
from antipode.service.queue import announce, enqueue
from antipode.store.runs import OPEN, Room
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
    if not is_served(deployment):
        LOG.warning(
            "run %s is queued, but no service runs on this host to execute it; start one: antipode "
            "serve",
            run_id,
        )
    return record


def is_served(deployment: Deployment) -> bool:
    """Whether a service carries out what is queued: one of this host, or those that share the
    board.
    """
    if deployment.config.jobboard is not None:
        return True
    return (service := status_of(deployment.config)) is not None and service.is_alive


def keeps_it(deployment: Deployment, run: RunRow, state: str) -> str | None:
    """Why a run in this state does not go forward by itself: it is a service's, and none works
    here; None otherwise.

    Args:
        state: as `state_of` has it.
    """
    if state not in ("queued", "lost") or is_served(deployment):
        return None
    return f"no service works here to carry out run {run.id}; start one: antipode serve"


def resubmit(deployment: Deployment, run: RunRow, *, abort: bool = False) -> None:
    """Have a service resume a run that failed, or that no process executes.

    Args:
        abort: have it rolled back instead.

    Raises:
        InvalidInput: it has ended, and nothing can be resumed or rolled back; the message says
            what to do.
        Busy: a process has it or may have it, or another run has its place by now.
    """
    (must_be_abortable if abort else must_be_resumable)(deployment, run)
    is_held = deployment.claims.is_held(run)
    if is_held:
        raise Busy(f"run {run.id} is under way: a process has it", resource=f"run {run.id}")
    if is_held is None and run.state in OPEN:
        raise Busy(
            f"whether a process has run {run.id} cannot be known from here now; try again, or look"
            f" at its host: {run.conductor or 'none yet'}",
            resource=f"run {run.id}",
        )
    deployment.runs.reopen(run.id, run.claim, abort=abort)
    announce(deployment, run.id)
