# SPDX-License-Identifier: Apache-2.0
"""The kind of run that rehearses a failover: a VNF is recovered on isolated networks at a backup
site, probed, its content compared, and all of it removed. It claims no generation, and the active
site is not called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from taskflow import task

from antipode import logs
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.flow_runner import graph_of, guarded, run_flow
from antipode.engine.kind import Persona, Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.errors import (
    Busy,
    DrillNotPassed,
    InvalidInput,
    RecoveryPointInvalid,
    ResourceFailed,
    Stopped,
)
from antipode.model.base import Model
from antipode.model.marks import made_by
from antipode.model.plan import RecoveryPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.runbook import Deliberate
from antipode.model.steps import StepName, Steps, Timeline
from antipode.model.vnf import Vnf
from antipode.recover import inventory, isolation, networks, probes, rollback
from antipode.recover.existing import Found
from antipode.recover.recovery import Recovery
from antipode.recover.sources import PROVIDERS
from antipode.runs import failover, find_kind, forecast, orphans, verify
from antipode.runs.drill_preparation import PreparedDrill, compared_with, must_be_elsewhere
from antipode.runs.failover import (
    Boot,
    MakePorts,
    MakeVipPorts,
    ProvideUnattached,
    ProvideVolumes,
    ServerTask,
    shared_first,
)
from antipode.runs.runbook import Woven
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.sealing import Trust

if TYPE_CHECKING:
    from antipode.cloud.objects import Objects
    from antipode.cloud.site import Site

Json = dict[str, Any]


class DrillSteps(StepName):
    INVENTORY = "", "list what the project has"
    PROVE_ISOLATION = "", "prove that the networks are isolated"
    COMPARE = "", "compare content"
    CLEAN_UP = "", "clean up"


class DrillRequest(Model):
    """A drill as the operator confirmed it."""

    site: str
    recovery_point: str
    point_digest: str
    vnf: Vnf
    plan: RecoveryPlan
    """without the user_data of its servers, which is in the recovery point"""
    confirmed_at: float
    """seconds since the epoch"""
    keep_s: float | None = None
    """for how many seconds all stays after its end, to look around; None: it is removed at once"""
    part_of: str | None = None
    """the run that it is a part of"""

    @classmethod
    def of(cls, row: RunRow) -> DrillRequest:
        """The request of a run.

        Raises:
            InvalidInput: this antipode cannot read it.
        """
        try:
            return cls.model_validate(row.request or {})
        except ValidationError as error:
            raise InvalidInput(
                f"the request of {row.id} for {row.vnf} cannot be read: another version of antipode"
                " made it; use that version"
            ) from error

    def whole_plan(self, point: RecoveryPoint) -> RecoveryPlan:
        """The plan with the user_data of its servers."""
        user_data = {s.id: s.user_data for s in point.topology.servers}
        whole = [
            s if s.drops_user_data else s.model_copy(update={"user_data": user_data[s.source_id]})
            for s in self.plan.servers
        ]
        return self.plan.model_copy(update={"servers": whole})


def requested(prepared: PreparedDrill, keep_s: float | None) -> RunRow:
    """A drill that an operator confirms now; it is not kept yet.

    Args:
        keep_s: for how many seconds all stays after its end; None: it is removed at once.
    """
    bare = [s.model_copy(update={"user_data": None}) for s in prepared.plan.servers]
    request = DrillRequest(
        site=prepared.plan.site,
        recovery_point=prepared.point.id,
        point_digest=prepared.point_digest,
        vnf=prepared.point.vnf,
        plan=prepared.plan.model_copy(update={"servers": bare}),
        confirmed_at=time.time(),
        keep_s=keep_s,
    )
    return new_run(KIND, prepared.point.vnf.vnf, request.model_dump(mode="json"))


class Drill(RunKind):
    name = "drill"
    flow_version = 1
    priority = Priority.UPKEEP
    persona = Persona.MEMBER
    rolls_back_failures = True
    works_at_active_site = False
    creates = "networks, servers, volumes, ports and throw-away backups of the drill"
    volume_step = (Steps.RESTORE_VOLUME, "restored")
    measures_recovery = True
    compare_step = DrillSteps.COMPARE

    @property
    def gives_way(self) -> bool:
        return True  # a failover needs the backups, and the room

    def asked_for(self, row: RunRow, name: str) -> str:
        return f"{self.command} {name} --to {self.site_of(row)}"

    def site_of(self, row: RunRow) -> str:
        return str((row.request or {})["site"])

    def approved_as(self, row: RunRow) -> Sequence[Deliberate]:
        return ("drill",)

    def words(self, row: RunRow) -> list[str]:
        request = DrillRequest.of(row)
        kept = request.keep_s
        end = "removed at its end" if kept is None else f"kept for {kept:g} s after its end"
        return [*request.plan.words(), f"all of it is {end}"]

    def execute(self, run: Run) -> None:
        _drill(run)

    def rolls_back(self, run: Run) -> bool:
        return "kept_until" not in run.result

    def roll_back(self, run: Run) -> list[str]:
        site = run.site(self.site_of(run.row))
        return rollback.remove_throw_away(site, run.id, run.timeline, run.go_on, kinds_of(run.row))

    def point_of_no_return(self, run: Run) -> str | None:
        return None

    def may_have_orphans(self, row: RunRow) -> bool:
        return row.state != "succeeded" or is_kept(row) or orphans.may_have_come_late(row)

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
            if is_kept(row) and not has_expired(row):
                left.append(f"{row.id} at {site.name} is kept: antipode drill cleanup {row.vnf}")
            else:
                left += rollback.remove_throw_away(site, row.id, timeline, alone, kinds_of(row))
        return left


KIND = Drill()


def is_kept(row: RunRow) -> bool:
    """Whether what a drill has made was to stay after its end."""
    return row.state != "aborted" and "kept_until" in (row.result or {})


def has_expired(row: RunRow) -> bool:
    """Whether the time is over for which what a drill has made was to stay."""
    return time.time() > float((row.result or {}).get("kept_until") or 0)


def no_recovery_in_the_way(deployment: Deployment, vnf: str) -> None:
    """See that no run is open beside which a VNF must not be drilled: a recovery, or a proof of
    content, which restores the same backups.

    Raises:
        Busy: one is.
    """
    for row in deployment.runs.open(vnf):
        other = find_kind(row.kind)
        if verify.is_verification(row) or (other and not KIND.may_begin_beside(other)):
            raise Busy(
                f"{row.id} of {vnf} is {state_of(row, deployment)}, and needs the backups itself."
                " Drill when it has ended"
            )


@dataclass(frozen=True)
class Job:
    """All that the tasks of one drill work with."""

    run: Run
    request: DrillRequest
    recovery: Recovery
    store: Objects | None
    """the backup store; None where content is not compared"""
    not_compared: str
    """why not"""


def _drill(run: Run) -> None:
    request = DrillRequest.of(run.row)
    no_recovery_in_the_way(run.deployment, run.vnf)
    site = run.site(request.site)
    state, vaults = activity.before_failover(run.deployment, run.vnf, site.name, run.go_on)
    must_be_elsewhere(state, site.name)  # it may have waited for long since it was planned
    opened = points.find(
        vaults, run.vnf, request.recovery_point, Trust.SIGNED, digest=request.point_digest
    )
    opened.must_be_open()
    point = opened.point.defined_by(request.vnf)
    rpo_s = request.confirmed_at - datetime.fromisoformat(point.consistent_at).timestamp()
    run.result.update(vnf=run.vnf, site=site.name, recovery_point=point.id, rpo_s=round(rpo_s, 3))
    forecast.keep(run, point, site.name)
    store, not_compared = compared_with(run.deployment.config, point, state.active_site)
    pool = ThreadPoolExecutor(
        run.deployment.config.limits.restores, "volume", initializer=logs.adopt, initargs=(run.id,)
    )
    digests = None if store is None else run.deployment.store(store).under(run.go_on)
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
        mover=run.deployment.mover(site, point.site, point.vnf.store, run.party),
        mover_restores=run.deployment.mover_restores(site.name),
        keys=run.id,
    )
    job = Job(run, request, recovery, digests, not_compared)
    run.touches_clouds()
    workers = failover.threads(recovery.plan)
    try:
        if _was_proven(run):
            _prove_isolation(job)
        found = run_flow(drill_flow(job), run, workers=workers)
    finally:
        pool.shutdown(wait=False)
    problems = _keep_findings(run, recovery.plan, found)
    if request.keep_s is not None:
        run.result["kept_until"] = round(time.time() + request.keep_s, 3)
    else:
        problems += _clean_up(run, site, found["inventory"])
    run.result["passed"] = not problems
    if problems:
        error = DrillNotPassed(
            f"the drill of {run.vnf} at {site.name} from {point.id} is not passed: "
            + "; ".join(problems)
        )
        if request.keep_s is not None:
            error.add_note(f"All of it stays for now; remove it: antipode drill cleanup {run.vnf}")
        raise error


def _was_proven(run: Run) -> bool:
    """Whether a process that died has proven the isolation, maybe long ago, and left guests to be
    booted.
    """
    return (
        run.claim.number > 1
        and not run.deployment.flows.is_complete(run.id)
        and any(
            step.name == DrillSteps.PROVE_ISOLATION.words and step.state == "succeeded"
            for step in run.timeline.kept()
        )
    )


def _prove_isolation(job: Job) -> Json:
    site, plan = job.recovery.site, job.recovery.plan
    with job.run.timeline.step(DrillSteps.PROVE_ISOLATION, site.name) as step:
        ids = networks.ids_of_made(site, plan)
        made = {ids[n.network_id] for n in plan.networks if n.network_id in ids}
        facts = isolation.prove(site, job.run.id, plan, made)
        step.result(**facts)
        return facts


def _keep_findings(run: Run, plan: RecoveryPlan, found: Json) -> list[str]:
    """Keep what the tasks have found; what of it means that the drill is not passed."""
    answers = [found[f"answer of {s.name}"] for s in plan.servers]
    content = [finding for s in plan.servers for finding in found[f"content of {s.name}"]]
    content += found.get("content of no server", [])
    run.result.update(
        servers={s.name: found[f"server_id of {s.name}"] for s in plan.servers},
        answers=answers,
        content=content,
        isolation=found["isolation"],
        isolation_in_the_end=found["isolation in the end"],
        recovered_s=round(max(a["at"] for a in answers) - run.request["confirmed_at"], 3),
    )
    return [
        *(f"{a['server']} does not answer: {a['detail']}" for a in answers if a["ok"] is False),
        *(f"volume {c['volume']}: {c['detail']}" for c in content if c["ok"] is False),
    ]


def _clean_up(run: Run, site: Site, before: inventory.Inventory) -> list[str]:
    """Remove all that the drill has made, and compare the inventories; what was left."""
    with run.timeline.step(DrillSteps.CLEAN_UP, site.name) as step:
        left = rollback.remove_throw_away(site, run.id, run.timeline, run.go_on, kinds_of(run.row))
        leaks = [*left, *made_at(site, run.id)]
        after = inventory.take(site)
        new = inventory.appeared(before, after)
        records = new.pop("backups", {})
        run.result.update(
            inventory_before=inventory.counts(before),
            inventory_after=inventory.counts(after),
            leaks=leaks,
            backup_records_known_since=len(records),
            appeared_meanwhile=new,
        )
        step.result(leaks=len(leaks))
    return [f"left at {site.name}: {what}" for what in leaks]


def kinds_of(row: RunRow) -> set[str]:
    """The kinds of the sources from which a drill makes its volumes."""
    return set(DrillRequest.of(row).plan.kinds)


def made_at(site: Site, run: str) -> list[str]:
    """All at a site that carries the mark of a drill, for people."""
    return [
        *rollback.made_at(site, run).values(),
        *(f"backup {b['id']}" for b in site.backups.backups() if made_by(b) == run),
    ]


def drill_flow(job: Job) -> Any:
    """The recipe: networks, ports, DHCP, the proof that nothing else is there; volumes, and their
    content compared before a guest writes to them; boots in order, probes; and the proof again.
    """
    recovery, run = job.recovery, job.run
    names = [server.name for server in recovery.plan.servers]
    before, made, dhcp = TakeInventory(job), MakeNetworks(job), StartDhcp(job)
    proof, again = ProveIsolation(job), ProveIsolation(job, "in the end")
    volumes = {n: ProvideVolumes(recovery, run, n, _nothing) for n in names}
    compared = {n: CompareContent(job, n) for n in names}
    ports = {n: MakePorts(recovery, run, n, _nothing) for n in names}
    boots = {n: BootDrilled(recovery, run, n, _nothing) for n in names}
    answers = {n: Ask(job, n) for n in names}
    unattached = [MakeVipPorts(recovery, run, _nothing)] if recovery.plan.vip_ports else []
    woven = Woven(run, recovery.plan, _nothing)
    of_servers = [t for each in (volumes, compared, ports, boots, answers) for t in each.values()]
    links: list[tuple[task.Task, task.Task]] = [(before, made), (dhcp, proof)]
    for some_ports in (*ports.values(), *unattached):
        links += (made, some_ports), (some_ports, dhcp)
    for n in names:
        links += (before, volumes[n]), (proof, boots[n]), (compared[n], boots[n])
        links.append((answers[n], again))
    links += shared_first(recovery.plan, volumes)
    if recovery.plan.unattached:
        provided, proven = ProvideUnattached(recovery, run, _nothing), CompareUnattached(job)
        last = [compared[n] for n in names[-1:]]
        links += (before, provided), (provided, proven), (proven, again)
        links += ((content, proven) for content in last)
        of_servers += provided, proven
    # one after another: a backup of quota suffices
    links += ((compared[n], compared[following]) for n, following in pairwise(names))
    links += (
        (answers[predecessor], boots[server.name])
        for server in recovery.plan.servers
        for predecessor in server.after
    )
    ready = {n: [compared[n], ports[n]] for n in names}
    links += woven.links([made, *volumes.values(), *unattached], ready, boots, answers, again)
    tasks = [before, made, dhcp, proof, again, *unattached, *of_servers, *woven.tasks]
    return graph_of(f"drill {run.vnf}", tasks, links)


def _nothing() -> None:
    """A drill has claimed no generation that it could lose."""


class DrillTask(task.Task):  # type: ignore[misc]
    """A task about a drill as a whole."""

    gives = ""

    def __init__(self, job: Job, which: str = "") -> None:
        words = f" {which}" if which else ""
        super().__init__(
            name=f"{type(self).__name__}{words}",
            provides=f"{self.gives}{words}" if self.gives else None,
        )
        self.job, self.run, self.recovery = job, job.run, job.recovery
        self.site = job.recovery.site


class TakeInventory(DrillTask):
    gives = "inventory"

    @guarded
    def execute(self) -> dict[str, dict[str, str]]:
        with self.run.timeline.step(DrillSteps.INVENTORY, self.site.name) as step:
            found = inventory.take(self.site)
            step.result(**{k.replace(" ", "_"): n for k, n in inventory.counts(found).items()})
            return found


class MakeNetworks(DrillTask):
    @guarded
    def execute(self) -> None:
        networks.create_networks(self.recovery)


class StartDhcp(DrillTask):
    @guarded
    def execute(self) -> None:
        networks.start_dhcp(self.recovery)


class ProveIsolation(DrillTask):
    """Sees that nothing but the drill is on its networks: before a guest boots, and in the end."""

    gives = "isolation"

    @guarded
    def execute(self) -> Json:
        return _prove_isolation(self.job)


class CompareContent(ServerTask):
    """Compares the disks that a server boots from and uses with what was captured, where digests
    exist.
    """

    gives = "content"
    takes = ("volumes",)

    def __init__(self, job: Job, server: str) -> None:
        super().__init__(job.recovery, job.run, server, _nothing)
        self.job = job

    @guarded
    def execute(self, volumes: dict[str, str]) -> list[Json]:
        # others may be written to by now
        return _compared(self.job, self.recovery.plan.first_of(self.server))


class CompareUnattached(DrillTask):
    """Compares the volumes of no server with what was captured."""

    gives = "content of no server"

    @guarded
    def execute(self) -> list[Json]:
        return _compared(self.job, self.recovery.plan.unattached)


def _compared(job: Job, volumes: Sequence[VolumePlan]) -> list[Json]:
    """Compare volumes that were provided with what was captured."""
    r, store = job.recovery, job.store
    found: list[Json] = []
    # the listing of its volumes is older than they are
    now = replace(r, found=Found(r.site))
    for volume in volumes:
        source = r.point.source_of(volume.source_id)
        provider = PROVIDERS.get(source.kind)
        with r.timeline.step(DrillSteps.COMPARE, volume.label) as step:
            why = provider.unprovable(source)
            if why is None and store is None and provider.proves_by_store:
                why = job.not_compared
            ok: bool | None = None
            detail = f"not compared: {why}"
            if why is None:
                try:
                    finding = provider.prove(now, volume, source, store)
                    ok, detail = finding.ok, finding.detail
                except RecoveryPointInvalid as error:
                    detail = f"not compared: {error}"
                provider.remove_proofs(r.site, job.run.id, r.timeline, None)
            step.result(ok=ok, detail=detail)
        found.append({"volume": volume.label, "ok": ok, "detail": detail})
    return found


class BootDrilled(Boot):
    """Boots a server whose volumes were proven before."""

    def boot(self, volumes: dict[str, str], ports: list[str]) -> str:
        try:
            return super().boot(volumes, ports)
        except ResourceFailed:
            # the late request of a process that died may back a volume up once more
            r = self.recovery
            if not rollback.remove_proofs(r.site, self.run.id, r.timeline, list(volumes.values())):
                raise
            return super().boot(volumes, ports)


class Ask(ServerTask):
    """Probes a server. One that does not answer is a result of the drill, and those after it are
    booted all the same: a drill is to find all that is wrong.
    """

    gives = "answer"
    takes = ("server_id",)

    def __init__(self, job: Job, server: str) -> None:
        super().__init__(job.recovery, job.run, server, _nothing)

    @guarded
    def execute(self, server_id: str) -> Json:
        planned = self.recovery.plan.server(self.server)
        answers = planned.answers
        detail = "SHUTOFF, as it was" if planned.is_off else "ACTIVE; no console probe"
        answer: Json = {"server": self.server, "ok": None, "detail": detail}
        if answers is not None:
            try:
                probes.await_answer(self.recovery, self.server, server_id)
                answer |= {"ok": True, "detail": f"{answers.console!r} in its console log"}
            except Stopped:
                raise
            except ResourceFailed as error:
                answer |= {"ok": False, "detail": str(error)}
        return {**answer, "at": round(time.time(), 3)}
