# SPDX-License-Identifier: Apache-2.0
"""The fence with which a failover begins where the operator asks for it, as the site that is left
still answers in part; and its release where the failover does not come to its end.

It begins once the failover has its claim: from then on that copy is to become the old one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from antipode.cloud.api import Json
from antipode.errors import AntipodeError, Busy, NotFenced, NotFound, SiteUnreachable, Stopped
from antipode.model.marks import made_by
from antipode.model.steps import Steps
from antipode.recover import fencing, release, switching
from antipode.recover.fencing import Fenced, Fencing
from antipode.recover.release import Release
from antipode.vault import generations, old_copies, points

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.deployment import Deployment
    from antipode.engine.run import Run
    from antipode.model.state import Claim, ProtectedVnf
    from antipode.store.tables import StepRow
    from antipode.vault import Vault
    from antipode.vault.old_copies import OldCopy

LOG = logging.getLogger(__name__)
FenceFirst = Literal["required", "try"]
"""Whether a failover stops where not all of the copy that it leaves could be fenced."""
STOPPED_BY_FENCE = "stopped_by_fence"
"""In the result of a failover that ended as its fence failed, and is rolled back at once."""


@dataclass(frozen=True)
class Former:
    """The copy that a failover leaves."""

    run: Run
    vaults: Vault
    claim: Claim
    """of the failover"""
    followed: threading.Event = field(default_factory=threading.Event)
    """set once this process may have asked for a server of the copy that takes its place"""

    @property
    def site(self) -> str:
        return self.claim.former_site

    @property
    def copy(self) -> OldCopy:
        """What proves that a server is of this copy.

        Raises:
            NotFound: the vaults do not say which servers it has.
            VaultError: they cannot be read.
        """
        return old_copies.find(self.vaults, self.run.vnf, self.site, self.claim.generation)

    def may_be_changed(self) -> None:
        """See that the failover still has its claim, so that no other copy is about to be active.

        Raises:
            Busy: it has not.
            VaultError: that is not known.
        """
        generations.confirm(self.vaults, self.claim)

    def is_followed(self) -> None:
        """As `may_be_changed`, before a server of the other copy is asked for."""
        self.followed.set()
        self.may_be_changed()


def members(deployment: Deployment, state: ProtectedVnf) -> list[str]:
    """The servers that a failover would fence before it begins, for people. The active site is
    asked.

    Raises:
        NotFound: the vaults do not say which servers the VNF has there.
        SiteUnreachable: the site does not answer.
        VaultError: the vaults cannot be read.
    """
    local = deployment.vnfs.find(state.vnf)
    vaults = deployment.vaults(local.vaults if local else (), apart_from={state.active_site})
    copy = old_copies.find(vaults, state.vnf, state.active_site, state.generation + 1)
    listed = fencing.members(deployment.site(state.active_site, state.vnf), copy)
    return [f"server {s['name']} ({s['id']}), {s['status']}" for s in listed]


def first(
    deployment: Deployment, state: ProtectedVnf, how: FenceFirst | None
) -> tuple[list[str], list[str]]:
    """The servers that a failover would fence before it begins, for people, and warnings.

    Args:
        how: whether it stops where not all of them can be fenced; None: it fences nothing.

    Raises:
        NotFound: nothing says which servers the VNF has there.
        SiteUnreachable: that site does not answer, and the failover would stop.
    """
    if how is None:
        return [], []
    site = state.active_site
    try:
        return members(deployment, state), []
    except (NotFound, SiteUnreachable) as error:
        if how == "required":
            raise type(error)(
                f"{error}. Nothing can be fenced at {site}: leave --fence out, or accept it with"
                " --fence-try"
            ) from error
        return [], [f"what runs at {site} cannot be fenced now: {error}"]


def fence(former: Former, how: FenceFirst) -> None:
    """Cut the copy off, stop and lock it, unless an earlier process has and it was not released.

    Raises:
        NotFenced: not all of it is fenced, and the operator has not said to continue then.
        Busy, VaultError, Stopped: the failover must not continue.
    """
    run, fenced = former.run, Fenced()
    if (done := _fenced_before(former)) is not None:
        run.result["fence"] = done.result.get("fenced", {})
        return
    reason = f"antipode: {run.vnf} moves to {former.claim.site}, by {run.id}"

    def may_be_changed() -> None:
        run.timeline.flush()  # a rollback knows that the copy may be fenced
        former.may_be_changed()

    try:
        copy, site = former.copy, run.site(former.site)
        fencing.fence(
            Fencing(run.id, site, copy, reason, run.timeline, may_be_changed, run.go_on), fenced
        )
    except (Stopped, Busy):
        raise
    except AntipodeError as error:
        if how == "required":
            run.result[STOPPED_BY_FENCE] = True
            raise NotFenced(
                f"{error}. {run.vnf} does not move to {former.claim.site} while its copy at"
                f" {former.site} may run"
            ) from error
        LOG.warning("%s moves though its copy is not fenced: %s", run.vnf, error)
        fenced.left = fenced.left or [str(error)]
    finally:
        run.result["fence"] = fenced.record()


def release_if_no_copy_is_made(former: Former) -> str | None:
    """Undo the fence of a failover that has failed before any of its servers may exist; words for
    the operator, or None where there was no fence.

    Only a process that has executed the run from its begin knows that it has asked for no server.
    """
    run = former.run
    if not _steps(former):
        return None
    if run.claim.number > 1 or former.followed.is_set():
        return (
            f"The copy at {former.site} stays fenced, as a server may exist at"
            f" {former.claim.site}: antipode run abort {run.id} removes it and undoes the fence."
        )
    try:
        site = run.deployment.site_in(former.claim.site, run.project).under(run.go_on)
        if made := servers_of(site, replaced_by(former.vaults, run.vnf, run.id)):
            return (
                f"The copy at {former.site} stays fenced, as {', '.join(made)} may run at"
                f" {site.name}: antipode run abort {run.id} removes that and undoes the fence."
            )
        undo(former)
    except AntipodeError as error:
        return (
            f"The fence at {former.site} is not undone ({error}); antipode run abort {run.id} tries"
            " again."
        )
    return f"The fence at {former.site} was undone: {run.vnf} runs there as before."


def replaced_by(vaults: Vault, vnf: str, run: str) -> set[str]:
    """The failovers that have tried to move a VNF from where it is active before this one did, and
    have lost their claims. Their servers may run.

    Raises:
        VaultError: the vaults cannot be read.
    """
    found: set[str] = set()
    for claim, outcome in generations.history(vaults, vnf):
        if outcome is not None and outcome.outcome == "active":
            break
        found.add(claim.run)
    return found - {run}


def servers_of(site: Site, runs: Collection[str]) -> list[str]:
    """The servers at a site that runs have made, for people.

    Raises:
        SiteUnreachable: the site does not answer.
    """
    if not runs:
        return []
    servers = site.compute.servers()
    return [
        f"server {s['name']} ({s['id']}) of {made_by(s)}" for s in servers if made_by(s) in runs
    ]


def undo_with(run: Run, vaults: Vault, how: FenceFirst) -> list[str]:
    """Undo the fence of a failover whose own resources are removed; what stays, and why.

    Raises:
        ResourceFailed, SiteUnreachable: not all of it is undone; it can be tried again.
        VaultError: it is not known whether it may be.
    """
    found = generations.claim_of(vaults, run.vnf, run.id)
    former = None if found is None else Former(run, vaults, found[0])
    if former is None or not _steps(former):
        return []
    try:
        return undo(former)
    except Busy as error:
        return [
            f"what {run.id} has fenced at {former.site} stays so, as to start it may make two"
            f" active copies: {error}"
        ]
    except SiteUnreachable as error:
        if how == "required":
            raise
        return [f"what {run.id} may have fenced at {former.site} stays so: {error}"]


def undo(former: Former) -> list[str]:
    """Undo the fence, as `release.release`. Only the loss of its claim stops a run in it: it has
    failed, or is rolled back.
    """
    run = former.run
    go_on = run.claim.check
    try:
        copy = former.copy
    except NotFound:
        return []  # so nothing was fenced
    site = run.deployment.site_in(former.site, run.project).under(go_on)
    return release.release(
        Release(
            vnf=run.vnf,
            run=run.id,
            site=site,
            copy=copy,
            waves=waves_at(former, fencing.members(site, copy)),
            timeline=run.timeline,
            may=former.may_be_changed,
            go_on=go_on,
        )
    )


def waves_at(former: Former, members: Sequence[Json]) -> Sequence[Sequence[str]]:
    """The ids of the members in the waves in which they boot, by the newest recovery point; none
    where there is none.

    Args:
        members: as they are there. Those of a copy that has not been protected yet were recovered
            from a point of another site, and have its names.
    """
    newest = points.newest_or_none(former.vaults, former.run.vnf)
    if newest is None:
        return []
    waves = switching.waves_of(newest)
    if newest.site == former.site:
        return waves
    names = {server.id: server.name for server in newest.topology.servers}
    by_name: dict[str, list[str]] = {}
    for member in members:
        by_name.setdefault(member["name"], []).append(member["id"])
    return [[there for id_ in wave for there in by_name.get(names[id_], ())] for wave in waves]


def _steps(former: Former) -> list[StepRow]:
    """The steps of the run that have fenced the copy, or have undone that."""
    names = (Steps.FENCE.words, Steps.RELEASE_FENCE.words)
    kept = former.run.timeline.kept()
    return [s for s in kept if s.name in names and s.resource == former.site]


def _fenced_before(former: Former) -> StepRow | None:
    """The step in which an earlier process has fenced all of the copy, if nothing was released
    since.
    """
    newest = next(reversed(_steps(former)), None)
    if newest is None or (newest.name, newest.state) != (Steps.FENCE.words, "succeeded"):
        return None
    return newest
