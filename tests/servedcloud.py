# SPDX-License-Identifier: Apache-2.0
"""The cloud double served to other processes: one HTTP call for each call of antipode, and who made
it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from antipode.cloud.api import Api, Reply
from antipode.cloud.site import Site
from antipode.errors import SiteUnreachable

SERVICES = {"compute": (2, 96), "volume": (3, 70), "network": None}


class Change(NamedTuple):
    """A call that changes something: the process that made it, and what it was."""

    process: int
    call: str


class ServedCloud:
    """A FakeCloud behind a port of loopback."""

    def __init__(self, cloud: Any) -> None:
        self.cloud = cloud
        self.changes: list[Change] = []
        self.silent = threading.Event()
        """while set, calls get no answer until it is cleared"""
        self.unanswered = threading.Event()
        """whether there was such a call"""
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = json.dumps(served.answer(asked)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        ).start()

    def answer(self, asked: dict[str, Any]) -> list[Any]:
        while self.silent.is_set():
            self.unanswered.set()
            threading.Event().wait(0.05)
        api: Api = {
            "compute": self.cloud.site.compute._api,
            "volume": self.cloud.site.volumes._api,
            "network": self.cloud.site.networks._api,
        }[asked["service"]]
        if asked["method"] != "GET":
            body = next(iter(asked["json"] or {}), "")
            self.changes.append(
                Change(asked["process"], f"{asked['method']} {asked['path']} {body}".strip())
            )
        reply = api._send(
            asked["method"],
            asked["path"],
            json=asked["json"],
            params=asked["params"],
            microversion=None,
            timeout=None,
        )
        return [reply.status, reply.body]

    def made_by(self, process: int) -> list[str]:
        """The changes that a process has made."""
        return [change.call for change in list(self.changes) if change.process == process]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def served(cloud: Any) -> Iterator[ServedCloud]:
    there = ServedCloud(cloud)
    try:
        yield there
    finally:
        there.close()


def connect(name: str, port: int) -> Site:
    """A site whose calls go to a served cloud."""

    def transport(service: str) -> Any:
        def send(
            method: str,
            path: str,
            *,
            json: Any,
            params: Any,
            microversion: str | None,
            timeout: float | None,
        ) -> Reply:
            asked = {
                "service": service,
                "method": method,
                "path": path,
                "json": json,
                "params": params and dict(params),
            }
            return Reply(*_ask(name, port, {**asked, "process": os.getpid()}, timeout or 30))

        return send

    apis = {
        service: Api(name, service, transport(service), newest)
        for service, newest in SERVICES.items()
    }
    return Site(name, project_id="project-1", user_id="user-1", roles=["admin"], **apis)


def _ask(site: str, port: int, asked: dict[str, Any], timeout_s: float) -> list[Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=max(timeout_s, 0.1))
    try:
        connection.request("POST", "/", json.dumps(asked))
        answer: list[Any] = json.loads(connection.getresponse().read())
    except (OSError, ValueError) as error:
        raise SiteUnreachable(f"Site {site} does not answer: {error}") from error
    finally:
        connection.close()
    return answer
