# SPDX-License-Identifier: Apache-2.0
"""How far the schedules of protections have come. Of several hosts, one settles a slot."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import groupby

from sqlalchemy import Engine, Update, delete, func, select
from sqlalchemy.orm import Session

from antipode import clock
from antipode.store.rows import changing, created, forget_vnf
from antipode.store.tables import MissedRow, RunRow, ScheduleRow

Key = tuple[str, str]
"""A protection: the name of its VNF, and its option."""
HOUR_S = 3600.0


class Schedules:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> dict[Key, ScheduleRow]:
        """The progress of every schedule."""
        with Session(self._engine) as session:
            return {(r.vnf, r.option): r for r in session.scalars(select(ScheduleRow))}

    def begin(self, of: Key, known: ScheduleRow | None, schedule: str, due_at: float) -> None:
        """Begin to follow a schedule, new or changed, with a slot that counts as settled.

        Nothing changes where another host has done it already.

        Args:
            known: the progress as it was read.
        """
        # An update that finds no row, before the insert, would be a deadlock in MariaDB.
        if known is None:
            created(self._engine, _new(of, schedule=schedule, due_at=due_at))
            return
        changed = _row(of).where(ScheduleRow.settled == known.settled)
        values = {"schedule": schedule, "due_at": due_at, "settled": known.settled + 1}
        with Session(self._engine) as session, session.begin():
            session.execute(changed.values(**values, reason=None))

    def start(
        self, known: ScheduleRow, due_at: float, missed: Sequence[float], run: RunRow
    ) -> bool:
        """Settle a slot by a new run, both or neither of them; whether this process did it.

        Args:
            known: the progress as it was read.
            missed: the moments of earlier slots for which no run was begun, and none will be.

        Raises:
            IntegrityError: another run has the slot of the run.
        """
        settling = _settling(known, due_at, len(missed)).values(run=run.id, reason=None)
        with Session(self._engine) as session, session.begin():
            if not session.execute(settling).rowcount:  # type: ignore[attr-defined]
                return False
            session.add(run)
            _note_missed(session, known, missed)
        return True

    def pass_over(
        self, known: ScheduleRow, due_at: float, missed: Sequence[float], reason: str | None
    ) -> bool:
        """Settle a slot without a run; whether this process did it.

        Args:
            missed: the moments of it and of earlier ones, as far as they count.
            reason: why; None leaves the reason that is there.
        """
        settling = _settling(known, due_at, len(missed))
        if reason is not None:
            settling = settling.values(reason=reason)
        with Session(self._engine) as session, session.begin():
            if not session.execute(settling).rowcount:  # type: ignore[attr-defined]
                return False
            _note_missed(session, known, missed)
        return True

    def missed_between(self, vnf: str, since: float, until: float) -> int:
        """How many slots of a VNF were missed in a time (seconds since the epoch)."""
        total = select(func.coalesce(func.sum(MissedRow.slots), 0)).where(
            MissedRow.vnf == vnf, MissedRow.at > since, MissedRow.at <= until
        )
        with Session(self._engine) as session:
            return int(session.scalar(total) or 0)

    def forget_missed(self, before: float) -> None:
        """Forget when slots were missed before a moment (seconds since the epoch)."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(MissedRow).where(MissedRow.at < before))

    def wait(self, known: ScheduleRow, reason: str) -> None:
        """Note why a slot waits, unless it was settled meanwhile."""
        if known.reason != reason:
            with Session(self._engine) as session, session.begin():
                session.execute(_unsettled(known).values(reason=reason))

    def pause(self, of: Key, because: str | None) -> None:
        """Begin no run for a protection until `resume`; one that was paused stays so."""
        paused = {"paused_at": clock.now(), "paused_because": because}
        with Session(self._engine) as session:
            is_new = session.get(ScheduleRow, of) is None
        if is_new and created(self._engine, _new(of, schedule="", due_at=0.0, **paused)):
            return
        with Session(self._engine) as session, session.begin():
            session.execute(_row(of).where(ScheduleRow.paused_at.is_(None)).values(paused))

    def resume(self, of: Key) -> bool:
        """End a pause: the schedule begins with the next slot; whether it was paused."""
        resumed = {"paused_at": None, "paused_because": None, "schedule": "", "reason": None}
        with Session(self._engine) as session, session.begin():
            ours = _row(of).where(ScheduleRow.paused_at.is_not(None)).values(resumed)
            return bool(session.execute(ours).rowcount)  # type: ignore[attr-defined]

    def forget(self, vnf: str) -> None:
        """Forget the schedules of a VNF; a slot that a host is about to settle is not begun."""
        forget_vnf(self._engine, vnf, ScheduleRow, MissedRow)


def _note_missed(session: Session, known: ScheduleRow, missed: Sequence[float]) -> None:
    """Note the moments of missed slots, those of one hour in one row."""
    for _, slots in groupby(missed, lambda slot: slot // HOUR_S):
        of_hour = list(slots)
        session.add(
            MissedRow(
                id=uuid.uuid4().hex,
                vnf=known.vnf,
                option=known.option,
                at=of_hour[-1],
                slots=len(of_hour),
            )
        )


def _new(of: Key, **values: object) -> ScheduleRow:
    return ScheduleRow(vnf=of[0], option=of[1], settled=0, missed=0, **values)


def _row(of: Key) -> Update:
    return changing(ScheduleRow).where(ScheduleRow.vnf == of[0], ScheduleRow.option == of[1])


def _unsettled(known: ScheduleRow) -> Update:
    """An update of a schedule that has not come further since it was read, and is not paused."""
    return _row((known.vnf, known.option)).where(
        ScheduleRow.settled == known.settled,
        ScheduleRow.schedule == known.schedule,
        ScheduleRow.paused_at.is_(None),
    )


def _settling(known: ScheduleRow, due_at: float, missed: int) -> Update:
    return _unsettled(known).values(
        due_at=due_at, settled=known.settled + 1, missed=ScheduleRow.missed + missed
    )
