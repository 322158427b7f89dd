# SPDX-License-Identifier: Apache-2.0
"""What a request says in its path and its query, looked at in one piece."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError, create_model

ASIDE = ("asked", "request")
"""Parameters of a handler that are not of the path or the query."""


class Parameters(NamedTuple):
    """The parameters of a route."""

    model: type[BaseModel]
    path: frozenset[str]
    """the names of those that are in the path"""

    def of_request(self, request: Request) -> dict[str, Any]:
        """The parameters by their names, as the handler takes them.

        Raises:
            RequestValidationError: one is wrong, or missing.
        """
        sent = {**request.query_params, **request.path_params}
        try:
            return dict(self.model.model_validate(sent))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            raise RequestValidationError(
                [{**one, "loc": (self._place(one["loc"]), *one["loc"])} for one in found]
            ) from error

    def _place(self, location: tuple[int | str, ...]) -> str:
        return "path" if location[0] in self.path else "query"


def of(hints: Mapping[str, Any], signature: inspect.Signature, path: str) -> Parameters | None:
    """The parameters of the handler of a path; None where it takes something else, too.

    Args:
        hints: the types of its parameters.
    """
    wanted = {n: p for n, p in signature.parameters.items() if n not in ASIDE}
    in_path = frozenset(name for name in wanted if f"{{{name}}}" in path)
    if "response" in wanted:
        return None
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is inspect.Parameter.empty else p.default)
        for name, p in wanted.items()
    }
    return Parameters(create_model("Parameters", **fields), in_path)
