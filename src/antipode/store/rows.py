# SPDX-License-Identifier: Apache-2.0
"""Rows that one of several processes creates, and those of a VNF that is forgotten."""

from __future__ import annotations

from sqlalchemy import Engine, Update, delete, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session

from antipode.store.tables import (
    LookRow,
    MissedRow,
    PolicyRow,
    ReadinessRow,
    ScheduleRow,
    VnfRow,
)


def created(engine: Engine, row: DeclarativeBase) -> bool:
    """Create a row; whether there was none with its key yet."""
    try:
        with Session(engine) as session, session.begin():
            session.add(row)
    except IntegrityError:
        return False
    return True


def changing(table: type[DeclarativeBase]) -> Update:
    """An update of rows in the database alone. SQLAlchemy looks for objects of the session that
    such an update concerns, which takes as long as the update: there are none here.
    """
    return update(table).execution_options(synchronize_session=False)


def removed(engine: Engine, table: type[VnfRow | PolicyRow], name: str) -> bool:
    """Delete the row of this name; whether there was one."""
    with Session(engine) as session, session.begin():
        gone = session.execute(delete(table).where(table.name == name))
        return bool(gone.rowcount)  # type: ignore[attr-defined]


def forget_vnf(
    engine: Engine, vnf: str, *tables: type[LookRow | ReadinessRow | ScheduleRow | MissedRow]
) -> None:
    """Delete the rows of a VNF in these tables, all or none."""
    with Session(engine) as session, session.begin():
        for table in tables:
            session.execute(delete(table).where(table.vnf == vnf))
