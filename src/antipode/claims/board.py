"""The board on which hosts find the runs that are to be done: TaskFlow's jobboards, and what a
claim of each of them is worth.
"""

from __future__ import annotations

import json
import math
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from taskflow import exceptions, states
from taskflow.jobs import backends
from taskflow.jobs.base import JobPriority

from antipode.config import Jobboard
from antipode.errors import AntipodeError, Busy, ClaimLost, InvalidInput

PACKAGES = {"etcd": "etcd3gw", "redis": "redis", "zookeeper": "kazoo"}


class BoardUnreachable(AntipodeError):
    """The jobboard's server does not answer."""

    code = "jobboard-unreachable"
    exit_code = 5


class Posting(NamedTuple):
    """A run on the board. `job` is TaskFlow's."""

    run: str
    meant_for: str | None
    """whoever posted it to do it himself"""
    owner: str | None
    job: Any


class Hold(Protocol):
    """A posting that this process has claimed until its time is over."""

    def renew(self) -> None:
        """Have the board's time begin anew.

        Raises:
            ClaimLost: it is not ours any more.
            BoardUnreachable: nobody knows.
        """
        ...

    def finish(self) -> None:
        """Take the posting off the board: the run has ended."""
        ...

    def let_go(self) -> None:
        """Leave the posting to others."""
        ...


class Board:
    """The runs of one installation on a board, as this process sees them."""

    def __init__(self, settings: Jobboard) -> None:
        """Nothing is connected yet.

        Raises:
            InvalidInput: the driver is not installed, or refuses its settings.
        """
        self.who = f"{socket.gethostname()}/{uuid.uuid4().hex[:12]}"
        """this process, and none before or after it"""
        self.expires_s = settings.claim_expires
        self.kind = next(kind for kind in PACKAGES if getattr(settings, kind) is not None)
        if find_spec(PACKAGES[self.kind]) is None:
            raise InvalidInput(
                f"jobboard: {self.kind} needs the Python package {PACKAGES[self.kind]}: pip "
                f"install 'antipode[{self.kind}]'"
            )
        try:
            # several tries to renew a claim fit into its time
            self._board = _taskflows(settings, self.kind, timeout_s=settings.claim_expires / 10)
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
        """Disconnect. What is claimed stays so until its time is over."""
        with _reaching(self.kind):
            self._board.close()

    def post(self, run: str, *, first: bool, for_me: bool = False) -> None:
        """Put a run on the board.

        Args:
            first: it goes ahead of others.
            for_me: this process is about to claim it; others leave it alone as long as a claim
                lasts.

        Raises:
            BoardUnreachable: it may or may not be there.
        """
        self.connect()
        details = {"run": run, "for": self.who if for_me else None}
        with _reaching(self.kind):
            self._board.post(
                f"run {run}",
                details=details,
                priority=JobPriority.HIGH if first else JobPriority.NORMAL,
            )

    def postings(self) -> list[Posting]:
        """All that is on the board now.

        Raises:
            BoardUnreachable: nobody knows.
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
            BoardUnreachable: nobody knows; if it was claimed, the claim expires.
        """
        self.connect()
        hold = self._hold(posting)
        # Both of two who claim two postings of one run look after they have claimed, so that one of
        # them sees the other at least.
        twins = [
            p for p in self.postings() if p.run == posting.run and p.job.uuid != posting.job.uuid
        ]
        if owner := next((p.owner for p in twins if p.owner is not None), None):
            hold.let_go()
            raise Busy(f"run {posting.run} is being worked at by {owner}")
        for twin in twins:
            with suppress(Busy):
                self._hold(twin).finish()
        return hold

    def _hold(self, posting: Posting) -> Hold:
        job = posting.job
        try:
            with _reaching(self.kind):
                if self.kind == "zookeeper":
                    self._board.claim(job, self.who)
                else:
                    self._board.claim(job, self.who, expiry=math.ceil(self.expires_s))
                return _HOLDS[self.kind](self, self._board, job)
        except (exceptions.UnclaimableJob, exceptions.NotFound) as error:
            raise Busy(
                f"run {posting.run} is being worked at by another process, or is over: {error}"
            ) from error


class _Held:
    """What the claims of all boards have in common."""

    def __init__(self, board: Board, theirs: Any, job: Any) -> None:
        self._board = board
        self._theirs = theirs
        self._job = job

    def renew(self) -> None:
        with _reaching(self._board.kind):
            self._extend()
            owner = _owner(self._theirs, self._job)
        if owner != self._board.who:
            # asked after it was extended: only a claim makes an owner, and nobody else has our name
            raise ClaimLost(
                f"the claim of {self._job.name} has expired and "
                f"{'is ' + owner if owner else 'nobody'}'s now"
            )

    def finish(self) -> None:
        with _reaching(self._board.kind), suppress(exceptions.NotFound):
            self._theirs.consume(self._job, self._board.who)

    def let_go(self) -> None:
        with _reaching(self._board.kind), suppress(exceptions.NotFound):
            self._theirs.abandon(self._job, self._board.who)

    def _extend(self) -> None:
        """Have the board's time begin anew. ZooKeeper's begins with every call."""


class _RedisHeld(_Held):
    def _extend(self) -> None:
        self._job.extend_expiry(self._board.expires_s)


class _EtcdHeld(_Held):
    """A claim on etcd is a key that goes with our lease.

    TaskFlow's own way asks who the owner is and then deletes whatever is there.
    """

    def __init__(self, board: Board, theirs: Any, job: Any) -> None:
        super().__init__(board, theirs, job)
        from etcd3gw import Lease

        self._client = theirs._client
        self._lock = job.key + theirs.LOCK_POSTFIX
        self._value = (self._client.get(self._lock) or [b"{}"])[0]
        mine = json.loads(self._value)
        if mine.get("owner") != board.who:
            raise exceptions.UnclaimableJob(f"the claim of {job.name} was lost at once")
        self._lease = Lease(mine["lease_id"], self._client)

    def renew(self) -> None:
        with _reaching(self._board.kind):
            left, value = self._lease.refresh(), self._client.get(self._lock)
        if left <= 0 or value != [self._value]:
            raise ClaimLost(f"the claim of {self._job.name} has expired")

    def finish(self) -> None:
        from etcd3gw.utils import _encode, _increment_last_byte

        begin = self._job.key + "."  # not the key itself, which begins those of other jobs too
        delete = {
            "request_delete_range": {
                "key": _encode(begin),
                "range_end": _encode(_increment_last_byte(begin)),
            }
        }
        ours = {
            "key": _encode(self._lock),
            "result": "EQUAL",
            "target": "VALUE",
            "value": _encode(self._value),
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


_HOLDS: dict[str, Callable[[Board, Any, Any], Hold]] = {
    "etcd": _EtcdHeld,
    "redis": _RedisHeld,
    "zookeeper": _Held,
}


def _owner(theirs: Any, job: Any) -> str | None:
    try:
        return theirs.find_owner(job)  # type: ignore[no-any-return]
    except TypeError:
        return None  # TaskFlow 6.5 tries to decode the owner of a job on Redis that has none


def _taskflows(settings: Jobboard, kind: str, timeout_s: float) -> Any:
    """TaskFlow's board of a kind."""
    given = getattr(settings, kind)
    if kind == "etcd":
        from antipode.claims.etcd import client

        return backends.fetch(
            settings.name, {"board": "etcd", "path": settings.name}, client=client(given, timeout_s)
        )
    if kind == "redis":
        # the sockets' timeouts: a call to a server that is gone must not outlast the claim
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        return backends.fetch(
            settings.name, {"board": "redis", "namespace": settings.name, **waits, **given}
        )
    # ZooKeeper's claims last as long as the session, which the server ends after this time without
    # a sign of life
    own = {"path": f"/antipode/{settings.name}", "timeout": settings.claim_expires}
    return backends.fetch(settings.name, {"board": "zookeeper", **own, **given})


@contextmanager
def _reaching(kind: str) -> Iterator[None]:
    """Turn what the drivers raise when their server gives no answer into our error; what TaskFlow
    decides passes.
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
