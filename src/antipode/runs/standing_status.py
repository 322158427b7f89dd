# SPDX-License-Identifier: Apache-2.0
"""How far standing volumes are behind, as the database knows it. No engine is imported for it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from antipode.model.vnf import Protection, Vnf
from antipode.store.runs import AWAITING, NEVER_BEGUN
from antipode.store.tables import RunRow

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment

PROTECT, APPLY, FAILOVER = "protect", "standing", "failover"
"""The kinds of runs that make recovery points, that apply them, and that take what stands."""
REMOVAL = "standing-removal"
"""That which removes what stands."""
_NOT_BEGUN = ("queued", AWAITING, *NEVER_BEGUN)
LOOKED_AT = 50
"""The newest runs of a kind that tell what is due."""


def wanted(vnf: Vnf) -> Protection | None:
    """The protection whose points standing volumes follow; None: there are none."""
    return next((p for p in vnf.protections if p.standing), None)


def newest_point(deployment: Deployment, vnf: Vnf, protection: Protection) -> RunRow | None:
    """The newest run of this installation that has made a recovery point of a protection at the
    active site.
    """
    for row in deployment.runs.of_kind(PROTECT, vnf.vnf, LOOKED_AT):
        request = row.request or {}
        if row.state != "succeeded" or not row.result.get("recovery_point"):
            continue
        if request.get("site") != active_site(deployment, vnf):
            return None  # it has moved since: its volumes are others
        if row.result.get("option") == protection.option:
            return row
    return None


def active_site(deployment: Deployment, vnf: Vnf) -> str:
    """Where a VNF is active, as far as the database knows."""
    state = deployment.states.find(vnf.vnf)
    return state.active_site if state is not None else vnf.primary


def applies_at(deployment: Deployment, vnf: str, site: str) -> list[RunRow]:
    """The runs that bring standing volumes at a site to recovery points, the newest first."""
    rows = deployment.runs.of_kind(APPLY, vnf, LOOKED_AT)
    return [r for r in rows if (r.request or {}).get("site") == site]


def doubt(deployment: Deployment, vnf: str, site: str, applied: RunRow) -> RunRow | None:
    """The run after which what an apply has brought to the volumes is not known to stand any more:
    a later apply that has not ended well, or a failover to the site, which takes the volumes and
    may have given them back.
    """
    for row in applies_at(deployment, vnf, site):
        if row.id == applied.id:
            break
        if row.ended_at is not None and row.state not in (*_NOT_BEGUN, "succeeded"):
            return row
    for row in deployment.runs.of_kind(FAILOVER, vnf, LOOKED_AT):
        if row.state in _NOT_BEGUN or (row.request or {}).get("to") != site:
            continue
        if row.ended_at is None or row.ended_at > applied.started_at:
            return row
    return None


def removed_since(deployment: Deployment, vnf: str, site: str, moment: float) -> RunRow | None:
    """The newest run that has begun to remove the standing volumes at a site since a moment, in
    seconds since the epoch.
    """
    for row in deployment.runs.of_kind(REMOVAL, vnf, LOOKED_AT):
        is_here = (row.request or {}).get("site") == site
        if is_here and row.state not in _NOT_BEGUN and row.started_at >= moment:
            return row
    return None


def stands_at(deployment: Deployment, vnf: str, site: str, point: str) -> dict[str, str] | None:
    """The volumes that do not stand, with the reason, where all others stand at a recovery point as
    far as the database knows; None where they do not.
    """
    applied = next((r for r in applies_at(deployment, vnf, site) if r.state == "succeeded"), None)
    if applied is None or applied.result.get("recovery_point") != point:
        return None
    if doubt(deployment, vnf, site, applied) is not None:
        return None
    if removed_since(deployment, vnf, site, applied.started_at) is not None:
        return None
    return dict(applied.result.get("not_standing") or {})


def summary(deployment: Deployment, vnf: Vnf) -> dict[str, Any]:
    """What this installation knows of the standing volumes of a VNF, by site; empty where none are
    wanted. No site is called.
    """
    protection = wanted(vnf)
    if protection is None:
        return {}
    newest = newest_point(deployment, vnf, protection)
    found: dict[str, Any] = {}
    for site in vnf.sites:
        if site == active_site(deployment, vnf):
            continue
        if deployment.config.site(site).mover is None:
            found[site] = {"state": "this host has no `mover` for the site in antipode.yaml"}
            continue
        found[site] = _of_site(deployment, vnf.vnf, site, newest)
    return found


def _of_site(deployment: Deployment, vnf: str, site: str, newest: RunRow | None) -> dict[str, Any]:
    rows = applies_at(deployment, vnf, site)
    applied = next((r for r in rows if r.state == "succeeded"), None)
    if applied is None:
        return {"state": "no recovery point was applied yet"}
    if (removal := removed_since(deployment, vnf, site, applied.started_at)) is not None:
        if removal.state == "succeeded" and not removal.result.get("left"):
            return {"state": f"removed by {removal.id}; the next recovery point is applied"}
        return {"state": f"{removal.id} has removed them in part, or is about to remove them"}
    result = applied.result
    found: dict[str, Any] = {
        "recovery_point": result["recovery_point"],
        "volumes": result["volumes"],
        "not_standing": result["not_standing"],
        "written_bytes": result["written_bytes"],
        "fetched_bytes": result["fetched_bytes"],
        "foreign_blocks": result["foreign_blocks"],
        "apply_s": result["apply_s"],
        "size_gib": result.get("size_gib"),
        "data_bytes": result.get("data_bytes"),
    }
    lag_s = None
    if newest is not None:
        wanted = datetime.fromisoformat(newest.result["consistent_at"])
        lag_s = (wanted - datetime.fromisoformat(result["consistent_at"])).total_seconds()
    if (other := doubt(deployment, vnf, site, applied)) is not None:
        words = f"not known since {other.id}; the next apply reads or finishes the volumes"
        return {"state": words, "lag_s": lag_s or None, **found}
    if newest is not None and newest.result["recovery_point"] == result["recovery_point"]:
        return {"state": "at the newest recovery point", "lag_s": 0.0, **found}
    return {"state": "behind", "lag_s": lag_s, **found}
