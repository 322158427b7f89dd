# SPDX-License-Identifier: Apache-2.0
"""The sites: what is active there, what would become of it, how names are translated."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.responses import Response

from antipode.console.pages.overview import seen
from antipode.console.web import Asked, route
from antipode.errors import NotFound
from antipode.model.vnf import Vnf
from antipode.operations import forecasts
from antipode.operations.site_check import check


def _list(asked: Asked) -> Response:
    asked.must_here("site:list")
    may_check = asked.caller.all_projects and asked.may("site:check", None)
    return asked.page("sites.html", sites=seen(asked).sites, may_check=may_check, checks=None)


def _check(asked: Asked) -> Response:
    asked.must("site:check", None)
    found = list(check(asked.deployment, []))
    return asked.page("sites.html", sites=seen(asked).sites, may_check=True, checks=found)


def site_of(asked: Asked, rule: str) -> str:
    """The site of the address.

    Raises:
        NotFound, Forbidden: there is none, or the caller may not see it.
    """
    name = asked.named("site")
    asked.must_here(rule)
    if name not in asked.deployment.config.sites:
        raise NotFound(f"there is no site {name}")
    return name


def _show(asked: Asked) -> Response:
    site = site_of(asked, "site:list")
    vnfs = seen(asked).vnfs
    maps = [(known.vnf.vnf, pairs) for known in vnfs if (pairs := list(_maps(known.vnf, site)))][
        :50
    ]
    active = [known for known in vnfs if known.state.active_site == site]
    return asked.page("site.html", site=site, active=active, maps=maps)


def _maps(vnf: Vnf, site: str) -> Iterator[tuple[str, str, str]]:
    """What has another name at a site: the kind of thing, its name at the primary, its name
    there.
    """
    if site not in vnf.sites or site == vnf.primary:
        return
    there = vnf.maps.get(site, vnf.map)
    for kind, names in there.model_dump(exclude_defaults=True).items():
        if isinstance(names, dict):
            yield from ((kind.replace("_", " "), str(a), str(b)) for a, b in names.items())


def _loss(asked: Asked) -> Response:
    site = site_of(asked, "site:forecast")
    together = forecasts.of_site(asked.deployment, site)
    mine = {known.vnf.vnf for known in seen(asked).vnfs}
    if not asked.caller.all_projects:
        each = [one for one in together.each if one.vnf in mine]
        together = forecasts.Together(each, [])
    fragment = "fragments/loss.html"
    if asked.is_fragment:
        return asked.page(fragment, site=site, together=together)
    heading, back = f"If {site} is lost now", f"/sites/{site}"
    return asked.page(
        "whole.html", fragment=fragment, heading=heading, back=back, together=together
    )


ROUTES = [
    route("/sites", _list),
    route("/sites/check", _check, changes=True),
    route("/sites/{site}", _show),
    route("/sites/{site}/loss", _loss, is_long=True),
]
