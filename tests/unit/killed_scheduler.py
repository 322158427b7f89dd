# SPDX-License-Identifier: Apache-2.0
"""A scheduler that is killed by SIGKILL before and after each statement that it sends to the
database; `python -m tests.unit.killed_scheduler CONFIG FIRST-SLOT`.

For each of these moments there is a slot: one process is killed there, the next one continues, and
the run that it finds is ended. The slots are printed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable

from sqlalchemy import event

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.service.scheduler import Scheduler

INTERVAL_S = 900.0


def in_a_process(work: Callable[[], None]) -> int:
    """Do this in a process of its own; the signal that has ended it, or 0."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0
    return 0


def kill_at(deployment: Deployment, moment: int | None, *, writes_only: bool = False) -> None:
    """Kill this process at one of the moments before and after its statements; None: never.

    Args:
        writes_only: what only reads has no such moments: it lies between the others.
    """
    left = [moment or -1]

    def count(*about: object) -> None:
        statement = str(about[2]) if len(about) > 2 else ""
        if writes_only and statement.startswith(("SELECT", "PRAGMA", "BEGIN")):
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for kind in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(deployment.database, kind, count)


def look(path: str, now: float, killed_at: int | None = None) -> None:
    deployment = Deployment(config.load(path))
    kill_at(deployment, killed_at)
    Scheduler(deployment, lambda: now).look()


def continue_and_end(path: str, now: float) -> None:
    look(path, now)
    deployment = Deployment(config.load(path))
    for row in deployment.runs.open():
        deployment.runs.end(row.id, row.claim, "succeeded", time.time(), None, {})


def import_all(path: str) -> None:
    """Have here what each process would have to import for itself."""
    deployment = Deployment(config.load(path))
    assert deployment.runs.open() == []
    deployment.database.dispose()  # a connection is of one process
    gc.collect()
    gc.freeze()


def main(path: str, first: float) -> None:
    import_all(path)
    slots: list[float] = []
    while True:
        slot = first + len(slots) * INTERVAL_S
        slots.append(slot)
        killed = in_a_process(lambda at=slot: look(path, at, len(slots)))  # type: ignore[misc]
        in_a_process(lambda at=slot: continue_and_end(path, at))  # type: ignore[misc]
        if not killed:
            break
    print(json.dumps(slots))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
