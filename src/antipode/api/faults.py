# SPDX-License-Identifier: Apache-2.0
"""Errors as answers, in the form that OpenStack's services give them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from antipode import errors
from antipode.errors import AntipodeError

STATUS: list[tuple[type[AntipodeError], int]] = [
    (errors.NotAuthenticated, 401),
    (errors.Forbidden, 403),
    (errors.QuotaExceeded, 403),
    (errors.NotFound, 404),
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


def of_error(error: AntipodeError) -> JSONResponse:
    """The answer to a request that failed with an error."""
    more: dict[str, Any] = {}
    if error.resource is not None:
        more["resource"] = error.resource
    if isinstance(error, errors.PreflightFailed):
        more["problems"] = error.problems
    if notes := getattr(error, "__notes__", None):
        more["notes"] = list(notes)
    return fault(status_of(error), error.code, str(error), more)
