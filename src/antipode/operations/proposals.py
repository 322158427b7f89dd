# SPDX-License-Identifier: Apache-2.0
"""Every change that an operator can ask for, prepared: it is looked at now and may be confirmed
later. Exactly what was shown begins, or nothing does.
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
    dns,
    drill,
    expiry,
    failover,
    fence,
    migrate,
    plans,
    precheck,
    protect,
    recovery_points,
    reprotect,
    standing,
    undo,
)
from antipode.operations.shown import dns as shown_dns
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
from antipode.store.runs import Room
from antipode.store.tables import RunRow

Json = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What an operator asks for beside the verb; what a verb does not know, it ignores."""

    to: str | None = None
    """the site"""
    recovery_point: str | None = None
    """its id"""
    option: str | None = None
    """the protection"""
    full: bool = False
    fence: FenceFirst | None = None
    keep_s: float | None = None
    """for how many seconds a drill stays after its end"""
    old_copy: reprotect.OldCopyIs = "keep"
    undo_within_s: float | None = None
    newest_heads: bool = False
    instead_of: str | None = None
    to_origin: bool = False
    store_unchecked: bool = False
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
    details: Json = field(default_factory=dict)
    """the plan, for programs"""

    @property
    def loses_what_is_newer(self) -> bool:
        """Whether what was written after its recovery point is lost."""
        return self.point is not None and self.loses_s is not None


Propose = Callable[[Deployment, str, Wish], Proposal]


def _plain(verb: str, words: str, request: Callable[..., RunRow]) -> Propose:
    """A change that has no more of a plan than a line.

    Args:
        request: as the operation's; its arguments are those of `Propose`.
    """

    def propose(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
        def made() -> RunRow:
            return request(deployment, vnf, wish)

        return Proposal(verb, vnf, wish.to, [words.format(vnf=vnf)], made)

    return propose


def _protected(deployment: Deployment, vnf: str, wish: Wish) -> RunRow:
    return protect.request(deployment, vnf, option=wish.option, full=wish.full)


def _verified(deployment: Deployment, vnf: str, wish: Wish) -> RunRow:
    return recovery_points.deep_request(deployment, vnf, wish.recovery_point, wish.to)


def _failover(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    if wish.to is None:
        raise InvalidInput(f"name the site where {vnf} is recovered")
    accepted = Accepted(
        wish.instead_of,
        wish.to_origin,
        wish.store_unchecked,
        lost_vaults=list(wish.lost_vaults),
        newest_heads=wish.newest_heads,
    )
    prepared = failover.prepare(deployment, vnf, wish.to, wish.recovery_point, accepted)
    fences, unfenced = failover.fenced_first(deployment, prepared, wish.fence)
    warnings = [*unfenced, *prepared.warnings]
    return Proposal(
        "failover",
        vnf,
        wish.to,
        [
            *shown_failover.fenced_first(prepared, fences, unfenced),
            *shown_failover.lines(prepared),
        ],
        lambda: failover.request(prepared, wish.fence, wish.undo_within_s),
        warnings,
        prepared.point,
        prepared.point.age_s,
        details={**shown_failover.record(prepared), "warnings": warnings, "fences": fences},
    )


def _drill(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = drill.prepare(deployment, vnf, wish.to, wish.recovery_point)
    return Proposal(
        "drill",
        vnf,
        prepared.plan.site,
        list(shown_drill.lines(prepared, wish.keep_s)),
        lambda: drill.request(prepared, wish.keep_s),
        list(prepared.warnings),
        prepared.point,
        details=shown_drill.record(prepared),
    )


def _drill_cleanup(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    site, rows = drill.uncleaned(deployment, vnf, wish.to)
    ids = [row.id for row in rows]
    found = drill.left_by(deployment, vnf, site, ids)
    return Proposal(
        "drill-cleanup",
        vnf,
        site,
        [f"What drills of {vnf} have left at {site} is removed", *(f"  {w}" for w in found)],
        lambda: drill.cleanup_request(vnf, site, ids),
        details={"site": site, "drills": ids, "removed": found},
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
        details=prepared.record(),
    )


def _reprotect(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = reprotect.prepare(deployment, vnf, wish.old_copy, wish.lost_vaults)
    return Proposal(
        "reprotect",
        vnf,
        prepared.site,
        list(shown_reprotect.lines(prepared)),
        lambda: reprotect.request(prepared),
        list(prepared.warnings),
        details=shown_reprotect.record(prepared),
    )


def _moved(verb: str, *, back: bool) -> Propose:
    def propose(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
        prepared = migrate.prepare(deployment, vnf, wish.to, wish.option, back=back)
        return Proposal(
            verb,
            vnf,
            prepared.to,
            list(shown_migrate.lines(prepared)),
            lambda: migrate.request(prepared),
            list(prepared.warnings),
            details=shown_migrate.record(prepared),
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
        details=shown_undo.record(prepared),
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


def _dns(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    prepared = dns.prepare(deployment, vnf, wish.recovery_point, wish.lost_vaults)
    return Proposal(
        "dns-switch",
        vnf,
        prepared.state.active_site,
        list(shown_dns.lines(prepared)),
        lambda: dns.request(prepared),
        [*prepared.problems, *prepared.warnings],
        details=shown_dns.record(prepared),
    )


def _standing(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    asked = dict(standing.request(deployment, vnf, wish.to, wish.recovery_point).request or {})
    site, point = asked["site"], asked["recovery_point"]
    return Proposal(
        "standing",
        vnf,
        site,
        [f"The standing volumes of {vnf} at {site} are brought to recovery point {point}"],
        lambda: standing.request(deployment, vnf, site, point),
        details=asked,
    )


def _standing_removal(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    asked = dict(standing.removal_request(deployment, vnf, wish.to).request or {})
    site = asked["site"]
    there = standing.volumes(deployment, vnf, site)
    return Proposal(
        "standing-removal",
        vnf,
        site,
        [
            f"The standing volumes of {vnf} at {site} are removed: {len(there)}",
            *(f"  {one['volume']}, which stands for {one['stands_for']}" for one in there),
        ],
        lambda: standing.removal_request(deployment, vnf, site),
        details={**asked, "volumes": [one["volume"] for one in there]},
    )


def of_plan(deployment: Deployment, plan: str, verb: str, wish: Wish) -> plans.Prepared:
    """A plan over many VNFs, with all that stands in the way.

    Raises:
        AntipodeError: as `plans.find` and `plans.prepare`.
    """
    source = plans.find(deployment, plan, verb, wish.to, lost=wish.lost_vaults)
    return plans.prepare(deployment, source, verb, wish.to, wish.lost_vaults, wish.fence)


def _of_plan(verb: str) -> Propose:
    def propose(deployment: Deployment, plan: str, wish: Wish) -> Proposal:
        prepared = of_plan(deployment, plan, verb, wish)
        prepared.must_begin(without=wish.without_blocked)
        warnings = [f"VNF {vnf} is left out: {why}" for vnf, why in prepared.in_the_way.items()]
        return Proposal(
            f"plan-{verb}",
            plan,
            wish.to or prepared.plan.to,
            list(shown_plan.lines(prepared)),
            lambda: plans.request(prepared),
            warnings,
        )

    return propose


def _deletion(deployment: Deployment, vnf: str, wish: Wish) -> Proposal:
    if wish.recovery_point is None:
        raise InvalidInput("name the recovery point that is deleted")
    planned = expiry.plan_deletion(deployment, vnf, [wish.recovery_point])
    lines = [
        f"Recovery point {wish.recovery_point} of {vnf} is deleted, for good",
        f"  {len(planned.backups)} backups that only it needs go with it",
        f"  {planned.left} recovery points stay",
    ]
    newest = "it is the newest that the VNF can be recovered from"
    return Proposal(
        "recovery-point-delete",
        vnf,
        None,
        lines,
        lambda: expiry.deletion_request(deployment, planned),
        [newest] if planned.with_newest else [],
        details={"left": planned.left, "backups": sorted(planned.backups)},
    )


OF_VNF: Mapping[str, Propose] = {
    "protect": _plain("protect", "A recovery point of {vnf} is made", _protected),
    "precheck": _plain(
        "precheck",
        "It is looked whether {vnf} could be recovered; nothing is created",
        lambda deployment, vnf, wish: precheck.request(deployment, vnf, wish.to),
    ),
    "verify": _plain(
        "verify",
        "Each volume of a recovery point of {vnf} is restored, compared and removed",
        _verified,
    ),
    "standing": _standing,
    "standing-removal": _standing_removal,
    "failover": _failover,
    "drill": _drill,
    "drill-cleanup": _drill_cleanup,
    "fence": _fence,
    "reprotect": _reprotect,
    "migrate": _moved("migrate", back=False),
    "failback": _moved("failback", back=True),
    "undo": _undo,
    "commit": _commit,
    "dns-switch": _dns,
    "recovery-point-delete": _deletion,
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


def begin(deployment: Deployment, proposal: Proposal, typed: str, room: Room | None = None) -> Json:
    """Begin a change that was confirmed, by a service, or ask for its approval; a record of it.

    Args:
        typed: what the operator has typed to confirm it.
        room: how many runs the project of the VNF may have.

    Raises:
        NotConfirmed: that is not the name of the VNF or plan; nothing was changed.
        Busy: another run of the VNF is under way.
        QuotaExceeded: the project has as many runs as it may.
    """
    if typed.strip() != proposal.subject:
        raise NotConfirmed(
            f"{typed.strip() or 'nothing'!r} was typed instead of {proposal.subject!r}; nothing was"
            " changed"
        )
    row = proposal.request()
    row.approvals_needed = max(row.approvals_needed, _approvals_now(deployment, row))
    row.shown = [visible(line) for line in proposal.lines]
    return submit(deployment, row, room)


def _approvals_now(deployment: Deployment, row: RunRow) -> int:
    """How many approvals the definitions of its VNFs want now; they may want more than when the
    plan was shown.
    """
    of_plan = [target["vnf"] for target in (row.request or {}).get("targets", ())]
    definitions = [deployment.vnfs.find(vnf) for vnf in of_plan or [row.vnf]]
    return approvals.wanted_by(row, definitions)
