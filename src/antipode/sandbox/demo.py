# SPDX-License-Identifier: Apache-2.0
"""The story on embedded sites: its stage, and the operator of antipode there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from antipode.sandbox import canary, desk, story
from antipode.sandbox.store import StoreSettings
from antipode.sandbox.story import Storyteller, Witness
from antipode.sandbox.supervision import SITES, STORE, Sandbox, SandboxError

LONGEST_S = 600.0
LATENCY = 0.4
"""Of the sites, beside that of real ones: the story is long."""


class Operator:
    """Calls antipode's command line as an operator does, in a separate process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def environment(self) -> dict[str, str]:
        """The environment of a command."""
        files = {
            "OS_CLIENT_CONFIG_FILE": str(self.directory / desk.CLOUDS),
            "ANTIPODE_CONFIG": str(self.directory / desk.CONFIGURATION),
        }
        # of these two the latter counts where both are
        return os.environ | files | {"NO_PROXY": "*", "no_proxy": "*"}

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `antipode ARGUMENTS`; what it prints is to be read by `communicate`."""
        return subprocess.Popen(
            # -P: the entry points of all packages are kept for a path of modules, of which a folder
            # that changes with each command must be no part
            [sys.executable, "-P", "-m", "antipode.cli.main", *arguments],
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Execute `antipode ARGUMENTS` to its end, whatever that is.

        Raises:
            SandboxError: it does not end.
        """
        with self.begin(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=LONGEST_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise SandboxError(
                    f"antipode {' '.join(arguments)} has not ended after {LONGEST_S:g} s and was "
                    "killed"
                ) from error
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def tell(self, *arguments: str) -> str:
        """Execute `antipode ARGUMENTS` and return its output.

        Raises:
            SandboxError: it failed.
        """
        done = self.run(*arguments)
        if done.returncode:
            raise SandboxError(
                f"antipode {' '.join(arguments)}: exit code "
                f"{done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        """As `tell`, with `-f json`; the decoded output."""
        return json.loads(self.tell(*arguments, "-f", "json"))


class Watcher(Witness):
    """Sees all guests of an embedded site at one moment; the site keeps those that it misses."""

    every_s = 0.03

    def __init__(self, sandbox: Sandbox, site: str) -> None:
        super().__init__()
        self._sandbox = sandbox
        self._site = site
        self._known = len(self._stills())

    def _stills(self) -> list[dict[str, int]]:
        return list(self._sandbox.ask(self._site, "GET", "/stills"))

    def look(self) -> dict[str, int] | None:
        try:
            guests = [g for g in self._sandbox.ask(self._site, "GET", "/guests") if g["role"]]
            missed = self._stills()[self._known :]
        except SandboxError:
            return None  # the site is gone: nothing can be seen
        if all(g["frozen"] for g in guests):
            return {g["role"]: int(g["durable"]) for g in guests}
        self._known += len(missed)
        return missed[-1] if missed else None


class Silence:
    """Takes the place of a dead site on its port, answers nothing, and counts the calls."""

    def __init__(self, port: int) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self._held: list[socket.socket] = []
        threading.Thread(target=self._listen, name="silence", daemon=True).start()

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # not on macOS, where closing it is enough
            self._socket.shutdown(socket.SHUT_RDWR)  # else the port is taken while accept waits
        for one in (self._socket, *self._held):
            one.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: counting is over
            self.calls += 1
            self._held.append(connection)


class EmbeddedStage:
    """The story's stage on embedded sites."""

    primary, backup = SITES

    def __init__(self, sandbox: Sandbox, third: Sandbox) -> None:
        self._sandbox = sandbox
        self._third = third
        self.operator = Operator(sandbox.directory)

    def set(self, teller: Storyteller) -> None:
        teller.tell("Two embedded OpenStack sites, and object storage at a third place", self._up)
        desk.write(self._sandbox, self._third)
        with ThreadPoolExecutor(1) as beside:
            added = beside.submit(
                self.operator.tell, "vnf", "add", str(self._sandbox.directory / desk.VNF_FILE)
            )
            teller.tell(
                f"A VNF of three members at {self.primary}, answering",
                lambda: canary.create(self._sandbox, self.primary),
            )
            added.result()

    def _up(self) -> None:
        self._third.up(LATENCY, [STORE])
        store = StoreSettings(auth_url=self._third.settings(STORE).auth_url)
        self._sandbox.up(LATENCY, store=store)

    def state(self, site: str) -> Mapping[str, Mapping[str, Any]]:
        return canary.state(self._sandbox, site)

    def await_records(self, site: str, more: int) -> None:
        canary.await_records(self._sandbox, site, more)

    def witness(self) -> Witness:
        return Watcher(self._sandbox, self.primary)

    def destroy_primary(self) -> None:
        self._sandbox.kill(self.primary)

    def primary_is_dead(self) -> bool:
        return self._sandbox.pid(self.primary) is None

    def silence(self) -> Silence:
        return Silence(self._sandbox.settings(self.primary).port)

    def records(self, site: str) -> Mapping[str, bytes]:
        return canary.records(self._sandbox, site)

    def return_primary(self) -> None:
        """Its hypervisors come back, and start their guests again."""
        self._sandbox.start(self.primary)
        compute = canary.connect(self._sandbox, f"{self.primary}-tenant").compute
        servers = list(compute.servers())
        for server in servers:
            compute.start_server(server)
        canary.await_that(
            lambda: self.running(self.primary) == len(servers),
            f"the guests at {self.primary} run again",
            canary.PATIENCE_S,
        )

    def running(self, site: str) -> int:
        guests = self._sandbox.ask(site, "GET", "/guests")
        return sum(guest["role"] is not None for guest in guests)


def run(directory: Path, out: TextIO) -> dict[str, Any]:
    """Tell the whole story in a directory of its own; the report. The sites are ended when it is
    over, what they hold is left.

    Raises:
        AntipodeError: the story does not get to its end.
    """
    sandbox, third = Sandbox(directory / "sites"), Sandbox(directory / desk.THIRD)
    for one in (sandbox, third):
        one.down(wipe=True)
    try:
        return story.play_whole(EmbeddedStage(sandbox, third), Storyteller(out))
    finally:
        for one in (sandbox, third):
            one.down()
