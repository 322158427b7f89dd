# SPDX-License-Identifier: Apache-2.0
"""Questions of runs to operators. They are rows, so that they survive the process that asks, and
are answered from any host.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Engine, Select, Update, or_, select, update
from sqlalchemy.orm import Session

from antipode import clock
from antipode.errors import InvalidInput, NotFound
from antipode.store.rows import created
from antipode.store.runs import OPEN
from antipode.store.tables import QuestionRow, RunRow


class Questions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, question: QuestionRow) -> QuestionRow:
        """Ask, unless an earlier process of the run has asked already; the question as it is.

        One that has expired, or of which the run has made a failure, is asked again.

        Args:
            question: a new one; its attempt is chosen here.
        """
        newest = self.newest(question.run, question.step)
        if newest is not None and newest.settled_at is None:
            is_late = newest.answered_at is None and newest.expires_at <= clock.now()
            if not is_late or not self.settle(newest):
                return newest
        question.attempt = 1 if newest is None else newest.attempt + 1
        created(self._engine, _copy(question))
        asked = self.newest(question.run, question.step)
        assert asked is not None  # it was created now, or by another process
        return asked

    def newest(self, run: str, step: str) -> QuestionRow | None:
        """The newest question of a step."""
        with Session(self._engine) as session:
            return session.scalars(
                select(QuestionRow)
                .where(QuestionRow.run == run, QuestionRow.step == step)
                .order_by(QuestionRow.attempt.desc())
                .limit(1)
            ).first()

    def answer(self, run: str, step: str, answer: str, by: str) -> QuestionRow:
        """Answer the question of a step; as it is then.

        Args:
            run: that asks, or that it is a part of.
            answer: yes or no, or the text, as the question wants it.
            by: the identity of the operator.

        Raises:
            NotFound: no run has this id, or the step has asked nothing.
            InvalidInput: it was answered already, has expired, or its run has ended.
        """
        asked = [q for q in self.of(run) if q.step == step]
        if not asked:
            raise NotFound(f"step {step} of run {run} asks nothing; see: antipode run show {run}")
        question, now = max(asked, key=lambda q: q.asked_at), clock.now()
        where = _key(question).where(
            QuestionRow.answered_at.is_(None),
            QuestionRow.settled_at.is_(None),
            QuestionRow.expires_at > now,
        )
        is_under_way = select(RunRow.id).where(RunRow.id == question.run, _is_going_forward())
        values = {"answered_at": now, "answer": answer, "answered_by": by}
        with Session(self._engine) as session, session.begin():
            ours = where.where(is_under_way.exists()).values(values)
            is_done = bool(session.execute(ours).rowcount)  # type: ignore[attr-defined]
        kept = self.newest(question.run, step)
        assert kept is not None  # it was read above, and is not deleted before its run
        if is_done:
            return kept
        if kept.answered_at is not None:
            why = f"was answered by {kept.answered_by}: {kept.answer}"
        elif kept.expires_at <= now:
            why = "has expired"
        else:
            why = "is void, as its run goes no further"
        raise InvalidInput(f"the question of step {step} of run {kept.run} {why}")

    def settle(self, question: QuestionRow) -> bool:
        """Note that the run makes a failure of a question as it was read: that it was answered so,
        or not in time. The next attempt asks again.

        Returns:
            False where it was answered meanwhile.
        """
        with Session(self._engine) as session, session.begin():
            ours = _key(question).where(
                QuestionRow.answered_at.is_(None)
                if question.answered_at is None
                else QuestionRow.answered_at.is_not(None)
            )
            values = {"settled_at": clock.now()}
            return bool(session.execute(ours.values(values)).rowcount)  # type: ignore[attr-defined]

    def of(self, run: str) -> list[QuestionRow]:
        """All questions of a run and its parts, the oldest first."""
        with Session(self._engine) as session:
            mine = or_(QuestionRow.run == run, QuestionRow.whole == run)
            return list(
                session.scalars(select(QuestionRow).where(mine).order_by(QuestionRow.asked_at))
            )

    def open(self, runs: Collection[str] | None = None) -> list[QuestionRow]:
        """The questions for whose answers runs wait, the oldest first.

        Args:
            runs: only of these and of their parts; of all by default.
        """
        wanted = _open()
        if runs is not None:
            wanted = wanted.where(or_(QuestionRow.run.in_(runs), QuestionRow.whole.in_(runs)))
        with Session(self._engine) as session:
            return list(session.scalars(wanted.order_by(QuestionRow.asked_at)))

    def waiting(self) -> set[str]:
        """The runs that wait for an answer, and those that they are parts of."""
        return {run for question in self.open() for run in (question.run, question.whole)}

    def answered_at(self, runs: Sequence[str]) -> float | None:
        """When an operator has last answered one of these runs; seconds since the epoch."""
        with Session(self._engine) as session:
            return session.scalars(
                select(QuestionRow.answered_at)
                .where(QuestionRow.whole.in_(runs), QuestionRow.answered_at.is_not(None))
                .order_by(QuestionRow.answered_at.desc())
                .limit(1)
            ).first()


def _open() -> Select[QuestionRow]:
    return (
        select(QuestionRow)
        .join(RunRow, RunRow.id == QuestionRow.run)
        .where(
            QuestionRow.answered_at.is_(None),
            QuestionRow.settled_at.is_(None),
            QuestionRow.expires_at > clock.now(),
            _is_going_forward(),
        )
    )


def _is_going_forward() -> ColumnElement[bool]:
    return RunRow.state.in_(OPEN) & RunRow.ending.is_(None) & RunRow.abort_requested_at.is_(None)


def _key(question: QuestionRow) -> Update:
    return update(QuestionRow).where(
        QuestionRow.run == question.run,
        QuestionRow.step == question.step,
        QuestionRow.attempt == question.attempt,
    )


def _copy(question: QuestionRow) -> QuestionRow:
    """A row may be stored once only, and asking may be tried again."""
    names = ("run", "step", "attempt", "whole", "message", "wants", "asked_at", "expires_at")
    return QuestionRow(**{name: getattr(question, name) for name in names})
