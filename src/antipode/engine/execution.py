"""How a run that this process holds is carried out: begun or gone on with, taken back when it must
be, and ended in the database.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from typing import Any

from antipode.claims.claim import Claim
from antipode.engine import flow_runner
from antipode.engine.deployment import Deployment
from antipode.engine.run import Run, Watcher, successor
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import Aborted, AntipodeError, ClaimLost, Halted, NotFound
from antipode.freezes.reaper import Reaper
from antipode.logs import run_in_logs
from antipode.runs.kind import Kind, kind_of
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]


def execute(
    deployment: Deployment,
    run_id: str,
    claim: Claim,
    observer: Observer,
    halt: threading.Event | None = None,
) -> Json:
    """Begin a run, or go on with it from its last finished step; a record of it.

    One that is asked to abort, whose taking back has begun, or whose flow this antipode does not
    know, is taken back instead.

    Args:
        claim: that this process holds the run; the caller lets go of it.
        halt: a service's: when set, the run stops at its next safe point, nothing is taken back,
            and it can be gone on with by whoever claims it.

    Raises:
        Aborted: it was aborted, and what it made taken back.
        Halted: because of `halt`.
        ClaimLost: it is another's; nothing was written about it since.
        AntipodeError: it failed.
    """
    row = deployment.runs.get(run_id)
    kind = kind_of(row.kind)
    forget_what_has_ended(deployment)
    with (
        run_in_logs(run_id),
        RecordedTimeline(deployment.runs, run_id, claim.number, observer) as timeline,
    ):
        run = Run(deployment, row, claim, timeline)
        begins = "begins" if claim.number == 1 else f"goes on, claim {claim.number}"
        LOG.info("run %s %s", run_id, begins)
        timeline.note(f"{begins}: {row.conductor}")
        if lost := deployment.runs.close_steps(run_id, claim.number):
            LOG.warning(
                "%d steps of run %s were under way when the process at it died", lost, run_id
            )
        # a service reaps at all sites already, for all its runs
        reaper = (
            Reaper(deployment.freezes, deployment.connected_sites)
            if halt is None
            else nullcontext()
        )
        with Watcher(run, halt), reaper:
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


def _why_not_forward(run: Run, row: RunRow, kind: Kind) -> tuple[str, BaseException] | None:
    """What a run is going to be that cannot be gone on with, and why.

    Raises:
        AntipodeError: nobody knows whether it can still be taken back; nothing was changed.
    """
    if row.ending is not None and row.abort_requested_at is None:
        return row.ending, AntipodeError(row.reason or "its process died while it was taken back")
    if row.ending is not None:
        return "aborted", Aborted(row.reason or f"run {run.id} was asked to abort")
    known = row.flow_version == kind.flow_version
    if known and row.abort_requested_at is None:
        return None
    late = kind.too_late(run)
    if known and late is None:
        return "aborted", Aborted(f"run {run.id} was asked to abort")
    if known:
        return None
    reason = (
        f"run {run.id} was begun by another version of antipode (flow "
        f"{row.flow_version or 'unknown'})"
        f" and cannot be gone on with by this one (flow {kind.flow_version})"
    )
    if late is not None:
        _end(run, "failed", f"{reason}; {late}, and nothing is taken back")
        raise AntipodeError(f"{reason}; {late}, and nothing is taken back")
    return "aborted", Aborted(reason)


def _forward(run: Run, kind: Kind) -> Json:
    try:
        kind.do(run)
    except BaseException as error:
        if run.stopped_by in (ClaimLost, Halted, Aborted):
            # what a task made of it, or the database of the flow, does not matter: this is why it
            # stopped
            assert run.stopped_by is not None
            raise (
                error if isinstance(error, run.stopped_by) else run.stopped_by(str(error))
            ) from error
        raise
    _end(run, "succeeded", None)
    return {"run": run.id, **run.result}


def _backward(run: Run, kind: Kind, ending: str, why: BaseException) -> Json:
    """Take back, if that is due, end the run, and raise why."""
    # what looks like a failure may come of a claim that is over: then nothing is written, and
    # another goes on
    run.claim.check()
    reason = "interrupted" if isinstance(why, KeyboardInterrupt) else str(why) or type(why).__name__
    if run.touched and (done := _is_done_all_the_same(run, kind, why, reason)) is not None:
        return done
    if run.touched and (ending == "aborted" or kind.takes_back_failures):
        run.takes_back()
        run.deployment.runs.begin_ending(run.id, run.claim.number, ending, reason)
        try:
            run.result["left"] = kind.take_back(run)
        except ClaimLost:
            raise
        except AntipodeError as error:
            _end(run, "failed", f"{reason}; not all could be taken back: {error}")
            error.add_note(f"What is left is removed by trying again: antipode run abort {run.id}")
            raise error
    _end(run, ending, reason)
    raise why


def _is_done_all_the_same(run: Run, kind: Kind, why: BaseException, reason: str) -> Json | None:
    """Whether the run has passed its point of no return, so that what went wrong after it is no
    failure; then its record.
    """
    try:
        late = kind.too_late(run)
    except ClaimLost:
        raise
    except AntipodeError as error:
        _end(
            run,
            "failed",
            f"{reason}; nothing was taken back, as nobody knows whether that would be too late: "
            f"{error}",
        )
        raise why from error
    if late is None:
        return None
    LOG.warning("%s, though not all that follows was done: %s", late, reason)
    _end(run, "succeeded", None)
    return {"run": run.id, **run.result}


def _end(run: Run, state: str, reason: str | None) -> None:
    ended_at = time.time()
    run.result["seconds"] = round(ended_at - run.started_at, 3)
    run.timeline.flush()  # of a run that has ended no step is under way
    run.deployment.runs.end(run.id, run.claim.number, state, ended_at, reason, run.result)
    LOG.info("run %s %s%s", run.id, state, f": {reason}" if reason else "")
    run.timeline.note(f"{state}{f': {reason}' if reason else ''}")
    forget_what_has_ended(run.deployment)


def forget_what_has_ended(deployment: Deployment) -> None:
    """Delete the flows of runs that can never be resumed: user_data of servers is in them."""
    for run_id in flow_runner.books(deployment.config):
        try:
            row = deployment.runs.get(run_id)
        except NotFound:
            continue  # of a database that this one has replaced
        if is_over_for_good(deployment, row):
            flow_runner.forget(deployment.config, run_id)


def is_over_for_good(deployment: Deployment, row: RunRow) -> bool:
    """Whether a run has ended and can never be resumed."""
    if row.state == "failed":
        return row.ending == "failed" or successor(deployment, row) is not None
    return row.state in ("succeeded", "aborted")
