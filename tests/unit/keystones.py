# SPDX-License-Identifier: Apache-2.0
"""Keystones of the embedded sites in this process, without their other services."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from ruamel.yaml import YAML

from antipode.sandbox import configuration
from antipode.sandbox.conditions import Conditions
from antipode.sandbox.http import Gate
from antipode.sandbox.keystone import OTHER, PASSWORD, PROJECT, STAFF, Keystone, known_id

SITES = ("site-a", "site-b")
PROJECTS = {
    name: {
        "sites": {site: known_id(site, "project", name) for site in SITES},
        "all_projects": name == STAFF,
    }
    for name in (PROJECT, OTHER, STAFF)
}


class Served:
    """The Keystone of one site, at a port of loopback."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.conditions = Conditions(0.0)
        self.keystone = Keystone(site, site, self.conditions, {"identity": Keystone.prefix})
        self.gate = Gate(self.conditions, self.keystone.authenticate)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self.port = 0
        self._black_hole: socket.socket | None = None
        self.revive()

    @property
    def auth_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/identity"

    @property
    def calls(self) -> int:
        """How many requests it got."""
        return self.gate.calls.total()

    async def _start(self) -> None:
        application = web.Application()
        self.keystone.install(application, self.gate)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    def revive(self) -> None:
        """Answer, at the port that it had."""
        if self._black_hole is not None:
            self._black_hole.close()
            self._black_hole = None
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def kill(self) -> None:
        """Refuse connections."""
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
            self._runner = None

    def vanish(self) -> None:
        """Take connections, and answer nothing to them."""
        self.kill()
        self._black_hole = socket.socket()
        self._black_hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._black_hole.bind(("127.0.0.1", self.port))
        self._black_hole.listen(128)

    def token(self, user: str) -> str:
        """A token of one of the accounts, without a call."""
        from antipode.sandbox.keystone import ACCOUNTS, TOKEN_LIFE

        account = next(a for a in ACCOUNTS if a.user == user)
        return self.keystone._issue(account, self.conditions.now() + TOKEN_LIFE)

    def close(self) -> None:
        self.kill()
        if self._black_hole is not None:
            self._black_hole.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def served(folder: Path, monkeypatch: Any) -> Iterator[dict[str, Served]]:
    """The Keystones of both sites, with a clouds.yaml in the folder that leads to them."""
    both = {site: Served(site) for site in SITES}
    clouds = {
        site: configuration.cloud(
            configuration.Keystone(there.auth_url, site),
            configuration.User("antipode", PASSWORD, PROJECT),
        )
        for site, there in both.items()
    }
    with (folder / "clouds.yaml").open("w") as file:
        YAML().dump({"clouds": clouds}, file)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(folder / "clouds.yaml"))
    try:
        yield both
    finally:
        for there in both.values():
            there.close()
