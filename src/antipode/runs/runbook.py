# SPDX-License-Identifier: Apache-2.0
"""The runbook in a run: its steps as tasks of a recovery's flow. A step that was done is not done
again; one whose process was killed in the middle of it is.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from taskflow import task

from antipode import processes
from antipode.engine.flow_runner import guarded
from antipode.engine.run import Run, part_of
from antipode.errors import StepFailed
from antipode.model import runbook
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import Node, PlannedStep, RunbookStep
from antipode.model.steps import Step, StepName
from antipode.store.tables import QuestionRow

LOG = logging.getLogger(__name__)
LOOK_S = 0.5
"""Between two looks whether a wait is over, a question was answered, or the run must stop."""
RETRY_S = 5.0
"""Before another attempt."""
Links = Iterator[tuple[task.Task, task.Task]]


class RunbookSteps(StepName):
    DO = "", "runbook step"


class Refused(StepFailed):
    """An operator has said no: that is neither ignored nor asked again at once."""


@dataclass(frozen=True)
class Occasion:
    """Where the steps of a runbook are done, for their commands."""

    run: Run
    verb: str
    site: str
    recovery_point: str

    def environment(self, step: str) -> dict[str, str]:
        """The variables that the command of a step gets. The key is the same for each attempt, in
        each process that has the run.
        """
        return {
            "ANTIPODE_RUN": self.run.id,
            "ANTIPODE_VNF": self.run.vnf,
            "ANTIPODE_VERB": self.verb,
            "ANTIPODE_SITE": self.site,
            "ANTIPODE_RECOVERY_POINT": self.recovery_point,
            "ANTIPODE_STEP": step,
            "ANTIPODE_KEY": f"{self.run.id}/{step}",
        }

    def filled_in(self, word: str) -> str:
        """A word of a command, the names in braces replaced. All of their values are harmless as a
        part of a word: names and ids of antipode.
        """
        values = {
            "{run}": self.run.id,
            "{vnf}": self.run.vnf,
            "{verb}": self.verb,
            "{site}": self.site,
            "{recovery_point}": self.recovery_point,
        }
        # not `str.format`: a command may have braces of its own
        return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)


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

    def __init__(self, occasion: Occasion, step: RunbookStep) -> None:
        super().__init__(name=f"{type(self).__name__} {step.name}")
        self.run = occasion.run
        self._occasion = occasion
        self._step = step

    @guarded
    def execute(self) -> None:
        do(self._occasion, self._step)


class Woven:
    """The steps of a plan as tasks, and what they wait for in a flow."""

    def __init__(self, run: Run, plan: RecoveryPlan) -> None:
        occasion = Occasion(run, plan.verb, plan.site, plan.recovery_point)
        self._plan = plan
        self._tasks = {p.step.name: DoStep(occasion, p.step) for p in plan.steps}

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
    if run.claim.number > 1 and any(kept.state == "succeeded" for kept in _kept(run, step)):
        return
    for left in range(step.retries, -1, -1):
        try:
            with run.timeline.step(RunbookSteps.DO, step.name) as under_way:
                _DO[step.action](occasion, step, under_way)
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
            _pause(run, time.time() + RETRY_S)


def _kept(run: Run, step: RunbookStep) -> list[Any]:
    """What the database has of a step, from all processes of the run."""
    return [
        kept
        for kept in run.timeline.kept()
        if (kept.name, kept.resource) == (RunbookSteps.DO.words, step.name)
    ]


def _pause(run: Run, until: float) -> None:
    """Wait until a moment (seconds since the epoch), or the run must stop."""
    while (left := until - time.time()) > 0:
        run.go_on()
        time.sleep(min(LOOK_S, left))


def _wait(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    """Wait from the first time that the step began: what has passed since a process died counts."""
    assert step.wait is not None
    earlier = [kept.started_at for kept in _kept(occasion.run, step)]
    begun = min(earlier, default=time.time())
    under_way.waits_for(f"{step.wait:g} s to pass")
    _pause(occasion.run, begun + step.wait)


def _ask(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    """Ask an operator, and wait for the answer."""
    assert step.prompt is not None
    run, now = occasion.run, time.time()
    whole = part_of(run.row) or run.id
    asked = QuestionRow(
        run=run.id,
        step=step.name,
        whole=whole,
        message=step.prompt.message,
        wants=step.prompt.answer,
        asked_at=now,
        expires_at=now + step.limit_s,
    )
    LOG.warning("run %s waits for input: %s. %s", whole, step.prompt.message, how(asked))
    under_way.waits_for(f"an answer: {step.prompt.message}; {how(asked)}")
    question = _answered(run, asked)
    under_way.result(answer=question.answer, by=question.answered_by)
    if question.wants == "yes-no" and question.answer != "yes":
        run.deployment.questions.settle(question)
        raise Refused(
            f"runbook step {step.name}: {question.answered_by} has said no to:"
            f" {step.prompt.message}",
            resource=f"runbook step {step.name}",
        )


def _answered(run: Run, asked: QuestionRow) -> QuestionRow:
    """The question, once it is answered. An outage of the database only delays that.

    Raises:
        StepFailed: no operator has answered it in time.
    """
    questions, question = run.deployment.questions, None
    outage = False
    while True:
        try:
            if question is None:
                question = questions.ask(asked)
            else:
                question = questions.newest(run.id, asked.step) or question
            if question.answered_at is not None:
                return question
            if question.expires_at <= time.time() and questions.settle(question):
                raise StepFailed(
                    f"runbook step {asked.step}: no operator has answered within"
                    f" {question.expires_at - question.asked_at:g} s: {asked.message}",
                    resource=f"runbook step {asked.step}",
                )
            outage = False
        except SQLAlchemyError as error:
            if not outage:
                LOG.warning("whether step %s is answered cannot be read now: %s", asked.step, error)
            outage = True
        run.go_on()
        time.sleep(LOOK_S)


def how(question: QuestionRow) -> str:
    """The command that answers a question."""
    answer = "--yes, or --no" if question.wants == "yes-no" else "--text …"
    return f"antipode run answer {question.whole} {question.step} {answer}"


def _run_command(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    assert step.command is not None
    words = [occasion.filled_in(word) for word in step.command]
    resource = f"runbook step {step.name}"
    try:
        ended = processes.run(
            words,
            step.limit_s,
            go_on=occasion.run.go_on,
            environment=occasion.environment(step.name),
        )
    except (OSError, ValueError) as error:  # the latter for a character that no command may have
        raise StepFailed(f"{resource}: {words[0]}: {error}", resource=resource) from error
    under_way.result(exit_code=ended.code, output=ended.output)
    if ended.code is None:
        raise StepFailed(
            f"{resource}: {words[0]} had not ended after {step.limit_s:g} s, and was killed",
            resource=resource,
        )
    if ended.code:
        raise StepFailed(
            f"{resource}: {words[0]} ended with exit code {ended.code}: {ended.output}",
            resource=resource,
        )


_DO: Mapping[str, Callable[[Occasion, RunbookStep, Step], None]] = {
    "wait": _wait,
    "prompt": _ask,
    "command": _run_command,
}
"""How each action is done."""
