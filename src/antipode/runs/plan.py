# SPDX-License-Identifier: Apache-2.0
"""The kinds of runs that carry out a plan: one for each verb. A VNF of the plan is a part, a run of
its own; groups follow one another, with the steps of the plan between them.

What fails is not rolled back: a plan is resumed, and takes up the VNFs that have not succeeded. An
abort rolls back those that have not passed their own points of no return.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from antipode import logs
from antipode.config import Config
from antipode.engine import parts
from antipode.engine.execution import can_be_resumed
from antipode.engine.kind import RunKind
from antipode.engine.run import Run, new_run, successor
from antipode.engine.timeline import Observer, StepRecord
from antipode.errors import AntipodeError, Busy, Interrupted, ResourceFailed, Stopped
from antipode.model import plan_file
from antipode.model.base import Model
from antipode.model.plan_file import KIND_PREFIX, PREFIX, Group, PlanFile
from antipode.model.readiness import Level
from antipode.model.runbook import ALL, Deliberate, RunbookStep
from antipode.model.steps import StepName
from antipode.runs import runbook
from antipode.runs.actions import Occasion, kept_of
from antipode.runs.failover_fence import FenceFirst
from antipode.runs.plan_verbs import (
    Given,
    OfDrill,
    OfFailback,
    OfFailover,
    OfMigrate,
    OfPrecheck,
    PlanVerb,
    Target,
)
from antipode.store.tables import RunRow

LOG = logging.getLogger(__name__)
Json = dict[str, Any]
VNFS = "vnfs"
"""In the result: what has become of each VNF."""
HELD_S = 7 * 86400.0
"""For how long a plan that has failed holds the recovery points of its VNFs."""
ROLLED_BACK_AT_ONCE = 8
"""VNFs of a plan that are rolled back at the same time."""


class PlanSteps(StepName):
    VNF = "", "VNF of the plan"


class PlanRequest(Model):
    """A plan as the operator has confirmed it."""

    plan: PlanFile
    to: str | None = None
    """the site that it was given for, where there is one for all"""
    targets: list[Target]
    """the VNFs with which something is done"""
    done: dict[str, str] = Field(default_factory=dict)
    """those with which nothing is to be done, and why"""
    left_out: dict[str, str] = Field(default_factory=dict)
    """those with which nothing is done, as something stands in the way"""
    source: str = ""
    """where the plan comes from, in words"""
    lost_vaults: list[str] = Field(default_factory=list)
    """vaults that the operator has given up"""
    fence: FenceFirst | None = None
    """whether each failover fences the copy that it leaves first"""
    confirmed_at: float
    """seconds since the epoch"""


@dataclass(frozen=True)
class Outcome:
    """What has become of one VNF."""

    state: str
    """of its run; or done (there was nothing to do), left out (something stood in the way before
    the plan began), or not begun
    """
    run: str | None = None
    reason: str | None = None
    verdict: str | None = None
    """of a precheck"""

    @property
    def is_over(self) -> bool:
        return self.state in ("succeeded", DONE, LEFT_OUT)

    @property
    def has_failed(self) -> bool:
        return not self.is_over and self.state != NOT_BEGUN.state


DONE, LEFT_OUT = "done", "left out"
NOT_BEGUN = Outcome("not begun")


def requested(kind: Plan, request: PlanRequest) -> RunRow:
    """A plan that an operator confirms now; it is not kept yet."""
    return new_run(kind, f"{PREFIX}{request.plan.plan}", request.model_dump(mode="json"))


class Plan(RunKind):
    flow_version = 1
    rolls_back_failures = False
    works_at_active_site = False
    creates = ""

    def __init__(self, verb: PlanVerb) -> None:
        self.verb = verb
        self.name = f"{KIND_PREFIX}{verb.name}"  # type: ignore[misc]
        self.priority = verb.child.priority  # type: ignore[misc]
        made = verb.child.creates
        self.creates = made and f"{made} of VNFs that have not succeeded"  # type: ignore[misc]

    @property
    def command(self) -> str:
        return f"plan {self.verb.name}"

    def asked_for(self, row: RunRow, name: str) -> str:
        to = (row.request or {}).get("to")
        return f"{self.command} {name}" + (f" --to {to}" if to else "")

    @property
    def gives_way(self) -> bool:
        return False  # its parts do

    def confirmation_lasts_s(self, config: Config) -> float | None:
        return self.verb.child.confirmation_lasts_s(config)

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        if self.verb.only_looks:
            return ()
        request = PlanRequest.model_validate(row.request or {})
        found = [*self.verb.approved_as]
        found += [verb for target in request.targets for verb in target.approved_as]
        return list(dict.fromkeys([*found, "fence"] if request.fence else found))

    def words(self, row: RunRow) -> list[str]:
        request = PlanRequest.model_validate(row.request or {})
        plan, verb = request.plan, self.verb.name
        targets = {target.vnf: target for target in request.targets}
        lines = [f"plan {plan.plan}{f', {request.source}' if request.source else ''}"]
        lines += [
            f"vault {vault} has no say in it: its author says that it is lost"
            for vault in request.lost_vaults
        ]
        if request.fence == "try":
            lines.append("a copy that cannot be fenced does not stop the failover of its VNF")
        lines += [f"step {plan_file.words(step)}" for step in plan.steps_of(verb)]
        for group in plan.groups:
            policy = "stops after" if plan.stops_after(group) else "continues past"
            most = plan.most_at_once(group)
            lines.append(f"group {group.name}, {most} at once; {policy} one that fails")
            for vnf in group.vnfs:
                if (target := targets.get(vnf)) is not None:
                    lines.append(f"  VNF {vnf} at {target.site}")
                    lines += [f"    {line}" for line in target.words]
                else:
                    why = request.done.get(vnf) or request.left_out.get(vnf)
                    lines.append(f"  VNF {vnf}: nothing; {why}")
        return lines

    def points_in_use(self, row: RunRow) -> Mapping[str, str]:
        """Those of VNFs that have not succeeded: they may begin hours after the confirmation. They
        are read also of a request that only a newer antipode can carry out. One that has failed and
        is not taken up for long holds none any more.
        """
        if row.state == "failed" and time.time() - (row.ended_at or 0.0) > HELD_S:
            return {}
        states = {one["vnf"]: one["state"] for one in (row.result or {}).get(VNFS, ())}
        return {
            target["vnf"]: target["recovery_point"]
            for target in (row.request or {}).get("targets", ())
            if target.get("recovery_point") and states.get(target["vnf"]) != "succeeded"
        }

    def site_of(self, row: RunRow) -> str:
        return (row.request or {}).get("to") or "the sites of its VNFs"

    def execute(self, run: Run) -> None:
        try:
            _Work(run, self.verb).do()
        except KeyboardInterrupt as error:
            interrupted = Interrupted(
                "interrupted by a signal; what was under way has stopped. Take it up: antipode run"
                f" resume {run.id}; or roll back the rest: antipode run abort {run.id}"
            )
            raise interrupted from error

    def roll_back(self, run: Run) -> list[str]:
        return _Work(run, self.verb).roll_back()

    def point_of_no_return(self, run: Run) -> str | None:
        work = _Work(run, self.verb)
        return f"plan {work.plan.plan} is carried out" if work.is_complete else None


PRECHECK = Plan(OfPrecheck())
DRILL = Plan(OfDrill())
FAILOVER = Plan(OfFailover())
MIGRATE = Plan(OfMigrate())
FAILBACK = Plan(OfFailback())
OF_VERB: Mapping[str, Plan] = {
    kind.verb.name: kind for kind in (PRECHECK, DRILL, FAILOVER, MIGRATE, FAILBACK)
}


class Named:
    """An observer that sees the steps of one VNF, and says which it is."""

    def __init__(self, vnf: str, observer: Observer) -> None:
        self._vnf = vnf
        self._observer = observer

    def step_began(self, step: StepRecord) -> None:
        self._observer.step_began(self._of(step))

    def step_waits(self, step: StepRecord) -> None:
        self._observer.step_waits(self._of(step))

    def step_ended(self, step: StepRecord) -> None:
        self._observer.step_ended(self._of(step))

    def _of(self, step: StepRecord) -> StepRecord:
        return replace(step, resource=f"{self._vnf}: {step.resource}")


class _Work:
    """One plan under way."""

    def __init__(self, run: Run, verb: PlanVerb) -> None:
        self._run = run
        self._verb = verb
        self._request = PlanRequest.model_validate(run.request)
        self._targets = {target.vnf: target for target in self._request.targets}
        self._given = Given(self._request.lost_vaults, self._request.fence)
        self._earlier = self._begun() if run.claim.number > 1 else {}
        verdict = Level.RED.value if verb.only_looks else None
        self._outcomes = {
            **{v: Outcome(DONE, reason=why) for v, why in self._request.done.items()},
            **{
                v: Outcome(LEFT_OUT, reason=why, verdict=verdict)
                for v, why in self._request.left_out.items()
            },
        }

    @property
    def plan(self) -> PlanFile:
        return self._request.plan

    def _begun(self) -> dict[str, RunRow]:
        """The newest run of each VNF that any process of the plan has begun."""
        return {vnf: rows[0] for vnf, rows in self._all_begun().items()}

    def _all_begun(self) -> dict[str, list[RunRow]]:
        """The runs of each VNF that any process of the plan has begun, the newest first."""
        found: dict[str, list[RunRow]] = {}
        for row in reversed(self._run.deployment.runs.parts([self._run.row])):
            found.setdefault(row.vnf, []).append(row)
        return found

    def do(self) -> None:
        """Carry the plan out, or what is left of it.

        Raises:
            ResourceFailed: VNFs have failed; they are named.
            StepFailed: a step has failed.
            Stopped: the run must stop.
        """
        run, steps = self._run, self.plan.steps_of(self._verb.name)
        run.result.update(plan=self.plan.plan, verb=self._verb.name)
        run.touches_clouds()
        try:
            self._do_steps(plan_file.before(steps, ALL))
            for group in self.plan.groups:
                self._do_steps(plan_file.before(steps, group.name))
                self._do_group(group)
                if self._failed(group.vnfs) and self.plan.stops_after(group):
                    raise self._failure(f"after group {group.name} no other begins")
                self._do_steps(plan_file.after(steps, group.name))
            self._do_steps(plan_file.after(steps, ALL))
        finally:
            self._note_outcomes()
        if self._failed(self.plan.vnfs):
            raise self._failure("the others have succeeded")
        if self._verb.adds_up:
            run.result["rto_s"] = round(time.time() - self._request.confirmed_at, 3)

    def _do_steps(self, steps: Iterable[RunbookStep]) -> None:
        where = self._request.to or ""
        occasion = Occasion(self._run, self._verb.name, where, "", self.plan.plan)
        for step in steps:
            runbook.do(occasion, step)
            self._run.timeline.flush()  # one that is done is found there, and not done again

    def _do_group(self, group: Group) -> None:
        """Have the VNFs of a group done, so many at once; those that have begun come to their ends
        also where one fails.
        """
        stop = threading.Event()
        wanted = [self._targets[vnf] for vnf in group.vnfs if vnf in self._targets]

        def one(target: Target) -> None:
            if stop.is_set():
                return
            try:
                outcome = self._done(target)
            except BaseException:
                stop.set()
                raise
            self._outcomes[target.vnf] = outcome
            if not outcome.is_over and self.plan.stops_after(group):
                stop.set()

        most = min(self.plan.most_at_once(group), max(len(wanted), 1))
        with ThreadPoolExecutor(
            most, "vnf", initializer=logs.adopt, initargs=(self._run.id,)
        ) as pool:
            try:
                futures = [pool.submit(one, target) for target in wanted]
                wait(futures)
            except BaseException:
                stop.set()
                self._run.stop(Interrupted, f"run {self._run.id} was interrupted by a signal")
                raise
        for future in futures:
            future.result()

    def _done(self, target: Target) -> Outcome:
        """Have one VNF done, if it is not yet; what has become of it.

        Raises:
            AntipodeError: the whole run must stop.
        """
        run, kind = self._run, self._verb.child
        earlier = self._earlier.get(target.vnf)
        if earlier is not None and earlier.state == "succeeded":
            return _outcome(earlier)
        is_taken_up = earlier is not None and (
            parts.goes_on(earlier) or can_be_resumed(run.deployment, kind, earlier)
        )
        made: RunRow | None = None
        begun = earlier.id if earlier is not None and is_taken_up else None
        try:
            run.go_on()
            if not is_taken_up:
                found = self._verb.made(run.deployment, target, self._given)
                if isinstance(found, str):
                    return Outcome(DONE, reason=found)
                made = self._confirmed(found)
                begun = made.id
            ended = parts.done_after(
                run, PlanSteps.VNF, kind, earlier, _given(made), self._observer(target.vnf)
            )
        except Stopped:
            raise
        except AntipodeError as error:
            if run.stopped_by is not None:
                raise
            LOG.warning("VNF %s of plan %s has failed: %s", target.vnf, self.plan.plan, error)
            return Outcome("failed", begun, str(error))
        return _outcome(ended)

    def _confirmed(self, row: RunRow) -> RunRow:
        """A run of a VNF, which was confirmed with the plan: what it measures counts from there."""
        if "confirmed_at" in (row.request or {}):
            row.request = {**(row.request or {}), "confirmed_at": self._request.confirmed_at}
        return row

    def _observer(self, vnf: str) -> Observer:
        return Named(vnf, self._run.timeline.observer)

    def _failed(self, vnfs: Iterable[str]) -> list[str]:
        found = ((vnf, self._outcomes.get(vnf)) for vnf in vnfs)
        return [vnf for vnf, outcome in found if outcome is None or not outcome.is_over]

    def _failure(self, what: str) -> ResourceFailed:
        failed = {vnf: o for vnf, o in self._outcomes.items() if o.has_failed}
        shown = [f"{vnf} ({o.run or o.reason})" for vnf, o in list(failed.items())[:10]]
        more = f" and {len(failed) - 10} more" if len(failed) > 10 else ""
        return ResourceFailed(
            f"{len(failed)} of {len(self.plan.vnfs)} VNFs of plan {self.plan.plan} have failed:"
            f" {', '.join(shown)}{more}; {what}. Mend the cause, then: antipode run resume"
            f" {self._run.id}"
        )

    def _note_outcomes(self) -> None:
        """Have the result say what has become of each VNF, also of those that a stop has met, and
        of those that an earlier process has done.
        """
        known = {**self._as_begun(), **self._outcomes}
        of_group = [(group.name, vnf) for group in self.plan.groups for vnf in group.vnfs]
        self._run.result[VNFS] = [
            self._record(group, vnf, known.get(vnf, NOT_BEGUN)) for group, vnf in of_group
        ]
        outcomes = [known.get(vnf, NOT_BEGUN) for vnf in self.plan.vnfs]
        self._run.result.update(
            succeeded=sum(outcome.is_over for outcome in outcomes),
            failed=sum(outcome.has_failed for outcome in outcomes),
            not_begun=sum(outcome == NOT_BEGUN for outcome in outcomes),
            left_out=len(self._request.left_out),
        )
        if verdicts := [Level(o.verdict) for o in outcomes if o.verdict]:
            self._run.result["verdict"] = max(verdicts, key=list(Level).index).value

    def _as_begun(self) -> dict[str, Outcome]:
        """What has become of the run of each VNF, as the database has it."""
        try:
            return {vnf: _outcome(row) for vnf, row in self._begun().items()}
        except SQLAlchemyError as error:  # the run ends for a reason that counts more
            LOG.warning("what was begun of plan %s cannot be read now: %s", self.plan.plan, error)
            return {}

    def _record(self, group: str, vnf: str, outcome: Outcome) -> Json:
        record = {"vnf": vnf, "group": group, "state": outcome.state, "run": outcome.run}
        if (target := self._targets.get(vnf)) is not None:
            record["site"] = target.site
        if outcome.verdict is not None:
            record["verdict"] = outcome.verdict
        return {**record, "reason": outcome.reason}

    @property
    def is_complete(self) -> bool:
        """Whether every VNF has succeeded, and every step was done."""
        begun = self._begun()
        of_vnf = (begun.get(vnf) for vnf in self._targets)
        if not all(row is not None and row.state == "succeeded" for row in of_vnf):
            return False
        return all(
            any(
                s.state == "succeeded" or step.on_error == "ignore"
                for s in kept_of(self._run, step)
            )
            for step in self.plan.steps_of(self._verb.name)
        )

    def roll_back(self) -> list[str]:
        """Roll back the VNFs that have not passed their points of no return, the last group first;
        what stays, and why.

        Raises:
            AntipodeError: not all could be rolled back. All that can be are.
        """
        begun, left, problems = self._all_begun(), list[str](), list[str]()
        for group in reversed(self.plan.groups):
            vnfs = [vnf for vnf in group.vnfs if vnf in begun]
            with ThreadPoolExecutor(
                ROLLED_BACK_AT_ONCE, "vnf", initializer=logs.adopt, initargs=(self._run.id,)
            ) as pool:
                backs = [(vnf, pool.submit(self._roll_back_all, begun[vnf])) for vnf in vnfs]
                for vnf, back in backs:
                    try:
                        left += [f"{vnf}: {what}" for what in back.result()]
                    except Stopped:
                        raise
                    except AntipodeError as error:
                        problems.append(f"{vnf}: {error}")
        self._outcomes |= self._as_begun()
        self._note_outcomes()
        if problems:
            raise ResourceFailed("; ".join(problems))
        return left

    def _roll_back_all(self, rows: Sequence[RunRow]) -> list[str]:
        """Roll back the newest run of a VNF, and those before it whose rollback is not complete;
        what stays, and why.
        """
        newest, *others = rows
        left = list(self._roll_back(newest))
        if self._run.deployment.runs.get(newest.id).state == "succeeded":
            return left  # it has used what they had left, or has removed it
        for row in others:
            if row.state == "failed" and row.ending is not None and "left" not in row.result:
                left += self._roll_back(row)
        return left

    def _roll_back(self, row: RunRow) -> Sequence[str]:
        run = self._run
        if (later := successor(run.deployment, row)) is not None and row.state != "succeeded":
            return [f"{later} was begun after {row.id}, and is not rolled back"]
        left = parts.roll_back_part(run, self._verb.child, row)
        ended = run.deployment.runs.get(row.id)
        if ended.state == "succeeded":
            return [f"{row.id} has succeeded, and stays"]
        return left


def _outcome(row: RunRow) -> Outcome:
    result = row.result or {}
    return Outcome(row.state, row.id, row.reason, result.get("verdict"))


def _given(row: RunRow | None) -> Callable[[], RunRow]:
    """A function that gives a run which was made already."""

    def give() -> RunRow:
        if row is None:  # an earlier one was to be taken up, and cannot be any more
            raise Busy("another run of the VNF was begun just now")
        return row

    return give
