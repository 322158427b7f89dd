# SPDX-License-Identifier: Apache-2.0
"""`/v1/sites`: the sites of the configuration."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from antipode.api.gate import Asked, route

ROUTES = APIRouter(prefix="/v1", tags=["sites"])


class Site(BaseModel):
    """A site; no service of it is asked."""

    name: str


class Sites(BaseModel):
    sites: list[Site]


@route(ROUTES, "GET", "/sites", "site:list")
def list_sites(asked: Asked) -> Sites:
    """List the sites."""
    return Sites(sites=[Site(name=name) for name in asked.deployment.config.sites])
