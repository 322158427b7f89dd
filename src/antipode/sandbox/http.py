# SPDX-License-Identifier: Apache-2.0
"""The one way of every call into a site: isolation, faults, latency, token and microversion come
before a service sees it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from aiohttp import web

from antipode.sandbox.conditions import OF_CALLS, Conditions
from antipode.sandbox.database import Json

Version = tuple[int, int]
Handler = Callable[..., Awaitable[Any]]
PAGE = 1000
"""How many items a listing gives at most (osapi_max_limit)."""


class Refused(Exception):
    """A service refuses a call; `kind` is the exception's name where the service's error body has
    it.
    """

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        self.status = status
        self.message = message
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True)
class Caller:
    """The user of a call, by its token."""

    user_id: str = ""
    project_id: str = ""
    roles: tuple[str, ...] = ()

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def may_see(self, item: Json) -> bool:
        return self.is_admin or item.get("project_id") == self.project_id


@dataclass
class Call:
    """One request as a handler gets it."""

    request: web.Request
    caller: Caller
    version: Version
    body: Json

    @property
    def query(self) -> Any:
        return self.request.query

    @property
    def base(self) -> str:
        return f"{self.request.scheme}://{self.request.host}"

    def part(self, name: str) -> Json:
        """The object of that name in the body."""
        part = self.body.get(name)
        if not isinstance(part, dict):
            raise Refused(
                400,
                f"Invalid input for field/attribute {name}. Value: {part}. '{name}' is a "
                "required property",
            )
        return part


class Route(NamedTuple):
    """An entry in a service's table of routes.

    `status` is that of an answer with a body or none; `open`: no token is needed.
    """

    method: str
    path: str
    handler: Handler
    status: int = 200
    admin: bool = False
    open: bool = False
    streams: bool = False
    """whether the handler itself reads the body, which is not held as a whole"""


@dataclass
class Gate:
    """The front door that all services of a site share."""

    conditions: Conditions
    authenticate: Callable[[str], Caller | None]
    calls: Counter[str] = field(default_factory=Counter)
    """how often which call came, ids replaced"""


class Part(ABC):
    """Some of the calls of an API, and what they do."""

    @abstractmethod
    def routes(self) -> Sequence[Route]: ...


class Service(Part):
    """One API of a site."""

    type: ClassVar[str]
    """as in the catalog"""
    prefix: ClassVar[str]
    oldest: ClassVar[Version] = (0, 0)
    newest: ClassVar[Version] = (0, 0)
    parts: Sequence[Part] = ()
    """what has the rest of its calls"""

    def fault(self, refused: Refused) -> web.Response:
        """An error in the form that this service gives it: that of Nova and Cinder, where it has no
        other.
        """
        if refused.status == 401:
            return web.json_response(
                {"error": {"code": 401, "title": "Unauthorized", "message": refused.message}},
                status=401,
            )
        body: Json = {"code": refused.status, "message": refused.message}
        headers = {"Retry-After": "0"} if refused.status == 413 else {}
        return web.json_response(
            {FAULTS.get(refused.status, "computeFault"): body},
            status=refused.status,
            headers=headers,
        )

    def microversions(self) -> Json:
        """As a version document has them."""
        return {
            "version": "{}.{}".format(*self.newest),
            "min_version": "{}.{}".format(*self.oldest),
        }

    def install(self, application: web.Application, gate: Gate) -> None:
        """Add the service's routes to the application, behind the gate."""
        unknown = Route("*", "/{path:.*}", _unknown, open=True)
        for route in itertools.chain(
            self.routes(), *(part.routes() for part in self.parts), [unknown]
        ):
            paths = [self.prefix + route.path] + ([self.prefix] if route.path == "/" else [])
            for path in paths:
                application.router.add_route(route.method, path, _Door(self, route, gate))

    def version_of(self, request: web.Request) -> Version:
        """The microversion that a request asks for."""
        if self.newest == (0, 0):
            return self.newest
        short = {"block-storage": "volume"}.get(self.type, self.type)
        asked = request.headers.get("OpenStack-API-Version", "")
        found = re.search(rf"\b{short} (\d+\.\d+|latest)", asked)
        if not found:
            return self.oldest
        if found[1] == "latest":
            return self.newest
        major, minor = found[1].split(".")
        version = int(major), int(minor)
        if not self.oldest <= version <= self.newest:
            text = ["{}.{}".format(*v) for v in (version, self.oldest, self.newest)]
            raise Refused(
                406,
                f"Version {text[0]} is not supported by the API. Minimum is {text[1]} and "
                f"maximum is {text[2]}.",
            )
        return version


async def _unknown(call: Call, path: str) -> None:
    raise Refused(404, "The resource could not be found.")


class _Door:
    """One route behind the gate; an aiohttp handler."""

    def __init__(self, service: Service, route: Route, gate: Gate) -> None:
        self._service = service
        self._route = route
        self._gate = gate
        self.__name__ = f"{route.method} {route.path}"

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        conditions = self._gate.conditions
        raw = b"" if self._route.streams else await request.read()
        body = _decoded(raw) if request.content_type == "application/json" else {}
        action = f" {next(iter(body))}" if self._route.path.endswith("/action") and body else ""
        self._gate.calls[
            f"{self._service.type} {self._route.method} {self._route.path}{action}"
        ] += 1
        name = (
            f"{self._service.type} {self._route.method} "
            f"{request.path.removeprefix(self._service.prefix)}{action}"
        )
        if conditions.isolated:
            await conditions.joined()
            return _cut(request)
        rule = conditions.strike(name, OF_CALLS)
        if rule and rule.effect == "error":
            return self._service.fault(Refused(rule.status, rule.message))
        if rule and rule.effect == "drop":
            return _cut(request)
        if rule and rule.effect == "hang":
            await conditions.until_removed(rule)
            return _cut(request)
        if rule and rule.effect == "stuck":
            await conditions.until_removed(rule)
        if rule and rule.effect == "slow":
            await asyncio.sleep(rule.seconds)
        answer = await self._answer(request, body)
        if rule and rule.effect == "twice" and not self._route.streams:
            answer = await self._answer(request, body)
        if conditions.isolated:
            await conditions.joined()
            return _cut(request)
        return _cut(request) if rule and rule.effect == "lost" else answer

    async def _answer(self, request: web.Request, body: Json) -> web.StreamResponse:
        try:
            caller = self._caller(request)
            call = Call(request, caller, self._service.version_of(request), body)
            if self._gate.conditions.factor:
                await self._gate.conditions.take("call")
            answer = await self._route.handler(call, **request.match_info)
        except Refused as refused:
            return self._service.fault(refused)
        if isinstance(answer, web.StreamResponse):
            return answer
        return (
            web.Response(status=self._route.status)
            if answer is None
            else web.json_response(answer, status=self._route.status)
        )

    def _caller(self, request: web.Request) -> Caller:
        caller = self._gate.authenticate(request.headers.get("X-Auth-Token", ""))
        if self._route.open:
            return caller or Caller()
        if caller is None:
            raise Refused(401, "The request you have made requires authentication.")
        if self._route.admin and not caller.is_admin:
            raise Refused(
                403,
                f"Policy doesn't allow {self._route.method} "
                f"{self._service.type}{self._route.path} to be performed.",
            )
        return caller


def _decoded(raw: bytes) -> Json:
    try:
        body = json.loads(raw) if raw else {}
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


def _cut(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


def page(call: Call, collection: str, items: Iterable[Json], view: Callable[[Json], Json]) -> Json:
    """One page of a listing that is newest first, with the link to the next; `limit` and `marker`
    as the request has them.
    """
    newest_first = list(items)[::-1]
    begin = 0
    if marker := call.query.get("marker"):
        places = [i for i, item in enumerate(newest_first) if item["id"] == marker]
        if not places:
            raise Refused(400, f"marker [{marker}] not found")
        begin = places[0] + 1
    limit = min(int(call.query.get("limit", PAGE)), PAGE)
    shown = newest_first[begin : begin + limit]
    answer: Json = {collection: [view(item) for item in shown]}
    if shown and begin + limit < len(newest_first):
        following = call.request.url.update_query(marker=shown[-1]["id"])
        answer[f"{collection}_links"] = [{"rel": "next", "href": str(following)}]
    return answer


def filtered(call: Call, rows: Iterable[Json], *keys: str) -> list[Json]:
    """The rows that pass the request's filters on these keys."""
    wanted = {key: call.query[key] for key in keys if call.query.get(key)}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def public(item: Json) -> Json:
    """A resource without what only the site itself knows of it."""
    return {key: value for key, value in item.items() if not key.startswith("_")}
