# SPDX-License-Identifier: Apache-2.0
"""The processes of the embedded sites: started, killed, isolated and inspected. The process of a
site holds the lock in its directory until it has ended.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from antipode import private
from antipode.errors import AntipodeError, NotFound
from antipode.sandbox import settings
from antipode.sandbox.container_sync import Realm
from antipode.sandbox.keystone import PASSWORD
from antipode.sandbox.members import TENANTS
from antipode.sandbox.settings import SiteSettings
from antipode.sandbox.store import StoreSettings

SITES = ("site-a", "site-b")
STORE = "site-b"
"""The site that keeps the backups of all, and the vault."""
HOST = "127.0.0.1"
PORTS = range(10_000, 32_768)
"""Below those that kernels give to outgoing connections, so that a site which comes back finds its
own still free.
"""
START_S = 300.0
"""A site that cannot start ends before; this is for one that hangs, on a machine that is busy."""
STOP_S = 60.0
LOG = "site.log"


class SandboxError(AntipodeError):
    """The embedded sites cannot do their work; the text says why."""

    code = "sandbox-failed"


class Sandbox:
    """The embedded sites of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # ---- the sites and where they are ----

    def settings(self, site: str) -> SiteSettings:
        """The settings of a site.

        Raises:
            NotFound: there is no such site, or it was never brought up.
        """
        if site not in SITES:
            raise NotFound(f"there is no embedded site {site}; sites: {', '.join(SITES)}")
        try:
            return settings.read(self._home(site))
        except FileNotFoundError:
            raise NotFound(
                f"{site} has not been brought up in {self.directory} yet: antipode sandbox up"
            ) from None

    def _home(self, site: str) -> Path:
        return self.directory / site

    def pid(self, site: str) -> int | None:
        """The process that serves a site: the one that holds its lock; None when none does."""
        try:
            lock = (self._home(site) / settings.LOCK).open("r+")
        except FileNotFoundError:
            return None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
            except BlockingIOError:
                return int(lock.read() or 0) or None
        return None

    # ---- up and down ----

    def up(self, latency: float | None = None, only: Sequence[str] = SITES, **new: Any) -> None:
        """Start all sites; those that serve already are left as they are.

        Args:
            only: these sites, and no others.
            latency: multiplies all latencies; None: as before, 1 for new sites.
            new: other settings of new sites (`SiteSettings`).

        Raises:
            SandboxError: a site does not start.
        """
        numbers = [SITES.index(site) for site in only]
        with ExitStack() as held, ThreadPoolExecutor(len(only)) as pool:
            doors: Sequence[socket.socket] = ()
            if not all((self._home(site) / settings.FILE).exists() for site in SITES):
                doors = [held.enter_context(door) for door in _doors(2 * len(SITES))]
                self._lay_out(
                    [door.getsockname()[1] for door in doors],
                    {"latency": 1.0 if latency is None else latency, **new},
                )
            list(pool.map(lambda n: self.start(SITES[n], doors[2 * n : 2 * n + 2]), numbers))
        if latency is not None:
            for site in only:
                self.ask(site, "PUT", "/conditions", {"latency": latency})

    def _is_ours(self) -> bool:
        return any((self._home(site) / settings.FILE).exists() for site in SITES)

    def _lay_out(self, ports: Sequence[int], new: Mapping[str, Any]) -> None:
        if self.directory.exists() and any(self.directory.iterdir()) and not self._is_ours():
            raise SandboxError(
                f"{self.directory} holds something else; name an empty directory for the "
                "embedded sites"
            )
        auth_url = f"http://{HOST}:{ports[2 * SITES.index(STORE)]}/identity/v3"
        swifts = [f"http://{HOST}:{port}/object-store/v1/" for port in ports[::2]]
        realm = Realm(key=PASSWORD, clusters=dict(zip(SITES, swifts, strict=True)))
        for number, site in enumerate(SITES):
            private.make_folder(self._home(site))
            wanted = {"store": StoreSettings(auth_url=auth_url), **new}
            SiteSettings(
                name=site,
                region=site,
                host=HOST,
                port=ports[2 * number],
                control_port=ports[2 * number + 1],
                realm=realm,
                tenant=TENANTS[site],
                **wanted,
            ).write(self._home(site))

    def start(self, site: str, doors: Sequence[socket.socket] = ()) -> None:
        """Start a site, with its content.

        Args:
            doors: the sockets of a new site, so that no other process takes its ports before it has
                them; others open their own.

        Raises:
            SandboxError: it does not start.
        """
        self.settings(site)
        if self.pid(site) is None:
            with open(self._home(site) / LOG, "ab", opener=private.opener) as log:
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "antipode.sandbox.site",
                        str(self._home(site)),
                        *(str(d.fileno()) for d in doors),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[door.fileno() for door in doors],
                )
            self._await_answer(site, process)

    def _await_answer(self, site: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                if self.ask(site, "GET", "/status")["pid"] == process.pid:
                    return
            except SandboxError:
                time.sleep(0.05)  # not listening yet
        tail = (self._home(site) / LOG).read_text(errors="replace")[-1500:]
        raise SandboxError(f"{site} does not start; the end of {self._home(site) / LOG}:\n{tail}")

    def down(self, *, wipe: bool = False) -> None:
        """Stop all sites; with `wipe` delete their content too."""
        for site in SITES:
            self._end(site, signal.SIGTERM)
        if wipe and self._is_ours():
            shutil.rmtree(self.directory)

    def kill(self, site: str) -> None:
        """The disaster: the process of the site is killed, and its guests are gone at that
        instant.
        """
        self.settings(site)
        self._end(site, signal.SIGKILL)

    def _end(self, site: str, number: signal.Signals) -> None:
        pid = self.pid(site)
        if pid is None:
            return
        os.kill(pid, number)
        deadline = time.monotonic() + STOP_S
        while self.pid(site) == pid:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"{site}: process {pid} does not end by {number.name} within {STOP_S:g} s"
                )
            time.sleep(0.02)  # the lock is free when it has ended

    # ---- conditions ----

    def ask(self, site: str, method: str, path: str, body: Any = None) -> Any:
        """A call to a site's control API; its answer.

        Raises:
            SandboxError: the site does not run, or refuses.
        """
        url = self.settings(site).control_url + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            url, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with _DIRECT.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SandboxError(
                f"{site}: {method} {path}: {error.read().decode(errors='replace')}"
            ) from error
        except (
            OSError,
            http.client.HTTPException,
        ) as error:  # the latter when it is killed while it answers
            raise SandboxError(
                f"{site} does not run ({error}); start it with: antipode sandbox revive {site}"
            ) from error

    def isolate(self, site: str) -> None:
        """Cut a site off: it accepts connections and never answers, and reaches nothing outside."""
        self.ask(site, "POST", "/isolate")

    def rejoin(self, site: str) -> None:
        self.ask(site, "POST", "/rejoin")

    def status(self) -> list[dict[str, Any]]:
        """The state (serving, isolated, down), process and address of each site."""
        rows = []
        for site in SITES:
            laid_out = (self._home(site) / settings.FILE).exists()
            pid = self.pid(site)
            said = self.ask(site, "GET", "/status") if pid else {}
            state = "down" if not pid else "isolated" if said["isolated"] else "serving"
            known = self.settings(site) if laid_out else None
            urls = {
                "auth_url": known and known.auth_url,
                "control_url": known and known.control_url,
            }
            rows.append(
                {
                    "site": site,
                    "state": state,
                    "pid": pid,
                    "guests": said.get("guests", 0),
                    "faults": said.get("faults", 0),
                    **urls,
                }
            )
        return rows


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of this machine, whatever proxy the environment names."""


def _doors(count: int) -> list[socket.socket]:
    """Sockets that listen on ports that no other process has.

    Raises:
        SandboxError: there are not so many.
    """
    doors: list[socket.socket] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError):  # it is taken
            doors.append(socket.create_server((HOST, port)))
        if len(doors) == count:
            return doors
    for door in doors:
        door.close()
    raise SandboxError(
        f"of the ports {PORTS.start} to {PORTS.stop - 1} of {HOST} only {len(doors)} can be "
        f"listened on; {count} are needed"
    )
