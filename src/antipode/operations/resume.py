"""Going on with a run whose process died, or that failed and can be gone on with."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.run import successor
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput
from antipode.runs.kind import kind_of
from antipode.store.tables import RunRow

Json = dict[str, Any]


def resume(deployment: Deployment, run_id: str, observer: Observer) -> Json:
    """Claim a run and go on with it from its last finished step; a record of it.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it has ended in a way that nothing is left to be done; the message says what
            to do instead.
        Busy: a process is at it.
        AntipodeError: as `execute`.
    """
    _must_be_resumable(deployment, deployment.runs.get(run_id))
    with deployment.claims.take(run_id, also_failed=True) as claim:
        return execute(deployment, run_id, claim, observer)


def _must_be_resumable(deployment: Deployment, run: RunRow) -> None:
    if run.state in ("succeeded", "aborted"):
        raise InvalidInput(
            f"{run.id} has {run.state}; nothing is left to be done"
            if run.state == "succeeded"
            else f"{run.id} was aborted"
        )
    if run.ending == "aborted":
        raise InvalidInput(
            f"{run.id} is being aborted and cannot go on; try again: antipode run abort {run.id}"
        )
    if run.state != "failed":
        return
    if run.ending is not None or kind_of(run.kind).takes_back_failures:
        raise InvalidInput(
            f"{run.id} failed ({run.reason}), and what it had made was taken back; once the "
            f"cause is mended: antipode {run.kind} {run.vnf}"
        )
    if (later := successor(deployment, run)) is not None:
        raise InvalidInput(f"{run.id} failed, and {later} was begun after it; go on with that one")
