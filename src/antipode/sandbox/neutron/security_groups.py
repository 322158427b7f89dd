# SPDX-License-Identifier: Apache-2.0
"""Security groups of Neutron, and their rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from ipaddress import ip_network

from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Part, Refused, Route, public
from antipode.sandbox.neutron.resources import find, listed, refuse_unknown, sees, tagged

GROUP = ("name", "description", "stateful", "project_id", "tenant_id")
SAME = (
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "normalized_cidr",
    "remote_group_id",
)
"""The fields by which two rules are considered equal."""
RULE = (
    "security_group_id",
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "remote_ip_prefix",
    "remote_group_id",
    "description",
    "project_id",
    "tenant_id",
)


class SecurityGroups(Part):
    def __init__(
        self,
        database: Database,
        ports: Table,
        reserve: Callable[[str, str, int], None],
        now: Callable[[], str],
    ) -> None:
        self.table = database.table("security_group")
        self.rules = database.table("security_group_rule")
        self._ports = ports
        self._reserve = reserve
        self._now = now

    def routes(self) -> Sequence[Route]:
        groups, rules = "/v2.0/security-groups", "/v2.0/security-group-rules"
        return [
            Route("GET", groups, self._list),
            Route("POST", groups, self._create, 201),
            Route("GET", f"{groups}/{{item}}", self._show),
            Route("PUT", f"{groups}/{{item}}", self._update),
            Route("PUT", f"{groups}/{{item}}/tags", self._tag),
            Route("DELETE", f"{groups}/{{item}}", self._delete, 204),
            Route("POST", rules, self._create_rules, 201),
            Route("DELETE", f"{rules}/{{item}}", self._delete_rule, 204),
        ]

    def furnish(self, project_id: str, name: str) -> None:
        """A group that lets everything in."""
        self.default(project_id)
        self._make_rule(self._make(project_id, {"name": name}), {"direction": "ingress"})

    def default(self, project_id: str) -> Json:
        """The project's group `default`, made when it is first needed."""
        there = self.table.where(lambda g: g["project_id"] == project_id and g["name"] == "default")
        if there:
            return there[0]
        return self._make(project_id, {"name": "default", "description": "Default security group"})

    def _make(self, project_id: str, wanted: Json) -> Json:
        now = self._now()
        made = self.table.keep(
            {
                "id": str(uuid.uuid4()),
                "name": wanted["name"],
                "description": wanted.get("description", ""),
                "project_id": project_id,
                "tenant_id": project_id,
                "stateful": wanted.get("stateful", True),
                "shared": False,
                "tags": [],
                "created_at": now,
                "updated_at": now,
            }
        )
        for family in ("IPv4", "IPv6"):
            self._make_rule(made, {"direction": "egress", "ethertype": family})
        return made

    def _make_rule(self, group: Json, wanted: Json) -> Json:
        return self.rules.keep(self._new_rule(group, wanted))

    def _new_rule(self, group: Json, wanted: Json) -> Json:
        optional = ("protocol", "port_range_min", "port_range_max", "remote_group_id")
        prefix = wanted.get("remote_ip_prefix")
        return {
            "id": str(uuid.uuid4()),
            "security_group_id": group["id"],
            "project_id": group["project_id"],
            "tenant_id": group["project_id"],
            "direction": wanted["direction"],
            "ethertype": wanted.get("ethertype", "IPv4"),
            "description": wanted.get("description"),
            "remote_ip_prefix": prefix,
            "normalized_cidr": str(ip_network(prefix, strict=False)) if prefix else None,
            "remote_address_group_id": None,
            **{name: wanted.get(name) for name in optional},
        }

    def _view(self, group: Json) -> Json:
        rules = self.rules.where(lambda r: r["security_group_id"] == group["id"])
        return {**public(group), "security_group_rules": [public(r) for r in rules]}

    async def _list(self, call: Call) -> Json:
        self.default(call.query.get("project_id", call.caller.project_id))
        seen = (self._view(g) for g in self.table if sees(call.caller, g))
        return listed(call, "security_groups", seen)

    async def _show(self, call: Call, item: str) -> Json:
        return {"security_group": self._view(self._find(call, item))}

    def _find(self, call: Call, item: str) -> Json:
        return find(call, self.table, item, "Security group")

    async def _create(self, call: Call) -> Json:
        wanted = call.part("security_group")
        refuse_unknown(wanted, GROUP)
        project = call.caller.project_id
        self.default(project)
        if wanted["name"] == "default":
            message = "Default security group already exists."
            raise Refused(409, message, "SecurityGroupDefaultAlreadyExists")
        self._reserve(project, "security_group", 1)
        return {"security_group": self._view(self._make(project, wanted))}

    async def _update(self, call: Call, item: str) -> Json:
        group = self._find(call, item)
        wanted = call.part("security_group")
        refuse_unknown(wanted, ("name", "description", "stateful"), "PUT")
        return {"security_group": self._view(self.table.keep(group, **wanted))}

    async def _tag(self, call: Call, item: str) -> Json:
        return {"tags": tagged(call, self.table, self._find(call, item))}

    async def _delete(self, call: Call, item: str) -> None:
        """A group goes with its rules, and with those of others that are about it."""
        group = self._find(call, item)
        if self._ports.where(lambda p: item in p["security_groups"]):
            raise Refused(409, f"Security Group {item} in use.", "SecurityGroupInUse")
        if group["name"] == "default" and not call.caller.is_admin:
            raise Refused(
                409,
                "Removing the default security group is not allowed.",
                "SecurityGroupCannotRemoveDefault",
            )
        for rule in self.rules.where(
            lambda r: item in (r["security_group_id"], r["remote_group_id"])
        ):
            self.rules.drop(rule["id"])
        self.table.drop(item)

    async def _create_rules(self, call: Call) -> Json:
        """One rule, or several of which all are made or none."""
        if "security_group_rules" in call.body:
            wanted = call.body["security_group_rules"]
            made = self._all_or_none(call, wanted)
            return {"security_group_rules": [public(r) for r in made]}
        (rule,) = self._all_or_none(call, [call.part("security_group_rule")])
        return {"security_group_rule": public(rule)}

    def _all_or_none(self, call: Call, wanted: Sequence[Json]) -> list[Json]:
        new: list[Json] = []
        for one in wanted:
            refuse_unknown(one, RULE)
            if "description" in one and one["description"] is None:
                message = "Invalid input for description. Reason: 'None' is not a valid string."
                raise Refused(400, message, "HTTPBadRequest")
            group = self._find(call, one["security_group_id"])
            if remote := one.get("remote_group_id"):
                self._find(call, remote)
            rule = self._new_rule(group, {"description": "", **one})
            for other in [*self.rules, *new]:
                if all(rule[name] == other[name] for name in (*SAME, "security_group_id")):
                    raise Refused(
                        409,
                        f"Security group rule already exists. Rule id is {other['id']}.",
                        "SecurityGroupRuleExists",
                    )
            new.append(rule)
        if new:
            self._reserve(call.caller.project_id, "security_group_rule", len(new))
        return [self.rules.keep(rule) for rule in new]

    async def _delete_rule(self, call: Call, item: str) -> None:
        rule = self.rules.get(item)
        if rule is None or not call.caller.may_see(rule):
            message = f"Security group rule {item} does not exist"
            raise Refused(404, message, "SecurityGroupRuleNotFound")
        self.rules.drop(item)
