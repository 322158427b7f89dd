"""Runs and their steps, as they are kept and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from antipode.errors import NotFound
from antipode.store.tables import RunRow, StepRow


class Runs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, run: RunRow) -> None:
        with Session(self._engine) as session, session.begin():
            session.add(run)

    def end(self, run: str, state: str, ended_at: float, reason: str | None, result: dict[str, Any]) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(update(RunRow).where(RunRow.id == run).values(state=state, ended_at=ended_at, reason=reason, result=result))

    def keep(self, steps: Sequence[StepRow]) -> None:
        """Keep steps, each the newest that is known of it, in one transaction."""
        with Session(self._engine) as session, session.begin():
            for step in steps:
                session.merge(step)

    def all(self, vnf: str | None = None) -> list[RunRow]:
        """All runs, the newest first."""
        with Session(self._engine) as session:
            wanted = select(RunRow).order_by(RunRow.started_at.desc())
            return list(session.scalars(wanted.where(RunRow.vnf == vnf) if vnf else wanted))

    def get(self, run: str) -> RunRow:
        """A run.

        Raises:
            NotFound: there is none of this id.
        """
        with Session(self._engine) as session:
            row = session.get(RunRow, run)
        if row is None:
            raise NotFound(f"there is no run {run}; see: antipode run list")
        return row

    def steps(self, run: str) -> list[StepRow]:
        """The steps of a run in the order in which they began."""
        with Session(self._engine) as session:
            return list(session.scalars(select(StepRow).where(StepRow.run == run).order_by(StepRow.started_at, StepRow.number)))
