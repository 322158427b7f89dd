# SPDX-License-Identifier: Apache-2.0
"""Server groups."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Part, Refused, Route
from antipode.sandbox.quotas import Quotas


class ServerGroups(Part):
    def __init__(self, database: Database, quotas: Quotas) -> None:
        self._groups = database.table("server_group")
        self._quotas = quotas
        quotas.count(self._usage_of)

    def routes(self) -> Sequence[Route]:
        groups = "/v2.1/os-server-groups"
        return [
            Route("GET", groups, self._list),
            Route("POST", groups, self._create),
            Route("GET", f"{groups}/{{item}}", self._show),
            Route("DELETE", f"{groups}/{{item}}", self._delete, 204),
        ]

    def hinted(self, group_id: str | None) -> str | None:
        """The group that a new server is to be in; refused with 400 when there is none."""
        if group_id and group_id not in self._groups:
            raise Refused(400, f"Instance group {group_id} could not be found.")
        return group_id

    def of(self, server_id: str) -> list[str]:
        """The groups that a server is in."""
        return [g["id"] for g in self._groups if server_id in g["members"]]

    def are_full(self, server_id: str) -> bool:
        """Whether a group of a server does not allow it on the only host that a site has."""
        return any(
            group["policy"] == "anti-affinity"
            and len(group["members"]) > (group["rules"].get("max_server_per_host") or 1)
            for group in map(self._groups.__getitem__, self.of(server_id))
        )

    def join(self, group_id: str, server_id: str) -> None:
        group = self._groups[group_id]
        self._groups.keep(group, members=[*group["members"], server_id])

    def leave(self, server_id: str) -> None:
        for group in map(self._groups.__getitem__, self.of(server_id)):
            self._groups.keep(group, members=[m for m in group["members"] if m != server_id])

    def _usage_of(self, project: str) -> dict[str, int]:
        return {"server_groups": len(self._groups.where(lambda g: g["project_id"] == project))}

    def _find(self, call: Call, group_id: str) -> Json:
        group = self._groups.get(group_id)
        if group is None or not call.caller.may_see(group):
            raise Refused(404, f"Instance group {group_id} could not be found.")
        return group

    async def _list(self, call: Call) -> Json:
        return {
            "server_groups": self._groups.where(lambda g: g["project_id"] == call.caller.project_id)
        }

    async def _show(self, call: Call, item: str) -> Json:
        return {"server_group": self._find(call, item)}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("server_group")
        policy = wanted.get("policy") or (wanted.get("policies") or [None])[0]
        if policy not in ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"):
            raise Refused(400, f"Invalid input for field/attribute policy. Value: {policy}.")
        rules = wanted.get("rules") or {}
        if rules and policy != "anti-affinity":
            raise Refused(
                400, f"The rules of a server group are not supported by the policy {policy}."
            )
        if self._quotas.exceeded(call.caller.project_id, {"server_groups": 1}):
            raise Refused(403, "Quota exceeded, too many server groups.")
        group: Json = {
            "id": str(uuid.uuid4()),
            "name": wanted["name"],
            "policy": policy,
            "rules": rules,
            "members": [],
        }
        return {
            "server_group": self._groups.keep(
                {**group, "project_id": call.caller.project_id, "user_id": call.caller.user_id}
            )
        }

    async def _delete(self, call: Call, item: str) -> None:
        self._groups.drop(self._find(call, item)["id"])
