"""How a TaskFlow flow is run here: kept in a database, interrupted by signals, its first failure raised as it was."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import taskflow.engines
from sqlalchemy import create_engine, event
from taskflow.exceptions import TaskFlowException, WrappedFailure
from taskflow.persistence import models
from taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend

from antipode.config import Config
from antipode.errors import AntipodeError, Interrupted

LOG = logging.getLogger(__name__)
Execute = TypeVar("Execute", bound=Callable[..., Any])


class _Failed(Exception):
    """What TaskFlow keeps of a failure: words. It stores an exception's arguments and causes as JSON, which not all of them are."""

    def __init__(self, error: AntipodeError) -> None:
        super().__init__(str(error))
        self.error = error


def guarded(execute: Execute) -> Execute:
    """For a task's `execute`: makes every way out of it, signals included, a failure that TaskFlow can keep and revert from."""

    @functools.wraps(execute)
    def guarded_execute(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except BaseException as error:
            failed = _Failed(_foreseen(error))
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


def undone(revert: Execute) -> Execute:
    """For a task's `revert`: what goes wrong is logged, never raised, as a revert that raises ends the reverts of all other tasks."""

    @functools.wraps(revert)
    def undone_revert(*args: Any, **kwargs: Any) -> Any:
        try:
            return revert(*args, **kwargs)
        except Exception as error:
            LOG.error("could not be undone (%s): %s", type(args[0]).__name__, error)

    return undone_revert  # type: ignore[return-value]


def run_flow(flow: Any, run: str, config: Config, workers: int = 1) -> dict[str, Any]:
    """Run a flow to its end; everything that its tasks provided. A flow that succeeds leaves nothing: a topology holds user_data.

    With one worker the tasks run in this thread, so that a signal reaches the task under way; with more they run at once,
    and a signal ends the wait for them.

    Raises:
        AntipodeError: the first failure of a task, as it was raised.
    """
    with _backend(config) as backend:
        with closing(backend.get_connection()) as connection:
            connection.upgrade()
            book = models.LogBook(run)
            connection.save_logbook(book)
        # a pool of our own, because TaskFlow's waits a second for its idle threads in the end
        pool = ThreadPoolExecutor(workers, "task")
        how = {"engine": "serial"} if workers == 1 else {"engine": "parallel", "executor": pool}
        engine = taskflow.engines.load(flow, backend=backend, book=book, **how)
        try:
            if workers == 1:
                engine.run()
            else:
                _run_beside(engine.run)
        except _Failed as failed:
            raise failed.error from failed.error.__cause__
        except WrappedFailure as failures:
            first, *others = failures
            for other in others:
                LOG.error("failed as well: %s", other.exception_str)
            raise getattr(first.exception, "error", None) or AntipodeError(first.exception_str) from failures
        finally:
            pool.shutdown(wait=False)
        results = dict(engine.storage.fetch_all())
        _forget(backend, book)
        return results


def _forget(backend: SQLAlchemyBackend, book: models.LogBook) -> None:
    """Delete what is kept of a flow. What it has made is made: that its book stays is a warning, and no failure of the run."""
    try:
        with closing(backend.get_connection()) as connection:
            connection.destroy_logbook(book.uuid)
    except TaskFlowException as error:
        LOG.warning("details of run %s, user_data of its servers among them, stay in the flow database: %s", book.name, error)


def _run_beside(work: Callable[[], None]) -> None:
    """Do the work in a thread and wait for it where signals arrive: TaskFlow's own wait lasts until the slowest task has ended."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="flow", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


@contextmanager
def _backend(config: Config) -> Iterator[SQLAlchemyBackend]:
    """Where TaskFlow keeps its flows: a file beside the database, so that neither waits for the other's lock, or the same server."""
    if config.database.startswith("sqlite:"):
        path = config.state_dir / "flows.db"
        path.touch(mode=0o600)
        engine = create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        engine = create_engine(config.database)
    try:
        with closing(SQLAlchemyBackend({}, engine=engine)) as backend:
            yield backend
    finally:
        engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let a logbook take all that is in it along when it is deleted, bytes on the disk included; spare the disk otherwise.

    Survive a killed process, not a power cut: a task whose end was lost with the power is done again, and finds what it had made.

    A write that waits for the disk at every change of every task costs a protection a twentieth of its time.
    """
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 30000", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
