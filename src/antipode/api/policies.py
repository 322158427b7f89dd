# SPDX-License-Identifier: Apache-2.0
"""`/v1/policies`: ways to be protected, made by administrators and chosen by projects."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError

from antipode.api import conventions
from antipode.api.conventions import Limit, Linked, Marker, PolicyName, base_of, links, page
from antipode.api.gate import Asked, route
from antipode.errors import InvalidInput, NotFound
from antipode.model.policy import Policy
from antipode.operations import policies

ROUTES = APIRouter(prefix="/v1", tags=["policies"])
Json = dict[str, Any]


class PolicyShown(Linked):
    """A policy."""

    name: str
    about: str
    projects: list[str] | None = Field(description="that may choose it; null: all. For the staff")
    protections: list[Json]
    rpo_s: float | None
    rto_s: float | None
    verify_every_s: float | None
    drill_every_s: float | None


class OnePolicy(BaseModel):
    policy: PolicyShown


class PolicyList(BaseModel):
    policies: list[PolicyShown]
    policies_links: list[conventions.Link]


class PolicyWanted(conventions.Body):
    """The fields of a policy, as docs/api.md has them."""

    about: Annotated[str, Field(max_length=500)] = ""
    projects: Annotated[list[str], Field(max_length=100, default_factory=list)]
    protections: Annotated[list[Json], Field(min_length=1, max_length=10)]
    rpo: str | float | None = None
    rto: str | float | None = None
    verify_every: str | float | None = None
    drill_every: str | float | None = None


class GivenPolicyDefinition(conventions.Body):
    policy: PolicyWanted


@route(ROUTES, "GET", "/policies", "policy:list")
def list_policies(
    asked: Asked, request: Request, limit: Limit = conventions.USUAL, marker: Marker | None = None
) -> PolicyList:
    """List the policies that the project may choose, in the order of their names."""
    every: list[Policy] = []
    following = marker
    while len(every) <= limit:
        found = asked.deployment.policies.page(limit + 1, following)
        every += [policy for policy in found if _is_seen(asked, policy)]
        if len(found) <= limit:
            break
        following = found[-1].policy
    shown, more = page(request, every[: limit + 1], limit, lambda policy: policy.policy)
    return PolicyList(
        policies=[_shown(asked, request, policy) for policy in shown], policies_links=more
    )


@route(ROUTES, "GET", "/policies/{policy}", "policy:list")
def get_policy(asked: Asked, request: Request, policy: PolicyName) -> OnePolicy:
    """Show a policy."""
    missing = NotFound(f"there is no policy {policy}", resource=f"policy {policy}")
    try:
        found = asked.deployment.policies.get(policy)
    except NotFound:
        raise missing from None
    if not _is_seen(asked, found):
        raise missing
    return OnePolicy(policy=_shown(asked, request, found))


@route(ROUTES, "PUT", "/policies/{policy}", "policy:put")
def put_policy(
    asked: Asked, request: Request, policy: PolicyName, given: GivenPolicyDefinition
) -> OnePolicy:
    """Make a policy, or change it for all VNFs that have chosen it."""
    try:
        found = Policy.model_validate({**given.policy.model_dump(), "policy": policy})
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InvalidInput(f"the policy is wrong: {'; '.join(wrong[:10])}") from error
    policies.put(asked.deployment, found)
    return OnePolicy(policy=_shown(asked, request, found))


@route(ROUTES, "DELETE", "/policies/{policy}", "policy:put", status_code=204)
def delete_policy(asked: Asked, policy: PolicyName) -> Response:
    """Remove a policy that no VNF has chosen."""
    policies.remove(asked.deployment, policy)
    return Response(status_code=204)


def _is_seen(asked: Asked, policy: Policy) -> bool:
    return asked.caller.all_projects or policy.may_be_chosen_by(asked.caller.project)


def _shown(asked: Asked, request: Request, policy: Policy) -> PolicyShown:
    return PolicyShown(
        name=policy.policy,
        about=policy.about,
        projects=(policy.projects or None) if asked.caller.all_projects else None,
        protections=[p.model_dump(mode="json") for p in policy.protections],
        rpo_s=policy.rpo,
        rto_s=policy.rto,
        verify_every_s=policy.verify_every,
        drill_every_s=policy.drill_every,
        links=links(base_of(request), "policies", policy.policy),
    )
