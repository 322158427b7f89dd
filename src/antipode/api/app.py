# SPDX-License-Identifier: Apache-2.0
"""The application of the REST API: its routes, and how each request enters and leaves it."""

from __future__ import annotations

import logging

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from antipode.api import (
    audit,
    copies,
    events,
    faults,
    plans,
    points,
    policies,
    reports,
    runs,
    service,
    sites,
    vaults,
    versions,
    vnfs,
)
from antipode.api.document import document
from antipode.api.envelope import Envelope
from antipode.api.gate import Installation
from antipode.errors import AntipodeError

LOG = logging.getLogger(__name__)


def application(installation: Installation) -> FastAPI:
    """The REST API of an installation, as an ASGI application."""
    app = FastAPI(
        title="antipode",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.installation = installation
    polled_first = sorted(rooms(), key=lambda room: room not in (runs.ROUTES, vnfs.ROUTES))
    for room in polled_first:
        # as they are: an included router is built again at the first request, which takes half a
        # second in which no other is answered
        app.router.routes.extend(room.routes)
    app.openapi_schema = document(rooms())
    app.add_exception_handler(AntipodeError, _of_antipode)
    app.add_exception_handler(RequestValidationError, _of_wrong_input)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(SQLAlchemyError, _of_database)
    app.add_exception_handler(Exception, _of_fault)
    app.add_middleware(Envelope, installation=installation)
    return app


def rooms() -> list[APIRouter]:
    """The routes of all resources."""
    of_vnfs = vnfs, copies, points, runs, reports
    of_all = policies, plans, vaults, events, service, audit
    return [room.ROUTES for room in (versions, sites, *of_vnfs, *of_all)]


def _of_antipode(request: Request, error: Exception) -> Response:
    assert isinstance(error, AntipodeError)
    caller = getattr(request.state, "caller", None)
    return faults.of_error(error, with_notes=caller is not None and caller.all_projects)


def _of_wrong_input(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # the values that were given are not repeated: there may be a password among them
    found = [
        {"field": ".".join(str(part) for part in one["loc"]), "problem": one["msg"]}
        for one in error.errors()
    ]
    words = "; ".join(f"{one['field']}: {one['problem']}" for one in found[:5])
    return faults.fault(400, "invalid-input", words, {"mistakes": found})


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not-found", 405: "no-such-method"}.get(error.status_code, "invalid-input")
    answer = faults.fault(error.status_code, kind, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def _of_database(request: Request, error: Exception) -> Response:
    LOG.error("%s %s: the database: %s", request.method, request.url.path, error)
    return faults.fault(503, "failed", "the database does not answer")


def _of_fault(request: Request, error: Exception) -> Response:
    return faults.unexpected(request.state.request_id, request.url.path, error)
