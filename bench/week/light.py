# SPDX-License-Identifier: Apache-2.0
"""Runs whose work in the clouds is played: protections and drills that last as long by the played
clock as the seed says, and fail where it says so. Their claims, steps, results and ends are real.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from antipode import clock
from antipode.engine.deployment import Deployment
from antipode.engine.run import Run
from antipode.errors import AntipodeError
from antipode.model.steps import StepName, Steps, Timeline
from antipode.runs.drill import Drill
from antipode.runs.protect import Protect
from antipode.store.tables import ForecastRow, RunRow
from bench.week.pace import Pace

PROTECT_S, DRILL_S = (60.0, 150.0), (600.0, 1200.0)
FAILS = 0.01
"""The part of protections that fail."""
MEMBERS = 3
"""of each VNF: a step each for quiesce, backup and unquiesce, as in a real protection"""


def chance(*of: object) -> random.Random:
    """Chance that is the same for the same run of the same week."""
    return random.Random("/".join(map(str, of)))


class LightProtect(Protect):
    def __init__(self, pace: Pace, seed: int) -> None:
        self._pace = pace
        self._seed = seed

    def execute(self, run: Run) -> None:
        dice = chance(self._seed, run.vnf, run.request["due_at"])
        run.touches_clouds()
        _steps(run, Steps.DISCOVER, Steps.CHECK)
        for step in (Steps.QUIESCE, Steps.SNAPSHOT, Steps.UNQUIESCE):
            _steps(run, *[step] * MEMBERS)
        with run.timeline.step(Steps.BACK_UP) as step_under_way:
            step_under_way.waits_for("the played clock")
            self._pace.park(clock.now() + dice.uniform(*PROTECT_S), run.go_on)
        if dice.random() < FAILS:
            raise AntipodeError("a backup ended in error, as the seed says")
        _steps(run, Steps.COMMIT)
        run.result.update(
            recovery_point=run.id,
            stored_bytes=dice.randrange(1 << 30),
            quiesce_window_s=round(dice.uniform(0.5, 2.5), 3),
        )

    def roll_back(self, run: Run) -> list[str]:
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        return "the point is committed" if "recovery_point" in run.result else None

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        return []


class LightDrill(Drill):
    def __init__(self, pace: Pace, seed: int) -> None:
        self._pace = pace
        self._seed = seed

    def execute(self, run: Run) -> None:
        dice, began = chance(self._seed, run.id), clock.now()
        run.deployment.forecasts.keep(
            ForecastRow(
                run=run.id,
                kind=run.kind,
                vnf=run.vnf,
                site=self.site_of(run.row),
                made_at=began,
                back_in_s=sum(DRILL_S) / 2,
                error_s=DRILL_S[1] - DRILL_S[0],
                loses_s=60.0,
                basis=["the seed"],
                unmeasured=[],
            )
        )
        with run.timeline.step(Steps.RESTORE_VOLUME):
            self._pace.park(began + dice.uniform(*DRILL_S), run.go_on)
        run.result["recovered_s"] = round(clock.now() - began, 3)

    def roll_back(self, run: Run) -> list[str]:
        return []

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        return []


def _steps(run: Run, *names: StepName) -> None:
    for number, name in enumerate(names, 1):
        run.go_on()
        with run.timeline.step(name, f"member {number}"):
            pass
