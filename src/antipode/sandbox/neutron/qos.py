# SPDX-License-Identifier: Apache-2.0
"""QoS policies of Neutron, with their rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Part, Refused, Route, public
from antipode.sandbox.neutron.resources import find, listed, sees


class Qos(Part):
    def __init__(self, database: Database, now: Callable[[], str]) -> None:
        self._policies = database.table("qos_policy")
        self._now = now

    def routes(self) -> Sequence[Route]:
        policies = "/v2.0/qos/policies"
        return [
            Route("GET", policies, self._list),
            Route("POST", policies, self._create, 201, admin=True),
            Route("GET", f"{policies}/{{item}}", self._show),
            Route("DELETE", f"{policies}/{{item}}", self._delete, 204, admin=True),
            Route(
                "POST",
                f"{policies}/{{item}}/bandwidth_limit_rules",
                self._limit,
                201,
                admin=True,
            ),
        ]

    def find(self, call: Call, policy_id: str) -> Json:
        """A policy that a port is to have; refused with 404 when there is none."""
        policy = self._policies.get(policy_id)
        if policy is None or not sees(call.caller, policy):
            raise Refused(404, f"QoS policy {policy_id} could not be found.", "QosPolicyNotFound")
        return policy

    async def _list(self, call: Call) -> Json:
        seen = (public(p) for p in self._policies if sees(call.caller, p))
        return listed(call, "policies", seen)

    async def _show(self, call: Call, item: str) -> Json:
        return {"policy": public(find(call, self._policies, item, "QoS policy"))}

    async def _create(self, call: Call) -> Json:
        wanted = call.part("policy")
        now = self._now()
        policy = {
            "id": str(uuid.uuid4()),
            "name": wanted.get("name", ""),
            "description": wanted.get("description", ""),
            "project_id": call.caller.project_id,
            "tenant_id": call.caller.project_id,
            "shared": bool(wanted.get("shared", False)),
            "is_default": False,
            "rules": [],
            "tags": [],
            "created_at": now,
            "updated_at": now,
            "revision_number": 1,
        }
        return {"policy": public(self._policies.keep(policy))}

    async def _delete(self, call: Call, item: str) -> None:
        self._policies.drop(find(call, self._policies, item, "QoS policy")["id"])

    async def _limit(self, call: Call, item: str) -> Json:
        policy = find(call, self._policies, item, "QoS policy")
        wanted = call.part("bandwidth_limit_rule")
        rule = {
            "id": str(uuid.uuid4()),
            "qos_policy_id": policy["id"],
            "type": "bandwidth_limit",
            "max_kbps": wanted["max_kbps"],
            "max_burst_kbps": wanted.get("max_burst_kbps", 0),
            "direction": wanted.get("direction", "egress"),
        }
        same = [r for r in policy["rules"] if r["direction"] == rule["direction"]]
        if same:
            raise Refused(
                409,
                f"Rule bandwidth_limit conflicts with {same[0]['id']} of policy {item}",
                "QoSRulesConflict",
            )
        self._policies.keep(policy, rules=[*policy["rules"], rule])
        return {"bandwidth_limit_rule": rule}
