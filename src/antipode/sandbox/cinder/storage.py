# SPDX-License-Identifier: Apache-2.0
"""State that the parts of Cinder share: the tables, the places of the bytes and the locks of their
writers, the clock, the quotas.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Caller, Refused
from antipode.sandbox.quotas import Quotas
from antipode.sandbox.work import Work

ZONE = "nova"
BACKEND = "rbd1"
POOL = "volumes"
"""of the cluster"""
QUOTAS = {
    "volumes": 500,
    "snapshots": 2000,
    "gigabytes": 20000,
    "backups": 2000,
    "backup_gigabytes": 20000,
    "groups": 200,
    "per_volume_gigabytes": -1,
}
LIMITED = {
    "volumes": "VolumeLimitExceeded",
    "snapshots": "SnapshotLimitExceeded",
    "backups": "BackupLimitExceeded",
}


class Storage:
    def __init__(
        self,
        site: str,
        database: Database,
        folder: Path,
        conditions: Conditions,
        work: Work,
        gib: int,
    ) -> None:
        self.site = site
        self.gib = gib
        self.folder = folder
        self.conditions = conditions
        self.start = work.start
        self.volumes = database.table("volume")
        self.snapshots = database.table("snapshot")
        self.backups = database.table("backup")
        self.groups = database.table("group")
        self.types = database.table("volume_type")
        self.deleted_types = database.table("deleted_volume_type")
        self.quotas = Quotas(database.table("volume_quota"), self._default_quotas)
        self.quotas.count(self._usage_of)
        self.writing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """volume -> held while its bytes are changed or copied"""
        for part in ("volumes", "snapshots", "disks"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def _default_quotas(self) -> dict[str, int]:
        return QUOTAS | {
            f"{what}_{t['name']}": -1
            for t in self.types
            for what in ("volumes", "gigabytes", "snapshots")
        }

    def real_name(self, volume_id: str) -> str:
        """What the back end calls a volume: not by its id when it was migrated."""
        volume = self.volumes.get(volume_id) or {}
        return f"volume-{volume.get('os-vol-mig-status-attr:name_id') or volume_id}"

    def path(self, volume_id: str) -> Path:
        """Where the bytes of a volume are: under its real name."""
        return self.image(self.real_name(volume_id))

    def snapshot_path(self, snapshot: Json) -> Path:
        return self.image_of(self.real_name(snapshot["volume_id"]), f"snapshot-{snapshot['id']}")

    def image(self, name: str) -> Path:
        """Where the back end has what it calls so, known to Cinder or not."""
        return self.folder / "volumes" / name

    def image_of(self, volume: str, snapshot: str) -> Path:
        """The same of a snapshot, by both real names."""
        return self.folder / "snapshots" / f"{volume}@{snapshot}"

    def images_of(self, volume: str) -> dict[str, Path]:
        """The snapshots of what the back end calls so: real name -> where it is."""
        found = (p.name.rpartition("@") for p in (self.folder / "snapshots").iterdir())
        return {s: self.image_of(v, s) for v, _, s in sorted(found) if v == volume}

    def rename(self, old: str, new: str) -> None:
        """Give what the back end calls `old` another name; its snapshots stay its own."""
        for snapshot, path in self.images_of(old).items():
            path.rename(self.image_of(new, snapshot))
        self.image(old).rename(self.image(new))

    def disk_path(self, server_id: str) -> Path:
        """Where the root disk is of a server that boots from an image."""
        return self.folder / "disks" / server_id

    @property
    def host(self) -> str:
        return f"cinder-{self.site}@{BACKEND}#{BACKEND}"

    @property
    def cluster(self) -> str:
        """The fsid of the cluster that the back end is."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, str(self.folder)))

    def now(self) -> str:
        return self.conditions.now().strftime("%Y-%m-%dT%H:%M:%S.%f")

    def of_project(self, call: Call, table: Table) -> list[Json]:
        """The resources of a listing: of the caller's project, or of all projects where an
        administrator asks for them; then those that pass the filters.
        """
        everybody = call.caller.is_admin and call.query.get("all_tenants", "").lower() in (
            "1",
            "true",
        )
        found: Iterable[Json] = (
            i for i in table if everybody or i["project_id"] == call.caller.project_id
        )
        for key in ("name", "status", "volume_id", "snapshot_id", "bootable", "id"):
            if (wanted := call.query.get(key)) is not None:
                found = [i for i in found if str(i.get(key)) == wanted]
        return list(found)

    def find_volume(self, caller: Caller, volume_id: str) -> Json:
        """A volume that the caller may see.

        Raises:
            Refused: 404, there is none.
        """
        volume = self.volumes.get(volume_id)
        if volume is None or not caller.may_see(volume):
            raise Refused(404, f"Volume {volume_id} could not be found.")
        return volume

    def find_snapshot(self, caller: Caller, snapshot_id: str) -> Json:
        """A snapshot that the caller may see.

        Raises:
            Refused: 404, there is none.
        """
        snapshot = self.snapshots.get(snapshot_id)
        if snapshot is None or not caller.may_see(snapshot):
            raise Refused(404, f"Snapshot {snapshot_id} could not be found.")
        return snapshot

    async def migrate(self, volume_id: str) -> Json:
        """Leave a volume as a migration does while it is in use: the back end has it under another
        name, and its id stays.

        Raises:
            KeyError: there is no such volume.
        """
        volume = self.volumes[volume_id]
        async with self.writing[volume_id]:
            before = self.real_name(volume_id)
            changes = {"os-vol-mig-status-attr:name_id": str(uuid.uuid4())}
            self.volumes.keep(volume, **changes, updated_at=self.now())
            self.rename(before, self.real_name(volume_id))
        return volume

    def attach(self, volume: Json, server_id: str, device: str) -> str:
        """Attach a volume, beside others where it allows that; the id of the attachment."""
        attachment: Json = {
            "attachment_id": str(uuid.uuid4()),
            "id": volume["id"],
            "volume_id": volume["id"],
            "server_id": server_id,
        }
        attachment |= {"device": device, "host_name": None, "attached_at": self.now()}
        attachments = [*volume["attachments"], attachment]
        self.volumes.keep(volume, status="in-use", attachments=attachments, updated_at=self.now())
        return str(attachment["attachment_id"])

    def detach(self, volume: Json, server_id: str) -> None:
        left = [a for a in volume["attachments"] if a["server_id"] != server_id]
        status = "in-use" if left else "available"
        self.volumes.keep(volume, status=status, attachments=left, updated_at=self.now())

    def may_be_attached(self, volume: Json, server_id: str = "") -> bool:
        """Whether a volume is free for a server, or shared with the others that have it. One that
        is being attached to another is reserved.
        """
        if volume["status"] == "reserved":
            return bool(server_id) and volume["_reserved_for"] == server_id
        return volume["status"] == "available" or (
            volume["status"] == "in-use"
            and bool(volume["multiattach"])
            and server_id not in [a["server_id"] for a in volume["attachments"]]
        )

    def reserve_for(self, volume: Json, server_id: str) -> None:
        """Keep a volume that may be shared for a server that is being built."""
        if volume["multiattach"]:
            self.volumes.keep(volume, status="reserved", _reserved_for=server_id)

    def free_reserved(self, server_id: str) -> None:
        """Give back what a server that was not built has reserved."""
        for volume in self.volumes.where(lambda v: v["status"] == "reserved"):
            if volume["_reserved_for"] == server_id:
                status = "in-use" if volume["attachments"] else "available"
                self.volumes.keep(volume, status=status)

    def forget_volume(self, volume: Json) -> None:
        self.volumes.drop(volume["id"])
        self.writing.pop(volume["id"], None)

    def remove_volume(self, volume: Json) -> None:
        """Forget a volume, and remove what the back end has of it."""
        name = self.real_name(volume["id"])
        self.forget_volume(volume)
        for path in (self.image(name), *self.images_of(name).values()):
            path.unlink(missing_ok=True)

    def remove_snapshot(self, snapshot: Json) -> None:
        """Forget a snapshot, and remove it from the back end."""
        path = self.snapshot_path(snapshot)
        self.snapshots.drop(snapshot["id"])
        path.unlink(missing_ok=True)

    def reserve(self, project: str, size: int, needed: dict[str, int]) -> None:
        """Check that the quotas of a project suffice.

        Raises:
            Refused: 413, one does not.
        """
        if (over := self.quotas.exceeded(project, needed)) is None:
            return
        name, limit = over.name, over.limit
        if "gigabytes" in name:
            words = f"Requested {size}G, quota is {limit}G and {over.used}G has been consumed."
            what = (
                f"Volume{'Backup' if name == 'backup_gigabytes' else ''}SizeExceedsAvailableQuota"
            )
            of_what = (
                "backup exceeds allowed Backup gigabytes"
                if name == "backup_gigabytes"
                else f"volume or snapshot exceeds allowed {name}"
            )
            raise Refused(413, f"{what}: Requested {of_what} quota. {words}")
        what = name.partition("_")[0]
        of_quota = f" for quota '{name}'." if what == "volumes" else ""
        raise Refused(
            413, f"{LIMITED[what]}: Maximum number of {what} allowed ({limit}) exceeded{of_quota}"
        )

    def _usage_of(self, project: str) -> Counter[str]:
        used: Counter[str] = Counter()
        for what, table in (("volumes", self.volumes), ("snapshots", self.snapshots)):
            for item in table.where(lambda i: i["project_id"] == project):
                kind = item.get("volume_type") or self.volumes[item["volume_id"]]["volume_type"]
                for suffix in ("", f"_{kind}"):
                    used[what + suffix] += 1
                    used[f"gigabytes{suffix}"] += item["size"]
        for backup in self.backups.where(lambda b: b["project_id"] == project):
            used["backups"] += 1
            used["backup_gigabytes"] += backup["size"]
        used["groups"] = len(self.groups.where(lambda g: g["project_id"] == project))
        return used
