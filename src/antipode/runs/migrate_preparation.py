# SPDX-License-Identifier: Apache-2.0
"""A migration that may begin: where the VNF goes, what is removed first, and what its plan says,
before anything is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antipode.datastores.application import Application, Data, application_at
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, PreflightFailed
from antipode.model import runbook
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import PlannedStep
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.protect import offsite
from antipode.recover import application_data
from antipode.runs import fence, migrate, old_copy_removal, preparation, protect, runners
from antipode.runs.old_copy_removal import Holdings
from antipode.runs.precheck import default_site
from antipode.vault import points

if TYPE_CHECKING:
    from antipode.cloud.site import Site


@dataclass(frozen=True)
class Prepared:
    """A migration that may begin once the operator has confirmed it: nothing was changed."""

    vnf: Vnf
    """its definition"""
    state: ProtectedVnf
    to: str
    option: str | None
    plan: RecoveryPlan | None
    """of a recovery from the newest point, where the old copy that is removed first is gone; None
    where there is no point of the active site yet
    """
    warnings: Sequence[str]
    removes: Holdings | None = None
    """what is removed first of the old copy at the other site"""
    steps: Sequence[PlannedStep] = ()
    """of the runbook; members by the names of the boot order"""

    @property
    def returns(self) -> bool:
        """Whether the VNF goes to where it came from, or was in the beginning."""
        came_from = self.state.claim.former_site if self.state.claim else None
        return self.removes is not None or self.to in (came_from, self.vnf.primary)


def prepare(
    deployment: Deployment,
    vnf: str,
    to: str | None = None,
    option: str | None = None,
    *,
    back: bool = False,
) -> Prepared:
    """Plan a migration.

    Args:
        to: the site; by default the first of the VNF at which it is not active, and with `back`
            the one that it came from, unless it is at its primary.
        option: which of the VNF's protections makes the points; the first by default.
        back: whether the old copy at that site is removed first.

    Raises:
        NotFound: the VNF or the site is not known here.
        InvalidInput: the VNF is active at that site, or at its primary and is to go back without
            a site, or has no such protection.
        Busy: a recovery of it has not ended.
        PreflightFailed: the site lacks something, or no point can be made where it is active; all
            of it is named.
        VaultError, SiteUnreachable: where it is active is not known, or one of both sites does not
            answer.
    """
    known = deployment.vnfs.get(vnf)
    migrate.must_be_rolled_back(deployment, vnf)
    protect.no_run_in_the_way(deployment, vnf)
    standing = activity.decided(deployment, vnf)
    state = standing.state
    activity.must_be_active_at(state, state.active_site)
    if back and state.claim is None:
        raise InvalidInput(f"{state} and has never moved: there is nowhere to go back to")
    former = state.claim.former_site if back and state.claim is not None else None
    if former is not None and to is None and state.active_site == known.primary:
        # given again, the command would move it to and fro
        raise InvalidInput(
            f"{state}, which is its primary: there it is home. To move it all the same, name the"
            f" site: antipode failback {vnf} --to {former}"
        )
    site = to or former or default_site(deployment, vnf)
    if site == state.active_site:
        raise InvalidInput(f"{state}; move it to another site")
    protect.requested(known, state, option=option)  # refuses an option that it has not
    if lost := offsite.problems(deployment.config, known, state.active_site):
        raise PreflightFailed(f"a migration of {vnf} from {state.active_site}", lost)
    deployment.site(state.active_site, known)
    warnings = [
        f"it is not protected at {site} as things are: {problem}"
        for problem in offsite.problems(deployment.config, known, site)
    ]
    _must_be_handed_over(deployment, known, state.active_site, site)
    verb = migrate.verb_of(back=back)
    steps = runbook.planned(known.steps, verb, site, lambda label: [label])
    runners.must_be_known(deployment.config, steps, f"a migration of {vnf} to {site}")
    if back:
        fence.must_be_old(deployment, vnf, site)
        found = old_copy_removal.holdings(deployment, standing, deployment.site(site, known))
        warnings += found.remarks
    else:
        found = None
        warnings += _copies_there(known, deployment.site(site, known))
    newest = points.newest_or_none(standing.vaults, vnf)
    plan: RecoveryPlan | None = None
    seen: Sequence[str] = ()
    if newest is not None and newest.site == state.active_site:
        try:
            plan, seen = _planned(deployment, known, site, newest, found)
        except PreflightFailed as error:
            if (makes := known.protection(option)) is None or makes.option == newest.option:
                raise _cannot_begin(vnf, site, newest, found, error.problems) from error
            seen = [
                f"a recovery from {newest.id} would fail, which is of option {newest.option} and"
                f" not of {makes.option}: {problem}"
                for problem in error.problems
            ]
    return Prepared(known, state, site, option, plan, [*warnings, *seen], found, steps)


def _planned(
    deployment: Deployment, vnf: Vnf, site: str, point: RecoveryPoint, removed: Holdings | None
) -> tuple[RecoveryPlan | None, Sequence[str]]:
    """The plan of a recovery from a point of the active site, and warnings; no plan where the
    point has other members than the VNF by now.

    Raises:
        PreflightFailed: the site lacks something; all of it is named.
    """
    if preparation.has_other_members(point, vnf):
        return None, [
            f"recovery point {point.id} has other members than the VNF file, so nothing is planned"
            " from it"
        ]
    going = removed.ids if removed else ()
    plan = preparation.fitting(deployment, vnf, site, point.id, going)
    return plan, plan.warnings


def _cannot_begin(
    vnf: str, site: str, point: RecoveryPoint, removed: Holdings | None, problems: Sequence[str]
) -> PreflightFailed:
    """That a site lacks something for a recovery from the newest point."""
    since = (
        f"this is of recovery point {point.id}; if {vnf} was changed since, protect it first:"
        f" antipode protect {vnf}"
    )
    what = "failback" if removed else "migration"
    left = removed.left if removed else ()
    return PreflightFailed(f"a {what} of {vnf} to {site}", [*problems, *left, since])


def _copies_there(vnf: Vnf, site: Site) -> list[str]:
    """The members of the VNF that a site has, which will be in the way. A plan from the newest
    point may take those of an earlier recovery from it for its own; but a migration makes a point
    of its own, and new members with it.
    """
    members = {member.server for member in vnf.members}
    there = sorted(s["name"] for s in site.compute.servers() if s["name"] in members)
    return [
        f"there is a server {name} at {site.name} already, which stops the migration before any"
        f" member is off. Where it is of an old copy: antipode failback {vnf.vnf} --to"
        f" {site.name} removes it first"
        for name in there
    ]


def _must_be_handed_over(deployment: Deployment, vnf: Vnf, former: str, to: str) -> None:
    """See that no data of the application would be writable at both sites.

    Raises:
        InvalidInput: a storage is not configured at both.
        PreflightFailed: some would.
    """
    stores = vnf.datastores_of_applications

    def data_at(site: str) -> list[Application]:
        there = deployment.storages_at(site) if stores else {}
        return [application_at(there, site, store.storage) for store in stores.values()]

    here = [(Data(vnf.vnf, n), a) for n, a in zip(stores, data_at(former), strict=True)]
    if problems := application_data.cannot_be_handed_over(here, data_at(to)):
        raise PreflightFailed(f"a migration of {vnf.vnf} to {to}", problems)
