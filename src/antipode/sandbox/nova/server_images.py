# SPDX-License-Identifier: Apache-2.0
"""Images of servers (createImage): of a server that boots from a volume, Nova freezes the guest,
has Cinder snapshot the volumes one after another, and makes an image without bytes that names the
snapshots. Of a server that boots from an image it uploads the bytes of the root disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from aiohttp import web

from antipode.sandbox.cinder.snapshots import Snapshots
from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.glance import Glance
from antipode.sandbox.guests import GuestFrozen, GuestSilent
from antipode.sandbox.http import Call, Refused
from antipode.sandbox.nova.servers import TASK, Infrastructure, Servers, says_yes

LOG = logging.getLogger(__name__)
RPC_TIMEOUT_S = 60.0
"""How long nova-api waits for nova-compute (rpc_response_timeout)."""
LOOK_S = 0.5
"""Between two looks of nova-compute at the snapshots, before it thaws the guest."""
ALLOWED = ("active", "stopped", "paused", "suspended")
WRONG = "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/"


class ServerImages:
    """What createImage does. While it is under way nothing about the server shows it, as in
    Nova.
    """

    def __init__(self, servers: Servers, infrastructure: Infrastructure) -> None:
        self._servers = servers
        self._conditions = servers.conditions
        self._hypervisor = infrastructure.hypervisor
        self._storage = infrastructure.storage
        self._snapshots: Snapshots = infrastructure.snapshots
        self._glance: Glance = infrastructure.glance

    async def create(self, call: Call, server: Json, wanted: Json) -> Json | web.Response:
        """The image's id, when the guest was frozen and the snapshots were asked for; the guest is
        thawed once no snapshot is being created any more.

        Raises:
            Refused: 403, a quota is short; 409, the server is busy, or its guest cannot be frozen
                and its image demands that; 500, nova-compute or Glance does not answer.
        """
        if (state := server["OS-EXT-STS:vm_state"]) not in ALLOWED:
            raise Refused(
                409, f"Cannot 'createImage' instance {server['id']} while it is in vm_state {state}"
            )
        self._servers.refuse_task(server, "createImage")
        project = call.caller.project_id
        if server["image"]:
            image = self._glance.reserve(project, self._with_properties(server, wanted))
            self._servers.table.keep(server, **{TASK: "image_snapshot"})
            self._servers.start(self._upload_root(server, image))
            return self._answer(call, image)
        if self._storage.quotas.exceeded(project, {"snapshots": len(server["_attachments"])}):
            raise Refused(403, "Quota exceeded, too many snapshots.")
        frozen = state == "active" and await self._freeze(server)
        snapshots: list[Json] = []
        try:
            for attachment in server["_attachments"]:
                snapshots.append(self._snapshot(call, attachment, wanted["name"]))
        except Refused as refused:
            raise Refused(403 if refused.status == 413 else 500, refused.message) from refused
        finally:
            if frozen:
                self._servers.start(self._thaw_after(server, snapshots))
        try:
            await self._conditions.take("image.create")
        except OperationFailed as error:
            raise Refused(500, f"{WRONG}: {error}") from error
        image = self._glance.register(project, self._described(server, snapshots, wanted))
        return self._answer(call, image)

    def _answer(self, call: Call, image: Json) -> Json | web.Response:
        if call.version >= (2, 45):
            return {"image_id": image["id"]}
        location = f"{call.base}{Glance.prefix}/v2/images/{image['id']}"
        return web.Response(status=202, headers={"Location": location})

    async def _freeze(self, server: Json) -> bool:
        """Freeze the guest; False when that fails and the server's image does not demand it.

        Raises:
            Refused: it fails and is demanded, or nova-compute does not answer in time.
        """
        try:
            async with asyncio.timeout(RPC_TIMEOUT_S), self._hypervisor.agent_of(server["id"]):
                if not self._servers.has_agent(server):
                    raise GuestSilent("QEMU guest agent is not enabled")
                await self._conditions.take("server.quiesce")
                self._hypervisor.freeze(server["id"])
        except TimeoutError:
            self._servers.start(self._thaw_after(server, []))
            raise Refused(500, f"{WRONG}: MessagingTimeout") from None
        except (GuestSilent, GuestFrozen, OperationFailed) as error:
            if not _demands_quiesce(server):
                LOG.info("server %s is snapshot without being frozen: %s", server["id"], error)
                return False
            if isinstance(error, GuestFrozen):
                raise Refused(500, f"{WRONG}: InternalError") from error
            raise Refused(409, f"Failed to quiesce instance: {error}") from error
        return True

    async def _upload_root(self, server: Json, image: Json) -> None:
        """Copy the root disk of a server while its guest is frozen, and give the bytes to Glance;
        the image goes when that fails.
        """
        try:
            frozen = server["OS-EXT-STS:vm_state"] == "active" and await self._freeze(server)
            try:
                async with self._storage.writing[server["id"]]:
                    content = await asyncio.to_thread(
                        self._storage.disk_path(server["id"]).read_bytes
                    )
            finally:
                if frozen:
                    self._hypervisor.thaw(server["id"])
            self._become(server, "image_uploading")
            self._glance.images.keep(image, status="saving")
            await self._conditions.take("image.upload")
            self._glance.store(image, content)
        except (Refused, GuestSilent, OperationFailed, OSError) as error:
            LOG.warning("no image of server %s was made: %s", server["id"], error)
            self._glance.forget(image)
        finally:
            self._become(server, None)

    def _become(self, server: Json, task: str | None) -> None:
        if server["id"] in self._servers.table and server[TASK] != "deleting":
            self._servers.table.keep(server, **{TASK: task})

    def _snapshot(self, call: Call, attachment: Json, name: str) -> Json:
        volume = self._storage.volumes[attachment["volume_id"]]
        made = self._snapshots.make(call.caller, volume, {"name": f"snapshot for {name}"})
        self._servers.start(self._snapshots.take(made))
        return made

    async def _thaw_after(self, server: Json, snapshots: Sequence[Json]) -> None:
        """Thaw the guest when no snapshot is being created any more, however long that takes."""
        ids = [s["id"] for s in snapshots]
        while any((self._storage.snapshots.get(i) or {}).get("status") == "creating" for i in ids):
            await asyncio.sleep(LOOK_S * min(self._conditions.factor, 1.0) or 0.01)
        try:
            async with self._hypervisor.agent_of(server["id"]):
                await self._conditions.take("server.unquiesce")
                self._hypervisor.thaw(server["id"])
        except (GuestSilent, OperationFailed) as error:
            LOG.warning("server %s could not be unquiesced: %s", server["id"], error)

    def _described(self, server: Json, snapshots: Sequence[Json], wanted: Json) -> Json:
        """The image as Nova describes it to Glance: every value of its own is a string."""
        mapping = [
            {
                "source_type": "snapshot",
                "destination_type": "volume",
                "snapshot_id": snapshot["id"],
                "volume_id": None,
                "boot_index": -1 if number else 0,
                "device_name": attachment["device"],
                "volume_size": snapshot["size"],
                "disk_bus": "virtio",
                "device_type": "disk",
                "delete_on_termination": attachment["delete_on_termination"],
                "volume_type": None,
                "tag": None,
                "image_id": None,
                "guest_format": None,
                "no_device": None,
            }
            for number, (attachment, snapshot) in enumerate(
                zip(server["_attachments"], snapshots, strict=True)
            )
        ]
        return {
            **self._with_properties(server, wanted),
            "bdm_v2": "True",
            "root_device_name": server["OS-EXT-SRV-ATTR:root_device_name"],
            "block_device_mapping": json.dumps(mapping),
        }

    def _with_properties(self, server: Json, wanted: Json) -> Json:
        """Name and properties: those of the server's own image, and those asked for."""
        return {
            "name": wanted["name"],
            "visibility": "private",
            **server.get("_image_properties", {}),
            **{key: str(value) for key, value in (wanted.get("metadata") or {}).items()},
        }


def _demands_quiesce(server: Json) -> bool:
    """Whether the image of a server, as it was when it booted, demands that it is frozen."""
    return says_yes(server.get("_image_properties", {}).get("os_require_quiesce"))
