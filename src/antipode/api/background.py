# SPDX-License-Identifier: Apache-2.0
"""Resumes and aborts runs that no service would touch by itself: a service does, where there is
one, else threads of the API's process do. These are as durable as elsewhere: another process
continues what this one leaves.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer, Unobserved
from antipode.errors import AntipodeError, InvalidInput, TooManyRequests
from antipode.operations.abort import abort
from antipode.operations.resume import must_be_confirmed, resume
from antipode.operations.submit import is_served, resubmit
from antipode.runs import kind_of
from antipode.store.runs import OPEN
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
AT_ONCE = 16
"""Runs; most of their time they wait for a cloud."""
BEGINS_WITHIN_S = 10.0
LOOK_S = 0.1
Work = Callable[[Deployment, str, Observer], Any]


class Background:
    """Threads that carry out such work."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="api run")

    def begin(self, work: Work, run: str) -> None:
        """Begin work on a run, on behalf of the caller; it has begun when this returns.

        Raises:
            TooManyRequests: as many are under way, and nothing is kept of this one.
            AntipodeError: it cannot begin.
        """
        before = self._deployment.runs.standing(run)
        context = contextvars.copy_context()
        future = self._threads.submit(context.run, self._carried_out, work, run)
        deadline = time.monotonic() + BEGINS_WITHIN_S
        while time.monotonic() < deadline:
            if wait([future], LOOK_S).done:
                future.result()
                return
            if self._deployment.runs.standing(run) != before:
                break
        if future.cancel():
            raise TooManyRequests(
                f"{AT_ONCE} runs are being resumed or rolled back by this process; try again"
            )
        future.add_done_callback(_logged)

    def resume(self, run: RunRow) -> None:
        """Have a run resumed that failed, or whose process died.

        Raises:
            TooManyRequests: as for `begin`.
            InvalidInput: it is queued, for a service, or cannot be resumed.
            Busy: a process has it, or another run has its place by now.
            AntipodeError: it cannot begin.
        """
        if run.state == "queued" and not self._is_left(run):
            raise InvalidInput(
                f"{run.id} is queued: a service begins it when its turn comes, and there is nothing"
                " to resume"
                if is_served(self._deployment)
                else f"{run.id} is queued, and no service runs here to begin it; start one:"
                " antipode serve"
            )
        if is_served(self._deployment):
            resubmit(self._deployment, run)
        else:
            self.begin(resume, run.id)

    def _is_left(self, run: RunRow) -> bool:
        """Whether no service begins a run by itself, as it was confirmed too long ago."""
        now = time.time()
        age_s = must_be_confirmed(self._deployment, run, now)
        lasts_s = kind_of(run.kind).confirmation_lasts_s(self._deployment.config)
        is_old = age_s is not None and lasts_s is not None
        return is_old and (run.resumed_at is None or now - run.resumed_at > (lasts_s or 0.0))

    def abort(self, run: RunRow) -> None:
        """Have a run stop and be rolled back: by the process that has it, else by a service if it
        is open or has failed, else by this one.

        Raises:
            TooManyRequests: as for `begin`.
            InvalidInput: it cannot be rolled back, and nothing was changed.
            Busy: another run has its place by now.
            AntipodeError: it cannot begin.
        """
        kind_of(run.kind)
        if run.state in OPEN:
            # kept, so that the next process that claims it does so, too, if this one dies
            self._deployment.runs.request_abort(run.id)
            run = self._deployment.runs.get(run.id)  # one that ended first has not kept it
        if run.state == "failed" and is_served(self._deployment):
            resubmit(self._deployment, run, abort=True)
            return
        is_open = run.state in OPEN
        if is_open:
            is_lost = self._deployment.claims.is_held(run) is False
            if not is_lost or is_served(self._deployment):
                return
        try:
            self.begin(abort, run.id)
        except TooManyRequests:
            if not is_open:
                raise

    def _carried_out(self, work: Work, run: str) -> None:
        work(self._deployment, run, Unobserved())


def _logged(future: Future[None]) -> None:
    if isinstance(error := future.exception(), AntipodeError):
        LOG.warning("%s", error)
    elif error is not None:
        LOG.error("a fault of antipode", exc_info=error)
