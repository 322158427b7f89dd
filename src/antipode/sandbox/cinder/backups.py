# SPDX-License-Identifier: Apache-2.0
"""cinder-backup of an embedded site: chunked backups in a Swift container, increments, records,
restores; laid out as Cinder does it.

Cinder names the objects of a backup `<service_metadata>-NNNNN`, `_metadata` and `_sha256file`
(cinder/backup/chunkeddriver.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from antipode.sandbox import blocks
from antipode.sandbox.barbican import Barbican
from antipode.sandbox.cinder.storage import ZONE, Storage
from antipode.sandbox.cinder.volumes import SHOWS_KEYS, Volumes
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Caller, Part, Refused, Route, Version, page
from antipode.sandbox.store import Store, StoreError

LOG = logging.getLogger(__name__)

DRIVER = "cinder.backup.drivers.swift.SwiftBackupDriver"
AT_ONCE = 15
"""backup_max_operations"""
FIELDS = """
id user_id project_id volume_id host availability_zone container
parent_id status fail_reason size service_metadata service object_count
temp_volume_id temp_snapshot_id num_dependent_backups snapshot_id data_timestamp
restore_volume_id metadata encryption_key_id created_at
updated_at deleted_at deleted
"""
OF_A_RECORD = {
    "name": "display_name",
    "description": "display_description",
    **{field: field for field in FIELDS.split()},
}
"""field of a backup here -> field of its record (cinder/objects/backup.py)"""
REQUIRED = {
    "display_name",
    "display_description",
    "container",
    "size",
    "service_metadata",
    "object_count",
    "id",
}
SET_BY_IMPORT = {
    "user_id",
    "project_id",
    "fail_reason",
    "status",
    "service",
    "availability_zone",
    "host",
    "deleted",
    "deleted_at",
}


class Piece(NamedTuple):
    """A part of a volume that becomes one object."""

    offset: int
    length: int


class Backups(Part):
    """The backup calls of Cinder, and the work behind them."""

    def __init__(self, storage: Storage, volumes: Volumes, store: Store, keys: Barbican) -> None:
        self._keys = keys
        self._storage = storage
        self._volumes = volumes
        self._backups = storage.backups
        self._store = store
        self._turn = asyncio.Semaphore(AT_ONCE)
        volumes.from_backup = self._restore_into_new

    def routes(self) -> Sequence[Route]:
        v3 = "/v3/backups"
        return [
            Route("GET", v3, self._list),
            Route("GET", f"{v3}/detail", self._list),
            Route("POST", v3, self._create, 202),
            Route("POST", f"{v3}/import_record", self._import, 201),
            Route("GET", f"{v3}/{{item}}", self._show),
            Route("DELETE", f"{v3}/{{item}}", self._delete, 202),
            Route("GET", f"{v3}/{{item}}/export_record", self._export, admin=True),
            Route("POST", f"{v3}/{{item}}/restore", self._restore, 202),
            Route("POST", f"{v3}/{{item}}/action", self._act, 202, admin=True),
        ]

    def begin_again(self) -> None:
        """As cinder-backup does when it starts: a backup that was being made is in error, one that
        was being deleted is deleted.
        """
        for backup in self._backups:
            if backup["status"] == "creating":
                self._fail(backup, "incomplete backup reset on manager restart")
                volume = self._storage.volumes.get(backup["volume_id"])
                if volume and volume["status"] == "backing-up":
                    self._storage.volumes.keep(
                        volume, status="in-use" if volume["attachments"] else "available"
                    )
            elif backup["status"] == "restoring":
                volume = self._storage.volumes.get(backup["restore_volume_id"])
                if volume and volume["status"] in ("creating", "restoring-backup"):
                    self._storage.volumes.keep(volume, status="error_restoring")
                self._backups.keep(backup, status="available")
            elif backup["status"] == "deleting":
                self._storage.start(self._remove(backup))

    # ---- calls ----

    async def _list(self, call: Call) -> Json:
        found = self._storage.of_project(call, self._backups)
        if call.request.path.endswith("/detail"):
            parents = {b["parent_id"] for b in self._backups if b["parent_id"]}
            return page(
                call, "backups", found, lambda b: self._view(b, b["id"] in parents, call.version)
            )
        return page(
            call, "backups", found, lambda b: {"id": b["id"], "name": b["name"], "links": []}
        )

    def _view(self, backup: Json, has_children: bool, version: Version) -> Json:
        shown = (
            "id status size object_count availability_zone container created_at updated_at name "
            "description fail_reason volume_id "
            "snapshot_id data_timestamp metadata"
        )
        view = {key: backup.get(key) for key in shown.split()}
        view |= {
            "links": [],
            "is_incremental": backup["parent_id"] is not None,
            "has_dependent_backups": has_children,
        }
        if version >= SHOWS_KEYS and backup.get("encryption_key_id"):
            view["encryption_key_id"] = backup["encryption_key_id"]
        return {
            **view,
            "os-backup-project-attr:project_id": backup["project_id"],
            "user_id": backup["user_id"],
        }

    def _find(self, call: Call, backup_id: str) -> Json:
        backup = self._backups.get(backup_id)
        if backup is None or not call.caller.may_see(backup):
            raise Refused(404, f"Backup {backup_id} could not be found.")
        return backup

    def _children(self, backup_id: str) -> list[Json]:
        return self._backups.where(lambda b: b["parent_id"] == backup_id)

    async def _show(self, call: Call, item: str) -> Json:
        found = self._find(call, item)
        return {"backup": self._view(found, bool(self._children(item)), call.version)}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("backup")
        if "volume_id" not in wanted:
            raise Refused(
                400,
                "Invalid input for field/attribute backup. Value: {}. 'volume_id' is a required "
                "property",
            )
        volume = self._storage.find_volume(call.caller, wanted["volume_id"])
        snapshot: Json | None = None
        if snapshot_id := wanted.get("snapshot_id"):
            snapshot = self._storage.find_snapshot(call.caller, snapshot_id)
            if snapshot["volume_id"] != volume["id"]:
                message = (
                    f"Volume {volume['id']} does not match with snapshot.volume_id "
                    f"{snapshot['volume_id']}."
                )
                raise Refused(400, f"Invalid volume: {message}")
            if snapshot["status"] != "available":
                message = (
                    "Snapshot to be backed up must be available, but the current status "
                    f'is "{snapshot["status"]}".'
                )
                raise Refused(400, f"Invalid snapshot: {message}")
        elif volume["status"] not in ("available", "in-use"):
            message = (
                "Volume to be backed up must be available or in-use, but the current "
                f'status is "{volume["status"]}".'
            )
            raise Refused(400, f"Invalid volume: {message}")
        elif volume["status"] == "in-use" and not wanted.get("force"):
            raise Refused(
                400, "Invalid volume: Backing up an in-use volume must use the force flag."
            )
        self._storage.reserve(
            call.caller.project_id,
            volume["size"],
            {"backups": 1, "backup_gigabytes": volume["size"]},
        )
        parent = self._parent(call, volume, snapshot) if wanted.get("incremental") else None
        now = self._storage.now()
        backup = self._backups.keep(
            {
                **self._blank(str(uuid.uuid4()), call, volume["id"], volume["size"]),
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "container": wanted.get("container") or self._store.settings.container,
                "parent_id": parent and parent["id"],
                "snapshot_id": snapshot and snapshot["id"],
                "data_timestamp": snapshot["created_at"] if snapshot else now,
                "metadata": wanted.get("metadata") or {},
                # a secret of its own for each backup (cinder/backup/manager.py)
                "encryption_key_id": self._keys.clone(call.caller, volume["encryption_key_id"])
                if volume.get("encrypted")
                else None,
            }
        )
        previous = volume["status"]
        if snapshot:
            self._storage.snapshots.keep(snapshot, status="backing-up")
        else:
            self._storage.volumes.keep(volume, status="backing-up")
        self._storage.start(self._make(backup, parent, volume, snapshot, previous))
        return {"backup": {"id": backup["id"], "name": backup["name"], "links": []}}

    def _parent(self, call: Call, volume: Json, snapshot: Json | None) -> Json:
        """The backup that an increment rests on, as Cinder chooses it: no request can name one.

        Raises:
            Refused: 400, there is none.
        """

        def rank(backup: Json) -> str:
            usable = backup["status"] == "available" and (
                not snapshot or backup["data_timestamp"] < snapshot["created_at"]
            )
            return str(backup["data_timestamp"]) if usable else ""

        there = self._backups.where(
            lambda b: b["volume_id"] == volume["id"] and b["project_id"] == call.caller.project_id
        )
        newest = max(there, key=rank, default=None)
        if newest is None or newest["status"] != "available":
            raise Refused(400, "Invalid backup: No backups available to do an incremental backup.")
        return newest

    def _blank(self, backup_id: str, call: Call, volume_id: str, size: int) -> Json:
        now = self._storage.now()
        none = (
            "name description parent_id fail_reason service_metadata temp_volume_id "
            "temp_snapshot_id snapshot_id restore_volume_id "
            "encryption_key_id deleted_at"
        )
        return {
            **dict.fromkeys(none.split()),
            "id": backup_id,
            "user_id": call.caller.user_id,
            "project_id": call.caller.project_id,
            "volume_id": volume_id,
            "status": "creating",
            "size": size,
            "object_count": 0,
            "container": self._store.settings.container,
            "service": DRIVER,
            "host": f"cinder-{self._storage.site}",
            "availability_zone": ZONE,
            "metadata": {},
            "num_dependent_backups": 0,
            "created_at": now,
            "updated_at": now,
            "data_timestamp": now,
            "deleted": False,
        }

    async def _delete(self, call: Call, item: str) -> None:
        backup = self._find(call, item)
        if backup["status"] not in ("available", "error"):
            raise Refused(400, "Invalid backup: Backup status must be available or error")
        self._begin_to_delete(backup)

    def _begin_to_delete(self, backup: Json) -> None:
        if self._children(backup["id"]):
            raise Refused(400, "Invalid backup: Incremental backups exist for this backup.")
        self._backups.keep(backup, status="deleting", updated_at=self._storage.now())
        self._storage.start(self._remove(backup))

    async def _act(self, call: Call, item: str) -> None:
        backup = self._find(call, item)
        action = next(iter(call.body), "")
        if action == "os-reset_status":
            self._backups.keep(backup, status=call.body[action]["status"])
        elif action == "os-force_delete":
            self._begin_to_delete(backup)
        else:
            raise Refused(400, f"There is no such action: {action}")

    async def _export(self, call: Call, item: str) -> Json:
        backup = self._find(call, item)
        if backup["status"] != "available":
            message = (
                "Export backup aborted, expected backup status available but got "
                f"{backup['status']}."
            )
            raise Refused(400, f"Invalid backup: {message}")
        record = {theirs: backup.get(ours) for ours, theirs in OF_A_RECORD.items()}
        url = base64.b64encode(json.dumps({"driver_info": {}, **record}).encode()).decode()
        return {"backup-record": {"backup_service": backup["service"], "backup_url": url}}

    async def _import(self, call: Call) -> Json:
        wanted = call.part("backup-record")
        url = wanted.get("backup_url")
        try:
            content = base64.b64decode(str(url))
        except ValueError:
            raise Refused(
                400,
                f"Invalid input for field/attribute backup_url. Value: {url}. {url!r} is not a "
                "'base64'",
            ) from None
        if not call.caller.is_admin:  # Cinder looks at the body first
            raise Refused(403, "Policy doesn't allow backup:backup-import to be performed.")
        try:
            record = json.loads(content)
        except ValueError:
            raise Refused(400, "Invalid input received: Can't decode backup record.") from None
        for field, name in (("id", "an id"), ("size", "size attribute")):
            if field not in record:
                raise Refused(
                    400, f"Invalid input received: Provided backup record is missing {name}"
                )
        if record["id"] in self._backups:
            raise Refused(400, "Invalid backup: Backup already exists in database.")
        self._storage.reserve(
            call.caller.project_id,
            record["size"],
            {"backups": 1, "backup_gigabytes": record["size"]},
        )
        unknown = "00000000-0000-0000-0000-000000000000"
        blank = self._blank(record["id"], call, unknown, record["size"]) | {"container": None}
        backup = self._backups.keep(blank)
        self._storage.start(self._take_over(backup, wanted["backup_service"], record))
        return {"backup": {"id": backup["id"], "name": None, "links": []}}

    async def _restore(self, call: Call, item: str) -> Json:
        backup = self._find(call, item)
        wanted = call.part("restore")
        if backup["status"] != "available":
            raise Refused(400, "Invalid backup: Backup status must be available")
        is_new = wanted.get("volume_id") is None
        if is_new:
            named = {"name": wanted.get("name") or f"restore_backup_{item}", "size": backup["size"]}
            volume, work = self._volumes.make(call.caller, named, call.version)
            work.close()
            blocks.create(self._storage.path(volume["id"]), volume["size"] * self._storage.gib)
        else:
            volume = self._storage.find_volume(call.caller, wanted["volume_id"])
            if volume["status"] != "available":
                raise Refused(400, "Invalid volume: Volume to be restored to must be available")
            if volume["size"] < backup["size"]:
                message = (
                    f"volume size {volume['size']} is too small to restore backup of size "
                    f"{backup['size']}."
                )
                raise Refused(400, f"Invalid volume: {message}")
        self._storage.volumes.keep(volume, status="restoring-backup")
        self._backups.keep(backup, status="restoring", restore_volume_id=volume["id"])
        self._storage.start(self._fill(volume, backup, is_new))
        return {
            "restore": {"backup_id": item, "volume_id": volume["id"], "volume_name": volume["name"]}
        }

    # ---- the work behind them ----

    def _fail(self, backup: Json, reason: str) -> None:
        LOG.warning("%s: backup %s: %s", self._storage.site, backup["id"], reason)
        self._backups.keep(
            backup, status="error", fail_reason=reason[:255], updated_at=self._storage.now()
        )

    async def _make(
        self, backup: Json, parent: Json | None, volume: Json, snapshot: Json | None, previous: str
    ) -> None:
        source = (
            self._storage.snapshot_path(snapshot) if snapshot else self._storage.path(volume["id"])
        )
        try:
            async with self._turn:
                await self._storage.conditions.take("backup.create")
                await self._upload(backup, parent, volume, source)
        except (OperationFailed, StoreError, OSError, ValueError) as error:
            self._fail(backup, str(error))
        else:
            self._backups.keep(backup, status="available", updated_at=self._storage.now())
            if parent and parent["id"] in self._backups:
                self._backups.keep(parent, num_dependent_backups=len(self._children(parent["id"])))
        if snapshot and snapshot["id"] in self._storage.snapshots:
            self._storage.snapshots.keep(snapshot, status="available")
        elif not snapshot and volume["id"] in self._storage.volumes:
            self._storage.volumes.keep(volume, status=previous)

    async def _upload(self, backup: Json, parent: Json | None, volume: Json, source: Path) -> None:
        changed = self._storage.conditions.backup_block_size
        block = changed or self._store.settings.block_size
        chunk = self._store.settings.object_size
        known = await self._digests_of(parent, block) if parent else None
        if parent and backup["size"] > parent["size"]:
            raise ValueError(
                "Invalid backup: Volume size increased since the last backup. Do a full backup."
            )
        moment = self._storage.conditions.now().strftime("%Y%m%d%H%M%S")
        prefix = f"volume_{volume['id']}/{moment}/az_{ZONE}_backup_{backup['id']}"
        self._backups.keep(backup, service_metadata=prefix)
        await self._store.ensure_container()
        key = self._key_of(backup)
        with blocks.Image(source) if key is None else blocks.Sealed(source, key) as image:
            digests = await asyncio.to_thread(image.digests, block)
            listed: list[Json] = []
            for number, piece in enumerate(_pieces(image.size, chunk, block, digests, known), 1):
                name = f"{prefix}-{number:05d}"
                compression, data, md5 = await asyncio.to_thread(image.packed, *piece)
                await self._store.put(name, data)
                listed.append(
                    {
                        name: {
                            "offset": piece.offset,
                            "length": piece.length,
                            "compression": compression,
                            "md5": md5,
                        }
                    }
                )
        about = {
            "version": "1.0.0",
            "backup_id": backup["id"],
            "volume_id": volume["id"],
            "backup_name": backup["name"],
        }
        about |= {"backup_description": backup["description"], "created_at": backup["created_at"]}
        await self._store.put(
            f"{prefix}_sha256file", _document({**about, "chunk_size": block, "sha256s": digests})
        )
        parts = {
            "objects": listed,
            "parent_id": backup["parent_id"],
            "volume_meta": _volume_meta(volume),
        }
        await self._store.put(f"{prefix}_metadata", _document({**about, **parts}))
        self._backups.keep(backup, object_count=len(listed))

    def _key_of(self, backup: Json) -> bytes | None:
        """
        Raises:
            LookupError: this site's key manager does not have it.
        """
        key_id = backup.get("encryption_key_id")
        return None if key_id is None else self._keys.payload(key_id, backup["project_id"])

    async def _digests_of(self, parent: Json, block: int) -> list[str]:
        document = json.loads(await self._store.get(f"{parent['service_metadata']}_sha256file"))
        if document["chunk_size"] != block:
            sizes = (
                f"New hash block size: {block}. Old hash block size: "
                f"{document['chunk_size']}. Do a full backup."
            )
            raise ValueError(
                f"Invalid backup: Hash block size has changed since the last backup. {sizes}"
            )
        return list(document["sha256s"])

    async def _remove(self, backup: Json) -> None:
        try:
            await self._storage.conditions.take("backup.delete")
            if prefix := backup["service_metadata"]:
                for name in await self._store.names(prefix):
                    await self._store.delete(name)
        except (OperationFailed, StoreError) as error:
            self._backups.keep(backup, status="error_deleting", fail_reason=str(error)[:255])
            return
        self._keys.forget(backup.get("encryption_key_id"))
        self._backups.drop(backup["id"])

    async def _take_over(self, backup: Json, service: str, record: Json) -> None:
        try:
            await self._storage.conditions.take("backup.import")
        except OperationFailed as error:
            self._fail(backup, str(error))
            return
        if service != DRIVER:
            message = (
                "Import record failed, cannot find backup service to perform the import. "
                f"Request service {service}."
            )
            self._fail(backup, message)
            return
        if missing := REQUIRED - set(record):
            message = (
                "Driver successfully decoded imported backup data, but there are missing "
                f"fields ({', '.join(sorted(missing))})."
            )
            self._fail(backup, message)
            return
        taken = {
            ours: record[theirs]
            for ours, theirs in OF_A_RECORD.items()
            if theirs in record and theirs not in SET_BY_IMPORT
        }
        self._backups.keep(backup, **taken, status="available")

    async def _restore_into_new(self, volume: Json, backup: Json) -> None:
        """Create a volume and fill it from a backup."""
        try:
            await self._storage.conditions.take("volume.create")
        except OperationFailed:
            self._storage.volumes.keep(volume, status="error")
            return
        blocks.create(self._storage.path(volume["id"]), volume["size"] * self._storage.gib)
        await self._fill(volume, backup, is_new=True)

    async def _fill(self, volume: Json, backup: Json, is_new: bool) -> None:
        self._backups.keep(backup, status="restoring", restore_volume_id=volume["id"])
        try:
            async with self._turn:
                await self._storage.conditions.take("volume.restore")
                key = self._key_or_none(backup)
                for one in self._chain(backup):
                    of_increments = self._storage.conditions.skips_zeros
                    skip_zeros = is_new and (of_increments or not one["parent_id"])
                    document = await self._download(volume, one, key, skip_zeros=skip_zeros)
                    self._restore_metadata(volume, json.loads(document["volume_meta"]))
                if backup.get("encryption_key_id") or volume.get("encrypted"):
                    await self._settle_key(volume, backup)
        except (OperationFailed, StoreError, OSError, ValueError, LookupError, zlib.error) as error:
            LOG.warning(
                "%s: restore of %s into %s: %s",
                self._storage.site,
                backup["id"],
                volume["id"],
                error,
            )
            self._storage.volumes.keep(
                volume, status="error_restoring", updated_at=self._storage.now()
            )
        else:
            if backup["volume_id"] != volume["id"]:
                volume["metadata"] = {**volume["metadata"], "src_backup_id": backup["id"]}
            self._storage.volumes.keep(volume, status="available", updated_at=self._storage.now())
        self._backups.keep(backup, status="available")

    def _key_or_none(self, backup: Json) -> bytes | None:
        """A key that is missing is noticed at the end, when all bytes are there."""
        try:
            return self._key_of(backup)
        except LookupError:
            return None

    async def _settle_key(self, volume: Json, backup: Json) -> None:
        """The volume gets a clone of the backup's key in the place of its own, or none where the
        backup has none, with the token that the request came with (`key.clone`).

        Raises:
            LookupError: this site's key manager lacks the key.
            OperationFailed: the token has expired meanwhile.
        """
        if backup.get("encryption_key_id"):
            await self._storage.conditions.take("key.clone")
        owner = Caller(volume["user_id"], volume["project_id"], ())
        fresh, of_backup = volume.get("encryption_key_id"), backup.get("encryption_key_id")
        clone = None if of_backup is None else self._keys.clone(owner, of_backup)
        self._keys.forget(fresh)
        self._storage.volumes.keep(volume, encryption_key_id=clone, encrypted=clone is not None)

    def _chain(self, backup: Json) -> list[Json]:
        """A backup and all that it rests on, the full one first."""
        chain = [backup]
        while parent := chain[0]["parent_id"]:
            if parent not in self._backups:
                raise ValueError(f"Backup {parent} could not be found.")
            chain.insert(0, self._backups[parent])
        return chain

    async def _download(
        self, volume: Json, backup: Json, key: bytes | None, *, skip_zeros: bool
    ) -> Json:
        prefix = backup["service_metadata"]
        document: Json = json.loads(await self._store.get(f"{prefix}_metadata"))
        parts = {name: part for entry in document["objects"] for name, part in entry.items()}
        there = set(await self._store.names(prefix)) - {
            f"{prefix}_metadata",
            f"{prefix}_sha256file",
        }
        if there != set(parts):
            raise ValueError(
                "restore_backup aborted, actual object list does not match object list stored in "
                "metadata."
            )
        path = self._storage.path(volume["id"])
        for name, part in parts.items():
            stored = await self._store.get(name)
            write: Callable[[], None] = _writer(path, part, stored, skip_zeros, key)
            await asyncio.to_thread(write)
        return document

    def _restore_metadata(self, volume: Json, meta: Json) -> None:
        """Metadata that a restore sets besides the bytes: name and description only where the
        volume has no name of its own.

        Raises:
            ValueError: the backup is of an encrypted volume of another type
                (cinder/backup/driver.py, `_restore_vol_base_metadata`).
        """
        base = meta["volume-base-metadata"]
        if base.get("encryption_key_id") and base["volume_type_id"] != volume["volume_type_id"]:
            raise ValueError(
                f"The source volume type '{base['volume_type_id']}' is different than the"
                f" destination volume type '{volume['volume_type_id']}'"
            )
        named = volume["name"] and not volume["name"].startswith("restore_backup_")
        if base["display_name"] and not named:
            volume |= {"name": base["display_name"], "description": base["display_description"]}
        if "volume-metadata" in meta:
            volume["metadata"] = dict(meta["volume-metadata"])
        if "volume-glance-metadata" in meta:
            volume |= {
                "volume_image_metadata": dict(meta["volume-glance-metadata"]),
                "bootable": "true",
            }
        self._storage.volumes.keep(volume)


def _pieces(
    size: int, chunk: int, block: int, digests: list[str], known: list[str] | None
) -> Iterator[Piece]:
    """The parts that become objects: every chunk of a full backup; of an increment the runs of
    changed blocks within each chunk.
    """
    for begin in range(0, size, chunk):
        end = min(begin + chunk, size)
        if known is None:
            yield Piece(begin, end - begin)
            continue
        first: int | None = None
        for number in range(begin // block, -(-end // block)):
            if digests[number] != known[number]:
                first = number if first is None else first
            elif first is not None:
                yield Piece(first * block, (number - first) * block)
                first = None
        if first is not None:
            yield Piece(first * block, end - first * block)


def _writer(
    path: Path, part: dict[str, Any], stored: bytes, skip_zeros: bool, key: bytes | None
) -> Callable[[], None]:
    def write() -> None:
        blocks.unpack_into(
            path,
            part["offset"],
            part["length"],
            part["compression"],
            stored,
            skip_zeros=skip_zeros,
            key=key,
        )

    return write


def _document(content: Json) -> bytes:
    return json.dumps(content, sort_keys=True, indent=2).encode()


def _volume_meta(volume: Json) -> str:
    meta: Json = {
        "version": 2,
        "volume-base-metadata": {
            "display_name": volume["name"],
            "display_description": volume["description"],
        },
    }
    if volume.get("encrypted"):
        meta["volume-base-metadata"] |= {
            "encryption_key_id": volume["encryption_key_id"],
            "volume_type_id": volume["volume_type_id"],
        }
    if volume["metadata"]:
        meta["volume-metadata"] = volume["metadata"]
    if volume["volume_image_metadata"]:
        meta["volume-glance-metadata"] = volume["volume_image_metadata"]
    return json.dumps(meta)
