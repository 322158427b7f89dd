# SPDX-License-Identifier: Apache-2.0
"""The kind of run that moves a VNF to another site while both sites answer, without loss: it makes
a recovery point while the VNF runs, switches the members off, makes a last point, recovers the VNF
from it, and fences the old copy.

Each of these but the switching is a run of its own. What fails before the other site is the active
one is rolled back, and the members are switched on again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from antipode.cloud.api import Json
from antipode.config import Config
from antipode.datastores.application import Application, Data, application_at
from antipode.datastores.arrival import Arrival
from antipode.engine import activity, parts
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import AntipodeError, Busy, PreflightFailed, ResourceFailed
from antipode.model.base import Model
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import ALL, Deliberate, PlannedStep, RunbookStep, Verb
from antipode.model.state import ProtectedVnf
from antipode.model.steps import StepName
from antipode.model.vnf import ARRIVES_WITHIN_S, Vnf
from antipode.recover import application_data, fencing, switching
from antipode.recover.switching import Switching
from antipode.runs import failover, fence, old_copy_removal, preparation, protect, runbook
from antipode.runs.actions import Occasion
from antipode.store.tables import RunRow
from antipode.vault import Vault, generations, points

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.engine.deployment import Deployment

WAS_ON = "was_on"
"""In the result of the step that sees which members are on: their ids and names."""
WAVES = "waves"
"""In the same: the ids of all members, in the waves in which they boot."""
MAY_BE_OFF = "may_be_off"
"""In the result of a failed migration that was not rolled back: the members that it may have
left off.
"""


class MigrateSteps(StepName):
    FIRST_POINT = "", "protect the VNF while it runs"
    SEE_THAT_IT_WILL_FIT = "", "plan the recovery as if the old copy were gone"
    REMOVE_OLD_COPY = "", "remove the old copy at the other site"
    SEE_THAT_IT_FITS = "", "plan the recovery at the other site"
    SEE_WHAT_IS_ON = "", "see which members are on"
    SWITCH_OFF = "", "switch the members off"
    LAST_POINT = "", "protect the VNF with its members off"
    RECOVER = "", "recover at the other site"
    FENCE = "", "fence the old copy"
    SWITCH_ON = "", "switch the members on again"


class MigrateRequest(Model):
    """A migration as the operator confirmed it."""

    site: str
    """the active site"""
    to: str
    option: str | None = None
    """which of the VNF's protections makes the points; the first by default"""
    state: ProtectedVnf
    """of the VNF when it was confirmed"""
    confirmed_at: float
    """seconds since the epoch"""
    removes: list[str] | None = None
    """the ids of what the old copy at the other site has, with its names and addresses, which is
    removed first; None where it stays
    """
    steps: list[RunbookStep] = Field(default_factory=list)
    """the runbook as it was when it was confirmed, as far as it concerns this migration"""
    returns: bool = False
    """whether the VNF goes to where it came from, which a failback does, too"""
    definition: str | None = None
    """the SHA-256 of the definition of the VNF when it was confirmed: with another one it is not
    moved. None: it was asked for by an older antipode
    """
    part_of: str | None = None
    """the run that it is a part of"""

    @property
    def verb(self) -> Verb:
        """As the steps of a runbook name it."""
        return verb_of(back=self.removes is not None)


def approved_as(*, returns: bool) -> Sequence[Deliberate]:
    """The verbs whose approvals a migration needs.

    Args:
        returns: whether the VNF goes to where it came from, which a failback does, too.
    """
    return ("migrate", "failback") if returns else ("migrate",)


def verb_of(*, back: bool) -> Verb:
    """The verb of a migration, for the steps of a runbook.

    Args:
        back: whether the VNF goes back to where it came from.
    """
    return "failback" if back else "migrate"


@dataclass(frozen=True)
class Asked:
    """What was asked of a migration beside where the VNF goes."""

    option: str | None = None
    removes: Sequence[str] | None = None
    """the ids of what is removed first of the old copy; None where it stays"""
    steps: Sequence[RunbookStep] = ()
    """of the runbook, those that concern this migration"""
    returns: bool = False
    """whether the VNF goes to where it came from"""
    definition: str | None = None
    """the SHA-256 of the definition of the VNF"""


def requested(state: ProtectedVnf, to: str, asked: Asked = Asked()) -> RunRow:
    """A migration that an operator confirms now; it is not kept yet."""
    request = MigrateRequest(
        site=state.active_site,
        to=to,
        option=asked.option,
        state=state,
        confirmed_at=time.time(),
        removes=None if asked.removes is None else list(asked.removes),
        steps=list(asked.steps),
        returns=asked.returns,
        definition=asked.definition,
    )
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class Migrate(RunKind):
    name = "migrate"
    transition = "migrating"
    flow_version = 1
    priority = Priority.RECOVERY
    persona = Persona.OPERATOR
    also_asked_as = ("failback",)
    rolls_back_failures = True
    works_at_active_site = True
    creates = "servers, volumes, ports and networks at the other site"

    def confirmation_lasts_s(self, config: Config) -> float | None:
        return config.failover_confirmed_for

    def asked_for(self, row: RunRow, name: str) -> str:
        request = MigrateRequest.model_validate(row.request or {})
        option = f" --option {request.option}" if request.option else ""
        return f"{request.verb} {name} --to {request.to}{option}"

    def site_of(self, row: RunRow) -> str:
        return MigrateRequest.model_validate(row.request or {}).to

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return approved_as(returns=MigrateRequest.model_validate(row.request or {}).returns)

    def words(self, row: RunRow) -> list[str]:
        request = MigrateRequest.model_validate(row.request or {})
        removes = [
            f"removes {id_} of its old copy at {request.to}" for id_ in request.removes or ()
        ]
        steps = [f"runbook step {step.name}: {step}" for step in request.steps]
        return [f"moves it from {request.site}, where its members are off then", *removes, *steps]

    def execute(self, run: Run) -> None:
        _migrate(run)

    def roll_back(self, run: Run) -> list[str]:
        _note_off(run, _members(run))
        left: list[str] = []
        for step, kind in reversed(list(_PARTS.items())):
            left += parts.roll_back(run, step, kind)
        left += _data_taken_back(run)
        left += _switch_on(run)
        run.result.pop(MAY_BE_OFF, None)
        return left

    def point_of_no_return(self, run: Run) -> str | None:
        recovery = parts.newest(run, MigrateSteps.RECOVER)
        if recovery is None:
            return None
        # it stays true when the VNF has moved on since
        vaults = activity.decided(run.deployment, run.vnf).vaults
        if not generations.has_succeeded(vaults, run.vnf, recovery.id):
            return None
        run.result.pop(MAY_BE_OFF, None)
        return f"{run.vnf} was recovered at {self.site_of(run.row)}"


KIND = Migrate()


def must_be_rolled_back(deployment: Deployment, vnf: str) -> None:
    """See that no migration of a VNF has left members off: another one would take them for members
    that were off before, and would not boot them at the other site.

    Raises:
        Busy: one has.
    """
    for row in deployment.runs.of_kind(KIND.name, vnf):
        off = (row.result or {}).get(MAY_BE_OFF)
        if row.state == "failed" and off:
            raise Busy(
                f"{row.id} was not rolled back, and {', '.join(off)} may be off. Roll back first:"
                f" antipode run abort {row.id}"
            )


_PARTS: Mapping[StepName, RunKind] = {
    MigrateSteps.FIRST_POINT: protect.KIND,
    MigrateSteps.REMOVE_OLD_COPY: old_copy_removal.KIND,
    MigrateSteps.LAST_POINT: protect.KIND,
    MigrateSteps.RECOVER: failover.KIND,
}
"""The parts that a rollback removes, in the order in which they were begun."""


def _migrate(run: Run) -> None:
    request = MigrateRequest.model_validate(run.request)
    run.result.update(vnf=run.vnf, site=request.site, to=request.to)
    if parts.newest(run, MigrateSteps.RECOVER) is None:
        _capture(run, request)
    last, members = parts.newest(run, MigrateSteps.LAST_POINT), _members(run)
    assert last is not None and members is not None
    _note_off(run, members)
    run.result["recovery_point"] = _point(last)

    def recovery() -> RunRow:
        _definition(run, request)
        _must_have_all(run, request, _point(last))
        _hand_data_over(run, request, _point(last))
        p = preparation.prepare(run.deployment, run.vnf, request.to, _point(last))
        within = [step for step in request.steps if step.before != ALL]
        plan = runbook.with_steps(p.plan, p.point, request.verb, within)
        return failover.requested(p.point, p.point_digest, plan, p.state)

    def fence_of_it() -> RunRow:
        standing = fence.must_be_old(run.deployment, run.vnf, request.site, run.go_on)
        return fence.requested(standing.state, request.site)

    recovered = parts.done(run, MigrateSteps.RECOVER, failover.KIND, recovery)
    run.cannot_be_aborted()
    run.result.pop(MAY_BE_OFF, None)
    run.result["servers"] = (recovered.result or {}).get("servers", {})
    if (dns := (recovered.result or {}).get("dns")) is not None:
        run.result["dns"] = dns
    run.result["downtime_s"] = round((recovered.ended_at or time.time()) - members.at, 3)
    fence.await_those_by_policy(run)
    parts.done(run, MigrateSteps.FENCE, fence.KIND, fence_of_it)


def _capture(run: Run, request: MigrateRequest) -> None:
    """Make the recovery point that has all that the members have ever written; they are off then.

    Raises:
        Busy: another run of the VNF is in the way, or it has moved.
        PreflightFailed: the other site lacks something; no member was switched off.
        AntipodeError: a protection has failed, or a member is not off.
    """
    protect.no_run_in_the_way(run.deployment, run.vnf, run.id)
    _must_be_active(run, request)
    vnf = _definition(run, request)
    first_steps = [PlannedStep(step=step) for step in request.steps if step.before == ALL]
    runbook.do_all(Occasion(run, request.verb, request.to, ""), first_steps)
    run.touches_clouds()

    def protection(switched_off: Sequence[str] = ()) -> RunRow:
        state = _must_be_active(run, request)
        return protect.requested(vnf, state, option=request.option, switched_off=switched_off)

    def removal() -> RunRow:
        standing = fence.must_be_old(run.deployment, run.vnf, request.to, run.go_on)
        return old_copy_removal.requested(standing.state, request.to, request.removes)

    first = _point(parts.done(run, MigrateSteps.FIRST_POINT, protect.KIND, protection))
    if request.removes is not None:
        if parts.newest(run, MigrateSteps.REMOVE_OLD_COPY) is None:
            with run.timeline.step(MigrateSteps.SEE_THAT_IT_WILL_FIT, request.to):
                standing = fence.must_be_old(run.deployment, run.vnf, request.to, run.go_on)
                # as it is by now: what is not removed any more would stay in the way
                there = run.site(request.to)
                found = old_copy_removal.holdings(run.deployment, standing, there)
                preparation.fitting(run.deployment, vnf, request.to, first, found.ids)
        parts.done(run, MigrateSteps.REMOVE_OLD_COPY, old_copy_removal.KIND, removal)
    with run.timeline.step(MigrateSteps.SEE_THAT_IT_FITS, request.to):
        preparation.fitting(run.deployment, vnf, request.to, first)
        made = points.find(_vaults(run), run.vnf, first).point
    members = _switch_off(run, request, made)
    parts.done(
        run, MigrateSteps.LAST_POINT, protect.KIND, lambda: protection(list(members.were_on))
    )


def _definition(run: Run, request: MigrateRequest) -> Vnf:
    """The definition of the VNF, as it was confirmed.

    Raises:
        Busy: it was changed since.
    """
    vnf = run.deployment.vnfs.get(run.vnf)
    if request.definition not in (None, vnf.digest):
        raise Busy(
            f"the definition of {run.vnf} was changed since {run.id} was confirmed: plan it again,"
            " to see what is done"
        )
    return vnf


def _must_have_all(run: Run, request: MigrateRequest, last: str) -> None:
    """See that the last point has all that the members have written, before a recovery begins.

    Raises:
        Busy: the VNF has moved, or is failing over by another run than an earlier recovery of this
            one.
        ResourceFailed: a member runs.
    """
    state, vaults = activity.decided(run.deployment, run.vnf, run.go_on)
    earlier = parts.newest(run, MigrateSteps.RECOVER)
    if earlier is None or state.claim is None or state.claim.run != earlier.id:
        _must_be_active(run, request)
    made = points.find(vaults, run.vnf, last).point
    # as it has them: a selector may have found one that was not there before
    _must_be_off(run.site(request.site), {server.id for server in made.topology.servers})


def _hand_data_over(run: Run, request: MigrateRequest, last: str) -> None:
    """Demote the data of the application where the VNF was, and wait until all of it has arrived:
    its members are off.

    Raises:
        AntipodeError: it could not be demoted, or has not arrived in time.
    """
    point = points.find(_vaults(run), run.vnf, last).point
    datastores = run.deployment.vnfs.get(run.vnf).datastores

    def await_position(here: Application, there: Application, data: Data, position: str) -> None:
        known = datastores.get(data.datastore)
        limit_s = known.arrives_within if known else ARRIVES_WITHIN_S
        Arrival(here, there, data, position, limit_s, time.monotonic() + limit_s).awaited()

    heirs = [there for _, there in _data_at(run, point, request.to)]
    former = _data_at(run, point, request.site)
    application_data.hand_over(former, heirs, run.timeline, run.timeline.flush, await_position)


def _data_taken_back(run: Run) -> list[str]:
    """Promote the data again that the run may have demoted, unless the VNF has moved; what could
    not be.
    """
    last = parts.newest(run, MigrateSteps.LAST_POINT)
    if last is None or last.state != "succeeded":
        return []
    request = MigrateRequest.model_validate(run.request)
    try:
        _must_be_active(run, request)
    except Busy as error:
        return [f"the data of {run.vnf} at {request.site} stays as it is: {error}"]
    point = points.find(_vaults(run), run.vnf, _point(last)).point
    recovered = parts.newest(run, MigrateSteps.RECOVER) is not None
    heirs = [there for _, there in _data_at(run, point, request.to)] if recovered else []
    steps = ((step.name, step.resource) for step in run.timeline.kept())
    return application_data.take_back(
        _data_at(run, point, request.site),
        heirs,
        run.timeline,
        application_data.begun(steps, application_data.DataSteps.DEMOTE),
    )


def _data_at(run: Run, point: RecoveryPoint, site: str) -> list[tuple[Data, Application]]:
    """The data of a point at a site."""
    storages = run.deployment.storages_at(site)
    return [
        (Data(run.vnf, name, run.go_on), application_at(storages, site, kept.storage))
        for name, kept in point.datastores.items()
    ]


def _vaults(run: Run) -> Vault:
    return activity.decided(run.deployment, run.vnf, run.go_on).vaults


def _point(row: RunRow) -> str:
    """The recovery point that a protection has made."""
    return str((row.result or {})["recovery_point"])


def _must_be_active(run: Run, request: MigrateRequest) -> ProtectedVnf:
    """The state of the VNF, which is still as it was when the migration was confirmed.

    Raises:
        Busy: it is active elsewhere, is failing over, or has moved and come back.
        VaultError, SiteUnreachable: too few vaults answer to be sure.
    """
    state = activity.decided(run.deployment, run.vnf, run.go_on).state
    activity.must_be_active_at(state, request.site)
    if state.generation != request.state.generation:
        raise Busy(f"{state}: it has moved and come back since {run.id} was confirmed")
    return state


# ---- the members ----


class Members(NamedTuple):
    """The members of a VNF before they were switched off."""

    were_on: dict[str, str]
    """id -> name"""
    waves: list[list[str]]
    """the ids of all, in the waves in which they boot"""
    at: float
    """seconds since the epoch"""


def _members(run: Run) -> Members | None:
    """The members that the run may have switched off; None where it has switched off none."""
    for kept in run.timeline.kept():
        if kept.name == MigrateSteps.SEE_WHAT_IS_ON.words and kept.state == "succeeded":
            return Members(kept.result[WAS_ON], kept.result[WAVES], kept.started_at)
    return None


def _note_off(run: Run, members: Members | None) -> None:
    """Have a run that fails from here on name the members that it may leave off."""
    if members is not None and members.were_on:
        run.result[MAY_BE_OFF] = sorted(members.were_on.values())


def _switch_off(run: Run, request: MigrateRequest, point: RecoveryPoint) -> Members:
    """Switch the members off against their boot order; what they were before.

    Raises:
        PreflightFailed: the members cannot all be switched; none was.
        ResourceFailed: one does not go off, or was switched on since.
    """
    site = run.site(request.site)
    if (members := _members(run)) is None:
        waves = switching.waves_of(point)
        wanted = {id_ for wave in waves for id_ in wave}
        with run.timeline.step(MigrateSteps.SEE_WHAT_IS_ON, site.name) as step:
            servers = [s for s in site.compute.servers() if s["id"] in wanted]
            _must_be_switchable(run, site, wanted, servers)
            on = {s["id"]: s["name"] for s in servers if s["status"] != "SHUTOFF"}
            step.result(**{WAS_ON: on, WAVES: waves})
        if (members := _members(run)) is None:
            raise AntipodeError(
                f"the database does not keep which members of {run.vnf} are on, so none is"
                " switched off"
            )
    _note_off(run, members)
    if parts.newest(run, MigrateSteps.LAST_POINT) is not None:
        # one that is on was started since, and its records may be in no point: it is not hidden
        _must_be_off(site, {id_ for wave in members.waves for id_ in wave})
        return members
    with run.timeline.step(MigrateSteps.SWITCH_OFF, site.name) as step:
        for wave in reversed(members.waves):
            ids = [i for i in wave if i in members.were_on]
            off = Switching(run.vnf, site, step, run.go_on, run.go_on)
            if problems := switching.switch(off, ids, "SHUTOFF"):
                raise ResourceFailed(f"{site.name}: {'; '.join(problems)}")
    return members


def _must_be_switchable(
    run: Run, site: Site, wanted: Collection[str], servers: Sequence[Json]
) -> None:
    """See that the members can be switched off, and that a rollback can restore their state.

    Raises:
        PreflightFailed: one is neither on nor off, or is gone; no member was switched off.
    """
    gone = sorted(set(wanted) - {s["id"] for s in servers})
    problems = [f"{site.name}: server {id_} is gone" for id_ in gone] + [
        f"{site.name}: server {s['name'] or s['id']} is {s['status']}; it must be ACTIVE or SHUTOFF"
        for s in servers
        if s["status"] not in ("ACTIVE", "SHUTOFF")
    ]
    if problems:
        raise PreflightFailed(f"a migration of {run.vnf}", problems)


def _must_be_off(site: Site, ids: Collection[str]) -> None:
    """See that the last point has all that the members have written.

    Raises:
        ResourceFailed: one of them runs, or is being started.
    """
    servers = [s for s in site.compute.servers() if s["id"] in ids]
    if on := [s for s in servers if s["status"] != "SHUTOFF" or not fencing.is_off(s)]:
        raise ResourceFailed(
            f"{site.name}: {switching.said(on)}, and was not off all the time since the members"
            " were switched off: the last recovery point may lack what it has written"
        )


def _switch_on(run: Run) -> list[str]:
    """Switch the members on again that the run has switched off, in their boot order; why it did
    not, if that is not safe.

    Raises:
        ResourceFailed: one is not on. All that can be are.
    """
    if (members := _members(run)) is None:
        return []
    request = MigrateRequest.model_validate(run.request)
    gone: list[str] = []
    problems: list[str] = []
    try:
        _must_be_active(run, request)
        site = run.site(request.site)
        there = {s["id"] for s in site.compute.servers()}
        gone = [f"server {n} ({i}) is gone" for i, n in members.were_on.items() if i not in there]
        with run.timeline.step(MigrateSteps.SWITCH_ON, site.name) as step:
            for wave in members.waves:
                ids = [i for i in wave if i in members.were_on and i in there]
                may = partial(_must_be_active, run, request)
                on = Switching(run.vnf, site, step, may, run.go_on)
                problems += switching.switch(on, ids, "ACTIVE")
            if problems:
                raise ResourceFailed(f"{site.name}: {'; '.join(problems)}")
    except Busy as error:
        names = ", ".join(sorted(members.were_on.values()))
        return [
            *gone,
            f"those of {names} at {request.site} that are off stay off, as to start them may make"
            f" two active copies: {error}",
        ]
    return gone
