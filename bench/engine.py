"""The cost of antipode's engine itself: real runs on SQLite, with claims, tasks, steps and ledger,
whose work in the clouds takes no time.

`python -m bench.engine` prints it; `make bench` does so beside what it measures on the lab.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine import deployment, flow_runner
from antipode.engine.timeline import Unobserved
from antipode.model.capture import BackupSet, SnapshotSet
from antipode.model.plan import PortPlan, RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import BackupRecord, Manifest, QuiesceWindow
from antipode.model.steps import Timeline
from antipode.model.topology import Attachment, FixedAddress, Flavor, Port, Server, Topology, Volume
from antipode.model.vnf import Vnf
from antipode.protect import checks, remains
from antipode.protect.quiesced_snapshot import window
from antipode.protect.quiesced_snapshot.window import FreezeLedger
from antipode.recover import plan, ports, probes, rollback, servers
from antipode.recover.sources import backup, records
from antipode.runs import failover as failover_flow
from antipode.runs import orphans
from antipode.runs import protect as protect_flow
from antipode.topology import discovery
from antipode.transfer import cinder_backup

PRIMARY, BACKUP = "site-a", "site-b"
VOLUMES = 2
"""of each server"""
PROTECTED, RECOVERED = 20, 500
"""volumes of the VNF that is protected, and of the one that is failed over"""
SHARE_OF_PROTECT = 0.02
"""The engine's largest share of a protection's time"""
FAILOVER_S = 30.0
"""The longest that the bookkeeping of a failover of so many volumes may take"""


@dataclass(frozen=True)
class Cost:
    """The cost of one run with all cloud work simulated. The steps are those that operators see."""

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
                {"vnf": vnf.vnf, "primary": PRIMARY, "backup": BACKUP, "members": members}
            )
        )

    def cost(self, act: str) -> Cost:
        self.tasks = 0
        began, cpu = time.monotonic(), time.process_time()
        if act == "protect":
            done = protect_flow.protect(self.deployment, self.vnf.vnf, Unobserved())
        else:
            prepared = failover_flow.prepare(self.deployment, self.vnf.vnf, BACKUP, None)
            done = failover_flow.failover(self.deployment, prepared, Unobserved())
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        steps = len(self.deployment.runs.steps(done["run"]))
        return Cost(act, len(self.vnf.volumes), self.tasks, steps, seconds, cpu_s)

    def run_flow(self, flow: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        self.tasks += len(flow)
        return flow_runner.run_flow(flow, *arguments, **named)


# ---- the work, simulated ----


def _plays(installation: _Installation) -> list[tuple[Any, str, Any]]:
    """Stand-ins for everything that would call a cloud.

    They take no time, and write the same timeline.
    """

    def nothing(*_: object, **__: object) -> None:
        """All is well."""

    def discover(*_: object) -> Topology:
        return installation.vnf

    def quiesced_snapshots(
        site: _Site,
        vnf: Topology,
        _quiesce: object,
        _key: str,
        ledger: FreezeLedger,
        timeline: Timeline,
        **_: object,
    ) -> SnapshotSet:
        now = datetime.now(UTC)
        rows = [
            ledger.freezing(site.name, s.id, s.name, now + timedelta(minutes=1))
            for s in vnf.servers
        ]
        for number, name in (("1.2", "quiesce"), ("1.4", "unquiesce")):
            for server in vnf.servers:
                timeline.past(number, name, server.name, started=now, ended=now)
        timeline.past("1.3", "snapshot all volumes", started=now, ended=now)
        for row in rows:
            ledger.thawed(row)
        window = QuiesceWindow(total_s=1.0, per_member_s={s.name: 1.0 for s in vnf.servers})
        return SnapshotSet(
            snapshots={v.id: f"snapshot-{v.id}" for v in vnf.volumes},
            consistent_at=now.isoformat(),
            window=window,
        )

    def back_up(
        _site: object,
        vnf: Topology,
        _taken: object,
        _previous: object,
        _key: str,
        timeline: Timeline,
        **_: object,
    ) -> BackupSet:
        records = {}
        for volume in vnf.volumes:
            with timeline.step("1.6", "back up volume", volume.name) as step:
                records[volume.id] = _record(volume)
                step.result(backup_id=records[volume.id].id, size_gib=1, incremental=False)
        return BackupSet(
            restore={v: r.id for v, r in records.items()},
            backups={r.id: r for r in records.values()},
        )

    def make_plan(manifest: Manifest, _site: object) -> RecoveryPlan:
        servers = [_planned(s) for s in installation.vnf.servers]
        return RecoveryPlan(
            recovery_point=manifest.id, vnf=manifest.vnf.vnf, site=BACKUP, servers=servers
        )

    def import_chains(
        _site: object, _found: object, _manifest: object, server: str, timeline: Timeline
    ) -> None:
        with timeline.step("1.7.1", "import backup records", server) as step:
            step.result(imported=VOLUMES, known=0)

    def restore_volumes(
        _site: object,
        _found: object,
        _manifest: object,
        plan: RecoveryPlan,
        server: str,
        _run: str,
        slots: Any,
        timeline: Timeline,
    ) -> dict[str, str]:
        restored = {}
        for volume in plan.server(server).volumes:
            with slots, timeline.step("1.7.1", "restore volume", volume.name) as step:
                restored[volume.source_id] = f"restored-{volume.source_id}"
                step.result(
                    volume_id=restored[volume.source_id], backup_id=volume.backup_id, found=False
                )
        return restored

    def create_ports(
        _site: object,
        _manifest: object,
        plan: RecoveryPlan,
        server: str,
        _run: str,
        timeline: Timeline,
    ) -> list[str]:
        with timeline.step("1.7.2", "create ports", server):
            return [f"made-{p.source_id}" for p in plan.server(server).ports]

    def boot(
        _site: object, _found: object, _manifest: object, _plan: object, server: str, *more: Any
    ) -> str:
        timeline: Timeline = more[-1]
        with timeline.step("1.7.2", "boot server", server) as step:
            step.result(server_id=f"booted-{server}", found=False)
        return f"booted-{server}"

    def await_answer(
        _site: object, _manifest: object, server: str, timeline: Timeline, *_: object
    ) -> None:
        with timeline.step("1.7.2", "await answer", server):
            """It answers."""

    return [
        (cloud_site, "connect", lambda name, cloud: _Site(name)),
        (protect_flow, "run_flow", installation.run_flow),
        (orphans, "remove_of_protections", nothing),
        (discovery, "discover", discover),
        (checks, "check_protect", nothing),
        (window, "quiesced_snapshots", quiesced_snapshots),
        (cinder_backup, "back_up", back_up),
        (remains, "remove_snapshots", nothing),
        (failover_flow, "run_flow", installation.run_flow),
        (plan, "make_plan", make_plan),
        (records, "import_chains", import_chains),
        (backup, "restore_volumes", restore_volumes),
        (ports, "create_ports", create_ports),
        (rollback, "remove_failed", nothing),
        (rollback, "remove_twins", nothing),
        (servers, "boot", boot),
        (probes, "await_answer", await_answer),
    ]


class _Site:
    """A connection to a site that sends nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def under(self, *_: object) -> Self:
        return self

    def impatient(self, _patience_s: float) -> Self:
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
            backup_id=f"backup-{a.volume.id}",
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
