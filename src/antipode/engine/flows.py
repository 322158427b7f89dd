# SPDX-License-Identifier: Apache-2.0
"""The flow database: where TaskFlow keeps which steps of a run have finished, and what they
provided.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from taskflow import states
from taskflow.exceptions import NotFound, TaskFlowException
from taskflow.persistence import models
from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend

from antipode import libraries
from antipode.config import Config
from antipode.errors import AntipodeError
from antipode.store.database import alone, on_server
from antipode.store.files import make_private, one_at_a_time

if TYPE_CHECKING:
    from antipode.engine.run import Run

LOG = logging.getLogger(__name__)
BOOKS = uuid.UUID("0f5e3b5c-6c55-4c0e-8f57-1d4c0f1c9a52")
"""The name space of the logbooks' ids, which are derived from those of the runs."""
_LAST_TABLE = "atomdetails"
"""The last table that TaskFlow makes in a new database."""
_making_tables = threading.Lock()
"""Alembic knows of one migration at a time."""
_CONNECTIONS: dict[str, Any] = {"pool_size": 5, "max_overflow": -1}
"""A few are kept. Each run that writes at a moment needs one, and none waits for another run's."""


class Backend(SQLAlchemyBackend):  # type: ignore[misc]
    """TaskFlow's way to a database. It keeps its connection object: TaskFlow's own builds its
    tables, and SQLAlchemy their statements, again for every write, a quarter of what a task costs.
    """

    _connection: Any = None

    def get_connection(self) -> Any:
        if self._connection is None:
            self._connection = super().get_connection()
        return self._connection


class Flows:
    """The flow database of one installation: a file beside the database, so that neither waits for
    the other's lock, or the same server.

    It is opened at its first use, for all runs of the process and their threads, and again after a
    failure, in a process that was forked, and when it was removed or replaced meanwhile.
    """

    def __init__(self, config: Config) -> None:
        self._url = make_url(config.database)
        self._file = config.state_dir / "flows.db" if config.is_sqlite else None
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        self._process = 0
        self._inode: tuple[int, int] | None = None

    @property
    def place(self) -> str:
        """The flow database, for people."""
        return f"the flow database {self._file or self._url.render_as_string()}"

    @contextmanager
    def backend(self) -> Iterator[Backend]:
        """TaskFlow's way to it.

        Raises:
            AntipodeError: it cannot be used, or TaskFlow is of a release that does not fit.
        """
        libraries.check(libraries.TASKFLOW, libraries.FLOWS)
        try:
            with self._lock:
                backend = self._of_this_process()
            yield backend
        except (TaskFlowException, SQLAlchemyError, OSError) as error:
            with self._lock:
                self._close()
            cure = (
                ". If it is damaged, move it away: open runs then repeat their steps, and find what"
                " they have made"
            )
            raise AntipodeError(
                f"{self.place} cannot be used: {in_words(error)}{cure if self._file else ''}",
                resource=self.place,
            ) from error

    def is_complete(self, run: str) -> bool:
        """Whether all tasks of a run's flow are done.

        Raises:
            AntipodeError: the flow database cannot be read.
        """
        with self._connection() as connection:
            # of any claim: a later one may have died before it saw that nothing is left to do
            return any(detail.state == states.SUCCESS for detail in _book(connection, run))

    def forget(self, run: str) -> None:
        """Delete what is stored of a run's flow, which includes user_data of its servers.

        The run has ended, so a failure is only a warning.
        """
        try:
            with self._connection() as connection, suppress(NotFound):
                connection.destroy_logbook(_book_id(run))
                if self._file is not None and not _empty_log(connection.backend.engine):
                    raise AntipodeError(f"{self.place} is in use")
        except AntipodeError as error:
            LOG.warning(
                "details of run %s, including user_data of its servers, stay in the flow database:"
                " %s",
                run,
                error,
            )

    def books(self) -> list[str]:
        """The runs whose flows are stored."""
        try:
            with self._connection() as connection:
                return [book.name for book in connection.get_logbooks(lazy=True)]
        except AntipodeError as error:
            LOG.warning("%s", error)
            return []

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """
        Raises:
            AntipodeError: as `backend`.
        """
        with self.backend() as backend, closing(backend.get_connection()) as connection:
            yield connection

    def _of_this_process(self) -> Backend:
        if self._backend is not None and not self._is_there_still(self._backend.engine):
            self._close()
        if self._backend is None:
            self._backend = self._open()
        return self._backend

    def _is_there_still(self, engine: Engine) -> bool:
        if self._process != os.getpid():
            return False
        if self._file is None:
            return inspect(engine).has_table(_LAST_TABLE)
        return self._inode == _inode(self._file)

    def _open(self) -> Backend:
        """Have TaskFlow make its tables, or bring them up to date.

        Only one process at a time can do that. The first connection to a file is made in the same
        way, see `one_at_a_time`.
        """
        self._process = os.getpid()
        if self._file is None:
            engine = on_server(self._url, **_CONNECTIONS)
        else:
            make_private(self._file)
            self._inode = _inode(self._file)
            engine = create_engine(f"sqlite:///{self._file}", hide_parameters=True, **_CONNECTIONS)
            event.listen(engine, "connect", _prepare_sqlite)
        backend = Backend({}, engine=engine)
        try:
            with (
                _making_tables if self._file is None else one_at_a_time(self._file),
                closing(backend.get_connection()) as connection,
                alone(self._url) if self._file is None else nullcontext(),
            ):
                connection.upgrade()
            if self._file is not None:
                _empty_log(engine)  # a process may have been killed before it did so
        except BaseException:
            engine.dispose()
            raise
        return backend

    def _close(self) -> None:
        """Let go of the connections that are idle; one in use is closed when its run returns it.
        Those of the process that this one was forked from are left alone.
        """
        if self._backend is not None:
            self._backend.engine.dispose(close=self._process == os.getpid())
            self._backend = None


def open_book(
    backend: Backend, run: Run, name: str, restart_without: str | None
) -> tuple[models.LogBook, models.FlowDetail]:
    """The logbook of a run and, in it, the details of the flow for this claim, which begin with the
    tasks that finished under the previous claim.

    Each claim has its own, so that a process that has lost its claim, and does not know it yet,
    writes to what is not read any more.

    Args:
        name: of the flow.
        restart_without: a task; unless it has finished, none counts as finished.
    """
    with closing(backend.get_connection()) as connection:
        book = _book(connection, run.id)
        before = _newest(book)
        detail = models.FlowDetail(name, str(uuid.uuid5(BOOKS, f"{run.id}/{run.claim.number}")))
        detail.meta = {"claim": run.claim.number}
        finished = [atom for atom in before or () if atom.state == states.SUCCESS]
        if restart_without is None or restart_without in {atom.name for atom in finished}:
            for atom in finished:
                detail.add(
                    models.TaskDetail.from_dict({**atom.to_dict(), "uuid": str(uuid.uuid4())})
                )
        book.add(detail)
        connection.save_logbook(book)
    return book, detail


def in_words(error: BaseException) -> str:
    """What the database says, without TaskFlow's and SQLAlchemy's words about it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _book_id(run: str) -> str:
    return str(uuid.uuid5(BOOKS, run))


def _book(connection: Any, run: str) -> models.LogBook:
    try:
        return connection.get_logbook(_book_id(run))
    except NotFound:
        return models.LogBook(run, _book_id(run))


def _newest(book: models.LogBook) -> models.FlowDetail | None:
    return max(book, key=lambda detail: int(detail.meta["claim"]), default=None)


def _inode(file: Path) -> tuple[int, int] | None:
    """What a path leads to: a file that was moved away can still be written to."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _empty_log(engine: Engine) -> bool:
    """Move all changes from SQLite's write-ahead log to the file, and forget what the log held;
    whether no other connection was in the way.
    """
    with engine.connect() as connection:
        in_the_way, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not in_the_way


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Delete all of a logbook with it, bytes on the disk included, and do not wait for the disk
    otherwise.

    That survives a killed process, not a power cut: a task whose end was lost with the power is
    repeated, and finds what it had made. Waiting for the disk at every change of every task would
    cost a protection a twentieth of its time.
    """
    for pragma in (
        "busy_timeout = 30000",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
