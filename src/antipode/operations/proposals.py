# SPDX-License-Identifier: Apache-2.0
"""A change that an operator looks at now and may confirm later: exactly what was shown begins, or
nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antipode.engine.deployment import Deployment
from antipode.errors import InvalidInput, NotConfirmed
from antipode.model.point import RecoveryPoint
from antipode.operations import (
    approvals,
    commit,
    drill,
    failover,
    fence,
    migrate,
    plans,
    reprotect,
    undo,
)
from antipode.operations.shown import drill as shown_drill
from antipode.operations.shown import failover as shown_failover
from antipode.operations.shown import fence as shown_fence
from antipode.operations.shown import migrate as shown_migrate
from antipode.operations.shown import plan as shown_plan
from antipode.operations.shown import reprotect as shown_reprotect
from antipode.operations.shown import undo as shown_undo
from antipode.operations.submit import submit
from antipode.runs.failover_checks import Accepted
from antipode.runs.failover_fence import FenceFirst
from antipode.runs.runbook import in_words
from antipode.screen import moment, visible
from antipode.store.tables import RunRow

Json = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What an operator asks for beside the verb; what a verb does not know, it ignores."""

    to: str | None = None
    """the site"""
    point: str | None = None
    """id of the recovery point"""
    fence: FenceFirst | None = None
    keep_s: float | None = None
    """for how many seconds a drill stays after its end"""
    old_copy: reprotect.OldCopyIs = "keep"
    undo_within_s: float | None = None
    to_origin: bool = False
    lost_vaults: Sequence[str] = ()
    without_blocked: bool = False
    """of a plan: begin without the VNFs that something stands in the way of"""


@dataclass(frozen=True)
class Proposal:
    """A change that nothing stands in the way of. Nothing was changed."""

    verb: str
    subject: str
    """the VNF, or the plan; it is typed to confirm the change"""
    site: str | None
    lines: Sequence[str]
    """the plan, for people"""
    request: Callable[[], RunRow] = field(repr=False)
    """the run, neither kept nor begun; called when it is confirmed"""
    warnings: Sequence[str] = ()
    point: RecoveryPoint | None = None
    """that a recovery works from"""
    loses_s: float | None = None
    """seconds of data that are lost"""
    approvals_needed: int = 0
    """by others than the operator, before it begins"""

    @property
    def loses_what_is_newer(self) -> bool:
        """Whether what was written after its recovery point is lost."""
        return self.point is not None and self.loses_s is not None


Propose = Callable[[Deployment, str, Wish], Proposal]


def _failover(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    if wish.to is None:
        raise InvalidInput(f"name the site where {vnf} is recovered")
    accepted = Accepted(to_origin=wish.to_origin, lost_vaults=list(wish.lost_vaults))
    prepared = failover.prepare(deployment, vnf, wish.to, wish.point, accepted)
    fences, unfenced = failover.fenced_first(deployment, prepared, wish.fence)
    lines = [
        *shown_failover.fenced_first(prepared, fences, unfenced),
        *shown_failover.lines(prepared),
    ]
    return Proposal(
        "failover",
        vnf,
        wish.to,
        lines,
        lambda: failover.request(prepared, wish.fence, wish.undo_within_s),
        [*unfenced, *prepared.warnings],
        prepared.point,
        prepared.point.age_s,
    )


def _drill(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = drill.prepare(deployment, vnf, wish.to, wish.point)
    return Proposal(
        "drill",
        vnf,
        prepared.plan.site,
        list(shown_drill.lines(prepared, wish.keep_s)),
        lambda: drill.request(prepared, wish.keep_s),
        list(prepared.warnings),
        prepared.point,
    )


def _drill_cleanup(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    site, rows = drill.uncleaned(deployment, vnf, wish.to)
    ids = [row.id for row in rows]
    found = drill.left_by(deployment, vnf, site, ids)
    lines = [f"What drills of {vnf} have left at {site} is removed", *(f"  {w}" for w in found)]
    return Proposal(
        "drill-cleanup", vnf, site, lines, lambda: drill.cleanup_request(vnf, site, ids)
    )


def _fence(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    if wish.to is None:
        raise InvalidInput(f"name the site where the old copy of {vnf} is")
    prepared = fence.prepare(deployment, vnf, wish.to, wish.lost_vaults)
    return Proposal(
        "fence",
        vnf,
        wish.to,
        list(shown_fence.lines(prepared)),
        lambda: fence.request(prepared),
    )


def _reprotect(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = reprotect.prepare(deployment, vnf, wish.old_copy)
    return Proposal(
        "reprotect",
        vnf,
        prepared.site,
        list(shown_reprotect.lines(prepared)),
        lambda: reprotect.request(prepared),
        list(prepared.warnings),
    )


def _moved(verb: str, *, back: bool) -> Propose:
    def propose(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
        prepared = migrate.prepare(deployment, vnf, wish.to, back=back)
        return Proposal(
            verb,
            vnf,
            prepared.to,
            list(shown_migrate.lines(prepared)),
            lambda: migrate.request(prepared),
            list(prepared.warnings),
        )

    return propose


def _undo(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = undo.prepare(deployment, vnf)
    return Proposal(
        "undo",
        vnf,
        prepared.site,
        list(shown_undo.lines(prepared)),
        lambda: undo.request(prepared),
        loses_s=prepared.lost_s,
    )


def _commit(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = commit.prepare(deployment, vnf)
    site = prepared.state.active_site
    until = moment(prepared.until)
    lines = [
        f"The failover of {vnf} to {site} can be undone until {until}. That is given up now",
        "  its old copy may be removed from then on",
        *(f"  {line}" for line in in_words(prepared.steps)),
    ]
    return Proposal("commit", vnf, site, lines, lambda: commit.request(prepared))


def _of_plan(verb: str) -> Propose:
    def propose(deployment: Deployment, plan: str, wish: Wish) -> Proposal:
        source = plans.find(deployment, plan, verb, wish.to, lost=wish.lost_vaults)
        prepared = plans.prepare(deployment, source, verb, wish.to, wish.lost_vaults, wish.fence)
        prepared.must_begin(without=wish.without_blocked)
        warnings = [f"VNF {vnf} is left out: {why}" for vnf, why in prepared.in_the_way.items()]
        return Proposal(
            f"plan-{verb}",
            plan,
            wish.to or source.plan.to,
            list(shown_plan.lines(prepared)),
            lambda: plans.request(prepared),
            warnings,
        )

    return propose


OF_VNF: Mapping[str, Propose] = {
    "failover": _failover,
    "drill": _drill,
    "drill-cleanup": _drill_cleanup,
    "fence": _fence,
    "reprotect": _reprotect,
    "migrate": _moved("migrate", back=False),
    "failback": _moved("failback", back=True),
    "undo": _undo,
    "commit": _commit,
}
"""By verb, how a change of one VNF is prepared."""
OF_PLAN: Mapping[str, Propose] = {
    verb: _of_plan(verb) for verb in ("precheck", "drill", "failover", "migrate", "failback")
}
"""By verb, how a plan over many VNFs is prepared."""


def propose(deployment: Deployment, how: Propose, subject: str, wish: Wish) -> Proposal:
    """Prepare a change. Nothing is changed.

    Args:
        how: one of `OF_VNF` or `OF_PLAN`.
        subject: the VNF or the plan.

    Raises:
        PreflightFailed: something stands in the way; all of it is named.
        AntipodeError: as the operation.
    """
    found = how(deployment, subject, wish)
    needed = approvals.needed(deployment, found.request())
    return Proposal(**{**found.__dict__, "approvals_needed": needed})


def begin(deployment: Deployment, proposal: Proposal, typed: str) -> Json:
    """Begin a change that was confirmed, by a service, or ask for its approval; a record of it.

    Args:
        typed: what the operator has typed to confirm it.

    Raises:
        NotConfirmed: that is not the name of the VNF or plan; nothing was changed.
        Busy: another run of the VNF is under way.
    """
    if typed.strip() != proposal.subject:
        raise NotConfirmed(
            f"{typed.strip() or 'nothing'!r} was typed instead of {proposal.subject!r}; nothing was"
            " changed"
        )
    row = proposal.request()
    row.approvals_needed = max(row.approvals_needed, _approvals_now(deployment, row))
    row.shown = [visible(line) for line in proposal.lines]
    return submit(deployment, row)


def _approvals_now(deployment: Deployment, row: RunRow) -> int:
    """How many approvals the definitions of its VNFs want now; they may want more than when the
    plan was shown.
    """
    of_plan = [target["vnf"] for target in (row.request or {}).get("targets", ())]
    definitions = [deployment.vnfs.find(vnf) for vnf in of_plan or [row.vnf]]
    return approvals.wanted_by(row, definitions)
