# SPDX-License-Identifier: Apache-2.0
"""What every request has around it: an id, the microversion, a limit of its size, headers of the
answer, and a record in the audit trail where it changes something or is refused.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antipode.api import conventions, faults
from antipode.api.gate import Installation
from antipode.api.rate import Buckets
from antipode.errors import InvalidInput, TooManyRequests
from antipode.store.audit import Audit
from antipode.store.tables import AuditRow

LOG = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
VERSION = b"openstack-api-version"
VARIES = (b"vary", b"OpenStack-API-Version")
STRANGERS_PER_MINUTE = 60
"""Requests without a valid token that the audit trail keeps."""
READING = ("GET", "HEAD", "OPTIONS")


class _TooLarge(Exception):
    """The body of a request is larger than is allowed."""


class Trail:
    """The requests that the audit trail keeps. Of those of strangers only some are, so that they
    fill no disk.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._of_strangers = Buckets(STRANGERS_PER_MINUTE)

    async def keep(
        self, scope: MutableMapping[str, Any], status: int, number: str, *, forms: bool = False
    ) -> None:
        """Keep a request, if it is one of these, before it is answered: a change that is not in
        the trail is not answered as done.

        Args:
            scope: of ASGI.
            status: of the answer.
            number: the id of the request.
            forms: whether a stranger is refused by other answers than 401, as by a login page.
        """
        if self._is_wanted(scope, status, forms):
            await run_in_threadpool(self._audit.add, record_of(scope, status, number))

    def _is_wanted(self, scope: MutableMapping[str, Any], status: int, forms: bool) -> bool:
        is_change = scope["method"] not in READING
        if "caller" in scope["state"]:
            # one that came too often was not looked at
            return status != 429 and (is_change or status in (401, 403))
        if status != 401 and not (forms and (is_change or status == 403)):
            return False
        try:
            self._of_strangers.take("")
        except TooManyRequests:
            return False
        return True


class Envelope:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, installation: Installation) -> None:
        self._app = app
        self._most = installation.settings.body_bytes
        self._trail = Trail(installation.deployment.audit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, number = time.monotonic(), f"req-{uuid.uuid4()}"
        headers = dict(scope["headers"])
        given = headers.get(b"x-openstack-request-id", b"")
        scope.setdefault("state", {})["request_id"] = number
        status, read = 0, 0
        version, refusal = _version(scope)

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise _TooLarge
            return message

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                used = VERSION, "{} {}.{}".format(conventions.SERVICE, *version).encode()
                own = [(b"x-openstack-request-id", number.encode()), *SECURITY, used, VARIES]
                message = {**message, "headers": [*message["headers"], *own]}
                await self._trail.keep(scope, status, number)
            await send(message)

        async def unless_too_large(message: Message) -> None:
            # the reader of the body has made an answer of its own of that
            if read <= self._most:
                await marked(message)

        declared = headers.get(b"content-length", b"0")
        try:
            if refusal is not None:
                await refusal(scope, receive, marked)
            elif declared.isdigit() and int(declared) > self._most:
                await self._too_large()(scope, receive, marked)
            else:
                try:
                    with suppress(_TooLarge):
                        await self._app(scope, limited, unless_too_large)
                except Exception as error:
                    if status:
                        raise  # it has begun to answer
                    fault = faults.unexpected(number, scope["path"], error)
                    await fault(scope, receive, marked)
                if read > self._most:
                    await self._too_large()(scope, receive, marked)
        finally:
            caller = scope["state"].get("caller")
            LOG.info(
                "%s %s %s: %d in %.3f s, by %s%s",
                number,
                scope["method"],
                scope["path"],
                status,
                time.monotonic() - began,
                caller.identity if caller else "-",
                f", for {given.decode()}" if REQUEST_ID.fullmatch(given) else "",
            )

    def _too_large(self) -> ASGIApp:
        words = f"a body of a request has at most {self._most} bytes"
        return faults.fault(413, "too-large", words)


def _version(scope: Scope) -> tuple[tuple[int, int], ASGIApp | None]:
    """The microversion that a request is answered by; and the answer to one that asks for a
    microversion that is not supported.
    """
    asked = [value.decode("latin-1") for key, value in scope["headers"] if key == VERSION]
    try:
        return conventions.microversion(asked), None
    except InvalidInput as error:
        return conventions.NEWEST, faults.fault(400, error.code, str(error))
    except LookupError as error:
        return conventions.NEWEST, faults.fault(406, "not-supported", str(error.args[0]))


def record_of(scope: MutableMapping[str, Any], status: int, number: str) -> AuditRow:
    """What the audit trail keeps of a request: neither its body nor its query."""
    state, caller = scope["state"], scope["state"].get("caller")
    return AuditRow(
        at=time.time(),
        identity=caller.identity if caller else None,
        user_id=caller.user_id if caller else None,
        site=caller.site if caller else None,
        project=caller.project if caller else None,
        address=(scope.get("client") or ("-",))[0],
        action=state.get("rule") or scope["method"],
        target=scope["path"],
        outcome="success" if status < 400 else "failure",
        status=status,
        request_id=number,
    )
