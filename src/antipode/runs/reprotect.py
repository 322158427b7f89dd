# SPDX-License-Identifier: Apache-2.0
"""The kind of run that protects a VNF the other way round after it has moved: its old copy is
fenced, a first recovery point is made where it is active, and the old copy is removed if that was
confirmed.

Each of these is a run of its own. Nothing of it is undone: what fails is resumed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from antipode.engine import parts
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.errors import AntipodeError, Busy, PreflightFailed, Stopped
from antipode.model.base import Model
from antipode.model.datastore import Health
from antipode.model.runbook import Deliberate, RunbookStep
from antipode.model.state import ProtectedVnf
from antipode.model.steps import StepName
from antipode.runs import fence, old_copy_removal, preparation, protect, runbook
from antipode.runs.actions import Occasion
from antipode.runs.replicating import Replicating, Still
from antipode.store.tables import RunRow
from antipode.topology import discovery
from antipode.vault import points

if TYPE_CHECKING:
    from antipode.engine.activity import Standing

LOG = logging.getLogger(__name__)
POLL_S = 1.0
NOT_RUNNING_S = 300.0
"""How long a protection of the VNF that is not ours is awaited though no process executes it."""


_NEVER = (Health.BROKEN, Health.WRITABLE)
"""What a copy is that will not follow, however long that is waited for."""


class ReprotectSteps(StepName):
    FENCE = "", "fence the old copy at the former site"
    AWAIT_POINT = "", "see whether the active copy has a recovery point"
    REPLICATE = "", "have the data replicated from the active copy"
    FIRST_POINT = "", "protect the VNF where it is active"
    REMOVE_OLD_COPY = "", "remove the old copy at the former site"
    SEE_THAT_IT_FITS = "", "plan a recovery at the former site"


class ReprotectRequest(Model):
    """A reprotection as the operator confirmed it."""

    site: str
    """the former site, where the old copy is"""
    state: ProtectedVnf
    """of the VNF when it was confirmed: with another one nothing is done"""
    removes: list[str] | None = None
    """the ids of all that the old copy has and the plan has named, which is removed; None where it
    is kept
    """
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up: they have no say in where the VNF is active"""
    steps: list[RunbookStep] = Field(default_factory=list)
    """of the runbook, those that concern this run"""


def requested(
    state: ProtectedVnf,
    site: str,
    removes: Sequence[str] | None = None,
    steps: Sequence[RunbookStep] = (),
    lost_vaults: Sequence[str] = (),
) -> RunRow:
    """A reprotection that an operator confirms now; it is not kept yet.

    Args:
        site: the former site.
        removes: the ids of what is removed of the old copy; None where it is kept.
        steps: of the runbook, those that concern it.
        lost_vaults: those that the operator has given up.
    """
    request = ReprotectRequest(
        site=site,
        state=state,
        removes=None if removes is None else list(removes),
        lost_vaults=list(lost_vaults),
        steps=list(steps),
    )
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class Reprotect(RunKind):
    name = "reprotect"
    transition = "reprotecting"
    flow_version = 1
    priority = Priority.PROTECTION
    persona = Persona.OPERATOR
    rolls_back_failures = False
    works_at_active_site = True
    creates = "snapshots and backups"

    def asked_for(self, row: RunRow, name: str) -> str:
        removes = (row.request or {}).get("removes") is not None
        return f"{self.command} {name}" + (" --old-copy remove" if removes else "")

    def site_of(self, row: RunRow) -> str:
        return ReprotectRequest.model_validate(row.request or {}).state.active_site

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("reprotect", "fence")

    def words(self, row: RunRow) -> list[str]:
        request = ReprotectRequest.model_validate(row.request or {})
        kept = request.removes is None
        return [
            *(
                f"vault {vault} has no say in it: its author says that it is lost"
                for vault in request.lost_vaults
            ),
            f"cuts off, stops and locks the old copy at {request.site}"
            + (", which stays" if kept else ""),
            f"protects it where it is active, at {request.state.active_site}",
            *(f"removes {id_} of the old copy, for good" for id_ in request.removes or ()),
            *runbook.in_words(request.steps),
        ]

    def execute(self, run: Run) -> None:
        _reprotect(run)

    def roll_back(self, run: Run) -> list[str]:
        """Undo a recovery point that is not committed. What was fenced stays so, and what was
        removed does not come back.
        """
        left: list[str] = []
        for step, kind in reversed(list(_PARTS.items())):
            left += parts.roll_back(run, step, kind)
        return left

    def point_of_no_return(self, run: Run) -> str | None:
        for kept in run.timeline.kept():
            if kept.name == ReprotectSteps.SEE_THAT_IT_FITS.words and kept.state == "succeeded":
                return f"{run.vnf} is protected from {self.site_of(run.row)}"
        return None


KIND = Reprotect()


_PARTS: Mapping[StepName, RunKind] = {
    ReprotectSteps.FENCE: fence.KIND,
    ReprotectSteps.FIRST_POINT: protect.KIND,
    ReprotectSteps.REMOVE_OLD_COPY: old_copy_removal.KIND,
}
"""In the order in which they are begun."""


def _reprotect(run: Run) -> None:
    request = ReprotectRequest.model_validate(run.request)
    kept = request.removes is None
    run.result.update(
        vnf=run.vnf,
        active_site=request.state.active_site,
        site=request.site,
        generation=request.state.generation,
        old_copy="kept" if kept else "removed",
    )
    protect.no_run_in_the_way(run.deployment, run.vnf, run.id)
    _confirmed(run, request)
    steps = runbook.Around(Occasion(run, "reprotect", request.state.active_site, ""), request.steps)
    steps.before()
    run.touches_clouds()

    def fence_of_it() -> RunRow:
        state = _confirmed(run, request).state
        return fence.requested(state, request.site, request.lost_vaults)

    def removal() -> RunRow:
        state = _confirmed(run, request).state
        return old_copy_removal.requested(state, request.site, request.removes, request.lost_vaults)

    fence.await_those_by_policy(run)
    parts.done(run, ReprotectSteps.FENCE, fence.KIND, fence_of_it)
    _have_data_replicated(run, request)
    point = _first_point(run, request)
    run.result["recovery_point"] = point
    if not kept:
        removed = parts.done(
            run, ReprotectSteps.REMOVE_OLD_COPY, old_copy_removal.KIND, removal
        ).result
        run.result.update(removed=removed["removed"], left=removed["left"])
    replace(steps, occasion=replace(steps.occasion, recovery_point=point)).after()
    _see_that_it_fits(run, request, point)


def _confirmed(run: Run, request: ReprotectRequest) -> Standing:
    """The state of the VNF, which is still as it was confirmed.

    Raises:
        Busy: it has moved, or is failing over.
        InvalidInput: it is active at the former site.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    lost = request.lost_vaults
    now = fence.must_be_old(run.deployment, run.vnf, request.site, run.go_on, lost)
    if now.state.generation != request.state.generation:
        raise Busy(f"{now.state}, and has moved since {run.id} was confirmed")
    return now


def _have_data_replicated(run: Run, request: ReprotectRequest) -> None:
    """Have the data of the datastores replicated the other way round, and wait until it is. What
    cannot be is said under `not_replicated`; the protection sees whether a point can be made.

    Raises:
        Stopped: the run must stop.
        NotSynchronised: a first synchronisation has not ended in time.
    """
    vnf, active = run.deployment.vnfs.get(run.vnf), request.state.active_site
    if not vnf.datastores:
        return
    if request.removes is not None and old_copy_removal.is_silent(run.deployment, request.state):
        return  # nothing is replicated from there any more
    with run.timeline.step(ReprotectSteps.REPLICATE, active) as step:
        site = run.site(active)
        topology = discovery.discover(discovery.resolve(vnf, site), site)
        done: list[str] = []
        data = Replicating(run.deployment, vnf, active, topology, done.append, (), run.go_on)
        left: dict[str, str] = {}
        for name in vnf.datastores:
            _confirmed(run, request)
            try:
                data.begin_with(name)
            except Stopped:
                raise
            except AntipodeError as error:
                left[name] = f"datastore {name} is not replicated to {request.site}: {error}"
        still = Still()
        limit_s = max(d.synchronises_within for d in vnf.datastores.values())
        while waiting := [
            what
            for what, found in data.waited_for(set(left))
            if found.health not in _NEVER and not still.does_not_begin(what, found.health)
        ]:
            step.waits_for(", ".join(waiting))
            still.must_end(", ".join(waiting), limit_s)
            run.go_on()
            time.sleep(POLL_S)
        step.result(left=list(left.values()))
    if left:
        run.result["not_replicated"] = list(left.values())
        LOG.warning("%s: %s", run.vnf, "; ".join(left.values()))


def _first_point(run: Run, request: ReprotectRequest) -> str:
    """A recovery point of the active copy: one that a schedule has made, or is making, or ours. Our
    own is awaited to its end though its point is there already: it has snapshots to remove.

    Raises:
        Busy: a protection of the VNF is in the way that no process executes; or the VNF has moved.
        AntipodeError: the protection has failed.
    """
    with run.timeline.step(ReprotectSteps.AWAIT_POINT, run.vnf) as step:
        deadline = time.monotonic() + NOT_RUNNING_S
        ours = parts.newest(run, ReprotectSteps.FIRST_POINT)
        is_ours = ours is not None and parts.goes_on(ours)
        while (found := None if is_ours else _newest(run, request)) is None:
            other = _protection_of_others(run)
            if other is None:
                break
            if state_of(other, run.deployment) == "running":
                deadline = time.monotonic() + NOT_RUNNING_S
            elif time.monotonic() > deadline:
                raise Busy(
                    f"{other.id} of {run.vnf} is {state_of(other, run.deployment)}, and no other"
                    f" protection begins beside it. Resume or abort it: antipode run abort"
                    f" {other.id}"
                )
            step.waits_for(other.id)
            run.go_on()
            time.sleep(POLL_S)
        step.result(recovery_point=found)
    if found is not None:
        return found

    def protection() -> RunRow:
        vnf, state = run.deployment.vnfs.get(run.vnf), _confirmed(run, request).state
        return protect.requested(vnf, state)

    made = parts.done(run, ReprotectSteps.FIRST_POINT, protect.KIND, protection)
    return str(made.result["recovery_point"])


def _newest(run: Run, request: ReprotectRequest) -> str | None:
    """The newest valid recovery point of the active copy; None where it has none."""
    standing = _confirmed(run, request)
    newest = points.newest_or_none(standing.vaults, run.vnf)
    is_its = newest is not None and newest.generation == request.state.generation
    return newest.id if newest is not None and is_its else None


def _protection_of_others(run: Run) -> RunRow | None:
    """A protection of the VNF that has not ended and is not a part of this run."""
    other = protect.under_way(run.deployment, run.vnf)
    mine = parts.newest(run, ReprotectSteps.FIRST_POINT)
    if other is None or (mine is not None and mine.id == other):
        return None
    return run.deployment.runs.get(other)


def _see_that_it_fits(run: Run, request: ReprotectRequest, point: str) -> None:
    """See whether the VNF could be recovered at the former site from its new point. What is missing
    there is said, and is no failure: the point is there.

    Raises:
        Stopped: the run must stop.
    """
    missing: list[str] = []
    with run.timeline.step(ReprotectSteps.SEE_THAT_IT_FITS, request.site) as step:
        try:
            preparation.prepare(run.deployment, run.vnf, request.site, point)
        except Stopped:
            raise
        except PreflightFailed as error:
            missing = error.problems
        except AntipodeError as error:
            missing = [str(error)]
        step.result(missing=missing)
    if missing:
        LOG.warning(
            "%s is protected, and could not be recovered at %s yet: %s",
            *(run.vnf, request.site, "; ".join(missing)),
        )
    run.result.update(recoverable=not missing, missing=missing)
