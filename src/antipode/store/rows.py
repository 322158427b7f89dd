# SPDX-License-Identifier: Apache-2.0
"""Rows that one of several processes creates."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session


def created(engine: Engine, row: DeclarativeBase) -> bool:
    """Create a row; whether there was none with its key yet."""
    try:
        with Session(engine) as session, session.begin():
            session.add(row)
    except IntegrityError:
        return False
    return True
