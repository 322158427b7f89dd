"""Opening the local database: made and migrated when it needs to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from antipode.errors import AntipodeError, InvalidInput

REVISION = "0002"
"""The newest migration. Compared first, so that a database that is up to date does not pay for Alembic's import."""
VERSION_TABLE = "antipode_version"
"""Not `alembic_version`: TaskFlow keeps its own tables in the same database where that is a server."""


def open_database(url: str) -> Engine:
    """Connect to the database at an SQLAlchemy URL and bring its tables up to date.

    Raises:
        InvalidInput: the URL is wrong.
        AntipodeError: the database cannot be opened or migrated.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
            # nobody else's to read, as VNF files and results of runs are; what SQLite puts beside it has the same mode
            Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(parsed.database).touch(mode=0o600)
        engine = create_engine(parsed)
    except (SQLAlchemyError, ImportError) as error:
        raise InvalidInput(f"database {url}: {error}") from error
    except OSError as error:
        raise AntipodeError(f"database {url}: {error.filename}: {error.strerror}") from error
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    try:
        with engine.begin() as connection:
            _migrate(connection)
    except SQLAlchemyError as error:
        raise AntipodeError(f"database {parsed.render_as_string()} cannot be opened: {error.__cause__ or error}") from error
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers beside a writer, a patient wait for the lock of another process, and foreign keys that mean something."""
    for pragma in ("journal_mode = WAL", "busy_timeout = 30000", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _migrate(connection: Connection) -> None:
    if inspect(connection).has_table(VERSION_TABLE):
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if found == REVISION:
            return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "antipode.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, "head")
