# SPDX-License-Identifier: Apache-2.0
"""Events and their deliveries in the database: an event is noted once, by whichever host is first,
and stays until each receiver has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Engine, Update, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from antipode.model.event import Event
from antipode.store.rows import changing
from antipode.store.tables import ConditionRow, DeliveryRow, EventRow


class Delivery(NamedTuple):
    """An event that this process is to deliver; `attempts`: how often that has failed."""

    event: Event
    attempts: int


class Events:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note(self, event: Event, receivers: Sequence[str]) -> bool:
        """Note an event and to whom it is to be delivered; whether it was not noted yet."""
        try:
            with Session(self._engine) as session, session.begin():
                _note(session, event, receivers)
        except IntegrityError:
            return False
        return True

    def note_all(self, found: Sequence[tuple[Event, Sequence[str]]]) -> None:
        """Note events and their receivers, in one transaction unless another host has noted some
        of them at the same moment.
        """
        try:
            with Session(self._engine) as session, session.begin():
                for event, _ in found:
                    session.add(_row(event))
                session.flush()  # deliveries refer to them
                for event, receivers in found:
                    session.add_all(_deliveries(event, receivers))
        except IntegrityError:
            for event, receivers in found:
                self.note(event, receivers)

    def begin(self, condition: str, event: Event, receivers: Sequence[str]) -> bool:
        """Note that a condition is there, with its event; whether it was not known yet."""
        try:
            with Session(self._engine) as session, session.begin():
                session.add(ConditionRow(key=condition, since=event.at))
                session.flush()
                _note(session, event, receivers)
        except IntegrityError:
            return False
        return True

    def end(self, condition: str, event: Event | None, receivers: Sequence[str]) -> bool:
        """Note that a condition is over; whether it was known."""
        try:
            with Session(self._engine) as session, session.begin():
                over = delete(ConditionRow).where(ConditionRow.key == condition)
                if not session.execute(over).rowcount:  # type: ignore[attr-defined]
                    return False
                if event is not None:
                    _note(session, event, receivers)
        except IntegrityError:
            return False
        return True

    def conditions(self) -> dict[str, float]:
        """The conditions that are known, and since when (seconds since the epoch)."""
        with Session(self._engine) as session:
            return {row.key: row.since for row in session.scalars(select(ConditionRow))}

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these events were noted."""
        wanted, found = sorted(ids), set[str]()
        with Session(self._engine) as session:
            for first in range(0, len(wanted), 500):  # a statement has a limited length
                some = wanted[first : first + 500]
                found |= set(session.scalars(select(EventRow.id).where(EventRow.id.in_(some))))
        return found

    def newest(self, most: int) -> list[Event]:
        """The newest events, the oldest of them first."""
        with Session(self._engine) as session:
            rows = session.scalars(select(EventRow).order_by(EventRow.at.desc()).limit(most))
            return [_event(row) for row in rows][::-1]

    def of_run(self, run: str, since: float, most: int) -> list[Event]:
        """The newest events of a run, the newest first.

        Args:
            since: when the run began, in seconds since the epoch.
        """
        found = (
            select(EventRow)
            .where(EventRow.at >= since, EventRow.data["run"].as_string() == run)
            .order_by(EventRow.at.desc())
            .limit(most)
        )
        with Session(self._engine) as session:
            return [_event(row) for row in session.scalars(found)]

    def take(self, receiver: str, now: float, for_s: float) -> Delivery | None:
        """The oldest event that is to be delivered to a receiver now, taken from other hosts.

        Args:
            now: seconds since the epoch.
            for_s: how long no other process takes it.
        """
        with Session(self._engine) as session:
            found = session.execute(
                select(DeliveryRow, EventRow)
                .join(EventRow, EventRow.id == DeliveryRow.event)
                .where(DeliveryRow.receiver == receiver, DeliveryRow.not_before <= now)
                .order_by(DeliveryRow.at, DeliveryRow.event)
                .limit(1)
            ).first()
        if found is None:
            return None
        waiting, row = found
        ours = _delivery(receiver, row.id).where(DeliveryRow.not_before == waiting.not_before)
        with Session(self._engine) as session, session.begin():
            taken = session.execute(ours.values(not_before=now + for_s))
            if not taken.rowcount:  # type: ignore[attr-defined]
                return None  # another host was faster
        return Delivery(_event(row), waiting.attempts)

    def delivered(self, receiver: str, event: str) -> None:
        """Note that a receiver has an event, or will never get it."""
        of_it = DeliveryRow.receiver == receiver, DeliveryRow.event == event
        with Session(self._engine) as session, session.begin():
            session.execute(delete(DeliveryRow).where(*of_it))

    def failed(self, receiver: str, event: str, not_before: float) -> None:
        """Note that a delivery has failed, and when it may be tried again."""
        again = {"attempts": DeliveryRow.attempts + 1, "not_before": not_before}
        with Session(self._engine) as session, session.begin():
            session.execute(_delivery(receiver, event).values(again))

    def give_up(self, before: float, most: int) -> int:
        """Drop deliveries of events from before a moment, those to each receiver beyond the newest
        `most`, and those without a receiver; how many.
        """
        rank = func.row_number().over(
            partition_by=DeliveryRow.receiver, order_by=DeliveryRow.at.desc()
        )
        ranked = select(DeliveryRow.receiver, DeliveryRow.event, rank.label("rank")).subquery()
        with Session(self._engine) as session:
            late = session.execute(
                select(DeliveryRow.receiver, DeliveryRow.event).where(DeliveryRow.at < before)
            ).all()
            many = session.execute(
                select(ranked.c.receiver, ranked.c.event).where(ranked.c.rank > most)
            ).all()
        dropped = {(receiver, event) for receiver, event in (*late, *many)}
        for receiver, event in dropped:
            self.delivered(receiver, event)
        return len(dropped)

    def forget(self, before: float) -> None:
        """Delete the events from before a moment (seconds since the epoch) that all have got."""
        pending = select(DeliveryRow.event).where(DeliveryRow.event == EventRow.id).exists()
        with Session(self._engine) as session, session.begin():
            session.execute(delete(EventRow).where(EventRow.at < before, ~pending))

    def pending(self) -> dict[str, tuple[int, float]]:
        """By receiver: how many events it is still to get, and of when the oldest of them is."""
        counted = select(DeliveryRow.receiver, func.count(), func.min(DeliveryRow.at)).group_by(
            DeliveryRow.receiver
        )
        with Session(self._engine) as session:
            return {name: (count, at) for name, count, at in session.execute(counted)}


def _note(session: Session, event: Event, receivers: Sequence[str]) -> None:
    session.add(_row(event))
    session.flush()  # deliveries refer to it
    session.add_all(_deliveries(event, receivers))


def _row(event: Event) -> EventRow:
    return EventRow(
        id=event.id, type=event.type, subject=event.subject, at=event.at, data=dict(event.data)
    )


def _deliveries(event: Event, receivers: Sequence[str]) -> list[DeliveryRow]:
    return [DeliveryRow(receiver=r, event=event.id, at=event.at) for r in receivers]


def _event(row: EventRow) -> Event:
    return Event(row.id, row.type, row.subject, row.at, row.data)


def _delivery(receiver: str, event: str) -> Update:
    return changing(DeliveryRow).where(DeliveryRow.receiver == receiver, DeliveryRow.event == event)
