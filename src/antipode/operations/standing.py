# SPDX-License-Identifier: Apache-2.0
"""The standing volumes of a VNF: brought to a recovery point, shown, removed."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer, Unobserved
from antipode.errors import InvalidInput
from antipode.model.vnf import Vnf
from antipode.recover.standing import listed
from antipode.runs import standing as run_kind
from antipode.runs import standing_removal
from antipode.runs.standing_status import active_site
from antipode.store.tables import RunRow
from antipode.vault import points

Json = dict[str, Any]


def site_of(deployment: Deployment, vnf: Vnf, site: str | None) -> str:
    """The site where volumes stand: the one named, else the only one at which the VNF is not
    active.

    Raises:
        NotFound: no such site in the configuration.
        InvalidInput: it is no backup site of the VNF, or it has several.
    """
    active = active_site(deployment, vnf)
    others = [s for s in vnf.sites if s != active]
    if site is None:
        if len(others) != 1:
            raise InvalidInput(f"{vnf.vnf} has several backup sites; name one: {', '.join(others)}")
        return others[0]
    deployment.config.site(site)
    if site not in others:
        raise InvalidInput(f"{site} is no backup site of {vnf.vnf} now: {', '.join(others)}")
    return site


def sites_of(deployment: Deployment, vnf: Vnf) -> list[str]:
    """The sites of a VNF at which volumes may stand: this host attaches volumes there."""
    known = deployment.config.sites
    return [s for s in vnf.sites if s in known and known[s].mover is not None]


def _any_site_of(deployment: Deployment, vnf: Vnf, site: str | None) -> str:
    """The same, or the active site if it is named: what no failover has taken stays there, too."""
    named = site is not None and site in vnf.sites
    return str(site) if named else site_of(deployment, vnf, site)


def request(deployment: Deployment, name: str, site: str | None, point: str | None) -> RunRow:
    """The run that brings standing volumes to a recovery point, the newest by default; neither
    kept nor begun.

    Raises:
        NotFound: the VNF or the point is not known.
        InvalidInput: the site is none for it, or this host has no way to its storage.
        Busy: a recovery of the VNF has not ended.
    """
    vnf = deployment.vnfs.get(name)
    chosen = site_of(deployment, vnf, site)
    found = points.read(deployment.vault, name, point)
    return run_kind.requested(deployment, name, chosen, found.id)


def apply(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Execute such a run; its record.

    Raises:
        AntipodeError: not all volumes hold the point; what is half written counts for nothing.
    """
    with deployment.claims.begin(row) as claim:
        return execute(deployment, run_kind.KIND, claim, observer)


def volumes(deployment: Deployment, name: str, site: str | None) -> list[Json]:
    """The standing volumes of a VNF at a site, as the site shows them: a record each.

    Raises:
        NotFound: the VNF is not known here.
        SiteUnreachable: the site does not answer.
    """
    vnf = deployment.vnfs.get(name)
    chosen = _any_site_of(deployment, vnf, site)
    there = listed(deployment.site(chosen, vnf).volumes.volumes(), name)
    return [
        {
            "site": chosen,
            "stands_for": source,
            "volume": standing.id,
            "size_gib": standing.size_gib,
            "status": standing.status,
            "holds_backup": standing.holds if standing.is_at_rest else None,
            "read_at": standing.read_at or None,
        }
        for source, same in sorted(there.items())
        for standing in same
    ]


def removal_request(deployment: Deployment, name: str, site: str | None) -> RunRow:
    """The run that removes the standing volumes of a VNF at a site, with their snapshots; neither
    kept nor begun. Those that a recovery has taken are its own.

    Raises:
        NotFound: the VNF is not known here.
        InvalidInput: the site is none of it.
        Busy: a run that uses them has not ended.
    """
    vnf = deployment.vnfs.get(name)
    return standing_removal.requested(deployment, name, _any_site_of(deployment, vnf, site))


def remove(
    deployment: Deployment, name: str, site: str | None, observer: Observer | None = None
) -> Json:
    """Carry such a run out here; its record.

    Raises:
        NotFound, InvalidInput, Busy: as `removal_request`.
        SiteUnreachable: the site does not answer.
    """
    row = removal_request(deployment, name, site)
    with deployment.claims.begin(row) as claim:
        return execute(deployment, standing_removal.KIND, claim, observer or Unobserved())
