# SPDX-License-Identifier: Apache-2.0
"""Attachments as Cinder has them: which volume is connected to which server, and how."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.sandbox.cinder.storage import POOL, Storage
from antipode.sandbox.database import Json
from antipode.sandbox.http import PAGE, Call, Part, Refused, Route

KEYRING = "[client.cinder]\n\tkey = not-to-be-seen-anywhere==\n"
"""A secret, such as connections may have; RBD's have it where `rbd_keyring_conf` is set."""


class Attachments(Part):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def routes(self) -> Sequence[Route]:
        attachments = "/v3/attachments"
        return [
            Route("GET", attachments, self._list),
            Route("GET", f"{attachments}/detail", self._list),
            Route("GET", f"{attachments}/{{item}}", self._show),
        ]

    async def _list(self, call: Call) -> Json:
        """Newest first, without links to further pages."""
        rows = [
            _detail(self._storage, volume, a)
            for volume in self._storage.of_project(call, self._storage.volumes)
            for a in volume["attachments"]
        ]
        rows.sort(key=lambda a: str(a["attached_at"]), reverse=True)
        if server := call.query.get("instance_id"):
            rows = [r for r in rows if r["instance"] == server]
        begin = 0
        if marker := call.query.get("marker"):
            places = [i for i, row in enumerate(rows) if row["id"] == marker]
            if not places:
                raise Refused(400, f"marker [{marker}] not found")
            begin = places[0] + 1
        shown = rows[begin : begin + min(int(call.query.get("limit", PAGE)), PAGE)]
        if not call.request.path.endswith("/detail"):
            names = ("id", "status", "instance", "volume_id")
            shown = [{k: row[k] for k in names} for row in shown]
        return {"attachments": shown}

    async def _show(self, call: Call, item: str) -> Json:
        for volume in self._storage.volumes.where(call.caller.may_see):
            for attachment in volume["attachments"]:
                if attachment["attachment_id"] == item:
                    return {"attachment": _detail(self._storage, volume, attachment)}
        message = f"Volume attachment could not be found with filter: attachment_id = {item}."
        raise Refused(404, message)


def _detail(storage: Storage, volume: Json, attachment: Json) -> Json:
    return {
        "id": attachment["attachment_id"],
        "status": "attached",
        "instance": attachment["server_id"],
        "volume_id": volume["id"],
        "attached_at": attachment["attached_at"],
        "detached_at": "",
        "attach_mode": "rw",
        "connection_info": {
            "name": f"{POOL}/{storage.real_name(volume['id'])}",
            "hosts": ["127.0.0.1"],
            "ports": ["6789"],
            "cluster_name": "ceph",
            "auth_enabled": True,
            "auth_username": "cinder",
            "secret_type": "ceph",
            "secret_uuid": storage.cluster,
            "keyring": KEYRING,
            "volume_id": volume["id"],
            "discard": True,
            "qos_specs": None,
            "access_mode": "rw",
            "encrypted": False,
            "cacheable": False,
            "driver_volume_type": "rbd",
            "attachment_id": attachment["attachment_id"],
        },
    }
