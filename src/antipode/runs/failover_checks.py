# SPDX-License-Identifier: Apache-2.0
"""Checks before a failover is planned: whether the point may be used at its site, whether the
backup store has its backups, and whether a failover that is said to be lost has a copy elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from antipode.engine.deployment import Deployment
from antipode.engine.run import state_of
from antipode.errors import (
    AntipodeError,
    Busy,
    InvalidInput,
    NotFound,
    PreflightFailed,
    SiteUnreachable,
    Stopped,
    VaultError,
)
from antipode.model.point import RecoveryPoint
from antipode.model.state import Claim, ProtectedVnf, VnfState
from antipode.recover import rollback
from antipode.recover.sources import PROVIDERS
from antipode.runs import protect
from antipode.vault import Vault, generations, points
from antipode.vault.ensemble import Vaults
from antipode.vault.points import Age
from antipode.vault.sealing import Opened, Trust

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Accepted:
    """What the operator has said in so many words, beyond the confirmation."""

    instead_of: str | None = None
    """this failover of the VNF is lost, with its host and database, and loses its claim"""
    to_origin: bool = False
    """the recovery point may be one that was taken at the very site where it is recovered"""
    store_unchecked: bool = False
    """it is not checked that the backup store has the backups"""
    unsigned: bool = False
    """the recovery point may be one of format 1, which has no signature"""
    lost_vaults: Sequence[str] = ()
    """these vaults are lost, and no other host is failing over the VNF: they decide nothing"""
    newest_heads: bool = False
    """the newest data that has arrived of replicated volumes is taken, and not the point's states
    """


def newest_known(
    deployment: Deployment, vaults: Vaults, listed: Opened, trust: Trust
) -> tuple[Opened, list[str]]:
    """The newest recovery point, and a warning where this host has made a newer one than the vaults
    have. It is asked for by its name: a listing may lag behind.

    Args:
        listed: the newest one by the listings of the vaults.
    """
    name = listed.point.vnf.vnf
    run = deployment.runs.newest_success(protect.KIND.name, name)
    result = (run.result or {}) if run else {}
    point, moment = result.get("recovery_point"), result.get("consistent_at")
    if not (isinstance(point, str) and isinstance(moment, str)):
        return listed, []
    made = Age(int(result.get("generation", 1)), moment, point)
    found = Age(listed.point.generation, listed.point.consistent_at, listed.point.id)
    if made.key <= found.key:
        return listed, []
    try:
        return points.find(vaults, name, point, trust), []
    except (NotFound, VaultError) as error:
        return listed, [
            f"this host has made a newer recovery point, {point}, as of {moment}, and it cannot be"
            f" had: {error}. It was removed, or the vault that has it does not answer"
        ]


def refused_warnings(vaults: Vault, vnf: str) -> list[str]:
    """Warnings about claims in the vaults that do not count: another installation of the operator
    may have written them.
    """
    return [
        f"{place}: {why}. It counts for nothing; see that no other host is failing over {vnf}"
        for place, _name, why in generations.refused(vaults, vnf)
    ]


def origin_warnings(
    point: RecoveryPoint, state: ProtectedVnf, to: str, accepted: Accepted
) -> list[str]:
    """What is lost with a point that was taken at the site where it is recovered: it is of an older
    generation, and perhaps the only one.

    Raises:
        InvalidInput: the operator has not said that it may be such a point.
    """
    if point.site != to:
        return []
    lost = f"all that {state.vnf} did since it became active at {state.active_site}"
    if not accepted.to_origin:
        raise InvalidInput(
            f"recovery point {point.id} was taken at {to} itself, and {lost} is not in it. Choose "
            "a point that was taken since, or accept that loss with --to-origin",
            resource=f"recovery point {point.id}",
        )
    return [f"recovery point {point.id} was taken at {to} itself: {lost} is lost"]


def claim_of_lost(deployment: Deployment, state: ProtectedVnf, run: str) -> Claim:
    """The claim of a failover that is said to be lost.

    Raises:
        InvalidInput: it has no claim.
        Busy: it is known to this host, which can resume or abort it.
    """
    claim = state.claim
    if state.state is not VnfState.FAILING_OVER or claim is None or claim.run != run:
        raise InvalidInput(
            f"{state}: no failover {run} is under way; leave --instead-of out",
            resource=f"run {run}",
        )
    try:
        row = deployment.runs.get(run)
    except NotFound:
        return claim
    if row.state != "aborted":
        raise Busy(
            f"{run} is not lost: the database of this host has it, as {state_of(row, deployment)}. "
            f"Resume it (antipode run resume {run}) or abort it: antipode run abort {run}",
            resource=f"run {run}",
        )
    return claim


def made_by_lost(deployment: Deployment, lost: Claim, to: str) -> dict[str, str] | None:
    """The resources that a lost failover has made, by id; None where its site does not answer.

    Raises:
        PreflightFailed: it has made a copy at another site, which may serve.
        SiteUnreachable: its site is the one to recover at.
    """
    try:
        made = rollback.made_at(deployment.site(lost.site, lost.vnf), lost.run)
    except SiteUnreachable as error:
        if lost.site == to:
            raise
        LOG.info("the resources that %s made at %s are not known: %s", lost.run, lost.site, error)
        return None
    if made and lost.site != to:
        raise PreflightFailed(
            f"a failover of {lost.vnf} to {to} instead of {lost.run}",
            [f"{what} at {lost.site} is of {lost.run}; delete it" for what in made.values()],
        )
    return made


def lost_warnings(
    lost: Claim, made: dict[str, str] | None, to: str, datastores: Iterable[str]
) -> list[str]:
    """Warnings about the release of the claim of a lost failover.

    Args:
        made: the resources that it has made; None where that is not known.
        to: the site of the failover in its place.
        datastores: those with data that it may have promoted.
    """
    warnings = [
        f"{lost.run} of host {lost.host} claimed {lost.vnf} for {lost.site} at {lost.since} and "
        "loses its claim: see that its host and its process are dead, or two copies may serve"
    ]
    if made is None:
        warnings.append(
            f"what {lost.run} has made at {lost.site} is not known, as that site does not answer: "
            "see that nothing of it runs there, now or later"
        )
    elif made:
        warnings.append(
            f"made at {lost.site} by {lost.run}, and used where the recovery point is the same: "
            + ", ".join(made.values())
        )
    if lost.site != to and (names := ", ".join(datastores)):
        warnings.append(
            f"{lost.run} may have promoted datastore {names} at {lost.site}: see that it is not"
            " writable there, or two sites have data of their own"
        )
    return warnings


def store_warnings(deployment: Deployment, point: RecoveryPoint, state: ProtectedVnf) -> list[str]:
    """See that the backup store answers and has the newest backup of each volume; why that was not
    looked at.

    Raises:
        PreflightFailed: it does not answer, or lacks one; all that it lacks are named.
    """
    name = deployment.config.store_name(point.site, point.vnf.store)
    if name is None:
        return [
            f"it is not checked that the backups of {point.id} are there, as no backup store of "
            f"{point.site} is configured"
        ]
    if deployment.config.site_of_store(name) == state.active_site:
        return [
            f"it is not checked that backup store {name} has the backups of {point.id}, as it is "
            f"at {state.active_site}, which a failover does not call"
        ]
    problems: list[str] = []
    try:
        store = deployment.store(name)
        for kind in point.kinds:
            problems += [
                f"backup store {name} does not have {what}. Choose another recovery point"
                for what in PROVIDERS.get(kind).missing(point, store)
            ]
    except Stopped:
        raise
    except AntipodeError as error:
        problems = [
            f"backup store {name} cannot be read: {error}. Mend it, or if only this host does not "
            "reach it: --store-unchecked"
        ]
    if problems:
        raise PreflightFailed(f"the recovery of {state.vnf} from {point.id}", problems)
    return []
