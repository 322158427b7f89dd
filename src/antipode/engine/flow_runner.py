# SPDX-License-Identifier: Apache-2.0
"""Runs a TaskFlow flow: forward only, stored in a database, resumed by another process, its first
failure raised as it was.

TaskFlow reverts nothing here: all that a run made is found in the clouds and removed by one
function for each kind of run. That works for a run whose process died, and can be killed and
repeated.
"""

from __future__ import annotations

import functools
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import taskflow.engines
from sqlalchemy import create_engine, event, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from taskflow import states
from taskflow.exceptions import NotFound, TaskFlowException, WrappedFailure
from taskflow.persistence import models
from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend

from antipode import libraries, logs
from antipode.config import Config
from antipode.errors import AntipodeError, ClaimLost, Interrupted
from antipode.store.database import alone, on_server
from antipode.store.files import make_private, one_at_a_time

if TYPE_CHECKING:
    from antipode.engine.run import Run

LOG = logging.getLogger(__name__)
Execute = TypeVar("Execute", bound=Callable[..., Any])
BOOKS = uuid.UUID("0f5e3b5c-6c55-4c0e-8f57-1d4c0f1c9a52")
"""The name space of the logbooks' ids, which are derived from those of the runs."""
SIGNAL_S = 0.5
"""How long a signal may go unseen that arrives just before a wait begins: Python handles it between
two waits.
"""
STOPS_WITHIN_S = 3.0
"""How long an interrupted flow may take to come to a safe point before its process ends."""
_LAST_TABLE = "atomdetails"
"""The last table that TaskFlow makes in a new database."""
_up_to_date: set[str] = set()
"""The databases whose tables this process has had TaskFlow bring up to date."""
_making_tables = threading.Lock()
_FEW_CONNECTIONS: dict[str, Any] = {"pool_size": 1, "max_overflow": 4}
"""Each run has a pool of its own, which only the thread of its engine uses."""

# TaskFlow logs a failed task with a traceback; we raise its error instead.
logging.getLogger("taskflow.engines.action_engine.engine").setLevel(logging.CRITICAL)


class _Failed(Exception):
    """A failure as TaskFlow stores it, in words: it writes an exception's arguments and causes as
    JSON, which cannot hold all of them.
    """


class _Backend(SQLAlchemyBackend):  # type: ignore[misc]
    """Keeps its connection object. TaskFlow's own builds its tables, and SQLAlchemy their
    statements, again for every write: a quarter of what a task costs.
    """

    _connection: Any = None

    def get_connection(self) -> Any:
        if self._connection is None:
            self._connection = super().get_connection()
        return self._connection


def guarded(execute: Execute) -> Execute:
    """Decorates the `execute` of a task that has a `run`: it begins only if the run may continue,
    and every failure, signals included, becomes one that TaskFlow can store. The first failure
    stops the tasks beside it at their next safe point.
    """

    @functools.wraps(execute)
    def guarded_execute(task: Any, *args: Any, **kwargs: Any) -> Any:
        run: Run = task.run
        try:
            run.go_on()
            result = execute(task, *args, **kwargs)
            run.timeline.flush()  # a task that is not repeated has its steps in the database
            return result
        except BaseException as error:
            foreseen = _foreseen(error)
            run.failures.append(foreseen)
            run.stop(AntipodeError, f"stopped, because another step failed: {foreseen}")
            failed = _Failed(str(foreseen))
        raise failed

    return guarded_execute  # type: ignore[return-value]


def _foreseen(error: BaseException) -> AntipodeError:
    if isinstance(error, AntipodeError):
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        foreseen: AntipodeError = Interrupted("interrupted by a signal")
    else:
        foreseen = AntipodeError(f"unexpected {type(error).__name__}: {error}")
    foreseen.__cause__ = error
    return foreseen


def run_flow(
    flow: Any, run: Run, workers: int = 1, restart_without: str | None = None
) -> dict[str, Any]:
    """Run a flow, or the rest of it, to its end; everything that its tasks provided.

    With one worker the tasks run in this thread, so that a signal reaches the task under way. With
    more they run concurrently, and a signal ends the wait for them.

    Args:
        restart_without: a task; unless it has finished, all tasks are repeated.

    Raises:
        AntipodeError: the first failure of a task, as it was raised. Tasks that have finished are
            not repeated next time.
    """
    config = run.deployment.config
    with _backend(config) as backend:
        book, detail = _open_book(backend, run, flow.name, restart_without)
        # a pool of our own, because TaskFlow's waits a second for its idle threads in the end
        pool = ThreadPoolExecutor(workers, "task", initializer=logs.adopt, initargs=(run.id,))
        how = {"engine": "serial"} if workers == 1 else {"engine": "parallel", "executor": pool}
        engine = taskflow.engines.load(
            flow, backend=backend, book=book, flow_detail=detail, never_resolve=True, **how
        )
        engine.storage.set_task_progress = _keep_no_progress
        try:
            if workers == 1:
                engine.run()
            else:
                _run_beside(engine.run, run)
        except (_Failed, WrappedFailure, TaskFlowException) as error:
            first = next((f for f in run.failures if isinstance(f, ClaimLost)), None) or next(
                iter(run.failures), None
            )
            if first is None:
                raise AntipodeError(
                    f"the steps of run {run.id} cannot be stored in "
                    f"{_place(run.deployment.config)}: {_why(error)}"
                ) from error
            for other in run.failures:
                if other is not first:
                    LOG.info("stopped as well: %s", other)
            raise first from first.__cause__
        finally:
            pool.shutdown(wait=False)
        return dict(engine.storage.fetch_all())


def _keep_no_progress(*_: object) -> None:
    """Instead of TaskFlow's record of a task's progress, which doubles the writes unread."""


def is_complete(config: Config, run: str) -> bool:
    """Whether all tasks of a run's flow are done.

    Raises:
        AntipodeError: the flow database cannot be read.
    """
    with _connection(config) as connection:
        # of any claim: a later one may have died before it saw that nothing is left to do
        return any(detail.state == states.SUCCESS for detail in _book(connection, run))


def forget(config: Config, run: str) -> None:
    """Delete what is stored of a run's flow, which includes user_data of its servers.

    The run has ended, so a failure is only a warning.
    """
    try:
        with _connection(config) as connection, suppress(NotFound):
            connection.destroy_logbook(_book_id(run))
    except AntipodeError as error:
        LOG.warning(
            "details of run %s, including user_data of its servers, stay in the flow database: %s",
            run,
            error,
        )


def books(config: Config) -> list[str]:
    """The runs whose flows are stored."""
    try:
        with _connection(config) as connection:
            return [book.name for book in connection.get_logbooks(lazy=True)]
    except AntipodeError as error:
        LOG.warning("%s", error)
        return []


def _book_id(run: str) -> str:
    return str(uuid.uuid5(BOOKS, run))


def _book(connection: Any, run: str) -> models.LogBook:
    try:
        return connection.get_logbook(_book_id(run))
    except NotFound:
        return models.LogBook(run, _book_id(run))


def _newest(book: models.LogBook) -> models.FlowDetail | None:
    return max(book, key=lambda detail: int(detail.meta["claim"]), default=None)


def _open_book(
    backend: SQLAlchemyBackend, run: Run, name: str, restart_without: str | None
) -> tuple[models.LogBook, models.FlowDetail]:
    """The logbook of a run and, in it, the details of the flow for this claim, which begin with the
    tasks that finished under the previous claim.

    Each claim has its own, so that a process that has lost its claim, and does not know it yet,
    writes to what is not read any more.
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


def _run_beside(work: Callable[[], None], run: Run) -> None:
    """Do the work in a thread and wait for it where signals arrive: TaskFlow's own wait lasts until
    the slowest task has ended.
    """
    failure: list[BaseException] = []

    def work_and_tell() -> None:
        logs.adopt(run.id)
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work_and_tell, name="flow", daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(SIGNAL_S)
    except KeyboardInterrupt:
        run.stop(Interrupted, "interrupted by a signal")
        thread.join(STOPS_WITHIN_S)
        raise
    if failure:
        raise failure[0]


def _place(config: Config) -> str:
    """The flow database, for people."""
    if config.is_sqlite:
        return f"the flow database {_file(config)}"
    return f"the flow database {make_url(config.database).render_as_string()}"


def _file(config: Config) -> Path:
    return config.state_dir / "flows.db"


@contextmanager
def _connection(config: Config) -> Iterator[Any]:
    """TaskFlow's connection to where its flows are kept.

    Raises:
        AntipodeError: as `_backend`.
    """
    with _backend(config) as backend, closing(backend.get_connection()) as connection:
        yield connection


@contextmanager
def _backend(config: Config) -> Iterator[SQLAlchemyBackend]:
    """The place where TaskFlow stores flows: a file beside the database, so that neither waits for
    the other's lock, or the same server.

    Raises:
        AntipodeError: it cannot be used, or TaskFlow is of a release that does not fit.
    """
    libraries.check(libraries.TASKFLOW, libraries.FLOWS)
    try:
        if config.is_sqlite:
            make_private(_file(config))
            engine = create_engine(
                f"sqlite:///{_file(config)}", hide_parameters=True, **_FEW_CONNECTIONS
            )
            event.listen(engine, "connect", _prepare_sqlite)
        else:
            engine = on_server(make_url(config.database), **_FEW_CONNECTIONS)
        try:
            with closing(_Backend({}, engine=engine)) as backend:
                _make_tables(config, backend)
                yield backend
        finally:
            engine.dispose()
    except (TaskFlowException, SQLAlchemyError, OSError) as error:
        cure = (
            ". If it is damaged, move it away: open runs then repeat their steps, and find what "
            "they have made"
        )
        raise AntipodeError(
            f"{_place(config)} cannot be used: {_why(error)}{cure if config.is_sqlite else ''}",
            resource=_place(config),
        ) from error


def _why(error: BaseException) -> str:
    """What the database says, without TaskFlow's and SQLAlchemy's words about it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _make_tables(config: Config, backend: SQLAlchemyBackend) -> None:
    """Have TaskFlow make its tables, or bring them up to date, unless this process has done so and
    they are there still.

    Only one process at a time can do that, and only one thread, as Alembic knows of one migration
    at a time. The first connection to a file is made in the same way, see `one_at_a_time`.
    """
    place = str(_file(config)) if config.is_sqlite else config.database
    with (
        one_at_a_time(_file(config)) if config.is_sqlite else _making_tables,
        closing(backend.get_connection()) as connection,
    ):
        if place in _up_to_date and inspect(backend.engine).has_table(_LAST_TABLE):
            return
        with nullcontext() if config.is_sqlite else alone(make_url(config.database)):
            connection.upgrade()
        _up_to_date.add(place)


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
