# SPDX-License-Identifier: Apache-2.0
"""Protecting a VNF the other way round after it has moved: plan, confirm, execute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from antipode.cloud import health
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput, PreflightFailed, SiteUnreachable
from antipode.model.runbook import RunbookStep
from antipode.model.state import ProtectedVnf
from antipode.operations import fence
from antipode.operations.approvals import carried_out, wanted
from antipode.protect import offsite
from antipode.runs import fence as fence_run
from antipode.runs import migrate, old_copy_removal, protect, runbook
from antipode.runs import reprotect as run_kind
from antipode.runs.old_copy_removal import Holdings
from antipode.store.tables import RunRow
from antipode.vault import points

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.activity import Standing
    from antipode.model.point import RecoveryPoint

Json = dict[str, Any]
OldCopyIs = Literal["keep", "remove"]


@dataclass(frozen=True)
class Prepared:
    """A reprotection that may begin once the operator has confirmed it: nothing was changed."""

    state: ProtectedVnf
    site: str
    """the former site"""
    newest: RecoveryPoint | None
    """of the active copy, where a schedule has made one already"""
    fencing: fence.Prepared
    removes: Holdings | None
    """what is removed of the old copy; None where it is kept"""
    warnings: Sequence[str]
    steps: Sequence[RunbookStep] = ()
    """of the runbook"""
    lost_vaults: Sequence[str] = ()
    """those that the operator has given up"""

    @property
    def has_nothing_to_do(self) -> bool:
        """Whether the VNF is protected already, and its old copy is as it is wanted."""
        is_fenced = not self.fencing.ports and not any(s["does"] for s in self.fencing.servers)
        is_removed = self.removes is None or not self.removes.ids
        return self.newest is not None and is_fenced and is_removed


def prepare(
    deployment: Deployment,
    vnf: str,
    old_copy: OldCopyIs = "keep",
    lost_vaults: Sequence[str] = (),
) -> Prepared:
    """Plan a reprotection.

    Where the active site does not answer and the old copy is removed, this makes room for a
    recovery at the former site: volumes on which recovery points may rest stay.

    Args:
        lost_vaults: those that the operator has given up: they have no say in where the VNF is
            active. With one, nothing of the old copy that runs is removed.

    Raises:
        NotFound: the VNF is not known here, or nothing says which servers the old copy has.
        InvalidInput: the VNF has never moved, its former site is not one of its sites any more, or
            it is protected already.
        Busy: it is failing over, or a run is in the way.
        PreflightFailed: it could not be protected where it is active; or its old copy may be all
            that there is of it, or runs though a vault is lost.
        SiteUnreachable: the former site does not answer.
        VaultError: too few vaults answer to be sure where it is active.
    """
    known = deployment.vnfs.get(vnf)
    migrate.must_be_rolled_back(deployment, vnf)
    protect.no_run_in_the_way(deployment, vnf)
    state = activity.decided(deployment, vnf, lost=lost_vaults).state
    activity.must_be_active_at(state, state.active_site)
    if state.claim is None:
        raise InvalidInput(
            f"{state} and has never moved: it is protected as before, by antipode protect {vnf}",
            resource=f"VNF {vnf}",
        )
    former = state.claim.former_site
    if former not in known.sites:
        raise InvalidInput(
            f"{vnf} has come from {former}, which its file does not name any more; protect it with"
            f" antipode protect {vnf}",
            resource=f"VNF {vnf}",
        )
    if missing := offsite.problems(deployment.config, known, state.active_site):
        raise PreflightFailed(f"a reprotection of {vnf} from {state.active_site}", missing)
    protect.requested(known, state)  # refuses settings that are wrong
    site = _answering(deployment, vnf, former)
    standing = fence_run.must_be_old(deployment, vnf, former, lost=lost_vaults)
    newest = points.newest_or_none(standing.vaults, vnf)
    removes, warnings = None, _of_lost(vnf, lost_vaults)
    if old_copy == "remove":
        removes, more = _removed(deployment, standing, site, lost_vaults)
        warnings += more
    is_its = newest is not None and newest.generation == state.generation
    prepared = Prepared(
        standing.state,
        former,
        newest if is_its else None,
        fence.prepare(deployment, vnf, former, lost_vaults),
        removes,
        [*warnings, *_warnings(site, removes)],
        runbook.around(deployment.config, known, "reprotect", state.active_site),
        lost_vaults,
    )
    if prepared.has_nothing_to_do:
        assert prepared.newest is not None  # there would be something to do
        raise InvalidInput(
            f"{vnf} is protected from {state.active_site} already, by {prepared.newest.id}, and"
            f" its old copy at {former} is {'gone' if removes else 'off and locked'}. To make"
            f" another recovery point: antipode protect {vnf}",
            resource=f"VNF {vnf}",
        )
    return prepared


def _of_lost(vnf: str, lost_vaults: Sequence[str]) -> list[str]:
    return [
        f"vault {vault} has no say in it, as it is said to be lost: no other host must be failing"
        f" over {vnf}"
        for vault in lost_vaults
    ]


def _removed(
    deployment: Deployment, standing: Standing, site: Site, lost_vaults: Sequence[str]
) -> tuple[Holdings, list[str]]:
    """What is removed of the old copy, and warnings.

    Raises:
        PreflightFailed: it may be all that there is of the VNF, or runs though a vault is lost.
        NotFound, VaultError, SiteUnreachable: as `old_copy_removal.holdings`.
    """
    state, warnings = standing.state, list[str]()
    if has_died := old_copy_removal.is_silent(deployment, state):
        old_copy_removal.must_outlive_its_site(deployment, standing, site)
        warnings.append(
            f"{state.active_site}, where {state.vnf} is active, does not answer: once its old copy"
            f" is gone, there are its recovery points only. To recover it then: antipode failover"
            f" {state.vnf} --to {site.name}"
        )
    # a copy that runs is the active one where a vault that is said to be lost knows better
    found = old_copy_removal.holdings(deployment, standing, site, running_too=not lost_vaults)
    keeps_states = has_died or bool(lost_vaults)
    return (old_copy_removal.without_states(site, found) if keeps_states else found), warnings


def _answering(deployment: Deployment, vnf: str, site: str) -> Site:
    """The former site.

    Raises:
        SiteUnreachable: it does not answer; says what can be done without it.
    """
    try:
        return deployment.site(site, vnf)
    except SiteUnreachable as error:
        raise SiteUnreachable(
            f"{error}. Without {site}, the old copy of {vnf} cannot be fenced and {vnf} cannot be"
            f" recovered there; until it answers, make recovery points with: antipode protect {vnf}"
        ) from error


def _warnings(site: Site, removes: Holdings | None) -> Iterator[str]:
    """What may keep the VNF from being recovered at its former site."""
    for found in health.check(site):
        if not found.ok:
            what = f"{site.name}, {found.check}: {found.detail}"
            effect = "recovered there" if found.needed else "protected there by every option"
            yield f"{what}; the VNF may not be {effect}"
    if removes is None:
        yield (
            f"the old copy keeps its names, addresses and quotas at {site.name}: a failover to it"
            " may have to wait until that copy is removed"
        )
    else:
        yield from removes.remarks


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    removes = None if prepared.removes is None else prepared.removes.ids
    row = run_kind.requested(
        prepared.state, prepared.site, removes, prepared.steps, prepared.lost_vaults
    )
    return wanted(row, [prepared.fencing.definition])


def reprotect(deployment: Deployment, row: RunRow, observer: Observer) -> Json:
    """Fence the old copy, make a first recovery point of the active one, and remove the old one if
    that was confirmed; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another reprotection of the VNF, or a run in its way, is under way.
        AntipodeError: it stopped. What was done stays, and it can be resumed.
    """
    return carried_out(deployment, run_kind.KIND, row, observer)
