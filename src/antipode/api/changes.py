# SPDX-License-Identifier: Apache-2.0
"""The kinds of runs that a client may ask for, and what is asked with each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from antipode.api.conventions import MARKER, Body
from antipode.engine.deployment import Deployment
from antipode.model.base import NAME
from antipode.operations import proposals
from antipode.operations.proposals import Proposal, Wish
from antipode.runs.failover_fence import FenceFirst

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
    newest_heads: bool = Field(
        default=False,
        description="of replicated volumes the newest data that has arrived is taken",
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


class Standing(Body):
    """Bring the standing volumes at a backup site to a recovery point."""

    kind: Literal["standing"]
    site: SiteName | None = None
    recovery_point: Point | None = None


class StandingRemoval(Body):
    """Remove the standing volumes at a site."""

    kind: Literal["standing-removal"]
    site: SiteName | None = None
    confirm: Confirmed = None


class DnsSwitch(Body):
    """Switch the DNS records of the VNF to the site where it is active."""

    kind: Literal["dns-switch"]
    recovery_point: Point | None = None
    lost_vaults: Annotated[
        list[Annotated[str, Field(pattern=NAME)]], Field(max_length=20, default_factory=list)
    ]
    confirm: Confirmed = None


class DeletePoint(Body):
    """Delete a recovery point, with the backups that only it needs."""

    kind: Literal["recovery-point-delete"]
    recovery_point: Point
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
    lost_vaults: Annotated[
        list[Annotated[str, Field(pattern=NAME)]], Field(max_length=20, default_factory=list)
    ]
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
    | Commit
    | Standing
    | StandingRemoval
    | DnsSwitch
    | DeletePoint,
    Field(discriminator="kind"),
]


def wish_of(change: Change) -> Wish:
    """What a client asks for beside the kind and the confirmation."""
    given = {n: getattr(change, n) for n in type(change).model_fields if n not in ASIDE}
    if isinstance(change, Failover):
        given |= dict(change.accept)
    given.setdefault("to", given.pop("site", None))
    return Wish(**given)


def planned(deployment: Deployment, vnf: str, change: Change) -> Proposal:
    """What a change would do. Sites and vaults are read.

    Raises:
        AntipodeError: as the operation of that kind; it cannot be done.
    """
    how = proposals.OF_VNF[change.kind]
    return proposals.propose(deployment, how, vnf, wish_of(change))


def is_confirmed(change: Change, vnf: str) -> bool:
    """Whether a change needs no confirmation, or has it."""
    return not hasattr(change, "confirm") or change.confirm == vnf


ASIDE = ("kind", "confirm", "accept")
"""Fields that are no wish by themselves."""
