# SPDX-License-Identifier: Apache-2.0
"""Removing recovery points: those that have expired by the policy of their protection, and those
that an operator deletes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Observer
from antipode.errors import NotFound
from antipode.runs import expire as run_kind
from antipode.store.tables import RunRow
from antipode.transfer import expiry
from antipode.vault import points

Json = dict[str, Any]


def expire(deployment: Deployment, name: str, observer: Observer, *, again: bool = True) -> Json:
    """Remove the recovery points of a VNF that have expired, and the backups that only they need; a
    record of it. Where there is nothing to do, there is no run.

    Args:
        again: whether what the last expiry has left a short while ago is tried again.

    Raises:
        NotFound: the VNF is not known here.
        Busy: it is failing over, or another expiry of it is under way.
        VaultCorrupt: a recovery point cannot be read, so its needs are unknown.
        AntipodeError: not all could be removed; the next expiry continues.
    """
    context = run_kind.looking(deployment, deployment.vnfs.get(name))
    row = run_kind.due(deployment, context, again=again)
    if row is None:
        nothing = {"expired": [], "backups_removed": 0, "images_removed": 0, "left": []}
        return {"run": None, "vnf": name, **nothing}
    return _execute(deployment, row, observer, run_kind.Expire(context.reading))


def delete(deployment: Deployment, deletion: Deletion, observer: Observer) -> Json:
    """Remove recovery points that an operator has named, and the backups that only they need; a
    record of it. Raises as `expire`.
    """
    return _execute(deployment, deletion_request(deployment, deletion), observer, run_kind.KIND)


def deletion_request(deployment: Deployment, deletion: Deletion) -> RunRow:
    """The run that deletes recovery points; neither kept nor begun. Raises as `expire`."""
    vnf = deployment.vnfs.get(deletion.vnf)
    return run_kind.requested(vnf, activity.read(deployment, vnf), deletion.points)


def _execute(
    deployment: Deployment, row: RunRow, observer: Observer, kind: run_kind.Expire
) -> Json:
    with deployment.claims.begin(row) as claim:
        return execute(deployment, kind, claim, observer)


@dataclass(frozen=True)
class Deletion:
    """Recovery points that are going to be deleted."""

    vnf: str
    points: Sequence[str]
    with_newest: bool
    """whether the newest one that can be recovered from is among them"""
    left: int
    """how many points stay"""
    backups: dict[str, int]
    """the backups that only these points need, and the GiB that each counts"""


def plan_deletion(deployment: Deployment, name: str, wanted: Sequence[str]) -> Deletion:
    """See what the deletion of recovery points removes.

    Raises:
        NotFound: the VNF or a point is not there.
        VaultCorrupt: another point cannot be read, so its needs are unknown.
        VaultError: a vault cannot be read.
    """
    context = run_kind.looking(deployment, deployment.vnfs.get(name), asked=wanted)
    vault = context.vault
    there = points.list_all(vault, name)
    if missing := sorted(set(wanted) - {*there.ids, *there.hidden}):
        raise NotFound(
            f"{name} has no recovery point {missing[0]}; see: antipode recovery-point list {name}",
            resource=f"recovery point {missing[0]}",
        )
    staying = expiry.standing(context, apart_from=wanted)
    newest = points.newest_or_none(context.again, name)
    return Deletion(
        vnf=name,
        points=list(wanted),
        with_newest=newest is not None and newest.id in wanted,
        left=len(staying),
        backups=expiry.needless(context, wanted, staying),
    )


@dataclass(frozen=True)
class Outlook:
    """What an expiry would do now."""

    kept: dict[str, str]
    """point -> why"""
    expired: list[str]
    withdrawn: list[str]
    """points that an earlier expiry has withdrawn and not finished with"""
    backups: dict[str, int]
    """the backups that would be removed, and the GiB that each counts"""


def look(deployment: Deployment, name: str) -> Outlook:
    """What an expiry of a VNF would do now; nothing is changed. Raises as `expire`."""
    vnf = deployment.vnfs.get(name)
    context = run_kind.looking(deployment, vnf)
    found = expiry.judged(context, datetime.now(UTC))
    hidden = expiry.withdrawn(context).certain
    staying = expiry.standing(context, apart_from=found.expired)
    backups = expiry.needless(context, [*found.expired, *hidden], staying)
    return Outlook(dict(found.kept), found.expired, hidden, backups)
