# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the API, as it is served and kept in docs/openapi.json."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi

from antipode.api.conventions import NEWEST

Json = dict[str, Any]
ABOUT = """\
Geo-site disaster recovery for VNFs on OpenStack. A request carries a token that the Keystone of
any one site has issued to a project of the configuration. See docs/api.md.
"""


def document(routes: list[APIRouter]) -> Json:
    """The document of all routes."""
    found: Json = get_openapi(
        title="antipode",
        version=".".join(map(str, NEWEST)),
        openapi_version="3.1.0",
        description=ABOUT,
        routes=[route for room in routes for route in room.routes],
    )
    found["components"]["securitySchemes"] = {
        "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
    }
    for unused in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(unused, None)
    return found
