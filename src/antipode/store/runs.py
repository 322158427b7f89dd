"""Runs and their steps, as they are kept and read; what is written of a run is refused once another
has claimed it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from antipode.errors import Busy, ClaimLost, NotFound
from antipode.store.tables import RunRow, StepRow

OPEN = ("queued", "running")


class Runs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, run: RunRow) -> None:
        """Keep a new run.

        Raises:
            Busy: another run has its slot.
        """
        slot = run.slot
        try:
            with Session(self._engine) as session, session.begin():
                session.add(run)
        except IntegrityError as error:
            raise self._busy(slot) from error

    def claim(
        self,
        run: str,
        conductor: str,
        known: int,
        *,
        also_failed: bool = False,
        abort: bool = False,
    ) -> int:
        """Take a run that has not ended; the number of the claim, with which alone it can be
        written from now on.

        Args:
            conductor: who takes it, for people.
            known: the number of the claim before, as it was read.
            also_failed: whether one that failed is taken too.
            abort: to take it back: whoever has it after us does nothing else with it.

        Raises:
            ClaimLost: somebody else was faster.
            Busy: it has ended meanwhile, or another run has its slot by now.
        """
        row = self.get(run)
        mine = known + 1
        taken = {
            "claim": mine,
            "conductor": conductor,
            "state": "running",
            "ended_at": None,
            "slot": slot_of(row.kind, row.vnf),
        }
        if row.ending is None:
            taken["reason"] = None
        if abort:
            taken["abort_requested_at"] = time.time()
        elif row.state == "failed":
            taken["abort_requested_at"] = (
                None  # whoever takes a run that has ended has decided anew
            )
        states = (*OPEN, "failed") if also_failed or abort else OPEN
        try:
            with Session(self._engine) as session, session.begin():
                ours = update(RunRow).where(
                    RunRow.id == run, RunRow.claim == known, RunRow.state.in_(states)
                )
                if session.execute(ours.values(taken)).rowcount:  # type: ignore[attr-defined]
                    return mine
        except IntegrityError as error:
            raise self._busy(slot_of(row.kind, row.vnf)) from error
        now = self.get(run)
        if now.claim == known:
            raise Busy(f"run {run} has {now.state} meanwhile")
        raise ClaimLost(f"run {run} was taken by another process at the same moment")

    def release(self, run: str, claim: int) -> None:
        """Let go of a run that has not ended, for somebody to go on with.

        Raises:
            ClaimLost: it is another's already.
        """
        self._write(run, claim, {"conductor": None})

    def begin_ending(self, run: str, claim: int, ending: str, reason: str) -> None:
        """Note, before anything is taken back, that this run is going to be `ending` (failed,
        aborted) and why.

        Raises:
            ClaimLost: it is another's.
        """
        self._write(run, claim, {"ending": ending, "reason": reason})

    def end(
        self,
        run: str,
        claim: int,
        state: str,
        ended_at: float,
        reason: str | None,
        result: dict[str, Any],
    ) -> None:
        """The run is over.

        Raises:
            ClaimLost: it is another's.
        """
        values = {
            "state": state,
            "ended_at": ended_at,
            "reason": reason,
            "result": result,
            "slot": None,
            "conductor": None,
        }
        self._write(run, claim, values)

    def keep(self, run: str, claim: int, steps: Sequence[StepRow]) -> None:
        """Keep steps, each the newest that is known of it, in one transaction.

        Raises:
            ClaimLost: the run is another's.
        """
        with Session(self._engine) as session, session.begin():
            self._must_be_ours(session, run, claim, {"claim": claim})
            for step in steps:
                session.merge(step)

    def close_steps(self, run: str, claim: int) -> int:
        """Close the steps that were running when the process at the run died, at its last sign of
        life; how many there were.

        Raises:
            ClaimLost: the run is another's.
        """
        with Session(self._engine) as session, session.begin():
            self._must_be_ours(session, run, claim, {"claim": claim})
            of_run = select(func.max(StepRow.started_at), func.max(StepRow.ended_at)).where(
                StepRow.run == run
            )
            last = max(
                (moment for moment in session.execute(of_run).one() if moment is not None),
                default=None,
            )
            closed = 0
            for step in session.scalars(
                select(StepRow).where(StepRow.run == run, StepRow.state == "running")
            ):
                step.state, step.ended_at = "lost", last
                step.result = {**step.result, "error": "the process at it died"}
                closed += 1
            return closed

    def request_abort(self, run: str) -> None:
        """Ask whoever is at the run, or comes to be, to stop and take back what it made.

        Nothing happens to one that has ended.
        """
        with Session(self._engine) as session, session.begin():
            asked = update(RunRow).where(
                RunRow.id == run, RunRow.state.in_(OPEN), RunRow.abort_requested_at.is_(None)
            )
            session.execute(asked.values(abort_requested_at=time.time()))

    def standing(self, run: str) -> tuple[int, bool]:
        """The number of the newest claim of a run, and whether it is asked to abort."""
        with Session(self._engine) as session:
            claim, asked = session.execute(
                select(RunRow.claim, RunRow.abort_requested_at).where(RunRow.id == run)
            ).one()
        return claim, asked is not None

    def open(self, vnf: str | None = None) -> list[RunRow]:
        """The runs that are queued or kept as running, the oldest first."""
        with Session(self._engine) as session:
            wanted = select(RunRow).where(RunRow.state.in_(OPEN)).order_by(RunRow.started_at)
            return list(session.scalars(wanted.where(RunRow.vnf == vnf) if vnf else wanted))

    def all(self, vnf: str | None = None) -> list[RunRow]:
        """All runs, the newest first."""
        with Session(self._engine) as session:
            wanted = select(RunRow).order_by(RunRow.started_at.desc())
            return list(session.scalars(wanted.where(RunRow.vnf == vnf) if vnf else wanted))

    def ended_after(self, moment: float) -> list[RunRow]:
        """The runs that ended after a moment (seconds since the epoch), the newest first."""
        with Session(self._engine) as session:
            return list(
                session.scalars(
                    select(RunRow)
                    .where(RunRow.ended_at > moment)
                    .order_by(RunRow.started_at.desc())
                )
            )

    def get(self, run: str) -> RunRow:
        """A run.

        Raises:
            NotFound: there is none of this id.
        """
        with Session(self._engine) as session:
            row = session.get(RunRow, run)
        if row is None:
            raise NotFound(f"there is no run {run}; see: antipode run list")
        return row

    def steps(self, run: str) -> list[StepRow]:
        """The steps of a run in the order in which they began."""
        with Session(self._engine) as session:
            return list(
                session.scalars(
                    select(StepRow)
                    .where(StepRow.run == run)
                    .order_by(StepRow.started_at, StepRow.number)
                )
            )

    def _write(self, run: str, claim: int, values: dict[str, Any]) -> None:
        with Session(self._engine) as session, session.begin():
            self._must_be_ours(session, run, claim, values)

    @staticmethod
    def _must_be_ours(session: Session, run: str, claim: int, values: dict[str, Any]) -> None:
        """Write to the run if nobody has claimed it since; the first statement of its transaction,
        so that nobody can before its end.
        """
        if not session.execute(
            update(RunRow).where(RunRow.id == run, RunRow.claim == claim).values(values)
        ).rowcount:  # type: ignore[attr-defined]
            raise ClaimLost(
                f"run {run} was taken over by another process; this one has nothing more to do "
                "with it"
            )

    def _busy(self, slot: str | None) -> Busy:
        with Session(self._engine) as session:
            other = session.scalar(select(RunRow.id).where(RunRow.slot == slot))
        return Busy(
            f"run {other} is under way; wait for it, or see: antipode run list"
            if other
            else f"another run has {slot} already"
        )


def slot_of(kind: str, vnf: str) -> str:
    """What two runs of a VNF may not have at once.

    A failover does not wait for a protect, which may hang at the site that died.
    """
    return f"{kind}:{vnf}"
