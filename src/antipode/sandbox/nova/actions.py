# SPDX-License-Identifier: Apache-2.0
"""The actions of servers: what is posted to them."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from antipode.sandbox.conditions import OperationFailed
from antipode.sandbox.database import Json
from antipode.sandbox.http import Call, Part, Refused, Route
from antipode.sandbox.nova.quiescing import STATES, Quiescing
from antipode.sandbox.nova.server_images import ServerImages
from antipode.sandbox.nova.servers import TASK, Servers


class Actions(Part):
    def __init__(
        self, servers: Servers, images: ServerImages, quiescing: Quiescing | None = None
    ) -> None:
        """`quiescing`: None where the add-on is not installed."""
        self._servers = servers
        self._images = images
        self._quiescing = quiescing

    def routes(self) -> Sequence[Route]:
        server = "/v2.1/servers/{item}"
        return [
            Route("POST", f"{server}/action", self._act, 202),
            Route("GET", f"{server}/os-instance-actions", self._done),
        ]

    async def _done(self, call: Call, item: str) -> Json:
        """Of what was done to a server, its creation, its power and its locks: the newest first."""
        return {"instanceActions": self._servers.find(call, item).get("_done", [])}

    async def _act(self, call: Call, item: str) -> Json | web.Response | None:
        action = next(iter(call.body), "")
        wanted = call.body.get(action) or {}
        if self._quiescing and action in ("quiesce", "unquiesce"):
            await self._quiescing.act(call, item, action)
            return None
        server = self._servers.find(call, item)
        if action in ("lock", "unlock") and server[TASK] in STATES:
            self._servers.refuse_task(server, action)
        if action == "lock":
            # an owner's lock of what is locked changes nothing, its reason included
            if not server["locked"] or server["tenant_id"] != call.caller.project_id:
                self._servers.note(server, call.caller, action)
                self._servers.table.keep(
                    server, locked=True, locked_reason=wanted.get("locked_reason")
                )
        elif action == "unlock":
            self._servers.refuse_lock_of_others(server, call.caller)
            self._servers.note(server, call.caller, action)
            self._servers.table.keep(server, locked=False, locked_reason=None)
        elif action == "createImage":
            return await self._images.create(call, server, call.part(action))
        elif action == "os-getConsoleOutput":
            return web.json_response({"output": self._servers.hypervisor.console(item)})
        elif action == "os-resetState" and call.caller.is_admin:
            if self._quiescing:
                self._quiescing.thaw_after_reset(server)
            self._servers.table.keep(
                server,
                status=wanted["state"].upper(),
                **{"OS-EXT-STS:vm_state": wanted["state"], TASK: None},
            )
        elif action in ("os-start", "os-stop", "reboot"):
            self._servers.refuse_locked(server, call.caller)
            self._switch(
                server, action, str(wanted.get("type", "")) if isinstance(wanted, dict) else ""
            )
            self._servers.note(server, call.caller, action.removeprefix("os-"))
        else:
            raise Refused(400, f"There is no such action: {action}")
        return None

    def _switch(self, server: Json, action: str, kind: str) -> None:
        allowed = {
            "os-start": ("stopped",),
            "os-stop": ("active", "error"),
            "reboot": ("active", "stopped") if kind == "HARD" else ("active",),
        }
        name = action.removeprefix("os-")
        if (state := server["OS-EXT-STS:vm_state"]) not in allowed[action]:
            raise Refused(
                409, f"Cannot '{name}' instance {server['id']} while it is in vm_state {state}"
            )
        self._servers.refuse_task(server, name)
        doing = {
            "os-start": "powering-on",
            "os-stop": "powering-off",
            "reboot": f"rebooting{'_hard' if kind == 'HARD' else ''}",
        }
        self._servers.table.keep(server, **{TASK: doing[action]})
        self._servers.start(self._switched(server, action))

    async def _switched(self, server: Json, action: str) -> None:
        try:
            await self._servers.conditions.take("server.power")
        except OperationFailed as error:
            self._servers.fault(server, str(error))
            return
        if action != "os-start":
            self._servers.power_off(server)
        if action != "os-stop":
            self._servers.power_on(server)
