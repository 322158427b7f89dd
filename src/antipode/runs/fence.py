# SPDX-License-Identifier: Apache-2.0
"""The kind of run that fences the old copy of a VNF at a site where the VNF is not active any more.

The active copy cannot be fenced: see `must_be_old`, and `old_copies` for what a server is known by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import Field, ValidationError

from antipode.engine import activity
from antipode.engine.activity import Standing
from antipode.engine.deployment import Deployment
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import Busy, InvalidInput, NotFound
from antipode.model.base import Model
from antipode.model.runbook import Deliberate, RunbookStep
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.steps import Steps
from antipode.recover import application_data, fencing
from antipode.recover.fencing import Fenced, Fencing
from antipode.runs import runbook
from antipode.runs.actions import Occasion
from antipode.runs.failover import FailoverRequest
from antipode.store.tables import RunRow
from antipode.vault import generations, old_copies
from antipode.vault.old_copies import OldCopy

POLL_S = 1.0


class FenceRequest(Model):
    """A fencing as it was confirmed."""

    site: str
    """where the old copy is"""
    state: ProtectedVnf
    """of the VNF when it was confirmed: with another one nothing is fenced"""
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up"""
    by_policy: bool = False
    """whether the service has begun it, as the site has returned"""
    steps: list[RunbookStep] = Field(default_factory=list)
    """of the runbook, those that concern this run"""
    part_of: str | None = None
    """the run that it is a part of"""


def requested(
    state: ProtectedVnf,
    site: str,
    lost_vaults: Sequence[str] = (),
    steps: Sequence[RunbookStep] = (),
    *,
    by_policy: bool = False,
) -> RunRow:
    """A fencing that is not kept yet.

    Args:
        steps: of the runbook, those that concern it: none where no operator has asked for it.
    """
    request = FenceRequest(
        site=site,
        state=state,
        lost_vaults=list(lost_vaults),
        by_policy=by_policy,
        steps=list(steps),
    )
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class Fence(RunKind):
    name = "fence"
    flow_version = 1
    priority = Priority.RECOVERY
    persona = Persona.OPERATOR
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    @property
    def is_recovery(self) -> bool:
        return False  # it is as urgent as one, and displaces nothing

    def asked_for(self, row: RunRow, name: str) -> str:
        return f"{self.command} {name} --site {self.site_of(row)}"

    def site_of(self, row: RunRow) -> str:
        return str((row.request or {})["site"])

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("fence",)

    def words(self, row: RunRow) -> list[str]:
        request = FenceRequest.model_validate(row.request or {})
        return [
            *(
                f"vault {vault} has no say in it: its author says that it is lost"
                for vault in request.lost_vaults
            ),
            f"cuts off, stops and locks the old copy at {request.site}; generation"
            f" {request.state.generation}, active at {request.state.active_site}, is not touched",
            *runbook.in_words(request.steps),
        ]

    def execute(self, run: Run) -> None:
        _fence(run)

    def roll_back(self, run: Run) -> list[str]:
        """Nothing is undone: a copy that was cut off or stopped stays so, as two active copies are
        worse than one that cannot be reached.
        """
        return [
            f"what {run.id} has stopped, locked and cut off of {run.vnf} at"
            f" {self.site_of(run.row)} stays so; its metadata and tags say what it was before"
        ]

    def point_of_no_return(self, run: Run) -> str | None:
        return None


KIND = Fence()


def is_fencing(row: RunRow) -> bool:
    """Whether a run is a fencing."""
    return row.kind == KIND.name


def await_those_by_policy(whole: Run) -> None:
    """Wait until a fence has ended that a service has begun, as it saw the copy before we did: a
    VNF has one at a time. One that is a part of `whole` then finds what is left to do, and an undo
    may start the copy.
    """
    deadline = time.monotonic() + fencing.WITHIN_S
    while any(
        is_fencing(row) and (row.request or {}).get("by_policy")
        for row in whole.deployment.runs.open(whole.vnf)
    ):
        whole.go_on()
        if time.monotonic() > deadline:
            return  # its service may have died; what begins ours says that it is in the way
        time.sleep(POLL_S)


def must_be_old(
    deployment: Deployment,
    vnf: str,
    site: str,
    go_on: Callable[[], None] | None = None,
    lost: Sequence[str] = (),
) -> Standing:
    """The state of a VNF, proven by its vaults, of which any copy at a site is an old one.

    Raises:
        InvalidInput: the VNF is active at that site, or has always been active where it is.
        Busy: it is failing over.
        NotFound: nothing is known of the VNF.
        VaultCorrupt: a claim in a vault cannot be understood.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    standing = activity.decided(deployment, vnf, go_on, lost)
    state = standing.state
    if state.state is VnfState.FAILING_OVER:
        raise Busy(f"{state}. Nothing is fenced before that has ended")
    if site == state.active_site:
        raise InvalidInput(
            f"{state}: the copy at {site} is the active one, and is never fenced",
            resource=f"VNF {vnf}",
        )
    claim = state.claim
    if claim is None or not generations.has_succeeded(standing.vaults, vnf, claim.run):
        raise InvalidInput(
            f"{state} and has never moved: there is no old copy of it", resource=f"VNF {vnf}"
        )
    return standing


def old_copy(deployment: Deployment, standing: Standing, site: str) -> OldCopy:
    """The old copy of a VNF at a site.

    Raises:
        NotFound: neither the vaults nor this host know which servers it has.
        VaultError, SiteUnreachable: the vaults cannot be read.
    """
    state = standing.state
    return old_copies.find(
        standing.vaults, state.vnf, site, state.generation, partial(_replaced_by, deployment)
    )


def _replaced_by(deployment: Deployment, run: str) -> Mapping[str, str]:
    """The servers, by id, that a failover was to replace, where this host has its run."""
    try:
        request = FailoverRequest.model_validate(deployment.runs.get(run).request or {})
    except (NotFound, ValidationError):
        return {}
    replaced = {server.source_id: server.name for server in request.plan.servers}
    return {**replaced, **request.plan.left_behind}


def _fence(run: Run) -> None:
    request = FenceRequest.model_validate(run.request)
    site_name, name = request.site, run.vnf
    run.result.update(
        vnf=name,
        site=site_name,
        active_site=request.state.active_site,
        generation=request.state.generation,
        by_policy=request.by_policy,
    )

    def confirmed() -> Standing:
        """The state of the VNF, which is still as it was confirmed."""
        now = must_be_old(run.deployment, name, site_name, run.go_on, request.lost_vaults)
        if now.state.generation != request.state.generation:
            raise Busy(f"{now.state}, and has moved since this was confirmed. Fence it again")
        return now

    steps = runbook.Around(Occasion(run, "fence", site_name, ""), request.steps)
    steps.before()
    with run.timeline.step(Steps.FIND_OLD_COPY, site_name) as step:
        copy = old_copy(run.deployment, confirmed(), site_name)
        step.result(known=len(copy.servers))
    site = run.site(site_name)
    run.touches_clouds()
    reason = (
        f"antipode: old copy of VNF {name}, fenced by {run.id}: generation"
        f" {request.state.generation} is active at {request.state.active_site}"
    )
    fenced = Fenced()
    try:
        fencing.fence(
            Fencing(run.id, site, copy, reason, run.timeline, confirmed, run.go_on), fenced
        )
    finally:
        run.result.update(fenced.record())
    if known := run.deployment.vnfs.find(name):
        data = list(application_data.writable(known, site_name, site.storages))
        if data:
            run.result["left"] = data
    steps.after()
