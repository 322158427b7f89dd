# SPDX-License-Identifier: Apache-2.0
"""The kind of run that undoes a failover while its time for that is open: the new copy is fenced,
the old one is started again where it was, and its site is the active one in a new generation.

What the VNF has written since the failover is lost. A failure before the old copy answers is rolled
back: it is fenced again, and the new one is started. At no moment may both run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from antipode.cloud.api import Json
from antipode.config import Config
from antipode.engine import activity
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run
from antipode.errors import (
    AntipodeError,
    Busy,
    NotFound,
    PreflightFailed,
    ResourceFailed,
    VaultCorrupt,
)
from antipode.model.base import Model
from antipode.model.marks import made_by
from antipode.model.probe import Probe
from antipode.model.runbook import Deliberate, RunbookStep
from antipode.model.state import Claim, ProtectedVnf
from antipode.model.steps import StepName, Steps
from antipode.model.topology import Server
from antipode.model.vnf import Member, Vnf
from antipode.recover import application_data, fencing, release, switching
from antipode.recover.dns import switching as dns_switching
from antipode.recover.fencing import Fenced, Fencing
from antipode.recover.release import Release
from antipode.recover.switching import Switching
from antipode.runs import dns_switch, failover, failover_fence, fence, preparation, runbook
from antipode.runs.actions import Occasion
from antipode.runs.failover_fence import Former
from antipode.store.tables import RunRow
from antipode.topology import answering
from antipode.topology.answering import Wait
from antipode.vault import Vault, generations, old_copies, points, windows

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.vault.old_copies import OldCopy
    from antipode.vault.sealing import Opened


class UndoSteps(StepName):
    SEE_THAT_IT_IS_WHOLE = "", "see that the old copy is whole"
    START = "", "start the old copy"
    FENCE_AGAIN = "", "fence the old copy again"


class UndoRequest(Model):
    """An undo as the operator confirmed it."""

    site: str
    """where the old copy is, and the VNF is active afterwards"""
    state: ProtectedVnf
    """of the VNF when it was confirmed"""
    confirmed_at: float
    """seconds since the epoch"""
    steps: list[RunbookStep] = Field(default_factory=list)
    """of the runbook, those that concern this run"""
    definition: Vnf | None = None
    """of the VNF when it was confirmed: its probes are asked. None: it was asked for by an older
    antipode
    """


def requested(
    state: ProtectedVnf,
    site: str,
    steps: Sequence[RunbookStep] = (),
    definition: Vnf | None = None,
) -> RunRow:
    """An undo that an operator confirms now; it is not kept yet.

    Args:
        steps: of the runbook, those that concern it.
        definition: of the VNF.
    """
    request = UndoRequest(
        site=site,
        state=state,
        confirmed_at=time.time(),
        steps=list(steps),
        definition=definition,
    )
    return new_run(KIND, state.vnf, request.model_dump(mode="json"))


class Undo(RunKind):
    name = "undo"
    transition = "undoing"
    flow_version = 1
    priority = Priority.RECOVERY
    persona = Persona.OPERATOR
    rolls_back_failures = True
    works_at_active_site = True
    creates = ""

    def confirmation_lasts_s(self, config: Config) -> float | None:
        return config.failover_confirmed_for

    def site_of(self, row: RunRow) -> str:
        return UndoRequest.model_validate(row.request or {}).site

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("undo",)

    def words(self, row: RunRow) -> list[str]:
        request = UndoRequest.model_validate(row.request or {})
        state = request.state
        return [
            f"stops and locks the copy at {state.active_site}, and loses all that the VNF has"
            f" written there since {state.since}",
            f"starts the old copy at {request.site}",
            *runbook.in_words(request.steps),
        ]

    def execute(self, run: Run) -> None:
        _undo(run)

    def roll_back(self, run: Run) -> list[str]:
        """Fence the old copy again, then undo the fence of the new one, then give its generation
        back: in this order, so that no two copies run.
        """
        if not any(s.name == Steps.CLAIM_GENERATION.words for s in run.timeline.kept()):
            return []
        request = UndoRequest.model_validate(run.request)
        vaults = _vaults(run, request)
        left: list[str] = []
        if (found := generations.claim_of(vaults, run.vnf, run.id)) is not None:
            try:
                _fence_again(run, vaults, found[0])
            except Busy as error:
                return [f"both copies are left as they are, as another run moves the VNF: {error}"]
            left = failover_fence.undo_with(run, vaults, "required")
        _give_back(run, request, vaults)
        return left

    def point_of_no_return(self, run: Run) -> str | None:
        vaults = _vaults(run, UndoRequest.model_validate(run.request))
        if not generations.has_succeeded(vaults, run.vnf, run.id):
            return None
        return f"{run.vnf} is active at {self.site_of(run.row)} again"


KIND = Undo()


@dataclass(frozen=True)
class OldMembers:
    """The members of an old copy as the newest recovery point of its generation has them."""

    opened: Opened
    site: Site

    @property
    def servers(self) -> list[tuple[Member, Server]]:
        point = self.opened.point
        return list(zip(point.vnf.members, point.topology.servers, strict=True))

    @property
    def waves(self) -> list[list[str]]:
        """Their ids, in the waves in which they boot."""
        return switching.waves_of(self.opened.point)

    @property
    def on(self) -> set[str]:
        """The ids of those that are to run."""
        return {server.id for _, server in self.servers if not server.is_off}

    def probes(self, definition: Vnf) -> Iterator[tuple[str, Probe]]:
        """The names of the members that are probed, and how.

        Args:
            definition: of the VNF, with the members in their order.

        Raises:
            InvalidInput: a name or an address does not become part of a command.
        """
        for member, (_, server) in zip(definition.members, self.servers, strict=True):
            if member.answers is not None and not server.is_off:
                address = answering.fixed_address(server)
                yield server.name, Probe.of(member.answers, self.site.name, server.name, address)

    def missing(self) -> Iterator[str]:
        """What is not there any more of them, or is in no state in which it can be started.

        Raises:
            SiteUnreachable: the site does not answer.
        """
        yield from application_data.cannot_be_undone(self.opened.point, self.site)
        there = {s["id"]: s for s in self.site.compute.servers()}
        for _, server in self.servers:
            what = f"server {server.name} ({server.id})"
            if (found := there.get(server.id)) is None:
                yield f"{what} is gone"
                continue
            if found["status"] not in ("ACTIVE", "SHUTOFF"):
                yield f"{what} is {found['status']}; it must be ACTIVE or SHUTOFF"
            if self._is_locked_by_others(found):
                yield (
                    f"{what} was locked from another project, so antipode cannot unlock it to start"
                    f" it. Have an administrator do it: openstack server unlock {server.id}"
                )
            attached = {a["volumeId"] for a in self.site.compute.attachments(server.id)}
            for volume in (a.volume for a in server.attachments):
                if volume.id not in attached:
                    yield f"{what}: volume {volume.name or volume.id} is not attached to it"
        wanted = {port.id: s.name for _, s in self.servers for port in s.ports}
        found_ports = {p["id"] for p in self.site.networks.ports(sorted(wanted))}
        for port, name in wanted.items():
            if port not in found_ports:
                yield f"server {name}: its port {port} is gone"

    def _is_locked_by_others(self, server: Json) -> bool:
        starts, is_admin = server["id"] in self.on, "admin" in self.site.roles
        return release.needs_unlocking(
            server, starts=starts, is_admin=is_admin
        ) and self.site.compute.is_locked_from(server["id"], self.site.project_id)


def old_members(vaults: Vault, state: ProtectedVnf, site: Site) -> OldMembers:
    """The members of the old copy of a VNF at a site.

    Raises:
        NotFound: no valid recovery point of it is left; those of a copy that is older still do not
            count.
        SiteUnreachable: the site does not answer.
        VaultError: the vaults cannot be read.
    """
    made_it = next(
        (
            claim
            for claim, outcome in generations.history(vaults, state.vnf)
            if outcome is not None and outcome.outcome == "active"
            if claim.site == site.name and claim.generation < state.generation
        ),
        None,
    )
    for point, summary in reversed(list(points.list_points(vaults, state.vnf))):
        if isinstance(summary, VaultCorrupt):
            continue
        if summary.generation < state.generation and summary.site == site.name:
            if (
                made_it is None
                or summary.generation >= made_it.generation
                # an undo has made none: it has started those that there were
                or made_it.run not in {made_by(s) for s in site.compute.servers()}
            ):
                return OldMembers(points.find(vaults, state.vnf, point), site)
            break
    raise NotFound(
        f"no valid recovery point of {state.vnf} says which servers, volumes and ports it had at"
        f" {site.name}: it cannot be known whether the old copy is whole",
        resource=f"VNF {state.vnf}",
    )


def must_be_whole(members: OldMembers, vnf: str) -> None:
    """See that the old copy can be started.

    Raises:
        PreflightFailed: something of it is missing; all of that is named.
        SiteUnreachable: its site does not answer.
    """
    if missing := list(members.missing()):
        raise PreflightFailed(f"an undo of the failover of {vnf}", missing)


def definition_of(members: OldMembers, local: Vnf | None, config: Config) -> Vnf:
    """The definition by which the old copy is probed and users are led to it.

    Args:
        local: that of this host.

    Raises:
        InvalidInput: the file of this host names other members than the old copy has.
    """
    return preparation.definition_of(members.opened, local, config)[0]


def _vaults(run: Run, request: UndoRequest) -> Vault:
    return activity.before_failover(run.deployment, run.vnf, request.site, run.go_on).vaults


def _undo(run: Run) -> None:
    request = UndoRequest.model_validate(run.request)
    run.result.update(vnf=run.vnf, site=request.site, left_site=request.state.active_site)
    failover.displace_others(run, KIND)
    vaults, site = _vaults(run, request), run.site(request.site)
    members = old_members(vaults, request.state, site)
    local = request.definition or run.deployment.vnfs.find(run.vnf)
    definition = definition_of(members, local, run.deployment.config)
    is_begun = generations.claim_of(vaults, run.vnf, run.id) is not None
    if not is_begun:
        windows.must_be_open(vaults, request.state)
        with run.timeline.step(UndoSteps.SEE_THAT_IT_IS_WHOLE, site.name):
            must_be_whole(members, run.vnf)
    steps = _steps(run, request, members)
    if not is_begun:
        steps.before()
        # one that is in the midst of a pass would stop what is started here
        fence.await_those_by_policy(run)
    run.touches_clouds()
    claim = _claim(run, request, vaults)
    if not is_begun:
        # who gives it up writes that first and looks for a claim then, so that one sees the other
        windows.must_be_open(vaults, request.state)
    run.result["generation"] = claim.generation
    former = Former(run, vaults, claim)
    failover_fence.fence(former, "required")
    run.result["lost_s"] = _lost_s(request.state)
    _start(run, members, former)
    _await_answers(run, members, definition)
    steps.after()
    with run.timeline.step(Steps.COMPLETE_GENERATION, run.vnf):
        run.go_on()
        former.may_be_changed()
        generations.complete(vaults, claim)
    run.cannot_be_aborted()
    _lead_users_back(run, members, definition, former)
    run.deployment.states.keep(generations.present(vaults, run.vnf, request.site))
    run.result["rto_s"] = round(time.time() - request.confirmed_at, 3)


def _steps(run: Run, request: UndoRequest, members: OldMembers) -> runbook.Around:
    point = members.opened.point.id
    return runbook.Around(Occasion(run, "undo", request.site, point), request.steps)


def _lost_s(state: ProtectedVnf) -> float:
    """For how many seconds the VNF has written what is lost."""
    from_epoch = state.undo_until
    assert from_epoch is not None and state.claim is not None  # else it could not be undone
    return round(time.time() - (from_epoch - (state.claim.undo_within_s or 0.0)), 3)


def _claim(run: Run, request: UndoRequest, vaults: Vault) -> Claim:
    """Claim the next generation for the old site.

    Raises:
        Busy: another run has it, or the VNF has moved since.
        VaultError: it is not known.
    """
    with run.timeline.step(Steps.CLAIM_GENERATION, run.vnf) as step:
        run.timeline.flush()  # a rollback knows that a claim may be on its way
        # not even one that has failed is in its place: its servers may run beside the old copy
        claim = generations.claim(vaults, request.state, request.site, run.id)
        generations.confirm(vaults, claim)
        step.result(generation=claim.generation)
    run.timeline.flush()  # what is changed from now on is kept with its claim
    return claim


def _old_copy(run: Run, vaults: Vault, claim: Claim) -> OldCopy:
    return old_copies.find(vaults, run.vnf, claim.site, claim.generation)


def _start(run: Run, members: OldMembers, former: Former) -> None:
    """Undo the fence of the old copy, whichever run has made it, and start what is off of it.

    Raises:
        ResourceFailed: a member does not start.
        Busy: the claim is lost; nothing was started since.
        AntipodeError: the database does not keep that it is started; nothing was.
    """
    copy = _old_copy(run, former.vaults, former.claim)
    names = {server.id: server.name for _, server in members.servers}
    with run.timeline.step(UndoSteps.START, members.site.name) as step:
        if not _may_run(run, former.claim):  # a rollback would start the new copy beside it
            raise AntipodeError(
                f"the database does not keep that {run.id} starts the old copy at"
                f" {members.site.name}, so it does not"
            )
        release.release(
            Release(
                vnf=run.vnf,
                run=None,
                site=members.site,
                copy=copy._replace(servers=names, runs=()),  # of copies that are older still, none
                waves=members.waves,
                timeline=run.timeline,
                may=former.may_be_changed,
                go_on=run.go_on,
            )
        )
        on = Switching(run.vnf, members.site, step, former.may_be_changed, run.go_on)
        for wave in members.waves:
            ids = [id_ for id_ in wave if id_ in members.on]
            if problems := switching.switch(on, ids, "ACTIVE"):
                raise ResourceFailed(f"{members.site.name}: {'; '.join(problems)}")


def _await_answers(run: Run, members: OldMembers, definition: Vnf) -> None:
    """Probe each member that runs, as the VNF file of this host names it, else as its point does.

    Raises:
        ResourceFailed: one does not answer.
    """
    for member, (_, server) in zip(definition.members, members.servers, strict=True):
        if member.answers is None or server.is_off:
            continue
        with run.timeline.step(Steps.PROBE, server.name) as step:
            answering.await_answer(
                members.site,
                server,
                server.id,
                member.answers,
                Wait(step.waits_for, run.go_on),
            )


def _lead_users_back(run: Run, members: OldMembers, definition: Vnf, former: Former) -> None:
    """Switch the DNS records of the VNF to the old copy. One that cannot be switched is named.

    The operator was not shown them: only those are changed that lead to the new copy.
    """
    if not definition.dns:
        return
    point = members.opened.point.model_copy(update={"vnf": definition})
    dns = run.deployment.dns
    planned = dns_switching.plan(point, members.site.name, former.site, dns, asks=False)
    switched = dns_switching.switch(
        planned.changes, dns, run.timeline, run.go_on, former.may_be_changed
    )
    found = dns_switch.record_of(switched)
    if problems := [*planned.problems, *found["problems"]]:
        found |= {"problems": problems, "finish": dns_switch.finish(run.vnf, point.id)}
    run.result["dns"] = found


def _may_run(run: Run, claim: Claim) -> bool:
    """Whether the old copy may have been started, by what the database keeps."""
    begun = (Steps.RELEASE_FENCE.words, UndoSteps.START.words)
    kept = run.timeline.kept()
    return any(s.name in begun and s.resource == claim.site for s in kept)


def _fence_again(run: Run, vaults: Vault, claim: Claim) -> None:
    """Fence the old copy, if it may have been started.

    Raises:
        Busy: the claim is lost; nothing was changed since.
        ResourceFailed, SiteUnreachable: not all of it is fenced.
    """
    if not _may_run(run, claim):
        return
    reason = f"antipode: old copy of VNF {run.vnf}; {run.id} was rolled back"
    with run.timeline.step(UndoSteps.FENCE_AGAIN, claim.site):
        fencing.fence(
            Fencing(
                run.id,
                run.site(claim.site),
                _old_copy(run, vaults, claim),
                reason,
                run.timeline,
                partial(generations.confirm, vaults, claim),
                run.go_on,
            ),
            Fenced(),
        )


def _give_back(run: Run, request: UndoRequest, vaults: Vault) -> None:
    """Release the claim of the run, or one that may still arrive."""
    with run.timeline.step(Steps.RELEASE_GENERATION, run.vnf):
        try:
            claim = generations.claim(vaults, request.state, request.site, run.id)
        except Busy:
            return  # released already, or another run has the generation
        generations.release(vaults, claim)
