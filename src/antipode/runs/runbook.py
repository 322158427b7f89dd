# SPDX-License-Identifier: Apache-2.0
"""The runbook in a run: its steps as tasks of a recovery's flow. A step that was done is not done
again; one whose process was killed in the middle of it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from taskflow import task

from antipode.config import Config
from antipode.engine.flow_runner import guarded
from antipode.engine.run import Run
from antipode.errors import StepFailed
from antipode.model import runbook
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import ALL, Node, PlannedStep, RunbookStep, Verb
from antipode.model.vnf import Vnf
from antipode.runs import runners
from antipode.runs.actions import DO, Occasion, Refused, RunbookSteps, kept_of, pause

LOG = logging.getLogger(__name__)
RETRY_S = 5.0
"""Before another attempt."""
Links = Iterator[tuple[task.Task, task.Task]]


def with_steps(
    plan: RecoveryPlan, point: RecoveryPoint, verb: str, steps: Sequence[RunbookStep]
) -> RecoveryPlan:
    """A plan with the runbook steps that are done in it.

    Args:
        point: with the definition of the VNF that the plan was made for.
        steps: of the runbook.
    """
    members = list(zip(point.vnf.members, point.topology.servers, strict=True))

    def servers_of(label: str) -> list[str]:
        there = {s.name for s in plan.servers}
        return [s.name for m, s in members if label in (m.server, m.name) and s.name in there]

    found = runbook.planned(steps, verb, plan.site, servers_of)
    return plan.model_copy(update={"steps": found, "verb": verb})


class DoStep(task.Task):  # type: ignore[misc]
    """One step of the runbook."""

    def __init__(
        self, occasion: Occasion, step: RunbookStep, must_have_claim: Callable[[], None]
    ) -> None:
        super().__init__(name=f"{type(self).__name__} {step.name}")
        self.run = occasion.run
        self._occasion = occasion
        self._step = step
        self._must_have_claim = must_have_claim

    @guarded
    def execute(self) -> None:
        self._must_have_claim()
        do(self._occasion, self._step)


class Woven:
    """The steps of a plan as tasks, and what they wait for in a flow."""

    def __init__(self, run: Run, plan: RecoveryPlan, must_have_claim: Callable[[], None]) -> None:
        """`must_have_claim`: raises where another failover was begun in place of this one."""
        occasion = Occasion(run, plan.verb, plan.site, plan.recovery_point, data=plan.environment)
        self._plan = plan
        self._tasks = {p.step.name: DoStep(occasion, p.step, must_have_claim) for p in plan.steps}

    @property
    def tasks(self) -> list[task.Task]:
        return list(self._tasks.values())

    def links(
        self,
        first: Iterable[task.Task],
        ready: Mapping[str, Sequence[task.Task]],
        boots: Mapping[str, task.Task],
        answers: Mapping[str, task.Task],
        end: task.Task,
    ) -> Links:
        """Pairs of tasks, of which the second waits for the first.

        Args:
            first: those that create something before a server has all that it boots from.
            ready: server -> those that make what it boots from.
            boots, answers: server -> the one that boots it, and that awaits its answer.
            end: the one that the recovery is over with.
        """
        steps = self._plan.steps
        firsts = [self._tasks[p.step.name] for p in steps if p.comes_first]
        lasts = [self._tasks[p.step.name] for p in steps if p.comes_last]
        yield from (*pairwise(firsts), *pairwise(lasts))
        makers = [*first, *(t for tasks in ready.values() for t in tasks)]
        yield from ((done, maker) for done in firsts[-1:] for maker in makers)
        yield from ((answered, begins) for answered in answers.values() for begins in lasts[:1])
        yield from ((done, end) for done in lasts[-1:])
        for planned in steps:
            begins = self._tasks[planned.step.name]
            yield from ((made, begins) for s in planned.servers for made in ready[s])
            if planned.servers:
                yield begins, lasts[0] if lasts else end
        before = {server.name: server.after for server in self._plan.servers}
        for earlier, later in runbook.order(steps, before):
            yield self._of(earlier, answers), self._of(later, boots)

    def _of(self, node: Node, of_members: Mapping[str, task.Task]) -> task.Task:
        return self._tasks[node.name] if node.kind == "step" else of_members[node.name]


@dataclass(frozen=True)
class Around:
    """The steps of a verb that boots no members: those before it, and those after it."""

    occasion: Occasion
    steps: Sequence[RunbookStep]

    def before(self) -> None:
        """Do the first ones. Raises as `do_all`."""
        do_all(self.occasion, [PlannedStep(step=s) for s in self.steps if s.before == ALL])

    def after(self) -> None:
        """Do the last ones. Raises as `do_all`."""
        do_all(self.occasion, [PlannedStep(step=s) for s in self.steps if s.after == ALL])


def around(config: Config, vnf: Vnf | None, verb: Verb, site: str) -> list[RunbookStep]:
    """The steps of a definition that are done with a verb that boots no members.

    Args:
        vnf: None where this host does not have its file.
        site: of which the steps are.

    Raises:
        PreflightFailed: this host lacks the runner of a script.
    """
    steps = runbook.planned(vnf.steps if vnf else [], verb, site, lambda label: [])
    runners.must_be_known(config, steps, f"{verb} of {vnf.vnf if vnf else 'a VNF'}")
    return [planned.step for planned in steps]


def in_words(steps: Iterable[RunbookStep]) -> list[str]:
    """Steps as a plan has them, for people; a line each."""
    return [f"runbook step {PlannedStep(step=step)}" for step in steps]


def do_all(occasion: Occasion, planned: Iterable[PlannedStep]) -> None:
    """Do steps one after another, without a flow.

    Raises:
        StepFailed, Stopped: as `do`.
    """
    for one in planned:
        do(occasion, one.step)
        occasion.run.timeline.flush()  # one that is done is found there, and not done again


def do(occasion: Occasion, step: RunbookStep) -> None:
    """Do a step, unless an earlier process of the run has.

    Raises:
        StepFailed: it has failed, and all its attempts; or an operator has said no.
        Stopped: the run must stop; a command under way was killed.
    """
    run = occasion.run
    if run.claim.number > 1 and any(kept.state == "succeeded" for kept in kept_of(run, step)):
        return
    for left in range(step.retries, -1, -1):
        try:
            with run.timeline.step(RunbookSteps.DO, step.name) as under_way:
                DO[step.action](occasion, step, under_way)
            return
        except Refused:
            raise
        except StepFailed as error:
            if step.on_error == "ignore":
                LOG.warning("%s; the run continues, as errors of it are ignored", error)
                return
            if not left:
                raise
            LOG.warning("%s; it is tried again, up to %d times", error, left)
            pause(run, RETRY_S)
