# SPDX-License-Identifier: Apache-2.0
"""Looks again and again whether each VNF could be recovered at a site, by the backup site and the
vaults alone; of several hosts, one looks at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from antipode.engine.deployment import Deployment
from antipode.engine.kind import Priority
from antipode.engine.limits import Party
from antipode.errors import AntipodeError, Halted, Stopped
from antipode.model.readiness import Finding, Level, verdict
from antipode.model.state import ProtectedVnf
from antipode.model.steps import Unrecorded
from antipode.model.vnf import Vnf
from antipode.runs import KINDS, looks, transitions
from antipode.runs.looks import Looked, Subject
from antipode.service.definitions import Definitions
from antipode.store import database
from antipode.store.readiness import Look
from antipode.store.tables import LookRow

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
LOOK_S = 10.0
"""Between two looks at what is due."""
TAKEN_S = 900.0
"""How long no other host looks at a VNF at which this one is looking: a site that does not answer
takes minutes.
"""
AT_ONCE = 4
"""VNFs that are looked at beside each other at a site, so that one whose look takes minutes, or a
site that has stopped to answer, leaves no other without a look for long.
"""
RENEWED_S = TAKEN_S / 3
"""How long a look may take before it is taken for longer."""
CLOCKS_APART_S = 1.0
"""By how much the clock of a host may differ from the database's."""
AHEAD_S = 60.0
"""What is due further ahead than its interval and this comes of a clock that was wrong."""


class ReadinessLoop:
    """Looks at the VNFs that can be recovered at one site. Each site has a loop of its own, so that
    one which does not answer holds up no other.
    """

    def __init__(
        self,
        deployment: Deployment,
        site: str,
        *,
        now: Callable[[], float] | None = None,
        look: Callable[[Subject], Looked] | None = None,
    ) -> None:
        """
        Args:
            now: seconds since the epoch, the same for all hosts: the database's clock by default.
            look: looks at a VNF; the light form of a precheck by default.
        """
        self.site = site
        self._deployment = deployment
        self._now = now or partial(database.now, deployment.database)
        self._look = look or _look
        self._definitions = Definitions(deployment)
        self._stop = threading.Event()
        self.trouble: dict[str, str] = {}
        """by VNF: why it cannot be looked at now"""
        self.looked_at = time.monotonic()
        """when this loop was last seen to get on"""

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        self._stop, outage = stop, False
        while not stop.wait(LOOK_S):
            try:
                self.look()
                outage = False
            except Exception as error:
                # a database that is away or a bug: the next look may succeed
                if not outage:
                    LOG.exception("readiness at %s cannot be looked at now", self.site)
                self.trouble, outage = {"": f"{type(error).__name__}: {error}"}, True
            self.looked_at = time.monotonic()

    def look(self) -> None:
        """Look at each VNF that is due, the one that was due first before the others.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        every_s = self._deployment.config.readiness.every
        if every_s is None:
            return
        trouble: dict[str, str] = {}
        waiting = deque(sorted(self._due(every_s, trouble), key=lambda r: r.due_at))
        outages: list[SQLAlchemyError] = []

        def work() -> None:
            while not outages and not self._stop.is_set():
                try:
                    row = waiting.popleft()
                except IndexError:
                    return
                try:
                    with self._alone(row.vnf, trouble):
                        self._look_at(row, every_s)
                except SQLAlchemyError as error:
                    outages.append(error)
                self.looked_at = time.monotonic()

        # daemons, unlike those of a pool: a call that hangs holds up no service that stops
        threads = [
            threading.Thread(target=work, name=f"readiness at {self.site} {n}", daemon=True)
            for n in range(min(AT_ONCE, len(waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if outages:
            raise outages[0]
        for vnf in trouble.keys() - self.trouble.keys():
            LOG.error("VNF %s cannot be looked at, at %s: %s", vnf, self.site, trouble[vnf])
        self.trouble = trouble

    @contextmanager
    def _alone(self, vnf: str, trouble: dict[str, str]) -> Iterator[None]:
        """A fault of one VNF keeps no other from being looked at."""
        try:
            yield
        except SQLAlchemyError:
            raise
        except Stopped:
            LOG.debug("the look at VNF %s was left to the next service", vnf)
        except AntipodeError as error:
            trouble[vnf] = str(error)
        except Exception as error:
            LOG.debug("the look at VNF %s, at %s", vnf, self.site, exc_info=True)
            trouble[vnf] = f"{type(error).__name__}: {error}"

    def _due(self, every_s: float, trouble: dict[str, str]) -> list[LookRow]:
        """The looks that are due, once the VNFs that are new or have moved are known."""
        readiness, now = self._deployment.readiness, self._now()
        states = self._deployment.states.all()
        moving = transitions.being_moved(self._deployment.runs.open_bare())
        rows, wanted = readiness.looks(self.site), set[str]()
        for vnf in self._definitions.known(lambda name: self._alone(name, trouble)):
            if self._may_be_recovered_here(vnf, states.get(vnf.vnf)):
                wanted.add(vnf.vnf)
                row = rows.get(vnf.vnf)
                if row is None or not row.is_wanted:
                    readiness.want(vnf.vnf, self.site, row, now)
        for row in rows.values():
            if row.is_wanted and row.vnf not in wanted and row.vnf not in trouble:
                readiness.leave(row)
        return [
            row
            for row in readiness.looks(self.site).values()
            if row.is_wanted and row.vnf not in moving and _is_due(row, every_s, now)
        ]

    def _may_be_recovered_here(self, vnf: Vnf, state: ProtectedVnf | None) -> bool:
        active_site = state.active_site if state is not None else vnf.primary
        return self.site in vnf.sites and self.site != active_site

    def _look_at(self, row: LookRow, every_s: float) -> None:
        readiness = self._deployment.readiness
        # the looks before this one may have taken long
        if self._is_moving_or_here(row.vnf):
            return
        began = self._now()
        if (taken := readiness.take(row, began + TAKEN_S)) is None:
            return  # another host is looking
        go_on = self._holding(taken)
        subject = Subject(
            self._deployment, row.vnf, self.site, partial(self._connected, row.vnf, go_on), go_on
        )
        try:
            seen = self._look(subject).findings
        except Stopped:
            readiness.release(taken)
            raise
        except SQLAlchemyError:
            raise
        except Exception as error:
            # what was seen before must not stand for what cannot be seen now
            self._keep(taken, [_not_seen(error)], began, every_s)
            raise
        self._keep(taken, seen, began, every_s)

    def _keep(self, taken: Look, seen: list[Finding], began: float, every_s: float) -> None:
        """Keep what was seen, unless the VNF was moved or has begun to be moved meanwhile. A VNF
        that is red is looked at again at once where it has got a point since the look began.
        """
        readiness = self._deployment.readiness
        if self._is_moving_or_here(taken.vnf):
            readiness.release(taken)
            return
        now = self._now()
        if not readiness.keep(taken, seen, now, now + every_s):
            LOG.debug("what was seen of VNF %s at %s is not kept", taken.vnf, self.site)
        elif verdict(seen) is Level.RED and self._has_point_since(taken.vnf, began):
            readiness.hasten(taken.vnf, now)

    def _has_point_since(self, vnf: str, began: float) -> bool:
        """Whether a run that makes points has succeeded since a moment. One that ends after this
        question has the VNF looked at again by itself.
        """
        kinds = [name for name in KINDS.names if KINDS.get(name).adds_points]
        ended = [
            row.ended_at
            for row in self._deployment.runs.newest(1, vnf=vnf, kinds=kinds, states=["succeeded"])
        ]
        # one of the future was noted by a clock that was wrong, and would be newer for long
        latest = self._now() + CLOCKS_APART_S
        return any(at is not None and began - CLOCKS_APART_S <= at <= latest for at in ended)

    def _is_moving_or_here(self, vnf: str) -> bool:
        """Whether a recovery of a VNF is under way, or it has moved to this site."""
        if transitions.being_moved(self._deployment.runs.open(vnf)):
            return True
        state = self._deployment.states.find(vnf)
        return state is not None and state.active_site == self.site

    def _holding(self, taken: Look) -> Callable[[], None]:
        """What a look calls while it gets on: one that takes long is not begun by another host
        beside it, so that none of the two would be kept.
        """
        renewed = time.monotonic()

        def go_on() -> None:
            nonlocal renewed
            self._go_on()
            if time.monotonic() - renewed >= RENEWED_S:
                self._deployment.readiness.hold(taken, self._now() + TAKEN_S)
                renewed = time.monotonic()

        return go_on

    def _connected(self, vnf: str, go_on: Callable[[], None], name: str) -> Site:
        limits = self._deployment.limits
        rate = limits.calls(name, Party(vnf, Priority.UPKEEP, go_on))
        return self._deployment.site(name, vnf).under(go_on, rate)

    def _go_on(self) -> None:
        """
        Raises:
            Halted: the service stops.
        """
        if self._stop.is_set():
            raise Halted("the service stops")


def _look(subject: Subject) -> Looked:
    return looks.look(subject, Unrecorded(), light=True)


def _not_seen(error: Exception) -> Finding:
    return Finding(
        check="look",
        level=Level.RED,
        detail=f"it could not be looked at: {type(error).__name__}: {error}",
    )


def _is_due(row: LookRow, every_s: float, now: float) -> bool:
    """Whether a look is due, and no host has it. What lies too far ahead was noted by a clock that
    was wrong.
    """
    is_over = row.due_at <= now or row.due_at > now + every_s + AHEAD_S
    return is_over and (row.not_before <= now or row.not_before > now + TAKEN_S + AHEAD_S)


def prune(deployment: Deployment) -> None:
    """Forget what was seen long ago. A failure is logged, as nothing depends on it."""
    try:
        before = database.now(deployment.database) - deployment.config.readiness.days * 86400
        deployment.readiness.prune(before)
    except SQLAlchemyError as error:
        LOG.warning("what was seen of readiness could not be forgotten: %s", error)
