# SPDX-License-Identifier: Apache-2.0
"""Examples that several tests use: a VNF of two members, its topology, its recovery points, an
object store in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from antipode.errors import NotFound
from antipode.model.capture import Capture, QuiesceWindow, Transferred
from antipode.model.plan import PortPlan, RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import BackupChain, BackupRecord
from antipode.model.state import Claim, ProtectedVnf, VnfState
from antipode.model.topology import Attachment, FixedAddress, Flavor, Port, Server, Topology, Volume
from antipode.model.vnf import Vnf

VNF_FILE = """\
vnf: hlr
primary: site-a
backup: site-b
members:
  - server: db
  - server: front
    boot_after: [db]
store_at_active_site: accepted
"""


def vnf(**changes: Any) -> Vnf:
    members = [{"server": "db"}, {"server": "front", "boot_after": ["db"]}]
    return Vnf.model_validate(
        {
            "vnf": "hlr",
            "primary": "site-a",
            "backup": "site-b",
            "members": members,
            "store_at_active_site": "accepted",
            **changes,
        }
    )


def topology() -> Topology:
    return Topology(
        vnf="hlr",
        site="site-a",
        discovered_at="2026-11-22T16:05:00Z",
        servers=[_server("db", 4), _server("front", 5)],
    )


def _server(name: str, number: int) -> Server:
    volume = Volume(
        id=f"vol-{name}",
        name=f"{name}-root",
        size_gib=1,
        volume_type="standard",
        bootable=True,
        backend_host="host@rbd#pool",
    )
    fixed = FixedAddress(address=f"10.0.0.{number}", subnet_cidr="10.0.0.0/24", subnet_name="sub")
    return Server(
        id=f"srv-{name}",
        name=name,
        hostname=name,
        flavor=Flavor(name="small", vcpus=1, ram_mib=128, disk_gib=0),
        attachments=[Attachment(volume=volume, device="/dev/vda", is_root=True)],
        ports=[
            Port(
                id=f"port-{name}",
                name="",
                network="net",
                mac_address=f"fa:16:3e:00:00:0{number}",
                fixed=[fixed],
            )
        ],
    )


def snapshots() -> Capture:
    return Capture(
        snapshots={"vol-db": "snap-1", "vol-front": "snap-2"},
        consistent_at="2026-11-22T16:05:01.000Z",
        window=QuiesceWindow(total_s=1.5, per_member_s={"db": 1.5, "front": 0.9}),
    )


def record(backup: str, volume: str, parent: str | None = None) -> BackupRecord:
    fields = {
        "id": backup,
        "volume_id": volume,
        "parent_id": parent,
        "service_metadata": f"volume_{volume}/{backup}",
    }
    return BackupRecord(
        id=backup,
        volume_id=volume,
        parent_id=parent,
        size_gib=1,
        object_count=2,
        container="volumebackups",
        created_at="2026-11-22T16:05:02Z",
        service="cinder.backup.drivers.swift.SwiftBackupDriver",
        url=base64.b64encode(json.dumps(fields).encode()).decode(),
    )


def chain(*records: BackupRecord) -> BackupChain:
    return BackupChain(backups=list(records))


def transferred() -> Transferred:
    return Transferred(
        sources={
            "vol-db": chain(record("b-db-0", "vol-db"), record("b-db-1", "vol-db", "b-db-0")),
            "vol-front": chain(record("b-front-0", "vol-front")),
        }
    )


def point(point: str = "20261122T160501Z-1a2b3c", **changes: Any) -> RecoveryPoint:
    taken = snapshots()
    values: dict[str, Any] = {
        "id": point,
        "vnf": vnf(),
        "run": "protect-1",
        "consistent_at": taken.consistent_at,
        "created_at": "2026-11-22T16:06:00Z",
        "consistency": "application",
        "quiesce_window": taken.window,
        "topology": topology(),
        "sources": transferred().sources,
        "made_by": "antipode 0",
    }
    return RecoveryPoint(**{**values, **changes})


def moved(state: VnfState) -> ProtectedVnf:
    """The VNF after its failover to site-b, in some state of it."""
    since = "2026-11-29T12:05:00+00:00"
    claim = Claim(
        vnf="hlr",
        generation=2,
        site="site-b",
        former_site="site-a",
        run="failover-1",
        host="h",
        since=since,
    )
    active = state is VnfState.ACTIVE
    return ProtectedVnf(
        vnf="hlr",
        active_site="site-b" if active else "site-a",
        generation=2 if active else 1,
        state=state,
        since=since,
        claim=claim,
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(p for key, inner in items for p in places(inner, (*path, key)))]


@dataclass
class MemoryStore:
    """An object store with one container."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def get(self, container: str, name: str) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise NotFound(f"no object {name} in {container}") from None

    def listing(self, container: str, prefix: str = "") -> list[Any]:
        return [
            SimpleNamespace(
                name=n, bytes=len(c), etag=hashlib.md5(c, usedforsecurity=False).hexdigest()
            )
            for n, c in sorted(self.objects.items())
            if n.startswith(prefix)
        ]

    def hold(self, backup: BackupRecord) -> None:
        """Hold a backup under the prefix that its record names."""
        self.hold_under(f"volume_{backup.volume_id}/{backup.id}")

    def hold_under(self, prefix: str) -> None:
        """What Cinder's chunked driver leaves in a store for a backup of two data objects."""
        names = [f"{prefix}-00001", f"{prefix}-00002"]
        self.objects |= {n: n.encode() for n in names}
        self.objects[f"{prefix}_metadata"] = json.dumps(
            {"objects": [{n: {"offset": 0, "length": 1, "md5": "?"}} for n in names]}
        ).encode()
        self.objects[f"{prefix}_sha256file"] = b"{}"


def servers_of(found: Topology) -> list[dict[str, Any]]:
    """The servers of a topology as Nova lists them."""
    return [
        {
            "id": server.id,
            "name": server.name,
            "status": "ACTIVE",
            "flavor": {
                "original_name": server.flavor.name,
                "vcpus": server.flavor.vcpus,
                "ram": server.flavor.ram_mib,
                "disk": server.flavor.disk_gib,
                "extra_specs": server.flavor.extra_specs,
            },
        }
        for server in found.servers
    ]


class NamedSite:
    """A connection to a site where all that is done is played by functions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.project: str | None = None
        self.project_id = "of-the-vnfs"
        self.objects = SimpleNamespace(account=f"https://{name}/v1/AUTH_of_the_vnfs")
        self.volumes = SimpleNamespace(quota=lambda _project: {})  # no limits
        self.compute: Any = SimpleNamespace(servers=lambda: servers_of(topology()))
        self.hidden = frozenset[str]()

    def without(self, _ids: Collection[str]) -> NamedSite:
        return self

    def under(self, *_: object) -> NamedSite:
        return self

    def impatient(self, _patience_s: float) -> NamedSite:
        return self


def write_config(folder: Path) -> Path:
    """A configuration whose vault, database and state are all in `folder`."""
    (folder / "vault").mkdir(exist_ok=True)
    path = folder / "antipode.yaml"
    path.write_text(
        "sites:\n  site-a: {cloud: a}\n  site-b: {cloud: b}\n"
        f"vault: {{directory: {folder / 'vault'}}}\ndatabase: sqlite:///{folder / 'antipode.db'}\n"
    )
    return path


def plan(**changes: Any) -> RecoveryPlan:
    servers = [_server_plan("db", []), _server_plan("front", ["db"])]
    return RecoveryPlan(
        **{
            "recovery_point": point().id,
            "vnf": "hlr",
            "site": "site-b",
            "servers": servers,
            **changes,
        }
    )


def _server_plan(name: str, after: list[str]) -> ServerPlan:
    source = topology().server(name)
    volume, port = source.volumes[0], source.ports[0]
    return ServerPlan(
        source_id=source.id,
        name=name,
        hostname=name,
        flavor="small",
        flavor_id="f-1",
        availability_zone=None,
        volumes=[
            VolumePlan(
                source_id=volume.id,
                source_kind="backup-chain",
                source_reference="b",
                name=volume.name,
                description="",
                size_gib=1,
                volume_type="standard",
                availability_zone=None,
                metadata={},
                image_metadata={},
                is_root=True,
                delete_on_termination=False,
                tag=None,
            )
        ],
        ports=[
            PortPlan(
                source_id=port.id,
                name="",
                network="net",
                network_id="n-1",
                mac_address=port.mac_address,
                fixed={port.fixed[0].address: "subnet-1"},
                security_group_ids=[],
                allowed_address_pairs=[],
                port_security_enabled=True,
                vnic_type="normal",
                device_tag=None,
                tags=[],
            )
        ],
        metadata={},
        tags=[],
        keypair=None,
        user_data=None,
        config_drive=False,
        description=None,
        server_group=None,
        after=after,
        answers=None,
    )
