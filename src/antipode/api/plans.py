# SPDX-License-Identifier: Apache-2.0
"""`/v1/plans`: plans over many VNFs, for the staff."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from antipode.api import changes, conventions, run_requests
from antipode.api.conventions import PlanName, href
from antipode.api.gate import Asked, route
from antipode.api.runs import IdempotencyKey, OnePreview, OneRun, Preview, get_run
from antipode.errors import NotConfirmed
from antipode.operations import approvals, plans, proposals
from antipode.operations.proposals import Wish
from antipode.operations.shown import plan as words
from antipode.screen import visible
from antipode.store.tables import RunRow

ROUTES = APIRouter(prefix="/v1", tags=["plans"])
Json = dict[str, Any]


class PlanOfList(BaseModel):
    """A plan in the vaults."""

    plan: str
    to: str | None = None
    groups: int | None = None
    vnfs: int | None = None
    version: int | None = None
    at: str | None = None
    by: str | None = None
    damaged: str | None = Field(description="why it cannot be read")


class PlanList(BaseModel):
    plans: list[PlanOfList]


class OnePlan(BaseModel):
    plan: Json


class GivenPlan(conventions.Body):
    """The fields of a plan file, without its name."""

    plan: Json


class PlanRun(conventions.Body):
    """What is done with all VNFs of a plan."""

    kind: Literal["precheck", "drill", "failover", "migrate", "failback"]
    to: changes.SiteName | None = None
    fence: Literal["required", "try"] | None = None
    lost_vaults: Annotated[list[changes.SiteName], Field(max_length=20, default_factory=list)]
    without_blocked: bool = False
    confirm: Annotated[
        str | None,
        Field(max_length=64, description="the name of the plan: it is meant"),
    ] = None


class GivenPlanRun(conventions.Body):
    run: PlanRun


@route(ROUTES, "GET", "/plans", "plan:get", is_long=True)
def list_plans(asked: Asked) -> PlanList:
    """List the plans that the vaults have."""
    found = plans.listed(asked.deployment)
    return PlanList(plans=[PlanOfList.model_validate(one) for one in found])


@route(ROUTES, "GET", "/plans/{plan}", "plan:get", is_long=True)
def get_plan(asked: Asked, plan: PlanName) -> OnePlan:
    """Show a plan."""
    return OnePlan(plan=plans.show(asked.deployment, plan))


@route(ROUTES, "PUT", "/plans/{plan}", "plan:put", is_long=True)
def put_plan(asked: Asked, plan: PlanName, given: GivenPlan) -> OnePlan:
    """Keep a plan in the vaults, or replace it there."""
    found = plans.read_document({**given.plan, "plan": plan}, asked.deployment.config)
    return OnePlan(plan=plans.put(asked.deployment, found))


@route(ROUTES, "DELETE", "/plans/{plan}", "plan:put", is_long=True, status_code=204)
def delete_plan(asked: Asked, plan: PlanName) -> Response:
    """Remove a plan from the vaults. Its runs stay in the history."""
    plans.remove(asked.deployment, plan)
    return Response(status_code=204)


@route(ROUTES, "POST", "/plans/{plan}/previews", "plan:run", is_long=True)
def preview_plan(asked: Asked, plan: PlanName, given: GivenPlanRun) -> OnePreview:
    """Show what would be done with each VNF of a plan. Nothing is changed."""
    found = _prepared(asked, plan, given.run)
    return OnePreview(
        preview=Preview(
            kind=given.run.kind,
            lines=[visible(line) for line in words.lines(found)],
            details=words.record(found),
            approvals_needed=approvals.needed(asked.deployment, plans.request(found)),
        )
    )


@route(ROUTES, "POST", "/plans/{plan}/runs", "plan:run", is_long=True, status_code=202)
def create_plan_run(
    asked: Asked,
    request: Request,
    response: Response,
    plan: PlanName,
    given: GivenPlanRun,
    idempotency_key: IdempotencyKey = None,
) -> OneRun:
    """Carry a plan out. It is queued for a service, or awaits approval."""
    key = run_requests.key_of(asked, idempotency_key)
    digest = run_requests.digest_of(asked, given.model_dump(mode="json"))
    before = run_requests.made_before(asked, key, digest)
    if before is None:
        if given.run.kind != "precheck" and given.run.confirm != plan:
            raise NotConfirmed(f"give confirm: {plan}, if that is meant; see its preview first")
        found = run_requests.planned_once(
            asked, lambda: _may_begin(asked, plan, given), key, digest
        )
        if isinstance(found, RunRow):
            made = found.id
        else:
            lines, request_of = list(words.lines(found)), partial(plans.request, found)
            made = run_requests.begun(asked, request_of, lines, key, digest)
    else:
        made = before.id
    response.headers["Location"] = href(request, "runs", made)
    shown: OneRun = get_run(asked, request, made)
    return shown


def _may_begin(asked: Asked, plan: str, given: GivenPlanRun) -> plans.Prepared:
    found = _prepared(asked, plan, given.run)
    found.must_begin(without=given.run.without_blocked)
    return found


def _prepared(asked: Asked, plan: str, wanted: PlanRun) -> plans.Prepared:
    wish = Wish(to=wanted.to, fence=wanted.fence, lost_vaults=wanted.lost_vaults)
    return proposals.of_plan(asked.deployment, plan, wanted.kind, wish)
