# SPDX-License-Identifier: Apache-2.0
"""Attachments of servers: volumes and ports."""

from __future__ import annotations

from collections.abc import Sequence

from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Part, Refused, Route, Version
from antipode.sandbox.neutron.service import Neutron
from antipode.sandbox.nova.servers import Servers


class Attachments(Part):
    def __init__(self, servers: Servers, storage: Storage, neutron: Neutron) -> None:
        self._servers = servers
        self._storage = storage
        self._neutron = neutron

    def routes(self) -> Sequence[Route]:
        server = "/v2.1/servers/{item}"
        return [
            Route("GET", f"{server}/os-volume_attachments", self._attachments),
            Route("POST", f"{server}/os-volume_attachments", self._attach),
            Route(
                "PUT", f"{server}/os-volume_attachments/{{volume}}", self._update_attachment, 202
            ),
            Route("DELETE", f"{server}/os-volume_attachments/{{volume}}", self._detach, 202),
            Route("GET", f"{server}/os-interface", self._interfaces),
        ]

    async def _attachments(self, call: Call, item: str) -> Json:
        server = self._servers.find(call, item)
        return {
            "volumeAttachments": [
                self._view_attachment(server, a, call.version) for a in server["_attachments"]
            ]
        }

    def _view_attachment(self, server: Json, attachment: Json, version: Version) -> Json:
        a = attachment
        row: Json = {"volumeId": a["volume_id"], "serverId": server["id"], "device": a["device"]}
        row |= (
            {"attachment_id": a["id"], "bdm_uuid": a["id"]}
            if version >= (2, 89)
            else {"id": a["volume_id"]}
        )
        row |= {"tag": a["tag"]} if version >= (2, 70) else {}
        return row | (
            {"delete_on_termination": a["delete_on_termination"]} if version >= (2, 79) else {}
        )

    async def _attach(self, call: Call, item: str) -> Json:
        server, wanted = self._servers.find(call, item), call.part("volumeAttachment")
        self._servers.refuse_locked(server, call.caller)
        self._servers.refuse_task(server, "attach_volume")
        volume = self._storage.volumes.get(str(wanted.get("volumeId")))
        if volume is None or not call.caller.may_see(volume):
            raise Refused(404, f"Volume {wanted.get('volumeId')} could not be found.")
        if not self._storage.may_be_attached(volume, server["id"]):
            raise Refused(
                400,
                f"Invalid volume: volume {volume['id']} status must be 'available'. Currently in "
                f"'{volume['status']}'",
            )
        row = self._servers.attach(server, volume, wanted)
        return {"volumeAttachment": self._view_attachment(server, row, call.version)}

    def _attachment(self, server: Json, volume_id: str) -> Json:
        for attachment in server["_attachments"]:
            if attachment["volume_id"] == volume_id:
                found: Json = attachment
                return found
        raise Refused(
            404,
            f"Volume attachment for volume {volume_id} could not be found in server {server['id']}",
        )

    async def _update_attachment(self, call: Call, item: str, volume: str) -> None:
        server = self._servers.find(call, item)
        attachment = self._attachment(server, volume)
        wanted = call.part("volumeAttachment")
        if wanted.get("volumeId") != volume or call.version < (2, 85):
            raise Refused(
                400,
                "Only the delete_on_termination of an attachment can be updated, since "
                "microversion 2.85",
            )
        attachment["delete_on_termination"] = bool(wanted["delete_on_termination"])
        self._servers.table.keep(server)

    async def _detach(self, call: Call, item: str, volume: str) -> None:
        server = self._servers.find(call, item)
        self._servers.refuse_locked(server, call.caller)
        self._servers.refuse_task(server, "detach_volume")
        attachment = self._attachment(server, volume)
        if attachment["device"] == "/dev/vda":
            raise Refused(403, "Cannot detach a root device volume")
        self._servers.table.keep(
            server, _attachments=[a for a in server["_attachments"] if a is not attachment]
        )
        self._storage.detach(self._storage.volumes[volume], server["id"])

    async def _interfaces(self, call: Call, item: str) -> Json:
        server = self._servers.find(call, item)
        rows = []
        for interface in sorted(server["_ports"], key=lambda i: str(i["port_id"])):
            if port := self._neutron.ports.get(interface["port_id"]):
                row: Json = {
                    "port_id": port["id"],
                    "net_id": port["network_id"],
                    "mac_addr": port["mac_address"],
                    "port_state": port["status"],
                }
                row["fixed_ips"] = port["fixed_ips"]
                rows.append(row | ({"tag": interface["tag"]} if call.version >= (2, 70) else {}))
        return {"interfaceAttachments": rows}
