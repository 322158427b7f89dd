# SPDX-License-Identifier: Apache-2.0
"""Runs that may not begin before somebody else than their author approves them, and who has."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from antipode.errors import Busy, InvalidInput
from antipode.store.database import now
from antipode.store.runs import AWAITING, NEVER_BEGUN, Room, add_within, slot_of
from antipode.store.tables import ApprovalRow, RunRow


class Approvals:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, run: RunRow, room: Room | None = None) -> None:
        """Keep a new run that no process may claim before it is approved. It takes no slot.

        Raises:
            QuotaExceeded: its project has as many runs as it may.
        """
        run.state, run.slot = AWAITING, None
        with Session(self._engine) as session, session.begin():
            add_within(session, run, room)

    def awaiting(self) -> list[RunRow]:
        """The runs that await approval, the oldest first."""
        wanted = select(RunRow).where(RunRow.state == AWAITING)
        with Session(self._engine) as session:
            return list(session.scalars(wanted.order_by(RunRow.started_at)))

    def of(self, run: str) -> list[ApprovalRow]:
        """The approvals of a run, the oldest first."""
        wanted = select(ApprovalRow).where(ApprovalRow.run == run)
        with Session(self._engine) as session:
            return list(session.scalars(wanted.order_by(ApprovalRow.at)))

    def approve(self, approval: ApprovalRow) -> bool:
        """Keep an approval; whether it was the last that was needed, and the run is queued now.

        Raises:
            InvalidInput: the run awaits none any more, or the person has approved it before.
            Busy: another run has its slot; the approval is not kept.
        """
        run, person = approval.run, approval.person
        in_time = now(self._engine)  # the clock of the approver's host has no say
        try:
            with Session(self._engine) as session, session.begin():
                # locks the row: of two approvals at once, one sees the other
                ours = update(RunRow).where(
                    RunRow.id == run,
                    RunRow.state == AWAITING,
                    RunRow.approve_before > in_time,
                )
                held = session.execute(ours.values(state=AWAITING))
                if not held.rowcount:  # type: ignore[attr-defined]
                    raise InvalidInput(f"run {run} does not await approval any more")
                if session.get(ApprovalRow, (run, person)) is not None:
                    raise InvalidInput(f"{person} has approved run {run} already")
                session.add(approval)
                session.flush()
                row = session.get_one(RunRow, run)
                session.refresh(row)
                found = session.scalars(select(ApprovalRow).where(ApprovalRow.run == run)).all()
                if len(found) < row.approvals_needed:
                    return False
                row.state, row.slot = "queued", slot_of(row.kind, row.vnf)
        except IntegrityError as error:
            raise Busy(
                f"another run of the VNF is under way, and run {run} cannot begin beside it."
                " Approve it when that one has ended; see: antipode run list"
            ) from error
        return True

    def reject(self, run: str, reason: str) -> bool:
        """End a run that awaits approval; False where it awaits none any more."""
        return self._end(run, NEVER_BEGUN[0], reason)

    def _end(self, run: str, state: str, reason: str) -> bool:
        ours = update(RunRow).where(RunRow.id == run, RunRow.state == AWAITING)
        at = now(self._engine)
        # it has made nothing that could be an orphan
        values = {"state": state, "reason": reason, "ended_at": at, "collected_at": at}
        with Session(self._engine) as session, session.begin():
            return bool(session.execute(ours.values(values)).rowcount)  # type: ignore[attr-defined]

    def expire(self) -> Sequence[RunRow]:
        """End the runs that were not approved in time, by the clock of the database; those."""
        if not (awaiting := self.awaiting()):
            return []
        at = now(self._engine)
        late = [r for r in awaiting if (r.approve_before or 0) <= at]
        return [r for r in late if self._end(r.id, NEVER_BEGUN[1], "it was not approved in time")]
