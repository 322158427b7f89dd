# SPDX-License-Identifier: Apache-2.0
"""Trunks of Neutron: a parent port and the ports whose traffic comes through it, tagged."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Part, Refused, Route, public
from antipode.sandbox.neutron.resources import find, listed, refuse_unknown, sees, tagged

TRUNK = (
    "port_id",
    "name",
    "description",
    "admin_state_up",
    "sub_ports",
    "project_id",
    "tenant_id",
)


class Trunks(Part):
    def __init__(self, database: Database, ports: Table, now: Callable[[], str]) -> None:
        self._trunks = database.table("trunk")
        self._ports = ports
        self._now = now

    def routes(self) -> Sequence[Route]:
        trunks = "/v2.0/trunks"
        return [
            Route("GET", trunks, self._list),
            Route("POST", trunks, self._create, 201),
            Route("GET", f"{trunks}/{{item}}", self._show),
            Route("DELETE", f"{trunks}/{{item}}", self._delete, 204),
            Route("PUT", f"{trunks}/{{item}}/tags", self._tag),
        ]

    def of_parent(self, port_id: str) -> Json | None:
        """The trunk whose parent a port is."""
        return next(iter(self._trunks.where(lambda t: t["port_id"] == port_id)), None)

    def refuse_its_port(self, port_id: str) -> None:
        """Refuse to delete a port that is in a trunk."""
        if trunk := self.of_parent(port_id):
            raise Refused(
                409,
                f"Port {port_id} is currently a parent port for trunk {trunk['id']}.",
                "PortInUseAsTrunkParent",
            )
        for trunk in self._trunks:
            if port_id in _below(trunk):
                raise Refused(
                    409,
                    f"Port {port_id} is currently a subport for trunk {trunk['id']}.",
                    "PortInUseAsSubPort",
                )

    async def _list(self, call: Call) -> Json:
        return listed(call, "trunks", (public(t) for t in self._trunks if sees(call.caller, t)))

    async def _show(self, call: Call, item: str) -> Json:
        return {"trunk": public(find(call, self._trunks, item, "Trunk"))}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("trunk")
        refuse_unknown(wanted, TRUNK)
        parent = find(call, self._ports, str(wanted.get("port_id")), "Port")
        below = wanted.get("sub_ports") or []
        self._refuse_used(parent, below)
        for one in below:
            port = find(call, self._ports, str(one.get("port_id")), "Port")
            self._ports.keep(port, device_owner="trunk:subport")
        now = self._now()
        trunk = {
            "id": str(uuid.uuid4()),
            "name": wanted.get("name", ""),
            "description": wanted.get("description", ""),
            "admin_state_up": wanted.get("admin_state_up", True),
            "port_id": parent["id"],
            "sub_ports": below,
            "status": "DOWN",
            "project_id": call.caller.project_id,
            "tenant_id": call.caller.project_id,
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 1,
        }
        return {"trunk": public(self._trunks.keep(trunk))}

    def _refuse_used(self, parent: Json, below: Sequence[Json]) -> None:
        if parent["device_id"]:
            raise Refused(
                409,
                f"Port {parent['id']} is currently in use and is not eligible for use as a parent "
                "port.",
                "ParentPortInUse",
            )
        used = {t["port_id"] for t in self._trunks}.union(*map(_below, self._trunks))
        wanted = [parent["id"], *(one["port_id"] for one in below)]
        for port_id in wanted:
            if port_id in used or wanted.count(port_id) > 1:
                raise Refused(409, f"Port {port_id} is in use by another trunk.", "TrunkPortInUse")
        tags = [(one["segmentation_type"], one["segmentation_id"]) for one in below]
        for kind, number in tags:
            if tags.count((kind, number)) > 1:
                raise Refused(
                    409,
                    f"segmentation_type {kind} and segmentation_id {number} already in use on"
                    " trunk",
                    "DuplicateSubPort",
                )

    async def _delete(self, call: Call, item: str) -> None:
        trunk = find(call, self._trunks, item, "Trunk")
        parent = self._ports.get(trunk["port_id"])
        if parent is not None and parent["device_id"]:
            raise Refused(409, f"Trunk {item} is currently in use.", "TrunkInUse")
        for port_id in _below(trunk):
            if port := self._ports.get(port_id):
                self._ports.keep(port, device_owner="")
        self._trunks.drop(trunk["id"])

    async def _tag(self, call: Call, item: str) -> Json:
        return {"tags": tagged(call, self._trunks, find(call, self._trunks, item, "Trunk"))}


def _below(trunk: Json) -> set[str]:
    return {one["port_id"] for one in trunk["sub_ports"]}
