# SPDX-License-Identifier: Apache-2.0
"""Attachments as Cinder has them: which volume is connected to which server, and how; and those of
hosts without a server, whose connection is a file here (os-brick's connector `local`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

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
            Route("POST", attachments, self._create),
            Route("POST", f"{attachments}/{{item}}/action", self._complete, 204),
            Route("DELETE", f"{attachments}/{{item}}", self._delete),
        ]

    async def _list(self, call: Call) -> Json:
        """Newest first, without links to further pages."""
        rows = [
            _detail(self._storage, volume, a)
            for volume in self._storage.volumes.where(
                lambda v: v["project_id"] == call.caller.project_id
            )
            for a in _all_of(volume)
        ]
        rows.sort(key=lambda a: str(a["attached_at"]), reverse=True)
        if server := call.query.get("instance_id"):
            rows = [r for r in rows if r["instance"] == server]
        if wanted := call.query.get("volume_id"):
            rows = [r for r in rows if r["volume_id"] == wanted]
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
        volume, attachment = self._find(call, item)
        return {"attachment": _detail(self._storage, volume, attachment)}

    def _find(self, call: Call, item: str) -> tuple[Json, Json]:
        for volume in self._storage.volumes.where(call.caller.may_see):
            for attachment in _all_of(volume):
                if attachment["attachment_id"] == item:
                    return volume, attachment
        message = f"Volume attachment could not be found with filter: attachment_id = {item}."
        raise Refused(404, message)

    async def _create(self, call: Call) -> Json:
        """For a host (cinder/api/v3/attachments.py, `create`), not for a server: those of servers
        are made by the embedded Nova itself.
        """
        wanted = call.part("attachment")
        if call.version < (3, 27):
            raise Refused(404, "The resource could not be found.")
        if "instance_uuid" in wanted:
            raise Refused(400, "the embedded Cinder makes no attachments of servers by its API")
        volume = self._storage.find_volume(call.caller, str(wanted.get("volume_uuid")))
        if volume["status"] not in ("available", "downloading"):
            raise Refused(
                400,
                f"Invalid volume: Volume {volume['id']} status must be available or downloading to"
                f" reserve, but the current status is {volume['status']}.",
            )
        attachment: Json = {
            "attachment_id": str(uuid.uuid4()),
            "id": volume["id"],
            "volume_id": volume["id"],
            "server_id": None,
            "device": None,
            "host_name": (wanted.get("connector") or {}).get("host"),
            "attached_at": self._storage.now(),
        }
        self._storage.volumes.keep(volume, status="attaching", _attaching=attachment)
        return {"attachment": _detail(self._storage, volume, attachment)}

    async def _complete(self, call: Call, item: str) -> None:
        volume, attachment = self._find(call, item)
        if call.version < (3, 44) or "os-complete" not in call.body:
            raise Refused(400, "There is no such action")
        self._storage.volumes.keep(
            volume, status="in-use", attachments=[attachment], _attaching=None
        )

    async def _delete(self, call: Call, item: str) -> Json:
        volume, _ = self._find(call, item)
        left = [a for a in volume["attachments"] if a["attachment_id"] != item]
        self._storage.volumes.keep(
            volume, status="in-use" if left else "available", attachments=left, _attaching=None
        )
        return {"attachments": [_detail(self._storage, volume, a) for a in left]}


def _all_of(volume: Json) -> Iterator[Json]:
    """The attachments of a volume, and that which a host is about to complete."""
    yield from volume["attachments"]
    if attaching := volume.get("_attaching"):
        yield attaching


def _detail(storage: Storage, volume: Json, attachment: Json) -> Json:
    has_server = attachment["server_id"] is not None
    return {
        "id": attachment["attachment_id"],
        "status": "attaching" if attachment is volume.get("_attaching") else "attached",
        "instance": attachment["server_id"],
        "volume_id": volume["id"],
        "attached_at": attachment["attached_at"],
        "detached_at": "",
        "attach_mode": "rw",
        "connection_info": {
            **(_to_image(storage, volume) if has_server else _to_file(storage, volume)),
            "volume_id": volume["id"],
            "qos_specs": None,
            "access_mode": "rw",
            "encrypted": volume["encrypted"],
            "cacheable": False,
            "attachment_id": attachment["attachment_id"],
        },
    }


def _to_image(storage: Storage, volume: Json) -> Json:
    """How a hypervisor connects to a volume."""
    return {
        "driver_volume_type": "rbd",
        "name": f"{POOL}/{storage.real_name(volume['id'])}",
        "hosts": ["127.0.0.1"],
        "ports": ["6789"],
        "cluster_name": "ceph",
        "auth_enabled": True,
        "auth_username": "cinder",
        "secret_type": "ceph",
        "secret_uuid": storage.cluster,
        "keyring": KEYRING,
        "discard": True,
    }


def _to_file(storage: Storage, volume: Json) -> Json:
    """How another host does: the sites are on one machine."""
    return {"driver_volume_type": "local", "device_path": str(storage.path(volume["id"]))}
