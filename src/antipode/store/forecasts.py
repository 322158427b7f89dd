# SPDX-License-Identifier: Apache-2.0
"""What was forecast for runs when they began."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from antipode.store.rows import created
from antipode.store.tables import ForecastRow, RunRow

MOST = 1000
"""Forecasts that are read at once, the newest ones; they go with their runs."""


class Forecasts:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, row: ForecastRow) -> bool:
        """Keep a forecast; whether the run had none yet."""
        return created(self._engine, row)

    def find(self, run: str) -> ForecastRow | None:
        """What was forecast for a run."""
        with Session(self._engine) as session:
            return session.get(ForecastRow, run)

    def with_runs(self, vnf: str | None = None) -> list[tuple[ForecastRow, RunRow | None]]:
        """The forecasts of every VNF, or of one, with their runs, the newest first."""
        wanted = select(ForecastRow, RunRow).outerjoin(RunRow, RunRow.id == ForecastRow.run)
        if vnf is not None:
            wanted = wanted.where(ForecastRow.vnf == vnf)
        wanted = wanted.order_by(ForecastRow.made_at.desc()).limit(MOST)
        with Session(self._engine) as session:
            return [(kept, row) for kept, row in session.execute(wanted)]
