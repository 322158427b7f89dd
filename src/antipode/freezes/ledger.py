# SPDX-License-Identifier: Apache-2.0
"""The freeze ledger: which servers may be frozen and until when, durable before any of them is."""

from __future__ import annotations

import uuid

from sqlalchemy import Engine, Select, delete, select, update
from sqlalchemy.orm import Session, aliased

from antipode.store import database
from antipode.store.tables import FreezeRow


class Freezes:
    """Satisfies the `FreezeLedger` of a quiesce window. All moments are by the database's clock:
    a host whose clock is wrong neither unquiesces too early nor too late.
    """

    def __init__(self, engine: Engine, run: str | None = None, project: str | None = None) -> None:
        """`run` is the run whose quiesce windows are noted, `project` that of its VNF."""
        self._engine = engine
        self._run = run
        self._project = project

    def of(self, run: str, project: str | None = None) -> Freezes:
        """The same ledger, for the quiesce windows of this run, of a VNF in this project."""
        return Freezes(self._engine, run, project)

    def now(self) -> float:
        """Seconds since the epoch by the clock that deadlines go by."""
        return database.now(self._engine)

    def freezing(self, site: str, server_id: str, server: str, lasts_s: float) -> str:
        """Note that a server is about to be frozen, for so many seconds from now at most; the key
        of the row, which is durable when this returns.
        """
        key, now = uuid.uuid4().hex, self.now()
        with Session(self._engine) as session, session.begin():
            session.add(
                FreezeRow(
                    id=key,
                    site=site,
                    server_id=server_id,
                    server=server,
                    noted_at=now,
                    deadline=now + lasts_s,
                    run=self._run,
                    project=self._project,
                )
            )
        return key

    def thawed(self, row: str) -> None:
        """Note that a server is confirmed to be unquiesced."""
        now = self.now()
        with Session(self._engine) as session, session.begin():
            session.execute(update(FreezeRow).where(FreezeRow.id == row).values(thawed_at=now))

    def due(self, row: str) -> None:
        """Note that a server must be unquiesced from now on: any reaper does it."""
        now = self.now()
        with Session(self._engine) as session, session.begin():
            session.execute(update(FreezeRow).where(FreezeRow.id == row).values(deadline=now))

    def forget(self, older_than_s: float) -> None:
        """Delete the rows of servers that were unquiesced longer ago."""
        before = self.now() - older_than_s
        with Session(self._engine) as session, session.begin():
            session.execute(delete(FreezeRow).where(FreezeRow.thawed_at < before))

    def overdue(self, site: str, now: float | None = None) -> list[FreezeRow]:
        """The servers of a site that should have been unquiesced before `now` (seconds since the
        epoch, by the database's clock; by default this moment) and are not known to be.

        Servers that a newer row allows to be frozen at `now` are left out: to unquiesce them would
        tear the snapshots of a window under way. The older row stays, as that window may yet be
        refused, and unquiesces only what it has frozen.
        """
        now = self.now() if now is None else now
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(_overdue(site, now).order_by(FreezeRow.noted_at.desc())))

    def open(self) -> list[FreezeRow]:
        """The rows of all servers that are not confirmed to be unquiesced."""
        with Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(select(FreezeRow).where(FreezeRow.thawed_at.is_(None))))

    def left_by(self, run: str) -> list[FreezeRow]:
        """The rows of a run that are not confirmed to be unquiesced, the newest first, whatever
        their deadline. The run must have no window under way.
        """
        with Session(self._engine, expire_on_commit=False) as session:
            left = select(FreezeRow).where(FreezeRow.run == run, FreezeRow.thawed_at.is_(None))
            return list(session.scalars(left.order_by(FreezeRow.noted_at.desc())))

    def is_frozen_rightly(self, site: str, server_id: str) -> bool:
        """Whether a server may be frozen now, by a window whose deadline is not over."""
        rightly = select(FreezeRow.id).where(
            FreezeRow.site == site,
            FreezeRow.server_id == server_id,
            FreezeRow.thawed_at.is_(None),
            FreezeRow.deadline >= self.now(),
        )
        with Session(self._engine) as session:
            return session.scalar(rightly.limit(1)) is not None

    def is_overdue(self, row: FreezeRow, now: float) -> bool:
        """Whether a row is still overdue: its server was not unquiesced meanwhile, and is in no
        window that has begun since.
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
