# SPDX-License-Identifier: Apache-2.0
"""Ending the time in which the newest failover of a VNF can be undone: plan, confirm, execute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.model.runbook import RunbookStep
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations.approvals import carried_out, definition_of, wanted
from antipode.runs import commit as run_kind
from antipode.runs import runbook
from antipode.store.tables import RunRow
from antipode.vault import windows

Json = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A commit that may begin once the operator has confirmed it: nothing was changed."""

    definition: Vnf | None
    """of the VNF; None where neither this host nor a recovery point has one"""
    state: ProtectedVnf
    until: float
    """when the failover could be undone, in seconds since the epoch"""
    steps: list[RunbookStep]
    """of the runbook of this host"""


def prepare(deployment: Deployment, vnf: str) -> Prepared:
    """Find the time in which the newest failover of a VNF can be undone.

    Raises:
        NotFound: nothing is known of the VNF.
        InvalidInput: its newest failover cannot be undone, or no longer.
        Busy: it is failing over, or an undo of it has begun.
        VaultError, SiteUnreachable: too few vaults answer to be sure where it is active.
    """
    standing = activity.decided(deployment, vnf)
    activity.must_be_active_at(standing.state, standing.state.active_site)
    until = windows.must_be_open(standing.vaults, standing.state)
    here = standing.state.active_site
    return Prepared(
        definition_of(deployment, standing.vaults, vnf),
        standing.state,
        until,
        runbook.around(deployment.config, deployment.vnfs.find(vnf), "commit", here),
    )


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    return wanted(run_kind.requested(prepared.state, prepared.steps), [prepared.definition])


def commit(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """End the time; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another commit of the VNF is under way, or the VNF has moved since.
        InvalidInput: the time is over.
        VaultError: no vault has accepted it.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)
