# SPDX-License-Identifier: Apache-2.0
"""Keypairs, each of one user."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Caller, Part, Refused, Route


class Keypairs(Part):
    def __init__(self, database: Database, conditions: Conditions) -> None:
        self._keypairs = database.table("keypair")
        self._conditions = conditions

    def routes(self) -> Sequence[Route]:
        keypairs = "/v2.1/os-keypairs"
        return [
            Route("GET", keypairs, self._list),
            Route("POST", keypairs, self._create, 201),
            Route("GET", f"{keypairs}/{{item}}", self._show),
            Route("DELETE", f"{keypairs}/{{item}}", self._delete, 204),
        ]

    def has(self, caller: Caller, name: str) -> bool:
        """Whether the caller has a keypair of that name."""
        return f"{caller.user_id}/{name}" in self._keypairs

    def _view(self, keypair: Json) -> Json:
        return {k: v for k, v in keypair.items() if k != "id"}

    def _owner(self, call: Call) -> str:
        owner = call.query.get("user_id", call.caller.user_id)
        if owner != call.caller.user_id and not call.caller.is_admin:
            raise Refused(
                403, "Policy doesn't allow os_compute_api:os-keypairs:show to be performed."
            )
        return str(owner)

    async def _list(self, call: Call) -> Json:
        owner = self._owner(call)
        shown = ("name", "public_key", "fingerprint", "type")
        mine = self._keypairs.where(lambda k: k["user_id"] == owner)
        return {"keypairs": [{"keypair": {k: item[k] for k in shown}} for item in mine]}

    async def _show(self, call: Call, item: str) -> Json:
        owner = self._owner(call)
        keypair = self._keypairs.get(f"{owner}/{item}")
        if keypair is None:
            raise Refused(404, f"Keypair {item} not found for user {owner}")
        return {"keypair": self._view(keypair)}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("keypair")
        owner = (
            str(wanted.get("user_id") or call.caller.user_id)
            if call.caller.is_admin
            else call.caller.user_id
        )
        if f"{owner}/{wanted['name']}" in self._keypairs:
            raise Refused(409, f"Key pair '{wanted['name']}' already exists.")
        if "public_key" not in wanted:
            raise Refused(
                400,
                "Invalid input for field/attribute keypair. 'public_key' is a required property",
            )
        try:
            raw = base64.b64decode(wanted["public_key"].split()[1], validate=True)
        except (IndexError, ValueError):
            raise Refused(400, "Keypair data is invalid: failed to generate fingerprint") from None
        digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        keypair: Json = {
            "id": f"{owner}/{wanted['name']}",
            "name": wanted["name"],
            "public_key": wanted["public_key"],
            "user_id": owner,
        }
        keypair |= {
            "type": wanted.get("type", "ssh"),
            "fingerprint": ":".join(digest[i : i + 2] for i in range(0, 32, 2)),
        }
        keypair |= {
            "created_at": self._conditions.timestamp(),
            "deleted": False,
            "deleted_at": None,
            "updated_at": None,
        }
        shown = ("name", "public_key", "user_id", "type", "fingerprint")
        return {"keypair": {k: self._keypairs.keep(keypair)[k] for k in shown}}

    async def _delete(self, call: Call, item: str) -> None:
        owner = self._owner(call)
        if f"{owner}/{item}" not in self._keypairs:
            raise Refused(404, f"Keypair {item} not found for user {owner}")
        self._keypairs.drop(f"{owner}/{item}")
