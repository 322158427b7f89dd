# SPDX-License-Identifier: Apache-2.0
"""Volumes and snapshots that the back end holds and Cinder does not know, and how Cinder takes them
over: as RBD's driver does it, which renames them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from antipode.sandbox import blocks
from antipode.sandbox.cinder.snapshots import Snapshots
from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.cinder.volumes import Volumes
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.http import PAGE, Call, Part, Refused, Route

DETAILS = ("reason_not_safe", "cinder_id", "extra_info")


class Managing(Part):
    def __init__(self, storage: Storage, volumes: Volumes, snapshots: Snapshots) -> None:
        self._storage = storage
        self._volumes = volumes
        self._snapshots = snapshots

    def routes(self) -> Sequence[Route]:
        volumes, snapshots = "/v3/manageable_volumes", "/v3/manageable_snapshots"
        return [
            Route("GET", volumes, self._list, admin=True),
            Route("GET", f"{volumes}/detail", self._list, admin=True),
            Route("POST", volumes, self._manage, 202, admin=True),
            Route("GET", snapshots, self._list_snapshots, admin=True),
            Route("GET", f"{snapshots}/detail", self._list_snapshots, admin=True),
            Route("POST", snapshots, self._manage_snapshot, 202, admin=True),
        ]

    # ---- volumes ----

    async def _list(self, call: Call) -> Json:
        self._refuse_strange_host(call)
        # by its id only, as RBD's driver: a volume that was migrated seems to be unknown
        known = {f"volume-{v['id']}": v["id"] for v in self._storage.volumes}
        rows = [self._row(path, path.name, known.get(path.name)) for path in self._images()]
        return {"manageable-volumes": _page(call, rows)}

    async def _manage(self, call: Call) -> Json:
        wanted = call.part("volume")
        if "ref" not in wanted:
            raise Refused(
                400,
                "Invalid input for field/attribute volume. Value: {}. 'ref' is a required property",
            )
        name = str(wanted["ref"].get("source-name", ""))
        if name.removeprefix("volume-") in self._storage.volumes:
            raise Refused(
                400,
                "Invalid volume: Unable to manage existing volume. The volume is already managed",
            )
        if not self._is_here(wanted.get("host")):
            raise Refused(400, f"Host '{wanted.get('host')}' not found")
        size = self._size(self._storage.image(name)) if self._is_held(name) else 1
        volume, work = self._volumes.make(call.caller, {**wanted, "size": size}, call.version)
        work.close()
        bootable = str(bool(wanted.get("bootable"))).lower()
        self._storage.volumes.keep(
            volume, status="managing", bootable=bootable, shared_targets=True
        )
        self._storage.start(self._take_over(volume, name))
        return {"volume": self._volumes.view(volume, call.caller)}

    async def _take_over(self, volume: Json, name: str) -> None:
        """The volume service sees only now whether there is what it takes over."""
        try:
            await self._storage.conditions.take("volume.manage")
        except OperationFailed:
            self._storage.volumes.keep(volume, status="error_managing")
            return
        if not self._is_held(name):
            self._storage.volumes.keep(volume, status="error_managing")
            return
        self._storage.rename(name, self._storage.real_name(volume["id"]))
        blocks.grow(self._storage.path(volume["id"]), volume["size"] * self._storage.gib)
        self._storage.volumes.keep(volume, status="available", updated_at=self._storage.now())

    # ---- snapshots ----

    async def _list_snapshots(self, call: Call) -> Json:
        self._refuse_strange_host(call)
        known = {f"snapshot-{s['id']}": s["id"] for s in self._storage.snapshots}
        rows = []
        for image in sorted(self._images()):
            for name, path in self._storage.images_of(image.name).items():
                cinder_id = known.get(name)
                row = self._row(path, name, cinder_id)
                rows.append({**row, "source_reference": {"source-name": image.name}})
        return {"manageable-snapshots": _page(call, rows)}

    async def _manage_snapshot(self, call: Call) -> Json:
        wanted = call.part("snapshot")
        if "ref" not in wanted or "volume_id" not in wanted:
            raise Refused(
                400,
                "Invalid input for field/attribute snapshot. Value: {}. 'ref' is a required "
                "property",
            )
        volume = self._storage.find_volume(call.caller, wanted["volume_id"])
        snapshot = self._snapshots.make(call.caller, volume, wanted)
        name = str(wanted["ref"].get("source-name", ""))
        self._storage.start(self._take_over_snapshot(snapshot, name))
        return {"snapshot": self._snapshots.view(snapshot)}

    async def _take_over_snapshot(self, snapshot: Json, name: str) -> None:
        try:
            await self._storage.conditions.take("snapshot.manage")
        except OperationFailed:
            self._storage.snapshots.keep(snapshot, status="error")
            return
        of_volume = self._storage.images_of(self._storage.real_name(snapshot["volume_id"]))
        if name not in of_volume:
            self._storage.snapshots.keep(snapshot, status="error")
            return
        of_volume[name].rename(self._storage.snapshot_path(snapshot))
        self._storage.snapshots.keep(snapshot, status="available", updated_at=self._storage.now())

    # ---- both ----

    def _images(self) -> list[Path]:
        found = (self._storage.folder / "volumes").iterdir()
        return [path for path in found if path.suffix != ".partial"]

    def _is_held(self, name: str) -> bool:
        return bool(name) and any(path.name == name for path in self._images())

    def _row(self, path: Path, name: str, cinder_id: str | None) -> Json:
        return {
            "reference": {"source-name": name},
            "size": self._size(path),
            "safe_to_manage": cinder_id is None,
            "reason_not_safe": "already managed" if cinder_id else None,
            "cinder_id": cinder_id,
            "extra_info": None,
        }

    def _size(self, path: Path) -> int:
        return -(-path.stat().st_size // self._storage.gib)

    def _is_here(self, host: object) -> bool:
        back_end = self._storage.host.partition("#")[0]
        return str(host).partition("#")[0] == back_end

    def _refuse_strange_host(self, call: Call) -> None:
        host = call.query.get("host")
        if not host:
            message = "One and only one of cluster and host must be set."
            raise Refused(400, f"Invalid input received: {message}")
        if not self._is_here(host):
            raise Refused(404, f"Service cinder-volume could not be found on host {host}.")


def _page(call: Call, rows: list[Json]) -> list[Json]:
    """A page of a listing without links (cinder.volume.volume_utils.paginate_entries_list)."""
    key, _, direction = call.query.get("sort", "reference:desc").partition(":")
    if key not in ("reference", "size"):
        raise Refused(400, f"Invalid sort keys passed: {key}")
    rows.sort(
        key=lambda r: r["size"] if key == "size" else r["reference"]["source-name"],
        reverse=direction != "asc",
    )
    begin = int(call.query.get("offset", 0))
    if marker := call.query.get("marker"):
        try:
            begin += [r["reference"] for r in rows].index(json.loads(marker)) + 1
        except ValueError:
            raise Refused(400, f"Invalid input received: marker not found: {marker}") from None
    shown = rows[begin : begin + min(int(call.query.get("limit", PAGE)), PAGE)]
    if call.request.path.endswith("/detail"):
        return shown
    return [{k: v for k, v in row.items() if k not in DETAILS} for row in shown]
