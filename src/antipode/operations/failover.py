# SPDX-License-Identifier: Apache-2.0
"""Recovering a VNF at a backup site: plan, confirm, execute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import PreflightFailed
from antipode.operations.approvals import carried_out, needed
from antipode.runs import drill_cleanup, preparation, runners
from antipode.runs import failover as run_kind
from antipode.runs.failover_checks import Accepted
from antipode.runs.preparation import Prepared
from antipode.store.tables import RunRow

__all__ = ["Prepared", "failover", "prepare", "request"]
Json = dict[str, Any]


def prepare(
    deployment: Deployment, name: str, to: str, point: str | None, accepted: Accepted | None = None
) -> Prepared:
    """Read a recovery point and plan its recovery at a site, as `preparation.prepare`. Where the
    site lacks something, drills that hold resources there are named.
    """
    try:
        prepared = preparation.prepare(deployment, name, to, point, accepted)
        runners.must_be_known(
            deployment.config, prepared.plan.steps, f"a failover of {name} to {to}"
        )
        return replace(prepared, approvals=needed(deployment, prepared.point.vnf, "failover"))
    except PreflightFailed as error:
        for drill in drill_cleanup.held_at(deployment, to):
            error.add_note(drill)
        raise


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    row = run_kind.requested(
        prepared.point,
        prepared.point_digest,
        prepared.plan,
        prepared.state,
        prepared.instead_of.run if prepared.instead_of else None,
        prepared.made_by_lost,
        prepared.lost_vaults,
    )
    row.approvals_needed = prepared.approvals
    return row


def failover(deployment: Deployment, prepared: Prepared, observer: Observer) -> Json:
    """Recover the VNF as planned; a record of it.

    RTO is counted from the call, which is the operator's confirmation.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another failover of the VNF is under way.
        AntipodeError: it stopped; the resources that it created stay, and the run can be resumed
            or rolled back.
    """
    return carried_out(deployment, run_kind.KIND, request(prepared), observer)
