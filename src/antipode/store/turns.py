# SPDX-License-Identifier: Apache-2.0
"""Turns at a site that all processes of a database share: rows, so that a host sees what the others
hold and wait for.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from antipode import clock
from antipode.store.database import server_clock
from antipode.store.rows import changing, created
from antipode.store.tables import RunRow, TurnGateRow, TurnRow

HELD_S = 60.0
"""How long a turn counts as held that its process does not renew."""
WAITS_S = 10.0
"""How long a process counts as waiting that does not ask again."""


@dataclass(frozen=True)
class Asked:
    """A turn that a run asks for; the lowest priority and place go first."""

    site: str
    kind: str
    vnf: str
    run: str
    claim: int
    priority: int
    place: int


class Turns:
    """One process's way to them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = uuid.uuid4().hex
        self._known: set[str] = set()
        """kinds whose gate exists"""

    def take(self, asked: Asked, at_once: int) -> str | None:
        """Take a turn, if one is free and no other process's waits that comes first: failovers,
        then the VNF that holds fewest, then as they were asked. Until then the process counts as
        waiting for it, and for no other of its kind at the site.

        Args:
            at_once: turns of this kind that the site bears.

        Returns:
            the turn's id, for `keep` and `release`; None: ask again.
        """
        with self._alone(asked.kind) as session:
            return self._take(session, asked, at_once)

    @contextmanager
    def _alone(self, kind: str) -> Iterator[Session]:
        """A transaction beside which no other changes turns of a kind. So none is in a deadlock
        with another either, whatever a database locks beside the rows that change.
        """
        gate = changing(TurnGateRow).where(TurnGateRow.kind == kind)
        gate = gate.values(passed=TurnGateRow.passed + 1)
        if kind not in self._known:
            with Session(self._engine) as session:
                known = session.get(TurnGateRow, kind)
            if known is None:
                created(self._engine, TurnGateRow(kind=kind, passed=0))
            self._known.add(kind)
        with Session(self._engine) as session, session.begin():
            session.execute(gate)
            yield session

    def _take(self, session: Session, asked: Asked, at_once: int) -> str | None:
        moment = server_clock(session.connection()) or clock.now()
        session.execute(delete(TurnRow).where(TurnRow.kind == asked.kind, TurnRow.until <= moment))
        live = select(TurnRow).join(
            RunRow, (RunRow.id == TurnRow.run) & (RunRow.claim == TurnRow.claim)
        )
        here = live.where(TurnRow.site == asked.site, TurnRow.kind == asked.kind)
        rows = list(session.scalars(here))
        held = Counter(row.vnf for row in rows if row.is_held)
        ours = f"{self._process}:{asked.site}:{asked.kind}"
        others = [row for row in rows if not row.is_held and row.id != ours]
        known = session.get(TurnRow, ours)
        same = known is not None and (known.run, known.place) == (asked.run, asked.place)
        asked_at = known.asked_at if known is not None and same else moment

        def rank(row: TurnRow) -> tuple[int, int, float, int]:
            return (row.priority, held[row.vnf], row.asked_at, row.place)

        mine = TurnRow(
            **vars(asked), id=ours, asked_at=asked_at, is_held=False, until=moment + WAITS_S
        )
        ahead = sum(rank(row) < rank(mine) for row in others)
        if held.total() + ahead >= at_once:
            session.merge(mine)
            return None
        if known is not None:
            session.delete(known)
        turn = uuid.uuid4().hex
        mine.id, mine.is_held, mine.until = turn, True, moment + HELD_S
        session.add(mine)
        return turn

    def keep(self, kind: str, turns: Collection[str]) -> None:
        """Renew turns of a kind that are held."""
        with self._alone(kind) as session:
            moment = server_clock(session.connection()) or clock.now()
            kept = changing(TurnRow).where(TurnRow.id.in_(list(turns)))
            session.execute(kept.values(until=moment + HELD_S))

    def release(self, kind: str, turn: str) -> None:
        """Leave a turn of a kind to the others."""
        with self._alone(kind) as session:
            session.execute(delete(TurnRow).where(TurnRow.id == turn))
