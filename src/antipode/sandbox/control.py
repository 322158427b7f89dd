# SPDX-License-Identifier: Apache-2.0
"""The control API of an embedded site: shows and changes the conditions of the site.

It answers also while the site is isolated, and only programs of this machine: a page in a browser
may send requests here, but not without its Origin, nor with a Host of this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from antipode.sandbox.cinder.storage import Storage
from antipode.sandbox.cinder.types import Types
from antipode.sandbox.conditions import Conditions, Rule
from antipode.sandbox.guests import Hypervisor
from antipode.sandbox.http import Gate, Refused
from antipode.sandbox.nova.servers import Servers

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


@web.middleware
async def _local_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what comes from a page of another origin, also by a name that its owner has pointed
    to this machine.
    """
    if request.headers.getall("Origin", []):
        return web.json_response({"error": "requests of web pages are refused"}, status=403)
    if request.url.host not in LOCAL:
        return web.json_response({"error": "the Host header must name this machine"}, status=403)
    return await handler(request)


class Control:
    def __init__(
        self,
        site: str,
        conditions: Conditions,
        gate: Gate,
        hypervisor: Hypervisor,
        storage: Storage,
        types: Types,
        servers: Servers,
    ) -> None:
        self._types, self._servers = types, servers
        self._site = site
        self._conditions = conditions
        self._gate = gate
        self._hypervisor = hypervisor
        self._storage = storage

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_local_only])
        application.add_routes(
            [
                web.get("/status", self._status),
                web.post("/isolate", self._isolate),
                web.post("/rejoin", self._rejoin),
                web.get("/faults", self._faults),
                web.post("/faults", self._add_fault),
                web.delete("/faults", self._remove_faults),
                web.delete("/faults/{rule}", self._remove_faults),
                web.put("/conditions", self._change),
                web.get("/calls", self._calls),
                web.delete("/calls", self._forget_calls),
                web.get("/guests", self._guests),
                web.get("/stills", self._stills),
                web.post("/volumes/{volume}/migrate", self._migrate),
                web.post("/volume-types", self._make_type),
                web.post("/servers/{server}/ssh", self._open_ssh),
            ]
        )
        return application

    async def _status(self, request: web.Request) -> web.Response:
        c = self._conditions
        return web.json_response(
            {
                "site": self._site,
                "pid": os.getpid(),
                "isolated": c.isolated,
                "latency": c.factor,
                "clock_skew_s": c.skew.total_seconds(),
                "image_limits": c.image_limits,
                "store_capacity": c.store_capacity,
                "backup_block_size": c.backup_block_size,
                "skips_zeros": c.skips_zeros,
                "consistent_groups": c.consistent_groups,
                "replication_target": c.replication_target,
                "faults": len(c.rules),
                "guests": len(self._hypervisor.seen()),
            }
        )

    async def _isolate(self, request: web.Request) -> web.Response:
        self._conditions.isolate()
        return await self._status(request)

    async def _rejoin(self, request: web.Request) -> web.Response:
        self._conditions.rejoin()
        return await self._status(request)

    async def _faults(self, request: web.Request) -> web.Response:
        return web.json_response([rule.model_dump() for rule in self._conditions.rules])

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            rule = Rule.model_validate(await request.json())
        except (ValidationError, json.JSONDecodeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self._conditions.add(rule)
        return web.json_response(rule.model_dump(), status=201)

    async def _remove_faults(self, request: web.Request) -> web.Response:
        self._conditions.remove(request.match_info.get("rule"))
        return await self._faults(request)

    async def _change(self, request: web.Request) -> web.Response:
        """Change latency, clock_skew_s, image_limits, store_capacity, backup_block_size,
        skips_zeros, consistent_groups or replication_target, whichever the body has.
        """
        body: dict[str, Any] = await request.json()
        if "latency" in body:
            self._conditions.factor = float(body["latency"])
        if "clock_skew_s" in body:
            self._conditions.skew = timedelta(seconds=float(body["clock_skew_s"]))
        if "image_limits" in body:
            self._conditions.image_limits = dict(body["image_limits"])
        if "store_capacity" in body:
            self._conditions.store_capacity = body["store_capacity"]
        if "backup_block_size" in body:
            self._conditions.backup_block_size = body["backup_block_size"]
        if "skips_zeros" in body:
            self._conditions.skips_zeros = bool(body["skips_zeros"])
        if "consistent_groups" in body:
            self._conditions.consistent_groups = bool(body["consistent_groups"])
        if "replication_target" in body:
            self._conditions.replication_target = body["replication_target"]
        return await self._status(request)

    async def _calls(self, request: web.Request) -> web.Response:
        return web.json_response(dict(self._gate.calls))

    async def _forget_calls(self, request: web.Request) -> web.Response:
        self._gate.calls.clear()
        return web.json_response({})

    async def _guests(self, request: web.Request) -> web.Response:
        """All guests at one moment: the server, whether it is frozen, and for a canary its role and
        last durable record.
        """
        return web.json_response(self._hypervisor.seen())

    async def _stills(self, request: web.Request) -> web.Response:
        """Each member's durable record at each moment when all became frozen, oldest first."""
        return web.json_response(self._hypervisor.stills)

    async def _make_type(self, request: web.Request) -> web.Response:
        """Make a volume type with a chosen id, as can be done on a controller of Cinder: the body
        has its id, name and extra_specs.
        """
        wanted: dict[str, Any] = await request.json()
        try:
            made = self._types.make(wanted["name"], wanted.get("extra_specs", {}), wanted["id"])
        except Refused as refused:
            return web.json_response({"error": refused.message}, status=refused.status)
        return web.json_response({"id": made["id"]}, status=201)

    async def _open_ssh(self, request: web.Request) -> web.Response:
        """Have a server be a helper of the mover: its guest serves SSH until the site ends, also
        after the server was switched off and on. The body has the key that may log in; the answer
        what a client has to know.
        """
        from antipode.sandbox import helper_guest  # of another extra

        wanted: dict[str, Any] = await request.json()
        server_id = request.match_info["server"]

        def disks() -> dict[str, helper_guest.Disk]:
            server = self._servers.table.get(server_id)
            if server is None or server["status"] != "ACTIVE":
                raise helper_guest.Off
            return {
                a["device"].removeprefix("/dev/"): helper_guest.Disk(
                    a["volume_id"], self._storage.path(a["volume_id"])
                )
                for a in server["_attachments"]
            }

        guest = await helper_guest.listen(disks, wanted["authorized"])
        return web.json_response({"port": guest.port, "host_key": guest.host_key}, status=201)

    async def _migrate(self, request: web.Request) -> web.Response:
        """Leave a volume as a migration does while it is in use: its name in the back end is not
        that of its id; the answer has both.
        """
        volume_id = request.match_info["volume"]
        if volume_id not in self._storage.volumes:
            return web.json_response({"error": f"there is no volume {volume_id}"}, status=404)
        volume = await self._storage.migrate(volume_id)
        return web.json_response(
            {"id": volume_id, "name_id": volume["os-vol-mig-status-attr:name_id"]}
        )
