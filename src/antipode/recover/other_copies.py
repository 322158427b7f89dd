# SPDX-License-Identifier: Apache-2.0
"""Copies of members that answer before the recovered members are booted. An answer at an address
that both copies have counts once the other one was seen silent, or is known to be stopped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from antipode import logs
from antipode.model.steps import Steps, Timeline, Unrecorded
from antipode.topology import answering

LOG = logging.getLogger(__name__)
ASK_S = 2.0
"""How long a connection before the boot may take; also each one that looks for silence."""
MOST_AT_ONCE = 128
ANSWERED = "answered"
"""Of the step: whether another copy has answered, or does not answer any more."""


class Place(NamedTuple):
    """Where a member is asked."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    def is_silent(self) -> bool:
        """Connect to it once."""
        return answering.connect(self.address, self.port, ASK_S) is not None


class Known(NamedTuple):
    """What is known beside what this process sees itself."""

    seen: Mapping[str, str] = {}
    """the members of which earlier processes of the run saw another copy answer, and where"""
    seen_by: Callable[[str], Mapping[str, str]] = lambda run: {}
    """the same of another run, whose servers this one may use"""
    is_stopped: Callable[[str], bool] = lambda server: False
    """whether the copy of a member at the former site is known to be stopped; it never waits"""


class OtherCopies:
    """The other copies of the members of one recovery. Safe to use from several threads."""

    def __init__(
        self, run: str = "", timeline: Timeline | None = None, known: Known | None = None
    ) -> None:
        self._run = run
        self._timeline = timeline or Unrecorded()
        self._known = known or Known()
        self._seen = dict(self._known.seen)
        """server -> where another copy answers"""
        self._answering: dict[str, str] = {}
        """server -> where it is, or another copy, of those that are not booted yet"""
        self._booting: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(
            MOST_AT_ONCE, "ask", initializer=logs.adopt, initargs=(run or None,)
        )

    def ask(self, server: str, place: Place) -> None:
        """Have a member's address asked once. Nothing waits for that: what has not answered when
        the member is booted is silent.
        """
        self._pool.submit(self._ask, server, place)

    def boots(self, server: str, made_by: str | None) -> bool:
        """What answers from now on may be the recovered member; whether another copy does.

        Args:
            made_by: the run that has booted it here already: what has answered may be that.
        """
        with self._lock:
            self._booting.add(server)
            if made_by is None:
                where = self._answering.get(server)
            else:
                where = None if made_by == self._run else self._known.seen_by(made_by).get(server)
            if where is not None and server not in self._seen:
                self._note(server, where)
            return server in self._seen

    def seen(self, server: str) -> str | None:
        """Where another copy of a member answered and may do so still."""
        with self._lock:
            return self._seen.get(server)

    def may_answer(self, server: str, place: Place) -> str | None:
        """Why an answer may be another copy's; None when it is that of the recovered member. That
        address is connected to where this is not known.
        """
        if (where := self.seen(server)) is None:
            return None
        if self._known.is_stopped(server) or place.is_silent():
            with self._lock:
                self._note(server, where, answered=False)
            return None
        return (
            f"another copy answered at {where} before this server was booted, and the address was"
            " never silent since. Stop that copy (`antipode failover --fence` does where its site"
            f" answers) and resume {self._run}, or reboot this server while the run waits"
        )

    def _ask(self, server: str, place: Place) -> None:
        is_silent = place.is_silent()
        with self._lock:
            if is_silent and server in self._seen:
                self._note(server, self._seen[server], answered=False)
            if not is_silent and server not in self._booting:
                self._answering[server] = str(place)

    def _note(self, server: str, where: str, *, answered: bool = True) -> None:
        """Keep it, for later processes of the run too."""
        with self._timeline.step(Steps.ASK_BEFORE_BOOT, server) as step:
            step.result(asked=f"TCP {where}", **{ANSWERED: answered})
        if answered:
            self._seen[server] = where
            LOG.warning(
                "another copy of %s answers at %s: no answer there counts before it is silent or"
                " known to be stopped",
                server,
                where,
            )
        else:
            self._seen.pop(server, None)


def seen_in(steps: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, str]:
    """The members of which another copy answered when a run looked last, and where.

    Args:
        steps: name, resource and result of each step of the run, the oldest first.
    """
    found: dict[str, str] = {}
    for name, server, result in steps:
        if name == Steps.ASK_BEFORE_BOOT.words and ANSWERED in result:
            found[server] = str(result["asked"]).removeprefix("TCP ")
            if not result[ANSWERED]:
                del found[server]
    return found
