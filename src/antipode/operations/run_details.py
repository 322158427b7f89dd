# SPDX-License-Identifier: Apache-2.0
"""A run as people follow it: its state, its steps, its questions, its approvals, its parts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.engine.run import part_of, state_of, subject_of
from antipode.errors import InvalidInput
from antipode.operations import approvals, progress, resume
from antipode.operations.answer import asked_below
from antipode.operations.progress import Outlook
from antipode.operations.reports import Cleaner
from antipode.operations.run_tree import Placed, under
from antipode.runs import find_kind
from antipode.store.runs import AWAITING, NEVER_BEGUN, OPEN
from antipode.store.tables import ApprovalRow, QuestionRow, RunRow


@dataclass(frozen=True)
class Details:
    """A run at the moment `at` (seconds since the epoch)."""

    at: float
    outlook: Outlook
    state: str
    reason: str | None
    """why it failed, without the words of commands and what they have printed"""
    subject: str
    site: str | None
    whole: str | None
    """the run that it is a part of"""
    parts: Sequence[tuple[Placed, str, str | None]]
    """each with its state, and why it failed"""
    asks: Sequence[QuestionRow]
    """the questions that wait for an answer"""
    answered: Sequence[QuestionRow]
    approvals: Sequence[ApprovalRow]
    plan: Sequence[str]
    """what it is going to do, while it awaits approval"""
    plan_digest: str | None
    """of that, which an approval names"""
    may_abort: bool
    may_resume: bool
    must_be_confirmed: bool
    """again, before it is resumed"""

    @property
    def run(self) -> RunRow:
        return self.outlook.run


def details(deployment: Deployment, run: str) -> Details:
    """Look at a run.

    Raises:
        NotFound: there is no such run.
    """
    now = time.time()
    outlook = progress.outlook(deployment.runs, run, now)
    row = outlook.run
    kind, state = find_kind(row.kind), state_of(row, deployment)
    asked, parts = asked_below(deployment, run), under(deployment, row)
    clean = _clean(deployment, outlook, parts)
    digest, plan = (None, list[str]())
    if row.state == AWAITING and kind is not None:
        digest, plan = approvals.shown(deployment, run)
    return Details(
        now,
        outlook,
        state,
        row.reason and clean.without(row.reason),
        subject_of(row),
        kind.site_of(row) if kind is not None and row.request else None,
        part_of(row),
        [
            (placed, state_of(placed.run, deployment), why and clean.without(why))
            for placed in parts
            for why in (placed.run.reason,)
        ],
        deployment.questions.open({run, *(q.run for q in asked)}),
        [q for q in asked if q.answered_at is not None],
        deployment.approvals.of(run),
        plan,
        digest,
        _may_abort(row),
        _may_resume(deployment, row, state),
        kind is not None and resume.must_be_confirmed(deployment, row, now) is not None,
    )


def _clean(deployment: Deployment, outlook: Outlook, parts: Sequence[Placed]) -> Cleaner:
    """Takes such words out of what is said of a run; a part's error is its whole's, too."""
    failed = [placed.run.id for placed in parts if placed.run.reason]
    of_parts = [step for part in failed for step in deployment.runs.steps(part)]
    return Cleaner([*outlook.steps, *of_parts])


def _may_abort(row: RunRow) -> bool:
    kind = find_kind(row.kind)
    if kind is None or row.state in NEVER_BEGUN or row.ending is not None:
        return False
    return row.state in (*OPEN, AWAITING) or (
        row.state == "failed" and not kind.rolls_back_failures
    )


def _may_resume(deployment: Deployment, row: RunRow, state: str) -> bool:
    if state not in ("lost", "failed") or find_kind(row.kind) is None:
        return False
    try:
        resume.must_be_resumable(deployment, row)
    except InvalidInput:
        return False
    return True
