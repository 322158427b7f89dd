# SPDX-License-Identifier: Apache-2.0
"""A recovery that may begin: the state of the VNF, its recovery point, its definition and the plan,
before anything is created. The active site is not called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from antipode.config import Config
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.state import Claim, ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.recover import heads, plan
from antipode.recover.dns import switching
from antipode.runs import failover, failover_checks, runbook
from antipode.runs.failover_checks import Accepted
from antipode.vault import generations, points
from antipode.vault.generations import GivenUp
from antipode.vault.sealing import Opened, Trust

if TYPE_CHECKING:
    from antipode.cloud.site import Site


@dataclass(frozen=True)
class Prepared:
    """A failover that may begin once the operator has confirmed it: nothing has been created."""

    point: RecoveryPoint
    """with the definition of the VNF that the plan was made for"""
    point_digest: str
    """of the recovery point as it is in the vault"""
    state: ProtectedVnf
    """of the VNF before the failover"""
    plan: RecoveryPlan
    site: Site
    warnings: list[str]
    lost_vaults: Sequence[str] = ()
    """those that the operator has given up"""
    earlier_rto_s: float | None = None
    """seconds that the newest failover of the VNF took that succeeded, as far as this host knows"""
    instead_of: Claim | None = None
    """the claim of a failover that is lost, which this one releases"""
    made_by_lost: Sequence[str] = ()
    """the ids of what that one has made, as far as its site answers"""


def prepare(
    deployment: Deployment,
    name: str,
    to: str,
    point: str | None,
    accepted: Accepted | None = None,
    *,
    without: Collection[str] = (),
) -> Prepared:
    """Read a recovery point and plan its recovery at a site.

    Args:
        to: the site.
        point: the id of the recovery point; the newest by default.
        accepted: what the operator accepts beyond the confirmation.
        without: the ids of what will be gone at the site by then.

    Raises:
        NotFound: there is no such recovery point.
        PointUnsigned, PointUntrusted, PointMisplaced, VaultCorrupt: the point is refused.
        KeyMissing: no identity of this host opens what is encrypted of it.
        InvalidInput: `to` is no backup site of the VNF or its active site, the point was taken
            there, it has other members than the VNF file, or the failover that is to be lost has no
            claim.
        Busy: another failover of the VNF has not ended, here or on another host, or one to another
            site has failed and was not aborted; or the one that is to be lost is known here.
        VaultError, SiteUnreachable: no vault answers.
        PreflightFailed: the site or the backup store lacks something; everything that it lacks is
            named.
    """
    accepted = accepted or Accepted()
    deployment.config.site(to)
    local = deployment.vnfs.find(name)
    if local is not None:
        _must_be_backup_site(local, to)
    state, vaults = activity.before_failover(deployment, name, to, lost=accepted.lost_vaults)
    if to == state.active_site:
        raise InvalidInput(f"{state}; fail over to another site")
    given_up = GivenUp(failover.given_up_runs(deployment, name), accepted.instead_of)
    lost = (
        None
        if accepted.instead_of is None
        else failover_checks.claim_of_lost(deployment, state, accepted.instead_of)
    )
    generations.must_be_free(state, to, given_up)
    trust = Trust.UNSIGNED_TOO if accepted.unsigned else Trust.SIGNED
    opened, newer = points.find(vaults, name, point, trust), list[str]()
    if point is None:
        opened, newer = failover_checks.newest_known(deployment, vaults, opened, trust)
    opened.must_be_open()
    found = opened.point
    newer += failover_checks.refused_warnings(vaults, name)
    origin = failover_checks.origin_warnings(found, state, to, accepted)
    definition, warnings = definition_of(opened, local, deployment.config)
    warnings += [*newer, *origin, *_project_warnings(deployment.config, definition, to)]
    _must_be_backup_site(definition, to)
    site = deployment.site(to, definition)
    defined = found.defined_by(definition)
    if accepted.newest_heads:
        defined = heads.of(defined)
    if not accepted.store_unchecked:
        warnings += failover_checks.store_warnings(deployment, defined, state)
    made = None if lost is None else failover_checks.made_by_lost(deployment, lost, to)
    if lost is not None:
        warnings += failover_checks.lost_warnings(lost, made, to, found.datastores)
    records = switching.plan(defined, to, state.active_site, deployment.dns)
    warnings += dns_warnings(records)
    bare = plan.make_plan(defined, site.without(without))
    planned = runbook.with_steps(bare, defined, failover.KIND.name, definition.steps)
    behind = {s.id: s.name for s in found.topology.servers if s.name in found.left_out}
    planned = planned.model_copy(update={"dns": records.changes, "left_behind": behind})
    fence = (
        f"antipode cannot know whether {name} still runs at {state.active_site}, and does not call"
        " that site. See that it is fenced: two active copies of a VNF destroy each other's service"
    )
    if found.generation < state.generation:
        warnings.append(
            f"recovery point {found.id} is of generation {found.generation}: changes since"
            f" {name} became active at {state.active_site} are not in it"
        )
    if opened.signed_by is None:
        warnings.append(
            f"recovery point {found.id} is not signed, and you accept it: anybody that could write"
            " to the vault may have changed what is recovered"
        )
    warnings += [
        f"vault {vault} has no say in it, as it is said to be lost: no other host must be failing"
        f" over {name}"
        for vault in accepted.lost_vaults
    ]
    return Prepared(
        defined,
        opened.digest,
        state,
        planned,
        site,
        [fence, *warnings, *planned.warnings],
        accepted.lost_vaults,
        earlier_rto_s(deployment, name),
        lost,
        list(made or ()),
    )


def fitting(
    deployment: Deployment, vnf: Vnf, site: str, point: str, without: Collection[str] = ()
) -> RecoveryPlan:
    """Plan a recovery from a point, and see that the site has what all members need, also those
    that the point does not bring back: a migration captures and moves them, too.

    Args:
        vnf: by which names are translated.
        point: the id of the point.
        without: the ids of what will be gone at the site by then.

    Raises:
        PreflightFailed: the site lacks something; all of it is named.
        AntipodeError: as `prepare`.
    """
    prepared = prepare(deployment, vnf.vnf, site, point, without=without)
    # as it was made: the plan lacks members that do not come back
    made = points.find(activity.decided(deployment, vnf.vnf).vaults, vnf.vnf, point).point
    if made.left_out:
        known = made.vnf.model_copy(update={"map": vnf.map, "maps": vnf.maps})
        whole = made.model_copy(update={"vnf": known})
        plan.make_plan(whole, prepared.site.without(without))
    return prepared.plan


def dns_warnings(records: switching.Planned) -> list[str]:
    """Warnings about DNS records, none of which holds up a recovery."""
    return [
        *(
            f"{problem}. The recovery does not depend on it; see to it afterwards, with antipode"
            " dns show and antipode dns switch"
            for problem in records.problems
        ),
        *(
            f"DNS record {change.key} is {change.old}, and leads elsewhere than to the VNF's"
            f" active site; it is changed all the same"
            for change in records.changes
            if change.old is not None
            and change.old.values not in (change.former, change.new.values)
        ),
    ]


def earlier_rto_s(deployment: Deployment, name: str) -> float | None:
    earlier = deployment.runs.newest_success(failover.KIND.name, name)
    rto_s = (earlier.result or {}).get("rto_s") if earlier else None
    return float(rto_s) if isinstance(rto_s, int | float) else None


def _must_be_backup_site(vnf: Vnf, to: str) -> None:
    if to not in vnf.sites:
        sites = ", ".join(vnf.backup)
        raise InvalidInput(f"{vnf.vnf} is backed up to {sites}; it cannot be recovered at {to}")


def definition_of(opened: Opened, local: Vnf | None, config: Config) -> tuple[Vnf, list[str]]:
    """The definition to recover by, and warnings.

    The VNF file of this host counts, so that a mapping can be mended with the failed site gone.
    Where there is none, commands are taken from a recovery point that is signed, and the plan lists
    them; of one that is not, anybody that can write to a vault could have written them.

    Raises:
        InvalidInput: the file names other members than the recovery point, or another project.
    """
    point = opened.point
    if local is not None:
        _must_be_of_its_project(point, local, config)
    lost = [
        f"{', '.join(point.left_out)}: not captured and not recovered, as the VNF file says"
        for _ in point.left_out[:1]
    ]
    definition, warnings = _definition_of(opened, local)
    captured = {volume.name for volume in point.topology.unattached}
    lost += [
        f"volume {name} of no server, which the VNF file names, is not in recovery point {point.id}"
        " and is not recovered"
        for name in definition.volumes
        if name not in captured
    ]
    return definition, [*lost, *warnings]


def _project_warnings(config: Config, vnf: Vnf, to: str) -> Iterator[str]:
    of_api = config.api.projects if config.api else {}
    if vnf.project is not None and not config.has_projects and vnf.project not in of_api:
        yield (
            f"{vnf.vnf} is of project {vnf.project}, and antipode.yaml of this host has no"
            f" projects: it is recovered in the project of cloud {config.site(to).cloud}"
        )


def _must_be_of_its_project(point: RecoveryPoint, local: Vnf, config: Config) -> None:
    """
    Raises:
        InvalidInput: the point was made of another VNF of the same name.
    """
    if not config.is_same_project(point.vnf.project, local.project):
        raise InvalidInput(
            f"recovery point {point.id} is of project {point.vnf.project or 'of the sites'}, and"
            f" the file of {local.vnf} on this host of {local.project or 'the sites'}: they are two"
            f" VNFs. Remove the file: antipode vnf remove {local.vnf}"
        )


def _definition_of(opened: Opened, local: Vnf | None) -> tuple[Vnf, list[str]]:
    point = opened.point
    if local is not None:
        if (ordered := _ordered_as(point, local)) is None:
            raise InvalidInput(
                f"recovery point {point.id} has other members than the file of {local.vnf} on this"
                f" host. Choose another point, or remove the file: antipode vnf remove {local.vnf}"
            )
        if ordered == point.vnf:
            return ordered, []
        return ordered, [
            "the VNF file was changed since the recovery point was made; the file of this host is"
            " used"
        ]
    probed = [m.server for m in point.vnf.members if m.answers and m.answers.command]
    steps = [step.name for step in point.vnf.steps]
    found = [
        *([f"the probes of {', '.join(probed)}"] if probed else []),
        *([f"the runbook steps {', '.join(steps)}"] if steps else []),
    ]
    if not found:
        return point.vnf, []
    if opened.signed_by is not None:
        return point.vnf, [
            f"{what} are those of the recovery point, which is signed by key"
            f" {opened.signed_by[:16]}: this host has no VNF file. What they execute is executed on"
            " this host; look at each of them above"
            for what in found
        ]
    return point.vnf.without_commands(), [
        f"{what} are left out: nothing of a recovery point that is not signed is ever executed. To"
        " have them: antipode vnf add FILE"
        for what in found
    ]


def has_other_members(point: RecoveryPoint, local: Vnf) -> bool:
    """Whether a point cannot be recovered by a definition, as that has got or lost members since
    the point was made.
    """
    return _ordered_as(point, local) is None


def _ordered_as(point: RecoveryPoint, local: Vnf) -> Vnf | None:
    """A definition with the members of a point, in the point's order; None where it has others."""
    # Its selectors stand for the servers that they had found when the point was made.
    known = local.with_selected(point.vnf.selected)
    named = {m.server for m in point.vnf.members}
    gone = [m.server for m in known.members if m.recover == "none" and m.server not in named]
    return known.without(gone).ordered_as([m.server for m in point.vnf.members])
