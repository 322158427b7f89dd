"""How a TaskFlow flow is run here: kept in a database, interrupted by signals, its first failure raised as it was."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import taskflow.engines
from taskflow.exceptions import WrappedFailure
from taskflow.persistence import backends, models

from antipode.config import Config
from antipode.errors import AntipodeError, Interrupted

LOG = logging.getLogger(__name__)
Execute = TypeVar("Execute", bound=Callable[..., Any])


def guarded(execute: Execute) -> Execute:
    """For a task's `execute`: makes every way out of it a failure that TaskFlow can keep and revert from.

    A signal would pass through the engine and leave the flow without its reverts; arguments of foreign exceptions may be no
    JSON, which the storage refuses.
    """

    @functools.wraps(execute)
    def guarded_execute(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except AntipodeError:
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            raise Interrupted("interrupted by a signal") from error
        except Exception as error:
            raise AntipodeError(f"unexpected {type(error).__name__}: {error}") from error

    return guarded_execute  # type: ignore[return-value]


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
    """Run a flow to its end; everything that its tasks provided.

    With one worker the tasks run in this thread, so that a signal reaches the task under way; with more they run at once,
    and a signal ends the wait for them.

    Raises:
        AntipodeError: the first failure of a task, as it was raised.
    """
    with closing(backends.fetch({"connection": _flow_database(config)})) as backend:
        with closing(backend.get_connection()) as connection:
            connection.upgrade()
            book = models.LogBook(run)
            connection.save_logbook(book)
        how = {"engine": "serial"} if workers == 1 else {"engine": "parallel", "executor": "threads", "max_workers": workers}
        engine = taskflow.engines.load(flow, backend=backend, book=book, **how)
        try:
            if workers == 1:
                engine.run()
            else:
                _run_beside(engine.run)
        except WrappedFailure as failures:
            for other in list(failures)[1:]:
                LOG.error("failed as well: %s", other.exception_str)
            first = next(iter(failures))
            raise first.exception or AntipodeError(first.exception_str) from failures
        return dict(engine.storage.fetch_all())


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


def _flow_database(config: Config) -> str:
    """Where TaskFlow keeps its flows: a file beside the database, so that neither waits for the other's lock, or the same server."""
    if not config.database.startswith("sqlite:"):
        return config.database
    path: Path = config.state_dir / "flows.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"
