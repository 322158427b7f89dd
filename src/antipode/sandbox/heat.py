# SPDX-License-Identifier: Apache-2.0
"""Heat of an embedded site: stacks of resources that exist already (`external_id`), and of stacks
within them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from antipode.sandbox.conditions import Conditions, OperationFailed
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Refused, Route, Service
from antipode.sandbox.work import Work

DEEPEST = 5
"""max_nested_stack_depth"""
FILTERS = ("type", "name", "status", "action", "id", "physical_resource_id")


class Heat(Service):
    type = "orchestration"
    prefix = "/heat"

    def __init__(self, database: Database, conditions: Conditions, work: Work) -> None:
        self._stacks = database.table("stack")
        self._conditions = conditions
        self._work = work

    def routes(self) -> Sequence[Route]:
        stacks = "/v1/{project}/stacks"
        one = f"{stacks}/{{name}}/{{item}}"
        return [
            Route("GET", "/", self._versions, 300, open=True),
            Route("GET", stacks, self._list),
            Route("POST", stacks, self._create, 201),
            Route("GET", f"{stacks}/{{name}}", self._look_up),
            Route("GET", one, self._show),
            Route("PUT", one, self._update, 202),
            Route("DELETE", one, self._delete, 204),
            Route("GET", f"{one}/resources", self._resources),
        ]

    def fault(self, refused: Refused) -> web.Response:
        titles = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
        title = titles.get(refused.status, "Internal Server Error")
        error = {"message": refused.message, "type": refused.kind or title, "traceback": None}
        body = {"code": refused.status, "title": title, "explanation": title, "error": error}
        return web.json_response(body, status=refused.status)

    def begin_again(self) -> None:
        """After the services were killed: what was being done is brought to its end."""
        for stack in self._stacks:
            if stack["stack_status"].endswith("_IN_PROGRESS"):
                self._work.start(self._bring(stack, stack["stack_status"].split("_")[0]))

    async def _versions(self, call: Call) -> Json:
        link = {"href": f"{call.base}{self.prefix}/v1/", "rel": "self"}
        return {"versions": [{"id": "v1.0", "status": "CURRENT", "links": [link]}]}

    # ---- stacks ----

    async def _list(self, call: Call, project: str) -> Json:
        """Stacks within stacks, and those that are gone, only where they are asked for."""
        nested = call.query.get("show_nested", "").lower() == "true"
        wanted = {"id": call.query.get("id"), "stack_name": call.query.get("name")}
        found = (
            s
            for s in self._mine(call, project)
            if (nested or not s["_parent"])
            and s["stack_status"] != "DELETE_COMPLETE"
            and all(value in (None, s[key]) for key, value in wanted.items())
        )
        return {"stacks": [self._shown(call, s) for s in found]}

    async def _look_up(self, call: Call, project: str, name: str) -> web.Response:
        """By id one that is gone, too."""
        found = (
            s
            for s in self._mine(call, project)
            if name == s["id"]
            or (name == s["stack_name"] and s["stack_status"] != "DELETE_COMPLETE")
        )
        if (stack := next(found, None)) is None:
            raise Refused(404, f"The Stack ({name}) could not be found.", "EntityNotFound")
        return web.Response(status=302, headers={"Location": self._address(call, stack)})

    async def _show(self, call: Call, project: str, name: str, item: str) -> Json:
        return {"stack": self._shown(call, self._stack(call, project, item))}

    async def _create(self, call: Call, project: str) -> Json:
        name = str(call.body.get("stack_name", ""))
        if any(s["stack_name"] == name for s in self._living(call, project)):
            raise Refused(409, f"The Stack ({name}) already exists.", "StackExists")
        stack: Json = {
            "id": str(uuid.uuid4()),
            "stack_name": name,
            "project_id": call.caller.project_id,
            "_parent": None,
        }
        stack["_resources"] = self._made(call, stack, call.body.get("template"), 0)
        self._begun(stack, "CREATE")
        return {"stack": {"id": stack["id"], "links": self._links(call, stack)}}

    async def _update(self, call: Call, project: str, name: str, item: str) -> Json:
        stack = self._stack(call, project, item)
        resources = self._made(call, stack, call.body.get("template"), 0)
        self._stacks.keep(stack, _resources=resources)
        self._begun(stack, "UPDATE")
        return {}

    async def _delete(self, call: Call, project: str, name: str, item: str) -> None:
        """Resources that were there before the stack stay."""
        self._begun(self._stack(call, project, item), "DELETE")

    def _begun(self, stack: Json, action: str) -> None:
        self._stacks.keep(stack, stack_status=f"{action}_IN_PROGRESS")
        self._work.start(self._bring(stack, action))

    async def _bring(self, stack: Json, action: str) -> None:
        try:
            await self._conditions.take(f"stack.{action.lower()}")
        except OperationFailed:
            self._stacks.keep(stack, stack_status=f"{action}_FAILED")
        else:
            self._stacks.keep(stack, stack_status=f"{action}_COMPLETE")

    def _mine(self, call: Call, project: str) -> list[Json]:
        if project != call.caller.project_id:
            raise Refused(403, "You are not authorized to complete this action.", "Forbidden")
        return self._stacks.where(lambda s: s["project_id"] == project)

    def _living(self, call: Call, project: str) -> Iterator[Json]:
        return (s for s in self._mine(call, project) if s["stack_status"] != "DELETE_COMPLETE")

    def _stack(self, call: Call, project: str, item: str) -> Json:
        found = next((s for s in self._mine(call, project) if s["id"] == item), None)
        if found is None:
            raise Refused(404, f"The Stack ({item}) could not be found.", "EntityNotFound")
        return found

    def _shown(self, call: Call, stack: Json) -> Json:
        shown = {k: stack[k] for k in ("id", "stack_name", "stack_status")}
        return {**shown, "parent": stack["_parent"], "links": self._links(call, stack)}

    def _links(self, call: Call, stack: Json) -> list[Json]:
        return [{"href": self._address(call, stack), "rel": "self"}]

    def _address(self, call: Call, stack: Json) -> str:
        path = f"v1/{stack['project_id']}/stacks/{stack['stack_name']}/{stack['id']}"
        return f"{call.base}{self.prefix}/{path}"

    # ---- resources ----

    def _made(self, call: Call, stack: Json, template: Any, depth: int) -> list[Json]:
        """The resources of a template; a file of the call is the template of a stack within."""
        files = call.body.get("files") or {}
        resources: list[Json] = []
        for name, resource in (_read(template).get("resources") or {}).items():
            kind = str(resource.get("type"))
            if kind in files:
                physical = self._nested(call, stack, name, files[kind], depth + 1)
            elif not (physical := str(resource.get("external_id") or "")):
                raise Refused(400, f"Only resources that exist are taken here: {name}", "Invalid")
            resources.append(
                {"resource_name": name, "resource_type": kind, "physical_resource_id": physical}
            )
        return resources

    def _nested(self, call: Call, stack: Json, name: str, template: Any, depth: int) -> str:
        if depth > DEEPEST:
            raise Refused(400, f"Recursion depth exceeds {DEEPEST}.", "RequestLimitExceeded")
        inner: Json = {
            "id": str(uuid.uuid4()),
            "stack_name": f"{stack['stack_name']}-{name}-{uuid.uuid4().hex[:12]}",
            "stack_status": "CREATE_COMPLETE",
            "project_id": stack["project_id"],
            "_parent": stack["id"],
        }
        inner["_resources"] = self._made(call, inner, template, depth)
        self._stacks.keep(inner)
        return str(inner["id"])

    async def _resources(self, call: Call, project: str, name: str, item: str) -> Json:
        """Those of the stack alone, or with those of stacks within down to a depth."""
        unknown = set(call.query) - {*FILTERS, "nested_depth", "with_detail"}
        if unknown:
            raise Refused(400, f"Invalid filter parameters {sorted(unknown)}", "HTTPBadRequest")
        depth = min(int(call.query.get("nested_depth", 0)), DEEPEST)
        found = self._below(self._stack(call, project, item), depth, None)
        wanted = call.query.get("type")
        return {"resources": [r for r in found if wanted in (None, r["resource_type"])]}

    def _below(self, stack: Json, depth: int, parent: str | None) -> Iterator[Json]:
        status = {"resource_status": "CHECK_COMPLETE", "required_by": []}
        if parent is not None:
            status["parent_resource"] = parent
        for resource in stack["_resources"]:
            logical = {"logical_resource_id": resource["resource_name"]}
            yield {**resource, **logical, **status}
            inner = self._stacks.get(resource["physical_resource_id"])
            if inner is not None and depth > 0:
                yield from self._below(inner, depth - 1, resource["resource_name"])


def _read(template: Any) -> Json:
    """A template, which may be text."""
    try:
        found = YAML(typ="safe").load(template) if isinstance(template, str) else template
    except YAMLError as error:
        raise Refused(400, f"Error parsing template: {error}", "HTTPBadRequest") from error
    if not isinstance(found, dict) or "heat_template_version" not in found:
        raise Refused(400, "Template format version not found.", "InvalidTemplateVersion")
    return found
