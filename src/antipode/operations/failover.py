# SPDX-License-Identifier: Apache-2.0
"""Recovering a VNF at a backup site: plan, confirm, execute."""

from __future__ import annotations

from typing import Any

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import PreflightFailed
from antipode.operations.approvals import carried_out, wanted
from antipode.runs import drill_cleanup, failover_fence, preparation, runners
from antipode.runs import failover as run_kind
from antipode.runs.failover import Asked
from antipode.runs.failover_checks import Accepted
from antipode.runs.failover_fence import FenceFirst
from antipode.runs.preparation import Prepared
from antipode.store.tables import RunRow

__all__ = ["Prepared", "failover", "fenced_first", "prepare", "request"]
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
        return prepared
    except PreflightFailed as error:
        for drill in drill_cleanup.held_at(deployment, to):
            error.add_note(drill)
        raise


def fenced_first(
    deployment: Deployment, prepared: Prepared, how: FenceFirst | None
) -> tuple[list[str], list[str]]:
    """The servers that a failover would fence first, at the site that it leaves, and warnings.
    Nothing is changed.

    Args:
        how: whether it stops where not all of them can be fenced; None: it fences nothing.

    Raises:
        NotFound: nothing says which servers the VNF has there.
        SiteUnreachable: that site does not answer, and the failover would stop.
    """
    return failover_fence.first(deployment, prepared.state, how)


def request(
    prepared: Prepared, fence: FenceFirst | None = None, undo_within_s: float | None = None
) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun.

    Args:
        fence: whether the copy that it leaves is fenced first.
        undo_within_s: for how many seconds after its success it can be undone; by default as the
            VNF file says.
    """
    row = run_kind.requested(
        prepared.point,
        prepared.point_digest,
        prepared.plan,
        prepared.state,
        Asked(
            prepared.instead_of.run if prepared.instead_of else None,
            prepared.made_by_lost,
            prepared.lost_vaults,
            fence,
            undo_within_s or prepared.point.vnf.undo_within,
        ),
    )
    return wanted(row, [prepared.point.vnf])


def failover(
    deployment: Deployment, prepared: Prepared, observer: Observer, row: RunRow | None = None
) -> Json:
    """Recover the VNF as planned; a record of it.

    Args:
        row: as `request` has made it; by default with no more than the plan.

    RTO is counted from the call, which is the operator's confirmation.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another failover of the VNF is under way.
        NotFenced: it was to be fenced first, and that has failed; all is as before.
        AntipodeError: it stopped; the resources that it created stay, and the run can be resumed
            or rolled back.
    """
    return carried_out(deployment, run_kind.KIND, row or request(prepared), observer)
