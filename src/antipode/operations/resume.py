# SPDX-License-Identifier: Apache-2.0
"""Resuming a run whose process died, or that failed and can be resumed."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import NOT_ROLLED_BACK, execute
from antipode.engine.run import asked_again, successor
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput
from antipode.runs import kind_of
from antipode.store.runs import AWAITING, NEVER_BEGUN
from antipode.store.tables import RunRow

Json = dict[str, Any]


def resume(deployment: Deployment, run_id: str, observer: Observer) -> Json:
    """Claim a run and resume it from its last finished step; a record of it.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it has ended, and nothing can be resumed; the message says what to do.
        Busy: a process has it.
        AntipodeError: as `execute`.
    """
    run = deployment.runs.get(run_id)
    must_be_resumable(deployment, run)
    with deployment.claims.take(run_id, also_failed=True) as claim:
        return execute(deployment, kind_of(run.kind), claim, observer)


def must_be_confirmed(deployment: Deployment, run: RunRow, now: float) -> float | None:
    """Seconds since the confirmation of a run that has to be confirmed again; None otherwise.

    Args:
        now: seconds since the epoch.
    """
    lasts_s = kind_of(run.kind).confirmation_lasts_s(deployment.config)
    age_s = now - float((run.request or {}).get("confirmed_at", run.started_at))
    return age_s if lasts_s is not None and age_s > lasts_s else None


def must_be_resumable(deployment: Deployment, run: RunRow) -> None:
    """See that a run can be resumed, unless a process has it.

    Raises:
        InvalidInput: it has ended, and nothing can be resumed; the message says what to do.
    """
    if run.state == AWAITING:
        raise InvalidInput(
            f"{run.id} awaits approval by others than {run.author}: antipode run approve {run.id}"
        )
    if run.state in NEVER_BEGUN:
        raise InvalidInput(
            f"{run.id} was {run.state}, and never begun: {run.reason}. Plan it again:"
            f" {asked_again(kind_of(run.kind), run)}"
        )
    if run.state in ("succeeded", "aborted"):
        verb = "has" if run.state == "succeeded" else "was"
        raise InvalidInput(f"{run.id} {verb} {run.state}; there is nothing to resume")
    if run.ending == "aborted":
        raise InvalidInput(
            f"{run.id} is being aborted and cannot be resumed; try again: antipode run abort"
            f" {run.id}"
        )
    if run.state != "failed":
        return
    kept = NOT_ROLLED_BACK in run.result
    if run.ending is not None or (kind_of(run.kind).rolls_back_failures and not kept):
        raise InvalidInput(
            f"{run.id} failed ({run.reason}) and was rolled back. Once the cause is mended:"
            f" {asked_again(kind_of(run.kind), run)}"
        )
    if (later := successor(deployment, run)) is not None:
        raise InvalidInput(f"{run.id} failed, and {later} was begun after it; resume that run")
