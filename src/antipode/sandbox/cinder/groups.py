# SPDX-License-Identifier: Apache-2.0
"""Cinder's generic volume groups and group snapshots at an embedded site. As with RBD, a group
snapshot is a loop of single ones; with the condition `consistent_groups` it is of one moment.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence

from antipode.sandbox.cinder.snapshots import Snapshots
from antipode.sandbox.cinder.storage import ZONE, Storage
from antipode.sandbox.cinder.types import Types, is_replicated
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Part, Refused, Route, page, public

DEFAULT = "default"
"""As which target a failback is asked for."""
UNDER_WAY = ("enabling", "disabling", "failing-over")
REPLICATING: dict[str, tuple[str, tuple[str, ...]]] = {
    "enable_replication": ("enabling", ("disabled", "enabled")),
    "disable_replication": ("disabling", ("enabled", "error")),
    "failover_replication": ("failing-over", ("failed-over", "enabled")),
    "list_replication_targets": ("", ()),
}
"""Action -> the status that it sets, and those that it begins from."""


class Groups(Part):
    """The group calls of Cinder, and the work behind them."""

    def __init__(
        self, storage: Storage, volume_types: Types, snapshots: Snapshots, database: Database
    ) -> None:
        self._storage = storage
        self._volume_types = volume_types
        self._snapshots_of_volumes = snapshots
        self._groups = storage.groups
        self._types = database.table("group_type")
        self._snapshots = database.table("group_snapshot")

    def routes(self) -> Sequence[Route]:
        types, groups, snapshots = "/v3/group_types", "/v3/groups", "/v3/group_snapshots"
        return [
            Route("GET", types, self._list_types),
            Route("POST", types, self._create_type, 202, admin=True),
            Route("DELETE", f"{types}/{{item}}", self._delete_type, 202, admin=True),
            Route("GET", groups, self._list),
            Route("GET", f"{groups}/detail", self._list),
            Route("POST", groups, self._create, 202),
            Route("GET", f"{groups}/{{item}}", self._show),
            Route("PUT", f"{groups}/{{item}}", self._update, 202),
            Route("POST", f"{groups}/{{item}}/action", self._act, 202),
            Route("GET", snapshots, self._list_snapshots),
            Route("GET", f"{snapshots}/detail", self._list_snapshots),
            Route("POST", snapshots, self._create_snapshot, 202),
            Route("GET", f"{snapshots}/{{item}}", self._show_snapshot),
            Route("DELETE", f"{snapshots}/{{item}}", self._delete_snapshot, 202),
        ]

    def begin_again(self) -> None:
        """After the services were killed: what was being made has failed."""
        for group in self._groups:
            if group["status"] == "creating":
                self._groups.keep(group, status="error")
            elif group["status"] == "updating":
                self._groups.keep(group, status="available")
            if group["replication_status"] in UNDER_WAY:
                self._set_replication(group, "error")
        for snapshot in list(self._snapshots):
            if snapshot["status"] == "creating":
                self._snapshots.keep(snapshot, status="error")
            elif snapshot["status"] == "deleting":  # its parts are being deleted
                self._snapshots.drop(snapshot["id"])

    # ---- group types ----

    async def _list_types(self, call: Call) -> Json:
        return page(call, "group_types", self._types, lambda t: self._view_of_type(call, t))

    def _view_of_type(self, call: Call, kind: Json) -> Json:
        """Its specs are shown to administrators only."""
        shown = public(kind)
        if not call.caller.is_admin:
            shown.pop("group_specs")
        return shown

    async def _create_type(self, call: Call) -> Json:
        wanted = call.part("group_type")
        if self._types.where(lambda t: t["name"] == wanted["name"]):
            raise Refused(409, f"Group Type {wanted['name']} already exists.")
        specs = {
            "group_specs": wanted.get("group_specs") or {},
            "is_public": True,
            "description": wanted.get("description"),
        }
        return {
            "group_type": self._types.keep(
                {"id": str(uuid.uuid4()), "name": wanted["name"], **specs}
            )
        }

    async def _delete_type(self, call: Call, item: str) -> None:
        if item not in self._types:
            raise Refused(404, f"Group type {item} could not be found.")
        if self._groups.where(lambda g: g["group_type"] == item):
            raise Refused(
                400,
                f"Target group type is still in use: Group Type {item} deletion is not allowed "
                "with groups present with the type.",
            )
        self._types.drop(item)

    # ---- groups ----

    def _find(self, call: Call, group_id: str) -> Json:
        group = self._groups.get(group_id)
        if group is None or not call.caller.may_see(group):
            raise Refused(404, f"Group {group_id} could not be found.")
        return group

    def _members(self, group_id: str) -> list[Json]:
        return self._storage.volumes.where(lambda v: v["group_id"] == group_id)

    def _view(self, group: Json) -> Json:
        return {**public(group), "volumes": [v["id"] for v in self._members(group["id"])]}

    async def _list(self, call: Call) -> Json:
        found = self._storage.of_project(call, self._groups)
        if call.request.path.endswith("/detail"):
            return page(call, "groups", found, self._view)
        return page(call, "groups", found, lambda g: {"id": g["id"], "name": g["name"]})

    async def _show(self, call: Call, item: str) -> Json:
        return {"group": self._view(self._find(call, item))}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("group")
        kind = next(
            (t for t in self._types if wanted.get("group_type") in (t["id"], t["name"])), None
        )
        if kind is None:
            raise Refused(404, f"Group type {wanted.get('group_type')} could not be found.")
        volume_types = [
            self._volume_types.named(name)["id"] for name in wanted.get("volume_types") or []
        ]
        if not volume_types:
            raise Refused(
                400, "Invalid input received: volume_types must be provided to create group."
            )
        self._storage.reserve(call.caller.project_id, 0, {"groups": 1})
        group = self._groups.keep(
            {
                "id": str(uuid.uuid4()),
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "group_type": kind["id"],
                "volume_types": volume_types,
                "availability_zone": wanted.get("availability_zone") or ZONE,
                "status": "creating",
                "created_at": self._storage.now(),
                "group_snapshot_id": None,
                "source_group_id": None,
                "replication_status": "disabled",
                "project_id": call.caller.project_id,
            }
        )
        self._storage.start(self._made(group))
        return {"group": {"id": group["id"], "name": group["name"]}}

    async def _made(self, group: Json) -> None:
        try:
            await self._storage.conditions.take("volume.create")
        except OperationFailed:
            self._groups.keep(group, status="error")
            return
        self._groups.keep(group, status="available")

    async def _update(self, call: Call, item: str) -> None:
        group, wanted = self._find(call, item), call.part("group")
        if group["status"] != "available":
            raise Refused(
                400,
                f"Invalid group: Group status must be available, but current status is:"
                f" {group['status']}.",
            )
        joining: list[Json] = []
        for volume_id in [v for v in (wanted.get("add_volumes") or "").split(",") if v]:
            volume = self._storage.volumes.get(volume_id)
            if volume is None:
                raise Refused(
                    400,
                    f"Invalid volume: Cannot add volume {volume_id} to group {item} because "
                    "volume cannot be found.",
                )
            if volume["group_id"] == item:
                continue
            if volume["group_id"]:
                because = f"because it is already in group {volume['group_id']}."
                raise Refused(
                    400, f"Invalid volume: Cannot add volume {volume_id} to group {item} {because}"
                )
            if volume["status"] not in ("available", "in-use"):
                because = f"because volume is in an invalid state: {volume['status']}."
                raise Refused(
                    400, f"Invalid volume: Cannot add volume {volume_id} to group {item} {because}"
                )
            if volume["volume_type_id"] not in group["volume_types"]:
                because = (
                    f"because volume type {volume['volume_type_id']} is not supported by the group."
                )
                raise Refused(
                    400, f"Invalid volume: Cannot add volume {volume_id} to group {item} {because}"
                )
            joining.append(volume)
        leaving: list[Json] = []
        for volume_id in [v for v in (wanted.get("remove_volumes") or "").split(",") if v]:
            volume = self._storage.volumes.get(volume_id)
            if volume is None or volume["group_id"] != item:
                raise Refused(
                    400,
                    f"Invalid volume: Cannot remove volume {volume_id} from group {item} because it"
                    " is not in the group.",
                )
            leaving.append(volume)
        self._groups.keep(group, **{k: wanted[k] for k in ("name", "description") if wanted.get(k)})
        if joining or leaving:
            self._groups.keep(group, status="updating")
            self._storage.start(self._changed(group, joining, leaving))

    async def _changed(self, group: Json, joining: list[Json], leaving: list[Json]) -> None:
        try:
            await self._storage.conditions.take("group.update")
        except OperationFailed:
            self._groups.keep(group, status="error")
            return
        for volume in joining:
            self._storage.volumes.keep(volume, group_id=group["id"])
        for volume in leaving:
            self._storage.volumes.keep(volume, group_id=None)
        self._groups.keep(group, status="available")

    async def _act(self, call: Call, item: str) -> Json | None:
        group = self._find(call, item)
        if (name := next(iter(call.body), "")) in REPLICATING:
            return await self._replicate(call, group, name)
        if "delete" not in call.body:
            raise Refused(400, f"There is no such action: {next(iter(call.body), '')}")
        if self._members(item) and not call.body["delete"].get("delete-volumes"):
            raise Refused(
                400,
                f"Invalid group: Group {item} is not empty. delete-volumes flag must be set to "
                "true to delete it",
            )
        if self._snapshots.where(lambda s: s["group_id"] == item):
            raise Refused(400, f"Invalid group: Group {item} still has dependent group snapshots")
        for volume in self._members(item):
            self._storage.remove_volume(volume)
        self._groups.drop(group["id"])
        return None

    # ---- replication of groups ----

    async def _replicate(self, call: Call, group: Json, name: str) -> Json | None:
        """One of the calls about the replication of a group (cinder/group/api.py)."""
        self._must_be_replicated(group)
        if name == "list_replication_targets":
            target = self._storage.conditions.replication_target
            return {"replication_targets": [{"backend_id": target}] if target else []}
        under_way, valid = REPLICATING[name]
        wanted = call.body[name] or {}
        volumes = self._members(group["id"])
        if group["status"] != "available" or group["replication_status"] not in valid:
            raise Refused(
                400,
                f"Invalid group: Group {group['id']} replication status must be {valid}, but"
                f" current status is: {group['replication_status']}.",
            )
        for volume in volumes:
            is_refused = volume["status"] == "in-use" and name == "failover_replication"
            if is_refused and not wanted.get("allow_attached_volume"):
                raise Refused(
                    400,
                    f"Invalid volume: Volume {volume['id']} is attached but"
                    " allow_attached_volume flag is False. Cannot failover replication.",
                )
            if volume["replication_status"] not in valid:
                raise Refused(
                    400,
                    f"Invalid volume: Volume {volume['id']} replication status must be {valid},"
                    f" but current status is: {volume['replication_status']}.",
                )
        self._set_replication(group, under_way)
        ended = {
            "enable_replication": "enabled",
            "disable_replication": "disabled",
            "failover_replication": (
                "enabled" if wanted.get("secondary_backend_id") == DEFAULT else "failed-over"
            ),
        }
        self._storage.start(self._replicated(group, ended[name]))
        return None

    def _must_be_replicated(self, group: Json) -> None:
        specs = self._types[group["group_type"]]["group_specs"]
        names = ("group_replication_enabled", "consistent_group_replication_enabled")
        if "<is> True" not in map(specs.get, names):
            message = f"Invalid group type: Group {group['id']} is not a replication group type."
            raise Refused(400, message)
        for kind in group["volume_types"]:
            if not is_replicated(self._volume_types.named(kind)):
                raise Refused(
                    400,
                    f"Invalid volume type: Volume type {kind} does not have 'replication_enabled'"
                    " spec key set to '<is> True'.",
                )

    async def _replicated(self, group: Json, status: str) -> None:
        try:
            await self._storage.conditions.take("group.replicate")
        except OperationFailed:
            self._set_replication(group, "error")
            return
        self._set_replication(group, status)

    def _set_replication(self, group: Json, status: str) -> None:
        for volume in self._members(group["id"]):
            self._storage.volumes.keep(volume, replication_status=status)
        self._groups.keep(group, replication_status=status)

    # ---- group snapshots ----

    def _find_snapshot(self, call: Call, snapshot_id: str) -> Json:
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None or not call.caller.may_see(snapshot):
            raise Refused(404, f"GroupSnapshot {snapshot_id} could not be found.")
        return snapshot

    async def _list_snapshots(self, call: Call) -> Json:
        return page(
            call, "group_snapshots", self._storage.of_project(call, self._snapshots), public
        )

    async def _show_snapshot(self, call: Call, item: str) -> Json:
        return {"group_snapshot": public(self._find_snapshot(call, item))}

    async def _create_snapshot(self, call: Call) -> Json:
        wanted = call.part("group_snapshot")
        group = self._find(call, str(wanted.get("group_id")))
        members = self._members(group["id"])
        if not members:
            raise Refused(
                400, "Invalid group: Group snapshot creation failed because the group is empty"
            )
        self._reserve(call, members)
        made = self._snapshots.keep(
            {
                "id": str(uuid.uuid4()),
                "name": wanted.get("name"),
                "description": wanted.get("description"),
                "group_id": group["id"],
                "group_type_id": group["group_type"],
                "status": "creating",
                "created_at": self._storage.now(),
                "project_id": call.caller.project_id,
            }
        )
        named = {"name": wanted.get("name"), "description": wanted.get("description")}
        parts = [
            self._snapshots_of_volumes.make(call.caller, volume, named, made["id"])
            for volume in members
        ]
        self._storage.start(self._take(made, parts))
        return {"group_snapshot": {k: made[k] for k in ("id", "name", "group_type_id")}}

    def _reserve(self, call: Call, volumes: list[Json]) -> None:
        """The quotas for all of them, before any is made.

        Raises:
            Refused: 413, one is exhausted.
        """
        needed: Counter[str] = Counter()
        for volume in volumes:
            for suffix in ("", f"_{volume['volume_type']}"):
                needed[f"snapshots{suffix}"] += 1
                needed[f"gigabytes{suffix}"] += volume["size"]
        self._storage.reserve(call.caller.project_id, needed["gigabytes"], dict(needed))

    async def _take(self, made: Json, parts: list[Json]) -> None:
        try:
            await self._storage.conditions.take("group_snapshot.create")
        except OperationFailed:
            for part in parts:
                self._storage.snapshots.keep(part, status="error")
            self._snapshots.keep(made, status="error")
            return
        if self._storage.conditions.consistent_groups and self._promises(made["group_type_id"]):
            is_made = await self._snapshots_of_volumes.take_together(parts)
            for part in parts:
                self._storage.snapshots.keep(part, status="available" if is_made else "error")
        else:
            for part in parts:  # as the generic implementation does: not one moment
                await self._snapshots_of_volumes.take(part)
        good = all(part["status"] == "available" for part in parts)
        self._snapshots.keep(made, status="available" if good else "error")

    def _promises(self, type_id: str) -> bool:
        specs = self._types[type_id]["group_specs"]
        return bool(specs.get("consistent_group_snapshot_enabled") == "<is> True")

    async def _delete_snapshot(self, call: Call, item: str) -> None:
        snapshot = self._find_snapshot(call, item)
        if snapshot["status"] not in ("available", "error"):
            raise Refused(
                400, "Invalid group snapshot: GroupSnapshot status must be available or error"
            )
        self._snapshots.keep(snapshot, status="deleting")
        for part in self._storage.snapshots.where(lambda s: s["group_snapshot_id"] == item):
            self._storage.snapshots.keep(part, status="deleting")
        self._storage.start(self._remove(snapshot))

    async def _remove(self, snapshot: Json) -> None:
        parts = self._storage.snapshots.where(lambda s: s["group_snapshot_id"] == snapshot["id"])
        await asyncio.gather(*(self._snapshots_of_volumes.remove(part) for part in parts))
        left = self._storage.snapshots.where(lambda s: s["group_snapshot_id"] == snapshot["id"])
        for part in left:
            self._storage.snapshots.keep(part, status="error")
        if left:
            self._snapshots.keep(snapshot, status="error")
        else:
            self._snapshots.drop(snapshot["id"])
