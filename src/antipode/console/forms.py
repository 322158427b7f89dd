# SPDX-License-Identifier: Apache-2.0
"""Forms as browsers send them, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request

from antipode.errors import InvalidInput

LARGEST = 256 << 10
"""Bytes of a form."""
MOST_FIELDS = 5000


class Form:
    """The fields of a form, or of the query of an address."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        """The last value of a field; empty where there is none."""
        return next((v for n, v in reversed(self._fields) if n == name), "")

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [v for n, v in self._fields if n == name]

    def optional(self, name: str) -> str | None:
        """The value of a field without the space around it; None where it is empty."""
        return self[name].strip() or None

    def as_dict(self) -> Mapping[str, str]:
        """Each field with its last value."""
        return dict(self._fields)


async def read(request: Request) -> Form:
    """The form of a request.

    Raises:
        InvalidInput: it is none, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidInput("the request has no form")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST:
            raise InvalidInput(f"a form has at most {LARGEST} bytes")
    try:
        fields = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise InvalidInput("the form cannot be read") from error
    return Form(fields)


def query(request: Request) -> Form:
    """The query of the address of a request."""
    return Form(list(request.query_params.multi_items()))
