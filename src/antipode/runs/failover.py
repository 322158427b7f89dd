"""The flow that brings a VNF back at its backup site, from the vault and that site alone: nothing
here may ask the primary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taskflow import task
from taskflow.patterns import graph_flow

from antipode.engine import flow_runner
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.limits import SlotsOf
from antipode.engine.run import Run, new_run
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import Aborted, AntipodeError, ClaimLost, Halted, Interrupted, InvalidInput
from antipode.model.base import Model
from antipode.model.plan import RecoveryPlan
from antipode.model.point import Manifest
from antipode.model.vnf import Vnf
from antipode.recover import plan, ports, probes, rollback, servers
from antipode.recover.existing import Found
from antipode.recover.sources import backup, records
from antipode.runs.kind import Kind
from antipode.store.tables import RunRow, StepRow
from antipode.vault import points

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Json = dict[str, Any]

PHASES = {
    "import backup records": "import",
    "restore volume": "restore",
    "create ports": "ports",
    "boot server": "boot",
    "await answer": "answers",
}
"""Which steps of the timeline make up which phase of a recovery."""


@dataclass(frozen=True)
class Prepared:
    """A failover that may begin once the operator has confirmed it: nothing has been created."""

    manifest: Manifest
    plan: RecoveryPlan
    site: Site
    warnings: list[str]

    @property
    def age_s(self) -> float:
        """How old the state is that comes back: the RPO, were the failover now."""
        return (
            datetime.now(UTC) - datetime.fromisoformat(self.manifest.consistent_at)
        ).total_seconds()


def prepare(deployment: Deployment, name: str, to: str, point: str | None) -> Prepared:
    """Read the recovery point (the newest by default) and plan its recovery at site `to`.

    Raises:
        NotFound: there is no such recovery point.
        InvalidInput: `to` is not the VNF's backup site.
        PreflightFailed: the site lacks something; all that it lacks is named.
    """
    deployment.config.site(to)
    local = deployment.vnfs.find(name)
    if local is not None:
        _must_be_backup_site(local, to)
    site = deployment.site(to)
    manifest = points.read(deployment.vault, name, point)
    if to == manifest.topology.site:
        raise InvalidInput(
            f"recovery point {manifest.id} was taken at {to}; a failover goes to another site"
        )
    manifest, warnings = _with_local_definition(manifest, local)
    _must_be_backup_site(manifest.vnf, to)
    made = plan.make_plan(manifest, site)
    fence = (
        f"antipode cannot know whether {name} still runs at {manifest.topology.site}, and does "
        "not ask there;"
        " see that it is fenced: two active copies of a VNF destroy each other's service"
    )
    return Prepared(manifest, made, site, [fence, *warnings, *made.warnings])


class Confirmed(Model):
    """A failover as the operator has confirmed it: kept with the run, so that it is this one
    whoever goes on with it.
    """

    to: str
    recovery_point: str
    vnf: Vnf
    plan: RecoveryPlan
    """without the user_data of its servers, which is in the manifest and in no database for longer
    than the run takes
    """
    confirmed_at: float
    """seconds since the epoch"""

    @classmethod
    def of(cls, prepared: Prepared) -> Confirmed:
        plan = prepared.plan
        bare = plan.model_copy(
            update={"servers": [s.model_copy(update={"user_data": None}) for s in plan.servers]}
        )
        return cls(
            to=prepared.site.name,
            recovery_point=plan.recovery_point,
            vnf=prepared.manifest.vnf,
            plan=bare,
            confirmed_at=time.time(),
        )

    def whole_plan(self, manifest: Manifest) -> RecoveryPlan:
        user_data = {s.name: s.user_data for s in manifest.topology.servers}
        servers = [s.model_copy(update={"user_data": user_data[s.name]}) for s in self.plan.servers]
        return self.plan.model_copy(update={"servers": servers})


def failover(deployment: Deployment, prepared: Prepared, observer: Observer) -> Json:
    """Recover the VNF as planned; a record of it. RTO is counted from the call, which is the
    operator's confirmation.

    Raises:
        Busy: another failover of the VNF is under way.
        AntipodeError: it stopped; what was created is left, to be gone on with or taken back.
    """
    with deployment.claims.begin(asked(prepared)) as claim:
        return execute(deployment, claim.run, claim, observer)


def asked(prepared: Prepared) -> RunRow:
    """A failover as the operator confirms it now; neither kept nor begun yet."""
    return new_run(
        "failover", prepared.manifest.vnf.vnf, Confirmed.of(prepared).model_dump(mode="json")
    )


def _fail_over(run: Run) -> None:
    confirmed = Confirmed.model_validate(run.request)
    for other in run.deployment.runs.open(run.vnf):
        if other.kind == "protect":
            # not waited for: it may hang at the site that died, and nothing that it does or takes
            # back is needed here
            run.deployment.runs.request_abort(other.id)
    site = run.site(confirmed.to)
    manifest = points.read(run.deployment.vault, run.vnf, confirmed.recovery_point).model_copy(
        update={"vnf": confirmed.vnf}
    )
    rpo_s = confirmed.confirmed_at - datetime.fromisoformat(manifest.consistent_at).timestamp()
    run.result.update(
        vnf=run.vnf, site=site.name, recovery_point=manifest.id, rpo_s=round(rpo_s, 3)
    )
    slots = run.deployment.limits.restores(site.name, run.party)
    recovery = Recovery(
        run, manifest, confirmed.whole_plan(manifest), site, Found(site), slots, run.timeline
    )
    run.touches_clouds()
    try:
        results = run_flow(failover_flow(recovery), run, workers=4 * len(recovery.plan.servers))
        run.result["servers"] = {
            s.name: results[f"server_id of {s.name}"] for s in recovery.plan.servers
        }
    except (ClaimLost, Halted, Aborted):
        raise
    except KeyboardInterrupt as error:
        raise _with_next_commands(
            Interrupted(
                "interrupted by a signal; what was being created at the site goes on there"
            ),
            run,
        ) from error
    except AntipodeError as error:
        raise _with_next_commands(error, run) from error.__cause__
    finally:
        steps = run.timeline.kept()
        run.result = {"servers": _booted(steps), **run.result, "rto_breakdown_s": _breakdown(steps)}
    run.result["rto_s"] = round(time.time() - confirmed.confirmed_at, 3)
    # A request of a process that died, of this run or one before it, may have come through since:
    # Cinder makes a volume twice.
    if left := rollback.remove_twins(site, recovery.plan, run.timeline, run.go_on):
        run.result["left"] = left


def _breakdown(steps: list[StepRow]) -> dict[str, float]:
    """From when to when each phase lasted over all servers, in seconds. Phases of different servers
    overlap.

    Of the steps that are kept: a process that died has measured some of them.
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
        if s.name == "boot server" and s.state == "succeeded"
    }


def _too_late(run: Run) -> str | None:
    return (
        f"{run.vnf} is recovered"
        if flow_runner.is_complete(run.deployment.config, run.id)
        else None
    )


def _take_back(run: Run) -> list[str]:
    """Remove what the run has made at the backup site.

    The primary is not asked anything, nor is the vault.
    """
    local = run.deployment.vnfs.find(run.vnf)
    if "to" not in run.request and local is None:
        raise InvalidInput(
            f"where {run.id} was recovering to is not known: an older antipode made it; add the "
            f"file of {run.vnf}: antipode vnf add FILE"
        )
    to = run.request["to"] if "to" in run.request or local is None else local.backup
    made = RecoveryPlan.model_validate(run.request["plan"]) if "plan" in run.request else None
    return rollback.remove(run.site(to), run.id, made, run.timeline, run.go_on)


@dataclass(frozen=True)
class Recovery:
    """What the tasks of one recovery work with.

    `found` is what the site has already, `slots` bounds the volumes restored at once.
    """

    run: Run
    manifest: Manifest
    plan: RecoveryPlan
    site: Site
    found: Found
    slots: SlotsOf
    timeline: RecordedTimeline

    def slots_of(self, server: str) -> SlotsOf:
        """The way to the slots: volumes of servers that boot earlier are restored first, should
        there be too few slots for all.
        """
        return self.slots.at(len(self.plan.all_before(server)))


def failover_flow(recovery: Recovery) -> Any:
    """The recipe, for each server: restore its volumes and make its ports, boot it once its
    predecessors are there, await its answer.
    """
    flow = graph_flow.Flow(f"failover {recovery.manifest.vnf.vnf}")
    names = [server.name for server in recovery.plan.servers]
    boots = {name: Boot(recovery, name) for name in names}
    there = {name: AwaitAnswer(recovery, name) for name in names}
    for name in names:
        flow.add(Restore(recovery, name), MakePorts(recovery, name), boots[name], there[name])
    for server in recovery.plan.servers:
        for predecessor in server.after:
            flow.link(there[predecessor], boots[server.name])
    return flow


class ServerTask(task.Task):  # type: ignore[misc]
    """A task about one server of a recovery; `takes` are the results of other tasks about the same
    server that it needs.
    """

    gives = ""
    takes: tuple[str, ...] = ()

    def __init__(self, recovery: Recovery, server: str) -> None:
        super().__init__(
            name=f"{type(self).__name__} {server}",
            provides=f"{self.gives} of {server}" if self.gives else None,
            rebind={what: f"{what} of {server}" for what in self.takes},
        )
        self.recovery = recovery
        self.run = recovery.run
        self.server = server


class Restore(ServerTask):
    gives = "volumes"

    @guarded
    def execute(self) -> dict[str, str]:
        r = self.recovery
        records.import_chains(r.site, r.found, r.manifest, self.server, r.timeline)
        slots = r.slots_of(self.server)
        return dict(
            backup.restore_volumes(
                r.site, r.found, r.manifest, r.plan, self.server, r.run.id, slots, r.timeline
            )
        )


class MakePorts(ServerTask):
    gives = "ports"

    @guarded
    def execute(self) -> list[str]:
        r = self.recovery
        return list(
            ports.create_ports(r.site, r.manifest, r.plan, self.server, r.run.id, r.timeline)
        )


class Boot(ServerTask):
    gives = "server_id"
    takes = ("volumes", "ports")

    @guarded
    def execute(self, volumes: dict[str, str], ports: list[str]) -> str:
        r = self.recovery
        removed = rollback.remove_failed(
            r.site, r.found, r.manifest, r.plan, self.server, r.timeline, r.run.go_on
        )
        # Nova takes volumes along that are to be deleted with a server; whoever was at the run
        # before us may have died just then.
        if removed or (r.run.claim.number > 1 and not _are_there(r.site, volumes.values())):
            volumes, ports = _restored_again(r, self.server)
        return str(
            servers.boot(
                r.site,
                r.found,
                r.manifest,
                r.plan,
                self.server,
                volumes,
                ports,
                r.run.id,
                r.timeline,
            )
        )


def _are_there(site: Site, ids: Iterable[str]) -> bool:
    """Whether all these volumes exist and none of them is being deleted."""
    return all(
        (volume := site.volumes.volume(i)) is not None and volume["status"] != "deleting"
        for i in ids
    )


def _restored_again(r: Recovery, server: str) -> tuple[dict[str, str], list[str]]:
    """The volumes and ports of a server that was deleted: those that are still there, the others
    anew.
    """
    restored = backup.restore_volumes(
        r.site, Found(r.site), r.manifest, r.plan, server, r.run.id, r.slots_of(server), r.timeline
    )
    return restored, ports.create_ports(r.site, r.manifest, r.plan, server, r.run.id, r.timeline)


class AwaitAnswer(ServerTask):
    takes = ("server_id",)

    @guarded
    def execute(self, server_id: str) -> None:
        r = self.recovery
        probes.await_answer(r.site, r.manifest, self.server, server_id, r.timeline, r.run.go_on)


def _must_be_backup_site(vnf: Vnf, to: str) -> None:
    if to != vnf.backup:
        raise InvalidInput(
            f"{vnf.vnf} is backed up to {vnf.backup}, not to {to}; its backups can be restored "
            f"at {vnf.backup} only"
        )


def _with_local_definition(manifest: Manifest, local: Vnf | None) -> tuple[Manifest, list[str]]:
    """The manifest with the definition as the operator has it now, so that a mapping can be mended
    with the primary gone.
    """
    if local is None or local == manifest.vnf:
        return manifest, []
    if [m.server for m in local.members] != [m.server for m in manifest.vnf.members]:
        return manifest, [
            "the VNF file added here names other members than the recovery point; the one in the "
            "recovery point is used"
        ]
    warning = (
        "the VNF file was changed since the recovery point was made; the one added here is used"
    )
    return manifest.model_copy(update={"vnf": local}), [warning]


def _with_next_commands(error: AntipodeError, run: Run) -> AntipodeError:
    """The error with a note on what is left behind and how to go on."""
    booted = ", ".join(_booted(run.timeline.kept())) or "none"
    vnf, site, point = run.vnf, run.request["to"], run.request["recovery_point"]
    error.add_note(
        f"Nothing was removed at {site}; servers booted so far: {booted}."
        f" Everything that was created carries the metadata antipode:run={run.id}.\n"
        f"Mend the cause and go on from the last finished step: antipode run resume {run.id}\n"
        f"or plan anew, with what is there: antipode failover {vnf} --to {site} --recovery-point "
        f"{point}\n"
        f"or remove what it has created: antipode run abort {run.id}"
    )
    return error


KIND = Kind(
    flow_version=1,
    do=_fail_over,
    take_back=_take_back,
    too_late=_too_late,
    takes_back_failures=False,
)
