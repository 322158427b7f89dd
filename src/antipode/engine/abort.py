"""Aborting a run: whoever is at it is asked to stop and take back what it made; if nobody is, it is done here."""

from __future__ import annotations

import logging
import time
from typing import Any

from antipode.engine.claims import Claim
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute, forget_what_has_ended, too_late
from antipode.engine.timeline import Observer
from antipode.errors import Aborted, AntipodeError, Busy, InvalidInput
from antipode.store.runs import OPEN
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
LOOK_S = 0.3
TIMEOUT_S = 24 * 3600.0
"""Cinder deletes no volume that is being restored."""


def abort(deployment: Deployment, run_id: str, observer: Observer) -> Json:
    """Stop a run and have what it made taken back; a record of it, with what is left and why. Again is fine.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it cannot be taken back any more; nothing was changed.
        AntipodeError: not all could be taken back; it can be tried again.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while (run := deployment.runs.get(run_id)).state != "aborted":
        if run.state == "succeeded":
            raise InvalidInput(f"{run_id} has succeeded; it is too late to abort it, and nothing was changed")
        try:
            claim = deployment.claims.take(run_id)
        except Busy as busy:
            if run.state not in OPEN:
                raise  # not this one is under way, but another of the VNF
            deployment.runs.request_abort(run_id)
            LOG.info("waiting for who is at it to stop: %s", busy)
            if time.monotonic() > deadline:
                raise Busy(f"{run_id} was asked to abort and has not ended after {TIMEOUT_S / 3600:g} h: {busy}") from busy
            time.sleep(LOOK_S)  # the process at it looks for the request at such intervals, too
            continue
        with claim:
            _take_back_here(deployment, run, claim, observer)
    forget_what_has_ended(deployment)
    return record(run)


def record(run: RunRow) -> Json:
    """What is told of a run that was aborted."""
    return {"run": run.id, "state": run.state, "reason": run.reason, "left": run.result.get("left", [])}


def _take_back_here(deployment: Deployment, run: RunRow, claim: Claim, observer: Observer) -> None:
    try:
        if run.ending is None and (late := too_late(deployment, run.id, claim)) is not None:
            finish = f"; finish it with: antipode run resume {run.id}" if run.state in OPEN else ""
            raise InvalidInput(f"{late}: it is too late to abort {run.id}, and nothing was changed{finish}")
    except AntipodeError:
        _put_back(deployment, run, claim)
        raise
    deployment.runs.request_abort(run.id)
    try:
        execute(deployment, run.id, claim, observer)
    except Aborted as aborted:
        LOG.info("%s", aborted)


def _put_back(deployment: Deployment, run: RunRow, claim: Claim) -> None:
    """Leave a run as it was before it was claimed."""
    if run.state in OPEN:
        deployment.runs.release(run.id, claim.number)
    else:
        deployment.runs.end(run.id, claim.number, run.state, run.ended_at or time.time(), run.reason, run.result)
