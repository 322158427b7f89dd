# SPDX-License-Identifier: Apache-2.0
"""New databases of tests: made by the statements that the migrations come to, and with queries that
are compiled once for all of them.
"""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import URL, Engine, make_url

from antipode.store import database

migrate = database._migrate
"""Alembic's way, revision by revision."""
connected = database._connected
_engines: dict[str, Engine] = {}
"""The first of each driver."""


def make_tables(url: URL) -> None:
    """Instead of `migrate`: an SQLite database that is empty gets its tables at once."""
    if url.get_backend_name() == "sqlite":
        with database.alone(url) as connection:
            found = database._revision(connection)
            if found is None:
                for statement in _statements():
                    connection.exec_driver_sql(statement)
                return
            if found == database.REVISION:
                return  # another process has done it while we waited
    migrate(url)


@functools.cache
def _statements() -> list[str]:
    """What is in a database that was migrated from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "migrated.db"
        migrate(make_url(f"sqlite:///{file}"))
        migrated = sqlite3.connect(file)
        try:
            dump = list(migrated.iterdump())
        finally:
            migrated.close()
    return [s for s in dump if s not in ("BEGIN TRANSACTION;", "COMMIT;")]


def connect(url: URL) -> Engine:
    """Instead of `connected`: SQLite's engines have one cache of compiled queries among them, and
    the dialect that it belongs to.
    """
    engine = connected(url)
    if url.get_backend_name() == "sqlite":
        first = _engines.setdefault(url.drivername, engine)
        engine.dialect = engine.pool._dialect = first.dialect
        engine._compiled_cache = first._compiled_cache
    return engine
