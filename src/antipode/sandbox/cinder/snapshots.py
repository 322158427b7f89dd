# SPDX-License-Identifier: Apache-2.0
"""Snapshots: sparse copies of volumes, made while nothing writes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack

from antipode.sandbox import blocks
from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Caller, Part, Refused, Route, page, public

LOG = logging.getLogger(__name__)


class Snapshots(Part):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self) -> Sequence[Route]:
        snapshots = "/v3/snapshots"
        return [
            Route("GET", snapshots, self._list),
            Route("GET", f"{snapshots}/detail", self._list),
            Route("POST", snapshots, self._create, 202),
            Route("GET", f"{snapshots}/{{item}}", self._show),
            Route("PUT", f"{snapshots}/{{item}}", self._update),
            Route("POST", f"{snapshots}/{{item}}/metadata", self._merge_metadata),
            Route("DELETE", f"{snapshots}/{{item}}", self._delete, 202),
            Route("POST", f"{snapshots}/{{item}}/action", self._act, 202, admin=True),
        ]

    def begin_again(self) -> None:
        """After the services were killed: as for volumes; no backup of a snapshot is under way."""
        for snapshot in self._storage.snapshots:
            if snapshot["status"] == "creating":
                self._storage.snapshots.keep(snapshot, status="error")
            elif snapshot["status"] == "deleting":
                self._storage.start(self.remove(snapshot))
            elif snapshot["status"] == "unmanaging":
                self._storage.start(self._unmanage(snapshot))
            elif snapshot["status"] == "backing-up":
                self._storage.snapshots.keep(snapshot, status="available")

    async def _list(self, call: Call) -> Json:
        return page(
            call, "snapshots", self._storage.of_project(call, self._storage.snapshots), self.view
        )

    def view(self, snapshot: Json) -> Json:
        shown = public(snapshot)
        shown["os-extended-snapshot-attributes:project_id"] = shown.pop("project_id")
        shown["os-extended-snapshot-attributes:progress"] = (
            "0%" if snapshot["status"] == "creating" else "100%"
        )
        return shown

    async def _show(self, call: Call, item: str) -> Json:
        return {"snapshot": self.view(self._storage.find_snapshot(call.caller, item))}

    async def _merge_metadata(self, call: Call, item: str) -> Json:
        snapshot = self._storage.find_snapshot(call.caller, item)
        merged = {**snapshot["metadata"], **call.part("metadata")}
        self._storage.snapshots.keep(snapshot, metadata=merged)
        return {"metadata": merged}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("snapshot")
        if "volume_id" not in wanted:
            raise Refused(
                400,
                "Invalid input for field/attribute snapshot. Value: {}. 'volume_id' is a "
                "required property",
            )
        volume = self._storage.find_volume(call.caller, wanted["volume_id"])
        force, in_use = wanted.get("force"), call.version >= (3, 66)
        if in_use and force is False:
            raise Refused(
                400,
                "The 'force' flag is invalid for this API version; since microversion 3.66, "
                "creating a snapshot of an in-use volume is the "
                "default behavior",
            )
        allowed = ("available", "in-use") if in_use or force else ("available",)
        if volume["status"] not in allowed:
            message = (
                f"Volume {volume['id']} status must be {', '.join(allowed)}, but current "
                f"status is: {volume['status']}."
            )
            raise Refused(400, f"Invalid volume: {message}")
        snapshot = self.make(call.caller, volume, wanted)
        self._storage.start(self.take(snapshot))
        return {"snapshot": self.view(snapshot)}

    def make(
        self, caller: Caller, volume: Json, wanted: Json, group_snapshot_id: str | None = None
    ) -> Json:
        """A snapshot that is being created.

        Raises:
            Refused: 413, a quota is exhausted.
        """
        kind, size = volume["volume_type"], volume["size"]
        needed = {
            "snapshots": 1,
            "gigabytes": size,
            f"snapshots_{kind}": 1,
            f"gigabytes_{kind}": size,
        }
        self._storage.reserve(caller.project_id, size, needed)
        now = self._storage.now()
        return self._storage.snapshots.keep(
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

    async def take(self, snapshot: Json) -> None:
        try:
            await self._storage.conditions.take("snapshot.create")
            async with self._storage.writing[snapshot["volume_id"]]:
                await asyncio.to_thread(
                    blocks.copy,
                    self._storage.path(snapshot["volume_id"]),
                    self._storage.snapshot_path(snapshot),
                )
        except (OperationFailed, OSError) as error:
            LOG.warning("%s: snapshot %s: %s", self._storage.site, snapshot["id"], error)
            self._storage.snapshots.keep(snapshot, status="error", updated_at=self._storage.now())
            return
        self._storage.snapshots.keep(snapshot, status="available", updated_at=self._storage.now())

    async def take_together(self, snapshots: Sequence[Json]) -> bool:
        """Take them at one moment, while nothing writes to any of their volumes; whether they are
        made.
        """
        try:
            async with AsyncExitStack() as held:
                for volume in sorted({s["volume_id"] for s in snapshots}):
                    await held.enter_async_context(self._storage.writing[volume])
                for snapshot in snapshots:
                    await asyncio.to_thread(
                        blocks.copy,
                        self._storage.path(snapshot["volume_id"]),
                        self._storage.snapshot_path(snapshot),
                    )
        except OSError as error:
            LOG.warning("%s: group snapshot: %s", self._storage.site, error)
            return False
        return True

    async def _update(self, call: Call, item: str) -> Json:
        snapshot = self._storage.find_snapshot(call.caller, item)
        wanted = call.part("snapshot")
        changes = {k: wanted[k] for k in ("name", "description") if k in wanted}
        return {
            "snapshot": self.view(
                self._storage.snapshots.keep(snapshot, **changes, updated_at=self._storage.now())
            )
        }

    async def _delete(self, call: Call, item: str) -> None:
        snapshot = self._storage.find_snapshot(call.caller, item)
        self._refuse_unless_at_rest(snapshot)
        self._storage.snapshots.keep(snapshot, status="deleting", updated_at=self._storage.now())
        self._storage.start(self.remove(snapshot))

    async def remove(self, snapshot: Json) -> None:
        try:
            await self._storage.conditions.take("snapshot.delete")
        except OperationFailed:
            self._storage.snapshots.keep(snapshot, status="error_deleting")
            return
        self._storage.remove_snapshot(snapshot)

    async def _act(self, call: Call, item: str) -> None:
        snapshot = self._storage.find_snapshot(call.caller, item)
        if "os-unmanage" in call.body:
            self._refuse_unless_at_rest(snapshot)
            self._storage.snapshots.keep(snapshot, status="unmanaging")
            self._storage.start(self._unmanage(snapshot))
        elif "os-reset_status" in call.body:
            self._storage.snapshots.keep(snapshot, status=call.body["os-reset_status"]["status"])
        else:
            raise Refused(400, f"There is no such action: {next(iter(call.body), '')}")

    async def _unmanage(self, snapshot: Json) -> None:
        """Forget a snapshot, which the back end keeps."""
        try:
            await self._storage.conditions.take("snapshot.unmanage")
        except OperationFailed:
            self._storage.snapshots.keep(snapshot, status="error")
            return
        self._storage.snapshots.drop(snapshot["id"])

    def _refuse_unless_at_rest(self, snapshot: Json) -> None:
        if snapshot["status"] not in ("available", "error") or snapshot["group_snapshot_id"]:
            raise Refused(
                400,
                "Invalid snapshot: Snapshot status must be available or error and must not be "
                "part of a group.",
            )
