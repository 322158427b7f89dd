# SPDX-License-Identifier: Apache-2.0
"""Recovering a VNF at a backup site: plan, confirm, execute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import InvalidInput
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.point_v1 import digest
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.recover import plan
from antipode.runs import failover as run_kind
from antipode.store.tables import RunRow
from antipode.vault import generations, points

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Json = dict[str, Any]


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
    earlier_rto_s: float | None = None
    """seconds that the newest failover of the VNF took that succeeded, as far as this host knows"""


def prepare(deployment: Deployment, name: str, to: str, point: str | None) -> Prepared:
    """Read a recovery point and plan its recovery at a site.

    Args:
        to: the site.
        point: the id of the recovery point; the newest by default.

    Raises:
        NotFound: there is no such recovery point.
        InvalidInput: `to` is no backup site of the VNF or its active site, or the point has other
            members than the VNF file.
        Busy: another failover of the VNF has not ended, here or on another host, or one to another
            site has failed and was not aborted.
        VaultError, SiteUnreachable: no vault answers.
        PreflightFailed: the site lacks something; everything that it lacks is named.
    """
    deployment.config.site(to)
    local = deployment.vnfs.find(name)
    if local is not None:
        _must_be_backup_site(local, to)
    state, vaults = activity.before_failover(deployment, name, to)
    if to == state.active_site:
        raise InvalidInput(f"{state}; a failover goes to another site")
    generations.must_be_free(state, to, run_kind.given_up_runs(deployment, name))
    found = points.read(vaults, name, point)
    if to == found.site:
        raise InvalidInput(
            f"recovery point {found.id} was taken at {to}; a failover goes to another site"
        )
    definition, warnings = _definition(found, local)
    _must_be_backup_site(definition, to)
    site = deployment.site(to)
    defined = found.model_copy(update={"vnf": definition})
    made = plan.make_plan(defined, site)
    fence = (
        f"antipode cannot know whether {name} still runs at {state.active_site}, and does not call"
        " that site. See that it is fenced: two active copies of a VNF destroy each other's service"
    )
    if found.generation < state.generation:
        warnings.append(
            f"recovery point {found.id} is of generation {found.generation}: what changed since"
            f" {name} became active at {state.active_site} is not in it"
        )
    return Prepared(
        defined,
        digest(found),
        state,
        made,
        site,
        [fence, *warnings, *made.warnings],
        _earlier_rto_s(deployment, name),
    )


def _earlier_rto_s(deployment: Deployment, name: str) -> float | None:
    earlier = deployment.runs.newest_success(run_kind.KIND.name, name)
    rto_s = (earlier.result or {}).get("rto_s") if earlier else None
    return float(rto_s) if isinstance(rto_s, int | float) else None


def request(prepared: Prepared) -> RunRow:
    """The run that the operator confirms now; neither kept nor begun."""
    return run_kind.requested(prepared.point, prepared.point_digest, prepared.plan, prepared.state)


def failover(deployment: Deployment, prepared: Prepared, observer: Observer) -> Json:
    """Recover the VNF as planned; a record of it.

    RTO is counted from the call, which is the operator's confirmation.

    Raises:
        Busy: another failover of the VNF is under way.
        AntipodeError: it stopped; the resources that it created stay, and the run can be resumed
            or rolled back.
    """
    with deployment.claims.begin(request(prepared)) as claim:
        return execute(deployment, run_kind.KIND, claim, observer)


def _must_be_backup_site(vnf: Vnf, to: str) -> None:
    if to not in vnf.sites:
        sites = ", ".join(vnf.backup)
        raise InvalidInput(f"{vnf.vnf} is backed up to {sites}; it cannot be recovered at {to}")


def _definition(point: RecoveryPoint, local: Vnf | None) -> tuple[Vnf, list[str]]:
    """The definition to recover by, and warnings.

    The VNF file of this host counts, so that a mapping can be mended with the failed site gone.
    Commands are taken from nowhere else: anybody that can write to a vault could have put them
    into a recovery point.

    Raises:
        InvalidInput: the file names other members than the recovery point.
    """
    if local is not None:
        ordered = local.ordered_as([m.server for m in point.vnf.members])
        if ordered is None:
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
    commands = [m.server for m in point.vnf.members if m.answers and m.answers.command]
    if not commands:
        return point.vnf, []
    members = [
        m.model_copy(update={"answers": None}) if m.server in commands else m
        for m in point.vnf.members
    ]
    return point.vnf.model_copy(update={"members": members}), [
        f"the probes of {', '.join(commands)} are commands, and commands of a recovery point are"
        " never executed: these members are not probed. To probe them: antipode vnf add FILE"
    ]
