# SPDX-License-Identifier: Apache-2.0
"""What every request has around it: an id, limits of size and rate, and headers of the answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antipode.api import faults
from antipode.model.serving import ApiConfig

LOG = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"req-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


class _TooLarge(Exception):
    """The body of a request is larger than is allowed."""


class Envelope:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ApiConfig) -> None:
        self._app = app
        self._most = settings.body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, number = time.monotonic(), f"req-{uuid.uuid4()}"
        headers = dict(scope["headers"])
        given = headers.get(b"x-openstack-request-id", b"")
        scope.setdefault("state", {})["request_id"] = number
        status, read, has_begun = 0, 0, False

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise _TooLarge
            return message

        async def marked(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                own = [(b"x-openstack-request-id", number.encode()), *SECURITY]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            if int(headers.get(b"content-length", b"0") or 0) > self._most:
                raise _TooLarge
            await self._app(scope, limited, marked)
        except (_TooLarge, ValueError) as error:
            if has_begun or not isinstance(error, _TooLarge):
                raise
            words = f"a body of a request has at most {self._most} bytes"
            answer = faults.fault(413, "too-large", words)
            await answer(scope, receive, marked)
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


Json = dict[str, Any]
