# SPDX-License-Identifier: Apache-2.0
"""Volumes: created from nothing, volumes, snapshots, backups and images; changed, extended,
deleted.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from antipode.sandbox import blocks
from antipode.sandbox.barbican import Barbican
from antipode.sandbox.cinder.storage import ZONE, Storage
from antipode.sandbox.cinder.types import Types, is_replicated
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.glance import Glance
from antipode.sandbox.http import Call, Caller, Part, Refused, Route, Version, page, public

LOG = logging.getLogger(__name__)

NEWEST: Version = (3, 71)
"""The newest microversion of Cinder."""
SHOWS_KEYS: Version = (3, 64)
"""since when `encryption_key_id` is shown, of volumes and backups"""
DELETABLE = ("available", "error", "error_restoring", "error_extending", "error_managing")
SHOWN = {
    "managing": "creating",
    "error_managing": "error",
    "error_managing_deleting": "deleting",
}
"""What the API shows of a status that it does not name (cinder/api/v3/views/volumes.py)."""
OF_ADMINISTRATORS = (
    "os-vol-host-attr:host",
    "os-vol-mig-status-attr:name_id",
    "os-vol-mig-status-attr:migstat",
    "migration_status",
)


class Volumes(Part):
    def __init__(self, storage: Storage, types: Types, glance: Glance, keys: Barbican) -> None:
        self._storage = storage
        self._types = types
        self._keys = keys
        self._glance = glance
        self.from_backup: Callable[[Json, Json], Coroutine[Any, Any, None]]
        """creates a volume from a backup: the business of the backup service, which sets it"""

    def routes(self) -> Sequence[Route]:
        volumes = "/v3/volumes"
        return [
            Route("GET", volumes, self._list),
            Route("GET", f"{volumes}/detail", self._list),
            Route("POST", volumes, self._create, 202),
            Route("GET", f"{volumes}/{{item}}", self._show),
            Route("PUT", f"{volumes}/{{item}}", self._update),
            Route("DELETE", f"{volumes}/{{item}}", self._delete, 202),
            Route("POST", f"{volumes}/{{item}}/action", self._act, 202),
            Route("POST", f"{volumes}/{{item}}/metadata", self._merge_metadata),
        ]

    def begin_again(self) -> None:
        """After the services were killed: volumes that were being made are in error, deletions
        resume (cinder/volume/manager.py, _do_cleanup).
        """
        for volume in self._storage.volumes:
            if volume["status"] == "creating":
                self._storage.volumes.keep(volume, status="error")
            elif volume["status"] in ("deleting", "error_managing_deleting"):
                self._storage.start(self._remove(volume))
            elif volume["status"] == "unmanaging":
                self._storage.start(self._forget(volume))

    async def _list(self, call: Call) -> Json:
        found = self._storage.of_project(call, self._storage.volumes)
        if given := call.query.get("metadata"):
            try:
                wanted = ast.literal_eval(given)
            except (ValueError, SyntaxError):
                raise Refused(400, f"Invalid filter {given}") from None
            found = [v for v in found if wanted.items() <= v["metadata"].items()]
        if call.request.path.endswith("/detail"):
            return page(call, "volumes", found, lambda v: self.view(v, call.caller, call.version))
        return page(
            call, "volumes", found, lambda v: {"id": v["id"], "name": v["name"], "links": []}
        )

    def view(self, volume: Json, caller: Caller, version: Version = NEWEST) -> Json:
        shown = {**public(volume), "os-vol-tenant-attr:tenant_id": volume["project_id"]}
        shown["status"] = SHOWN.get(volume["status"], volume["status"])
        del shown["project_id"]
        if not shown["volume_image_metadata"]:
            del shown["volume_image_metadata"]
        if version < SHOWS_KEYS or not shown.get("encryption_key_id"):
            shown.pop("encryption_key_id", None)
        if not caller.is_admin:
            for name in (*OF_ADMINISTRATORS, "provider_id"):
                shown.pop(name, None)
        return shown

    async def _show(self, call: Call, item: str) -> Json:
        found = self._storage.find_volume(call.caller, item)
        return {"volume": self.view(found, call.caller, call.version)}

    async def _create(self, call: Call) -> Json:
        volume, work = self.make(call.caller, call.part("volume"), call.version)
        self._storage.start(work)
        return {"volume": self.view(volume, call.caller)}

    def make(
        self, caller: Caller, wanted: Json, version: Version
    ) -> tuple[Json, Coroutine[Any, Any, None]]:
        """A volume that is being created, and the work that creates it, which has to be started.

        Raises:
            Refused: its source does not exist or is not ready, or a quota is
                exhausted.
        """
        size, kind = wanted.get("size"), wanted.get("volume_type")
        snapshot, source, backup, image = None, None, None, None
        if snapshot_id := wanted.get("snapshot_id"):
            snapshot = self._storage.find_snapshot(caller, snapshot_id)
            if snapshot["status"] != "available":
                message = (
                    "Invalid snapshot: Originating snapshot status must be one of "
                    f"'available' values, not {snapshot['status']}"
                )
                raise Refused(400, message)
            size, kind = (
                size or snapshot["size"],
                kind or self._storage.volumes[snapshot["volume_id"]]["volume_type"],
            )
            _check_size(size, snapshot["size"], "snapshot")
        if source_id := wanted.get("source_volid"):
            source = self._storage.find_volume(caller, source_id)
            size, kind = size or source["size"], kind or source["volume_type"]
            _check_size(size, source["size"], "original volume")
        if (backup_id := wanted.get("backup_id")) and version >= (3, 47):
            backup = self._storage.backups.get(backup_id)
            if backup is None or not caller.may_see(backup):
                raise Refused(404, f"Backup {backup_id} could not be found.")
            if backup["status"] != "available":
                message = (
                    "Invalid backup: Originating backup status must be one of 'available' "
                    f"values, not {backup['status']}"
                )
                raise Refused(400, message)
            size = size or backup["size"]
            if isinstance(size, int) and size < backup["size"]:
                wording = f"the backup size {backup['size']}GB. It must be >= backup size."
                raise Refused(
                    400,
                    f"Invalid input received: Volume size {size}GB cannot be smaller than "
                    f"{wording}",
                )
        if image_id := wanted.get("imageRef") or wanted.get("image_id"):
            try:
                image = self._glance.find(caller, image_id)
            except Refused:
                raise Refused(
                    400, f"Invalid image identifier or unable to access requested image: {image_id}"
                ) from None
        if not isinstance(size, int) or size <= 0:
            raise Refused(
                400,
                f"Invalid input received: Volume size '{size}' must be an integer and greater "
                "than 0",
            )
        zone = wanted.get("availability_zone") or ZONE
        if zone != ZONE:
            raise Refused(400, f"Availability zone '{zone}' is invalid.")
        found = self._types.named(kind)
        types = {f"volumes_{found['name']}": 1, f"gigabytes_{found['name']}": size}
        self._storage.reserve(caller.project_id, size, {"volumes": 1, "gigabytes": size, **types})
        origin = source or (snapshot and self._storage.volumes[snapshot["volume_id"]])
        key: str | None = None
        if origin and origin["encrypted"]:
            key = self._keys.clone(caller, origin["encryption_key_id"])
        elif found.get("_encryption"):
            key = self._keys.made(caller)
        now, volume_id = self._storage.now(), str(uuid.uuid4())
        volume = self._storage.volumes.keep(
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
                "encrypted": key is not None,
                "encryption_key_id": key,
                "multiattach": found["extra_specs"].get("multiattach") == "<is> True",
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
                "replication_status": "enabled" if is_replicated(found) else "disabled",
                "provider_id": None,
                "os-vol-host-attr:host": self._storage.host,
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

    async def _build(
        self, volume: Json, snapshot: Json | None, source: Json | None, image: Json | None
    ) -> None:
        path, size = self._storage.path(volume["id"]), volume["size"] * self._storage.gib
        try:
            await self._storage.conditions.take("volume.create")
            if snapshot:
                await asyncio.to_thread(blocks.copy, self._storage.snapshot_path(snapshot), path)
                source = self._storage.volumes.get(snapshot["volume_id"])
            elif source:
                async with self._storage.writing[source["id"]]:
                    await asyncio.to_thread(blocks.copy, self._storage.path(source["id"]), path)
            elif image:
                await asyncio.to_thread(blocks.copy, self._glance.path(image), path)
                kept = (
                    "checksum",
                    "container_format",
                    "disk_format",
                    "min_disk",
                    "min_ram",
                    "size",
                )
                own = {
                    k: str(v)
                    for k, v in image.items()
                    if k.startswith(("hw_", "os_", "img_")) and isinstance(v, str)
                }
                about = {
                    "image_id": image["id"],
                    "image_name": str(image["name"]),
                    **{k: str(image[k]) for k in kept},
                    **own,
                }
                about = {
                    k: v
                    for k, v in about.items()
                    if not k.startswith("os_hash") and k != "os_hidden"
                }
                self._storage.volumes.keep(volume, bootable="true", volume_image_metadata=about)
            else:
                blocks.create(path, 0)
            blocks.grow(path, size)
        except (OperationFailed, OSError) as error:
            LOG.warning("%s: volume %s: %s", self._storage.site, volume["id"], error)
            self._storage.volumes.keep(volume, status="error", updated_at=self._storage.now())
            return
        if source:
            inherited = {
                "bootable": source["bootable"],
                "volume_image_metadata": dict(source["volume_image_metadata"]),
            }
            self._storage.volumes.keep(volume, **inherited)
        self._storage.volumes.keep(volume, status="available", updated_at=self._storage.now())

    async def _update(self, call: Call, item: str) -> Json:
        volume = self._storage.find_volume(call.caller, item)
        wanted = call.part("volume")
        changes = {k: wanted[k] for k in ("name", "description", "metadata") if k in wanted}
        return {
            "volume": self.view(
                self._storage.volumes.keep(volume, **changes, updated_at=self._storage.now()),
                call.caller,
            )
        }

    async def _merge_metadata(self, call: Call, item: str) -> Json:
        volume = self._storage.find_volume(call.caller, item)
        merged = {**volume["metadata"], **call.part("metadata")}
        self._storage.volumes.keep(volume, metadata=merged, updated_at=self._storage.now())
        return {"metadata": merged}

    async def _delete(self, call: Call, item: str) -> None:
        volume = self._storage.find_volume(call.caller, item)
        snapshots = self._storage.snapshots.where(lambda s: s["volume_id"] == item)
        cascade = call.query.get("cascade", "").lower() == "true"
        deletable = (
            all(s["status"] in ("available", "error", "deleting") for s in snapshots)
            if cascade
            else not snapshots
        )
        if (
            volume["status"] not in DELETABLE
            or volume["attachments"]
            or volume["group_id"]
            or not deletable
        ):
            raise Refused(
                400,
                f"Invalid volume: Volume status must be {' or '.join(DELETABLE)} and must not be "
                "migrating, attached, belong to a group, "
                "have snapshots, awaiting a transfer, or be disassociated from snapshots after "
                "volume transfer.",
            )
        for snapshot in snapshots:
            self._storage.snapshots.keep(snapshot, status="deleting")
        failed = volume["status"] == "error_managing"
        self._storage.volumes.keep(
            volume,
            status="error_managing_deleting" if failed else "deleting",
            updated_at=self._storage.now(),
        )
        self._storage.start(self._remove(volume))

    async def _remove(self, volume: Json) -> None:
        try:
            await self._storage.conditions.take("volume.delete")
        except OperationFailed:
            self._storage.volumes.keep(volume, status="error_deleting")
            return
        for snapshot in self._storage.snapshots.where(lambda s: s["volume_id"] == volume["id"]):
            self._storage.remove_snapshot(snapshot)
        self._keys.forget(volume.get("encryption_key_id"))
        self._storage.remove_volume(volume)

    async def _act(self, call: Call, item: str) -> Json | None:
        volume = self._storage.find_volume(call.caller, item)
        action = next(iter(call.body), "")
        wanted = call.body.get(action) or {}
        if action == "os-set_bootable":
            self._storage.volumes.keep(volume, bootable=str(wanted["bootable"]).lower())
        elif action == "os-set_image_metadata":
            self._storage.volumes.keep(
                volume,
                volume_image_metadata={**volume["volume_image_metadata"], **wanted["metadata"]},
            )
            return {"metadata": volume["volume_image_metadata"]}
        elif action == "os-show_image_metadata":
            return {"metadata": volume["volume_image_metadata"]}
        elif action == "os-unset_image_metadata":
            self._storage.volumes.keep(
                volume,
                volume_image_metadata={
                    k: v for k, v in volume["volume_image_metadata"].items() if k != wanted["key"]
                },
            )
        elif action == "os-reset_status":
            self._only_administrators(call, action)
            self._storage.volumes.keep(volume, status=wanted["status"])
        elif action == "os-extend":
            self._extend(volume, call.caller, int(wanted["new_size"]), call.version)
        elif action == "os-unmanage":
            self._only_administrators(call, action)
            self._unmanage(volume)
        elif action == "os-retype":
            self._retype(volume, call.caller, str(wanted["new_type"]))
        elif action == "revert" and call.version >= (3, 40):
            self._revert(volume, wanted.get("snapshot_id"))
        else:
            raise Refused(400, f"There is no such action: {action}")
        return None

    def _only_administrators(self, call: Call, action: str) -> None:
        if not call.caller.is_admin:
            raise Refused(403, f"Policy doesn't allow volume_extension:{action} to be performed.")

    def _extend(self, volume: Json, caller: Caller, size: int, version: Version) -> None:
        allowed = ("available", "in-use") if version >= (3, 42) else ("available",)
        if volume["status"] not in allowed:
            message = (
                f"Volume {volume['id']} status must be '{{'status': {allowed}}}' to "
                f"extend, currently {volume['status']}."
            )
            raise Refused(400, f"Invalid volume: {message}")
        if size <= volume["size"]:
            message = (
                "New size for extend must be greater than current size. (current: "
                f"{volume['size']}, extended: {size})."
            )
            raise Refused(400, f"Invalid input received: {message}")
        more = size - volume["size"]
        self._storage.reserve(
            caller.project_id, more, {"gigabytes": more, f"gigabytes_{volume['volume_type']}": more}
        )
        blocks.grow(self._storage.path(volume["id"]), size * self._storage.gib)
        self._storage.volumes.keep(volume, size=size, updated_at=self._storage.now())

    def _unmanage(self, volume: Json) -> None:
        if volume["status"] not in DELETABLE or self._storage.snapshots.where(
            lambda s: s["volume_id"] == volume["id"]
        ):
            raise Refused(
                400,
                f"Invalid volume: Volume status must be {' or '.join(DELETABLE)} and must not be "
                "migrating, attached, belong to a group, have snapshots, awaiting a transfer, or "
                "be disassociated from snapshots after volume transfer.",
            )
        failed = volume["status"] == "error_managing"
        status = "error_managing_deleting" if failed else "unmanaging"
        self._storage.volumes.keep(volume, status=status, updated_at=self._storage.now())
        self._storage.start(self._forget(volume))

    async def _forget(self, volume: Json) -> None:
        """What the volume service does of `os-unmanage`: the back end keeps the volume."""
        try:
            await self._storage.conditions.take("volume.unmanage")
        except OperationFailed:
            self._storage.volumes.keep(volume, status="error_unmanaging")
            return
        self._storage.forget_volume(volume)

    def _retype(self, volume: Json, caller: Caller, wanted: str) -> None:
        """All types are of one back end: nothing moves."""
        kind = self._types.named(wanted)
        if volume["status"] not in ("available", "in-use"):
            raise Refused(
                400,
                f"Invalid volume: Volume {volume['id']} status must be available or in-use, must "
                "not be migrating, have a replica, be part of a group and destination type has "
                "to be different than the current type",
            )
        if kind["id"] == volume["volume_type_id"]:
            message = f"New volume_type same as original: {kind['name']}."
            raise Refused(400, f"Invalid input received: {message}")
        size, name = volume["size"], kind["name"]
        self._storage.reserve(
            caller.project_id, size, {f"volumes_{name}": 1, f"gigabytes_{name}": size}
        )
        self._storage.start(self._change_type(volume, kind, volume["status"]))
        self._storage.volumes.keep(volume, status="retyping", updated_at=self._storage.now())

    async def _change_type(self, volume: Json, kind: Json, before: str) -> None:
        try:
            await self._storage.conditions.take("volume.retype")
            changes = {
                "volume_type": kind["name"],
                "volume_type_id": kind["id"],
                "multiattach": kind["extra_specs"].get("multiattach") == "<is> True",
                "replication_status": "enabled" if is_replicated(kind) else "disabled",
            }
        except OperationFailed:
            changes = {}
        self._storage.volumes.keep(volume, status=before, **changes)

    def _revert(self, volume: Json, snapshot_id: str | None) -> None:
        snapshots = self._storage.snapshots.where(lambda s: s["volume_id"] == volume["id"])
        if not snapshots:
            raise Refused(400, f"Volume {volume['id']} doesn't have any snapshots.")
        newest = max(snapshots, key=lambda s: str(s["created_at"]))
        if newest["id"] != snapshot_id:
            raise Refused(
                400,
                f"Specified snapshot {snapshot_id} is None or not the latest one of volume "
                f"{volume['id']}.",
            )
        refusal = f"Can't revert volume {volume['id']} to its latest snapshot {newest['id']}."
        if newest["size"] != volume["size"]:
            raise Refused(400, f"{refusal} The volume size must be equal to the snapshot size.")
        for what, item in (("Volume", volume), ("Snapshot", newest)):
            if item["status"] != "available":
                message = f"{refusal} {what}'s status must be 'available'."
                raise Refused(409, f"Invalid {what.lower()}: {message}")
        self._storage.volumes.keep(volume, status="reverting")
        self._storage.snapshots.keep(newest, status="restoring")
        self._storage.start(self._put_back(volume, newest))

    async def _put_back(self, volume: Json, snapshot: Json) -> None:
        """What the volume service does of `revert`."""
        try:
            await self._storage.conditions.take("volume.revert")
            async with self._storage.writing[volume["id"]]:
                await asyncio.to_thread(
                    blocks.copy,
                    self._storage.snapshot_path(snapshot),
                    self._storage.path(volume["id"]),
                )
        except (OperationFailed, OSError) as error:
            LOG.warning("%s: volume %s: %s", self._storage.site, volume["id"], error)
            self._storage.volumes.keep(volume, status="error")
        else:
            self._storage.volumes.keep(volume, status="available")
        self._storage.snapshots.keep(snapshot, status="available")


def _check_size(size: int, least: int, what: str) -> None:
    if isinstance(size, int) and size < least:
        wording = f"the {what} size {least}GB. They must be >= {what} size {least}GB."
        raise Refused(
            400, f"Invalid input received: Volume size '{size}'GB cannot be smaller than {wording}"
        )
