# SPDX-License-Identifier: Apache-2.0
"""The kind of run that ends the time in which the newest failover of a VNF can be undone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from antipode.engine import activity
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import Busy
from antipode.model.base import Model
from antipode.model.runbook import Deliberate, RunbookStep
from antipode.model.state import ProtectedVnf, VnfState
from antipode.model.steps import StepName
from antipode.runs import runbook
from antipode.runs.actions import Occasion
from antipode.store.tables import RunRow
from antipode.vault import windows

if TYPE_CHECKING:
    from antipode.engine.activity import Standing


class CommitSteps(StepName):
    COMMIT = "", "give up that the failover can be undone"


class CommitRequest(Model):
    """A commit as the operator confirmed it."""

    state: ProtectedVnf
    """of the VNF when it was confirmed: with another one nothing is committed"""
    confirmed_at: float
    """seconds since the epoch"""
    steps: list[RunbookStep] = Field(default_factory=list)
    """of the runbook, those that concern this run"""


def requested(state: ProtectedVnf, steps: Sequence[RunbookStep] = ()) -> RunRow:
    """A commit that an operator confirms now; it is not kept yet.

    Args:
        steps: of the runbook, those that concern it.
    """
    request = CommitRequest(state=state, confirmed_at=time.time(), steps=list(steps))
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class Commit(RunKind):
    name = "commit"
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.OPERATOR
    rolls_back_failures = True
    works_at_active_site = False
    creates = ""

    def site_of(self, row: RunRow) -> str:
        return CommitRequest.model_validate(row.request or {}).state.active_site

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("commit",)

    def words(self, row: RunRow) -> list[str]:
        request = CommitRequest.model_validate(row.request or {})
        state = request.state
        return [
            f"gives up that the failover to {state.active_site} (generation {state.generation}) can"
            " be undone: the old copy may be removed from then on",
            *runbook.in_words(request.steps),
        ]

    def execute(self, run: Run) -> None:
        _commit(run)

    def roll_back(self, run: Run) -> list[str]:
        """Nothing is undone: the statement in the vaults is never removed."""
        return []

    def point_of_no_return(self, run: Run) -> str | None:
        request = CommitRequest.model_validate(run.request)
        state, vaults = activity.decided(run.deployment, run.vnf)
        is_its = state.generation == request.state.generation and state.state is VnfState.ACTIVE
        if is_its and windows.is_committed(vaults, state):
            return f"the failover of {run.vnf} is committed"
        return None  # where an undo was first it counts, whatever the vaults say by now


KIND = Commit()


def _commit(run: Run) -> None:
    request = CommitRequest.model_validate(run.request)
    run.result.update(
        vnf=run.vnf, active_site=request.state.active_site, generation=request.state.generation
    )
    steps = runbook.Around(Occasion(run, "commit", request.state.active_site, ""), request.steps)
    steps.before()
    with run.timeline.step(CommitSteps.COMMIT, run.vnf):
        standing = _confirmed(run, request)
        if run.claim.number == 1:  # another process of this run may have committed it
            windows.must_be_open(standing.vaults, request.state)
        run.go_on()
        run.touches_clouds()
        windows.commit(standing.vaults, request.state)
        # an undo claims first and looks for this then, so that one of both sees the other
        _confirmed(run, request)
    run.result["committed"] = True
    steps.after()


def _confirmed(run: Run, request: CommitRequest) -> Standing:
    """The state of the VNF, which is still active by the failover that was confirmed.

    Raises:
        Busy: it has moved since, or an undo of it has begun.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    standing = activity.decided(run.deployment, run.vnf, run.go_on)
    state = standing.state
    activity.must_be_active_at(state, request.state.active_site)
    if state.generation != request.state.generation:
        raise Busy(f"{state}: it has moved and come back since this was confirmed")
    return standing
