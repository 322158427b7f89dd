# SPDX-License-Identifier: Apache-2.0
"""Logging in with an account of any site that answers, and logging out."""

from __future__ import annotations

import hmac
import logging
import secrets

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from antipode.api.faults import status_of
from antipode.api.gate import LOOPBACK
from antipode.api.identity import ApplicationCredential, LoggedIn, Password, must_have_project
from antipode.console import forms, web
from antipode.console.forms import Form
from antipode.console.web import COOKIE, ROOT, Asked, Console
from antipode.errors import AntipodeError, Forbidden, InvalidInput, NotAuthenticated

LOG = logging.getLogger(__name__)
BEFORE = "antipode-login"
"""The cookie that shows that a login form was made for this browser."""
LONGEST_ADDRESS = 64
LONGEST = 1024
"""Characters of a name or a password."""


def _shown(
    console: Console, request: Request, form: Form, error: AntipodeError | None = None
) -> Response:
    """The login form."""
    token = request.cookies.get(BEFORE) or secrets.token_urlsafe(32)
    keystones = console.installation.keystones
    silent = keystones.silent()
    values = {
        "asked": None,
        "notices": [],
        "csrf": token,
        "error": error,
        "follows": form["next"],
        "user": form["user"][:LONGEST],
        "kind": form["kind"],
        "project": form["project"],
        "domain": form["domain"] or "Default",
        "site": form["site"],
        "sites": [(site, site in silent) for site in keystones.sites()],
    }
    page = console.renderer.render("login.html", request, values)
    answer = HTMLResponse(page, 200 if error is None else status_of(error))
    answer.set_cookie(
        BEFORE, token, path=ROOT, secure=console.is_secure, httponly=True, samesite="strict"
    )
    return answer


async def _form(request: Request) -> Response:
    console: Console = request.app.state.console
    return await run_in_threadpool(_shown, console, request, forms.query(request))


async def _sent(request: Request) -> Response:
    console: Console = request.app.state.console
    try:
        form = await forms.read(request)
    except InvalidInput as error:
        return web.failed(console, request, error)
    return await run_in_threadpool(_logged_in, console, request, form)


def _logged_in(console: Console, request: Request, form: Form) -> Response:
    address = _address(request)
    try:
        _must_be_ours(request, form)
        console.tries.must_be_few(address)
        found = _log_in(console, form)
        must_have_project(found.caller)
    except NotAuthenticated as error:
        console.tries.failed(address)
        LOG.warning("a login from %s has failed", address)
        return _shown(console, request, form, error)
    except AntipodeError as error:
        return _shown(console, request, form, error)
    request.state.caller, request.state.rule = found.caller, "console:login"
    console.sessions.end(request.cookies.get(COOKIE, ""))
    name, session = console.sessions.begin(found)
    LOG.info("%s has logged in to the console from %s", session.caller.identity, address)
    answer = RedirectResponse(f"{ROOT}{_own_path(form['next'])}", 303)
    answer.set_cookie(
        COOKIE, name, path=ROOT, secure=console.is_secure, httponly=True, samesite="lax"
    )
    answer.delete_cookie(BEFORE, path=ROOT)
    return answer


def _address(request: Request) -> str:
    """From where a form was sent. Behind a proxy on this host that is the address that it has named
    last: its own would be that of everybody, and a stranger would hold up all logins.
    """
    address = request.client.host if request.client else "?"
    if address not in LOOPBACK:
        return address
    named = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2]
    return named.strip()[:LONGEST_ADDRESS] or address


def _must_be_ours(request: Request, form: Form) -> None:
    """See that the login form was made for this browser: no other
    site logs it in.
    """
    known = request.cookies.get(BEFORE, "")
    sent = form["csrf"].encode("utf-8", "replace")
    if not known or not hmac.compare_digest(known.encode("utf-8", "replace"), sent):
        raise Forbidden("the form was too old, or cookies are refused; try again")
    if not web.is_same_origin(request):
        raise Forbidden("the form was sent by another site")


def _log_in(console: Console, form: Form) -> LoggedIn:
    user, password = form["user"].strip(), form["password"]
    if not 0 < len(user) <= LONGEST or not 0 < len(password) <= LONGEST:
        raise NotAuthenticated("give a user and a password")
    given: Password | ApplicationCredential
    if form["kind"] == "application-credential":
        given = ApplicationCredential(user, password)
    else:
        domain = form.optional("domain") or "Default"
        given = Password(user, password, domain, form.optional("project"), domain)
    return console.installation.keystones.log_in(given, form.optional("site"))


def _own_path(wanted: str) -> str:
    """A path below the console; never another site."""
    is_path = wanted.startswith("/") and wanted.isprintable() and "\\" not in wanted
    return wanted if is_path and not wanted.startswith("//") else "/"


def _log_out(asked: Asked) -> Response:
    asked.console.sessions.end(asked.request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(f"{ROOT}/login", 303)
    answer.delete_cookie(COOKIE, path=ROOT)
    return answer


ROUTES = [
    Route("/login", _form, methods=["GET"]),
    Route("/login", _sent, methods=["POST"]),
    web.route("/logout", _log_out, changes=True),
]
