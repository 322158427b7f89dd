# SPDX-License-Identifier: Apache-2.0
"""The board on which hosts find runs to execute: TaskFlow's jobboards, with claims that are held
alike on each of them.
"""

from __future__ import annotations

import base64
import json
import math
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from taskflow import exceptions, states
from taskflow.jobs import backends
from taskflow.jobs.base import JobPriority

from antipode import libraries
from antipode.config import Jobboard
from antipode.errors import AntipodeError, Busy, ClaimLost, InvalidInput

if TYPE_CHECKING:
    from etcd3gw import Etcd3Client

PACKAGES = {"etcd": "etcd3gw", "redis": "redis", "zookeeper": "kazoo"}


class BoardUnreachable(AntipodeError):
    """The jobboard's server does not answer."""

    code = "jobboard-unreachable"
    exit_code = 5


class Posting(NamedTuple):
    """A run on the board. `job` is TaskFlow's."""

    run: str
    meant_for: str | None
    """the process that posted it in order to claim it itself"""
    owner: str | None
    job: Any


class Hold(Protocol):
    """A posting that this process has claimed until the claim expires."""

    def renew(self) -> None:
        """Extend the claim by its full time.

        Raises:
            ClaimLost: it is not ours any more.
            BoardUnreachable: that cannot be known now.
        """
        ...

    def finish(self) -> None:
        """Remove the posting from the board: the run has ended."""
        ...

    def let_go(self) -> None:
        """Leave the posting to others."""
        ...


class Board:
    """The runs of one installation on a board, seen from this process."""

    def __init__(self, settings: Jobboard) -> None:
        """Nothing is connected yet.

        Raises:
            InvalidInput: the driver is not installed, or refuses its settings.
            AntipodeError: the driver, or TaskFlow, is of a release that does not fit.
        """
        self.name = f"{socket.gethostname()}/{uuid.uuid4().hex[:12]}"
        """a name of this process alone"""
        self.expires_s = settings.claim_expires
        self.kind = next(kind for kind in PACKAGES if getattr(settings, kind) is not None)
        libraries.need(PACKAGES[self.kind], self.kind, f"the jobboard on {self.kind}")
        libraries.check(libraries.TASKFLOW, libraries.BOARD)
        try:
            # several attempts to renew a claim fit into its time
            self._board, self._client = _taskflows(
                settings, self.kind, timeout_s=settings.claim_expires / 10
            )
        except (exceptions.TaskFlowException, ValueError, TypeError) as error:
            raise InvalidInput(f"jobboard.{self.kind}: {error}") from error

    def connect(self) -> None:
        """Connect; again is fine.

        Raises:
            BoardUnreachable: the server does not answer.
        """
        with _reaching(self.kind):
            if not self._board.connected:
                self._board.connect()

    def close(self) -> None:
        """Disconnect. Claims last until they expire."""
        with _reaching(self.kind):
            self._board.close()

    def post(self, run: str, *, first: bool, for_me: bool = False) -> None:
        """Put a run on the board.

        Args:
            first: it has precedence over others.
            for_me: this process is about to claim it; others leave it alone for the time of a
                claim.

        Raises:
            BoardUnreachable: it may or may not be there.
        """
        self.connect()
        details = {"run": run, "for": self.name if for_me else None}
        with _reaching(self.kind):
            self._board.post(
                f"run {run}",
                details=details,
                priority=JobPriority.HIGH if first else JobPriority.NORMAL,
            )

    def postings(self) -> list[Posting]:
        """All postings on the board.

        Raises:
            BoardUnreachable: it cannot be read now.
        """
        self.connect()
        with _reaching(self.kind):
            return [
                Posting(job.details["run"], job.details.get("for"), _owner(self._board, job), job)
                for job in self._board.iterjobs(ensure_fresh=True)
                if job.state != states.COMPLETE
            ]

    def claim(self, posting: Posting) -> Hold:
        """Claim a posting. A run that was posted twice is claimed once.

        Raises:
            Busy: another process has it.
            BoardUnreachable: it is unknown whether it was claimed; if so, the claim expires.
        """
        self.connect()
        hold = self._hold(posting)
        # Of two processes that claim two postings of one run, each looks again afterwards, so that
        # at least one of them sees the other.
        twins = [
            p for p in self.postings() if p.run == posting.run and p.job.uuid != posting.job.uuid
        ]
        if owner := next((p.owner for p in twins if p.owner is not None), None):
            hold.let_go()
            raise Busy(f"run {posting.run} is being executed by {owner}")
        for twin in twins:
            with suppress(Busy):
                self._hold(twin).finish()
        return hold

    def _hold(self, posting: Posting) -> Hold:
        job = posting.job
        try:
            with _reaching(self.kind):
                if self.kind == "zookeeper":
                    self._board.claim(job, self.name)
                else:
                    self._board.claim(job, self.name, expiry=math.ceil(self.expires_s))
                if self._client is not None:
                    return _EtcdHeld(self, self._board, job, self._client)
                return _HOLDS[self.kind](self, self._board, job)
        except (exceptions.UnclaimableJob, exceptions.NotFound) as error:
            raise Busy(
                f"run {posting.run} is being executed by another process, or has ended: {error}"
            ) from error


class _Held:
    """A claim as TaskFlow's boards hold it."""

    def __init__(self, board: Board, theirs: Any, job: Any) -> None:
        self._board = board
        self._theirs = theirs
        self._job = job

    def renew(self) -> None:
        with _reaching(self._board.kind):
            self._extend()
            owner = _owner(self._theirs, self._job)
        if owner != self._board.name:
            # asked after it was extended: only a claim sets an owner, and no other has our name
            raise ClaimLost(
                f"the claim of {self._job.name} has expired; its owner is now {owner or 'unknown'}"
            )

    def finish(self) -> None:
        with _reaching(self._board.kind), suppress(exceptions.NotFound):
            self._theirs.consume(self._job, self._board.name)

    def let_go(self) -> None:
        with _reaching(self._board.kind), suppress(exceptions.NotFound):
            self._theirs.abandon(self._job, self._board.name)

    def _extend(self) -> None:
        """Extend the claim by its full time. ZooKeeper does so with every call."""


class _RedisHeld(_Held):
    def _extend(self) -> None:
        self._job.extend_expiry(self._board.expires_s)


class _EtcdHeld(_Held):
    """A claim on etcd: a key that disappears with our lease.

    TaskFlow asks for the owner and then deletes the claim, though it may be another's by then.
    """

    def __init__(self, board: Board, theirs: Any, job: Any, client: Etcd3Client) -> None:
        super().__init__(board, theirs, job)
        from etcd3gw import Lease

        self._client = client
        self._lock = job.key + theirs.LOCK_POSTFIX
        self._value = (self._client.get(self._lock) or [b"{}"])[0]
        mine = json.loads(self._value)
        if mine.get("owner") != board.name:
            raise exceptions.UnclaimableJob(f"the claim of {job.name} was lost at once")
        self._lease = Lease(mine["lease_id"], self._client)

    def renew(self) -> None:
        with _reaching(self._board.kind):
            left, value = self._lease.refresh(), self._client.get(self._lock)
        if left <= 0 or value != [self._value]:
            raise ClaimLost(f"the claim of {self._job.name} has expired")

    def finish(self) -> None:
        # all keys that begin with the job's and a dot; "/" is the character after the dot, and the
        # key without it begins those of other jobs too
        delete = {
            "request_delete_range": {
                "key": _encoded(f"{self._job.key}.".encode()),
                "range_end": _encoded(f"{self._job.key}/".encode()),
            }
        }
        ours = {
            "key": _encoded(self._lock.encode()),
            "result": "EQUAL",
            "target": "VALUE",
            "value": _encoded(self._value),
        }
        with _reaching(self._board.kind):
            self._client.transaction({"compare": [ours], "success": [delete], "failure": []})
            self.let_go()

    def let_go(self) -> None:
        from etcd3gw.exceptions import Etcd3Exception

        with _reaching(self._board.kind):
            try:
                self._lease.revoke()
            except Etcd3Exception as error:
                if "not found" not in str(error):  # else it has expired, and the claim with it
                    raise


_HOLDS: dict[str, Callable[[Board, Any, Any], Hold]] = {"redis": _RedisHeld, "zookeeper": _Held}


def _encoded(data: bytes) -> str:
    """Keys and values as etcd's JSON gateway takes them."""
    return base64.b64encode(data).decode()


def _owner(theirs: Any, job: Any) -> str | None:
    try:
        return theirs.find_owner(job)  # type: ignore[no-any-return]
    except TypeError:
        return None  # TaskFlow 6.5 tries to decode the owner of a job on Redis that has none


def _taskflows(settings: Jobboard, kind: str, timeout_s: float) -> tuple[Any, Etcd3Client | None]:
    """TaskFlow's board of a kind, and its client if that is ours."""
    given = getattr(settings, kind)
    if kind == "etcd":
        from antipode.claims.etcd import client

        libraries.check(libraries.TASKFLOW, libraries.ETCD_BOARD)
        libraries.check(libraries.ETCD3GW, libraries.ETCD_CLIENT)
        ours = client(given, timeout_s)
        conf: dict[str, Any] = {"board": "etcd", "path": settings.name}
        return backends.fetch(settings.name, conf, client=ours), ours
    if kind == "redis":
        # a call to a server that is gone must not outlast the claim
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        conf = {"board": "redis", "namespace": settings.name, **waits, **given}
        return backends.fetch(settings.name, conf), None
    # a claim on ZooKeeper lasts as long as the session, which the server ends after this time
    # without a sign of life
    own = {"path": f"/antipode/{settings.name}", "timeout": settings.claim_expires}
    return backends.fetch(settings.name, {"board": "zookeeper", **own, **given}), None


@contextmanager
def _reaching(kind: str) -> Iterator[None]:
    """Turn what a driver raises when its server does not answer into our error; TaskFlow's own
    decisions pass.
    """
    began = time.monotonic()
    try:
        yield
    except (exceptions.UnclaimableJob, exceptions.NotFound, AntipodeError):
        raise
    except Exception as error:  # drivers raise whatever their transport does
        waited = time.monotonic() - began
        why = str(error) or str(error.__context__)  # etcd3gw's own have no words
        raise BoardUnreachable(
            f"jobboard {kind}: no usable answer ({waited:.1f} s waited): {type(error).__name__}: "
            f"{why}"
        ) from error
