# SPDX-License-Identifier: Apache-2.0
"""How a run that this process holds is executed: begun or resumed, rolled back when it must be, and
ended in the database.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext, suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from antipode import clock
from antipode.claims.claim import Claim
from antipode.engine.approval import must_be_approved
from antipode.engine.deployment import Deployment
from antipode.engine.kind import RunKind
from antipode.engine.run import Run, part_of, successor
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import Aborted, AntipodeError, ClaimLost, Halted, NotApproved, NotFound
from antipode.freezes.reaper import Reaper
from antipode.logs import run_in_logs
from antipode.store.database import now
from antipode.store.runs import NEVER_BEGUN
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
NOT_ROLLED_BACK = "not_rolled_back"
"""In the result of a run that failed, and may have passed its point of no return: it is resumed."""


def execute(
    deployment: Deployment,
    kind: RunKind,
    claim: Claim,
    observer: Observer,
    halt: threading.Event | None = None,
) -> Json:
    """Begin a run, or resume it from its last finished step; a record of it.

    A run is rolled back instead if it is asked to abort, if its rollback has begun, or if this
    antipode does not know its flow.

    Args:
        kind: of the run.
        claim: the hold of this process on the run; the caller releases it.
        halt: of a service. When it is set, the run stops at its next safe point, nothing is rolled
            back, and any process can resume the run.

    Raises:
        Aborted: it was aborted and rolled back.
        Halted: because of `halt`.
        ClaimLost: another process has the run; nothing was written about it since.
        AntipodeError: it failed.
    """
    row = deployment.runs.get(claim.run)
    forget_what_has_ended(deployment)
    with (
        run_in_logs(row.id),
        RecordedTimeline(deployment.runs, row.id, claim.number, observer) as timeline,
    ):
        run = Run(deployment, row, claim, timeline)
        begins = "begins" if claim.number == 1 else f"is resumed, claim {claim.number}"
        LOG.info("run %s %s", row.id, begins)
        timeline.note(f"{begins}: {row.conductor}")
        if claim.number > 1 and (lost := deployment.runs.close_steps(row.id, claim.number)):
            LOG.warning("%d steps of run %s were under way when its process died", lost, row.id)
        # a service reaps at all sites already, for all its runs
        reaper = (
            Reaper(deployment.freezes, deployment.connected_sites)
            if halt is None
            else nullcontext()
        )
        with deployment.watches.over(run, halt), reaper:
            if (unfit := _why_not_forward(run, row, kind)) is None:
                try:
                    return _forward(run, kind)
                except (ClaimLost, Halted):
                    raise
                except Aborted as error:
                    unfit = ("aborted", error)
                except BaseException as error:
                    unfit = ("failed", error)
            return _backward(run, kind, *unfit)


def _why_not_forward(run: Run, row: RunRow, kind: RunKind) -> tuple[str, BaseException] | None:
    """The state in which a run is going to end that cannot be resumed, and why.

    Raises:
        AntipodeError: whether it can still be rolled back is unknown; nothing was changed.
    """
    if row.ending is not None and row.abort_requested_at is None:
        return row.ending, AntipodeError(row.reason or "its process died during the rollback")
    if row.ending is not None:
        return "aborted", Aborted(row.reason or f"run {run.id} was asked to abort")
    try:
        must_be_approved(run.deployment, row)
    except NotApproved as error:
        return (NEVER_BEGUN[0] if run.claim.number == 1 else "failed"), error
    known = row.flow_version == kind.flow_version
    if known and row.abort_requested_at is None and not _whole_is_rolled_back(run, row):
        return None
    late = kind.point_of_no_return(run)
    if known and late is None:
        return "aborted", Aborted(f"run {run.id} was asked to abort")
    if known:
        return None
    reason = (
        f"run {run.id} was begun by another version of antipode (flow"
        f" {row.flow_version or 'unknown'}) and cannot be resumed by this one (flow"
        f" {kind.flow_version})"
    )
    if late is not None:
        _end(run, "failed", f"{reason}; {late}, and nothing is rolled back")
        raise AntipodeError(f"{reason}; {late}, and nothing is rolled back")
    return "aborted", Aborted(reason)


def _whole_is_rolled_back(run: Run, row: RunRow) -> bool:
    """Whether a run is a part of one that is rolled back, or was: nothing of it may go on, though
    its process, or a service that has found it lost, does not know.
    """
    if (whole := part_of(row)) is None:
        return False
    with suppress(NotFound):  # it is pruned
        return run.deployment.runs.get(whole).ending is not None
    return False


def _forward(run: Run, kind: RunKind) -> Json:
    try:
        kind.execute(run)
    except BaseException as error:
        if run.stopped_by in (ClaimLost, Halted, Aborted):
            # the reason why it stopped, whatever a task or the flow's database made of it
            assert run.stopped_by is not None
            raise (
                error if isinstance(error, run.stopped_by) else run.stopped_by(str(error))
            ) from error
        raise
    _end(run, "succeeded", None)
    if kind.adds_points:
        _look_again(run)
    return {"run": run.id, **run.result}


def _look_again(run: Run) -> None:
    """Have a service look whether the VNF can be recovered by now, where it could not: what it
    lacked may be the point that this run has made. Nothing depends on it.
    """
    try:
        run.deployment.readiness.hasten(run.vnf, now(run.deployment.database))
    except SQLAlchemyError as error:
        LOG.warning("whether %s can be recovered is looked at later: %s", run.vnf, error)


def _backward(run: Run, kind: RunKind, ending: str, why: BaseException) -> Json:
    """Roll back, if that is due, end the run, and raise why."""
    # a failure may come of a claim that is over: then nothing is written, and another process
    # resumes the run
    run.claim.check()
    interrupted = isinstance(why, KeyboardInterrupt)
    reason = "interrupted" if interrupted else str(why) or type(why).__name__
    if run.touched and (done := _is_done_all_the_same(run, kind, why, reason)) is not None:
        return done
    if run.touched and (ending == "aborted" or kind.rolls_back(run)):
        run.rolls_back()
        run.deployment.runs.begin_ending(run.id, run.claim.number, ending, reason)
        try:
            run.result["left"] = kind.roll_back(run)
        except ClaimLost:
            raise
        except AntipodeError as error:
            _end(run, "failed", f"{reason}; the rollback is not complete: {error}")
            error.add_note(f"Try again to remove what is left: antipode run abort {run.id}")
            raise error
    _end(run, ending, reason)
    raise why


def _is_done_all_the_same(run: Run, kind: RunKind, why: BaseException, reason: str) -> Json | None:
    """The record of a run that has passed its point of no return, after which nothing that goes
    wrong is a failure; None for any other.
    """
    try:
        late = kind.point_of_no_return(run)
    except ClaimLost:
        raise
    except AntipodeError as error:
        run.result[NOT_ROLLED_BACK] = str(error)
        _end(
            run,
            "failed",
            f"{reason}; nothing was rolled back, as that may be too late: {error}",
        )
        raise why from error
    if late is None:
        return None
    LOG.warning("%s, but steps after that failed: %s", late, reason)
    run.result["not_done"] = reason
    _end(run, "succeeded", f"{late}, but steps after that failed: {reason}")
    return {"run": run.id, **run.result}


def _end(run: Run, state: str, reason: str | None) -> None:
    ended_at = clock.now()
    if state != "failed":
        run.result.pop(NOT_ROLLED_BACK, None)
    run.result["seconds"] = round(ended_at - run.started_at, 3)
    run.timeline.flush()  # of a run that has ended no step is under way
    run.deployment.runs.end(run.id, run.claim.number, state, ended_at, reason, run.result)
    LOG.info("run %s %s%s", run.id, state, f": {reason}" if reason else "")
    run.timeline.note(f"{state}{f': {reason}' if reason else ''}")
    forget_what_has_ended(run.deployment)


def forget_what_has_ended(deployment: Deployment) -> None:
    """Delete the flow details of runs that can never be resumed: they hold user_data of servers."""
    for run_id in deployment.flows.books():
        try:
            row = deployment.runs.get(run_id)
        except NotFound:
            continue  # of a database that this one has replaced
        if is_over_for_good(deployment, row):
            deployment.flows.forget(run_id)


def is_over_for_good(deployment: Deployment, row: RunRow) -> bool:
    """Whether a run has ended and can never be resumed."""
    if row.state == "failed":
        return row.ending == "failed" or successor(deployment, row) is not None
    return row.state in ("succeeded", "aborted", *NEVER_BEGUN)


def can_be_resumed(deployment: Deployment, kind: RunKind, row: RunRow) -> bool:
    """Whether a run has failed and keeps what it made, so that it can be resumed."""
    keeps = NOT_ROLLED_BACK in row.result or not kind.rolls_back_failures
    return row.state == "failed" and keeps and not is_over_for_good(deployment, row)
