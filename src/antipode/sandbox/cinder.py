"""Cinder of an embedded site: volume types, volumes, snapshots, quotas and what is managed; volumes are sparse files."""

from __future__ import annotations

import ast
import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from antipode.sandbox import blocks
from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.glance import Glance
from antipode.sandbox.http import Call, Caller, Refused, Route, Service, fault_of, page, public
from antipode.sandbox.work import Work

LOG = logging.getLogger(__name__)

ZONE = "nova"
BACKEND = "rbd1"
QUOTAS = {
    "volumes": 500,
    "snapshots": 2000,
    "gigabytes": 20000,
    "backups": 2000,
    "backup_gigabytes": 20000,
    "groups": 200,
    "per_volume_gigabytes": -1,
}
LIMITED = {"volumes": "VolumeLimitExceeded", "snapshots": "SnapshotLimitExceeded", "backups": "BackupLimitExceeded"}
DELETABLE = ("available", "error", "error_restoring", "error_extending", "error_managing")
OF_ADMINISTRATORS = ("os-vol-host-attr:host", "os-vol-mig-status-attr:name_id", "os-vol-mig-status-attr:migstat", "migration_status")


class Cinder(Service):
    type = "block-storage"
    prefix = "/volume"
    oldest = (3, 0)
    newest = (3, 71)

    def __init__(self, site: str, database: Database, folder: Path, conditions: Conditions, glance: Glance, work: Work, gib: int) -> None:
        self.site = site
        self.gib = gib
        self.start = work.start
        self.volumes = database.table("volume")
        self.snapshots = database.table("snapshot")
        self.backups = database.table("backup")
        self.groups = database.table("group")
        self.types = database.table("volume_type")
        self._limits = database.table("volume_quota")
        self._folder = folder
        self._conditions = conditions
        self._glance = glance
        self.from_backup: Callable[[Json, Json], Coroutine[Any, Any, None]]
        """creates a volume from a backup: the business of the backup service, which sets it"""
        self.writing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """volume -> held by whoever changes its bytes or takes a picture of them"""
        for part in ("volumes", "snapshots"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def routes(self) -> Sequence[Route]:
        v3 = "/v3"
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", "/v3", self._versions, open=True),
            Route("GET", "/v3/", self._versions, open=True),
            Route("GET", f"{v3}/types", self._list_types),
            Route("POST", f"{v3}/types", self._create_type, admin=True),
            Route("GET", f"{v3}/types/{{item}}", self._show_type),
            Route("DELETE", f"{v3}/types/{{item}}", self._delete_type, 202, admin=True),
            Route("GET", f"{v3}/volumes", self._list_volumes),
            Route("GET", f"{v3}/volumes/detail", self._list_volumes),
            Route("POST", f"{v3}/volumes", self._create_volume, 202),
            Route("GET", f"{v3}/volumes/{{item}}", self._show_volume),
            Route("PUT", f"{v3}/volumes/{{item}}", self._update_volume),
            Route("DELETE", f"{v3}/volumes/{{item}}", self._delete_volume, 202),
            Route("POST", f"{v3}/volumes/{{item}}/action", self._act, 202),
            Route("GET", f"{v3}/snapshots", self._list_snapshots),
            Route("GET", f"{v3}/snapshots/detail", self._list_snapshots),
            Route("POST", f"{v3}/snapshots", self._create_snapshot, 202),
            Route("GET", f"{v3}/snapshots/{{item}}", self._show_snapshot),
            Route("PUT", f"{v3}/snapshots/{{item}}", self._update_snapshot),
            Route("DELETE", f"{v3}/snapshots/{{item}}", self._delete_snapshot, 202),
            Route("POST", f"{v3}/snapshots/{{item}}/action", self._act_on_snapshot, 202, admin=True),
            Route("GET", f"{v3}/manageable_volumes", self._list_manageable, admin=True),
            Route("GET", f"{v3}/manageable_volumes/detail", self._list_manageable, admin=True),
            Route("POST", f"{v3}/manageable_volumes", self._manage, 202, admin=True),
            Route("GET", f"{v3}/os-availability-zone", self._zones),
            Route("GET", f"{v3}/os-services", self._services, admin=True),
            Route("GET", f"{v3}/os-quota-sets/{{project}}", self._quota),
            Route("PUT", f"{v3}/os-quota-sets/{{project}}", self._set_quota, admin=True),
            Route("GET", f"{v3}/limits", self._absolute_limits),
        ]

    def fault(self, refused: Refused) -> web.Response:
        if refused.status == 401:
            return web.json_response({"error": {"code": 401, "title": "Unauthorized", "message": refused.message}}, status=401)
        return fault_of(refused, {406: "computeFault", 504: "gatewayTimeout"}.get(refused.status, "computeFault"))

    def path(self, volume_id: str) -> Path:
        """Where the bytes of a volume are: under its real name, which is not its id's when it was managed."""
        return self._folder / "volumes" / f"volume-{volume_id}"

    def snapshot_path(self, snapshot_id: str) -> Path:
        return self._folder / "snapshots" / f"snapshot-{snapshot_id}"

    @property
    def host(self) -> str:
        return f"cinder-{self.site}@{BACKEND}#{BACKEND}"

    def now(self) -> str:
        return self._conditions.now().strftime("%Y-%m-%dT%H:%M:%S.%f")

    def begin_again(self) -> None:
        """What the services do when they start: what was being made when they were killed is not made any more, deletions go on."""
        for snapshot in self.snapshots:
            if snapshot["status"] == "deleting":
                self.start(self.remove_snapshot(snapshot))
            elif snapshot["status"] == "backing-up":
                self.snapshots.keep(snapshot, status="available")
        for volume in self.volumes:
            if volume["status"] == "deleting":
                self.start(self._remove_volume(volume))

    # ---- versions, zones, services ----

    async def _versions(self, call: Call) -> Json:
        version: Json = {"id": "v3.0", "status": "CURRENT", "updated": "2023-08-31T00:00:00Z"}
        version |= {"version": "{}.{}".format(*self.newest), "min_version": "{}.{}".format(*self.oldest)}
        return {"versions": [{**version, "links": [{"rel": "self", "href": f"{call.base}{self.prefix}/v3/"}], "media-types": []}]}

    async def _zones(self, call: Call) -> Json:
        return {"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": True}}]}

    async def _services(self, call: Call) -> Json:
        hosts = {"cinder-scheduler": f"cinder-{self.site}", "cinder-volume": f"cinder-{self.site}@{BACKEND}"}
        hosts["cinder-backup"] = f"cinder-{self.site}"
        wanted = {k: call.query.get(k) for k in ("binary", "host") if call.query.get(k)}
        rows = [
            {"binary": binary, "host": host, "zone": ZONE, "status": "enabled", "state": "up", "updated_at": self.now()}
            for binary, host in hosts.items()
        ]
        return {"services": [row for row in rows if all(row[k] == v for k, v in wanted.items())]}

    # ---- types ----

    async def _list_types(self, call: Call) -> Json:
        return page(call, "volume_types", self.types, self._view_type)

    async def _show_type(self, call: Call, item: str) -> Json:
        if item == "default":
            return {"volume_type": self._view_type(self.type_named(None))}
        found = self.types.get(item)
        if found is None:
            raise Refused(404, f"Volume type {item} could not be found.")
        return {"volume_type": self._view_type(found)}

    def _view_type(self, item: Json) -> Json:
        return {**public(item), "os-volume-type-access:is_public": item["is_public"]}

    async def _create_type(self, call: Call) -> Json:
        wanted = call.part("volume_type")
        if self.types.where(lambda t: t["name"] == wanted["name"]):
            raise Refused(409, f"Volume Type {wanted['name']} already exists.")
        return {"volume_type": self._view_type(self.make_type(wanted["name"], wanted.get("extra_specs", {})))}

    def make_type(self, name: str, extra_specs: Json) -> Json:
        item = {"id": str(uuid.uuid4()), "name": name, "description": None, "extra_specs": extra_specs, "is_public": True}
        return self.types.keep({**item, "qos_specs_id": None})

    async def _delete_type(self, call: Call, item: str) -> None:
        if self.volumes.where(lambda v: v["volume_type_id"] == item):
            raise Refused(400, f"Target volume type is still in use: Volume Type {item} deletion is not allowed with volumes present.")
        self.types.drop(item)

    def type_named(self, name: str | None) -> Json:
        """A type by name or id; the default type without one.

        Raises:
            Refused: 404, there is none.
        """
        if name is None:
            return next(iter(self.types))
        for found in self.types:
            if name in (found["name"], found["id"]):
                return found
        raise Refused(404, f"Volume type with name {name} could not be found.")

    # ---- volumes ----

    async def _list_volumes(self, call: Call) -> Json:
        found = self.of_project(call, self.volumes)
        if given := call.query.get("metadata"):
            try:
                wanted = ast.literal_eval(given)
            except (ValueError, SyntaxError):
                raise Refused(400, f"Invalid filter {given}") from None
            found = [v for v in found if wanted.items() <= v["metadata"].items()]
        if call.request.path.endswith("/detail"):
            return page(call, "volumes", found, lambda v: self.view_volume(v, call.caller))
        return page(call, "volumes", found, lambda v: {"id": v["id"], "name": v["name"], "links": []})

    def of_project(self, call: Call, table: Table) -> list[Json]:
        """What a listing is of: the caller's project, all projects if an administrator says so; then what the filters leave."""
        everybody = call.caller.is_admin and call.query.get("all_tenants", "").lower() in ("1", "true")
        found: Iterable[Json] = (i for i in table if everybody or i["project_id"] == call.caller.project_id)
        for key in ("name", "status", "volume_id", "snapshot_id", "bootable", "id"):
            if (wanted := call.query.get(key)) is not None:
                found = [i for i in found if str(i.get(key)) == wanted]
        return list(found)

    def view_volume(self, volume: Json, caller: Caller) -> Json:
        shown = {**public(volume), "os-vol-tenant-attr:tenant_id": volume["project_id"]}
        del shown["project_id"]
        if not shown["volume_image_metadata"]:
            del shown["volume_image_metadata"]
        if not caller.is_admin:
            for name in (*OF_ADMINISTRATORS, "provider_id"):
                shown.pop(name, None)
        return shown

    def volume(self, caller: Caller, volume_id: str) -> Json:
        """A volume that the caller may see.

        Raises:
            Refused: 404, there is none.
        """
        volume = self.volumes.get(volume_id)
        if volume is None or not caller.may_see(volume):
            raise Refused(404, f"Volume {volume_id} could not be found.")
        return volume

    async def _show_volume(self, call: Call, item: str) -> Json:
        return {"volume": self.view_volume(self.volume(call.caller, item), call.caller)}

    async def _create_volume(self, call: Call) -> Json:
        volume, work = self.new_volume(call.caller, call.part("volume"), call.version)
        self.start(work)
        return {"volume": self.view_volume(volume, call.caller)}

    def new_volume(self, caller: Caller, wanted: Json, version: tuple[int, int]) -> tuple[Json, Coroutine[Any, Any, None]]:
        """A volume that is being created, and the work that creates it, which has to be started.

        Raises:
            Refused: what it is to be made of does not exist or is not ready, or a quota is exhausted.
        """
        size, kind = wanted.get("size"), wanted.get("volume_type")
        snapshot, source, backup, image = None, None, None, None
        if snapshot_id := wanted.get("snapshot_id"):
            snapshot = self.snapshot(caller, snapshot_id)
            if snapshot["status"] != "available":
                message = f"Invalid snapshot: Originating snapshot status must be one of 'available' values, not {snapshot['status']}"
                raise Refused(400, message)
            size, kind = size or snapshot["size"], kind or self.volumes[snapshot["volume_id"]]["volume_type"]
            _check_size(size, snapshot["size"], "snapshot")
        if source_id := wanted.get("source_volid"):
            source = self.volume(caller, source_id)
            size, kind = size or source["size"], kind or source["volume_type"]
            _check_size(size, source["size"], "original volume")
        if (backup_id := wanted.get("backup_id")) and version >= (3, 47):
            backup = self.backups.get(backup_id)
            if backup is None or not caller.may_see(backup):
                raise Refused(404, f"Backup {backup_id} could not be found.")
            if backup["status"] not in ("available", "restoring"):
                message = f"Invalid backup: Originating backup status must be one of 'available' values, not {backup['status']}"
                raise Refused(400, message)
            size = size or backup["size"]
            if isinstance(size, int) and size < backup["size"]:
                wording = f"the backup size {backup['size']}GB. It must be >= backup size."
                raise Refused(400, f"Invalid input received: Volume size {size}GB cannot be smaller than {wording}")
        if image_id := wanted.get("imageRef") or wanted.get("image_id"):
            try:
                image = self._glance.find(caller, image_id)
            except Refused:
                raise Refused(400, f"Invalid image identifier or unable to access requested image: {image_id}") from None
        if not isinstance(size, int) or size <= 0:
            raise Refused(400, f"Invalid input received: Volume size '{size}' must be an integer and greater than 0")
        zone = wanted.get("availability_zone") or ZONE
        if zone != ZONE:
            raise Refused(400, f"Availability zone '{zone}' is invalid.")
        found = self.type_named(kind)
        types = {f"volumes_{found['name']}": 1, f"gigabytes_{found['name']}": size}
        self.reserve(caller.project_id, size, {"volumes": 1, "gigabytes": size, **types})
        now, volume_id = self.now(), str(uuid.uuid4())
        volume = self.volumes.keep(
            {
                "id": volume_id,
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "size": size,
                "status": "creating",
                "volume_type": found["name"],
                "volume_type_id": found["id"],
                "availability_zone": zone,
                "metadata": wanted.get("metadata") or {},
                "bootable": "false",
                "volume_image_metadata": {},
                "encrypted": False,
                "multiattach": False,
                "snapshot_id": wanted.get("snapshot_id"),
                "source_volid": wanted.get("source_volid"),
                "attachments": [],
                "links": [],
                "created_at": now,
                "updated_at": now,
                "user_id": caller.user_id,
                "project_id": caller.project_id,
                "group_id": wanted.get("group_id"),
                "consistencygroup_id": None,
                "replication_status": None,
                "provider_id": None,
                "os-vol-host-attr:host": self.host,
                "os-vol-mig-status-attr:name_id": None,
                "os-vol-mig-status-attr:migstat": None,
                "migration_status": None,
                "shared_targets": False,
                "service_uuid": None,
                "cluster_name": None,
                "consumes_quota": True,
            }
        )
        if backup:
            return volume, self.from_backup(volume, backup)
        return volume, self._build(volume, snapshot, source, image)

    async def _build(self, volume: Json, snapshot: Json | None, source: Json | None, image: Json | None) -> None:
        path, size = self.path(volume["id"]), volume["size"] * self.gib
        try:
            await self._conditions.take("volume.create")
            if snapshot:
                await asyncio.to_thread(blocks.copy, self.snapshot_path(snapshot["id"]), path)
                source = self.volumes.get(snapshot["volume_id"])
            elif source:
                async with self.writing[source["id"]]:
                    await asyncio.to_thread(blocks.copy, self.path(source["id"]), path)
            elif image:
                await asyncio.to_thread(blocks.copy, self._glance.path(image), path)
                kept = ("checksum", "container_format", "disk_format", "min_disk", "min_ram", "size")
                own = {k: str(v) for k, v in image.items() if k.startswith(("hw_", "os_", "img_")) and isinstance(v, str)}
                about = {"image_id": image["id"], "image_name": str(image["name"]), **{k: str(image[k]) for k in kept}, **own}
                about = {k: v for k, v in about.items() if not k.startswith("os_hash") and k != "os_hidden"}
                self.volumes.keep(volume, bootable="true", volume_image_metadata=about)
            else:
                blocks.create(path, 0)
            blocks.grow(path, size)
        except (OperationFailed, OSError) as error:
            LOG.warning("%s: volume %s: %s", self.site, volume["id"], error)
            self.volumes.keep(volume, status="error", updated_at=self.now())
            return
        if source:
            inherited = {"bootable": source["bootable"], "volume_image_metadata": dict(source["volume_image_metadata"])}
            self.volumes.keep(volume, **inherited)
        self.volumes.keep(volume, status="available", updated_at=self.now())

    async def _update_volume(self, call: Call, item: str) -> Json:
        volume = self.volume(call.caller, item)
        wanted = call.part("volume")
        changes = {k: wanted[k] for k in ("name", "description", "metadata") if k in wanted}
        return {"volume": self.view_volume(self.volumes.keep(volume, **changes, updated_at=self.now()), call.caller)}

    async def _delete_volume(self, call: Call, item: str) -> None:
        volume = self.volume(call.caller, item)
        snapshots = self.snapshots.where(lambda s: s["volume_id"] == item)
        cascade = call.query.get("cascade", "").lower() == "true"
        deletable = all(s["status"] in ("available", "error", "deleting") for s in snapshots) if cascade else not snapshots
        if volume["status"] not in DELETABLE or volume["attachments"] or volume["group_id"] or not deletable:
            raise Refused(
                400,
                f"Invalid volume: Volume status must be {' or '.join(DELETABLE)} and must not be migrating, attached, belong to a group, "
                "have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.",
            )
        for snapshot in snapshots:
            self.snapshots.keep(snapshot, status="deleting")
        self.volumes.keep(volume, status="deleting", updated_at=self.now())
        self.start(self._remove_volume(volume))

    async def _remove_volume(self, volume: Json) -> None:
        try:
            await self._conditions.take("volume.delete")
        except OperationFailed:
            self.volumes.keep(volume, status="error_deleting")
            return
        for snapshot in self.snapshots.where(lambda s: s["volume_id"] == volume["id"]):
            self._forget_snapshot(snapshot)
        self.forget(volume)
        self.path(volume["id"]).unlink(missing_ok=True)

    def forget(self, volume: Json) -> None:
        self.volumes.drop(volume["id"])
        self.writing.pop(volume["id"], None)

    async def _act(self, call: Call, item: str) -> Json | None:
        volume = self.volume(call.caller, item)
        action = next(iter(call.body), "")
        wanted = call.body.get(action) or {}
        if action == "os-set_bootable":
            self.volumes.keep(volume, bootable=str(wanted["bootable"]).lower())
        elif action == "os-set_image_metadata":
            self.volumes.keep(volume, volume_image_metadata={**volume["volume_image_metadata"], **wanted["metadata"]})
            return {"metadata": volume["volume_image_metadata"]}
        elif action == "os-show_image_metadata":
            return {"metadata": volume["volume_image_metadata"]}
        elif action == "os-unset_image_metadata":
            self.volumes.keep(
                volume, volume_image_metadata={k: v for k, v in volume["volume_image_metadata"].items() if k != wanted["key"]}
            )
        elif action == "os-reset_status":
            self._only_administrators(call, action)
            self.volumes.keep(volume, status=wanted["status"])
        elif action == "os-extend":
            self._extend(volume, call.caller, int(wanted["new_size"]), call.version)
        elif action == "os-unmanage":
            self._only_administrators(call, action)
            self._unmanage(volume)
        else:
            raise Refused(400, f"There is no such action: {action}")
        return None

    def _only_administrators(self, call: Call, action: str) -> None:
        if not call.caller.is_admin:
            raise Refused(403, f"Policy doesn't allow volume_extension:{action} to be performed.")

    def _extend(self, volume: Json, caller: Caller, size: int, version: tuple[int, int]) -> None:
        allowed = ("available", "in-use") if version >= (3, 42) else ("available",)
        if volume["status"] not in allowed:
            message = f"Volume {volume['id']} status must be '{{'status': {allowed}}}' to extend, currently {volume['status']}."
            raise Refused(400, f"Invalid volume: {message}")
        if size <= volume["size"]:
            message = f"New size for extend must be greater than current size. (current: {volume['size']}, extended: {size})."
            raise Refused(400, f"Invalid input received: {message}")
        more = size - volume["size"]
        self.reserve(caller.project_id, more, {"gigabytes": more, f"gigabytes_{volume['volume_type']}": more})
        blocks.grow(self.path(volume["id"]), size * self.gib)
        self.volumes.keep(volume, size=size, updated_at=self.now())

    # ---- attaching, as Nova does it ----

    def attach(self, volume: Json, server_id: str, device: str) -> None:
        attachment = {"attachment_id": str(uuid.uuid4()), "id": volume["id"], "volume_id": volume["id"], "server_id": server_id}
        attachment |= {"device": device, "host_name": None, "attached_at": self.now()}
        self.volumes.keep(volume, status="in-use", attachments=[attachment], updated_at=self.now())

    def detach(self, volume: Json) -> None:
        self.volumes.keep(volume, status="available", attachments=[], updated_at=self.now())

    # ---- snapshots ----

    async def _list_snapshots(self, call: Call) -> Json:
        return page(call, "snapshots", self.of_project(call, self.snapshots), self.view_snapshot)

    def view_snapshot(self, snapshot: Json) -> Json:
        shown = public(snapshot)
        shown["os-extended-snapshot-attributes:project_id"] = shown.pop("project_id")
        shown["os-extended-snapshot-attributes:progress"] = "0%" if snapshot["status"] == "creating" else "100%"
        return shown

    def snapshot(self, caller: Caller, snapshot_id: str) -> Json:
        """A snapshot that the caller may see.

        Raises:
            Refused: 404, there is none.
        """
        snapshot = self.snapshots.get(snapshot_id)
        if snapshot is None or not caller.may_see(snapshot):
            raise Refused(404, f"Snapshot {snapshot_id} could not be found.")
        return snapshot

    async def _show_snapshot(self, call: Call, item: str) -> Json:
        return {"snapshot": self.view_snapshot(self.snapshot(call.caller, item))}

    async def _create_snapshot(self, call: Call) -> Json:
        wanted = call.part("snapshot")
        if "volume_id" not in wanted:
            raise Refused(400, "Invalid input for field/attribute snapshot. Value: {}. 'volume_id' is a required property")
        volume = self.volume(call.caller, wanted["volume_id"])
        force, in_use = wanted.get("force"), call.version >= (3, 66)
        if in_use and force is False:
            raise Refused(
                400,
                "The 'force' flag is invalid for this API version; since microversion 3.66, creating a snapshot of an in-use volume is the "
                "default behavior",
            )
        allowed = ("available", "in-use") if in_use or force else ("available",)
        if volume["status"] not in allowed:
            message = f"Volume {volume['id']} status must be {', '.join(allowed)}, but current status is: {volume['status']}."
            raise Refused(400, f"Invalid volume: {message}")
        snapshot = self.new_snapshot(call.caller, volume, wanted)
        self.start(self.take_snapshot(snapshot))
        return {"snapshot": self.view_snapshot(snapshot)}

    def new_snapshot(self, caller: Caller, volume: Json, wanted: Json, group_snapshot_id: str | None = None) -> Json:
        """A snapshot that is being created.

        Raises:
            Refused: 413, a quota is exhausted.
        """
        kind, size = volume["volume_type"], volume["size"]
        needed = {"snapshots": 1, "gigabytes": size, f"snapshots_{kind}": 1, f"gigabytes_{kind}": size}
        self.reserve(caller.project_id, size, needed)
        now = self.now()
        return self.snapshots.keep(
            {
                "id": str(uuid.uuid4()),
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "volume_id": volume["id"],
                "size": size,
                "status": "creating",
                "metadata": wanted.get("metadata") or {},
                "created_at": now,
                "updated_at": None,
                "user_id": caller.user_id,
                "project_id": caller.project_id,
                "group_snapshot_id": group_snapshot_id,
                "consumes_quota": True,
            }
        )

    async def take_snapshot(self, snapshot: Json) -> None:
        try:
            await self._conditions.take("snapshot.create")
            async with self.writing[snapshot["volume_id"]]:
                await asyncio.to_thread(blocks.copy, self.path(snapshot["volume_id"]), self.snapshot_path(snapshot["id"]))
        except (OperationFailed, OSError) as error:
            LOG.warning("%s: snapshot %s: %s", self.site, snapshot["id"], error)
            self.snapshots.keep(snapshot, status="error", updated_at=self.now())
            return
        self.snapshots.keep(snapshot, status="available", updated_at=self.now())

    async def _update_snapshot(self, call: Call, item: str) -> Json:
        snapshot = self.snapshot(call.caller, item)
        wanted = call.part("snapshot")
        changes = {k: wanted[k] for k in ("name", "description") if k in wanted}
        return {"snapshot": self.view_snapshot(self.snapshots.keep(snapshot, **changes, updated_at=self.now()))}

    async def _delete_snapshot(self, call: Call, item: str) -> None:
        snapshot = self.snapshot(call.caller, item)
        if snapshot["status"] not in ("available", "error") or snapshot["group_snapshot_id"]:
            raise Refused(400, "Invalid snapshot: Snapshot status must be available or error and must not be part of a group.")
        self.snapshots.keep(snapshot, status="deleting", updated_at=self.now())
        self.start(self.remove_snapshot(snapshot))

    async def remove_snapshot(self, snapshot: Json) -> None:
        try:
            await self._conditions.take("snapshot.delete")
        except OperationFailed:
            self.snapshots.keep(snapshot, status="error_deleting")
            return
        self._forget_snapshot(snapshot)

    def _forget_snapshot(self, snapshot: Json) -> None:
        self.snapshots.drop(snapshot["id"])
        self.snapshot_path(snapshot["id"]).unlink(missing_ok=True)

    async def _act_on_snapshot(self, call: Call, item: str) -> None:
        snapshot = self.snapshot(call.caller, item)
        if "os-reset_status" not in call.body:
            raise Refused(400, f"There is no such action: {next(iter(call.body), '')}")
        self.snapshots.keep(snapshot, status=call.body["os-reset_status"]["status"])

    # ---- what the backend holds and Cinder does not know ----

    async def _list_manageable(self, call: Call) -> Json:
        found = []
        known = {f"volume-{v['os-vol-mig-status-attr:name_id'] or v['id']}": v for v in self.volumes}
        for path in sorted((self._folder / "volumes").iterdir()):
            volume = known.get(path.name)
            row: Json = {"reference": {"source-name": path.name}, "size": -(-path.stat().st_size // self.gib)}
            row |= {"safe_to_manage": volume is None, "reason_not_safe": "already managed" if volume else None}
            found.append({**row, "cinder_id": volume["id"] if volume else None, "extra_info": None})
        return {"manageable-volumes": found}

    async def _manage(self, call: Call) -> Json:
        wanted = call.part("volume")
        name = str((wanted.get("ref") or {}).get("source-name", ""))
        held = self._folder / "volumes" / Path(name).name
        if not name or not held.is_file():
            message = f"Failed to manage existing volume due to invalid backend reference: specified source image {name} does not exist."
            raise Refused(400, message)
        if name in {f"volume-{v['id']}" for v in self.volumes}:
            raise Refused(400, f"Unable to manage existing volume. Volume {name} already managed.")
        size = -(-held.stat().st_size // self.gib)
        volume, work = self.new_volume(call.caller, {**wanted, "size": size}, call.version)
        work.close()
        self.volumes.keep(volume, bootable=str(bool(wanted.get("bootable"))).lower())
        self.start(self._take_over(volume, held))
        return {"volume": self.view_volume(volume, call.caller)}

    async def _take_over(self, volume: Json, held: Path) -> None:
        await self._conditions.take("volume.create")
        held.rename(self.path(volume["id"]))
        blocks.grow(self.path(volume["id"]), volume["size"] * self.gib)
        self.volumes.keep(volume, status="available", updated_at=self.now())

    def _unmanage(self, volume: Json) -> None:
        if volume["status"] not in DELETABLE or self.snapshots.where(lambda s: s["volume_id"] == volume["id"]):
            raise Refused(400, "Invalid volume: Volume status must be available or error and must not be attached or have snapshots.")
        self.forget(volume)

    # ---- quotas ----

    def limits_of(self, project: str) -> dict[str, int]:
        of_types = {f"{what}_{t['name']}": -1 for t in self.types for what in ("volumes", "gigabytes", "snapshots")}
        return {**QUOTAS, **of_types, **(self._limits.get(project) or {}).get("limits", {})}

    def usage_of(self, project: str) -> dict[str, int]:
        used: dict[str, int] = defaultdict(int)
        for what, table in (("volumes", self.volumes), ("snapshots", self.snapshots)):
            for item in table:
                if item["project_id"] == project:
                    kind = item.get("volume_type") or self.volumes[item["volume_id"]]["volume_type"]
                    for suffix in ("", f"_{kind}"):
                        used[what + suffix] += 1
                        used[f"gigabytes{suffix}"] += item["size"]
        for backup in self.backups:
            if backup["project_id"] == project:
                used["backups"] += 1
                used["backup_gigabytes"] += backup["size"]
        used["groups"] = len(self.groups.where(lambda g: g["project_id"] == project))
        return used

    def reserve(self, project: str, size: int, needed: dict[str, int]) -> None:
        """See that the quotas of a project allow what is needed.

        Raises:
            Refused: 413, one does not.
        """
        limits = self.limits_of(project)
        if all(limits.get(name, -1) < 0 for name in needed):
            return
        used = self.usage_of(project)
        for name, amount in needed.items():
            limit = limits.get(name, -1)
            if limit < 0 or used[name] + amount <= limit:
                continue
            if name.startswith("backup_gigabytes"):
                words = f"Requested {size}G, quota is {limit}G and {used[name]}G has been consumed."
                message = f"VolumeBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota. {words}"
            elif name.startswith("gigabytes"):
                words = f"Requested {size}G, quota is {limit}G and {used[name]}G has been consumed."
                message = f"VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed {name} quota. {words}"
            else:
                what = name.partition("_")[0]
                of_quota = f" for quota '{name}'." if what == "volumes" else ""
                message = f"{LIMITED[what]}: Maximum number of {what} allowed ({limit}) exceeded{of_quota}"
            raise Refused(413, message)

    async def _quota(self, call: Call, project: str) -> Json:
        if not call.caller.is_admin and call.caller.project_id != project:
            raise Refused(403, "Policy doesn't allow volume_extension:quotas:show to be performed.")
        limits = self.limits_of(project)
        if call.query.get("usage", "").lower() != "true":
            return {"quota_set": {"id": project, **limits}}
        used = self.usage_of(project)
        rows = {name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0, "allocated": 0} for name, limit in limits.items()}
        return {"quota_set": {"id": project, **rows}}

    async def _set_quota(self, call: Call, project: str) -> Json:
        limits = {**self.limits_of(project), **call.part("quota_set")}
        self._limits.keep({"id": project, "limits": limits})
        return {"quota_set": limits}

    async def _absolute_limits(self, call: Call) -> Json:
        limits, used = self.limits_of(call.caller.project_id), self.usage_of(call.caller.project_id)
        absolute = {
            "maxTotalVolumes": limits["volumes"],
            "maxTotalVolumeGigabytes": limits["gigabytes"],
            "maxTotalSnapshots": limits["snapshots"],
            "maxTotalBackups": limits["backups"],
            "maxTotalBackupGigabytes": limits["backup_gigabytes"],
            "totalVolumesUsed": used["volumes"],
            "totalGigabytesUsed": used["gigabytes"],
            "totalSnapshotsUsed": used["snapshots"],
            "totalBackupsUsed": used["backups"],
            "totalBackupGigabytesUsed": used["backup_gigabytes"],
        }
        return {"limits": {"rate": [], "absolute": absolute}}


def _check_size(size: int, least: int, what: str) -> None:
    if isinstance(size, int) and size < least:
        wording = f"the {what} size {least}GB. They must be >= {what} size {least}GB."
        raise Refused(400, f"Invalid input received: Volume size '{size}'GB cannot be smaller than {wording}")
