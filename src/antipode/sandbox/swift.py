# SPDX-License-Identifier: Apache-2.0
"""Swift of an embedded site: containers and objects, each object a file."""

from __future__ import annotations

import asyncio
import bisect
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

from aiohttp import web

from antipode.sandbox.conditions import Conditions
from antipode.sandbox.container_sync import AUTH, KEY, TO, Realm
from antipode.sandbox.database import Database, Json, Table
from antipode.sandbox.http import Call, Refused, Route, Service

LISTING = 10_000
CONTAINER_META, OBJECT_META = "x-container-meta-", "x-object-meta-"
OF_OWNERS = ("X-Container-Read", "X-Container-Write", TO, KEY)
"""The headers of a container that only users of its project see. Those of access are kept and
shown; that another project may use a container is not modelled."""


class Swift(Service):
    type = "object-store"
    prefix = "/object-store"

    def __init__(
        self,
        database: Database,
        folder: Path,
        conditions: Conditions,
        realm: Realm | None = None,
        cluster: str = "",
    ) -> None:
        """
        Args:
            realm: of container sync; None: the site has none.
            cluster: the site's own in that realm.
        """
        self._containers = database.table("container")
        self._objects = database.table("object")
        self._tombstones = database.table("tombstone")
        """what has been deleted, for container sync"""
        self._realm = realm
        self._cluster = cluster
        self.changed = asyncio.Event()
        """set when container sync may have something to send"""
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
        rows = [i for table in (self._objects, self._tombstones) for i in table]
        self._row = max((int(i.get("row", 0)) for i in rows), default=0)
        self._latest = max((float(i.get("timestamp", 0)) for i in rows), default=0.0)
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
            # a request of another cluster has a signature and no token
            Route("PUT", item, self._put, open=True),
            Route("POST", item, self._post_object),
            Route("HEAD", item, self._get, open=True),
            Route("GET", item, self._get, open=True),
            Route("DELETE", item, self._delete, open=True),
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
        found: Json = {
            "swift": {
                "version": "2.37.0",
                "container_listing_limit": LISTING,
                "max_file_size": 5 << 30,
            }
        }
        if self._realm:
            clusters = {
                name.upper(): {"current": True} if name == self._cluster else {}
                for name in self._realm.clusters
            }
            realms = {self._realm.name.upper(): {"clusters": clusters}}
            found["container_sync"] = {"realms": realms}
        return found

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
        if (known := self._containers.get(key)) is not None:
            self._describe(call, known)
            return web.Response(status=202)
        self._describe(call, {"id": key, "account": account, "name": container})
        self._names[key] = []
        return web.Response(status=201)

    async def _post(self, call: Call, account: str, container: str) -> web.Response:
        self._describe(call, self._containers[self._container(call, account, container)])
        return web.Response(status=204)

    def _describe(self, call: Call, item: Json) -> None:
        """Keep what a request says of a container, beside what it does not name."""
        headers = call.request.headers
        to = headers.get(TO, "")
        if to and (self._realm is None or self._realm.target(to) is None):
            raise Refused(400, f"No cluster endpoint for {to!r}, or an invalid format")
        said: Json = {name: headers[name] for name in OF_OWNERS if name in headers}
        said |= {n.lower(): v for n, v in headers.items() if n.lower().startswith(CONTAINER_META)}
        for name in headers:
            if name.lower().startswith("x-remove-"):
                kept = "x-" + name.lower().removeprefix("x-remove-")
                said |= {n: "" for n in (*OF_OWNERS, kept) if n.lower() == kept}
        if said.get(TO, item.get(TO, "")) != (item.get(TO, "")):
            said |= {"_sent": 0, "_unsent": []}  # all of it is sent to another container
        self._containers.keep(item | said)
        self.changed.set()

    async def _head_container(self, call: Call, account: str, container: str) -> web.Response:
        key = self._container(call, account, container)
        item = self._containers[key]
        shown = {n: v for n, v in item.items() if n in OF_OWNERS or n.startswith(CONTAINER_META)}
        count = {"X-Container-Object-Count": str(len(self._names[key]))}
        return web.Response(status=204, headers={**count, **{n: v for n, v in shown.items() if v}})

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
        at = self._time_of(call)
        if float(at) <= self._changed_at(item_id):
            return web.Response(status=202)  # a newer one is there
        path = self._folder / hashlib.sha256(item_id.encode()).hexdigest()
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(path)
        if old := self._objects.get(item_id):
            self._count(old, -1)
        else:
            bisect.insort(self._names[key], name)
        item = self._keep(
            self._objects,
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
                "meta": _of(call, OBJECT_META),
                "file": path.name,
            },
            at,
        )
        self._tombstones.drop(item_id)
        self._count(item, 1)
        return web.Response(status=201, headers=_headers(item))

    async def _post_object(
        self, call: Call, account: str, container: str, name: str
    ) -> web.Response:
        item = self._object(call, account, container, name)
        self._keep(self._objects, item | {"meta": _of(call, OBJECT_META)}, self._time_of(call))
        return web.Response(status=202)

    async def _get(self, call: Call, account: str, container: str, name: str) -> web.Response:
        item = self._object(call, account, container, name)
        body = b"" if call.request.method == "HEAD" else self.content(item)
        return web.Response(body=body, headers=_headers(item))

    async def _delete(self, call: Call, account: str, container: str, name: str) -> web.Response:
        at = self._time_of(call)
        item = self._object(call, account, container, name)
        if float(at) <= float(item.get("timestamp", 0)):
            raise Refused(409, "There was a conflict when trying to complete your request.")
        self._names[item["container"]].remove(name)
        self._objects.drop(item["id"])
        if any(self._containers[item["container"]].get(n) for n in (TO, KEY)):
            grave = {"id": item["id"], "container": item["container"], "name": name}
            self._keep(self._tombstones, grave | {"deleted": True}, at)
        self._count(item, -1)
        (self._folder / item["file"]).unlink(missing_ok=True)
        return web.Response(status=204)

    # ---- what container sync needs ----

    @property
    def containers(self) -> Table:
        return self._containers

    def rows(self, container: str) -> list[Json]:
        """The changes of a container, the first of them first."""
        tables = (self._objects, self._tombstones)
        found = [i for table in tables for i in table if i["container"] == container]
        return sorted(found, key=lambda item: int(item.get("row", 0)))

    def content(self, item: Json) -> bytes:
        return (self._folder / str(item["file"])).read_bytes()

    def carried(self, item: Json) -> dict[str, str]:
        """What an object has beside its bytes."""
        return {"Content-Type": item["content_type"], **item.get("meta", {})}

    def _keep(self, table: Table, item: Json, at: str) -> Json:
        self._row += 1
        when = datetime.fromtimestamp(float(at), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        kept = table.keep(item | {"row": self._row, "timestamp": at, "last_modified": when})
        self.changed.set()
        return kept

    def _time_of(self, call: Call) -> str:
        """When a change is made: the site's clock says it, or the cluster that has sent it."""
        if AUTH in call.request.headers:
            return call.request.headers.get("X-Timestamp", "0")
        self._latest = max(self._conditions.now().timestamp(), self._latest + 1e-5)
        return f"{self._latest:016.05f}"

    def _changed_at(self, item_id: str) -> float:
        tables = (self._objects, self._tombstones)
        found = (table.get(item_id) for table in tables)
        return max((float(item.get("timestamp", 0)) for item in found if item), default=-1.0)

    # ---- what all of them need ----

    def _count(self, item: Json, sign: int) -> None:
        self._used[item["account"]] = self._used.get(item["account"], 0) + sign * item["bytes"]

    def _may_use(self, call: Call, account: str) -> None:
        if not call.caller.user_id:
            raise Refused(401, "The request you have made requires authentication.")
        if account != f"AUTH_{call.caller.project_id}" or not {"admin", "member"} & set(
            call.caller.roles
        ):
            raise Refused(403, "Access was denied to this resource.")

    def _must_be_signed(self, call: Call, auth: str, key: str) -> None:
        """See that a request comes from a cluster of the realm and from a container with the key of
        this one; a container that there is not has no key.
        """
        request = call.request
        path, at = request.raw_path.partition("?")[0], request.headers.get("X-Timestamp", "0")
        user_key = str((self._containers.get(key) or {}).get(KEY) or "")
        if self._realm is None or not (
            self._realm.accepts(request.method, path, at, auth, user_key)
        ):
            raise Refused(
                401,
                "X-Container-Sync-Auth header not valid; contact cluster operator for support.",
            )

    def _container(self, call: Call, account: str, container: str) -> str:
        key = f"{account}/{container}"
        if (auth := call.request.headers.get(AUTH)) is not None:
            self._must_be_signed(call, auth, key)
        else:
            self._may_use(call, account)
        if key not in self._containers:
            raise Refused(404, "The resource could not be found.")
        return key

    def _object(self, call: Call, account: str, container: str, name: str) -> Json:
        key = self._container(call, account, container)
        item = self._objects.get(f"{key}/{name}")
        if item is None:
            raise Refused(404, "The resource could not be found.")
        return item


def _of(call: Call, prefix: str) -> dict[str, str]:
    """The headers of a request whose names begin so."""
    return {n.lower(): v for n, v in call.request.headers.items() if n.lower().startswith(prefix)}


def _headers(item: Json) -> dict[str, str]:
    return {
        "ETag": item["hash"],
        "Content-Type": item["content_type"],
        "Last-Modified": formatdate(float(item.get("timestamp", 0)), usegmt=True),
        "X-Timestamp": str(item.get("timestamp", 0)),
        **item.get("meta", {}),
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
