# SPDX-License-Identifier: Apache-2.0
"""Copies elsewhere that answer at the address of a member. Each member is asked as its boot begins,
before it can answer itself: what answers then is another copy.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from antipode import logs
from antipode.model.steps import Steps, Timeline, Unrecorded
from antipode.topology import answering

LOG = logging.getLogger(__name__)
ASK_S = 2.0
"""How long the connection may take that is tried as a boot begins."""
AGAIN_S = 15.0
"""How long a copy that was seen to answer is left alone, before the port is cut off once more."""
ANSWERED = "answered"
"""Of the steps: whether another copy has answered."""
Looks = Mapping[str, bool]
"""server -> whether another copy answered, when it was last looked for"""


class Place(NamedTuple):
    """Where a member is asked."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"TCP {host}:{self.port}"


class OtherCopies:
    """The other copies of the members of one recovery. Safe to use from several threads."""

    def __init__(
        self,
        run: str = "",
        timeline: Timeline | None = None,
        looks_of: Callable[[str], Looks] | None = None,
    ) -> None:
        """
        Args:
            looks_of: what a run has seen, this one in an earlier process or another one. None: no
                other copy can answer, and none is looked for.
        """
        self._run, self._looks_of = run, looks_of
        self._timeline = timeline or Unrecorded()
        self._under_way: dict[str, threading.Thread] = {}
        self._looks: dict[str, bool] = {}
        self._cut_off_at: dict[str, float] = {}

    def look(self, server: str, place: Place) -> None:
        """Ask the address of a member whose boot is about to begin. Nothing waits for that."""

        def ask() -> None:
            logs.adopt(self._run or None)
            self._note(server, place, answering.connect(place.address, place.port, ASK_S) is None)

        if self._looks_of is not None:
            self._under_way[server] = threading.Thread(target=ask, name="look", daemon=True)
            self._under_way[server].start()

    def remember(self, server: str, place: Place, made_by: str) -> None:
        """Of a member that is booted already: what was seen then. A run that was killed in that
        moment has kept nothing, and another copy may answer.

        Args:
            made_by: the run that has booted it.
        """
        if self._looks_of is not None:
            self._note(server, place, self._looks_of(made_by).get(server, True))

    def may_answer(self, server: str) -> bool:
        """Whether an answer at the address of a member may be that of another copy."""
        if self._looks_of is None:
            return False
        if (look := self._under_way.get(server)) is not None:
            look.join(2 * ASK_S)
            return self._looks.get(server, False)  # what takes longer is silent
        if server not in self._looks:  # an earlier process has booted it
            self._looks[server] = self._looks_of(self._run).get(server, True)
        return self._looks[server]

    def is_due(self, server: str) -> bool:
        """Whether the port of a member may be cut off now, to see what answers without it."""
        now = time.monotonic()
        if now - self._cut_off_at.get(server, -AGAIN_S) < AGAIN_S:
            return False
        self._cut_off_at[server] = now
        return True

    def end(self) -> None:
        """Wait until all looks have ended, as they are kept with the run."""
        for look in self._under_way.values():
            look.join(2 * ASK_S)

    def is_the_member(self, server: str) -> None:
        """Nothing answers in the place of a member any more."""
        self._looks[server] = False

    def _note(self, server: str, place: Place, answers: bool) -> None:
        with self._timeline.step(Steps.LOOK_FOR_OTHER_COPY, server) as step:
            step.result(asked=str(place), **{ANSWERED: answers})
        self._looks[server] = answers
        if answers:
            LOG.warning("another copy of %s may answer: answers are tried without its port", server)


def looks_in(steps: Iterable[tuple[str, str, Mapping[str, Any]]]) -> dict[str, bool]:
    """What a run has seen of other copies.

    Args:
        steps: name, resource and result of each step of the run, the oldest first.
    """
    names = (Steps.LOOK_FOR_OTHER_COPY.words, Steps.CUT_OFF.words)
    return {
        server: bool(result[ANSWERED])
        for name, server, result in steps
        if name in names and ANSWERED in result
    }
