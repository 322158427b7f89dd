# SPDX-License-Identifier: Apache-2.0
"""What antipode's engine itself costs: real runs on SQLite, with claims, tasks, steps and ledger,
whose work in the clouds takes no time.

`python -m bench.engine` prints it; `make bench` does so beside what it measures on the lab.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine import deployment, flow_runner
from antipode.engine.timeline import Unobserved
from antipode.model.capture import Capture, QuiesceWindow, Transferred
from antipode.model.plan import PortPlan, RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupChain, BackupRecord
from antipode.model.steps import Steps
from antipode.model.topology import Attachment, FixedAddress, Flavor, Port, Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.operations import failover, protect
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot import QuiescedSnapshot
from antipode.recover import plan, ports, probes, rollback, servers
from antipode.recover.recovery import Recovery
from antipode.recover.sources.backup import FromBackups
from antipode.runs import failover as recovering_runs
from antipode.runs import protect as protecting_runs
from antipode.topology import discovery
from antipode.transfer.cinder_backup import CinderBackup

PRIMARY, BACKUP = "site-a", "site-b"
VOLUMES = 2
"""of each server"""
PROTECTED, RECOVERED = 20, 500
"""volumes of the VNF that is protected, and of the one that is failed over"""
SHARE_OF_PROTECT = 0.02
"""What the engine may take of a protection's time"""
FAILOVER_S = 30.0
"""What the bookkeeping of a failover of so many volumes may take in all"""


@dataclass(frozen=True)
class Cost:
    """What one run took of which all work was played. The steps are those that an operator sees."""

    act: str
    volumes: int
    tasks: int
    steps: int
    seconds: float
    cpu_s: float

    def __str__(self) -> str:
        per_task = 1000 * self.seconds / self.tasks
        return (
            f"engine, {self.act} of {self.volumes} volumes: {self.seconds:.2f} s "
            f"({self.cpu_s:.2f} s of CPU)"
            f" for {self.tasks} tasks and {self.steps} steps, {per_task:.1f} ms a task"
        )


@dataclass(frozen=True)
class Costs:
    protect: Cost
    failover: Cost

    def as_json(self) -> dict[str, Any]:
        return {"protect": asdict(self.protect), "failover": asdict(self.failover)}

    def lines(self, protect_s: float | None) -> Iterator[str]:
        """The costs beside their goals.

        `protect_s` is what a real protection takes that is no larger; None: not measured.
        """
        if protect_s is None:
            yield (
                f"{self.protect}; at most {SHARE_OF_PROTECT:.0%} of a protection: not measured "
                "beside one"
            )
        else:
            share = self.protect.seconds / protect_s
            met = "met" if share <= SHARE_OF_PROTECT else "NOT MET"
            yield (
                f"{self.protect}; {share:.1%} of the {protect_s:.1f} s of a smaller one on the "
                f"lab, at most {SHARE_OF_PROTECT:.0%}: {met}"
            )
        yield (
            f"{self.failover}; at most {FAILOVER_S:g} s: "
            f"{'met' if self.failover.seconds <= FAILOVER_S else 'NOT MET'}"
        )


def measure(protected: int = PROTECTED, recovered: int = RECOVERED) -> Costs:
    """Protect a VNF of so many volumes, and fail another over.

    The first protection of each, which makes the databases, does not count.
    """
    with _installation(protected) as small:
        small.cost("protect")
        protect = small.cost("protect")
    with _installation(recovered) as large:
        large.cost("protect")
        return Costs(protect, large.cost("failover"))


@contextmanager
def _installation(volumes: int) -> Iterator[_Installation]:
    with (
        tempfile.TemporaryDirectory(prefix="antipode-bench-engine-") as folder,
        ExitStack() as patches,
    ):
        installation = _Installation(Path(folder), topology(volumes // VOLUMES))
        for module, name, play in _plays(installation):
            patches.enter_context(patch.object(module, name, play))
        yield installation


class _Installation:
    """An antipode with a database and a vault in a folder, which knows one VNF and two sites that
    do all at once.
    """

    def __init__(self, folder: Path, vnf: Topology) -> None:
        (folder / "vault").mkdir()
        file = folder / "antipode.yaml"
        file.write_text(
            f"sites:\n  {PRIMARY}: {{cloud: a}}\n  {BACKUP}: {{cloud: b}}\n"
            f"vault: {{directory: {folder / 'vault'}}}\ndatabase: "
            f"sqlite:///{folder / 'antipode.db'}\n"
        )
        self.deployment = deployment.Deployment(config.load(str(file)))
        self.vnf = vnf
        self.tasks = 0
        members = [{"server": s.name} for s in vnf.servers]
        self.deployment.vnfs.put(
            Vnf.model_validate(
                {
                    "vnf": vnf.vnf,
                    "primary": PRIMARY,
                    "backup": BACKUP,
                    "members": members,
                    "store_at_active_site": "accepted",
                }
            )
        )

    def cost(self, act: str) -> Cost:
        self.tasks = 0
        began, cpu = time.monotonic(), time.process_time()
        if act == "protect":
            done = protect.protect(self.deployment, self.vnf.vnf, Unobserved())
        else:
            prepared = failover.prepare(self.deployment, self.vnf.vnf, BACKUP, None)
            done = failover.failover(self.deployment, prepared, Unobserved())
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        steps = len(self.deployment.runs.steps(done["run"]))
        return Cost(act, len(self.vnf.volumes), self.tasks, steps, seconds, cpu_s)

    def run_flow(self, flow: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        self.tasks += len(flow)
        return flow_runner.run_flow(flow, *arguments, **named)


# ---- the work, played ----


def _plays(installation: _Installation) -> list[tuple[Any, str, Any]]:
    """What stands in for all that would call a cloud.

    It takes no time, and tells the timeline what the real one tells.
    """

    def nothing(*_: object, **__: object) -> None:
        """All is well."""

    def discover(*_: object) -> Topology:
        return installation.vnf

    def capture(_: object, protecting: Protecting, vnf: Topology) -> Capture:
        now = datetime.now(UTC)
        p = protecting
        rows = [p.ledger.freezing(p.site.name, s.id, s.name, 60.0) for s in vnf.servers]
        for name in (Steps.QUIESCE, Steps.UNQUIESCE):
            for server in vnf.servers:
                p.timeline.past(name, server.name, started=now, ended=now)
        p.timeline.past(Steps.SNAPSHOT, "", started=now, ended=now)
        for row in rows:
            p.ledger.thawed(row)
        window = QuiesceWindow(total_s=1.0, per_member_s={s.name: 1.0 for s in vnf.servers})
        return Capture(
            snapshots={v.id: f"snapshot-{v.id}" for v in vnf.volumes},
            consistent_at=now.isoformat(),
            window=window,
        )

    def transfer(_: object, protecting: Protecting, vnf: Topology, *more: object) -> Transferred:
        sources = {}
        for volume in vnf.volumes:
            with protecting.timeline.step(Steps.BACK_UP, volume.name) as step:
                record = _record(volume)
                sources[volume.id] = BackupChain(backups=[record])
                step.result(backup_id=record.id, size_gib=1, incremental=False)
        return Transferred(sources=sources)

    def make_plan(point: RecoveryPoint, _site: object) -> RecoveryPlan:
        servers = [_planned(s) for s in installation.vnf.servers]
        return RecoveryPlan(
            recovery_point=point.id, vnf=point.vnf.vnf, site=BACKUP, servers=servers
        )

    def provide(
        _: object, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        with recovery.timeline.step(Steps.IMPORT_RECORDS, server) as step:
            step.result(imported=VOLUMES, known=0)
        restored, slots = {}, recovery.slots_of(server)
        for volume in volumes:
            with slots.hold(), recovery.timeline.step(Steps.RESTORE_VOLUME, volume.name) as step:
                restored[volume.source_id] = f"restored-{volume.source_id}"
                step.result(volume_id=restored[volume.source_id], found=False)
        return restored

    def create_ports(recovery: Recovery, server: str) -> list[str]:
        with recovery.timeline.step(Steps.CREATE_PORTS, server):
            return [f"made-{p.source_id}" for p in recovery.plan.server(server).ports]

    def boot(recovery: Recovery, server: str, *_: object) -> str:
        with recovery.timeline.step(Steps.BOOT_SERVER, server) as step:
            step.result(server_id=f"booted-{server}", found=False)
        return f"booted-{server}"

    def await_answer(recovery: Recovery, server: str, _server_id: str) -> None:
        with recovery.timeline.step(Steps.PROBE, server):
            """It answers."""

    return [
        (cloud_site, "connect", lambda name, cloud: _Site(name)),
        (protecting_runs, "run_flow", installation.run_flow),
        (protecting_runs, "remove_orphans_of", nothing),
        (protecting_runs, "problems_of", lambda *_: []),
        (discovery, "discover", discover),
        (protecting_runs, "must_be_as_discovered", nothing),
        (QuiescedSnapshot, "capture", capture),
        (QuiescedSnapshot, "release", nothing),
        (CinderBackup, "transfer", transfer),
        (recovering_runs, "run_flow", installation.run_flow),
        (plan, "make_plan", make_plan),
        (FromBackups, "provide", provide),
        (ports, "create_ports", create_ports),
        (rollback, "remove_failed", nothing),
        (rollback, "remove_twins", nothing),
        (servers, "boot", boot),
        (probes, "await_answer", await_answer),
    ]


class _Site:
    """A connection to a site by which nothing is sent; it has no quotas."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.project_id = "none"
        self.hidden = frozenset[str]()
        self.volumes = SimpleNamespace(quota=lambda _project: {})

    def under(self, *_: object) -> Self:
        return self

    def impatient(self, _patience_s: float) -> Self:
        return self

    def without(self, _ids: Collection[str]) -> Self:
        return self


def topology(servers: int) -> Topology:
    """A VNF of so many servers with two volumes and a port each, as it is discovered."""
    flavor = Flavor(name="small", vcpus=1, ram_mib=128, disk_gib=0)
    found = []
    for number in range(servers):
        name = f"server-{number}"
        volumes = [
            Volume(
                id=f"{name}-{i}",
                name=f"{name}-{i}",
                size_gib=1,
                volume_type="standard",
                bootable=i == 0,
            )
            for i in range(VOLUMES)
        ]
        attachments = [
            Attachment(volume=v, device=f"/dev/vd{'abcdefgh'[i]}", is_root=i == 0)
            for i, v in enumerate(volumes)
        ]
        fixed = FixedAddress(
            address=f"10.0.{number // 250}.{1 + number % 250}",
            subnet_cidr="10.0.0.0/16",
            subnet_name="subnet",
        )
        mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
        port = Port(id=f"{name}-port", name="", network="net", mac_address=mac, fixed=[fixed])
        found.append(
            Server(
                id=f"id-{name}",
                name=name,
                hostname=name,
                flavor=flavor,
                attachments=attachments,
                ports=[port],
            )
        )
    return Topology(
        vnf="vnf", site=PRIMARY, discovered_at=datetime.now(UTC).isoformat(), servers=found
    )


def _record(volume: Volume) -> BackupRecord:
    fields = {
        "id": f"backup-{volume.id}",
        "volume_id": volume.id,
        "parent_id": None,
        "service_metadata": f"volume_{volume.id}",
    }
    return BackupRecord(
        id=f"backup-{volume.id}",
        volume_id=volume.id,
        parent_id=None,
        size_gib=1,
        object_count=2,
        container="volumebackups",
        created_at=datetime.now(UTC).isoformat(),
        service="cinder.backup.drivers.swift.SwiftBackupDriver",
        url=base64.b64encode(json.dumps(fields).encode()).decode(),
    )


def _planned(server: Server) -> ServerPlan:
    volumes = [
        VolumePlan(
            source_id=a.volume.id,
            source_kind="backup-chain",
            source_reference=f"backup-{a.volume.id}",
            name=a.volume.name,
            description="",
            size_gib=1,
            volume_type="standard",
            availability_zone=None,
            metadata={},
            image_metadata={},
            is_root=a.is_root,
            delete_on_termination=False,
            tag=None,
        )
        for a in server.attachments
    ]
    ports = [
        PortPlan(
            source_id=p.id,
            name="",
            network="net",
            network_id="network",
            mac_address=p.mac_address,
            fixed={p.fixed[0].address: "subnet"},
            security_group_ids=[],
            allowed_address_pairs=[],
            port_security_enabled=True,
            vnic_type="normal",
            device_tag=None,
            tags=[],
        )
        for p in server.ports
    ]
    return ServerPlan(
        source_id=server.id,
        name=server.name,
        hostname=server.name,
        flavor="small",
        flavor_id="flavor",
        availability_zone=None,
        volumes=volumes,
        ports=ports,
        metadata={},
        tags=[],
        keypair=None,
        user_data=None,
        config_drive=False,
        description=None,
        server_group=None,
        after=[],
        answers=None,
    )


if __name__ == "__main__":
    print(*measure().lines(None), sep="\n")
