"""Aborting a run: whoever is at it is asked to stop and take back what it made; if nobody is, it is
done here.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute, forget_what_has_ended
from antipode.engine.run import successor
from antipode.engine.timeline import Observer
from antipode.errors import Aborted, Busy, InvalidInput
from antipode.runs import orphans
from antipode.store.runs import OPEN
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
LOOK_S = 0.3
TIMEOUT_S = 24 * 3600.0
"""Cinder deletes no volume that is being restored."""


def abort(deployment: Deployment, run_id: str, observer: Observer) -> Json:
    """Stop a run and have what it made taken back; a record of it, with what is left and why. Again
    is fine.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it cannot be taken back any more; nothing was changed.
        AntipodeError: not all could be taken back; it can be tried again.
    """
    if (run := deployment.runs.get(run_id)).state == "aborted" and orphans.may_have_left(run):
        orphans.remove(
            deployment, [run]
        )  # what a request of it has made that came through since then
    deadline = time.monotonic() + TIMEOUT_S
    while (run := deployment.runs.get(run_id)).state != "aborted":
        if run.state == "succeeded":
            raise InvalidInput(
                f"{run_id} has succeeded; it is too late to abort it, and nothing is taken back"
            )
        if (
            run.kind == "failover"
            and run.state == "failed"
            and (later := successor(deployment, run)) is not None
        ):
            raise InvalidInput(
                f"{later} was begun after {run_id} and uses what that has made; nothing was "
                f"changed; abort {later} instead"
            )
        try:
            claim = deployment.claims.take(run_id, abort=True)
        except Busy as busy:
            if run.state not in OPEN:
                raise  # not this one is under way, but another of the VNF
            deployment.runs.request_abort(run_id)
            LOG.info("waiting for who is at it to stop: %s", busy)
            if time.monotonic() > deadline:
                raise Busy(
                    f"{run_id} was asked to abort and has not ended after {TIMEOUT_S / 3600:g} "
                    f"h: {busy}"
                ) from busy
            time.sleep(LOOK_S)  # the process at it looks for the request at such intervals, too
            continue
        with claim:
            try:
                execute(deployment, run_id, claim, observer)
            except Aborted as aborted:
                LOG.info("%s", aborted)
    forget_what_has_ended(deployment)
    return record(run)


def record(run: RunRow) -> Json:
    """What is told of a run that was aborted."""
    return {
        "run": run.id,
        "state": run.state,
        "reason": run.reason,
        "left": run.result.get("left", []),
    }
