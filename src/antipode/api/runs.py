# SPDX-License-Identifier: Apache-2.0
"""`/v1/runs`: what is done, by which steps, what it asks, and what others approve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, Field

from antipode.api import changes, conventions, run_requests
from antipode.api.conventions import (
    Limit,
    Linked,
    Marker,
    Moment,
    RunId,
    VnfName,
    base_of,
    href,
    links,
    moment,
    page,
)
from antipode.api.gate import Asked, route
from antipode.api.rules import rule_of_kind
from antipode.engine.approval import plan_of
from antipode.engine.run import name_of, part_of, state_of, states_of
from antipode.errors import InvalidInput, NotConfirmed, NotFound, WrongState
from antipode.operations import approvals
from antipode.operations.answer import answer, asked_below
from antipode.operations.progress import outlook
from antipode.operations.reports import Cleaner
from antipode.operations.resume import must_be_confirmed
from antipode.operations.run_tree import steps_with_parts, under
from antipode.operations.submit import keeps_it
from antipode.screen import visible
from antipode.store.runs import AWAITING, NEVER_BEGUN, RUNNING, ListedRun, RunFilter
from antipode.store.tables import QuestionRow, RunRow, StepRow

ROUTES = APIRouter(prefix="/v1", tags=["runs"])
Json = dict[str, Any]
STATES = Literal[
    "queued",
    "running",
    "awaiting_approval",
    "succeeded",
    "failed",
    "aborted",
    "rejected",
    "expired",
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=run_requests.LONGEST_KEY,
        description="a request that is repeated with the same key makes no second run",
    ),
]
_SHOWN = {AWAITING: "awaiting_approval"}
_STORED = {shown: stored for stored, shown in _SHOWN.items()}


class RunOfList(Linked):
    """A run; `GET /v1/runs/{run}` has its result."""

    id: str
    kind: str
    vnf: str | None = Field(description="null: a plan over many VNFs")
    plan: str | None
    project: str | None
    state: str = Field(
        description="queued, running, lost, waiting_for_input, awaiting_approval, succeeded, "
        "failed, aborted, rejected or expired"
    )
    reason: str | None
    author: str | None
    started_at: Moment
    ended_at: Moment | None
    recovery_point: str | None
    part_of: str | None


class RunShown(RunOfList):
    """A run with its result."""

    result: Json
    abort_requested_at: Moment | None
    approvals_needed: int
    approve_before: Moment | None
    under_way: list[str] = Field(description="the steps that it is at")
    left_s: float | None = Field(description="how long it may still take")
    judged_by: str | None
    warnings: list[str] = Field(description="what keeps it from going forward, beside its state")


class OneRun(BaseModel):
    run: RunShown


class RunList(BaseModel):
    runs: list[RunOfList]
    runs_links: list[conventions.Link]


class Step(BaseModel):
    """A line of a run's timeline."""

    id: str
    number: str
    name: str
    resource: str
    state: str
    started_at: Moment
    ended_at: Moment | None
    seconds: float | None
    result: Json


class StepList(BaseModel):
    steps: list[Step]
    steps_links: list[conventions.Link]


class Question(BaseModel):
    """A question of a run to an operator."""

    run: str
    step: str
    message: str
    wants: str = Field(description="yes-no, or text")
    asked_at: Moment
    expires_at: Moment
    answered_at: Moment | None
    answer: str | None
    answered_by: str | None


class QuestionList(BaseModel):
    questions: list[Question]


class Answering(conventions.Body):
    """An answer: yes or no as a boolean, or words."""

    step: Annotated[str, Field(min_length=1, max_length=64)]
    value: bool | Annotated[str, Field(min_length=1, max_length=4000)]


class GivenAnswer(conventions.Body):
    answer: Answering


class OneQuestion(BaseModel):
    question: Question


class Approval(BaseModel):
    """That somebody approves a run."""

    by: str
    at: Moment
    plan: str


class ApprovalsShown(BaseModel):
    """What a run that awaits approval would do, and who has approved it."""

    needed: int
    approve_before: Moment | None
    plan: str = Field(description="to be sent back with an approval: it covers this and no other")
    lines: list[str]
    given: list[Approval]


class OneApprovals(BaseModel):
    approvals: ApprovalsShown


class Approving(conventions.Body):
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class GivenApproval(conventions.Body):
    approval: Approving


class Rejecting(conventions.Body):
    reason: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


class GivenRejection(conventions.Body):
    rejection: Rejecting


class GivenRun(conventions.Body):
    run: changes.Change


class Confirming(conventions.Body):
    confirm: changes.Confirmed = None


class GivenResume(conventions.Body):
    resume: Confirming = Confirming()


class Preview(BaseModel):
    """What a run would do."""

    kind: str
    lines: list[str]
    details: Json
    approvals_needed: int


class OnePreview(BaseModel):
    preview: Preview


@route(ROUTES, "GET", "/runs", "run:list")
def list_runs(
    asked: Asked,
    request: Request,
    limit: Limit = conventions.USUAL,
    marker: Marker | None = None,
    vnf: Annotated[str | None, Query(pattern=conventions.NAME)] = None,
    kind: Annotated[str | None, Query(pattern=r"^[a-z][a-z-]{0,31}$")] = None,
    state: Annotated[STATES | None, Query(description="a lost run is running")] = None,
) -> RunList:
    """List the runs of the project, the newest first."""
    stored = _STORED.get(state, state) if state is not None else None
    wanted = RunFilter(asked.projects, vnf, kind, stored)
    return _listed(asked, request, wanted, limit, marker)


@route(ROUTES, "GET", "/vnfs/{vnf}/runs", "run:list")
def list_runs_of_vnf(
    asked: Asked,
    request: Request,
    vnf: VnfName,
    limit: Limit = conventions.USUAL,
    marker: Marker | None = None,
) -> RunList:
    """List the runs of a VNF, the newest first."""
    return _listed(asked, request, RunFilter(asked.projects, vnf), limit, marker)


@route(ROUTES, "GET", "/runs/{run}", "run:get")
def get_run(asked: Asked, request: Request, run: RunId) -> OneRun:
    """Show a run."""
    return _one(asked, request, run)


@route(ROUTES, "GET", "/runs/{run}/steps", "run:get")
def list_steps(
    asked: Asked,
    request: Request,
    run: RunId,
    limit: Limit = conventions.MOST,
    marker: Marker | None = None,
) -> StepList:
    """List the steps of a run, in the order in which they began."""
    steps = asked.deployment.runs.steps(run)
    clean = None if _may_read_all(asked) else Cleaner(steps)
    if marker is not None:
        places = [i for i, step in enumerate(steps) if step.id == marker]
        if not places:
            raise InvalidInput(f"marker {marker} is no step of run {run}")
        steps = steps[places[0] + 1 :]
    shown, more = page(request, steps[: limit + 1], limit, lambda step: step.id)
    return StepList(steps=[_step(step, clean) for step in shown], steps_links=more)


@route(ROUTES, "GET", "/runs/{run}/parts", "run:get")
def list_parts(asked: Asked, request: Request, run: RunId) -> RunList:
    """List the runs that are parts of a run, and the parts of these."""
    rows = [placed.run for placed in under(asked.deployment, asked.deployment.runs.get(run))]
    seen = asked.projects
    mine = [row for row in rows if seen is None or row.project in seen]
    shown = [_listed_of(row) for row in mine]
    return RunList(runs=_of_lists(asked, request, shown), runs_links=[])


@route(ROUTES, "GET", "/runs/{run}/questions", "run:get")
def list_questions(asked: Asked, run: RunId) -> QuestionList:
    """List the questions of a run, the oldest first."""
    return QuestionList(questions=[_question(q) for q in asked_below(asked.deployment, run)])


@route(ROUTES, "POST", "/runs/{run}/answers", "run:answer", status_code=201)
def answer_question(asked: Asked, run: RunId, given: GivenAnswer) -> OneQuestion:
    """Answer a question of a run. A no stops the run."""
    said = given.answer
    answer(asked.deployment, run, said.step, said.value)
    newest = [q for q in asked_below(asked.deployment, run) if q.step == said.step][-1]
    return OneQuestion(question=_question(newest))


@route(ROUTES, "GET", "/runs/{run}/approvals", "run:get")
def get_approvals(asked: Asked, run: RunId) -> OneApprovals:
    """Show what a run would do that awaits approval, and the approvals that it has."""
    return _approvals(asked, run)


@route(ROUTES, "POST", "/runs/{run}/approvals", "run:approve", status_code=201)
def approve_run(asked: Asked, run: RunId, given: GivenApproval) -> OneApprovals:
    """Approve a run of somebody else, as it was shown. With the last approval it is queued."""
    try:
        approvals.approve(asked.deployment, run, given.approval.plan)
    except InvalidInput as error:
        raise _conflict(asked, run, error) from error
    return _approvals(asked, run)


@route(ROUTES, "POST", "/runs/{run}/rejections", "run:reject", status_code=201)
def reject_run(asked: Asked, request: Request, run: RunId, given: GivenRejection) -> OneRun:
    """End a run that awaits approval. It has changed nothing."""
    try:
        approvals.reject(asked.deployment, run, given.rejection.reason)
    except InvalidInput as error:
        raise _conflict(asked, run, error) from error
    return _one(asked, request, run)


@route(ROUTES, "POST", "/runs/{run}/abort", "run:abort", status_code=202)
def abort_run(asked: Asked, request: Request, response: Response, run: RunId) -> OneRun:
    """Stop a run at its next safe point, and roll it back."""
    row = asked.deployment.runs.get(run)
    asked.must_allow(rule_of_kind(row.kind))
    if row.state in ("succeeded", "rejected", "expired"):
        raise _conflict(asked, run, InvalidInput(f"run {run} has {row.state}"))
    try:
        asked.installation.background.abort(row)
    except InvalidInput as error:
        raise _conflict(asked, run, error) from error
    response.headers["Location"] = href(request, "runs", run)
    return _one(asked, request, run)


@route(ROUTES, "POST", "/runs/{run}/resume", "run:resume", status_code=202)
def resume_run(
    asked: Asked, request: Request, response: Response, run: RunId, given: GivenResume
) -> OneRun:
    """Resume a run that failed, or whose process died."""
    row = asked.deployment.runs.get(run)
    asked.must_allow(rule_of_kind(row.kind))
    is_old = must_be_confirmed(asked.deployment, row, time.time()) is not None
    if is_old and given.resume.confirm != name_of(row):
        raise NotConfirmed(
            f"run {run} was confirmed long ago; give confirm: {name_of(row)}, if it does not run at"
            " its other site now"
        )
    try:
        asked.installation.background.resume(row)
    except InvalidInput as error:
        raise _conflict(asked, run, error) from error
    response.headers["Location"] = href(request, "runs", run)
    return _one(asked, request, run)


@route(ROUTES, "POST", "/vnfs/{vnf}/previews", "run:create", is_long=True)
def preview_run(asked: Asked, vnf: VnfName, given: GivenRun) -> OnePreview:
    """Show what a run would do, or what stands in its way. Nothing is changed."""
    asked.must_allow(f"run:{given.run.kind}")
    found = changes.planned(asked.deployment, vnf, given.run)
    shown = Preview(
        kind=given.run.kind,
        lines=[visible(line) for line in found.lines],
        details=found.details,
        approvals_needed=found.approvals_needed,
    )
    return OnePreview(preview=shown)


@route(ROUTES, "POST", "/vnfs/{vnf}/runs", "run:create", is_long=True, status_code=202)
def create_run(
    asked: Asked,
    request: Request,
    response: Response,
    vnf: VnfName,
    given: GivenRun,
    idempotency_key: IdempotencyKey = None,
) -> OneRun:
    """Begin a run of a VNF. It is queued for a service, or awaits approval."""
    asked.must_allow(f"run:{given.run.kind}")
    key = run_requests.key_of(asked, idempotency_key)
    digest = run_requests.digest_of(asked, given.model_dump(mode="json"))
    before = run_requests.made_before(asked, key, digest)
    if before is None:
        if not changes.is_confirmed(given.run, vnf):
            raise NotConfirmed(f"give confirm: {vnf}, if that is meant; see its preview first")
        found = run_requests.planned_once(
            asked, lambda: changes.planned(asked.deployment, vnf, given.run), key, digest
        )
        if isinstance(found, RunRow):
            made = found.id
        else:
            made = run_requests.begun(asked, found.request, found.lines, key, digest)
    else:
        made = before.id
    response.headers["Location"] = href(request, "runs", made)
    return _one(asked, request, made)


def _conflict(asked: Asked, run: str, error: InvalidInput) -> Exception:
    """An error that a run's state is the cause of, with the state; a wrong name stays one."""
    if isinstance(error, NotFound):
        return error
    row = asked.deployment.runs.get(run)
    return WrongState(str(error), _state(asked, row), resource=f"run {run}")


def _listed(
    asked: Asked, request: Request, wanted: RunFilter, limit: int, marker: str | None
) -> RunList:
    try:
        found = asked.deployment.runs.page(wanted, limit + 1, marker)
    except NotFound as error:
        raise InvalidInput(f"marker {marker} is none of these runs") from error
    shown, more = page(request, found, limit, lambda listed: listed.id)
    return RunList(runs=_of_lists(asked, request, shown), runs_links=more)


def _listed_of(row: RunRow) -> ListedRun:
    return ListedRun(
        row.id,
        row.kind,
        row.vnf,
        row.project,
        row.state,
        row.reason,
        row.author,
        row.started_at,
        row.ended_at,
        part_of(row),
        (row.result or {}).get("recovery_point"),
    )


def _state(asked: Asked, row: RunRow) -> str:
    return _words(state_of(row, asked.deployment))


def _states(asked: Asked, found: Sequence[ListedRun]) -> dict[str, str]:
    """The states of runs as they are shown; whether one is lost, or asks, is looked up."""
    running = [one.id for one in found if one.state == RUNNING]
    rows = asked.deployment.runs.some_bare(running) if running else []
    looked_up = states_of(rows, asked.deployment)
    kept = {one.id: _SHOWN.get(one.state, one.state) for one in found}
    return kept | {run: _words(state) for run, state in looked_up.items()}


def _words(state: str) -> str:
    return state.replace(" ", "_")


def _of_lists(asked: Asked, request: Request, found: Sequence[ListedRun]) -> list[RunOfList]:
    reasons, states = _reasons(asked, found), _states(asked, found)
    base = base_of(request)
    return [_of_list(base, one, states[one.id], reasons[one.id]) for one in found]


@lru_cache(conventions.MOST_REMEMBERED)
def _of_list(base: str, row: ListedRun, state: str, reason: str | None) -> RunOfList:
    is_plan = row.vnf != name_of(row)
    return RunOfList(
        id=row.id,
        kind=row.kind,
        vnf=None if is_plan else row.vnf,
        plan=name_of(row) if is_plan else None,
        project=row.project,
        state=state,
        reason=reason,
        author=row.author,
        started_at=moment(row.started_at) or "",
        ended_at=moment(row.ended_at),
        recovery_point=row.recovery_point,
        part_of=row.part_of,
        links=links(base, "runs", row.id, steps=("runs", row.id, "steps")),
    )


def _one(asked: Asked, request: Request, run: str) -> OneRun:
    now = time.time()
    seen = outlook(asked.deployment.runs, run, now, all_steps=False)
    row, estimate = seen.run, seen.estimate
    listed = _listed_of(row)
    reason = _reasons(asked, [listed])[row.id]
    state = state_of(row, asked.deployment)
    warning = keeps_it(asked.deployment, row, state)
    of_list = _of_list(base_of(request), listed, _words(state), reason)
    return OneRun(
        run=RunShown(
            **dict(of_list),
            result=row.result or {},
            abort_requested_at=moment(row.abort_requested_at),
            approvals_needed=row.approvals_needed,
            approve_before=moment(row.approve_before),
            under_way=[f"{step.name} {step.resource}" for step in seen.under_way],
            left_s=estimate.left_s if estimate else None,
            judged_by=estimate.judged_by if estimate else None,
            warnings=[] if warning is None else [warning],
        )
    )


def _may_read_all(asked: Asked) -> bool:
    """Whether the caller may read the words of commands, and what they have printed: there may be
    secrets in both.
    """
    return asked.allows("vnf:definition")


def _reasons(asked: Asked, rows: Sequence[ListedRun]) -> dict[str, str | None]:
    """Why runs have failed, by their ids, without words that the caller may not read. A run says
    what its parts have said, and so these are looked at, too.
    """
    found = {row.id: row.reason or None for row in rows}
    speak = [row.id for row in rows if row.reason and row.state not in NEVER_BEGUN]
    if not speak or _may_read_all(asked):
        return found
    steps = steps_with_parts(asked.deployment.runs, speak)
    for run in speak:
        found[run] = Cleaner(steps[run]).without(found[run] or "")
    return found


def _step(step: StepRow, clean: Cleaner | None) -> Step:
    took = None if step.ended_at is None else round(step.ended_at - step.started_at, 3)
    return Step(
        id=step.id,
        number=step.number,
        name=step.name,
        resource=step.resource,
        state=step.state,
        started_at=moment(step.started_at) or "",
        ended_at=moment(step.ended_at),
        seconds=took,
        result=(step.result or {}) if clean is None else clean.result(step),
    )


def _question(question: QuestionRow) -> Question:
    return Question(
        run=question.run,
        step=question.step,
        message=question.message,
        wants=question.wants,
        asked_at=moment(question.asked_at) or "",
        expires_at=moment(question.expires_at) or "",
        answered_at=moment(question.answered_at),
        answer=question.answer,
        answered_by=question.answered_by,
    )


def _approvals(asked: Asked, run: str) -> OneApprovals:
    row = asked.deployment.runs.get(run)
    lines = approvals.shown(asked.deployment, run)[1] if row.state == AWAITING else []
    given = [
        Approval(by=a.identity, at=moment(a.at) or "", plan=a.plan)
        for a in asked.deployment.approvals.of(run)
    ]
    return OneApprovals(
        approvals=ApprovalsShown(
            needed=row.approvals_needed,
            approve_before=moment(row.approve_before),
            plan=plan_of(row),
            lines=lines,
            given=given,
        )
    )
