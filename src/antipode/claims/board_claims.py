# SPDX-License-Identifier: Apache-2.0
"""Claims where several hosts execute runs: held on a board for a time that is renewed, and given up
before that time is over.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from antipode.claims.board import Board, BoardUnreachable, Hold, Posting
from antipode.errors import AntipodeError, Busy, ClaimLost, NotFound
from antipode.store.runs import Runs
from antipode.store.tables import USUAL_PRIORITY, RunRow

LOG = logging.getLogger(__name__)
FRESH_S = 0.5
"""How old a reading of the board may be to decide which process executes a run."""


def now() -> float:
    """Seconds of a clock that cannot be set, and that runs while the process is stopped and while
    the machine sleeps.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    # that of macOS counts while the machine sleeps; Linux's does not
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class BoardClaim:
    """A run that this process holds on the board. Satisfies `claims.claim.Claim`.

    The board's time begins when it gets a renewal, ours when we send it, and ours is shorter by a
    third: a call that was sent while the claim was ours has that long to arrive before another host
    may resume the run.
    """

    def __init__(
        self,
        runs: Runs,
        run: str,
        hold: Hold,
        expires_s: float,
        since: float,
        clock: Callable[[], float] = now,
    ) -> None:
        """`since` is the moment (by `clock`) before the claim was made."""
        self.run = run
        self.number = 0
        self._runs = runs
        self._hold = hold
        self._lasts_s = expires_s * 2 / 3
        self._clock = clock
        self._until = since + self._lasts_s
        self._lost: str | None = None
        self._released = threading.Event()
        self._renewer = threading.Thread(
            target=self._keep, args=(expires_s / 6,), name=f"claim of {run}", daemon=True
        )
        self._renewer.start()

    def check(self) -> None:
        """Raises ClaimLost when the claim has expired, or may have."""
        if self._lost is not None:
            raise ClaimLost(self._lost)
        if self._clock() >= self._until:
            raise ClaimLost(
                f"run {self.run}: its claim could not be renewed for {self._lasts_s:.0f} s, so "
                "another host may have it, and nothing more is changed here. A service "
                f"resumes it, or: antipode run resume {self.run}"
            )

    def release(self) -> None:
        """Release the run; if it has ended, remove it from the board."""
        if self._released.is_set():
            return
        self._released.set()
        self._renewer.join(self._lasts_s)  # a database that is cut off may keep it for long
        lost, self._lost = self._lost, self._lost or f"run {self.run} was released"
        if lost is not None:
            return
        try:
            if is_over(self._runs, self.run):
                self._hold.finish()
            else:
                self._hold.let_go()
        except (AntipodeError, SQLAlchemyError) as error:
            LOG.warning("run %s stays on the board until its claim expires: %s", self.run, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _keep(self, every_s: float) -> None:
        while not self._released.wait(every_s):
            asked = self._clock()
            try:
                self._renew()
            except ClaimLost as error:
                LOG.error("run %s: %s", self.run, error)
                self._lost = f"run {self.run}: {error}; nothing more is changed here"
                return
            except (AntipodeError, SQLAlchemyError) as error:
                left = max(self._until - self._clock(), 0)
                LOG.warning(
                    "run %s: its claim could not be renewed, and lasts for another %.0f s: %s",
                    self.run,
                    left,
                    error,
                )
            else:
                if asked >= self._until:
                    LOG.warning(
                        "run %s: its claim had expired for %.0f s, and no other process has it",
                        self.run,
                        asked - self._until,
                    )
                self._until = asked + self._lasts_s

    def _renew(self) -> None:
        """Renew the claim, if the database answers: a host that is cut off from it cannot continue
        the run, and another may.
        """
        newest, _ = self._runs.standing(self.run)
        if self.number and newest != self.number:
            raise ClaimLost(
                f"another process has claimed it since (claim {newest}, ours is {self.number})"
            )
        self._hold.renew()


def _goes_first(run: RunRow) -> bool:
    """Whether a run goes ahead of the usual ones: a board knows no more than two priorities."""
    return run.priority < USUAL_PRIORITY


def is_over(runs: Runs, run: str) -> bool:
    """Whether a run has ended, or there is no such run."""
    try:
        return runs.get(run).ended_at is not None
    except NotFound:
        return True


class BoardClaims:
    """Satisfies `claims.claim.Claims` for hosts that share a board and a database."""

    def __init__(self, board: Board, runs: Runs) -> None:
        self.board = board
        self._runs = runs
        self._lock = threading.Lock()
        self._seen: list[Posting] = []
        self._seen_at = float("-inf")

    def begin(self, run: RunRow) -> BoardClaim:
        run_id, first = run.id, _goes_first(run)
        self.postings()  # a board that does not answer is noticed before anything is stored
        for other in self._runs.open(run.vnf):
            if other.slot == run.slot and other.state == "running" and self.is_held(other) is False:
                raise Busy(
                    f"run {other.id} of {run.vnf} is lost and must end first; a service resumes "
                    f"it, or: antipode run resume {other.id}"
                )
        run.claim, run.conductor = 1, self.board.name
        self._runs.create(run)
        try:
            claim = self._claim(self._posting(run_id, first))
        except BaseException as error:
            # the caller learns that it was not begun, so it must not begin later
            self._runs.end(run_id, 1, "failed", time.time(), f"it could not be begun: {error}", {})
            raise
        claim.number = 1
        return claim

    def take(self, run: str, *, also_failed: bool = False, abort: bool = False) -> BoardClaim:
        row = self._runs.get(run)
        posting = self._posting(run, _goes_first(row))
        if posting.owner is not None:
            raise Busy(f"run {run} is being executed by {posting.owner}")
        claim = self._claim(posting)
        try:
            # what was read before the board's claim was ours may be old
            known = self._runs.get(run).claim
            claim.number = self._runs.claim(
                run, self.board.name, known, also_failed=also_failed, abort=abort
            )
        except BaseException:
            claim.release()
            raise
        return claim

    def is_held(self, run: RunRow) -> bool | None:
        try:
            return any(p.run == run.id and p.owner is not None for p in self._look())
        except BoardUnreachable:
            return None

    def offer(self, run: RunRow) -> None:
        """Put a run on the board for any service; it can be repeated.

        Raises:
            BoardUnreachable: it may not be there; a service posts it when it finds it missing.
        """
        self.board.post(run.id, first=_goes_first(run))

    def postings(self) -> list[Posting]:
        """All postings on the board.

        Raises:
            BoardUnreachable: it cannot be read now.
        """
        with self._lock:
            self._seen, self._seen_at = self.board.postings(), now()
            return self._seen

    def _look(self) -> list[Posting]:
        with self._lock:
            if now() - self._seen_at < FRESH_S:
                return self._seen
        return self.postings()

    def _posting(self, run: str, first: bool) -> Posting:
        """The posting of a run, made if it is missing; the one that is claimed if there are two."""
        for look in range(2):
            if found := [p for p in self.postings() if p.run == run]:
                return next((p for p in found if p.owner is not None), found[0])
            if look == 0:
                self.board.post(run, first=first, for_me=True)
        raise BoardUnreachable(
            f"run {run} was posted and is not on the board; is its server being restored from a "
            "backup?"
        )

    def _claim(self, posting: Posting) -> BoardClaim:
        since = now()
        hold = self.board.claim(posting)
        return BoardClaim(self._runs, posting.run, hold, self.board.expires_s, since)
