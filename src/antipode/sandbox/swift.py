# SPDX-License-Identifier: Apache-2.0
"""Swift of an embedded site: containers and objects, each object a file."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.database import Database, Json
from antipode.sandbox.http import Call, Refused, Route, Service

LISTING = 10_000


class Swift(Service):
    type = "object-store"
    prefix = "/object-store"

    def __init__(self, database: Database, folder: Path, conditions: Conditions) -> None:
        self._containers = database.table("container")
        self._objects = database.table("object")
        self._folder = folder
        self._conditions = conditions
        self._names: dict[str, list[str]] = {c["id"]: [] for c in self._containers}
        """container -> the names of its objects, sorted"""
        self._used: dict[str, int] = {}
        for item in self._objects:
            self._names[item["container"]].append(item["name"])
            self._count(item, 1)
        for names in self._names.values():
            names.sort()
        folder.mkdir(exist_ok=True)

    def routes(self) -> Sequence[Route]:
        account, container, item = (
            "/v1/{account}",
            "/v1/{account}/{container}",
            "/v1/{account}/{container}/{name:.+}",
        )
        return [
            Route("GET", "/info", self._info, open=True),
            Route("HEAD", account, self._head_account),
            Route("GET", account, self._list_account),
            Route("PUT", container, self._put_container),
            Route("POST", container, self._post),
            Route("HEAD", container, self._head_container),
            Route("GET", container, self._list_container),
            Route("DELETE", container, self._delete_container),
            Route("PUT", item, self._put),
            Route("POST", item, self._post),
            Route("HEAD", item, self._get),
            Route("GET", item, self._get),
            Route("DELETE", item, self._delete),
        ]

    def fault(self, refused: Refused) -> web.Response:
        title = {
            401: "Unauthorized",
            403: "Forbidden",
            404: "Not Found",
            409: "Conflict",
            412: "Precondition Failed",
            413: "Request Entity Too Large",
        }
        words = (
            f"<html><h1>{title.get(refused.status, 'Error')}</h1><p>{refused.message}</p></html>"
        )
        return web.Response(status=refused.status, text=words, content_type="text/html")

    # ---- accounts and containers ----

    async def _info(self, call: Call) -> Json:
        return {
            "swift": {
                "version": "2.37.0",
                "container_listing_limit": LISTING,
                "max_file_size": 5 << 30,
            }
        }

    async def _head_account(self, call: Call, account: str) -> web.Response:
        self._may_use(call, account)
        mine = self._containers.where(lambda c: c["account"] == account)
        headers = {
            "X-Account-Container-Count": str(len(mine)),
            "X-Account-Bytes-Used": str(self._used.get(account, 0)),
        }
        return web.Response(status=204, headers=headers)

    async def _list_account(self, call: Call, account: str) -> web.Response:
        self._may_use(call, account)
        mine = sorted(
            self._containers.where(lambda c: c["account"] == account), key=lambda c: str(c["name"])
        )
        marker = call.query.get("marker", "")
        return _listing(
            call,
            [
                {"name": c["name"], "count": len(self._names[c["id"]]), "bytes": 0}
                for c in mine
                if c["name"] > marker
            ],
        )

    async def _put_container(self, call: Call, account: str, container: str) -> web.Response:
        self._may_use(call, account)
        key = f"{account}/{container}"
        if key in self._containers:
            return web.Response(status=202)
        item = {"id": key, "account": account, "name": container}
        self._containers.keep(item | _acl(call, {}))
        self._names[key] = []
        return web.Response(status=201)

    async def _post(self, call: Call, account: str, container: str, name: str = "") -> web.Response:
        key = self._container(call, account, container)
        if not name:
            item = self._containers[key]
            self._containers.keep(item | _acl(call, item))
        return web.Response(status=202 if name else 204)

    async def _head_container(self, call: Call, account: str, container: str) -> web.Response:
        key = self._container(call, account, container)
        acl = {name: acl for name, acl in _acl(call, self._containers[key]).items() if acl}
        return web.Response(
            status=204, headers={"X-Container-Object-Count": str(len(self._names[key])), **acl}
        )

    async def _list_container(self, call: Call, account: str, container: str) -> web.Response:
        names = self._names[self._container(call, account, container)]
        prefix, marker = call.query.get("prefix", ""), call.query.get("marker", "")
        limit = min(int(call.query.get("limit", LISTING)), LISTING)
        begin = max(bisect.bisect_left(names, prefix), bisect.bisect_right(names, marker))
        found: list[Json] = []
        for name in names[begin:]:
            if not name.startswith(prefix) or len(found) == limit:
                break
            item = self._objects[f"{account}/{container}/{name}"]
            found.append(
                {k: item[k] for k in ("name", "bytes", "hash", "content_type", "last_modified")}
            )
        return _listing(call, found)

    async def _delete_container(self, call: Call, account: str, container: str) -> web.Response:
        key = self._container(call, account, container)
        if self._names[key]:
            raise Refused(409, "There was a conflict when trying to complete your request.")
        self._containers.drop(key)
        del self._names[key]
        return web.Response(status=204)

    # ---- objects ----

    async def _put(self, call: Call, account: str, container: str, name: str) -> web.Response:
        key = self._container(call, account, container)
        data = await call.request.read()
        capacity = self._conditions.store_capacity
        if capacity is not None and self._used.get(account, 0) + len(data) > capacity:
            raise Refused(413, "Upload exceeds quota.")
        item_id = f"{key}/{name}"
        if call.request.headers.get("If-None-Match") == "*" and item_id in self._objects:
            raise Refused(412, "A precondition for this request was not met.")
        path = self._folder / hashlib.sha256(item_id.encode()).hexdigest()
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(path)
        if old := self._objects.get(item_id):
            self._count(old, -1)
        else:
            bisect.insort(self._names[key], name)
        now = self._conditions.now()
        item = self._objects.keep(
            {
                "id": item_id,
                "container": key,
                "account": account,
                "name": name,
                "bytes": len(data),
                "hash": hashlib.md5(data, usedforsecurity=False).hexdigest(),
                "content_type": call.request.headers.get(
                    "Content-Type", "application/octet-stream"
                ),
                "last_modified": now.strftime("%Y-%m-%dT%H:%M:%S.%f"),
                "file": path.name,
            }
        )
        self._count(item, 1)
        return web.Response(status=201, headers=_headers(item))

    async def _get(self, call: Call, account: str, container: str, name: str) -> web.Response:
        item = self._object(call, account, container, name)
        body = b"" if call.request.method == "HEAD" else (self._folder / item["file"]).read_bytes()
        return web.Response(body=body, headers=_headers(item))

    async def _delete(self, call: Call, account: str, container: str, name: str) -> web.Response:
        item = self._object(call, account, container, name)
        self._names[item["container"]].remove(name)
        self._objects.drop(item["id"])
        self._count(item, -1)
        (self._folder / item["file"]).unlink(missing_ok=True)
        return web.Response(status=204)

    # ---- what all of them need ----

    def _count(self, item: Json, sign: int) -> None:
        self._used[item["account"]] = self._used.get(item["account"], 0) + sign * item["bytes"]

    def _may_use(self, call: Call, account: str) -> None:
        if account != f"AUTH_{call.caller.project_id}" or not {"admin", "member"} & set(
            call.caller.roles
        ):
            raise Refused(403, "Access was denied to this resource.")

    def _container(self, call: Call, account: str, container: str) -> str:
        self._may_use(call, account)
        key = f"{account}/{container}"
        if key not in self._containers:
            raise Refused(404, "The resource could not be found.")
        return key

    def _object(self, call: Call, account: str, container: str, name: str) -> Json:
        key = self._container(call, account, container)
        item = self._objects.get(f"{key}/{name}")
        if item is None:
            raise Refused(404, "The resource could not be found.")
        return item


def _acl(call: Call, item: Json) -> Json:
    """Who else may use a container, as the request says or as it was. It is kept and shown; that
    another project may use it is not modelled.
    """
    return {
        name: call.request.headers.get(name, item.get(name, ""))
        for name in ("X-Container-Read", "X-Container-Write")
    }


def _headers(item: Json) -> dict[str, str]:
    return {
        "ETag": item["hash"],
        "Content-Type": item["content_type"],
        "Last-Modified": formatdate(usegmt=True),
    }


def _listing(call: Call, found: list[dict[str, Any]]) -> web.Response:
    """As JSON when that is asked for, else one name in a line."""
    if call.query.get("format") == "json" or "application/json" in call.request.headers.get(
        "Accept", ""
    ):
        return web.json_response(found)
    return web.Response(
        text="".join(f"{item['name']}\n" for item in found), status=200 if found else 204
    )
