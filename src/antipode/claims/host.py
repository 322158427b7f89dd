# SPDX-License-Identifier: Apache-2.0
"""Claims on one host: a file lock for each slot of a VNF, which the kernel releases when its
process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from antipode.errors import AntipodeError, Busy, ClaimLost
from antipode.store.runs import Runs
from antipode.store.tables import RunRow

LOOKED_AT_S = 10.0
"""How long processes may take together that only look for the holder of a lock."""
LETS_GO_S = 0.2
"""How long a run that has ended may take to release its lock."""


def here() -> str:
    """This process, as people would look for it."""
    return f"process {os.getpid()}{_on_this_host()}"


def _on_this_host() -> str:
    return f" on {socket.gethostname()}"


class Lock:
    """The lock of one slot. It is free when its file is not locked; the file names the run that
    holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, run: str) -> int:
        """Lock it for a run; the handle, which releases it when closed.

        Raises:
            Busy: another process, or another run of this one, holds it.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AntipodeError(
                f"{self._path}: {error.strerror}; antipode needs a state directory that it may "
                "write"
            ) from error
        if not _locked(handle):
            holder = os.read(handle, 256).decode(errors="replace").strip() or "another run"
            os.close(handle)
            raise Busy(
                f"{holder} is under way on this host; wait for it, or see: antipode run list"
            )
        os.truncate(handle, 0)
        os.pwrite(handle, f"{run} (process {os.getpid()})".encode(), 0)
        return handle

    def holder(self) -> str | None:
        """The run that holds it, if any."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(handle, 256).decode(errors="replace").partition(" ")[0]
        finally:
            os.close(handle)
        return None


def _locked(handle: int) -> bool:
    """Lock a file; whether that succeeded.

    A process that only looks for the holder shares the lock meanwhile. It is waited for, as the
    machine may be busy.
    """
    began = time.monotonic()
    while not _is_granted(handle, fcntl.LOCK_EX):
        if is_shared := _is_granted(handle, fcntl.LOCK_SH):
            fcntl.flock(handle, fcntl.LOCK_UN)
        if time.monotonic() - began > (LOOKED_AT_S if is_shared else LETS_GO_S):
            return False
        time.sleep(0.01)
    return True


def _is_granted(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class HostClaim:
    """A run that this process holds by a lock, which no other can take from it."""

    def __init__(self, run: str, number: int, handle: int) -> None:
        self.run = run
        self.number = number
        self._handle: int | None = handle

    def check(self) -> None:
        if self._handle is None:
            raise ClaimLost(f"run {self.run} was released")

    def release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.truncate(handle, 0)  # a run that has released it is not named
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class HostClaims:
    """Satisfies `claims.claim.Claims` where all processes that execute runs are on one host."""

    def __init__(self, state_dir: Path, runs: Runs, *, shared: bool = False) -> None:
        """`shared`: other hosts may use the same database; their locks cannot be seen here."""
        self._shared = shared
        self._folder = state_dir / "locks"
        self._runs = runs

    def begin(self, run: RunRow) -> HostClaim:
        run_id, vnf = run.id, run.vnf
        handle = self._lock(run).take(run_id)
        try:
            for other in self._runs.open(vnf):
                if other.slot == run.slot and other.state == "running":
                    self._must_be_of_this_host(other)
                    self._give_up(other, run_id)
            run.claim, run.conductor = 1, here()
            self._runs.create(run)
        except BaseException:
            os.close(handle)
            raise
        return HostClaim(run_id, 1, handle)

    def take(self, run: str, *, also_failed: bool = False, abort: bool = False) -> HostClaim:
        row = self._runs.get(run)
        self._must_be_of_this_host(row)
        handle = self._lock(row).take(run)
        try:
            known, _ = self._runs.standing(run)
            return HostClaim(
                run,
                self._runs.claim(run, here(), known, also_failed=also_failed, abort=abort),
                handle,
            )
        except BaseException:
            os.close(handle)
            raise

    def is_held(self, run: RunRow) -> bool | None:
        if self._is_elsewhere(run):
            return None
        return self._lock(run).holder() == run.id

    def _is_elsewhere(self, run: RunRow) -> bool:
        return (
            self._shared
            and run.state == "running"
            and run.conductor is not None
            and not run.conductor.endswith(_on_this_host())
        )

    def _must_be_of_this_host(self, run: RunRow) -> None:
        if self._is_elsewhere(run):
            raise Busy(
                f"{run.id} was under way in {run.conductor}, and whether it still is cannot be "
                "known from here; look there, or set up a jobboard for several hosts "
                "(docs/deployment.md)"
            )

    def _give_up(self, lost: RunRow, instead: str) -> None:
        """End a run whose process died, as this process holds its lock now.

        Its successor uses or removes what it has made.
        """
        number = self._runs.claim(lost.id, here(), lost.claim)
        self._runs.end(
            lost.id,
            number,
            "failed",
            lost.started_at,
            f"its process died, and {instead} was begun instead",
            lost.result,
        )

    def _lock(self, run: RunRow) -> Lock:
        # a VNF's name may have dots, but no slash
        return Lock(self._folder / run.kind / f"{run.vnf}.lock")
