# SPDX-License-Identifier: Apache-2.0
"""What is answered without a token: which versions there are, the OpenAPI document, and whether the
API works.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from antipode.api.conventions import NEWEST, OLDEST, Link, base_of
from antipode.api.faults import Faulty, fault

ROUTES = APIRouter(tags=["versions"])
NAMED = ".".join(map(str, NEWEST)), ".".join(map(str, OLDEST))


class Version(BaseModel):
    """A major version of the API, with its microversions."""

    id: str
    status: str
    version: str
    min_version: str
    links: list[Link]


class Versions(BaseModel):
    versions: list[Version]


class OneVersion(BaseModel):
    version: Version


class Health(BaseModel):
    """That the API works: its database answers."""

    status: str


@ROUTES.get("/", operation_id="list_versions")
def list_versions(request: Request) -> Versions:
    """List the versions of the API."""
    return Versions(versions=[_version(request)])


@ROUTES.get("/v1", operation_id="get_version")
def get_version(request: Request) -> OneVersion:
    """Show version 1 of the API."""
    return OneVersion(version=_version(request))


@ROUTES.get(
    "/healthcheck",
    operation_id="get_health",
    response_model=Health,
    responses={503: {"model": Faulty, "description": "The database does not answer."}},
)
def get_health(request: Request) -> Any:
    """Say whether the API works. No site and no vault is asked."""
    try:
        with request.app.state.installation.deployment.database.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return fault(503, "failed", "the database does not answer")
    return Health(status="OK")


@ROUTES.get("/openapi.json", include_in_schema=False)
def get_openapi(request: Request) -> JSONResponse:
    """The OpenAPI document of the API."""
    return JSONResponse(request.app.openapi())


def _version(request: Request) -> Version:
    links = [Link(rel="self", href=f"{base_of(request)}/v1/")]
    newest, oldest = NAMED
    return Version(id="v1", status="CURRENT", version=newest, min_version=oldest, links=links)
