"""The freeze ledger: which servers may be frozen and until when, durable before any of them is."""

from __future__ import annotations

import time
import uuid
from datetime import datetime

from sqlalchemy import Engine, Select, delete, select, update
from sqlalchemy.orm import Session, aliased

from antipode.store.tables import FreezeRow


class Freezes:
    """Satisfies `protect.quiesce.FreezeLedger`."""

    def __init__(self, engine: Engine, run: str | None = None) -> None:
        """`run` is whose windows are noted."""
        self._engine = engine
        self._run = run

    def of(self, run: str) -> Freezes:
        """The same ledger, what is noted in it being of this run."""
        return Freezes(self._engine, run)

    def freezing(self, site: str, server_id: str, server: str, deadline: datetime) -> str:
        """Note that a server is about to be frozen, not longer than until `deadline`; the key of
        the row, which is durable by then.
        """
        key = uuid.uuid4().hex
        with Session(self._engine) as session, session.begin():
            session.add(
                FreezeRow(
                    id=key,
                    site=site,
                    server_id=server_id,
                    server=server,
                    noted_at=time.time(),
                    deadline=deadline.timestamp(),
                    run=self._run,
                )
            )
        return key

    def thawed(self, row: str) -> None:
        """Note that the thaw of a server was confirmed."""
        with Session(self._engine) as session, session.begin():
            session.execute(
                update(FreezeRow).where(FreezeRow.id == row).values(thawed_at=time.time())
            )

    def forget(self, before: float) -> None:
        """Delete what was thawed before that moment (seconds since the epoch)."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(FreezeRow).where(FreezeRow.thawed_at < before))

    def overdue(self, site: str, now: float) -> list[FreezeRow]:
        """The servers of a site that should have been thawed before `now` (seconds since the epoch)
        and are not known to be.

        Not those that a newer row allows to be frozen at `now`: to thaw them would tear the
        snapshots of a window that runs. The older row stays, since that window may yet be refused,
        and does not thaw what it did not freeze.
        """
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(_overdue(site, now).order_by(FreezeRow.noted_at.desc())))

    def left_by(self, run: str) -> list[FreezeRow]:
        """What a run, of which nobody is in a window any more, has noted and not thawed, the newest
        first; deadline or not.
        """
        with Session(self._engine, expire_on_commit=False) as session:
            left = select(FreezeRow).where(FreezeRow.run == run, FreezeRow.thawed_at.is_(None))
            return list(session.scalars(left.order_by(FreezeRow.noted_at.desc())))

    def is_overdue(self, row: FreezeRow, now: float) -> bool:
        """Whether a row is overdue still: not thawed meanwhile, and no window has begun that its
        server is a member of.
        """
        with Session(self._engine) as session:
            return session.scalar(_overdue(row.site, now).where(FreezeRow.id == row.id)) is not None


def _overdue(site: str, now: float) -> Select[FreezeRow]:
    window = aliased(FreezeRow)
    frozen_rightly = (
        select(window.id)
        .where(
            window.site == FreezeRow.site,
            window.server_id == FreezeRow.server_id,
            window.thawed_at.is_(None),
            window.deadline >= now,
        )
        .exists()
    )
    return select(FreezeRow).where(
        FreezeRow.site == site,
        FreezeRow.thawed_at.is_(None),
        FreezeRow.deadline < now,
        ~frozen_rightly,
    )
