# SPDX-License-Identifier: Apache-2.0
"""The kinds of runs that a client may ask for: what is asked with each, and what would be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from antipode.api.conventions import MARKER, Body
from antipode.engine.deployment import Deployment
from antipode.model.base import NAME
from antipode.operations import (
    commit,
    drill,
    failover,
    fence,
    migrate,
    precheck,
    protect,
    recovery_points,
    reprotect,
    undo,
)
from antipode.operations.shown import drill as drill_words
from antipode.operations.shown import failover as failover_words
from antipode.operations.shown import fence as fence_words
from antipode.operations.shown import migrate as migrate_words
from antipode.operations.shown import reprotect as reprotect_words
from antipode.operations.shown import undo as undo_words
from antipode.runs.failover_checks import Accepted
from antipode.runs.failover_fence import FenceFirst
from antipode.runs.runbook import in_words
from antipode.store.tables import RunRow

Json = dict[str, Any]
SiteName = Annotated[str, Field(pattern=NAME)]
OptionName = Annotated[str, Field(pattern=NAME)]
Point = Annotated[str, Field(pattern=MARKER)]
Confirmed = Annotated[
    str | None, Field(max_length=64, description="the name of the VNF: states that it is meant")
]
WEEK_S = 7 * 86400.0


class Protect(Body):
    """Make a recovery point."""

    kind: Literal["protect"]
    option: OptionName | None = None
    full: bool = False


class Precheck(Body):
    """Look whether the VNF could be recovered."""

    kind: Literal["precheck"]
    to: SiteName | None = None


class Verify(Body):
    """Prove the content of a recovery point."""

    kind: Literal["verify"]
    recovery_point: Point | None = None
    site: SiteName | None = None


class Drill(Body):
    """Rehearse a recovery on isolated networks."""

    kind: Literal["drill"]
    to: SiteName | None = None
    recovery_point: Point | None = None
    keep_s: Annotated[float, Field(gt=0, le=WEEK_S)] | None = None
    confirm: Confirmed = None


class DrillCleanup(Body):
    """Remove what drills have left."""

    kind: Literal["drill-cleanup"]
    site: SiteName | None = None
    confirm: Confirmed = None


class Losses(Body):
    """What the caller says in so many words, beyond the confirmation."""

    instead_of: Point | None = Field(
        default=None, description="this failover is lost, with its host"
    )
    to_origin: bool = Field(default=False, description="the point may be of the very site")
    store_unchecked: bool = Field(
        default=False, description="it is not checked that backups are there"
    )
    lost_vaults: Annotated[
        list[Annotated[str, Field(pattern=NAME)]], Field(max_length=20, default_factory=list)
    ]


class Failover(Body):
    """Recover the VNF at another site. Confirming it states that the VNF is dead or fenced where it
    was.
    """

    kind: Literal["failover"]
    to: SiteName
    recovery_point: Point | None = None
    fence: FenceFirst | None = None
    undo_within_s: Annotated[float, Field(ge=60, le=WEEK_S)] | None = None
    accept: Annotated[Losses, Field(default_factory=Losses)]
    confirm: Confirmed = None


class Migrate(Body):
    """Move the VNF without loss, while both sites answer."""

    kind: Literal["migrate", "failback"]
    to: SiteName | None = None
    option: OptionName | None = None
    confirm: Confirmed = None


class Fence(Body):
    """Cut off, stop and lock the old copy at a site."""

    kind: Literal["fence"]
    site: SiteName
    lost_vaults: Annotated[
        list[Annotated[str, Field(pattern=NAME)]], Field(max_length=20, default_factory=list)
    ]
    confirm: Confirmed = None


class Reprotect(Body):
    """Protect the VNF the other way round after it has moved."""

    kind: Literal["reprotect"]
    old_copy: Literal["keep", "remove"] = "keep"
    confirm: Confirmed = None


class Undo(Body):
    """Go back to the copy that the newest failover has left."""

    kind: Literal["undo"]
    confirm: Confirmed = None


class Commit(Body):
    """Give up that the newest failover can be undone."""

    kind: Literal["commit"]
    confirm: Confirmed = None


Change = Annotated[
    Protect
    | Precheck
    | Verify
    | Drill
    | DrillCleanup
    | Failover
    | Migrate
    | Fence
    | Reprotect
    | Undo
    | Commit,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class Planned:
    """A run that may begin once it is confirmed. Nothing was changed."""

    request: Callable[[], RunRow]
    """the run, neither kept nor begun"""
    lines: Sequence[str] = ()
    """for people"""
    details: Json = field(default_factory=dict)


def planned(deployment: Deployment, vnf: str, change: Change) -> Planned:
    """What a change would do. Sites and vaults are read.

    Raises:
        AntipodeError: as the operation of that kind; it cannot be done.
    """
    return _PLANS[type(change)](deployment, vnf, change)


def is_confirmed(change: Change, vnf: str) -> bool:
    """Whether a change needs no confirmation, or has it."""
    return not hasattr(change, "confirm") or change.confirm == vnf


def _protect(deployment: Deployment, vnf: str, change: Protect) -> Planned:
    return Planned(
        lambda: protect.request(deployment, vnf, option=change.option, full=change.full),
        [f"a recovery point of VNF {vnf} is made"],
    )


def _precheck(deployment: Deployment, vnf: str, change: Precheck) -> Planned:
    return Planned(
        lambda: precheck.request(deployment, vnf, change.to),
        [f"it is looked whether VNF {vnf} could be recovered; nothing is created"],
    )


def _verify(deployment: Deployment, vnf: str, change: Verify) -> Planned:
    return Planned(
        lambda: recovery_points.deep_request(deployment, vnf, change.recovery_point, change.site),
        [f"each volume of a recovery point of VNF {vnf} is restored, compared and removed"],
    )


def _drill(deployment: Deployment, vnf: str, change: Drill) -> Planned:
    found = drill.prepare(deployment, vnf, change.to, change.recovery_point)
    return Planned(
        lambda: drill.request(found, change.keep_s),
        list(drill_words.lines(found, change.keep_s)),
        drill_words.record(found),
    )


def _drill_cleanup(deployment: Deployment, vnf: str, change: DrillCleanup) -> Planned:
    site, rows = drill.uncleaned(deployment, vnf, change.site)
    ids = [row.id for row in rows]
    left = drill.left_by(deployment, vnf, site, ids)
    return Planned(
        lambda: drill.cleanup_request(vnf, site, ids),
        [f"what drills of VNF {vnf} have left at {site} is removed", *(f"  {one}" for one in left)],
        {"site": site, "drills": ids, "removed": left},
    )


def _failover(deployment: Deployment, vnf: str, change: Failover) -> Planned:
    accept = change.accept
    found = failover.prepare(
        deployment,
        vnf,
        change.to,
        change.recovery_point,
        Accepted(
            accept.instead_of,
            accept.to_origin,
            accept.store_unchecked,
            lost_vaults=accept.lost_vaults,
        ),
    )
    fences, unfenced = failover.fenced_first(deployment, found, change.fence)
    record = failover_words.record(found)
    return Planned(
        lambda: failover.request(found, change.fence, change.undo_within_s),
        [*failover_words.fenced_first(found, fences, unfenced), *failover_words.lines(found)],
        {**record, "warnings": [*unfenced, *found.warnings], "fences": fences},
    )


def _migrate(deployment: Deployment, vnf: str, change: Migrate) -> Planned:
    back = change.kind == "failback"
    found = migrate.prepare(deployment, vnf, change.to, change.option, back=back)
    return Planned(
        lambda: migrate.request(found),
        list(migrate_words.lines(found)),
        migrate_words.record(found),
    )


def _fence(deployment: Deployment, vnf: str, change: Fence) -> Planned:
    found = fence.prepare(deployment, vnf, change.site, change.lost_vaults)
    return Planned(lambda: fence.request(found), list(fence_words.lines(found)), found.record())


def _reprotect(deployment: Deployment, vnf: str, change: Reprotect) -> Planned:
    found = reprotect.prepare(deployment, vnf, change.old_copy)
    return Planned(
        lambda: reprotect.request(found),
        list(reprotect_words.lines(found)),
        reprotect_words.record(found),
    )


def _undo(deployment: Deployment, vnf: str, change: Undo) -> Planned:
    found = undo.prepare(deployment, vnf)
    return Planned(
        lambda: undo.request(found), list(undo_words.lines(found)), undo_words.record(found)
    )


def _commit(deployment: Deployment, vnf: str, change: Commit) -> Planned:
    found = commit.prepare(deployment, vnf)
    return Planned(
        lambda: commit.request(found),
        [
            f"the failover of VNF {vnf} to {found.state.active_site} cannot be undone any more",
            *(f"  {line}" for line in in_words(found.steps)),
        ],
    )


_PLANS: dict[type[Body], Callable[[Deployment, str, Any], Planned]] = {
    Protect: _protect,
    Precheck: _precheck,
    Verify: _verify,
    Drill: _drill,
    DrillCleanup: _drill_cleanup,
    Failover: _failover,
    Migrate: _migrate,
    Fence: _fence,
    Reprotect: _reprotect,
    Undo: _undo,
    Commit: _commit,
}
