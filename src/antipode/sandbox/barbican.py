# SPDX-License-Identifier: Apache-2.0
"""Barbican of an embedded site: secrets of projects, as its members and Cinder use them."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Sequence

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Caller, Refused, Route, Service

MOST = 100
"""secrets in one page of a listing"""


class Barbican(Service):
    type = "key-manager"
    prefix = "/key-manager"

    def __init__(self, database: Database, conditions: Conditions) -> None:
        self._secrets = database.table("secret")
        self._conditions = conditions

    def routes(self) -> Sequence[Route]:
        one = "/v1/secrets/{item}"
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", "/v1", self._version, open=True),
            Route("GET", "/v1/", self._version, open=True),
            Route("GET", "/v1/secrets", self._list),
            Route("POST", "/v1/secrets", self._create, 201),
            Route("GET", one, self._show),
            Route("GET", f"{one}/payload", self._payload),
            Route("DELETE", one, self._delete, 204),
        ]

    def fault(self, refused: Refused) -> web.Response:
        body: Json = {"code": refused.status, "title": "Error", "description": refused.message}
        return web.json_response(body, status=refused.status)

    # ---- calls ----

    def _described(self, call: Call) -> Json:
        return {
            "id": "v1",
            "status": "CURRENT",
            "links": [{"rel": "self", "href": f"{call.base}{self.prefix}/v1/"}],
        }

    async def _versions(self, call: Call) -> Json:
        return {"versions": [self._described(call)]}

    async def _version(self, call: Call) -> Json:
        return {"version": self._described(call)}

    async def _list(self, call: Call) -> Json:
        found = self._secrets.where(
            lambda s: (
                s["project_id"] == call.caller.project_id
                and call.query.get("name", s["name"]) == s["name"]
            )
        )
        offset, limit = int(call.query.get("offset", 0)), int(call.query.get("limit", 10))
        page = found[offset : offset + min(limit, MOST)]
        return {"secrets": [self._view(call, s) for s in page], "total": len(found)}

    async def _create(self, call: Call) -> Json:
        wanted = call.body
        if wanted.get("payload_content_encoding") != "base64":
            raise Refused(400, "payload_content_encoding must be base64 for octet-stream")
        payload = base64.b64decode(str(wanted.get("payload", "")))
        if not payload:
            raise Refused(400, "Provided object does not match schema: no payload")
        made = self._keep(call.caller, str(wanted.get("name") or ""), payload)
        return {"secret_ref": self._ref(call, made)}

    async def _show(self, call: Call, item: str) -> Json:
        return self._view(call, self._find(call.caller, item))

    async def _payload(self, call: Call, item: str) -> web.Response:
        if "application/octet-stream" not in call.request.headers.get("Accept", ""):
            raise Refused(406, "Secret payload retrieval issue seen - Not Acceptable")
        payload = base64.b64decode(self._find(call.caller, item)["_payload"])
        return web.Response(body=payload, content_type="application/octet-stream")

    async def _delete(self, call: Call, item: str) -> None:
        self._secrets.drop(self._find(call.caller, item)["id"])

    def _find(self, caller: Caller, item: str) -> Json:
        found = self._secrets.get(item)
        if found is None:
            raise Refused(404, "Secret not found.")
        if found["project_id"] != caller.project_id:
            raise Refused(403, "Secret retrieval attempt not allowed - please review your user")
        return found

    def _view(self, call: Call, secret: Json) -> Json:
        shown = ("name", "algorithm", "bit_length", "secret_type", "status", "created")
        return {
            **{key: secret[key] for key in shown},
            "creator_id": secret["user_id"],
            "content_types": {"default": "application/octet-stream"},
            "secret_ref": self._ref(call, secret),
        }

    def _ref(self, call: Call, secret: Json) -> str:
        return f"{call.base}{self.prefix}/v1/secrets/{secret['id']}"

    # ---- for Cinder, with the token of its caller ----

    def made(self, caller: Caller) -> str:
        """The id of a new key for a volume."""
        return str(self._keep(caller, "", secrets.token_bytes(32))["id"])

    def clone(self, caller: Caller, key_id: str) -> str:
        """The id of a secret of the caller's with the payload of another.

        Raises:
            LookupError: there is no such secret, or it is another project's.
        """
        return str(self._keep(caller, "", self.payload(key_id, caller.project_id))["id"])

    def payload(self, key_id: str | None, project: str) -> bytes:
        """What a secret has; errors as for `clone`."""
        found = self._secrets.get(key_id)
        if found is None or found["project_id"] != project:
            raise LookupError(f"Key not found, uuid: {key_id}")
        return base64.b64decode(found["_payload"])

    def forget(self, key_id: str | None) -> None:
        """Delete a secret, if it is there."""
        if key_id is not None:
            self._secrets.drop(key_id)

    def _keep(self, caller: Caller, name: str, payload: bytes) -> Json:
        return self._secrets.keep(
            {
                "id": str(uuid.uuid4()),
                "name": name,
                "algorithm": "aes",
                "bit_length": 8 * len(payload),
                "secret_type": "symmetric",
                "status": "ACTIVE",
                "created": self._conditions.now().isoformat(),
                "project_id": caller.project_id,
                "user_id": caller.user_id,
                "_payload": base64.b64encode(payload).decode(),
            }
        )
