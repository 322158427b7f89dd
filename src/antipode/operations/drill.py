# SPDX-License-Identifier: Apache-2.0
"""Rehearsing a failover on isolated networks: plan, confirm, execute, clean up."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput, NotFound
from antipode.operations.approvals import carried_out, wanted
from antipode.runs import drill as run_kind
from antipode.runs import drill_cleanup, drill_preparation
from antipode.runs.drill_preparation import PreparedDrill
from antipode.runs.precheck import default_site
from antipode.store.tables import RunRow

Json = dict[str, Any]


def prepare(
    deployment: Deployment, vnf: str, to: str | None = None, point: str | None = None
) -> PreparedDrill:
    """Read a recovery point and plan a drill with it. Nothing is created.

    Args:
        to: the site; by default the first of the VNF at which it is not active.
        point: the id of the recovery point; the newest by default.

    Raises:
        AntipodeError: as `drill_preparation.prepare`.
    """
    site = to or default_site(deployment, vnf)
    run_kind.no_recovery_in_the_way(deployment, vnf)
    named = f"drill-{secrets.token_hex(3)}"
    return drill_preparation.prepare(deployment, vnf, site, point, named)


def request(prepared: PreparedDrill, keep_s: float | None = None) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun.

    Args:
        keep_s: for how many seconds all stays after its end; None: it is removed at once.
    """
    return wanted(run_kind.requested(prepared, keep_s), [prepared.point.vnf])


def drill(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Recover the VNF on isolated networks, probe it, and remove all of it; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another drill of the VNF, or a recovery of it, is under way.
        DrillNotPassed: a member did not answer, content differs, or something was left.
        NotIsolated: something else is on its networks.
        AntipodeError: it stopped; what it has created was removed.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)


def uncleaned(
    deployment: Deployment, vnf: str, site: str | None = None
) -> tuple[str, list[RunRow]]:
    """A site, and the drills of a VNF at it that have ended and may have left something.

    Args:
        site: by default that of the newest of them.

    Raises:
        NotFound: there is none.
    """
    rows = drill_cleanup.uncleaned(deployment, vnf)
    at = site or (run_kind.KIND.site_of(rows[0]) if rows else "")
    found = [row for row in rows if run_kind.KIND.site_of(row) == at]
    if not found:
        where = f" at {site}" if site else ""
        raise NotFound(f"no drill of {vnf}{where} has left anything; see: antipode run list")
    return at, found


def of_another_host(deployment: Deployment, vnf: str, site: str, drill: str) -> str:
    """A drill that this database may not know, such as one whose host is lost; its site.

    Args:
        drill: the run, as it stands in the metadata of the servers.

    Raises:
        InvalidInput: that is no drill, or the database knows it as one of another VNF or site.
        NotFound: there is no such site.
        Busy: the database knows it, and it has not ended.
    """
    if not drill.startswith(f"{run_kind.KIND.name}-"):
        raise InvalidInput(f"{drill} is no drill; its servers have its id in their metadata")
    there = deployment.site(site, vnf).name
    drill_cleanup.known(deployment, vnf, there, [drill])
    return there


def left_by(deployment: Deployment, vnf: str, site: str, drills: Sequence[str]) -> list[str]:
    """What drills of a VNF have left at a site, for people."""
    there = deployment.site(site, vnf)
    return [what for drill in drills for what in run_kind.made_at(there, drill)]


def cleanup(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Remove all that drills at one site have left; a record of it.

    Raises:
        Busy: another clean-up of the VNF is under way, or one of the drills.
        ResourceFailed: something stays, and why.
    """
    with deployment.claims.begin(row) as claim:
        return execute(deployment, drill_cleanup.KIND, claim, observer)


def cleanup_request(vnf: str, site: str, drills: Sequence[str]) -> RunRow:
    """The run that removes what drills at one site have left; neither kept nor begun."""
    return drill_cleanup.requested(vnf, site, drills)
