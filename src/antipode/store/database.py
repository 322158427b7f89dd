# SPDX-License-Identifier: Apache-2.0
"""Opens the local database; one process at a time creates or migrates it, completely or not at
all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from antipode import clock
from antipode.errors import AntipodeError, InvalidInput
from antipode.store.files import make_private, one_at_a_time

REVISION = "0021"
"""The newest migration.

Compared first, so that a database that is up to date does not pay for Alembic's import.
"""
VERSION_TABLE = "antipode_version"
"""Not `alembic_version`: TaskFlow keeps its own tables in the same database where that is a server.
"""
MIGRATED_WITHIN_S = 300
IDLE_TRANSACTION_S = 20
"""How long a transaction may be idle: a process that was paused or cut off in the middle of a write
must not keep the run from others.
"""
_MIGRATION_LOCK = 0x616E7469706F6465  # "antipode"
_ENDS_IDLE = {"postgresql": "SET idle_in_transaction_session_timeout = '{seconds}s'"}
# MySQL has no such setting, and takes for a comment what MariaDB executes here
_ENDS_IDLE["mysql"] = _ENDS_IDLE["mariadb"] = (
    "SET @antipode = 1 /*M!100300 , SESSION idle_transaction_timeout = {seconds} */"
)
_SECONDS = {
    "postgresql": "extract(epoch from clock_timestamp())",
    "mysql": "unix_timestamp(sysdate(6))",
}
_SECONDS["mariadb"] = _SECONDS["mysql"]
_EXTRAS = {"postgresql": "postgresql", "mysql": "mariadb", "mariadb": "mariadb"}


def open_database(url: str) -> Engine:
    """Connect to the database at an SQLAlchemy URL and bring its tables up to date.

    Raises:
        InvalidInput: the URL is wrong, or its driver is not installed.
        AntipodeError: the database cannot be opened or migrated, or a newer antipode has migrated
            it.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        given = "" if "@" in url else f" {url}"  # a password may stand before an @
        raise InvalidInput(f"database{given}: {error}") from error
    shown = parsed.render_as_string()  # without the password
    try:
        engine = _connected(parsed)
        with _first_of_its_file(parsed), engine.connect() as connection:
            found = _revision(connection)
        if found is not None and found > REVISION:
            raise AntipodeError(
                f"database {shown} is at revision {found}, made by a newer antipode; this one "
                f"knows {REVISION}: upgrade it"
            )
        if found != REVISION:
            _migrate(parsed)
    except ImportError as error:
        extra = _EXTRAS.get(parsed.get_backend_name())
        cure = f"pip install 'antipode[{extra}]'" if extra else "install its driver"
        raise InvalidInput(f"database {shown}: {error}; {cure}") from error
    except (NoSuchModuleError, ArgumentError) as error:
        raise InvalidInput(f"database {shown}: {error}") from error
    except SQLAlchemyError as error:
        raise AntipodeError(
            f"database {shown} cannot be opened: {error.__cause__ or error}. See that it is up; a "
            "damaged one is restored from a backup"
        ) from error
    except OSError as error:
        raise AntipodeError(f"database {shown}: {error.filename}: {error.strerror}") from error
    return engine


def server_clock(connection: Connection) -> float | None:
    """Seconds since the epoch by the clock of the database server; None for a file of this host."""
    if (expression := _SECONDS.get(connection.dialect.name)) is None:
        return None
    return float(connection.execute(text(f"SELECT {expression}")).scalar_one())


def now(engine: Engine) -> float:
    """Seconds since the epoch by the one clock that all hosts of a database have in common.

    Raises:
        SQLAlchemyError: the database server does not answer.
    """
    if clock.is_simulated() or engine.dialect.name not in _SECONDS:
        return clock.now()
    with engine.connect() as connection:
        there = server_clock(connection)
    assert there is not None  # its dialect has an expression
    return there


def on_server(url: URL, **pool: Any) -> Engine:
    """An engine for a database server. It reconnects to a server that was restarted, and gives up
    in time on one that is cut off.

    Timeouts in the URL take precedence over ours. The server ends a transaction that is idle for
    IDLE_TRANSACTION_S. `pool` limits its connections, as `create_engine` takes it.
    """
    waits: dict[str, dict[str, int]] = {
        "psycopg": {
            "connect_timeout": 10,
            "tcp_user_timeout": 20000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 2,
        },
        "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 20},
    }
    ours = waits.get(url.get_driver_name(), {})
    engine = create_engine(
        url,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={k: v for k, v in ours.items() if k not in url.query},
        **pool,
    )
    if (statement := _ENDS_IDLE.get(url.get_backend_name())) is not None:
        event.listen(engine, "connect", lambda connection, _record: _execute(connection, statement))
    return engine


def _execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement.format(seconds=IDLE_TRANSACTION_S))
    connection.commit()


def _connected(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return on_server(url)
    if (path := _file_of(url)) is not None:
        make_private(path)
    # no message of an error has the values that are written, such as user_data
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _file_of(url: URL) -> Path | None:
    in_a_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)) if in_a_file else None


def _first_of_its_file(url: URL) -> AbstractContextManager[None]:
    """Exclusive access to the file, for the first connection that this process makes to it."""
    path = _file_of(url)
    return nullcontext() if path is None else one_at_a_time(path)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let readers work beside a writer, wait for the lock of another process, and enforce foreign
    keys. The timeout comes first, so that it holds for the others.
    """
    for pragma in (
        "busy_timeout = 30000",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _migrate(url: URL) -> None:
    from alembic import command
    from alembic.config import Config

    with alone(url) as connection:
        if _revision(connection) == REVISION:
            return  # another process has done it while we waited
        config = Config()
        config.set_main_option("script_location", "antipode.store:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes.update(connection=connection, version_table=VERSION_TABLE)
        command.upgrade(config, "head")


@contextmanager
def alone(url: URL) -> Iterator[Connection]:
    """A connection in a transaction that only one process at a time can have.

    Raises:
        AntipodeError: on MariaDB or MySQL, another process has had it for longer than
            `MIGRATED_WITHIN_S`; PostgreSQL ends the other process's transaction instead.
    """
    kind = url.get_backend_name()
    engine = create_engine(url)
    if kind == "sqlite":
        # Python's driver begins transactions late, and not at all for what changes tables
        event.listen(engine, "connect", _prepare_sqlite_to_migrate)
        event.listen(
            engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    try:
        with engine.begin() as connection:
            if kind == "postgresql":
                # a process that is paused or cut off meanwhile must not block the others for ever
                connection.execute(
                    text(f"SET LOCAL idle_in_transaction_session_timeout = '{MIGRATED_WITHIN_S}s'")
                )
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            elif kind in ("mysql", "mariadb"):
                # held by the connection: every change of a table ends the transaction
                if (
                    connection.execute(
                        text(f"SELECT GET_LOCK('{VERSION_TABLE}', {MIGRATED_WITHIN_S})")
                    ).scalar_one()
                    != 1
                ):
                    raise AntipodeError(
                        "another process has been changing the tables of the database for more "
                        f"than {MIGRATED_WITHIN_S} s; its connection"
                        f" there: SELECT IS_USED_LOCK('{VERSION_TABLE}')"
                    )
                if _revision(connection) is None:
                    # as in the other databases: any character, and names are case-sensitive
                    connection.execute(
                        text("ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
                    )
            yield connection
            if kind == "sqlite" and (
                broken := connection.execute(text("PRAGMA foreign_key_check")).all()
            ):
                raise AntipodeError(
                    f"the database was not migrated: {len(broken)} of its rows would refer to "
                    "rows that do not exist"
                )
    finally:
        engine.dispose()


def _prepare_sqlite_to_migrate(connection: Any, record: object) -> None:
    _prepare_sqlite(connection, record)
    # Alembic changes a table by replacing it; references to it are checked at the end
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.isolation_level = None
