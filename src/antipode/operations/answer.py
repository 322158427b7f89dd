# SPDX-License-Identifier: Apache-2.0
"""Answering a question that a run waits with, from any host that reaches the database."""

from __future__ import annotations

from typing import Any

from antipode import identity
from antipode.engine.deployment import Deployment
from antipode.engine.run import state_of
from antipode.errors import InvalidInput, NotFound
from antipode.model.plan_file import PREFIX
from antipode.store.tables import QuestionRow

Json = dict[str, Any]
LONGEST = 4000
"""Characters of an answer."""


def answer(deployment: Deployment, run: str, step: str, said: bool | str) -> Json:
    """Answer the question of a runbook step; a record of it.

    Args:
        run: that asks, or that it is a part of.
        said: yes or no, or words, as the question wants it.

    Raises:
        NotFound: there is no such run, or the step has asked nothing.
        InvalidInput: the question wants another kind of answer, was answered already, has expired,
            its run has ended, or several parts of the run ask in this step.
    """
    asked = [q for q in asked_below(deployment, run) if q.step == step]
    if asked and (asked[-1].wants == "text") != isinstance(said, str):
        wanted = "words: give --text" if asked[-1].wants == "text" else "--yes or --no"
        raise InvalidInput(f"the question of step {step} of run {run} wants {wanted}")
    words = said if isinstance(said, str) else "yes" if said else "no"
    if not 0 < len(words.strip()) <= LONGEST:
        raise InvalidInput(f"an answer has 1 to {LONGEST} characters, and this one {len(words)}")
    waiting = deployment.questions.open({run, *(q.run for q in asked)})
    asking = {q.run for q in waiting if q.step == step}
    if len(asking) > 1:
        raise InvalidInput(
            f"step {step} asks in several parts of {run}; answer one of them:"
            f" {', '.join(sorted(asking))}"
        )
    asked_in = next(iter(asking), run)
    question = deployment.questions.answer(asked_in, step, words, identity.current())
    state = state_of(deployment.runs.get(question.whole), deployment)
    return {**record(question), "run": question.whole, "state": state}


def asked_below(deployment: Deployment, run: str) -> list[QuestionRow]:
    """All questions of a run and of those below it, the oldest first.

    Raises:
        NotFound: there is no such run.
    """
    row, asked = deployment.runs.get(run), deployment.questions.of(run)
    if row.vnf.startswith(PREFIX):  # the parts of a plan may have parts that ask
        known = {(q.run, q.step, q.attempt) for q in asked}
        of_parts = (deployment.questions.of(part.id) for part in deployment.runs.parts([row]))
        asked += [q for qs in of_parts for q in qs if (q.run, q.step, q.attempt) not in known]
    return sorted(asked, key=lambda question: question.asked_at)


def open_step(deployment: Deployment, run: str) -> str:
    """The step that asks something, where a run has only one.

    Raises:
        NotFound: there is no such run, or none of its steps asks anything.
        InvalidInput: several do.
    """
    runs = {run, *(q.run for q in asked_below(deployment, run))}
    steps = sorted({q.step for q in deployment.questions.open(runs)})
    if not steps:
        raise NotFound(f"run {run} asks nothing now; see: antipode run show {run}")
    if len(steps) > 1:
        raise InvalidInput(f"run {run} asks several things; name one: {', '.join(steps)}")
    return steps[0]


def record(question: QuestionRow) -> Json:
    """A question as a record; moments are seconds since the epoch."""
    return {
        "step": question.step,
        "message": question.message,
        "wants": question.wants,
        "asked_at": question.asked_at,
        "expires_at": question.expires_at,
        "answered_at": question.answered_at,
        "answer": question.answer,
        "answered_by": question.answered_by,
    }
