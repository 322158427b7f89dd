"""The flow that brings a VNF back at its backup site, from the vault and that site alone: nothing here may ask the primary."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taskflow import task
from taskflow.patterns import graph_flow

from antipode.engine.deployment import Deployment
from antipode.engine.flows import guarded, run_flow
from antipode.engine.runs import begin
from antipode.engine.timeline import Observer, RecordedTimeline
from antipode.errors import AntipodeError, Interrupted, InvalidInput
from antipode.model.manifest import Manifest
from antipode.model.plan import RecoveryPlan
from antipode.model.vnf import Vnf
from antipode.recover import answers, backups, plan, ports, servers, volumes
from antipode.vault import manifests

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Json = dict[str, Any]


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
        return (datetime.now(UTC) - datetime.fromisoformat(self.manifest.consistent_at)).total_seconds()


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
    manifest = manifests.read(deployment.vault, name, point)
    if to == manifest.topology.site:
        raise InvalidInput(f"recovery point {manifest.id} was taken at {to}; a failover goes to another site")
    manifest, warnings = _with_local_definition(manifest, local)
    _must_be_backup_site(manifest.vnf, to)
    made = plan.make_plan(manifest, site)
    fence = (
        f"antipode cannot know whether {name} still runs at {manifest.topology.site}, and does not ask there;"
        " see that it is fenced: two active copies of a VNF destroy each other's service"
    )
    return Prepared(manifest, made, site, [fence, *warnings, *made.warnings])


def failover(deployment: Deployment, prepared: Prepared, observer: Observer) -> Json:
    """Recover the VNF as planned; a record of it. RTO is counted from the call, which is the operator's confirmation.

    Raises:
        AntipodeError: it stopped; what was created is left and is used again by the next try with the same recovery point.
    """
    confirmed, rpo_s = time.monotonic(), prepared.age_s
    manifest, name, site = prepared.manifest, prepared.manifest.vnf.vnf, prepared.site
    with begin(deployment, "failover", name, observer) as run:
        run.result.update(vnf=name, site=site.name, recovery_point=manifest.id, rpo_s=round(rpo_s, 3))
        slots = threading.Semaphore(deployment.config.limits.restores)
        recovery = Recovery(run.id, manifest, prepared.plan, site, slots, run.timeline)
        try:
            run_flow(failover_flow(recovery), run.id, deployment.config, workers=4 * len(prepared.plan.servers))
        except KeyboardInterrupt as error:
            raise _with_retry(Interrupted("interrupted by a signal; what was being created at the site goes on there"), recovery) from error
        except AntipodeError as error:
            raise _with_retry(error, recovery) from error.__cause__
        finally:
            run.result.update(rto_breakdown_s=recovery.phases.seconds(), servers=dict(recovery.booted))
        run.result["rto_s"] = round(time.monotonic() - confirmed, 3)
    return {"run": run.id, **run.result}


class Phases:
    """From when to when each phase of a recovery lasted over all servers. Phases of different servers overlap."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        with self._lock:
            self._began.setdefault(phase, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._ended[phase] = time.monotonic()

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return {p: round(self._ended.get(p, time.monotonic()) - began, 3) for p, began in self._began.items()}


@dataclass(frozen=True)
class Recovery:
    """What the tasks of one recovery work with. `slots` bounds the volumes that are restored at once."""

    run: str
    manifest: Manifest
    plan: RecoveryPlan
    site: Site
    slots: threading.Semaphore
    timeline: RecordedTimeline
    phases: Phases = field(default_factory=Phases)
    booted: dict[str, str] = field(default_factory=dict)
    """server name -> its new id"""


def failover_flow(recovery: Recovery) -> Any:
    """The recipe, for each server: restore its volumes and make its ports, boot it once its predecessors are there, await its answer."""
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
    """A task about one server of a recovery; `takes` are the results of other tasks about the same server that it needs."""

    gives = ""
    takes: tuple[str, ...] = ()

    def __init__(self, recovery: Recovery, server: str) -> None:
        super().__init__(
            name=f"{type(self).__name__} {server}",
            provides=f"{self.gives} of {server}" if self.gives else None,
            rebind={what: f"{what} of {server}" for what in self.takes},
        )
        self.recovery = recovery
        self.server = server


class Restore(ServerTask):
    gives = "volumes"

    @guarded
    def execute(self) -> dict[str, str]:
        r = self.recovery
        with r.phases.during("import"):
            backups.import_chains(r.site, r.manifest, self.server, r.timeline)
        with r.phases.during("restore"):
            return dict(volumes.restore_volumes(r.site, r.manifest, r.plan, self.server, r.run, r.slots, r.timeline))


class MakePorts(ServerTask):
    gives = "ports"

    @guarded
    def execute(self) -> list[str]:
        r = self.recovery
        with r.phases.during("ports"):
            return list(ports.create_ports(r.site, r.manifest, r.plan, self.server, r.run, r.timeline))


class Boot(ServerTask):
    gives = "server_id"
    takes = ("volumes", "ports")

    @guarded
    def execute(self, volumes: dict[str, str], ports: list[str]) -> str:
        r = self.recovery
        with r.phases.during("boot"):
            server_id = str(servers.boot(r.site, r.manifest, r.plan, self.server, volumes, ports, r.run, r.timeline))
        r.booted[self.server] = server_id
        return server_id


class AwaitAnswer(ServerTask):
    takes = ("server_id",)

    @guarded
    def execute(self, server_id: str) -> None:
        r = self.recovery
        with r.phases.during("answers"):
            answers.await_answer(r.site, r.manifest, self.server, r.timeline)


def _must_be_backup_site(vnf: Vnf, to: str) -> None:
    if to != vnf.backup:
        raise InvalidInput(f"{vnf.vnf} is backed up to {vnf.backup}, not to {to}; its backups can be restored at {vnf.backup} only")


def _with_local_definition(manifest: Manifest, local: Vnf | None) -> tuple[Manifest, list[str]]:
    """The manifest with the definition as the operator has it now, so that a mapping can be mended with the primary gone."""
    if local is None or local == manifest.vnf:
        return manifest, []
    if [m.server for m in local.members] != [m.server for m in manifest.vnf.members]:
        return manifest, ["the VNF file added here names other members than the recovery point; the one in the recovery point is used"]
    warning = "the VNF file was changed since the recovery point was made; the one added here is used"
    return manifest.model_copy(update={"vnf": local}), [warning]


def _with_retry(error: AntipodeError, recovery: Recovery) -> AntipodeError:
    """The error with a note on what is left behind and how to go on."""
    booted = ", ".join(recovery.booted) or "none"
    vnf, site, point = recovery.manifest.vnf.vnf, recovery.site.name, recovery.manifest.id
    error.add_note(
        f"Nothing was removed at {site}; servers booted so far: {booted}."
        f" Everything that was created carries the metadata antipode:run={recovery.run}.\n"
        f"Mend the cause and run again, which uses what is there: antipode failover {vnf} --to {site} --recovery-point {point}"
    )
    return error
