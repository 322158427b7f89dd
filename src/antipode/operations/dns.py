# SPDX-License-Identifier: Apache-2.0
"""The DNS records of a VNF: as they are and should be, and their switch by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import AntipodeError, InvalidInput
from antipode.model.dns import DnsChange
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations.approvals import carried_out, wanted
from antipode.recover.dns import switching
from antipode.runs import dns_switch as run_kind
from antipode.runs import preparation
from antipode.store.tables import RunRow
from antipode.vault import points

Json = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """The DNS records of a VNF, and how they lead to where it is active. Nothing was changed."""

    definition: Vnf
    """of the VNF"""
    state: ProtectedVnf
    recovery_point: str
    """that the addresses are from"""
    changes: list[DnsChange]
    problems: list[str]
    """records that cannot be switched, and why"""
    warnings: list[str]
    lost_vaults: Sequence[str] = ()


def prepare(
    deployment: Deployment,
    vnf: str,
    point: str | None = None,
    lost_vaults: Sequence[str] = (),
) -> Prepared:
    """Read the records of a VNF at their servers, and see what they should be.

    Args:
        point: the recovery point that has the addresses of the VNF; the newest by default.

    Raises:
        NotFound: nothing is known of the VNF, or there is no such recovery point.
        InvalidInput: the VNF has no DNS records.
        Busy: it is failing over.
        VaultError, SiteUnreachable: too few vaults answer to be sure where it is active.
    """
    state, vaults = activity.decided(deployment, vnf, lost=lost_vaults)
    run_kind.must_be_settled(state)
    opened = points.find(vaults, vnf, point)
    local = deployment.vnfs.find(vnf)
    definition, warnings = preparation.definition_of(opened, local, deployment.config)
    if not definition.dns:
        raise InvalidInput(
            f"VNF {vnf} has no DNS records; write them under dns in its file",
            resource=f"VNF {vnf}",
        )
    former = state.claim.former_site if state.claim else state.active_site
    planned = switching.plan(
        opened.point.model_copy(update={"vnf": definition}),
        state.active_site,
        former,
        deployment.dns,
    )
    return Prepared(
        definition, state, opened.point.id, planned.changes, planned.problems, warnings, lost_vaults
    )


def show(deployment: Deployment, prepared: Prepared) -> list[Json]:
    """Each record as it is, as it should be, and the servers that have another one."""
    return [_shown(deployment, change) for change in prepared.changes]


def _shown(deployment: Deployment, change: DnsChange) -> Json:
    there = deployment.dns(change.provider)
    try:
        behind = there.behind(change.old or change.new)
    except AntipodeError as error:
        behind = [str(error)]
    return {
        "record": change.key,
        "provider": change.provider,
        "present": str(change.old) if change.old else "none" if change.is_known else "unknown",
        "wanted": str(change.new),
        "leads_here": change.old is not None and change.old.values == change.new.values,
        "behind": behind,
    }


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    row = run_kind.requested(
        prepared.state, prepared.recovery_point, prepared.changes, prepared.lost_vaults
    )
    return wanted(row, [prepared.definition])


def switch(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Switch the records; what became of each.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another switch of the VNF is under way, or the VNF has moved since.
        DnsFailed: a record is not switched, or not seen everywhere. All others are.
        VaultError, SiteUnreachable: too few vaults answer to be sure; nothing was changed.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)
