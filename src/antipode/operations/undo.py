# SPDX-License-Identifier: Apache-2.0
"""Undoing the newest failover of a VNF while its time for that is open: plan, confirm, execute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import SiteUnreachable
from antipode.model.runbook import RunbookStep
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations.approvals import carried_out, wanted
from antipode.runs import failover_fence, protect, runbook
from antipode.runs import fence as fence_run
from antipode.runs import undo as run_kind
from antipode.store.tables import RunRow
from antipode.vault import windows

Json = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """An undo that may begin once the operator has confirmed it: nothing was changed."""

    definition: Vnf
    """of the VNF"""
    state: ProtectedVnf
    site: str
    """where the VNF goes back to"""
    until: float
    """when the time for it ends, in seconds since the epoch"""
    lost_s: float
    """for how many seconds the VNF has written what is lost"""
    stops: list[str]
    """the servers of the new copy, which are stopped and locked"""
    starts: list[str]
    """the servers of the old copy, which are started"""
    probes: list[str]
    """how its members are probed"""
    steps: list[RunbookStep]
    """of the runbook"""


def prepare(deployment: Deployment, vnf: str) -> Prepared:
    """Plan an undo.

    Raises:
        NotFound: nothing is known of the VNF, or of the servers of one of its copies.
        InvalidInput: it has never moved, or its newest failover cannot be undone, or no longer; or
            the VNF file names other members than the old copy has.
        Busy: it is failing over.
        PreflightFailed: the old copy is not whole.
        SiteUnreachable: one of both sites does not answer.
        VaultError: too few vaults answer to be sure where it is active.
    """
    protect.no_run_in_the_way(deployment, vnf)
    standing = activity.decided(deployment, vnf)
    state = standing.state
    activity.must_be_active_at(state, state.active_site)
    until = windows.must_be_open(standing.vaults, state)
    assert state.claim is not None  # else there is no such time
    old = state.claim.former_site
    fence_run.must_be_old(deployment, vnf, old)
    try:
        members = run_kind.old_members(standing.vaults, state, deployment.site(old, vnf))
        definition = run_kind.definition_of(members, deployment.vnfs.find(vnf), deployment.config)
        run_kind.must_be_whole(members, vnf)
    except SiteUnreachable as error:
        raise SiteUnreachable(
            f"{error}. {vnf} cannot go back to {old} before that site answers; it runs on at"
            f" {state.active_site}"
        ) from error
    began = until - (state.claim.undo_within_s or 0.0)
    return Prepared(
        definition,
        state,
        old,
        until,
        time.time() - began,
        failover_fence.members(deployment, state),
        [f"server {s.name} ({s.id})" for _, s in members.servers if not s.is_off],
        [f"{name} answers: {probe}" for name, probe in members.probes(definition)],
        runbook.around(deployment.config, definition, "undo", old),
    )


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    known = prepared.definition
    return wanted(run_kind.requested(prepared.state, prepared.site, prepared.steps, known), [known])


def undo(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Go back to the old copy; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another run of the VNF is under way, or it has moved since.
        NotFenced: the new copy could not be fenced; all is as before.
        AntipodeError: it stopped, and the new copy runs again, unless the error says otherwise.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)
