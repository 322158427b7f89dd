# SPDX-License-Identifier: Apache-2.0
"""Aborting a run: its process is asked to stop and roll it back; if it has none, this one does."""

from __future__ import annotations

import logging
import time
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute, forget_what_has_ended
from antipode.engine.run import successor
from antipode.engine.timeline import Observer
from antipode.errors import Aborted, Busy, InvalidInput
from antipode.operations import approvals
from antipode.runs import kind_of, orphans
from antipode.store.runs import AWAITING, NEVER_BEGUN, OPEN
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
LOOK_S = 0.3
TIMEOUT_S = 24 * 3600.0
"""Cinder deletes no volume that is being restored."""


def abort(deployment: Deployment, run_id: str, observer: Observer) -> Json:
    """Stop a run and have it rolled back; a record of it, with what is left and why.

    It may be called again, also for a run that was aborted: resources that a late request of the
    run created since then are removed.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it cannot be rolled back any more; nothing was changed.
        AntipodeError: the rollback is not complete; it can be tried again.
    """
    run = deployment.runs.get(run_id)
    if run.state == AWAITING and approvals.withdrawn(deployment, run_id):
        return record(deployment.runs.get(run_id))
    run = deployment.runs.get(run_id)  # approved meanwhile it is rolled back like any other
    if run.state in NEVER_BEGUN:
        return record(run)
    kind = kind_of(run.kind)
    if run.state == "aborted" and kind.may_have_orphans(run):
        orphans.remove(deployment, [run])
    deadline = time.monotonic() + TIMEOUT_S
    while (run := deployment.runs.get(run_id)).state != "aborted":
        must_be_abortable(deployment, run)
        try:
            claim = deployment.claims.take(run_id, abort=True)
        except Busy as busy:
            if run.state not in OPEN:
                raise  # another run of the VNF is under way
            deployment.runs.request_abort(run_id)
            LOG.info("waiting for the run's process to stop: %s", busy)
            if time.monotonic() > deadline:
                raise Busy(
                    f"{run_id} was asked to abort and has not ended after {TIMEOUT_S / 3600:g} "
                    f"h: {busy}"
                ) from busy
            time.sleep(LOOK_S)  # its process looks for the request at such intervals, too
            continue
        with claim:
            try:
                execute(deployment, kind, claim, observer)
            except Aborted as aborted:
                LOG.info("%s", aborted)
    forget_what_has_ended(deployment)
    return record(run)


def must_be_abortable(deployment: Deployment, run: RunRow) -> None:
    """See that a run can be rolled back, unless a process has it.

    Raises:
        InvalidInput: it has succeeded, or a later run uses its resources; nothing was changed.
    """
    if run.state == "succeeded":
        raise InvalidInput(
            f"{run.id} has succeeded; it is too late to abort it, and nothing is rolled back"
        )
    resumable = run.state == "failed" and not kind_of(run.kind).rolls_back_failures
    if resumable and (later := successor(deployment, run)) is not None:
        raise InvalidInput(
            f"{later} was begun after {run.id} and uses its resources; nothing was changed. Abort"
            f" that one instead: antipode run abort {later}"
        )


def record(run: RunRow) -> Json:
    """The record of a run that was aborted."""
    return {
        "run": run.id,
        "state": run.state,
        "reason": run.reason,
        "left": run.result.get("left", []),
    }
