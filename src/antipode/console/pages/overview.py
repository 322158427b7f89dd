# SPDX-License-Identifier: Apache-2.0
"""The first page: how all VNFs and sites are, and what waits for a person."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from starlette.responses import Response

from antipode.console.web import Asked, route
from antipode.operations.overview import AtSite, Known, Overview


def seen(asked: Asked) -> Overview:
    """The overview, as far as the caller sees things of it."""
    whole = asked.console.snapshots.newest()
    if asked.caller.all_projects:
        return whole
    vnfs = [known for known in whole.vnfs if asked.sees(known.vnf.project)]
    return replace(
        whole,
        vnfs=vnfs,
        damaged={},
        sites=[_of(vnfs, site) for site in whole.sites],
        states=Counter(k.name for k in vnfs),
        rpo=Counter(k.rpo.state for k in vnfs),
        open=[row for row in whole.open if asked.sees(row.project)],
        waiting=[one for one in whole.waiting if asked.sees(one.run.project)],
        failed=[row for row in whole.failed if asked.sees(row.project)],
        trouble={},
    )


def _of(vnfs: list[Known], site: AtSite) -> AtSite:
    """A site with the VNFs that the caller sees only."""
    ready = [r for k in vnfs for r in k.ready if r.site == site.name and r.looked_at is not None]
    good = [r for r in ready if r.level != "red" and not r.is_stale]
    active = sum(k.state.active_site == site.name for k in vnfs)
    return replace(site, active=active, recoverable=len(good), blocked=len(ready) - len(good))


def _overview(asked: Asked) -> Response:
    asked.must_here("vnf:list")
    template = "fragments/overview.html" if asked.is_fragment else "overview.html"
    return asked.page(template, seen=seen(asked))


ROUTES = [route("/", _overview)]
