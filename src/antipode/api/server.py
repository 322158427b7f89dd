# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of the API: it listens while a block runs, with TLS where the configuration has a
certificate.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from antipode.api.app import application
from antipode.api.gate import Installation
from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError
from antipode.model.serving import ApiConfig

LOG = logging.getLogger(__name__)
ENDS_WITHIN_S = 10.0
"""How long requests that are under way have at the end."""
BACKLOG = 512
AT_ONCE = 500
"""Connections; more are refused with 503."""
SENT_WITHIN_S = 30.0
"""How long a client may take to send a request, its body included: one that has vanished, or means
no good, does not keep its connection for ever.
"""


MOST_HEAD = 64 << 10
"""Bytes of the head of a request that has not come whole, or of fields after its body: more are not
awaited.
"""


class Beside(NamedTuple):
    """An application beside the API."""

    path: str
    made: Callable[[Installation], ASGIApp]


@contextmanager
def served(deployment: Deployment, beside: Beside | None = None) -> Iterator[str | None]:
    """Answer to the API while the block runs, if the configuration says where: the URL.

    Args:
        beside: what answers at the same port, below a path of its own.

    Raises:
        InvalidInput: the policy file is wrong.
        AntipodeError: the address or the certificate cannot be used.
    """
    settings = deployment.config.api
    if settings is None:
        yield None
        return
    installation = Installation(deployment, settings)
    try:
        with serving(installation, beside) as url:
            LOG.info("the API is at %s", url)
            yield url
    finally:
        installation.keystones.close()


@contextmanager
def serving(installation: Installation, beside: Beside | None = None) -> Iterator[str]:
    """Answer to the API of an installation while the block runs: the URL.

    Args:
        beside: as for `served`.

    Raises:
        AntipodeError: the address or the certificate cannot be used.
    """
    settings = installation.settings
    server = _Server(_config(settings, _answering(installation, beside)))
    listening = _listening(settings)
    thread = threading.Thread(target=server.run, args=([listening],), name="api", daemon=True)
    thread.start()
    try:
        server.await_start(thread)
        yield url_of(settings)
    finally:
        server.should_exit = True
        thread.join(ENDS_WITHIN_S + 5)
        listening.close()


def url_of(settings: ApiConfig) -> str:
    """Where the API is, as others reach it."""
    scheme = "http" if settings.certificate is None else "https"
    host = f"[{settings.address}]" if settings.address.version == 6 else str(settings.address)
    return settings.url or f"{scheme}://{host}:{settings.port}"


class _Server(uvicorn.Server):
    """A server in a thread: signals are its process's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_up = threading.Event()
        self._awaited: dict[Any, tuple[Any, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: close connections of clients that send no whole request."""
        self._close_slow(time.monotonic())
        return await super().on_tick(counter)

    def _close_slow(self, now: float) -> None:
        before, self._awaited = self._awaited, {}
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            newest = connection.cycle  # of the newest request whose head has come
            if newest and not newest.more_body and not newest.response_complete:
                continue  # it is being answered
            known, since = before.get(connection, (newest, now))
            if known is not newest:
                since = now
            if now - since < SENT_WITHIN_S:
                self._awaited[connection] = newest, since
            else:
                connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let others know."""
        await super().startup(sockets)
        self._is_up.set()

    def await_start(self, thread: threading.Thread) -> None:
        """Return when it answers.

        Raises:
            AntipodeError: it has ended instead.
        """
        while not self._is_up.wait(0.05):
            if not thread.is_alive():
                raise AntipodeError("the server of the API did not start; see the log")


class _Connection(HttpToolsProtocol):
    """A connection, as strict as the rules of HTTP where its parser is not."""

    _idle_bytes = 0
    """that have come since the parser made anything of them"""
    _comes_on = False
    """whether it has made something of those that it has now"""
    _in_head = False
    _is_deaf = False
    """whether what still comes is not read"""

    def on_message_begin(self) -> None:
        """Called when the head of a request begins."""
        self._comes_on = self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called for each field of a head, and for those that come after a body in pieces: these
        are none of the request's.
        """
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called when the head of a request has come whole.

        Raises:
            ValueError: it does not name one host. The request is refused.
        """
        self._comes_on, self._in_head = True, False
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request names one host")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called for each piece of a body."""
        self._comes_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called when a request has come whole."""
        self._comes_on = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Called when bytes have come."""
        if self._is_deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._comes_on = False
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._hand_over(data[upgrade.args[0] :])
            return
        except HttpParserError:
            self._refuse("Invalid HTTP request received.")
            return
        self._idle_bytes = 0 if self._comes_on else self._idle_bytes + len(data)
        if self._idle_bytes > MOST_HEAD:
            self._refuse(f"The head of a request has at most {MOST_HEAD} bytes.")

    def _should_upgrade(self) -> bool:
        return True  # only asked of requests that want it: they do not begin here

    def _hand_over(self, rest: bytes) -> None:
        """Leave a request that asks for another protocol to a parser that takes no notice of that:
        this one has none of its body, and would take it for the next request.

        Args:
            rest: what came after its head.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_after_answers()
            return
        version = self.parser.get_http_version().encode()
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            head += [name, b": ", value, b"\r\n"]
        other = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        self.connections.discard(self)
        other.connection_made(self.transport)
        self.transport.set_protocol(other)
        other.data_received(b"".join([*head, b"\r\n", rest]))

    def _refuse(self, why: str) -> None:
        """Answer that what came is no request, in its turn."""
        newest = self.cycle
        if newest is None or newest.response_complete:
            self.send_400_response(why)
        elif not newest.more_body:
            self._end_after_answers()
        elif newest.response_started or self.pipeline:
            self.transport.abort()
        else:
            self.send_400_response(why)

    def _end_after_answers(self) -> None:
        self._is_deaf, self.cycle.keep_alive = True, False


def _answering(installation: Installation, beside: Beside | None) -> ASGIApp:
    """The API, and what answers beside it."""
    api = application(installation)
    if beside is None:
        return api
    path, other = beside.path, beside.made(installation)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        asked = str(scope.get("path", ""))
        is_others = asked == path or asked.startswith(f"{path}/")
        await (other if is_others else api)(scope, receive, send)

    return answer


def _config(settings: ApiConfig, app: ASGIApp) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        # a parser and a loop in C: those in Python take longer than many an answer
        http=_Connection,
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=AT_ONCE,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(ENDS_WITHIN_S),
    )
    if settings.certificate is not None and settings.key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ssl.SSLError) as error:
            raise AntipodeError(
                f"certificate {settings.certificate} and its key cannot be used: {error}"
            ) from error
        config.load()
        config.ssl = context
    return config


def _listening(settings: ApiConfig) -> socket.socket:
    family = socket.AF_INET6 if settings.address.version == 6 else socket.AF_INET
    # with the protocol, as asyncio sets TCP_NODELAY of connections only where that is known: an
    # answer of two writes otherwise waits 40 ms for the client's acknowledgement of the first
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(settings.address), settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise AntipodeError(
            f"the API cannot be served at {settings.address}:{settings.port}: {error}. Stop what"
            " uses that port, or change api in antipode.yaml"
        ) from error
    return listening
