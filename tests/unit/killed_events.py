# SPDX-License-Identifier: Apache-2.0
"""What notices events and delivers them, killed by SIGKILL before and after each write to the
database; `python -m tests.unit.killed_events CONFIG FIRST-MOMENT LOG`.

For each of these moments there is a run that has begun and ended, and that waits for an operator:
one process is killed there, and another one continues after the time for which the first may have
taken an event. The runs are printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from antipode import config
from antipode.config import EventsConfig
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.model.event import Event
from antipode.runs import kind_of
from antipode.service.courier import TAKEN_S, Courier, couriers
from antipode.service.events import Noticer
from antipode.service.observer import Observer
from tests.unit.killed_scheduler import import_all, in_a_process, kill_at

STEP_S = 300.0
"""Between two of these moments: longer than an event is taken for."""


def settings(log: Path) -> EventsConfig:
    return EventsConfig.model_validate({"source": "//antipode.example/test", "log": str(log)})


def look(path: str, log: Path, now: float, run: str, killed_at: int | None = None) -> None:
    deployment = Deployment(config.load(path))
    kill_at(deployment, killed_at, writes_only=True)
    waiting = {run: "it was claimed too often"}
    observer = Observer(deployment)
    Noticer(deployment, settings(log), observer, lambda: waiting, lambda: now).look()
    (made,) = couriers(deployment, settings(log))
    courier = Courier(deployment, made.name, made._receiver, lambda: now)
    while courier.deliver() == 0:
        pass


def makes(path: str, now: float, number: int) -> str:
    """A run that has begun and ended a second ago; its id."""
    deployment = Deployment(config.load(path))
    row = new_run(kind_of("protect"), f"v{number}", {})
    run, row.started_at = row.id, now - 2
    deployment.runs.create(row)
    deployment.runs.end(run, 0, "succeeded", now - 1, None, {})
    deployment.database.dispose()
    return run


def main(path: str, first: float, log: Path) -> None:
    import_all(path)
    deployment = Deployment(config.load(path))
    # a service has been there before: what was over before the first one makes no event
    deployment.events.note(Event("first", "dr.vault.up", "vault/v", first - STEP_S, {}), [])
    deployment.database.dispose()
    runs: list[str] = []
    while True:
        now = first + len(runs) * STEP_S
        runs.append(run := makes(path, now, len(runs)))
        killed = in_a_process(
            lambda at=now, r=run: look(path, log, at, r, len(runs))  # type: ignore[misc]
        )
        later = now + TAKEN_S + 1
        in_a_process(lambda at=later, r=run: look(path, log, at, r))  # type: ignore[misc]
        if not killed:
            break
    print(json.dumps(runs))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
