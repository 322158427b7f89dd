# SPDX-License-Identifier: Apache-2.0
"""A drill that may begin: its recovery point, its definition and its plan on isolated networks,
before anything is created. The active site is not called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from antipode.config import Config
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.errors import Busy, InvalidInput
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.state import ProtectedVnf, VnfState
from antipode.recover import isolation, plan
from antipode.runs import failover_checks, preparation, runbook, runners
from antipode.vault import points
from antipode.vault.sealing import Trust

VERB = "drill"
"""As the steps of a runbook name it."""


@dataclass(frozen=True)
class PreparedDrill:
    """A drill that may begin once the operator has confirmed it: nothing has been created."""

    drill: str
    """an id of it, in the names of its servers and networks"""
    point: RecoveryPoint
    """with the definition of the VNF that the plan was made for"""
    point_digest: str
    state: ProtectedVnf
    plan: RecoveryPlan
    warnings: Sequence[str]


def prepare(
    deployment: Deployment, name: str, to: str, point: str | None, drill: str
) -> PreparedDrill:
    """Read a recovery point and plan a drill with it at a site.

    Args:
        to: the site.
        point: the id of the recovery point; the newest by default.
        drill: an id of the drill that no other has.

    Raises:
        NotFound: there is no such recovery point.
        PointUnsigned, PointUntrusted, PointMisplaced, VaultCorrupt: the point is refused.
        KeyMissing: no identity of this host opens what is encrypted of it.
        InvalidInput: `to` is the active site of the VNF, or none of its sites.
        Busy: a failover of the VNF has not ended.
        VaultError, SiteUnreachable: no vault answers.
        PreflightFailed: the site or the backup store lacks something; all of it is named.
    """
    deployment.config.site(to)
    state, vaults = activity.before_failover(deployment, name, to)
    must_be_elsewhere(state, to)
    opened, warnings = points.find(vaults, name, point), list[str]()
    if point is None:
        opened, warnings = failover_checks.newest_known(deployment, vaults, opened, Trust.SIGNED)
    opened.must_be_open()
    local = deployment.vnfs.find(name)
    definition, differs = preparation.definition_of(opened, local, deployment.config)
    if to not in definition.sites:
        raise InvalidInput(f"{to} is no site of {name}: {', '.join(definition.sites)}")
    defined = opened.point.defined_by(definition)
    unchecked = failover_checks.store_warnings(deployment, defined, state)
    site = deployment.site(to, definition)
    store, not_compared = compared_with(deployment.config, defined, state.active_site)
    if store is None:
        unchecked.append(f"content of volumes is not compared: {not_compared}")
    isolate = partial(isolation.isolate, vnf=defined.vnf, site=site, drill=drill)
    beside = plan.Beside(isolate, compares=store is not None)
    isolated = runbook.with_steps(
        plan.make_plan(defined, site, beside), defined, VERB, definition.steps
    )
    runners.must_be_known(deployment.config, isolated.steps, f"a drill of {name} at {to}")
    return PreparedDrill(
        drill,
        defined,
        opened.digest,
        state,
        isolated,
        [*warnings, *differs, *unchecked, *isolated.warnings],
    )


def must_be_elsewhere(state: ProtectedVnf, site: str) -> None:
    """See that a VNF is not active at the site of a drill, and is not being recovered.

    Raises:
        InvalidInput: it is active there.
        Busy: a failover of it has not ended.
    """
    if site == state.active_site:
        raise InvalidInput(f"{state}; a drill is made at another site")
    if state.state is VnfState.FAILING_OVER:
        raise Busy(f"{state}; drill when that has ended")


def compared_with(config: Config, point: RecoveryPoint, active_site: str) -> tuple[str | None, str]:
    """The backup store with whose digests content is compared, by name; else why with none."""
    name = config.store_name(point.site, point.vnf.store)
    if name is None:
        return None, f"no backup store of {point.site} is configured"
    if config.site_of_store(name) == active_site:
        return None, f"backup store {name} is at {active_site}, which a drill does not call"
    return name, ""
