# SPDX-License-Identifier: Apache-2.0
"""The console as an ASGI application: its pages, its files, and the headers of both."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from antipode.api.gate import Installation
from antipode.api.server import Beside
from antipode.console.pages import (
    audit,
    changes,
    copies,
    login,
    overview,
    plans,
    policies,
    reports,
    runs,
    sites,
    vnfs,
)
from antipode.console.rendering import ASSETS, Renderer
from antipode.console.sessions import Sessions
from antipode.console.snapshot import Snapshots
from antipode.console.tries import Tries
from antipode.console.web import ROOT, Console, Guarded, failed
from antipode.errors import NotFound
from antipode.model.serving import ApiConfig, ConsoleConfig

PAGES = (overview, login, vnfs, copies, changes, runs, plans, sites, reports, policies, audit)


def console(installation: Installation) -> Guarded:
    """The console of an installation; it answers below ROOT."""
    settings = installation.settings
    logins = settings.console or ConsoleConfig()
    is_secure = settings.certificate is not None or str(settings.url).startswith("https:")
    made = Console(
        installation,
        Sessions(logins.idle, logins.longest),
        Renderer(ROOT),
        Snapshots(installation.deployment),
        Tries(),
        is_secure,
    )
    made.snapshots.warm()
    pages = [route for room in PAGES for route in room.ROUTES]
    app = Starlette(
        routes=[
            Route(ROOT, lambda _: RedirectResponse(f"{ROOT}/", 303), methods=["GET"]),
            Mount(ROOT, routes=[*pages, Route("/assets/{digest}/{name}", _asset)]),
        ],
        exception_handlers={404: _not_found, 405: _not_found},
    )
    app.state.console = made
    return Guarded(app, made)


def beside(settings: ApiConfig) -> Beside | None:
    """The console, for the server of the API; None where the configuration wants none."""
    return None if settings.console is None else Beside(ROOT, console)


def _asset(request: Request) -> Response:
    made: Console = request.app.state.console
    name = request.path_params["name"]
    if name not in ASSETS or request.path_params["digest"] != made.renderer.digest:
        return PlainTextResponse("there is no such file", 404)
    headers = {"cache-control": "public, max-age=31536000, immutable", "content-type": ASSETS[name]}
    return Response(made.renderer.assets[name], headers=headers)


def _not_found(request: Request, error: Exception) -> Response:
    made: Console = request.app.state.console
    return failed(made, request, NotFound("there is no such page"))
