# SPDX-License-Identifier: Apache-2.0
"""Runs and their steps in the database. A write to a run is refused once another process has
claimed it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    ColumnElement,
    Engine,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased, defer

from antipode import clock
from antipode.errors import Busy, ClaimLost, NotFound, QuotaExceeded
from antipode.store.rows import changing
from antipode.store.tables import (
    ApprovalRow,
    ForecastRow,
    QuestionRow,
    RunRow,
    StepRow,
    VnfRow,
)

RUNNING = "running"
OPEN = ("queued", RUNNING)
AWAITING = "awaiting"
"""The state of a run that no process may claim before others have approved it. It is not open: it
is in the way of nothing.
"""
UNFINISHED = (*OPEN, AWAITING, "failed")
NEVER_BEGUN = ("rejected", "expired")
"""The states in which a run has ended that was not approved."""
ENDED = ("succeeded", "failed", "aborted", *NEVER_BEGUN)


NEWEST_BEFORE = 50
"""Runs from before a moment that say how things stood at it."""
CLOCKS_DIFFER_BY_S = 86400.0
"""How far the clock of a host may be behind that of another, at most, for its runs to be found."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs are wanted; None: all."""

    projects: Sequence[str] | None = None
    vnf: str | None = None
    kind: str | None = None
    state: str | None = None

    def given(self) -> dict[str, Any]:
        """What is wanted, by the names that `_CONDITIONS` has."""
        given: dict[str, Any] = {"vnf": self.vnf, "kind": self.kind, "state": self.state}
        if self.projects is not None:
            # one project, so that an index has them in order
            one = len(self.projects) == 1
            given |= {"project": self.projects[0]} if one else {"projects": [*self.projects]}
        return {name: value for name, value in given.items() if value is not None}


_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "project": RunRow.project == bindparam("project"),
    "projects": RunRow.project.in_(bindparam("projects", expanding=True)),
    "vnf": RunRow.vnf == bindparam("vnf"),
    "kind": RunRow.kind == bindparam("kind"),
    "state": RunRow.state == bindparam("state"),
}


class ListedRun(NamedTuple):
    """A run of a list: neither its request nor its result, which may be large, is read for it."""

    id: str
    kind: str
    vnf: str
    project: str | None
    state: str
    reason: str | None
    author: str | None
    started_at: float
    ended_at: float | None
    part_of: str | None
    recovery_point: str | None


class Room(NamedTuple):
    """How many unfinished runs a project may have."""

    project: str
    most: int


class Runs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, run: RunRow, room: Room | None = None) -> None:
        """Store a new run.

        Args:
            room: how many its project may have.

        Raises:
            Busy: another run has its slot.
            QuotaExceeded: its project has as many runs as it may.
        """
        slot = run.slot
        try:
            with Session(self._engine) as session, session.begin():
                add_within(session, run, room)
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
        """Claim a run that has not ended; the number of the claim, which every later write to the
        run must name.

        Args:
            conductor: the process that claims it, for people.
            known: the number of the previous claim, as it was read.
            also_failed: whether a run that failed is claimed too.
            abort: to roll the run back; later claims can do nothing else with it.

        Raises:
            ClaimLost: another process was faster.
            Busy: it has ended meanwhile, or another run has its slot by now.
        """
        row = self.get(run)
        mine = known + 1
        taken = {
            "claim": mine,
            "conductor": conductor,
            "state": "running",
            "ended_at": None,
            "collected_at": None,
            "slot": slot_of(row.kind, row.vnf),
        }
        if row.ending is None:
            taken["reason"] = None
        if abort:
            taken["abort_requested_at"] = clock.now()
        elif row.state == "failed":
            # a request from before the run ended is void: the new claim is a new decision
            taken["abort_requested_at"] = None
        states = (*OPEN, "failed") if also_failed or abort else OPEN
        try:
            with Session(self._engine) as session, session.begin():
                ours = changing(RunRow).where(
                    RunRow.id == run, RunRow.claim == known, RunRow.state.in_(states)
                )
                if session.execute(ours.values(taken)).rowcount:  # type: ignore[attr-defined]
                    return mine
        except IntegrityError as error:
            raise self._busy(slot_of(row.kind, row.vnf)) from error
        now = self.get(run)
        if now.claim == known:
            raise Busy(f"run {run} has {now.state} in the meantime")
        raise ClaimLost(f"run {run} was taken by another process at the same moment")

    def reopen(self, run: str, known: int, *, abort: bool = False) -> None:
        """Have a service resume a run that failed, or that no process executes. An operator wants
        that now.

        Args:
            known: the number of the newest claim, as it was read.
            abort: have it rolled back instead.

        Raises:
            Busy: another process has claimed it, it has ended meanwhile, or another run has its
                slot by now.
        """
        row = self.get(run)
        now = clock.now()
        if abort:
            noted: dict[str, Any] = {"abort_requested_at": now}
            again: dict[str, Any] = {}
        else:
            noted = {"resumed_at": now, "resumed_claim": known}
            again = {"reason": None, "abort_requested_at": None}
        again |= {
            "state": "queued",
            "ended_at": None,
            "collected_at": None,
            "slot": slot_of(row.kind, row.vnf),
        }
        ours = changing(RunRow).where(RunRow.id == run, RunRow.claim == known)
        try:
            with Session(self._engine) as session, session.begin():
                for states, values in ((("failed",), {**noted, **again}), (OPEN, noted)):
                    change = ours.where(RunRow.state.in_(states)).values(values)
                    if session.execute(change).rowcount:  # type: ignore[attr-defined]
                        return
        except IntegrityError as error:
            raise self._busy(slot_of(row.kind, row.vnf)) from error
        raise Busy(f"run {run} was claimed by a process, or has ended, at the same moment")

    def release(self, run: str, claim: int) -> None:
        """Release a run that has not ended, for another process to resume.

        Raises:
            ClaimLost: another process has claimed it.
        """
        self._write(run, claim, {"conductor": None})

    def begin_ending(self, run: str, claim: int, ending: str, reason: str) -> None:
        """Note, before anything is rolled back, that this run will be `ending` (failed, aborted)
        and why.

        Raises:
            ClaimLost: another process has claimed it.
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
        """End the run.

        Raises:
            ClaimLost: another process has claimed it.
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
        """Store the newest state of each of these steps, in one transaction.

        Raises:
            ClaimLost: another process has claimed the run.
        """
        with Session(self._engine) as session, session.begin():
            self._must_be_ours(session, run, claim, {"claim": claim})
            newest = {step.id: step for step in steps}
            known = set(session.scalars(select(StepRow.id).where(StepRow.id.in_(list(newest)))))
            if fresh := [_values(step) for name, step in newest.items() if name not in known]:
                session.execute(insert(StepRow), fresh)
            if known:
                session.execute(update(StepRow), [_values(newest[name]) for name in known])

    def close_steps(self, run: str, claim: int) -> int:
        """Close the steps that were running when the process that executed the run died, at its
        last sign of life; how many there were.

        Raises:
            ClaimLost: another process has claimed the run.
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
                step.result = {**step.result, "error": "the process that executed it died"}
                closed += 1
            return closed

    def request_abort(self, run: str) -> None:
        """Ask the process that executes the run, now or later, to stop and roll it back.

        A run that has ended is not changed.
        """
        with Session(self._engine) as session, session.begin():
            asked = changing(RunRow).where(
                RunRow.id == run, RunRow.state.in_(OPEN), RunRow.abort_requested_at.is_(None)
            )
            session.execute(asked.values(abort_requested_at=clock.now()))

    def standing(self, run: str) -> tuple[int, bool]:
        """The number of the newest claim of a run, and whether it is asked to abort."""
        with Session(self._engine) as session:
            claim, asked = session.execute(
                select(RunRow.claim, RunRow.abort_requested_at).where(RunRow.id == run)
            ).one()
        return claim, asked is not None

    def standing_of(self, runs: Collection[str]) -> dict[str, tuple[int, bool]]:
        """As `standing`, by run, of those that there are."""
        wanted = select(RunRow.id, RunRow.claim, RunRow.abort_requested_at)
        with Session(self._engine) as session:
            rows = session.execute(wanted.where(RunRow.id.in_(runs)))
            return {run: (claim, asked is not None) for run, claim, asked in rows}

    def open(self, vnf: str | None = None) -> list[RunRow]:
        """The runs in the states `queued` and `running`, the oldest first."""
        return self._rows(_of(vnf).where(RunRow.state.in_(OPEN)).order_by(RunRow.started_at))

    def open_bare(self) -> list[RunRow]:
        """As `open`, without their requests, which may be large, for loops that look often."""
        wanted = select(RunRow).where(RunRow.state.in_(OPEN)).order_by(RunRow.started_at)
        return self._rows(wanted.options(defer(RunRow.request)))

    def lately(self, since: float) -> list[tuple[RunRow, str | None]]:
        """The runs that are open, and those that ended after a moment (seconds since the epoch),
        without their requests: each with the run that it is a part of.
        """
        wanted = select(RunRow, _whole_of(RunRow)).options(defer(RunRow.request))
        with Session(self._engine) as session:
            opened = session.execute(wanted.where(RunRow.state.in_(OPEN))).all()
            ended = session.execute(wanted.where(RunRow.ended_at > since)).all()
        return [(row, whole) for row, whole in (*opened, *ended)]

    def has_unfinished(self, vnf: str | None = None) -> bool:
        """Whether any run is open, or has failed."""
        return self._first(_of(vnf).where(RunRow.state.in_((*OPEN, "failed")))) is not None

    def unfinished_of(self, like: str) -> list[RunRow]:
        """The runs that are open, await approval or have failed, of all that is named in a way.

        Args:
            like: a pattern of SQL for the names.
        """
        alike = select(RunRow).where(RunRow.vnf.like(like), RunRow.state.in_(UNFINISHED))
        return self._rows(alike)

    def ended_since(self, moment: float) -> list[RunRow]:
        """The runs that ended after a moment (seconds since the epoch), the oldest first."""
        ended = select(RunRow).where(RunRow.ended_at > moment)
        return self._rows(ended.order_by(RunRow.ended_at))

    def ended_of(self, vnf: str, since: float, earlier: Collection[str]) -> list[RunRow]:
        """The runs of a VNF that ended after a moment (seconds since the epoch), and the newest of
        these kinds that had ended before: the last one, and the last that succeeded. They come
        without their requests, the newest first.
        """
        bare = _of(vnf).options(defer(RunRow.request)).order_by(RunRow.ended_at.desc())
        before = bare.where(RunRow.ended_at <= since, RunRow.kind.in_(earlier))
        good = before.where(RunRow.state == "succeeded").limit(NEWEST_BEFORE)
        found = [*self._rows(before.limit(1)), *self._rows(good)]
        found.sort(key=lambda row: row.ended_at or 0.0, reverse=True)
        once = {row.id: row for row in [*self._rows(bare.where(RunRow.ended_at > since)), *found]}
        return list(once.values())

    def all(self, vnf: str | None = None) -> list[RunRow]:
        """All runs, the newest first."""
        return self._rows(_of(vnf).order_by(RunRow.started_at.desc()))

    def newest(
        self,
        most: int,
        *,
        projects: Collection[str] | None = None,
        vnf: str | None = None,
        kinds: Collection[str] = (),
        states: Collection[str] = (),
        after: str | None = None,
    ) -> list[RunRow]:
        """Runs without their requests, the newest first.

        Args:
            most: so many at most.
            projects: only of these; of all, and of none, by default.
            kinds, states: only of these; of all by default.
            after: a run: only those that are older than it.

        Raises:
            NotFound: there is no run `after` which they come, or not in these projects.
        """
        wanted = _of(vnf).order_by(RunRow.started_at.desc(), RunRow.id.desc()).limit(most)
        if projects is not None:
            wanted = wanted.where(RunRow.project.in_(projects))
        if kinds:
            wanted = wanted.where(RunRow.kind.in_(kinds))
        if states:
            wanted = wanted.where(RunRow.state.in_(states))
        if after is not None:
            # of one of another project not even the place is shown
            there = RunFilter(None if projects is None else [*projects]).given()
            of_it = _began(frozenset(there)), {**there, "marker": after}
            with self._engine.connect() as connection:
                if (began := connection.scalar(*of_it)) is None:
                    raise NotFound(f"there is no run {after} among these")
            same = and_(RunRow.started_at == began, RunRow.id < after)
            wanted = wanted.where(or_(RunRow.started_at < began, same))
        return self._rows(wanted.options(defer(RunRow.request)))

    def page(self, wanted: RunFilter, limit: int, marker: str | None = None) -> list[ListedRun]:
        """Some runs as lists show them, the newest first.

        Args:
            marker: the run after which they begin, one of those that are wanted.

        Raises:
            NotFound: there is no such run among them.
        """
        given = wanted.given()
        with self._engine.connect() as connection:
            if marker is not None:
                of_it = _began(frozenset(given)), {**given, "marker": marker}
                if (began := connection.scalar(*of_it)) is None:
                    raise NotFound(f"there is no run {marker} among these")
                given |= {"marker": marker, "began": began}
            rows = connection.execute(_page(frozenset(given)), {**given, "most": limit})
            return list(map(ListedRun._make, rows.all()))

    def count_unfinished(self, project: str) -> int:
        """How many runs of a project are queued, running or await approval."""
        with Session(self._engine) as session:
            return session.scalar(_unfinished(project)) or 0

    def of_request(self, key: str) -> RunRow | None:
        """The run that was made for a request to the API."""
        return self._first(select(RunRow).where(RunRow.request_key == key))

    def of_kind(self, kind: str, vnf: str, most: int | None = None) -> list[RunRow]:
        """The runs of a kind and VNF, or so many of them, the newest first."""
        wanted = _of(vnf).where(RunRow.kind == kind).order_by(RunRow.started_at.desc())
        return self._rows(wanted.limit(most))

    def newest_begun(self, kind: str, vnf: str, until: float) -> RunRow | None:
        """The newest run of a kind and VNF that was begun until a moment (seconds since the
        epoch).
        """
        wanted = _of(vnf).where(RunRow.kind == kind, RunRow.started_at <= until)
        return self._first(wanted.order_by(RunRow.started_at.desc()))

    def unfinished(self, vnf: str) -> list[RunRow]:
        """The runs of a VNF that are open, await approval or have failed."""
        return self._rows(_of(vnf).where(RunRow.state.in_(UNFINISHED)))

    def newest_success(self, kind: str, vnf: str) -> RunRow | None:
        """The newest run of a kind and VNF that succeeded."""
        wanted = _of(vnf).where(RunRow.kind == kind, RunRow.state == "succeeded")
        return self._first(wanted.order_by(RunRow.started_at.desc()))

    def newest_successes(self, kinds: Collection[str], most: int) -> list[RunRow]:
        """The newest runs of these kinds that succeeded, without their requests; the newest
        first.
        """
        wanted = select(RunRow).where(RunRow.kind.in_(kinds), RunRow.state == "succeeded")
        newest = wanted.order_by(RunRow.started_at.desc()).limit(most)
        return self._rows(newest.options(defer(RunRow.request)))

    def newest_of_each(self, kinds: Collection[str], vnf: str | None = None) -> list[RunRow]:
        """For each VNF the newest run of each of these kinds that is no part of another run of the
        VNF, without its request; the newest first.
        """
        whole = aliased(RunRow)
        of_its_vnf = select(whole.id).where(whole.id == _whole_of(RunRow), whole.vnf == RunRow.vnf)
        is_whole = ~of_its_vnf.exists()
        newest = RunRow.started_at.desc()
        ranked = (
            select(
                RunRow.id,
                func.row_number()
                .over(partition_by=(RunRow.vnf, RunRow.kind), order_by=newest)
                .label("alike"),
            )
            .where(RunRow.kind.in_(kinds), is_whole, RunRow.state.not_in((AWAITING, *NEVER_BEGUN)))
            .subquery()
        )
        wanted = _of(vnf).join(ranked, ranked.c.id == RunRow.id).where(ranked.c.alike == 1)
        return self._rows(wanted.order_by(newest).options(defer(RunRow.request)))

    def newest_success_of_each(self, kinds: Collection[str]) -> list[RunRow]:
        """For each VNF the newest run of each of these kinds that succeeded, without its
        request.
        """
        newest = RunRow.started_at.desc()
        alike = func.row_number().over(partition_by=(RunRow.vnf, RunRow.kind), order_by=newest)
        ranked = (
            select(RunRow.id, alike.label("alike"))
            .where(RunRow.kind.in_(kinds), RunRow.state == "succeeded")
            .subquery()
        )
        wanted = select(RunRow).join(ranked, ranked.c.id == RunRow.id).where(ranked.c.alike == 1)
        return self._rows(wanted.options(defer(RunRow.request)))

    def parts(self, runs: Collection[RunRow]) -> list[RunRow]:
        """The runs that are parts of these, the oldest first."""
        if not runs:
            return []
        # a part is begun after its whole, by a host whose clock may be behind; the moments of runs
        # have an index
        since = min(run.started_at for run in runs) - CLOCKS_DIFFER_BY_S
        wanted = select(RunRow).where(
            RunRow.started_at >= since, _whole_of(RunRow).in_([run.id for run in runs])
        )
        return self._rows(wanted.order_by(RunRow.started_at))

    def successor(self, run: RunRow) -> str | None:
        """The newest run of the same kind that was begun for the VNF after a run, and was not
        aborted.
        """
        later = _of(run.vnf).where(
            RunRow.kind == run.kind,
            RunRow.started_at > run.started_at,
            RunRow.state.not_in(("aborted", AWAITING, *NEVER_BEGUN)),
        )
        found = self._first(later.order_by(RunRow.started_at.desc()))
        return None if found is None else found.id

    def user_of_orphans(self, run: RunRow, resumable: Sequence[str]) -> RunRow | None:
        """A run of the VNF that may use what a run has left behind: one that is open, or one of a
        `resumable` kind that was begun later and failed.
        """
        failed = and_(
            RunRow.kind.in_(resumable),
            RunRow.state == "failed",
            RunRow.started_at > run.started_at,
        )
        return self._first(_of(run.vnf).where(or_(RunRow.state.in_(OPEN), failed)))

    def to_collect(
        self,
        since: float,
        vnf: str | None = None,
        clean: Collection[str] = (),
        kind: str | None = None,
    ) -> list[RunRow]:
        """The runs whose orphans are looked for, the newest first: those that ended after a moment
        (seconds since the epoch), and those that were not collected, as far as they may have left
        something: they ended without success, with steps that were not done, or were resumed.

        Args:
            clean: the kinds of which no other run may have left something.
            kind: runs of this one only.
        """
        not_done = type_coerce(RunRow.result, JSON)["not_done"].as_string().is_not(None)
        may_have_left = or_(RunRow.state.in_(("failed", "aborted")), RunRow.claim > 1, not_done)
        not_yet = and_(RunRow.state.in_(ENDED), RunRow.collected_at.is_(None), may_have_left)
        lately = and_(RunRow.ended_at > since, or_(may_have_left, RunRow.kind.not_in(clean)))
        wanted = _of(vnf).where(RunRow.state.not_in(NEVER_BEGUN), or_(lately, not_yet))
        if kind is not None:
            wanted = wanted.where(RunRow.kind == kind)
        return self._rows(wanted.order_by(RunRow.started_at.desc()))

    def uncollected(self, kind: str, vnf: str | None = None) -> list[RunRow]:
        """The runs of a kind of which it is not noted that nothing of them is left, the newest
        first.
        """
        wanted = _of(vnf).where(RunRow.kind == kind, RunRow.collected_at.is_(None))
        return self._rows(wanted.order_by(RunRow.started_at.desc()))

    def collected(self, runs: Sequence[RunRow]) -> None:
        """Note that no orphans of these runs are left, and none can appear any more.

        A run that was claimed since it was read is not changed.
        """
        with Session(self._engine) as session, session.begin():
            for run in runs:
                session.execute(_unchanged(run).values(collected_at=clock.now()))

    def prunable(self, before: float, keep: int, most: int | None = None) -> list[str]:
        """The ids of runs that ended before a moment (seconds since the epoch), the oldest first,
        without the newest `keep` of each VNF and the newest success of each VNF and kind.

        Only runs from before the moment are looked at, by indexes: what it costs does not grow with
        the history.

        Args:
            most: how many at most.
        """
        newer, better = aliased(RunRow), aliased(RunRow)
        last_kept = (
            select(newer.id)
            .where(newer.vnf == RunRow.vnf, newer.started_at > RunRow.started_at)
            .order_by(newer.started_at.desc())
            .limit(1)
            .offset(max(keep - 1, 0))
            .correlate(RunRow)
            .scalar_subquery()
        )
        has_newer_success = (
            select(better.id)
            .where(
                better.vnf == RunRow.vnf,
                better.kind == RunRow.kind,
                better.state == "succeeded",
                better.started_at > RunRow.started_at,
            )
            .correlate(RunRow)
            .exists()
        )
        wanted = select(RunRow.id).where(
            RunRow.state.in_(ENDED),
            RunRow.ended_at < before,
            or_(RunRow.state != "succeeded", has_newer_success),
        )
        if keep:
            wanted = wanted.where(last_kept.is_not(None))
        with Session(self._engine) as session:
            return list(session.scalars(wanted.order_by(RunRow.ended_at).limit(most)))

    def delete(self, runs: Sequence[RunRow]) -> int:
        """Delete runs that have ended, with all that belongs to them, in one transaction; how
        many. Those that were claimed since they were read stay.
        """
        with Session(self._engine) as session, session.begin():
            ours = list[str]()
            for run in runs:
                locks = _unchanged(run).values(claim=run.claim)  # the row, before its steps go
                if session.execute(locks).rowcount:  # type: ignore[attr-defined]
                    ours.append(run.id)
            for of_run in (StepRow.run, QuestionRow.run, ApprovalRow.run, ForecastRow.run):
                session.execute(delete(of_run.class_).where(of_run.in_(ours)))
            session.execute(delete(RunRow).where(RunRow.id.in_(ours)))
        return len(ours)

    def some_bare(self, runs: Collection[str]) -> list[RunRow]:
        """These runs without their requests and results, as far as there are any."""
        bare = defer(RunRow.request), defer(RunRow.result), defer(RunRow.shown)
        return self._rows(select(RunRow).where(RunRow.id.in_(runs)).options(*bare))

    def some(self, runs: Collection[str]) -> list[RunRow]:
        """These runs, as far as there are any."""
        return self._rows(select(RunRow).where(RunRow.id.in_(runs)))

    def get(self, run: str) -> RunRow:
        """A run.

        Raises:
            NotFound: no run has this id.
        """
        with Session(self._engine) as session:
            row = session.scalars(_RUN, {"run": run}).first()
        if row is None:
            raise NotFound(f"there is no run {run}; see: antipode run list")
        return row

    def project_of(self, run: str) -> str | None:
        """The project that a run belongs to; None: to none.

        Raises:
            NotFound: no run has this id.
        """
        with self._engine.connect() as connection:
            found = connection.execute(_PROJECT, {"run": run}).first()
        if found is None:
            raise NotFound(f"there is no run {run}; see: antipode run list")
        project: str | None = found.project
        return project

    def steps(self, run: str) -> list[StepRow]:
        """The steps of a run in the order in which they began."""
        with Session(self._engine) as session:
            return list(session.scalars(_STEPS, {"run": run}))

    def steps_under_way(self, run: str) -> list[StepRow]:
        """The steps of a run that have begun and not ended, the oldest first."""
        with Session(self._engine) as session:
            return list(session.scalars(_STEPS_UNDER_WAY, {"run": run}))

    def steps_of(self, runs: Sequence[str]) -> dict[str, list[StepRow]]:
        """The steps of several runs, by run, in the order in which they began."""
        wanted = select(StepRow).where(StepRow.run.in_(runs)).order_by(StepRow.started_at)
        found: dict[str, list[StepRow]] = {}
        with Session(self._engine) as session:
            for step in session.scalars(wanted):
                found.setdefault(step.run, []).append(step)
        return found

    def _rows(self, wanted: Select[RunRow]) -> list[RunRow]:
        with Session(self._engine) as session:
            return list(session.scalars(wanted))

    def _first(self, wanted: Select[RunRow]) -> RunRow | None:
        with Session(self._engine) as session:
            return session.scalars(wanted.limit(1)).first()

    def _write(self, run: str, claim: int, values: dict[str, Any]) -> None:
        with Session(self._engine) as session, session.begin():
            self._must_be_ours(session, run, claim, values)

    @staticmethod
    def _must_be_ours(session: Session, run: str, claim: int, values: dict[str, Any]) -> None:
        """Write to the run unless it was claimed since; the first statement of its transaction, so
        that no process can claim it before the end of that.
        """
        if not session.execute(
            changing(RunRow).where(RunRow.id == run, RunRow.claim == claim).values(values)
        ).rowcount:  # type: ignore[attr-defined]
            raise ClaimLost(
                f"run {run} was taken over by another process; this process changes nothing more "
                "of it"
            )

    def _busy(self, slot: str | None) -> Busy:
        with Session(self._engine) as session:
            other = session.scalar(select(RunRow.id).where(RunRow.slot == slot))
        return Busy(
            f"run {other} is under way; wait for it, or see: antipode run list"
            if other
            else f"another run has {slot} already"
        )


def add_within(session: Session, run: RunRow, room: Room | None) -> None:
    """Add a new run. Of processes that do so for one project at once, each counts those before.

    Args:
        room: how many the project may have; None: as many as it likes.

    Raises:
        QuotaExceeded: it has them; the transaction must be rolled back.
    """
    if room is None:
        session.add(run)
        return
    # one row that all of them lock, before anything else is read: a transaction of MariaDB sees
    # what was there at its first look. SQLite has one writer at a time from the insert on
    of_project = select(VnfRow.name).where(VnfRow.project == room.project).order_by(VnfRow.name)
    session.execute(of_project.limit(1).with_for_update())
    session.add(run)
    session.flush()
    if (session.scalar(_unfinished(room.project)) or 0) > room.most:
        raise QuotaExceeded(f"project {room.project} may have {room.most} open runs, and has them")


def _unfinished(project: str) -> Select[int]:
    """How many runs of a project are queued, running or await approval."""
    states = (*OPEN, AWAITING)
    return select(func.count()).where(RunRow.project == project, RunRow.state.in_(states))


@lru_cache
def _page(given: frozenset[str]) -> Select[*tuple[Any, ...]]:
    """The statement for a page of runs. It is made once, as clients that poll ask for it all the
    time, and to make it takes longer than to execute it.

    Args:
        given: the names of what is wanted; with `marker` and `began`, only those after that run.
    """
    point = type_coerce(RunRow.result, JSON)["recovery_point"].as_string()
    # columns, not rows of the mapper: these take twice as long
    own = (getattr(RunRow, name) for name in ListedRun._fields[:-2])
    rows = select(*own, _whole_of(RunRow), point).where(*_conditions(given))
    if "marker" in given:
        place = RunRow.started_at, RunRow.id
        names = zip(("began", "marker"), place, strict=True)
        rows = rows.where(tuple_(*place) < tuple_(*(bindparam(n, type_=c.type) for n, c in names)))
    return rows.order_by(RunRow.started_at.desc(), RunRow.id.desc()).limit(bindparam("most"))


@lru_cache
def _began(given: frozenset[str]) -> Select[float]:
    """The statement for the moment at which a run began that is one of those wanted."""
    wanted = select(RunRow.started_at).where(RunRow.id == bindparam("marker"))
    return wanted.where(*_conditions(given))


def _conditions(given: frozenset[str]) -> list[ColumnElement[bool]]:
    return [_CONDITIONS[name] for name in sorted(given & _CONDITIONS.keys())]


_RUN = select(RunRow).where(RunRow.id == bindparam("run"))
_PROJECT = select(RunRow.project).where(RunRow.id == bindparam("run"))
_STEPS = (
    select(StepRow)
    .where(StepRow.run == bindparam("run"))
    .order_by(StepRow.started_at, StepRow.number)
)
_STEPS_UNDER_WAY = _STEPS.where(StepRow.ended_at.is_(None))


def _values(step: StepRow) -> dict[str, Any]:
    return {column.key: getattr(step, column.key) for column in StepRow.__table__.columns}


def _whole_of(row: type[RunRow]) -> ColumnElement[str]:
    """The run that a run is a part of."""
    found: ColumnElement[str] = type_coerce(row.request, JSON)["part_of"].as_string()
    return found


def _of(vnf: str | None) -> Select[RunRow]:
    return select(RunRow) if vnf is None else select(RunRow).where(RunRow.vnf == vnf)


def _unchanged(run: RunRow) -> Update:
    """An update of a run that has ended, if no process has claimed it since it was read."""
    return changing(RunRow).where(
        RunRow.id == run.id, RunRow.claim == run.claim, RunRow.state.in_(ENDED)
    )


def slot_of(kind: str, vnf: str) -> str:
    """A name that only one open run of a VNF may have at a time.

    A failover does not wait for a protect, which may hang at the site that died.
    """
    return f"{kind}:{vnf}"
