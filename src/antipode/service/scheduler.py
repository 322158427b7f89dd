# SPDX-License-Identifier: Apache-2.0
"""The scheduler: queues a protection when a slot of its schedule is due, on one of all hosts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError, Busy
from antipode.model.schedule import Schedule
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.vnf import Protection, Vnf
from antipode.protect.option import closed_hours
from antipode.runs import protect
from antipode.service.definitions import Definitions
from antipode.service.queue import announce
from antipode.store import database
from antipode.store.tables import ScheduleRow

LOG = logging.getLogger(__name__)
LOOK_S = 2.0
"""Between two looks for slots that are due."""
AGAIN_S = 10.0
"""The same while the database does not answer."""
ON_TIME_S = 60.0
"""A slot that begins within this time after it was due has not been missed."""
NO_SERVICE = "no service was there to begin it"
AHEAD_S = 60.0
"""A settled slot that is further ahead than this comes of a clock that was wrong."""


@dataclass(frozen=True)
class Due:
    """A protection whose newest slot is not settled."""

    vnf: Vnf
    protection: Protection
    schedule: Schedule
    progress: ScheduleRow
    slot: float
    at: float
    """the moment of the look, in seconds since the epoch"""
    delay_s: float
    """of the VNF, after each slot"""

    @property
    def is_late(self) -> bool:
        return self.at - self.slot - self.delay_s > ON_TIME_S

    def is_avoided(self, moment: float) -> bool:
        """Whether a moment is in hours in which no run begins."""
        return closed_hours(self.protection, moment) is not None


class _Settled(NamedTuple):
    """That no slot of a protection was due at a look, nor is until a moment."""

    protection: Protection
    progress: tuple[object, ...]
    seen_at: float
    until: float


def _progress(known: ScheduleRow) -> tuple[object, ...]:
    """All of the progress of a protection by which it is decided whether a slot is due."""
    return known.settled, known.due_at, known.schedule, known.paused_at


class Scheduler:
    """Follows the schedules of all VNFs that were added here.

    What was settled is in the database, in one write together with the run that was begun: a
    process that dies at any moment loses no slot and begins none twice.
    """

    def __init__(self, deployment: Deployment, now: Callable[[], float] | None = None) -> None:
        """
        Args:
            now: seconds since the epoch, the same for all hosts: the database's clock by default.
        """
        self._deployment = deployment
        self._now = now or partial(database.now, deployment.database)
        self._definitions = Definitions(deployment)
        self._settled: dict[tuple[str, str], _Settled] = {}
        self.looked_at = time.monotonic()
        self.trouble: str | None = None
        """why nothing can be scheduled now"""
        self.damaged: dict[str, str] = {}
        """the VNFs whose schedules cannot be followed, and why"""

    def follow(self, stop: threading.Event) -> None:
        """Look for slots that are due until `stop` is set."""
        while not stop.wait(LOOK_S if self.trouble is None else AGAIN_S):
            try:
                self.look()
                self.trouble = None
            except Exception as error:
                # a database that is away or a bug: the next look may succeed
                if self.trouble is None:
                    LOG.exception("schedules cannot be followed now; trying again")
                self.trouble = f"{type(error).__name__}: {error}"
            self.looked_at = time.monotonic()

    def look(self) -> None:
        """Settle each slot that is due and can be, the one that was due first before the others.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        damaged: dict[str, str] = {}
        for due in sorted(self._all_due(damaged), key=lambda d: (d.slot, d.vnf.vnf)):
            with self._alone(due.vnf.vnf, damaged):
                self._settle(due)
        for name in damaged.keys() - self.damaged.keys():
            LOG.error("the schedules of VNF %s are not followed: %s", name, damaged[name])
        self.damaged = damaged

    @staticmethod
    @contextmanager
    def _alone(vnf: str, damaged: dict[str, str]) -> Iterator[None]:
        """A fault of one VNF keeps no other from being protected."""
        try:
            yield
        except SQLAlchemyError:
            raise
        except AntipodeError as error:
            damaged[vnf] = str(error)
        except Exception as error:
            LOG.debug("the schedules of VNF %s", vnf, exc_info=True)
            damaged[vnf] = f"{type(error).__name__}: {error}"

    def _all_due(self, damaged: dict[str, str]) -> list[Due]:
        now, progress = self._now(), self._deployment.schedules.all()
        self._settled = {of: last for of, last in self._settled.items() if of in progress}
        found: list[Due] = []
        for vnf in self._definitions.known(lambda name: self._alone(name, damaged)):
            with self._alone(vnf.vnf, damaged):
                for protection in vnf.protections:
                    row = progress.get((vnf.vnf, protection.option))
                    if self._may_be_due(vnf, protection, row, now) and (
                        (due := self._due(vnf, protection, row, now)) is not None
                    ):
                        found.append(due)
        return found

    def _may_be_due(
        self, vnf: Vnf, protection: Protection, known: ScheduleRow | None, now: float
    ) -> bool:
        """Whether a slot may be due, by what the last look has found: to look for slots of a cron
        expression takes long, and next to all looks find none.
        """
        if protection.schedule is None:
            return False
        last = self._settled.get((vnf.vnf, protection.option))
        return (
            last is None
            or known is None
            or last.protection is not protection
            or last.progress != _progress(known)
            or not last.seen_at <= now < last.until
        )

    def _due(
        self, vnf: Vnf, protection: Protection, known: ScheduleRow | None, now: float
    ) -> Due | None:
        """The newest slot of a protection, if there is one that is not settled."""
        schedule, is_paused = protection.schedule, known is not None and known.paused_at is not None
        if schedule is None or is_paused:
            return None
        delay_s = schedule.delay_s(f"{vnf.vnf}/{protection.option}")
        if (slot := schedule.slot_at(now - delay_s)) is None:
            return None
        if known is None or known.schedule != schedule.followed:
            key = vnf.vnf, protection.option
            self._deployment.schedules.begin(key, known, schedule.followed, slot)
            return None
        if known.due_at < slot or known.due_at > now + AHEAD_S:
            return Due(vnf, protection, schedule, known, slot, now, delay_s)
        until = schedule.slot_after(now - delay_s) + delay_s
        self._settled[vnf.vnf, protection.option] = _Settled(
            protection, _progress(known), now, until
        )
        return None

    def _settle(self, due: Due) -> None:
        schedules, known = self._deployment.schedules, due.progress
        if known.due_at > due.slot:
            LOG.warning(
                "the clock was set back: slots of %s until %s were settled before they were due",
                due.vnf.vnf,
                due.schedule.local(known.due_at).isoformat(),
            )
            missed, last = list[float](), None
        else:
            missed, last = self._passed(due)
        state = self._state(due.vnf)
        obstacle = self._obstacle(due, state)
        if due.is_late and due.schedule.catch_up == "none":
            if not due.is_avoided(due.slot):
                missed.append(due.slot)
            why = obstacle or known.reason or NO_SERVICE
            if schedules.pass_over(known, due.slot, missed, why):
                _log_missed(due, missed, why)
        elif obstacle is None:
            self._begin(due, state, missed)
        elif last is not None:
            # the newest one still waits, and is settled by a later look
            if schedules.pass_over(known, last, missed, obstacle):
                _log_missed(due, missed, obstacle)
        else:
            schedules.wait(known, obstacle)

    def _passed(self, due: Due) -> tuple[list[float], float | None]:
        """The slots before the newest that were missed, and the last before it, avoided or not."""
        passed = list(due.schedule.slots_between(due.progress.due_at, due.slot))
        missed = [slot for slot in passed if not due.is_avoided(slot)]
        return missed, passed[-1] if passed else None

    def _obstacle(self, due: Due, state: ProtectedVnf) -> str | None:
        """Why no run can be begun now; None if one can."""
        deployment, vnf = self._deployment, due.vnf.vnf
        if (hours := closed_hours(due.protection, due.at)) is not None:
            return f"{hours} ({due.schedule.timezone}) are hours that it avoids"
        opened = deployment.runs.open(vnf)
        if (other := protect.under_way_of(opened)) is not None:
            return f"run {other} has not ended"
        try:
            protect.none_in_the_way(deployment, vnf, opened)
        except Busy as error:
            return str(error)
        if state.state is VnfState.FAILING_OVER:
            return f"{state}. Resume or abort that"
        return None

    def _state(self, vnf: Vnf) -> ProtectedVnf:
        """The state that is known here. The run asks the vaults, and keeps what they say."""
        known = self._deployment.states.find(vnf.vnf)
        return known or ProtectedVnf(vnf=vnf.vnf, active_site=vnf.primary, generation=1)

    def _begin(self, due: Due, state: ProtectedVnf, missed: Sequence[float]) -> None:
        option = due.protection.option
        run = protect.requested(due.vnf, state, option=option, due_at=due.slot)
        name, run.state = run.id, "queued"
        try:
            if not self._deployment.schedules.start(due.progress, due.slot, missed, run):
                return  # another host has settled it, or it was paused
        except IntegrityError:
            self._deployment.schedules.wait(due.progress, "another protection has just begun")
            return
        LOG.info(
            "run %s is queued for the slot %s of %s (%s, %s)",
            name,
            due.schedule.local(due.slot).isoformat(),
            due.vnf.vnf,
            option,
            due.schedule,
        )
        _log_missed(due, missed, due.progress.reason or NO_SERVICE)
        announce(self._deployment, name)


def _log_missed(due: Due, missed: Sequence[float], why: str) -> None:
    if missed:
        LOG.warning(
            "%d slots of %s (%s, %s) were missed: %s",
            len(missed),
            due.vnf.vnf,
            due.protection.option,
            due.schedule,
            why,
        )
