# SPDX-License-Identifier: Apache-2.0
"""Refusals of the API, with all that it says about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keystoneauth1.exceptions import http as ksa_errors
from osc_lib import exceptions


class Fault(exceptions.CommandError):
    """The API refuses a request.

    Attributes:
        status: of HTTP.
        kind: the error's code, which is stable; `docs/errors.md` of antipode lists them.
        problems: what stands in the way, each in a sentence.
        request_id: by which the log of the service has more.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str = "unexpected",
        problems: Sequence[str] = (),
        request_id: str | None = None,
    ) -> None:
        lines = [message, *(f"- {problem}" for problem in problems)]
        super().__init__("\n".join(lines))
        self.status = status
        self.kind = kind
        self.problems = list(problems)
        self.request_id = request_id

    @classmethod
    def of(cls, error: ksa_errors.HttpError) -> Fault:
        """The refusal in an answer of HTTP. One that is not of the API, as of a proxy, has only its
        status.
        """
        said: dict[str, Any] = {"message": error.message or str(error)}
        try:
            body = error.response.json()
        except (AttributeError, ValueError):
            body = None
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            said |= body["error"]
        number = error.request_id
        words = f"{said.get('message')} (HTTP {error.http_status}"
        return cls(
            words + (f", request {number})" if number else ")"),
            status=error.http_status,
            kind=str(said.get("kind", "unexpected")),
            problems=[str(problem) for problem in said.get("problems", [])],
            request_id=number,
        )
