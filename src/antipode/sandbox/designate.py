# SPDX-License-Identifier: Apache-2.0
"""Designate: zones and their record sets, which are brought to name servers after the answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from aiohttp import web

from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Refused, Route, Service, public
from antipode.sandbox.work import Work

_VERSIONS = {"A": 4, "AAAA": 6}
TYPES = (*_VERSIONS, "CNAME", "TXT")
DEFAULT_TTL = 3600


class Designate(Service):
    type = "dns"
    prefix = "/dns"

    def __init__(self, database: Database, conditions: Conditions, work: Work) -> None:
        self._zones = database.table("dns_zone")
        self._sets = database.table("dns_recordset")
        self._conditions = conditions
        self._work = work

    def routes(self) -> Sequence[Route]:
        zones, sets = "/v2/zones", "/v2/zones/{zone}/recordsets"
        return [
            Route("GET", "/", self._versions, open=True),
            Route("GET", zones, self._list_zones),
            Route("POST", zones, self._create_zone, 202),
            Route("GET", f"{zones}/{{zone}}", self._show_zone),
            Route("DELETE", f"{zones}/{{zone}}", self._delete_zone, 202),
            Route("GET", sets, self._list),
            Route("POST", sets, self._create, 202),
            Route("GET", f"{sets}/{{item}}", self._show),
            Route("PUT", f"{sets}/{{item}}", self._update, 202),
            Route("DELETE", f"{sets}/{{item}}", self._delete, 202),
        ]

    def fault(self, refused: Refused) -> web.Response:
        kind = refused.kind or {401: "unauthorized", 403: "forbidden"}.get(refused.status, "error")
        body = {
            "code": refused.status,
            "type": kind,
            "message": refused.message,
            "request_id": f"req-{uuid.uuid4()}",
        }
        return web.json_response(body, status=refused.status)

    def begin_again(self) -> None:
        """After the services were killed: what was pending is brought to the name servers."""
        for table in (self._zones, self._sets):
            for item in table:
                if item["status"] == "PENDING":
                    self._work.start(self._bring(table, item))

    async def _versions(self, call: Call) -> Json:
        link = {"href": f"{call.base}{self.prefix}/v2", "rel": "self"}
        return {"versions": {"values": [{"id": "v2", "status": "CURRENT", "links": [link]}]}}

    # ---- zones ----

    async def _list_zones(self, call: Call) -> Json:
        seen = (z for z in self._zones if call.caller.may_see(z))
        return _listed(call, "zones", seen, "name", "status")

    async def _show_zone(self, call: Call, zone: str) -> Json:
        return public(self._zone(call, zone))

    async def _create_zone(self, call: Call) -> Json:
        name = str(call.body.get("name", ""))
        if not name.endswith(".") or "email" not in call.body:
            raise Refused(400, "Provided object does not match schema", "invalid_object")
        if any(z["name"] == name for z in self._zones):
            raise Refused(409, "Duplicate Zone", "duplicate_zone")
        zone = self._made(call, name=name, ttl=call.body.get("ttl", DEFAULT_TTL), serial=1)
        return self._begun(self._zones, zone, "CREATE")

    async def _delete_zone(self, call: Call, zone: str) -> Json:
        return self._begun(self._zones, self._zone(call, zone), "DELETE")

    def _zone(self, call: Call, zone: str) -> Json:
        found = self._zones.get(zone)
        if found is None or not call.caller.may_see(found):
            raise Refused(404, "Could not find Zone", "zone_not_found")
        return found

    # ---- record sets ----

    async def _list(self, call: Call, zone: str) -> Json:
        self._zone(call, zone)
        return _listed(call, "recordsets", self._of(zone), "name", "type", "status")

    async def _show(self, call: Call, zone: str, item: str) -> Json:
        return public(self._set(call, zone, item))

    async def _create(self, call: Call, zone: str) -> Json:
        there = self._zone(call, zone)
        self._may_write(call)
        name, kind = str(call.body.get("name", "")), call.body.get("type")
        if not name.endswith(".") or kind not in TYPES:
            raise Refused(400, "Provided object does not match schema", "invalid_object")
        if name != there["name"] and not name.endswith(f".{there['name']}"):
            raise Refused(
                400,
                "RecordSet is not contained within it's parent zone",
                "invalid_recordset_location",
            )
        records = _records(kind, call.body)
        others = {s["type"] for s in self._of(zone) if s["name"] == name}
        if kind not in others and (kind == "CNAME" or "CNAME" in others) and others:
            raise Refused(
                400,
                "CNAME recordsets may not share a name with any other records",
                "invalid_recordset_location",
            )
        if kind in others:
            raise Refused(409, "Duplicate RecordSet", "duplicate_recordset")
        made = self._made(
            call,
            name=name,
            type=kind,
            ttl=call.body.get("ttl"),
            records=records,
            zone_id=zone,
            zone_name=there["name"],
            description=call.body.get("description"),
        )
        return self._begun(self._sets, made, "CREATE")

    async def _update(self, call: Call, zone: str, item: str) -> Json:
        """If-Match is ignored, as Designate ignores it."""
        found = self._set(call, zone, item)
        self._may_write(call)
        for fixed in ("name", "type"):
            if call.body.get(fixed, found[fixed]) != found[fixed]:
                raise Refused(400, "Provided object does not match schema", "invalid_object")
        changes = {"ttl": call.body.get("ttl", found["ttl"])}
        if "records" in call.body:
            changes["records"] = _records(found["type"], call.body)
        found.update(changes, updated_at=self._now())
        return self._begun(self._sets, found, "UPDATE")

    async def _delete(self, call: Call, zone: str, item: str) -> Json:
        found = self._set(call, zone, item)
        self._may_write(call)
        return self._begun(self._sets, found, "DELETE")

    def _of(self, zone: str) -> list[Json]:
        return self._sets.where(lambda s: s["zone_id"] == zone)

    def _set(self, call: Call, zone: str, item: str) -> Json:
        self._zone(call, zone)
        found = self._sets.get(item)
        if found is None or found["zone_id"] != zone:
            raise Refused(404, "Could not find RecordSet", "recordset_not_found")
        return found

    def _may_write(self, call: Call) -> None:
        if not {"admin", "member"} & set(call.caller.roles):
            raise Refused(403, "Forbidden", "forbidden")

    # ---- both ----

    def _made(self, call: Call, **fields: object) -> Json:
        return {
            "id": str(uuid.uuid4()),
            "project_id": call.caller.project_id,
            "created_at": self._now(),
            "updated_at": None,
            "version": 1,
            **fields,
        }

    def _now(self) -> str:
        return self._conditions.now().strftime("%Y-%m-%dT%H:%M:%S.%f")

    def _begun(self, table: Table, item: Json, action: str) -> Json:
        table.keep(item, status="PENDING", action=action)
        self._work.start(self._bring(table, item))
        return public(item)

    async def _bring(self, table: Table, item: Json) -> None:
        """Bring a change to the name servers; one that is changed again meanwhile is brought once
        more.
        """
        action, asked_at = item["action"], item["updated_at"]
        try:
            await self._conditions.take("dns.bring")
        except OperationFailed:
            table.keep(item, status="ERROR")
            return
        if (item["action"], item["updated_at"]) != (action, asked_at):
            return
        if action == "DELETE":
            table.drop(item["id"])
        else:
            table.keep(item, status="ACTIVE", action="NONE")


def _records(kind: str, body: Json) -> list[str]:
    """The records that a request has.

    Raises:
        Refused: 400, they are not of the type.
    """
    records = body.get("records")
    if not isinstance(records, list) or not records:
        raise Refused(400, "Provided object does not match schema", "invalid_object")
    for record in map(str, records):
        try:
            version = ip_address(record).version
        except ValueError:
            version = None
        if version != _VERSIONS.get(kind) or (kind == "CNAME" and not record.endswith(".")):
            raise Refused(400, "Provided object does not match schema", "invalid_object")
    return [str(record) for record in records]


def _listed(call: Call, collection: str, items: Iterable[Json], *filters: str) -> Json:
    shown = [
        public(item)
        for item in items
        if all(item[f] == call.query[f] for f in filters if call.query.get(f))
    ]
    return {
        collection: shown,
        "links": {"self": str(call.request.url)},
        "metadata": {"total_count": len(shown)},
    }
