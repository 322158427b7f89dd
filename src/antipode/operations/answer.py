# SPDX-License-Identifier: Apache-2.0
"""Answering a question that a run waits with, from any host that reaches the database."""

from __future__ import annotations

from typing import Any

from antipode import identity
from antipode.engine.deployment import Deployment
from antipode.engine.run import state_of
from antipode.errors import InvalidInput, NotFound
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
    deployment.runs.get(run)
    asked = [q for q in deployment.questions.of(run) if q.step == step]
    if asked and (asked[-1].wants == "text") != isinstance(said, str):
        wanted = "words: give --text" if asked[-1].wants == "text" else "--yes or --no"
        raise InvalidInput(f"the question of step {step} of run {run} wants {wanted}")
    words = said if isinstance(said, str) else "yes" if said else "no"
    if not 0 < len(words.strip()) <= LONGEST:
        raise InvalidInput(f"an answer has 1 to {LONGEST} characters, and this one {len(words)}")
    asking = {q.run for q in deployment.questions.open([run]) if q.step == step}
    if len(asking) > 1:
        raise InvalidInput(
            f"step {step} asks in several parts of {run}; answer one of them:"
            f" {', '.join(sorted(asking))}"
        )
    asked_in = next(iter(asking), run)
    question = deployment.questions.answer(asked_in, step, words, identity.current())
    state = state_of(deployment.runs.get(question.whole), deployment)
    return {**record(question), "run": question.whole, "state": state}


def open_step(deployment: Deployment, run: str) -> str:
    """The step that asks something, where a run has only one.

    Raises:
        NotFound: there is no such run, or none of its steps asks anything.
        InvalidInput: several do.
    """
    deployment.runs.get(run)
    steps = sorted({q.step for q in deployment.questions.open([run])})
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
