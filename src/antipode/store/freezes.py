"""The freeze ledger: which servers may be frozen and until when, durable before any of them is."""

from __future__ import annotations

import time
import uuid
from datetime import datetime

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from antipode.store.tables import FreezeRow


class Freezes:
    """Satisfies `protect.quiesce.FreezeLedger`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def freezing(self, site: str, server_id: str, server: str, deadline: datetime) -> str:
        """Note that a server is about to be frozen, not longer than until `deadline`; the key of the row, which is durable by then."""
        key = uuid.uuid4().hex
        with Session(self._engine) as session, session.begin():
            session.add(
                FreezeRow(id=key, site=site, server_id=server_id, server=server, noted_at=time.time(), deadline=deadline.timestamp())
            )
        return key

    def thawed(self, row: str) -> None:
        """Note that the thaw of a server was confirmed."""
        with Session(self._engine) as session, session.begin():
            session.execute(update(FreezeRow).where(FreezeRow.id == row).values(thawed_at=time.time()))

    def overdue(self, site: str, now: float) -> list[FreezeRow]:
        """The servers of a site that should have been thawed before `now` (seconds since the epoch) and are not known to be."""
        with Session(self._engine, expire_on_commit=False) as session:
            wanted = select(FreezeRow).where(FreezeRow.site == site, FreezeRow.thawed_at.is_(None), FreezeRow.deadline < now)
            return list(session.scalars(wanted.order_by(FreezeRow.noted_at.desc())))
