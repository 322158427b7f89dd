# SPDX-License-Identifier: Apache-2.0
"""`/v1/sites`: the sites of the configuration, whether all is there that antipode needs of them,
and what the loss of one would mean.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from antipode.api.gate import Asked, route
from antipode.api.vnfs import ForecastShown, Since, foreseen
from antipode.errors import NotFound
from antipode.model.base import NAME
from antipode.model.history import History
from antipode.operations import forecasts
from antipode.operations.reports import period
from antipode.operations.site_check import check

ROUTES = APIRouter(prefix="/v1", tags=["sites"])
SiteInPath = Annotated[str, Path(pattern=NAME, description="name of a site")]


class Site(BaseModel):
    """A site; no service of it is asked."""

    name: str


class Sites(BaseModel):
    sites: list[Site]


class CheckShown(BaseModel):
    """One finding about a site, a vault, a backup store or a VNF."""

    check: str
    site: str
    ok: bool
    needed: bool = Field(description="false: detail says what does not work without it")
    detail: str


class Checks(BaseModel):
    checks: list[CheckShown]


class AllBack(BaseModel):
    """When the last of all VNFs would be back at a site."""

    site: str
    back_in_s: float | None
    error_s: float | None
    blocked: list[str]


class ForecastList(BaseModel):
    forecasts: list[ForecastShown]
    all: list[AllBack]


class HistoryShown(BaseModel):
    history: History


@route(ROUTES, "GET", "/sites", "site:list")
def list_sites(asked: Asked) -> Sites:
    """List the sites."""
    return Sites(sites=[Site(name=name) for name in asked.deployment.config.sites])


@route(ROUTES, "POST", "/site_checks", "site:check", is_long=True)
def check_sites(
    asked: Asked,
    vnf: Annotated[
        str | None, Query(pattern=NAME, description="look, too, whether it is ready at each site")
    ] = None,
) -> Checks:
    """Look at every site, vault and backup store, and at one VNF if wanted, as `antipode site
    check` does. Servers past their freeze deadline are unquiesced; nothing else is changed.
    """
    vnfs = [] if vnf is None else [asked.deployment.vnfs.get(vnf)]
    return Checks(
        checks=[
            CheckShown(
                check=one.check, site=one.site, ok=one.ok, needed=one.needed, detail=one.detail
            )
            for one in check(asked.deployment, vnfs)
        ]
    )


@route(ROUTES, "GET", "/sites/{site}/forecast", "site:forecast", is_long=True)
def get_site_forecast(asked: Asked, site: SiteInPath) -> ForecastList:
    """Forecast the loss of a site with all its VNFs. Tenants are shown their own. Vaults are
    read.
    """
    _must_be(asked, site)
    found = forecasts.of_site(asked.deployment, site)
    if asked.caller.all_projects:
        everything = [
            AllBack(
                site=one.site,
                back_in_s=one.forecast.back_in_s if one.forecast else None,
                error_s=one.forecast.error_s if one.forecast else None,
                blocked=one.blocked,
            )
            for one in found.all_of_them
        ]
        return ForecastList(forecasts=[foreseen(asked, f) for f in found.each], all=everything)
    mine = set(asked.deployment.vnfs.names(asked.projects))
    shown = [foreseen(asked, one) for one in found.each if one.vnf in mine]
    return ForecastList(forecasts=shown, all=[])


@route(ROUTES, "GET", "/sites/{site}/history", "site:history", is_long=True)
def get_site_history(asked: Asked, site: SiteInPath, since: Since = 30 * 86400.0) -> HistoryShown:
    """Show how all VNFs that are active at a site were protected in a time that is over."""
    _must_be(asked, site)
    return HistoryShown(history=period.of_site(asked.deployment, site, since))


def _must_be(asked: Asked, site: str) -> None:
    if site not in asked.deployment.config.sites:
        raise NotFound(f"there is no site {site}", resource=f"site {site}")
