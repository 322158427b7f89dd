# SPDX-License-Identifier: Apache-2.0
"""Hosts of one installation: each with its configuration and state, the processes on them, and two
clouds that all of them see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from sqlalchemy import make_url

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.model.vnf import Vnf
from antipode.operations.protect import request
from antipode.operations.submit import submit
from antipode.store.tables import RunRow
from tests import servedcloud
from tests.distributed import servers
from tests.unit.fakecloud import FakeCloud

EXPIRES_S = 10
"""A host whose process is paused by a busy machine for two thirds of it loses its runs to others.
"""
NEVER_S = 300
"""For claims that are not to expire, however busy the machine is."""
PROCESS = Path(__file__).with_name("process.py")
MEMBERS = ("db", "app", "front")


@dataclass
class Installation:
    """Several hosts, what they share, and the two clouds they work at."""

    folder: Path
    settings: dict[str, Any]
    primary: servedcloud.ServedCloud
    backup: servedcloud.ServedCloud
    hosts: list[Host] = field(default_factory=list)

    def hold_backups(self) -> None:
        """No backup becomes available from now on."""
        cloud = self.primary.cloud
        cloud.before = lambda event: setattr(
            cloud, "looks_until_available", 10**6 if " backup " in event else 2
        )

    def let_backups_be_ready(self) -> None:
        """The backups that are being made become available, and those that are made from now on."""
        cloud = self.primary.cloud
        with cloud.lock:
            cloud.before, cloud.looks_until_available = lambda event: None, 2
            for backup in cloud.backups.values():
                backup["looks"] = 1

    def backups_made(self) -> int:
        """How many backups were started, in all."""
        return sum(
            " backup " in event and "delete" not in event for event in self.primary.cloud.events
        )

    def host(self, **settings: Any) -> Host:
        """Another host. What is given takes the place of what all share."""
        folder = self.folder / f"host-{len(self.hosts) + 1}"
        folder.mkdir()
        merged = {"database": f"sqlite:///{folder}/antipode.db", **self.settings, **settings}
        YAML().dump(merged, folder / "antipode.yaml")
        self.hosts.append(Host(folder, {"a": self.primary.port, "b": self.backup.port}))
        return self.hosts[-1]

    def queue(self, here: Deployment, vnf: str = "hlr") -> str:
        """Queue a protect."""
        return str(submit(here, request(here, vnf))["run"])


class Host:
    def __init__(self, folder: Path, clouds: dict[str, int]) -> None:
        self.folder = folder
        self.config = folder / "antipode.yaml"
        self.services: list[subprocess.Popen[bytes]] = []
        self._environment = os.environ | {
            "ANTIPODE_CONFIG": str(self.config),
            "XDG_STATE_HOME": str(folder / "state"),
            "TEST_CLOUDS": json.dumps(clouds),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [os.environ.get("PYTHONPATH"), str(PROCESS.parents[2])])
            ),
        }
        self._environment.pop("NOTIFY_SOCKET", None)

    def serve(self, **environment: str) -> Service:
        """Start the service; it runs when this returns."""
        return at_work([self.starts_to_serve(**environment)])[0]

    def starts_to_serve(self, **environment: str) -> Service:
        """Start the service; it does not run yet."""
        log = self.folder / "serve.log"
        log.unlink(missing_ok=True)
        with log.open("ab") as output:
            command = [sys.executable, str(PROCESS), "-v", "serve"]
            process = subprocess.Popen(
                command, env=self._environment | environment, stdout=output, stderr=output
            )
        self.services.append(process)
        return Service(process, log)

    def antipode(self, *arguments: str) -> tuple[int, Any, str]:
        """Run a command to its end: exit code, what it wrote as JSON, its stderr."""
        command = [sys.executable, str(PROCESS), *arguments, "-f", "json"]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=servers.WITHIN_S
        )
        return (
            done.returncode,
            json.loads(done.stdout) if done.stdout.strip() else None,
            done.stderr,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it to itself."""
        with (self.folder / "command.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(PROCESS), *arguments],
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        self.services.append(process)
        return process


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_logged(self, words: str) -> bool:
        assert self.process.poll() is None, (
            f"the service ended with {self.process.returncode}: {self.log.read_text()[-3000:]}"
        )
        return words in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self, within_s: float = servers.WITHIN_S) -> int:
        """Ask it to stop, as systemd does; its exit code."""
        self.process.terminate()
        return self.process.wait(within_s)


def at_work(services: list[Service]) -> list[Service]:
    """Services that have been started, and run now."""
    for service in services:
        servers.until(
            f"{service.log} to tell that it serves",
            partial(service.has_logged, "serves:"),
        )
    return services


@contextmanager
def installation(folder: Path, **settings: Any) -> Iterator[Installation]:
    """An installation without hosts. Site-a runs the VNF `hlr`; site-b is empty."""
    (folder / "vault").mkdir()
    shared = {
        "sites": {"site-a": {"cloud": "a"}, "site-b": {"cloud": "b"}},
        "vault": {"directory": str(folder / "vault")},
        **settings,
    }
    with (
        servedcloud.served(FakeCloud()) as primary,
        servedcloud.served(FakeCloud("site-b", empty=True)) as backup,
    ):
        made = Installation(folder, shared, primary, backup)
        try:
            yield made
        finally:
            for process in (p for host in made.hosts for p in host.services):
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    process.wait()


def look_from(host: Host) -> Deployment:
    """The installation as a process of the host sees it, the test's own; the VNF is known to it."""
    os.environ["XDG_STATE_HOME"] = str(host.folder / "state")
    deployment = Deployment(config.load(str(host.config)))
    deployment.vnfs.put(vnf())
    return deployment


def vnf(name: str = "hlr", members: tuple[str, ...] = MEMBERS) -> Vnf:
    return Vnf.model_validate(
        {
            "vnf": name,
            "primary": "site-a",
            "backup": "site-b",
            "store_at_active_site": "accepted",
            "members": [{"server": m} for m in members],
        }
    )


def has_ended(deployment: Deployment, run: str) -> RunRow | None:
    row = deployment.runs.get(run)
    return row if row.ended_at is not None else None


def through(wire: servers.Wire, url: str) -> str:
    """The URL of a database, by way of a wire."""
    return make_url(url).set(port=wire.port).render_as_string(hide_password=False)
