# SPDX-License-Identifier: Apache-2.0
"""How each action of a runbook step is done: a wait, a question, a command, a call, a script."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from sqlalchemy.exc import SQLAlchemyError

from antipode import processes
from antipode.engine.run import Run, part_of
from antipode.errors import StepFailed
from antipode.model.runbook import THIS_HOST, FromElsewhere, RunbookStep
from antipode.model.steps import Step, StepName
from antipode.runs import runners
from antipode.store.tables import QuestionRow

LOG = logging.getLogger(__name__)
LOOK_S = 0.5
"""Between two looks whether a wait is over, a question was answered, or the run must stop."""


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
    plan: str = ""
    """the plan over many VNFs whose step it is; then there is no VNF"""
    data: Mapping[str, str] = field(default_factory=dict)
    """variables by which a command finds the data of the application"""

    @property
    def vnf(self) -> str:
        return "" if self.plan else self.run.vnf

    def environment(self, step: str) -> dict[str, str]:
        """The variables that the command of a step gets. The key is the same for each attempt, in
        each process that has the run.
        """
        return {
            "ANTIPODE_RUN": self.run.id,
            "ANTIPODE_VNF": self.vnf,
            "ANTIPODE_VERB": self.verb,
            "ANTIPODE_SITE": self.site,
            "ANTIPODE_RECOVERY_POINT": self.recovery_point,
            "ANTIPODE_STEP": step,
            "ANTIPODE_KEY": f"{self.run.id}/{step}",
            **({"ANTIPODE_PLAN": self.plan} if self.plan else {}),
            **self.data,
        }

    def filled_in(self, word: str) -> str:
        """A word of a command, the names in braces replaced. All of their values are harmless as a
        part of a word: names and ids of antipode.
        """
        values = {
            "{run}": self.run.id,
            "{vnf}": self.vnf,
            "{verb}": self.verb,
            "{site}": self.site,
            "{recovery_point}": self.recovery_point,
            **({"{plan}": self.plan} if self.plan else {}),
        }
        # not `str.format`: a command may have braces of its own
        return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)


def kept_of(run: Run, step: RunbookStep) -> list[Any]:
    """What the database has of a step, from all processes of the run."""
    return [
        kept
        for kept in run.timeline.kept()
        if (kept.name, kept.resource) == (RunbookSteps.DO.words, step.name)
    ]


def pause(run: Run, for_s: float) -> None:
    """Wait for so many seconds, whatever is done to the clock meanwhile, or the run must stop."""
    until = time.monotonic() + for_s
    while (left := until - time.monotonic()) > 0:
        run.go_on()
        time.sleep(min(LOOK_S, left))


def _wait(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    """Wait from the first time that the step began: what has passed since a process died counts."""
    assert step.wait is not None
    earlier = [kept.started_at for kept in kept_of(occasion.run, step)]
    begun = min(earlier, default=time.time())
    under_way.waits_for(f"{step.wait:g} s to pass")
    # where the clock was set back since, no longer than a wait that begins
    pause(occasion.run, min(step.wait, begun + step.wait - time.time()))


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
    _run(
        occasion,
        step,
        under_way,
        Program(words, words[0], processes.of_this_process(step.variables)),
    )


def _run_script(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    assert step.script is not None
    words = [occasion.filled_in(word) for word in step.script.command]
    runner = occasion.run.deployment.config.runners.get(step.script.runner)
    if runner is None:
        raise StepFailed(
            f"runbook step {step.name}: runner {step.script.runner} is not in antipode.yaml of this"
            " host",
            resource=f"runbook step {step.name}",
        )
    argv = runners.argv(runner, words, occasion.environment(step.name), step.limit_s)
    what = f"{words[0]}, by runner {step.script.runner},"
    _run(
        occasion,
        step,
        under_way,
        Program(argv, what, processes.of_this_process(processes.OF_CLIENTS)),
    )


class Program(NamedTuple):
    """A program of this host that a step runs."""

    argv: Sequence[str]
    what: str
    """for people"""
    inherited: Mapping[str, str]


def _run(occasion: Occasion, step: RunbookStep, under_way: Step, program: Program) -> None:
    resource, what = f"runbook step {step.name}", program.what
    try:
        ended = processes.run(
            program.argv,
            step.limit_s,
            go_on=occasion.run.go_on,
            environment=occasion.environment(step.name),
            inherited=program.inherited,
        )
    except (OSError, ValueError) as error:  # the latter for a character that no command may have
        raise StepFailed(f"{resource}: {what} {error}", resource=resource) from error
    under_way.result(exit_code=ended.code, output=ended.output)
    if ended.code is None:
        raise StepFailed(
            f"{resource}: {what} had not ended after {step.limit_s:g} s, and was killed",
            resource=resource,
        )
    if ended.code:
        raise StepFailed(
            f"{resource}: {what} ended with exit code {ended.code}: {ended.output}",
            resource=resource,
        )


def _call(occasion: Occasion, step: RunbookStep, under_way: Step) -> None:
    assert step.http is not None
    http, resource = step.http, f"runbook step {step.name}"
    url = occasion.filled_in(http.url)
    to = urlsplit(url)
    place = f"{resource}: {http.method} to {to.netloc}"
    headers = {
        "User-Agent": "antipode",
        "Idempotency-Key": occasion.environment(step.name)["ANTIPODE_KEY"],
        **{name: _value(value, resource) for name, value in http.headers.items()},
    }
    body = None if http.body is None else occasion.filled_in(http.body).encode()

    def send() -> int:
        # a redirect could take the headers elsewhere; without `auth`, ~/.netrc would have a say
        answer = requests.request(
            http.method,
            url,
            headers=headers,
            data=body,
            timeout=step.limit_s,
            allow_redirects=False,
            stream=True,
            auth=lambda request: request,
            # a proxy of the environment is another host, and http:// to this one may have secrets
            proxies={"no_proxy": to.hostname} if to.hostname in THIS_HOST else None,
        )
        answer.close()
        return answer.status_code

    try:
        status = _in_time(send, occasion.run, step.limit_s)
    except (requests.RequestException, UnicodeError, TimeoutError) as error:
        # the words of the error have the URL, which may have a secret
        raise StepFailed(f"{place}: {type(error).__name__}", resource=resource) from error
    under_way.result(status=status)
    if status not in (http.expect or range(200, 300)):
        raise StepFailed(f"{place} was answered with status {status}", resource=resource)


def _in_time(work: Callable[[], int], run: Run, within_s: float) -> int:
    """What work returns that has no safe point, such as a call: it is left alone when the run must
    stop.

    Raises:
        TimeoutError: it has not ended in time.
    """
    done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()

    def finish() -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    threading.Thread(target=finish, name="call", daemon=True).start()
    until = time.monotonic() + within_s
    while True:
        with suppress(queue.Empty):
            found = done.get(timeout=LOOK_S)
            if isinstance(found, BaseException):
                raise found
            return found
        run.go_on()
        if time.monotonic() > until:
            raise TimeoutError


def _value(value: FromElsewhere | str, resource: str) -> str:
    """The value of a header."""
    if isinstance(value, str):
        return value
    try:
        found = os.environ[value.env] if value.env else _first_line(value.file or "")
    except (OSError, KeyError, ValueError) as error:
        why = getattr(error, "strerror", None) or "there is none"
        raise StepFailed(f"{resource}: {value} cannot be read: {why}", resource=resource) from error
    if not found.isascii() or not found.isprintable():
        raise StepFailed(f"{resource}: {value} cannot be in a header", resource=resource)
    return value.prefix + found


def _first_line(file: str) -> str:
    return (Path(file).read_text().splitlines() or [""])[0].strip()


DO: Mapping[str, Callable[[Occasion, RunbookStep, Step], None]] = {
    "wait": _wait,
    "prompt": _ask,
    "command": _run_command,
    "http": _call,
    "script": _run_script,
}
"""How each action is done."""
