# SPDX-License-Identifier: Apache-2.0
"""A readiness loop that is killed by SIGKILL before and after each statement that it sends to the
database; `python -m tests.unit.killed_readiness CONFIG FIRST-MOMENT`.

For each of these moments one process is killed there, and another one continues after the time for
which the first may have taken the look. How many moments there were is printed.
"""

from __future__ import annotations

import sys

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.model.readiness import Finding, Level
from antipode.runs.looks import Looked, Subject
from antipode.service.readiness import TAKEN_S, ReadinessLoop
from tests.unit.killed_scheduler import import_all, in_a_process, kill_at

STEP_S = 7200.0
"""Between two of these moments: longer than the interval and the time of a look."""


def look(path: str, now: float, round_: int, killed_at: int | None = None) -> None:
    deployment = Deployment(config.load(path))
    kill_at(deployment, killed_at)

    def seen(_: Subject) -> Looked:
        # each round has another reason, so that each is a row of its own
        detail = f"reason {'x' * round_}"
        return Looked([Finding(check="state", level=Level.YELLOW, detail=detail)], None, None)

    ReadinessLoop(deployment, "site-b", now=lambda: now, look=seen).look()


def main(path: str, first: float) -> None:
    import_all(path)
    rounds = 0
    while True:
        now, rounds = first + rounds * STEP_S, rounds + 1
        killed = in_a_process(lambda at=now, r=rounds: look(path, at, r, r))  # type: ignore[misc]
        later = now + TAKEN_S + 1
        in_a_process(lambda at=later, r=rounds: look(path, at, r))  # type: ignore[misc]
        if not killed:
            break
    print(rounds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
