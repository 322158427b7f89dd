# SPDX-License-Identifier: Apache-2.0
"""The kind of run that brings a VNF back at a backup site, from the vault and that site alone:
nothing here may call the failed site.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError
from taskflow import task

from antipode import logs
from antipode.config import Config
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.flow_runner import graph_of, guarded, run_flow
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    ClaimLost,
    Halted,
    Interrupted,
    InvalidInput,
    NotFenced,
    NotFound,
    PreflightFailed,
    RecoveryPointInvalid,
    SiteUnreachable,
    Stopped,
)
from antipode.model import marks
from antipode.model.base import Model
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import Deliberate
from antipode.model.state import Claim, ProtectedVnf
from antipode.model.steps import Steps, Timeline
from antipode.model.vnf import Vnf
from antipode.recover import application_data, heads, networks, ports, probes, rollback, servers
from antipode.recover.existing import Found
from antipode.recover.other_copies import Looks, OtherCopies, looks_in
from antipode.recover.ports import complete_ports
from antipode.recover.recovery import OF_NO_SERVER, Recovery
from antipode.recover.sources import PROVIDERS
from antipode.recover.sources.written import WrittenSteps
from antipode.recover.standing import StandingSteps
from antipode.runs import failover_fence, find_kind, forecast, orphans
from antipode.runs.dns_switch import SwitchRecords
from antipode.runs.failover_fence import STOPPED_BY_FENCE, FenceFirst, Former
from antipode.runs.runbook import Woven
from antipode.store.tables import RunRow, StepRow
from antipode.vault import Vault, generations, points
from antipode.vault.generations import GivenUp
from antipode.vault.sealing import Trust

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
Json = dict[str, Any]

PHASES = {
    Steps.IMPORT_RECORDS.words: "import",
    Steps.RESTORE_VOLUME.words: "restore",
    StandingSteps.TAKE.words: "restore",
    WrittenSteps.WRITE.words: "restore",
    Steps.CREATE_PORTS.words: "ports",
    Steps.BOOT_SERVER.words: "boot",
    Steps.PROBE.words: "answers",
    Steps.SWITCH_DNS.words: "dns",
}
"""The phase of a recovery that a step is part of."""
_ABORT = "antipode run abort"
MOST_THREADS = 128
"""for the tasks of one run; a server has four tasks, two of which may wait for minutes"""


@dataclass(frozen=True)
class Asked:
    """What the operator has asked of a failover beyond its plan."""

    instead_of: str | None = None
    """a failover that is lost with its host and database"""
    made_by_lost: Sequence[str] = ()
    """the ids of what that one had made when this one was planned"""
    lost_vaults: Sequence[str] = ()
    """vaults that the operator has given up"""
    fence: FenceFirst | None = None
    """whether the copy that it leaves is fenced first"""
    undo_within_s: float | None = None
    """for how many seconds after its success it can be undone; None: it cannot"""


class FailoverRequest(Model):
    """A failover as the operator confirmed it: kept with the run, so that every process that
    resumes the run does the same.
    """

    to: str
    recovery_point: str
    point_digest: str = ""
    """of the recovery point that the operator was shown; another one is refused"""
    vnf: Vnf
    plan: RecoveryPlan
    """without the user_data of its servers, which is in the recovery point, and in no database
    longer than the run takes
    """
    confirmed_at: float
    """seconds since the epoch"""
    state: ProtectedVnf
    """of the VNF when the failover was planned: another one is refused"""
    instead_of: str | None = None
    """a failover that is lost with its host and database, as the operator says: it loses its claim
    """
    made_by_lost: list[str] = Field(default_factory=list)
    """the ids of what that one had made when this one was planned, as far as its site answered"""
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up"""
    fence: FenceFirst | None = None
    """whether the copy that it leaves is fenced first"""
    undo_within_s: float | None = None
    """for how many seconds after its success it can be undone; None: it cannot"""
    part_of: str | None = None
    """the run that it is a part of"""

    @classmethod
    def confirmed(
        cls,
        point: RecoveryPoint,
        point_digest: str,
        plan: RecoveryPlan,
        state: ProtectedVnf,
        asked: Asked = Asked(),
    ) -> FailoverRequest:
        """The request for a plan that an operator confirms now."""
        bare = [s.model_copy(update={"user_data": None}) for s in plan.servers]
        return cls(
            to=plan.site,
            recovery_point=point.id,
            point_digest=point_digest,
            vnf=point.vnf,
            plan=plan.model_copy(update={"servers": bare}),
            confirmed_at=time.time(),
            state=state,
            instead_of=asked.instead_of,
            made_by_lost=list(asked.made_by_lost),
            lost_vaults=list(asked.lost_vaults),
            fence=asked.fence,
            undo_within_s=asked.undo_within_s,
        )

    def whole_plan(self, point: RecoveryPoint) -> RecoveryPlan:
        """The plan with the user_data of its servers."""
        dropped = {s.name for s in self.plan.servers if s.drops_user_data}
        user_data = {
            s.name: None if s.name in dropped else s.user_data for s in point.topology.servers
        }
        whole = [s.model_copy(update={"user_data": user_data[s.name]}) for s in self.plan.servers]
        return self.plan.model_copy(update={"servers": whole})


def requested(
    point: RecoveryPoint,
    point_digest: str,
    plan: RecoveryPlan,
    state: ProtectedVnf,
    asked: Asked = Asked(),
) -> RunRow:
    """A failover that an operator confirms now; it is not kept yet.

    Args:
        point: with the VNF's definition that the plan was made for.
        point_digest: of the recovery point as it is in the vault.
        state: of the VNF when the failover was planned.
        asked: what the operator has asked of it beyond its plan.
    """
    request = FailoverRequest.confirmed(point, point_digest, plan, state, asked)
    return new_run(KIND, point.vnf.vnf, request.model_dump(mode="json"))


class Failover(RunKind):
    name = "failover"
    transition = "failing-over"
    flow_version = 2
    priority = Priority.RECOVERY
    persona = Persona.OPERATOR
    rolls_back_failures = False
    works_at_active_site = False
    creates = "servers, volumes, ports and networks"
    volume_step = (Steps.RESTORE_VOLUME, "restored")
    measures_recovery = True

    def confirmation_lasts_s(self, config: Config) -> float | None:
        return config.failover_confirmed_for

    def asked_for(self, row: RunRow, name: str) -> str:
        to = (row.request or {}).get("to")  # a run of antipode 0.1 may not say it
        return f"{self.command} {name}" + (f" --to {to}" if to else "")

    def site_of(self, row: RunRow) -> str:
        return str((row.request or {})["to"])

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        fences = (row.request or {}).get("fence") is not None
        return ("failover", "fence") if fences else ("failover",)

    def words(self, row: RunRow) -> list[str]:
        plan = _plan_of(row)
        return [*_asked_beside_the_plan(row.request or {}), *(plan.words() if plan else ())]

    def execute(self, run: Run) -> None:
        _fail_over(run)

    def rolls_back(self, run: Run) -> bool:
        """One whose fence has failed has created nothing, and is not resumed."""
        return STOPPED_BY_FENCE in run.result

    def roll_back(self, run: Run) -> list[str]:
        """Remove the resources at the backup site, then give the VNF back to its former site. The
        failed site is not called, unless the failover has begun with a fence there: that is undone
        before others may claim the VNF.
        """
        site = run.site(_site_of(run))
        left = rollback.remove(site, run.id, _plan_of(run.row), run.timeline, run.go_on)
        if any(step.name == Steps.CLAIM_GENERATION.words for step in run.timeline.kept()):
            left += _demoted(run, site)
            if (how := run.request.get("fence")) is not None:
                _remove_servers_of_replaced(run, site)
                left += failover_fence.undo_with(run, _standing(run).vaults, how)
            _give_back(run)
        return left

    def point_of_no_return(self, run: Run) -> str | None:
        complete = run.deployment.flows.is_complete(run.id)
        return f"{run.vnf} is recovered" if complete or _is_active(run) else None

    def may_have_orphans(self, row: RunRow) -> bool:
        # a failed recovery is resumed: nothing of it is an orphan
        late = orphans.ended_lately(row) or orphans.may_have_come_late(row)
        wanted = row.state == "aborted" or late
        return row.state != "failed" and wanted and "plan" in (row.request or {})

    def remove_orphans(
        self,
        deployment: Deployment,
        rows: Sequence[RunRow],
        timeline: Timeline,
        alone: Callable[[], None],
    ) -> list[str]:
        site = deployment.site(self.site_of(rows[0]), rows[0]).under(alone)
        left: list[str] = []
        for row in rows:
            plan = _plan_of(row)
            if row.state == "aborted":
                left += rollback.remove(site, row.id, plan, timeline, alone)
            elif plan is not None:
                left += rollback.remove_twins(site, plan, timeline, alone)
        return left


KIND = Failover()


def _site_of(run: Run) -> str:
    """Where a run recovers to; a run of antipode 0.1 may not say it, and the VNF file does.

    Raises:
        InvalidInput: neither says it.
    """
    if "to" in run.request:
        return str(run.request["to"])
    local = run.deployment.vnfs.find(run.vnf)
    if local is None or len(local.backup) != 1:
        raise InvalidInput(
            f"{run.id} does not say where it recovers {run.vnf} to: an older antipode made it."
            " Add the VNF file with that one backup site: antipode vnf add FILE"
        )
    return local.backup[0]


def _plan_of(row: RunRow) -> RecoveryPlan | None:
    """The plan of a run; None where its request has none that this antipode can read."""
    plan = copy.deepcopy((row.request or {}).get("plan"))
    if plan is None:
        return None
    try:
        for volume in (v for server in plan["servers"] for v in server["volumes"]):
            if "backup_id" in volume:  # as antipode 0.1 kept it
                reference = volume.pop("backup_id")
                volume |= {"source_kind": "backup-chain", "source_reference": reference}
        return RecoveryPlan.model_validate(plan)
    except (ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        LOG.warning("the plan of %s cannot be read by this antipode: %s", row.id, error)
        return None


def _asked_beside_the_plan(request: Json) -> Iterator[str]:
    """What its author has asked of a failover beyond its plan, a line each."""
    if how := request.get("fence"):
        otherwise = " if it can, and moves all the same if not" if how == "try" else ""
        yield f"first cuts off, stops and locks the copy that it leaves{otherwise}"
    if lost := request.get("instead_of"):
        yield (
            f"takes the place of {lost}, which its author says is lost with its host: if it is not,"
            " there may be two active copies"
        )
    for vault in request.get("lost_vaults") or ():
        yield f"vault {vault} has no say in it: its author says that it is lost"
    if (within_s := request.get("undo_within_s")) is not None:
        yield f"can be undone for {within_s:g} s"


def _fail_over(run: Run) -> None:
    request = FailoverRequest.model_validate(run.request)
    displace_others(run, KIND, request.part_of)
    site = run.site(request.to)
    vaults = _standing(run).vaults
    has_begun = _has_begun(run, site)
    try:
        point = _confirmed(run, request, vaults)
        forecast.keep(run, point, request.to)
        run.touches_clouds()
        claim = _claim(run, request, vaults, is_first=not has_begun)
    except (NotFound, PreflightFailed) as error:
        if not run.touched:
            raise
        noted = _abort_it if has_begun else _released
        if isinstance(error, PreflightFailed):
            raise noted(error, run) from error.__cause__
        # exit code 2 would say that nothing was changed
        raise noted(RecoveryPointInvalid(str(error)), run) from error
    except Busy as error:
        if has_begun:
            _abort_it(error, run)
        raise
    run.result["generation"] = claim.generation
    # never waited for: work that a signal has left behind ends at its next safe point
    pool = ThreadPoolExecutor(
        run.deployment.config.limits.restores, "volume", initializer=logs.adopt, initargs=(run.id,)
    )
    recovery = Recovery(
        run=run.id,
        point=point,
        plan=request.whole_plan(point),
        site=site,
        found=Found(site),
        slots=run.deployment.limits.restores(site.name, run.party),
        pool=pool,
        timeline=run.timeline,
        stalls_after_s=run.deployment.config.limits.restore_stalls_after.seconds,
        imports_within_s=run.deployment.config.limits.imports_within,
        boots_within_s=run.deployment.config.limits.boots_within,
        go_on=run.go_on,
        mover=run.deployment.mover(site, point.site, point.vnf.store, run.party, urgent=True),
        mover_restores=run.deployment.mover_restores(site.name),
        others=_other_copies(run),
    )
    former = Former(run, vaults, claim)
    try:
        if request.fence is not None:
            failover_fence.fence(former, request.fence)
        if _promotions(run):  # an earlier process has booted members, or was about to
            _promote_data(recovery, run, former.may_be_changed)
        flow = failover_flow(recovery, former)
        results = run_flow(flow, run, workers=threads(recovery.plan))
        run.result["servers"] = {
            s.name: results[f"server_id of {s.name}"] for s in recovery.plan.servers
        }
        if SwitchRecords.RESULT in results:
            run.result["dns"] = results[SwitchRecords.RESULT]
    except (ClaimLost, Halted, Aborted):
        raise
    except NotFenced as error:
        error.add_note("To fail over though it may run, if you are sure that it does not serve:")
        error.add_note(f"antipode failover {run.vnf} --to {request.to} --fence-try")
        raise
    except KeyboardInterrupt as error:
        interrupted = Interrupted(
            "interrupted by a signal; requests that were under way take effect at the site"
        )
        raise _with_next_commands(interrupted, run) from error
    except Busy as error:  # its claim is lost, and never comes back
        raise _abort_it(error, run) from error.__cause__
    except AntipodeError as error:
        if request.fence is not None and (
            words := failover_fence.release_if_no_copy_is_made(former)
        ):
            error.add_note(words)
        raise _with_next_commands(error, run) from error.__cause__
    finally:
        pool.shutdown(wait=False)
        recovery.others.end()
        steps = run.timeline.kept()
        run.result = {
            "servers": _booted(steps),
            **run.result,
            "answered_from": _answered_from(steps),
            "rto_breakdown_s": _breakdown(steps),
        }
    run.result["rto_s"] = round(time.time() - request.confirmed_at, 3)
    run.deployment.states.keep(generations.present(vaults, run.vnf, request.vnf.primary))
    # A request of a process that died, of this run or one before it, may have come through since:
    # Cinder makes a volume twice.
    left = rollback.remove_twins(site, recovery.plan, run.timeline, run.go_on)
    left += _settled(recovery)
    if left:
        run.result["left"] = left


def _settled(recovery: Recovery) -> list[str]:
    """Finish what did not have to be finished before the VNF was active; what is left of it."""
    left: list[str] = []
    for kind in recovery.point.kinds:
        try:
            left += PROVIDERS.get(kind).settle(recovery)
        except Stopped:
            raise
        except AntipodeError as error:
            left.append(str(error))
    return left


def displace_others(run: Run, kind: RunKind, whole: str | None = None) -> None:
    """Ask open runs of the VNF to abort that a recovery displaces.

    Args:
        kind: of the run.
        whole: the run that it is a part of, which stays.
    """
    for row in run.deployment.runs.open(run.vnf):
        other = find_kind(row.kind)
        if other is not None and row.id not in (whole, run.id) and kind.displaces(other):
            # not waited for: it may hang at the failed site, and nothing here depends on it
            run.deployment.runs.request_abort(row.id)


def _has_begun(run: Run, site: Site) -> bool:
    """Whether an earlier process of a run had its claim, and may have created something. The site
    is asked too, as an outage of the database may have kept the step from the timeline.
    """
    if run.claim.number == 1:
        return False
    return any(
        s.name == Steps.CLAIM_GENERATION.words and s.state == "succeeded"
        for s in run.timeline.kept()
    ) or bool(rollback.made_at(site, run.id))


def _confirmed(run: Run, request: FailoverRequest, vaults: Vault) -> RecoveryPoint:
    """The recovery point that the operator has confirmed.

    Raises:
        NotFound: it was withdrawn since.
        VaultCorrupt: it was changed since.
        VaultError, SiteUnreachable: it cannot be read.
    """
    # its digest was confirmed, and that is as good as a signature for a point that has none
    found = points.find(
        vaults, run.vnf, request.recovery_point, Trust.UNSIGNED_TOO, digest=request.point_digest
    )
    found.must_be_open()
    point = found.point.defined_by(request.vnf)
    if request.plan.takes_heads:
        point = heads.of(point)
        run.result["heads_behind_s"] = {h.volume: h.lag_s for h in request.plan.heads}
    run.result["consistency"] = point.consistency
    rpo_s = request.confirmed_at - datetime.fromisoformat(point.consistent_at).timestamp()
    run.result.update(vnf=run.vnf, site=request.to, recovery_point=point.id, rpo_s=round(rpo_s, 3))
    return point


def _claim(run: Run, request: FailoverRequest, vaults: Vault, *, is_first: bool) -> Claim:
    """Claim the generation, and see that what was confirmed still holds.

    Args:
        is_first: whether nothing was created yet: what is there of a lost failover may be the
            run's own afterwards.

    Raises:
        Busy: another failover has it, or the run has lost it.
        NotFound: the recovery point was withdrawn.
        PreflightFailed: the failover that is lost has made more since the plan.
        VaultError, SiteUnreachable: not all of this is known; the claim stays.
    """
    with run.timeline.step(Steps.CLAIM_GENERATION, run.vnf) as step:
        run.timeline.flush()  # a rollback knows that a claim may be on its way
        given_up = GivenUp(given_up_runs(run.deployment, run.vnf), request.instead_of)
        claim = generations.claim(
            vaults,
            request.state,
            request.to,
            run.id,
            given_up,
            undo_within_s=request.undo_within_s,
        )
        generations.confirm(vaults, claim)
        # An expiry withdraws a point first and looks for a claim then, so that one sees the other.
        points.must_stand(vaults, run.vnf, request.recovery_point)
        if is_first:
            _see_that_the_lost_made_no_more(run, request)
        step.result(generation=claim.generation)
    run.timeline.flush()  # what is created from now on is kept with its claim
    return claim


def _see_that_the_lost_made_no_more(run: Run, request: FailoverRequest) -> None:
    """Look again for what a failover has made that was taken for lost, now that it has lost its
    claim: it may have been only slow.

    Raises:
        PreflightFailed: it has made something that the operator was not shown.
        SiteUnreachable: that cannot be seen at the site of this failover.
    """
    lost = request.state.claim
    if request.instead_of is None or lost is None:
        return
    try:
        made = rollback.made_at(run.site(lost.site), lost.run)
    except SiteUnreachable as error:
        if lost.site == request.to:
            raise
        LOG.warning("what %s has made at %s is not known: %s", lost.run, lost.site, error)
        return
    if new := [what for id_, what in made.items() if id_ not in request.made_by_lost]:
        raise PreflightFailed(
            f"a failover of {run.vnf} to {request.to} instead of {lost.run}",
            [
                f"{what} at {lost.site} was made by {lost.run} since the plan, so it was not dead;"
                " stop it, delete what serves, and plan the failover again"
                for what in new
            ],
        )


def _released(error: AntipodeError, run: Run) -> AntipodeError:
    """The error of a run that has created nothing, whose claim is released."""
    try:
        _give_back(run)
    except ClaimLost:
        raise
    except AntipodeError as left:
        error.add_note(f"Its claim is not released ({left}): antipode run abort {run.id}")
    return error


def _standing(run: Run) -> activity.Standing:
    """The state of the VNF as its vaults have it, and those vaults, without the failed site's."""
    to, lost = run.request["to"], run.request.get("lost_vaults", ())
    return activity.before_failover(run.deployment, run.vnf, to, run.go_on, lost)


def _is_active(run: Run) -> bool:
    """Whether the vaults have it that this run has succeeded.

    Raises:
        VaultError: whether it has is unknown.
    """
    if "state" not in run.request:
        return False  # antipode 0.1 began it, and claimed no generation
    return generations.has_succeeded(_standing(run).vaults, run.vnf, run.id)


def _remove_servers_of_replaced(run: Run, site: Site) -> None:
    """Remove the servers of failovers that this one has replaced: they would run beside the copy
    that is started again. What they have booted from stays for the next failover.
    """
    for other in sorted(failover_fence.replaced_by(_standing(run).vaults, run.vnf, run.id)):
        rollback.remove_servers(site, other, run.timeline)


def _demoted(run: Run, site: Site) -> list[str]:
    """Demote the data and the replicas that the run may have promoted, for as long as it has its
    claim; what stays to be done. Its members are gone.
    """
    plan = _plan_of(run.row)
    if plan is None or not (plan.datastores or plan.takes_heads):
        return []
    promoted = [f"datastore {data.name}" for data in plan.datastores]
    promoted += [f"replica {head.image}" for head in plan.heads if plan.takes_heads]
    names = ", ".join(promoted)
    vaults = _standing(run).vaults
    try:
        if (found := generations.claim_of(vaults, run.vnf, run.id)) is None:
            return []  # it was released, which is done last
        claim, outcome = found
        if outcome is not None:
            return [f"{names} at {site.name} stays as it is: {run.vnf} is active there"]
        generations.confirm(vaults, claim)
    except Busy as error:
        return [f"{names} at {site.name} stays as it is: {error}"]

    def may_change() -> None:
        generations.confirm(vaults, claim)

    data = application_data.demote(
        site, plan, run.timeline, run.go_on, _promotions(run), may_change
    )
    steps = ((step.name, step.resource, step.state) for step in run.timeline.kept())
    return [*data, *heads.demote(site, plan, run.timeline, heads.begun(steps), may_change)]


def _promotions(run: Run) -> set[str]:
    """The datastores whose promotion was begun, by any process of the run."""
    steps = ((step.name, step.resource) for step in run.timeline.kept())
    return application_data.begun(steps, application_data.DataSteps.PROMOTE)


def _promote_data(recovery: Recovery, run: Run, must_have_claim: Callable[[], None]) -> None:
    def may_change() -> None:
        run.timeline.flush()  # a rollback knows that the data may become writable
        must_have_claim()

    application_data.promote(recovery, may_change)


def _give_back(run: Run) -> None:
    """Release the claim of a run. If it is not there, its request may still arrive: the same
    generation is claimed and released, so that it comes to nothing.
    """
    request = FailoverRequest.model_validate(run.request)
    vaults = _standing(run).vaults
    with run.timeline.step(Steps.RELEASE_GENERATION, run.vnf):
        try:
            claim = generations.claim(vaults, request.state, request.to, run.id)
        except Busy:
            return  # released already, or another failover has the generation
        generations.release(vaults, claim)


def given_up_runs(deployment: Deployment, vnf: str) -> set[str]:
    """The failovers of a VNF that have ended without success: another one takes their claim with
    the copy that they have begun. Of an undo none can: it may have started the old copy.
    """
    return {
        row.id
        for row in deployment.runs.of_kind(KIND.name, vnf)
        if row.state in ("failed", "aborted")
    }


def _breakdown(steps: list[StepRow]) -> dict[str, float]:
    """How long each phase lasted over all servers, in seconds. Phases of servers overlap.

    By the steps that are kept: a process that died has measured some of them.
    """
    spans: dict[str, tuple[float, float]] = {}
    for step in steps:
        if (phase := PHASES.get(step.name)) is not None:
            began, ended = spans.get(phase, (step.started_at, step.started_at))
            spans[phase] = (
                min(began, step.started_at),
                max(ended, step.ended_at or step.started_at),
            )
    return {
        phase: round(ended - began, 3)
        for phase, (began, ended) in sorted(spans.items(), key=lambda s: s[1])
    }


def _booted(steps: list[StepRow]) -> dict[str, str]:
    """Server name -> its new id."""
    return {
        s.resource: s.result["server_id"]
        for s in steps
        if s.name == Steps.BOOT_SERVER.words and s.state == "succeeded"
    }


def _answered_from(steps: list[StepRow]) -> dict[str, str]:
    """Server name -> which copy of it may have answered its probe, see `probe.Reach`."""
    return {
        s.resource: s.result["reaches"]
        for s in steps
        if s.name == Steps.PROBE.words and "reaches" in s.result
    }


def _other_copies(run: Run) -> OtherCopies:
    """What is known of copies that answer at the addresses of the members."""

    def looks_of(other: str) -> Looks:
        steps = run.timeline.kept() if other == run.id else run.deployment.runs.steps(other)
        return looks_in((step.name, step.resource, step.result) for step in steps)

    return OtherCopies(run.id, run.timeline, looks_of)


def failover_flow(recovery: Recovery, former: Former) -> Any:
    """The recipe, for each server: provide its volumes and create its ports, boot it once its
    predecessors answer, await its answer. When all answer, the VNF is active here, and its DNS
    records are switched.

    Networks that the plan creates are there before the ports, and their DHCP starts when all ports
    have their addresses. Steps of the runbook lie between.
    """
    run, vaults, claim = former.run, former.vaults, former.claim
    names = [server.name for server in recovery.plan.servers]
    still_ours = former.may_be_changed
    boots = {name: Boot(recovery, run, name, former.is_followed) for name in names}
    there = {name: AwaitAnswer(recovery, run, name, still_ours) for name in names}
    made_ports = {name: MakePorts(recovery, run, name, still_ours) for name in names}
    volumes = {name: ProvideVolumes(recovery, run, name, still_ours) for name in names}
    tasks: list[task.Task] = []
    for name in names:
        tasks += volumes[name], made_ports[name], boots[name], there[name]
    links: list[tuple[task.Task, task.Task]] = [
        (there[predecessor], boots[server.name])
        for server in recovery.plan.servers
        for predecessor in server.after
    ]
    links += shared_first(recovery.plan, volumes)
    complete = CompleteGeneration(run, vaults, claim)
    vip_ports = [MakeVipPorts(recovery, run, still_ours)] if recovery.plan.vip_ports else []
    first: list[task.Task] = list(vip_ports)
    free = [ProvideUnattached(recovery, run, still_ours)] if recovery.plan.unattached else []
    tasks += *free, complete, *vip_ports
    links += ((provided, complete) for provided in free)
    links += ((answered, complete) for answered in there.values())
    links += ((made, complete) for made in vip_ports)
    if recovery.plan.creates_networks:
        networks_made = MakeNetworks(recovery, run, still_ours)
        dhcp = StartDhcp(recovery, run, still_ours)
        tasks += networks_made, dhcp
        addressed: list[task.Task] = [*made_ports.values(), *vip_ports]
        for ports_made in addressed:
            links += (networks_made, ports_made), (ports_made, dhcp)
        links += ((dhcp, boot) for boot in boots.values())
        first.append(networks_made)
    if recovery.plan.takes_heads:
        promoted_heads = PromoteHeads(recovery, run, still_ours)
        links += ((promoted_heads, made) for made in (*volumes.values(), *free))
        tasks.append(promoted_heads)
    woven = Woven(run, recovery.plan, still_ours)
    ready: dict[str, list[task.Task]] = {n: [volumes[n], made_ports[n]] for n in names}
    if recovery.plan.datastores:
        # as late as can be: what fails before it has left the replication as it was
        promoted = PromoteData(recovery, run, still_ours)
        links += ((made, promoted) for name in names for made in ready[name])
        links += ((made, promoted) for made in vip_ports)
        links += ((promoted, boot) for boot in boots.values())
        tasks.append(promoted)
        ready = {name: [*made, promoted] for name, made in ready.items()}
    links += woven.links(first, ready, boots, there, complete)
    tasks += woven.tasks
    if recovery.plan.dns:
        switch = SwitchRecords(run, recovery.plan.dns, recovery.point.id, still_ours)
        tasks.append(switch)
        links.append((complete, switch))
    return graph_of(f"failover {recovery.point.vnf.vnf}", tasks, links)


def shared_first(
    plan: RecoveryPlan, volumes: Mapping[str, task.Task]
) -> list[tuple[task.Task, task.Task]]:
    """The links by which a volume of several servers is there, made with the first of them, before
    the others look for theirs.
    """
    return [
        (volumes[first], made)
        for server, made in volumes.items()
        for first in plan.sharing_before(server)
    ]


def threads(plan: RecoveryPlan) -> int:
    """The threads for the tasks of a recovery: a runbook step that waits takes none from others."""
    return min(4 * len(plan.servers), MOST_THREADS) + len(plan.steps)


class ServerTask(task.Task):  # type: ignore[misc]
    """A task about one server of a recovery.

    `takes` are the results of other tasks about the same server that it needs.
    """

    gives = ""
    takes: tuple[str, ...] = ()

    def __init__(
        self, recovery: Recovery, run: Run, server: str, must_have_claim: Callable[[], None]
    ) -> None:
        """`must_have_claim`: raises where another failover was begun in place of this one, in the
        belief that it is dead.
        """
        super().__init__(
            name=f"{type(self).__name__} {server}",
            provides=f"{self.gives} of {server}" if self.gives else None,
            rebind={what: f"{what} of {server}" for what in self.takes},
        )
        self.recovery = recovery
        self.run = run
        self.server = server
        self.must_have_claim = must_have_claim


class ProvideVolumes(ServerTask):
    gives = "volumes"

    @guarded
    def execute(self) -> dict[str, str]:
        r = self.recovery
        if r.plan.sharing_before(self.server):  # there by now, and not in a listing of before
            r = replace(r, found=Found(r.site))
        return _provided(r, self.server)


class MakePorts(ServerTask):
    gives = "ports"

    @guarded
    def execute(self) -> list[str]:
        self.must_have_claim()
        return ports.create_ports(self.recovery, self.server)


class VnfTask(task.Task):  # type: ignore[misc]
    """A task about the whole VNF of a recovery, for as long as the run has its claim."""

    def __init__(self, recovery: Recovery, run: Run, must_have_claim: Callable[[], None]) -> None:
        super().__init__(name=type(self).__name__)
        self.recovery = recovery
        self.run = run
        self.must_have_claim = must_have_claim


class ProvideUnattached(VnfTask):
    """Provides the volumes of no server."""

    default_provides = "volumes of no server"

    @guarded
    def execute(self) -> dict[str, str]:
        self.must_have_claim()
        return _of_kinds(self.recovery, OF_NO_SERVER, self.recovery.plan.unattached)


class MakeNetworks(VnfTask):
    """Makes the networks and security groups that the plan creates."""

    @guarded
    def execute(self) -> None:
        self.must_have_claim()
        networks.create_networks(self.recovery)


class StartDhcp(VnfTask):
    """Has DHCP serve the subnets that were created."""

    @guarded
    def execute(self) -> None:
        self.must_have_claim()
        networks.start_dhcp(self.recovery)


class MakeVipPorts(VnfTask):
    """Makes the ports that belong to no server."""

    @guarded
    def execute(self) -> None:
        self.must_have_claim()
        ports.create_vip_ports(self.recovery)


class PromoteHeads(VnfTask):
    """Has the replicas of all volumes promoted, before any volume is made of one."""

    @guarded
    def execute(self) -> None:
        self.must_have_claim()

        def may_change() -> None:
            self.run.timeline.flush()  # a rollback knows that the replica may become writable
            self.must_have_claim()

        heads.promote(self.recovery, may_change)


class PromoteData(VnfTask):
    """Has all data of the application writable, once all that the members boot from is there."""

    @guarded
    def execute(self) -> None:
        self.must_have_claim()
        _promote_data(self.recovery, self.run, self.must_have_claim)


class Boot(ServerTask):
    gives = "server_id"
    takes = ("volumes", "ports")

    @guarded
    def execute(self, volumes: dict[str, str], ports: list[str]) -> str:
        r = self.recovery
        self.must_have_claim()
        removed = rollback.remove_failed(r, self.server)
        # Nova deletes volumes with a server that are marked so; a process that had the run before
        # may have died just then.
        resumed = self.run.claim.number > 1
        attached = [volumes[v.source_id] for v in r.plan.server(self.server).volumes]
        if removed or (resumed and not _are_there(r.site, attached)):
            volumes, ports = _provided_again(r, self.server)
        probes.look_for_other_copy(r, self.server)
        server_id = self.boot(volumes, ports)
        complete_ports(r, self.server, ports)
        return server_id

    def boot(self, volumes: dict[str, str], ports: list[str]) -> str:
        """Boot the server; its id."""
        return servers.boot(self.recovery, self.server, volumes, ports)


class AwaitAnswer(ServerTask):
    takes = ("server_id",)

    @guarded
    def execute(self, server_id: str) -> None:
        probes.await_answer(self.recovery, self.server, server_id)


class CompleteGeneration(task.Task):  # type: ignore[misc]
    """The VNF is active at the backup site: the point of no return."""

    def __init__(self, run: Run, vaults: Vault, claim: Claim) -> None:
        super().__init__(name=type(self).__name__)
        self.run = run
        self._vaults = vaults
        self._claim = claim

    @guarded
    def execute(self) -> None:
        with self.run.timeline.step(Steps.COMPLETE_GENERATION, self._claim.vnf) as step:
            self.run.go_on()
            generations.confirm(self._vaults, self._claim)
            generations.complete(self._vaults, self._claim)
            step.result(generation=self._claim.generation)


def _provided(r: Recovery, server: str) -> dict[str, str]:
    """The volumes of a server, each from the provider of its source, and its image where it boots
    from one.
    """
    return _of_kinds(r, server, r.plan.server(server).disks)


def _of_kinds(r: Recovery, server: str, planned: Sequence[VolumePlan]) -> dict[str, str]:
    """Volumes, each from the provider of its source.

    Args:
        server: the name of theirs, or `OF_NO_SERVER`.
    """
    volumes: dict[str, str] = {}
    for kind in dict.fromkeys(v.source_kind for v in planned):
        of_kind = [v for v in planned if v.source_kind == kind]
        volumes |= PROVIDERS.get(kind).provide(r, server, of_kind)
    return volumes


def _provided_again(r: Recovery, server: str) -> tuple[dict[str, str], list[str]]:
    """The volumes and ports of a server that was deleted: those that exist, and new ones."""
    now = replace(r, found=Found(r.site))
    return _provided(now, server), ports.create_ports(now, server)


def _are_there(site: Site, ids: Iterable[str]) -> bool:
    """Whether all these volumes exist and none of them is being deleted."""
    return all(
        (volume := site.volumes.volume(i)) is not None and volume["status"] != "deleting"
        for i in ids
    )


def _abort_it(error: AntipodeError, run: Run) -> AntipodeError:
    """The error of a run that can never be resumed with success, with a note on what it left."""
    error.add_note(f"{_left_behind(run)}\nTo remove what the run created: {_ABORT} {run.id}")
    return error


def _left_behind(run: Run) -> str:
    booted = ", ".join(_booted(run.timeline.kept())) or "none"
    return (
        f"Nothing was removed at {run.request['to']}; servers booted so far: {booted}."
        f" Every created resource carries the metadata {marks.RUN}={run.id}."
    )


def _with_next_commands(error: AntipodeError, run: Run) -> AntipodeError:
    """The error with a note on what is left behind and the commands that continue."""
    vnf, site, point = run.vnf, run.request["to"], run.request["recovery_point"]
    error.add_note(
        f"{_left_behind(run)}\n"
        f"To resume from the last finished step, once the cause is mended:"
        f" antipode run resume {run.id}\n"
        f"To plan again, with the resources that exist:"
        f" antipode failover {vnf} --to {site} --recovery-point {point}\n"
        f"To remove what the run created: {_ABORT} {run.id}"
    )
    return error
