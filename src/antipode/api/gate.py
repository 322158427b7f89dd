# SPDX-License-Identifier: Apache-2.0
"""The one way into the API: each route has a rule, and is entered by a user whom the rule allows
the thing that the path names. A thing of another project is not found.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from antipode import identity
from antipode.api import parameters
from antipode.api.background import Background
from antipode.api.faults import FAULTS
from antipode.api.identity import Caller, Keystones, must_have_project
from antipode.api.rate import Buckets, Long
from antipode.api.rules import RULES, SERVICE, STAFF, Rules
from antipode.engine.deployment import Deployment
from antipode.errors import Forbidden, NotAuthenticated, NotFound
from antipode.model.serving import ApiConfig

RULE = "x-rule"
"""Where a route has its rule, also in the OpenAPI document."""
LOOPBACK = ("127.0.0.1", "::1")
ABOUT_ONE = ("vnf", "run")
"""Names in paths of things that belong to a project."""


class Installation:
    """What the API answers with: a deployment, the Keystones of its sites, and the rules."""

    def __init__(self, deployment: Deployment, settings: ApiConfig) -> None:
        """
        Raises:
            InvalidInput: the policy file is wrong, or an entry of clouds.yaml.
        """
        self.deployment = deployment
        self.settings = settings
        self.keystones = Keystones(deployment.config, settings)
        self.rules = Rules(settings.policy_file)
        self.of_users = Buckets(settings.requests_per_minute)
        self.of_strangers = Buckets(max(settings.requests_per_minute // 10, 1))
        self.long = Long()
        self.background = Background(deployment)


@dataclass(frozen=True)
class Asked:
    """A request that may be carried out: its caller, and the project of the thing in its path."""

    installation: Installation
    caller: Caller
    request: Request
    project: str | None
    """of the thing that the path names; None: it names none, or one of no project"""

    @property
    def deployment(self) -> Deployment:
        return self.installation.deployment

    @property
    def projects(self) -> list[str] | None:
        """The projects whose things the caller sees; None: of all, and of none."""
        if self.caller.all_projects:
            return None
        return [] if self.caller.project is None else [self.caller.project]

    def allows(self, rule: str) -> bool:
        """Whether the caller may also do this to the thing of the path."""
        return self.installation.rules.allows(self.caller, rule, self.project)

    def must_allow(self, rule: str) -> None:
        """See that the caller may also do this to the thing of the path.

        Raises:
            Forbidden: not so.
        """
        self.installation.rules.must_allow(self.caller, rule, self.project)


def caller_of(request: Request) -> Caller:
    """The user of a request, by its token.

    Raises:
        NotAuthenticated: it has none, or one that no site accepts.
        SiteUnreachable: no site answers.
        Forbidden: antipode.yaml does not know the project of the token.
    """
    installation: Installation = request.app.state.installation
    token = request.headers.get("X-Auth-Token")
    if not token:
        raise NotAuthenticated("the request has no X-Auth-Token; log in at the Keystone of a site")
    address = request.client.host if request.client else "-"
    is_proxied = address in LOOPBACK  # the proxy's own address would be that of everybody
    if not is_proxied:
        installation.of_strangers.take(address, only_look=True)
    try:
        caller = installation.keystones.validate(token)
    except NotAuthenticated:
        if not is_proxied:
            installation.of_strangers.take(address)
        raise
    request.state.caller = caller
    installation.of_users.take(caller.account)
    must_have_project(caller)
    return caller


def project_of(deployment: Deployment, path: dict[str, Any]) -> str | None:
    """The project of the thing that a path names; None: it names none, or one of no project.

    Raises:
        NotFound: there is no such thing.
    """
    if (vnf := path.get("vnf")) is not None:
        return deployment.vnfs.project_of(vnf)
    if (run := path.get("run")) is not None:
        return deployment.runs.project_of(run)
    return None


def route(
    routes: APIRouter,
    method: str,
    path: str,
    rule: str,
    *,
    is_long: bool = False,
    may_be_new: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the handler of a route. Its argument `asked` is an `Asked`; it is called on behalf
    of the caller, after the rule.

    Args:
        rule: as in `RULES`. Where the path names no thing of a project, the rule is asked for the
            caller's own, and the handler leaves out what is of others.
        is_long: whether the handler asks sites or vaults.
        may_be_new: whether the handler may make the thing that the path names; for the staff.
    """
    known = {r.name: r for r in RULES}
    assert rule in known, rule
    is_about_one = any(f"{{{name}}}" in path for name in ABOUT_ONE)
    is_about_all = not is_about_one and STAFF in known[rule].check
    status: int = options.get("status_code", 200)

    def enter(request: Request) -> Asked:
        installation: Installation = request.app.state.installation
        request.state.rule = rule
        caller = caller_of(request)
        project: str | None = None
        if is_about_one:
            named = next(request.path_params[n] for n in ABOUT_ONE if n in request.path_params)
            missing = NotFound(f"there is no {named} here", resource=str(named))
            try:
                project = project_of(installation.deployment, request.path_params)
            except NotFound:
                if not (may_be_new and caller.all_projects):
                    raise missing from None
            if not caller.all_projects and (project is None or project != caller.project):
                raise missing
        if is_about_all and not caller.all_projects:  # whatever a policy file says
            raise Forbidden(
                f"{SERVICE}:{rule} is about things of all projects, and the project of"
                f" {caller.identity} covers its own"
            )
        on = project if is_about_one else caller.project
        installation.rules.must_allow(caller, rule, on)
        return Asked(installation, caller, request, project)

    def declare(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def behind(asked: Asked, **given: Any) -> Any:
            room = asked.installation.long.one() if is_long else nullcontext()
            with identity.acting_as(asked.caller.identity), room:
                found = handler(asked=asked, **given)
            return _answer(found, status, given.get("response"))

        hints = typing.get_type_hints(handler, include_extras=True)
        hints["asked"] = Annotated[Asked, Depends(enter)]
        signature = inspect.signature(handler)
        behind.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
                for p in signature.parameters.values()
            ],
            return_annotation=hints.get("return", inspect.Signature.empty),
        )
        del behind.__wrapped__
        if method == "GET" and (takes := parameters.of(hints, signature, path)) is not None:

            def answered(request: Request) -> Response:
                asked, given = enter(request), takes.of_request(request)
                if "request" in hints:
                    given["request"] = request
                found: Response = behind(asked, **given)
                return found

            options["route_class_override"] = _in_one_thread(answered)
        extra = {RULE: f"{SERVICE}:{rule}", "security": [{"token": []}]}
        options.setdefault("responses", FAULTS)
        routes.add_api_route(
            path,
            behind,
            methods=[method],
            openapi_extra=extra,
            operation_id=handler.__name__,
            response_model_exclude_none=False,
            **options,
        )
        return handler

    return declare


def _in_one_thread(answered: Callable[[Request], Response]) -> type[APIRoute]:
    """A route that is answered in one thread, from its rule to the text of its answer. Clients that
    poll come by it: FastAPI by itself takes three threads, and looks at each parameter alone.
    """

    class OneThread(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def handled(request: Request) -> Response:
                return await run_in_threadpool(answered, request)

            return handled

    return OneThread


def _answer(found: Any, status: int, noted: Response | None) -> Any:
    """What a handler has made as a response, so that FastAPI neither checks a model again nor
    writes it while no other request is answered.

    Args:
        noted: where the handler has put headers.
    """
    if not isinstance(found, BaseModel):
        return found
    made = Response(found.model_dump_json(by_alias=True), status, media_type="application/json")
    for name, value in noted.headers.items() if noted is not None else ():
        made.headers[name] = value
    return made
