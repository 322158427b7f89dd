# SPDX-License-Identifier: Apache-2.0
"""The audit trail: rows are added and read; those that are older than is kept are pruned, and none
is ever changed.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Engine, delete, select, tuple_
from sqlalchemy.orm import Session

from antipode.errors import NotFound
from antipode.store.tables import AuditRow


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, row: AuditRow) -> None:
        """Keep what a request has done."""
        row.id = str(uuid.uuid4())
        with Session(self._engine) as session, session.begin():
            session.add(row)

    def page(self, limit: int, marker: str | None = None) -> list[AuditRow]:
        """Some rows, the newest first; `marker`: the id of the row after which they begin.

        Raises:
            NotFound: there is no such row.
        """
        rows = select(AuditRow).order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit)
        with Session(self._engine) as session:
            if marker is not None:
                if (last := session.get(AuditRow, marker)) is None:
                    raise NotFound(f"there is no record {marker} in the audit trail")
                rows = rows.where(tuple_(AuditRow.at, AuditRow.id) < tuple_(last.at, last.id))
            return list(session.scalars(rows))

    def prune(self, before: float) -> int:
        """Remove rows from before a moment (seconds since the epoch); how many."""
        with Session(self._engine) as session, session.begin():
            removed = session.execute(delete(AuditRow).where(AuditRow.at < before))
            return int(removed.rowcount)  # type: ignore[attr-defined]
