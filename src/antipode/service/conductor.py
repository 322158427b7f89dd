# SPDX-License-Identifier: Apache-2.0
"""The conductor: claims runs that are queued or lost and executes them, failovers first, a limited
number at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from antipode import clock
from antipode.claims.board import BoardUnreachable, Posting
from antipode.claims.board_claims import BoardClaims, is_over
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.kind import RunKind
from antipode.engine.timeline import StepRecord
from antipode.errors import AntipodeError, Busy, ClaimLost, Halted, NotFound
from antipode.logs import run_in_logs
from antipode.runs import expire, find_kind
from antipode.service.queue import enqueue
from antipode.store.runs import Runs
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
LOOK_S = 1.0
"""Between two looks for runs to execute; longer where a look takes long."""
AGAIN_S = 15.0
"""How long this host leaves a run alone that it has just lost or could not claim."""
MOST_CLAIMS = 20
"""A run that was claimed this often seems to end its process each time: it waits for an operator.
"""


class Conductor:
    """Executes runs in threads of its own, as many protects and as many failovers at once as the
    configuration allows.
    """

    def __init__(
        self,
        deployment: Deployment,
        ended: Callable[[RunRow], None] = lambda _: None,
        again_s: float = AGAIN_S,
    ) -> None:
        """
        Args:
            ended: called with each run that this process has ended.
            again_s: how long this host leaves a run alone that it could not claim, or has lost.
        """
        self._again_s = again_s
        self._deployment = deployment
        self._note_end = ended
        self._most = deployment.config.limits.runs
        self._at_work: dict[str, tuple[RunKind, threading.Thread]] = {}
        self._not_before: dict[str, float] = {}
        self._lock = threading.Lock()
        self._board = (
            _BoardKept(deployment.claims, deployment.runs)
            if isinstance(deployment.claims, BoardClaims)
            else None
        )
        self.halt = threading.Event()
        """when set, all runs stop at their next safe point, to be resumed later, and no other is
        begun
        """
        self._alive_at: dict[str, float] = {}
        self._asking: set[str] = set()
        """the runs that wait for an operator's answer: they take no place in their lane"""
        self.waiting: dict[str, str] = {}
        """the runs that wait for an operator, and why"""
        self.looked_at = time.time()
        self.trouble: str | None = None
        """why nothing can be claimed now"""

    def conduct(self) -> None:
        """Begin runs until `halt` is set; those under way then stop, see `wait`."""
        while not self.halt.is_set():
            began = time.monotonic()
            try:
                self.look()
                self.trouble = None
            except Exception as error:
                # a database that is away or a bug: the runs under way continue, and the next look
                # may succeed
                if self.trouble is None:
                    LOG.exception("no run can be claimed now; trying again")
                self.trouble = f"{type(error).__name__}: {error}"
            self.looked_at = time.time()
            self.halt.wait(
                max(LOOK_S, 5 * (time.monotonic() - began)) if self.trouble is None else AGAIN_S / 3
            )

    def wait(self, within_s: float) -> list[str]:
        """Wait for the runs under way, up to `within_s` seconds; those that have not stopped."""
        until = time.monotonic() + within_s
        with self._lock:
            threads = [thread for _, thread in self._at_work.values()]
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        return self.under_way()

    def under_way(self) -> list[str]:
        """The runs that this process executes now."""
        with self._lock:
            return sorted(self._at_work)

    def look(self) -> None:
        """Begin each run that may begin now, as far as there is room.

        Raises:
            SQLAlchemyError, BoardUnreachable: the database or the board does not answer.
        """
        for late in self._deployment.approvals.expire():
            LOG.warning(
                "run %s of %s was not approved in time, and is not begun", late.id, late.vnf
            )
        rows = self._deployment.runs.open_bare()
        unclaimed = (
            self._board.unclaimed(rows)
            if self._board
            else [r for r in rows if not self._deployment.claims.is_held(r)]
        )
        free = {row.id for row in unclaimed}
        self._alive_at = {
            row.id: self._alive_at.get(row.id, 0) if row.id in free else clock.now() for row in rows
        }
        self.waiting = {run: why for run, why in self.waiting.items() if run in free}
        self._asking = self._deployment.questions.waiting()
        self._not_before = {
            run: at for run, at in self._not_before.items() if at > time.monotonic()
        }
        for row in sorted(unclaimed, key=lambda r: (r.priority, r.started_at)):
            if self.halt.is_set():
                return
            kind = find_kind(row.kind)
            if kind is None:
                continue  # a newer antipode on another host has this kind
            if self._has_room(kind) and self._is_ours_to_do(row, kind):
                self._begin(row, kind)

    def _has_room(self, kind: RunKind) -> bool:
        with self._lock:
            lanes = Counter(
                k.lane for run, (k, _) in self._at_work.items() if run not in self._asking
            )
        return lanes[kind.lane] < self._most

    def _is_ours_to_do(self, row: RunRow, kind: RunKind) -> bool:
        if row.id in self._at_work or row.id in self._not_before:
            return False
        claims = row.claim - (row.resumed_claim or 0)
        if claims >= MOST_CLAIMS and row.abort_requested_at is None:
            return self._leave(
                row.id,
                f"it was claimed {claims} times and never ended; see its log, then: antipode "
                "run resume, or abort",
            )
        lasts_s = kind.confirmation_lasts_s(self._deployment.config)
        goes_forward = row.abort_requested_at is None and row.ending is None
        if lasts_s is not None and goes_forward and self._idle_s(row) > lasts_s:
            return self._leave(
                row.id,
                f"no process had it for more than {lasts_s:.0f} s since it was confirmed. See that"
                f" {row.vnf} does not run elsewhere by now, then: antipode run resume {row.id};"
                f" or: antipode run abort {row.id}",
            )
        return row.flow_version is None or row.flow_version <= kind.flow_version

    def _idle_s(self, row: RunRow) -> float:
        """Seconds since the last sign of life of a run, or since its confirmation, or since an
        operator has last approved, answered or resumed it.

        The state of the world that the operator confirmed may not hold any more: two active
        copies would be the price.
        """
        request = self._deployment.runs.get(row.id).request or {}
        confirmed_at = float(request.get("confirmed_at") or row.started_at)
        steps = self._deployment.runs.steps(row.id)
        moments = [s.ended_at or s.started_at for s in steps]
        moments += [a.at for a in self._deployment.approvals.of(row.id)]
        answered_at = self._deployment.questions.answered_at([row.id]) or 0.0
        alive_at = self._alive_at.get(row.id, 0)
        resumed_at = row.resumed_at or 0.0
        return clock.now() - max(confirmed_at, answered_at, alive_at, resumed_at, *moments)

    def _leave(self, run: str, why: str) -> bool:
        """Leave a run to an operator, and log why."""
        if run not in self.waiting:
            LOG.error("run %s is left to an operator: %s", run, why)
        self.waiting[run] = why
        return False

    def _begin(self, row: RunRow, kind: RunKind) -> None:
        thread = threading.Thread(
            target=self._carry_out, args=(row.id, row.vnf, kind), name=row.id, daemon=True
        )
        with self._lock:
            self._at_work[row.id] = (kind, thread)
        thread.start()

    def _carry_out(self, run: str, vnf: str, kind: RunKind) -> None:
        number = None
        try:
            with run_in_logs(run), self._deployment.claims.take(run) as claim:
                number = claim.number
                execute(self._deployment, kind, claim, Logged(), self.halt)
            if kind.adds_points:
                self._expire_after(vnf)
        except Halted as error:
            LOG.warning("run %s is left to be resumed: %s", run, error)
        except (Busy, ClaimLost, BoardUnreachable) as error:
            LOG.info("run %s is not executed here: %s", run, error)
            self._not_before[run] = time.monotonic() + self._again_s
        except AntipodeError as error:
            LOG.error("run %s: %s", run, error)
            self._not_before[run] = time.monotonic() + self._again_s
        except BaseException:
            LOG.exception("run %s ended by an unexpected error; it is tried again", run)
            self._not_before[run] = time.monotonic() + self._again_s
        finally:
            if number is not None:
                self._tell_end(run, number)
            with self._lock:
                del self._at_work[run]

    def _tell_end(self, run: str, number: int) -> None:
        """Tell of a run that has ended under this claim; what goes wrong there harms no run."""
        try:
            row = self._deployment.runs.get(run)
            if row.ended_at is not None and row.claim == number:
                self._note_end(row)
        except Exception:
            LOG.exception("the end of run %s is not counted", run)

    def _expire_after(self, name: str) -> None:
        """Queue the expiry that a new recovery point of a VNF may have made due."""
        if (vnf := self._deployment.vnfs.find(name)) is not None:
            expire.submit_due(self._deployment, [vnf], partial(enqueue, self._deployment))


class Logged:
    """An observer that logs each step."""

    def step_began(self, step: StepRecord) -> None:
        """Logged when it ends."""

    def step_waits(self, step: StepRecord) -> None:
        """Stored with the step in the database."""

    def step_ended(self, step: StepRecord) -> None:
        level = logging.INFO if step.state == "succeeded" else logging.WARNING
        seconds = (step.ended_at or step.started_at) - step.started_at
        error = f": {step.result['error']}" if "error" in step.result else ""
        LOG.log(
            level,
            "%s %s %s %s after %.2f s%s",
            step.number,
            step.name,
            step.resource,
            step.state,
            seconds,
            error,
        )


class _BoardKept:
    """Keeps the board in step with the database: open runs that the board lacks are posted, those
    that have ended are removed.
    """

    def __init__(self, claims: BoardClaims, runs: Runs) -> None:
        self._claims = claims
        self._runs = runs
        self._lasts_s = claims.board.expires_s
        self._since: dict[tuple[str, str], float] = {}

    def unclaimed(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """The open runs that any process may claim now.

        Raises:
            BoardUnreachable: the board cannot be read now.
        """
        of_run: dict[str, list[Posting]] = {}
        for posting in self._claims.postings():
            of_run.setdefault(posting.run, []).append(posting)
        seen: set[tuple[str, str]] = set()
        free: list[RunRow] = []
        for row in rows:
            postings = of_run.pop(row.id, [])
            if not postings:
                # a process that holds it on a board that was lost or restored must have stopped
                # before another may begin
                if self._for_long(("missing", row.id), seen):
                    LOG.warning("run %s is open and not on the board: it is posted again", row.id)
                    self._claims.offer(row)
            elif all(p.owner is None for p in postings) and (
                any(p.meant_for is None for p in postings)
                or self._for_long(("reserved", row.id), seen)
            ):
                free.append(row)
        for run, postings in of_run.items():
            if all(p.owner is None for p in postings) and self._for_long(("over", run), seen):
                self._take_off(run, postings)
        self._since = {what: since for what, since in self._since.items() if what in seen}
        return free

    def _for_long(self, what: tuple[str, str], seen: set[tuple[str, str]]) -> bool:
        """Whether this has been the case for longer than a claim lasts."""
        seen.add(what)
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) > self._lasts_s

    def _take_off(self, run: str, postings: Sequence[Posting]) -> None:
        if not is_over(self._runs, run):
            return
        for posting in postings:
            try:
                self._claims.board.claim(posting).finish()
            except (Busy, NotFound):
                LOG.debug(
                    "posting of run %s, which has ended, is being removed by another host",
                    run,
                )
