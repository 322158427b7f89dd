"""How a TaskFlow flow is run here: forward only, kept in a database, gone on with by another
process, its first failure raised as it was.

TaskFlow reverts nothing here: what a run made is found in the clouds and removed by one function
for each kind of run, which works as well for a run whose process died, and can itself be killed and
done again.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import taskflow.engines
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from taskflow import states
from taskflow.exceptions import NotFound, TaskFlowException, WrappedFailure
from taskflow.persistence import models
from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend

from antipode import logs, private
from antipode.config import Config
from antipode.errors import AntipodeError, ClaimLost, Interrupted
from antipode.store.database import alone, on_server

if TYPE_CHECKING:
    from antipode.engine.run import Run

LOG = logging.getLogger(__name__)
Execute = TypeVar("Execute", bound=Callable[..., Any])
BOOKS = uuid.UUID("0f5e3b5c-6c55-4c0e-8f57-1d4c0f1c9a52")
"""The name space of the logbooks' ids, which are made of those of the runs."""
SIGNAL_S = 0.5
"""A signal that comes just before a wait begins does not end it (Python sees it between two waits):
so long it may then be unseen.
"""
STOPS_WITHIN_S = 3.0
"""How long an interrupted flow may take to come to a safe point before its process ends."""
_with_tables: set[str] = set()
"""The databases on servers in which this process has seen to TaskFlow's tables."""
_making_tables = threading.Lock()

# It logs a failed task with its traceback as something bad that must have happened; we raise it.
logging.getLogger("taskflow.engines.action_engine.engine").setLevel(logging.CRITICAL)


class _Failed(Exception):
    """What TaskFlow keeps of a failure: words.

    It stores an exception's arguments and causes as JSON, which not all of them are.
    """


class _Backend(SQLAlchemyBackend):  # type: ignore[misc]
    """TaskFlow's own makes its tables, and SQLAlchemy their statements, anew for every write: a
    quarter of what a task costs.
    """

    _connection: Any = None

    def get_connection(self) -> Any:
        if self._connection is None:
            self._connection = super().get_connection()
        return self._connection


def guarded(execute: Execute) -> Execute:
    """For the `execute` of a task that has a `run`: begins only if the run may go on, and makes
    every way out of it, signals included, a failure that TaskFlow can keep. The first failure stops
    the tasks beside it at their next safe point.
    """

    @functools.wraps(execute)
    def guarded_execute(task: Any, *args: Any, **kwargs: Any) -> Any:
        run: Run = task.run
        try:
            run.go_on()
            result = execute(task, *args, **kwargs)
            run.timeline.flush()  # a task that is not done again has its steps in the database
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
    flow: Any, run: Run, workers: int = 1, anew_without: str | None = None
) -> dict[str, Any]:
    """Run a flow, or what is left of it, to its end; everything that its tasks provided.

    With one worker the tasks run in this thread, so that a signal reaches the task under way; with
    more they run at once, and a signal ends the wait for them.

    Args:
        anew_without: a task; unless it was finished, all are done anew.

    Raises:
        AntipodeError: the first failure of a task, as it was raised. The tasks that were finished
            are not done again next time.
    """
    config = run.deployment.config
    with _database_named(config), _backend(config) as backend:
        book, detail = _open_book(backend, run, flow.name, anew_without)
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
                raise AntipodeError(f"the steps of run {run.id} cannot be kept: {error}") from error
            for other in run.failures:
                if other is not first:
                    LOG.info("stopped as well: %s", other)
            raise first from first.__cause__
        finally:
            pool.shutdown(wait=False)
        return dict(engine.storage.fetch_all())


def _keep_no_progress(*_: object) -> None:
    """Nobody reads what TaskFlow keeps of a task's progress; it doubles the writes."""


def is_complete(config: Config, run: str) -> bool:
    """Whether all tasks of a run's flow are done.

    Raises:
        AntipodeError: the flow database cannot be read.
    """
    with _connection(config) as connection:
        # of any claim: a later one may have died before it saw that nothing is left to be done
        return any(detail.state == states.SUCCESS for detail in _book(connection, run))


def forget(config: Config, run: str) -> None:
    """Delete what is kept of a run's flow, user_data of its servers among it.

    The run has ended: that this fails is a warning.
    """
    try:
        with _connection(config) as connection, suppress(NotFound):
            connection.destroy_logbook(_book_id(run))
    except AntipodeError as error:
        LOG.warning(
            "details of run %s, user_data of its servers among them, are not deleted: %s",
            run,
            error,
        )


def books(config: Config) -> list[str]:
    """The runs of which a flow is kept."""
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
    backend: SQLAlchemyBackend, run: Run, name: str, anew_without: str | None
) -> tuple[models.LogBook, models.FlowDetail]:
    """The logbook of a run and, in it, the details of the flow for this claim: what the claim
    before has finished is in them.

    Each claim has its own, so that a process that has lost its claim, and does not know yet, writes
    to what nobody reads any more.
    """
    with closing(backend.get_connection()) as connection:
        book = _book(connection, run.id)
        before = _newest(book)
        detail = models.FlowDetail(name, str(uuid.uuid5(BOOKS, f"{run.id}/{run.claim.number}")))
        detail.meta = {"claim": run.claim.number}
        finished = [atom for atom in before or () if atom.state == states.SUCCESS]
        if anew_without is None or anew_without in {atom.name for atom in finished}:
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


@contextmanager
def _connection(config: Config) -> Iterator[Any]:
    """TaskFlow's connection to where its flows are kept.

    Raises:
        AntipodeError: as `_database_named`.
    """
    with (
        _database_named(config),
        _backend(config) as backend,
        closing(backend.get_connection()) as connection,
    ):
        yield connection


@contextmanager
def _database_named(config: Config) -> Iterator[None]:
    """Name the flow database in what goes wrong with it.

    Raises:
        AntipodeError: it cannot be read or written.
    """
    try:
        yield
    except (TaskFlowException, SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or error.__cause__ or error
        place = f"flow database {_flows(config)}" if config.is_sqlite else "flow database"
        raise AntipodeError(
            f"{place} cannot be used: {reason}. Restore it, or move it away: a run that is resumed "
            "then does its steps again",
            resource=place,
        ) from error


def _flows(config: Config) -> Path:
    return config.state_dir / "flows.db"


@contextmanager
def _backend(config: Config) -> Iterator[SQLAlchemyBackend]:
    """Where TaskFlow keeps its flows: a file beside the database, so that neither waits for the
    other's lock, or the same server.
    """
    if config.is_sqlite:
        path = _flows(config)
        private.touch(path)
        engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        engine = on_server(make_url(config.database))
    try:
        with closing(_Backend({}, engine=engine)) as backend:
            _make_tables(config, backend)
            yield backend
    finally:
        engine.dispose()


def _make_tables(config: Config, backend: SQLAlchemyBackend) -> None:
    """Have TaskFlow make its tables, or bring them up to date. Whoever does that at the same time,
    as the first runs of a new installation do, trips over the other: processes over the tables, and
    threads over Alembic, which knows of one migration at a time.
    """
    with closing(backend.get_connection()) as connection:
        if config.is_sqlite:
            with _one_at_a_time(config.state_dir / "flows.lock"):
                connection.upgrade()
            return
        with _making_tables:
            if config.database not in _with_tables:
                with alone(make_url(config.database)):
                    connection.upgrade()
                _with_tables.add(config.database)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Two processes of this host that make TaskFlow's tables at once, the first runs of a new
    installation, trip over each other.
    """
    private.touch(path)
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let a logbook take all that is in it along when it is deleted, bytes on the disk included;
    spare the disk otherwise.

    Survive a killed process, not a power cut: a task whose end was lost with the power is done
    again, and finds what it had made.

    A write that waits for the disk at every change of every task costs a protection a twentieth of
    its time.
    """
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "busy_timeout = 30000",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
