# SPDX-License-Identifier: Apache-2.0
"""The one way into a page: a session, a rule, a form that was made for the session; and the one way
out: an answer that no other site can frame, script or keep.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from antipode import identity
from antipode.api import run_requests
from antipode.api.envelope import Trail
from antipode.api.faults import status_of
from antipode.api.gate import Installation
from antipode.api.identity import Caller
from antipode.api.rate import Long
from antipode.api.rules import rule_of_kind
from antipode.console import forms
from antipode.console.forms import Form
from antipode.console.rendering import Renderer
from antipode.console.sessions import Session, Sessions
from antipode.console.snapshot import Snapshots
from antipode.console.tries import Tries
from antipode.engine.deployment import Deployment
from antipode.errors import (
    AntipodeError,
    Forbidden,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    PreflightFailed,
    SiteUnreachable,
    Unexpected,
)
from antipode.store.runs import Room

LOG = logging.getLogger(__name__)
ROOT = "/console"
COOKIE = "antipode-console"
FRAGMENT = "x-fragment"
"""The header of a request for a part of a page, by a page that refreshes itself."""
CHECK_EVERY_S = 60.0
"""How often a Keystone is asked whether the token of a session is still valid."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""Of every answer that does not set them itself."""


@dataclass(frozen=True)
class Console:
    """What pages are made of."""

    installation: Installation
    sessions: Sessions
    renderer: Renderer
    snapshots: Snapshots
    tries: Tries
    is_secure: bool
    """whether browsers reach it by HTTPS only"""
    long: Long = field(default_factory=Long)
    """parts of pages that ask sites or vaults"""


@dataclass(frozen=True)
class Asked:
    """A request of somebody that has logged in."""

    console: Console
    request: Request
    session: Session
    form: Form
    """what was sent; of a page that is only looked at, the query of its address"""

    @property
    def deployment(self) -> Deployment:
        return self.console.installation.deployment

    @property
    def caller(self) -> Caller:
        return self.session.caller

    @property
    def is_fragment(self) -> bool:
        """Whether a part of a page is wanted."""
        return FRAGMENT in self.request.headers

    def named(self, name: str) -> str:
        """A part of the path of the address."""
        return str(self.request.path_params[name])

    def sees(self, project: str | None) -> bool:
        """Whether things of this project are shown to the caller."""
        if self.caller.all_projects:
            return True
        return project is not None and project == self.caller.project

    @property
    def projects(self) -> list[str] | None:
        """The projects whose things are shown; None: of all, and of none."""
        if self.caller.all_projects:
            return None
        return [] if self.caller.project is None else [self.caller.project]

    def may(self, rule: str, project: str | None) -> bool:
        """Whether the caller may do what a rule is about with a thing of this project."""
        rules = self.console.installation.rules
        return self.sees(project) and rules.allows(self.caller, rule, project)

    def may_run(self, kind: str, project: str | None) -> bool:
        """Whether the caller may begin a run of a kind with a thing of this project."""
        return self.may("run:create", project) and self.may(rule_of_kind(kind), project)

    def must_run(self, kind: str, project: str | None) -> None:
        """See that the caller may.

        Raises:
            NotFound, Forbidden: as `must`.
        """
        self.must("run:create", project)
        self.must(rule_of_kind(kind), project)

    def may_here(self, rule: str) -> bool:
        """Whether the caller may do what a rule is about that names no thing of a project."""
        return self.console.installation.rules.allows(self.caller, rule, self.caller.project)

    def must(self, rule: str, project: str | None) -> None:
        """See that the caller may do it.

        Raises:
            NotFound: the thing is of another project.
            Forbidden: the rules do not allow it.
        """
        self.request.state.rule = rule
        if not self.sees(project):
            raise NotFound("there is no such thing here")
        self.console.installation.rules.must_allow(self.caller, rule, project)

    def must_here(self, rule: str) -> None:
        """As `must`, for what names no thing of a project."""
        self.console.installation.rules.must_allow(self.caller, rule, self.caller.project)

    def project_of_vnf(self, vnf: str) -> str | None:
        """The project of a VNF; None: of none, or it is known by its recovery points only."""
        try:
            return self.deployment.vnfs.project_of(vnf)
        except NotFound:
            return None

    def room(self, project: str | None) -> Room | None:
        """The quota of a project, for a run of it; as for requests to the API."""
        return run_requests.room_of(self.console.installation, project)

    def page_of(self, run: str) -> Response:
        """The page of a run that was begun."""
        self.console.snapshots.forget()
        return self.back_to(f"/runs/{run}")

    def page(self, template: str, **values: Any) -> Response:
        """A page, or a part of one."""
        notices = [] if self.is_fragment else list(self.session.notices)
        if notices:
            self.session.notices.clear()
        shown = {"asked": self, "csrf": self.session.csrf, "notices": notices, **values}
        return HTMLResponse(self.console.renderer.render(template, self.request, shown))

    def back_to(self, path: str, words: str = "", level: str = "good") -> Response:
        """The page that follows a change.

        Args:
            words: what that page says.
            level: good, warn or bad.
        """
        if words:
            self.session.notices.append((level, words))
        return RedirectResponse(f"{ROOT}{path}", 303)


Handler = Callable[[Asked], Response]


def route(path: str, handler: Handler, *, changes: bool = False, is_long: bool = False) -> Route:
    """A page; of one that changes something, the form must have been made for the session.

    Args:
        path: below the console.
        is_long: whether it asks sites or vaults only to show something: of such pages a few are
            made at once, so that no viewer keeps others from what matters.
    """
    entered = partial(_entered, handler, changes, is_long)
    return Route(path, entered, methods=["POST" if changes else "GET"])


async def _entered(handler: Handler, changes: bool, is_long: bool, request: Request) -> Response:
    console: Console = request.app.state.console
    try:
        form = await forms.read(request) if changes else forms.query(request)
    except InvalidInput as error:
        return failed(console, request, error)
    busy = console.long.one() if is_long else nullcontext()
    return await run_in_threadpool(_answered, console, handler, changes, busy, request, form)


def _answered(
    console: Console,
    handler: Handler,
    changes: bool,
    busy: AbstractContextManager[None],
    request: Request,
    form: Form,
) -> Response:
    session: Session | None = None
    try:
        session = _session(console, request)
        request.state.caller = session.caller
        if changes:
            must_be_ours(request, session, form["csrf"])
        asked = Asked(console, request, session, form)
        with identity.acting_as(session.caller.identity), busy:
            return handler(asked)
    except NotAuthenticated:
        return _to_login(request)
    except AntipodeError as error:
        return failed(console, request, error, session)
    except Exception as error:
        LOG.exception("%s %s: a fault of antipode", request.method, request.url.path)
        unexpected = Unexpected("a fault of antipode; the log of its host has more")
        unexpected.__cause__ = error
        return failed(console, request, unexpected, session)


def _session(console: Console, request: Request) -> Session:
    """The session of a request, with the caller as a Keystone knows it now.

    Raises:
        NotAuthenticated: there is none, it is over, or its token is not valid any more.
        TooManyRequests: its user asks too often, here and at the API together.
    """
    name = request.cookies.get(COOKIE, "")
    session = console.sessions.find(name, by_person=FRAGMENT not in request.headers)
    if session is None:
        raise NotAuthenticated("no person has logged in, or its session is over")
    console.installation.of_users.take(session.caller.account)
    now = time.time()
    if now - session.checked_at >= CHECK_EVERY_S:
        session.checked_at = now
        try:
            keystones = console.installation.keystones
            session.caller = keystones.validate(session.token, session.caller.site)
            session.is_unchecked = False
        except SiteUnreachable:
            session.is_unchecked = True  # it ends with its token, at the latest
        except NotAuthenticated:
            console.sessions.end(name)
            raise
    return session


def must_be_ours(request: Request, session: Session, csrf: str) -> None:
    """See that a form was made for this session, and sent by a page of ours.

    Raises:
        Forbidden: not so; nothing was changed.
    """
    if not session.accepts(csrf) or not is_same_origin(request):
        raise Forbidden(
            "the form was not made for this session, and nothing was changed. Open the page again"
        )


def is_same_origin(request: Request) -> bool:
    """Whether a browser does not say that another site has sent the request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _to_login(request: Request) -> Response:
    if FRAGMENT in request.headers:
        return Response(status_code=401)
    path = request.url.path.removeprefix(ROOT)
    wanted = path + (f"?{request.url.query}" if request.url.query else "")
    follows = f"?next={quote(wanted)}" if request.method == "GET" and wanted != "/" else ""
    return RedirectResponse(f"{ROOT}/login{follows}", 303)


def failed(
    console: Console, request: Request, error: AntipodeError, session: Session | None = None
) -> Response:
    """The page of an error."""
    shown = {
        "asked": None if session is None else Asked(console, request, session, Form([])),
        "csrf": "" if session is None else session.csrf,
        "notices": [],
        "error": error,
        "problems": error.problems if isinstance(error, PreflightFailed) else [],
        "notes": [] if session is None else notes_of(error, session),
    }
    template = "fragments/error.html" if FRAGMENT in request.headers else "error.html"
    return HTMLResponse(console.renderer.render(template, request, shown), status_of(error))


def notes_of(error: AntipodeError, session: Session) -> list[str]:
    """What is said beside an error; it may be about things of other projects."""
    return list(getattr(error, "__notes__", [])) if session.caller.all_projects else []


Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Guarded:
    """Adds to each answer of an application the headers that protect a page, and keeps in the audit
    trail each request that changes something or is refused.
    """

    def __init__(self, app: Any, console: Console) -> None:
        self.console = console
        self._trail = Trail(console.installation.deployment.audit)
        self._app = app
        self._headers = dict(HEADERS)
        if console.is_secure:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        """As ASGI."""

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = f"req-{uuid.uuid4()}"
        scope.setdefault("state", {})["request_id"] = number

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._trail.keep(scope, message["status"], number, forms=True)
                set_already = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in self._headers.items()
                        if name.encode() not in set_already
                    ),
                ]
            await send(message)

        await self._app(scope, receive, guarded)
