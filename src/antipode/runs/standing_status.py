# SPDX-License-Identifier: Apache-2.0
"""How far standing volumes are behind, as the database knows it. No engine is imported for it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from antipode.model.vnf import Protection, Vnf
from antipode.store.tables import RunRow

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment

PROTECT, APPLY = "protect", "standing"
"""The kinds of runs that make recovery points, and that apply them."""
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
    rows = deployment.runs.of_kind(APPLY, vnf, LOOKED_AT)
    applied = next(
        (r for r in rows if r.state == "succeeded" and r.result.get("site") == site), None
    )
    if applied is None:
        return {"state": "no recovery point was applied yet"}
    result = applied.result
    found: dict[str, Any] = {
        "recovery_point": result["recovery_point"],
        "volumes": result["volumes"],
        "not_standing": result["not_standing"],
        "written_bytes": result["written_bytes"],
        "fetched_bytes": result["fetched_bytes"],
        "foreign_blocks": result["foreign_blocks"],
        "apply_s": result["apply_s"],
    }
    if newest is not None and newest.result["recovery_point"] == result["recovery_point"]:
        return {"state": "at the newest recovery point", "lag_s": 0.0, **found}
    lag_s = None
    if newest is not None:
        wanted = datetime.fromisoformat(newest.result["consistent_at"])
        lag_s = (wanted - datetime.fromisoformat(result["consistent_at"])).total_seconds()
    return {"state": "behind", "lag_s": lag_s, **found}
