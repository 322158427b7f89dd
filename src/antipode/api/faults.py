# SPDX-License-Identifier: Apache-2.0
"""Errors as answers, in the form that OpenStack's services give them."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from antipode import errors
from antipode.errors import AntipodeError

LOG = logging.getLogger(__name__)
STATUS: list[tuple[type[AntipodeError], int]] = [
    (errors.NotAuthenticated, 401),
    (errors.Forbidden, 403),
    (errors.QuotaExceeded, 403),
    (errors.TooManyRequests, 429),
    (errors.NotFound, 404),
    (errors.KeyReused, 422),
    (errors.NotConfirmed, 400),
    (errors.InvalidInput, 400),
    (errors.Busy, 409),
    (errors.NotApproved, 409),
    (errors.PreflightFailed, 409),
    (errors.SiteUnreachable, 503),
    (errors.VaultCorrupt, 409),
    (errors.VaultError, 503),
    (errors.UnexpectedAnswer, 503),
    (errors.Unexpected, 500),
    (AntipodeError, 409),
]
"""The first that fits counts: a state that does not allow the request is a conflict."""
RETRY_AFTER_S = 5


class Mistake(BaseModel):
    """One wrong field of a request."""

    field: str
    problem: str


class Fault(BaseModel):
    """What is wrong with a request, or in its way."""

    model_config = ConfigDict(extra="allow")

    code: int = Field(description="the HTTP status")
    title: str
    message: str
    kind: str = Field(description="the error's code, as docs/errors.md lists them; stable")
    resource: str | None = None
    state: str | None = Field(
        default=None, description="of the resource, which does not allow this"
    )
    problems: list[str] | None = Field(
        default=None, description="of a check before anything is changed"
    )
    mistakes: list[Mistake] | None = Field(default=None, description="of a wrong body")


class Faulty(BaseModel):
    """The answer to a request that was refused."""

    error: Fault


FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": Faulty, "description": "The request is wrong."},
    401: {"model": Faulty, "description": "There is no valid token."},
    403: {"model": Faulty, "description": "The roles of the caller do not allow it."},
    404: {"model": Faulty, "description": "There is no such thing in the project."},
    409: {"model": Faulty, "description": "The state of the thing does not allow it."},
    413: {"model": Faulty, "description": "The body is too large."},
    422: {"model": Faulty, "description": "The Idempotency-Key was that of another request."},
    429: {"model": Faulty, "description": "There are too many requests."},
    503: {"model": Faulty, "description": "A site or a vault does not answer."},
}
"""The faults that each route may answer with, for the OpenAPI document."""


def status_of(error: AntipodeError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def fault(status: int, code: str, message: str, more: dict[str, Any] | None = None) -> JSONResponse:
    """An answer that says what is wrong.

    Args:
        code: the kind of error; stable.
        more: what else belongs to it, such as the state that is in the way.
    """
    body = {
        "error": {
            "code": status,
            "title": HTTPStatus(status).phrase,
            "message": message,
            "kind": code,
            **(more or {}),
        }
    }
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = 'Keystone uri="/"'
    return JSONResponse(body, status, headers)


def unexpected(number: str, path: str, error: Exception) -> JSONResponse:
    """The answer to a request in which antipode itself has a fault; the log has all of it.

    Args:
        number: the id of the request.
    """
    LOG.error("%s %s: a fault of antipode", number, path, exc_info=error)
    words = "a fault of antipode; the log of its host has more under the id of this request"
    return fault(500, "unexpected", words)


def of_error(error: AntipodeError, *, with_notes: bool) -> JSONResponse:
    """The answer to a request that failed with an error.

    Args:
        with_notes: also what is in the way beside it, which may be of other projects.
    """
    more: dict[str, Any] = {}
    if error.resource is not None:
        more["resource"] = error.resource
    if isinstance(error, errors.PreflightFailed):
        more["problems"] = error.problems
    if isinstance(error, errors.WrongState):
        more["state"] = error.state
    notes = getattr(error, "__notes__", None)
    if notes and with_notes:
        more["notes"] = list(notes)
    return fault(status_of(error), error.code, str(error), more)
