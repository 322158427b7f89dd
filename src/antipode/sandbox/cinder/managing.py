# SPDX-License-Identifier: Apache-2.0
"""Volumes that the backend holds and Cinder does not know, and how Cinder takes them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from antipode.sandbox import blocks
from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.cinder.volumes import Volumes
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Part, Refused, Route


class Managing(Part):
    def __init__(self, storage: Storage, volumes: Volumes) -> None:
        self._storage = storage
        self._volumes = volumes

    def routes(self) -> Sequence[Route]:
        manageable = "/v3/manageable_volumes"
        return [
            Route("GET", manageable, self._list, admin=True),
            Route("GET", f"{manageable}/detail", self._list, admin=True),
            Route("POST", manageable, self._manage, 202, admin=True),
        ]

    async def _list(self, call: Call) -> Json:
        found = []
        known = {
            f"volume-{v['os-vol-mig-status-attr:name_id'] or v['id']}": v
            for v in self._storage.volumes
        }
        for path in sorted((self._storage.folder / "volumes").iterdir()):
            volume = known.get(path.name)
            row: Json = {
                "reference": {"source-name": path.name},
                "size": -(-path.stat().st_size // self._storage.gib),
            }
            row |= {
                "safe_to_manage": volume is None,
                "reason_not_safe": "already managed" if volume else None,
            }
            found.append({**row, "cinder_id": volume["id"] if volume else None, "extra_info": None})
        return {"manageable-volumes": found}

    async def _manage(self, call: Call) -> Json:
        wanted = call.part("volume")
        name = str((wanted.get("ref") or {}).get("source-name", ""))
        held = self._storage.folder / "volumes" / Path(name).name
        if not name or not held.is_file():
            message = (
                "Failed to manage existing volume due to invalid backend reference: "
                f"specified source image {name} does not exist."
            )
            raise Refused(400, message)
        if name in {f"volume-{v['id']}" for v in self._storage.volumes}:
            raise Refused(400, f"Unable to manage existing volume. Volume {name} already managed.")
        size = -(-held.stat().st_size // self._storage.gib)
        volume, work = self._volumes.make(call.caller, {**wanted, "size": size}, call.version)
        work.close()
        self._storage.volumes.keep(volume, bootable=str(bool(wanted.get("bootable"))).lower())
        self._storage.start(self._take_over(volume, held))
        return {"volume": self._volumes.view(volume, call.caller)}

    async def _take_over(self, volume: Json, held: Path) -> None:
        await self._storage.conditions.take("volume.create")
        held.rename(self._storage.path(volume["id"]))
        blocks.grow(self._storage.path(volume["id"]), volume["size"] * self._storage.gib)
        self._storage.volumes.keep(volume, status="available", updated_at=self._storage.now())
