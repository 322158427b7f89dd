# SPDX-License-Identifier: Apache-2.0
"""The two-person rule: a run that was asked for begins when others than its author have approved
it, and not before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from antipode import identity
from antipode.engine.approval import plan_of
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.kind import RunKind
from antipode.engine.run import AWAITING_APPROVAL, subject_of
from antipode.engine.timeline import Observer
from antipode.errors import (
    Aborted,
    ApprovalExpired,
    Busy,
    ClaimLost,
    InvalidInput,
    Rejected,
    ResourceFailed,
)
from antipode.model.runbook import Deliberate
from antipode.model.vnf import Vnf
from antipode.runs import kind_of
from antipode.service.queue import announce
from antipode.store import database
from antipode.store.runs import AWAITING, NEVER_BEGUN, OPEN, Room
from antipode.store.tables import ApprovalRow, RunRow
from antipode.vault import Vault, points

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
LOOK_S = 0.5
"""Between two looks whether a run was approved, or has ended in another process."""
REJECTED, EXPIRED = NEVER_BEGUN


def wanted(row: RunRow, definitions: Iterable[Vnf | None]) -> RunRow:
    """A new run, with the approvals that the definitions of its VNFs want; see `needed`."""
    row.approvals_needed = wanted_by(row, definitions)
    return row


def wanted_by(row: RunRow, definitions: Iterable[Vnf | None]) -> int:
    """How many approvals the definitions of the VNFs of a new run want."""
    return max((d.approvals.get(v, 0) for d in definitions if d for v in _verbs(row)), default=0)


def needed(deployment: Deployment, row: RunRow) -> int:
    """How many others than its author must approve a new run: as the definitions of its VNFs or the
    configuration of this host want, whichever want more.
    """
    here = deployment.config.approvals
    return max([row.approvals_needed, *(here.get(verb, 0) for verb in _verbs(row))])


def is_deliberate(row: RunRow) -> bool:
    """Whether a run is of a verb for which approvals can be wanted."""
    return bool(_verbs(row))


def _verbs(row: RunRow) -> Sequence[Deliberate]:
    return kind_of(row.kind).approved_as(row)


def definition_of(deployment: Deployment, vaults: Vault, vnf: str) -> Vnf | None:
    """The definition of a VNF: of this host, else of its newest recovery point, where it has one.

    Raises:
        VaultError: the vaults cannot be read.
    """
    if (local := deployment.vnfs.find(vnf)) is not None:
        return local
    newest = points.newest_or_none(vaults, vnf)
    return None if newest is None else newest.vnf


def ask(deployment: Deployment, row: RunRow, room: Room | None = None) -> Json:
    """Keep a new run that awaits approval; a record of it. It is in the way of no other run."""
    row.approvals_needed = needed(deployment, row)
    row.approve_before = database.now(deployment.database) + deployment.config.approve_within
    run = row.id
    deployment.approvals.ask(row, room)
    return record(deployment, deployment.runs.get(run))


def carried_out(deployment: Deployment, kind: RunKind, row: RunRow, observer: Observer) -> Json:
    """Begin a new run, once it is approved where that is needed; a record of it.

    Raises:
        Rejected, ApprovalExpired: it was not approved, and nothing was changed.
        Busy: another run of the VNF is under way.
        AntipodeError: as `execute`.
    """
    if not needed(deployment, row):
        with deployment.claims.begin(row) as claim:
            return execute(deployment, kind, claim, observer)
    asked = ask(deployment, row)
    run = asked["run"]
    LOG.warning(
        "run %s awaits the approval of %d other than %s, until %s: antipode run approve %s",
        run,
        asked["needed"],
        asked["author"],
        time.strftime("%H:%M:%S", time.localtime(asked["approve_before"])),
        run,
    )
    _await_approval(deployment, run)
    return _executed(deployment, kind, run, observer)


def approve(deployment: Deployment, run: str, plan: str) -> Json:
    """Approve a run in the name of the person of this process; a record of it.

    Args:
        plan: `plan_of` the run as the person has seen it.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it awaits no approval, has changed since it was seen, or is the person's own.
        Busy: another run of the VNF is under way; the approval does not count.
    """
    row, me = _awaiting(deployment, run), identity.current()
    if plan_of(row) != plan:
        raise InvalidInput(f"run {run} has changed since you have seen it; look at it again")
    if identity.person(me) == identity.person(row.author or ""):
        raise InvalidInput(
            f"run {run} was asked for by {row.author}, and you are {me}: somebody else approves it"
        )
    given = ApprovalRow(run=run, person=identity.person(me), identity=me, plan=plan, at=time.time())
    if deployment.approvals.approve(given):
        announce(deployment, run)
    return record(deployment, deployment.runs.get(run))


def reject(deployment: Deployment, run: str, reason: str | None = None) -> Json:
    """End a run that awaits approval, also one's own; a record of it.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it awaits no approval.
    """
    _awaiting(deployment, run)
    if not withdrawn(deployment, run, reason):
        _awaiting(deployment, run)  # says what has become of it
    return record(deployment, deployment.runs.get(run))


def withdrawn(deployment: Deployment, run: str, reason: str | None = None) -> bool:
    """Have a run that awaits approval end; False where it awaits none any more: it may have been
    approved at this moment.
    """
    words = f"{identity.current()} has rejected it" + (f": {reason}" if reason else "")
    return deployment.approvals.reject(run, words)


def record(deployment: Deployment, row: RunRow) -> Json:
    """A run and its approvals; moments are seconds since the epoch."""
    return {
        "run": row.id,
        "vnf": row.vnf,
        "state": AWAITING_APPROVAL if row.state == AWAITING else row.state,
        "reason": row.reason,
        "author": row.author,
        "needed": row.approvals_needed,
        "approved_by": [a.identity for a in deployment.approvals.of(row.id)],
        "approve_before": row.approve_before,
    }


def shown(deployment: Deployment, run: str) -> tuple[str, list[str]]:
    """What a run that awaits approval is going to do: `plan_of` it, and in words, a line each.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it awaits no approval.
    """
    row = _awaiting(deployment, run)
    kind, by = kind_of(row.kind), deployment.approvals.of(run)
    head = f"{row.kind} of {subject_of(row)} at {kind.site_of(row)}, asked for by {row.author}"
    approved = f"approved by {', '.join(a.identity for a in by)}; " if by else ""
    return plan_of(row), [
        head,
        f"  {approved}{row.approvals_needed - len(by)} more needed",
        *(f"  {line}" for line in kind.words(row)),
        *(["  its author was shown:"] if row.shown else ()),
        *(f"    {line}" for line in row.shown or () if line.strip()),
    ]


def _awaiting(deployment: Deployment, run: str) -> RunRow:
    """A run that awaits approval; those whose time is over are ended first.

    Raises:
        NotFound: there is no such run.
        InvalidInput: it awaits none.
    """
    deployment.approvals.expire()
    row = deployment.runs.get(run)
    if row.state != AWAITING:
        why = f": {row.reason}" if row.reason else ""
        raise InvalidInput(f"run {run} awaits no approval; it is {row.state}{why}")
    return row


def _await_approval(deployment: Deployment, run: str) -> None:
    while (row := deployment.runs.get(run)).state == AWAITING:
        deployment.approvals.expire()
        time.sleep(LOOK_S)
    if row.state == REJECTED:
        raise Rejected(f"run {run} of {row.vnf} was not begun: {row.reason}")
    if row.state == EXPIRED:
        raise ApprovalExpired(f"run {run} of {row.vnf} was not begun: {row.reason}. Plan it again")


def _executed(deployment: Deployment, kind: RunKind, run: str, observer: Observer) -> Json:
    """Execute a run that was approved, or await its end where a service has taken it."""
    while (row := deployment.runs.get(run)).state in OPEN:
        try:
            claim = deployment.claims.take(run)
        except (Busy, ClaimLost):
            time.sleep(LOOK_S)
            continue
        with claim:
            return execute(deployment, kind, claim, observer)
    if row.state == "aborted":
        raise Aborted(f"run {run} was aborted: {row.reason}")
    if row.state != "succeeded":
        raise ResourceFailed(f"run {run}, executed by a service, {row.state}: {row.reason}")
    return {"run": run, **row.result}
