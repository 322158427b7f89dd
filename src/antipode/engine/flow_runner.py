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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import taskflow.engines
from taskflow.exceptions import TaskFlowException, WrappedFailure
from taskflow.patterns import graph_flow
from taskflow.types.graph import DiGraph

from antipode import logs
from antipode.engine.flows import in_words, open_book
from antipode.errors import AntipodeError, ClaimLost, Interrupted

if TYPE_CHECKING:
    from antipode.engine.run import Run

LOG = logging.getLogger(__name__)
Execute = TypeVar("Execute", bound=Callable[..., Any])
SIGNAL_S = 0.5
"""How long a signal may go unseen that arrives just before a wait begins: Python handles it between
two waits.
"""
STOPS_WITHIN_S = 3.0
"""How long an interrupted flow may take to come to a safe point before its process ends."""

# TaskFlow logs a failed task with a traceback; we raise its error instead.
logging.getLogger("taskflow.engines.action_engine.engine").setLevel(logging.CRITICAL)


class _Failed(Exception):
    """A failure as TaskFlow stores it, in words: it writes an exception's arguments and causes as
    JSON, which cannot hold all of them.
    """


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


class _Graph(graph_flow.Flow):  # type: ignore[misc]
    """Has all its links made at once. TaskFlow's `link` copies the graph for each of them, which
    takes seconds where there are hundreds of servers.
    """

    def link_all(self, links: Iterable[tuple[Any, Any]]) -> None:
        graph = DiGraph(self._graph)
        for before, after in links:
            self._link(before, after, graph=graph, manual=True)
        self._swap(graph)


def graph_of(name: str, tasks: Iterable[Any], links: Iterable[tuple[Any, Any]]) -> Any:
    """A flow whose tasks run as soon as those have ended that provide what they need.

    Args:
        links: pairs of tasks, of which the second also waits for the first.
    """
    flow = _Graph(name).add(*tasks)
    flow.link_all(links)
    return flow


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
    flows = run.deployment.flows
    with flows.backend() as backend:
        book, detail = open_book(backend, run, flow.name, restart_without)
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
                    f"{flows.place}: {in_words(error)}"
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
