# SPDX-License-Identifier: Apache-2.0
"""The embedded sites with a service that answers with the console, for a visit by browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from ruamel.yaml import YAML

from antipode.sandbox import canary, desk
from antipode.sandbox.demo import Operator
from antipode.sandbox.store import StoreSettings
from antipode.sandbox.supervision import SITES, STORE, Sandbox

STARTS_WITHIN_S = 120.0
ENDS_WITHIN_S = 120.0
LOG = "serve.log"


class Visit:
    """Two sites, object storage at a third place, the files of an operator, and a port."""

    def __init__(self, directory: Path, port: int, latency: float) -> None:
        """
        Args:
            directory: of the sites; see `Sandbox`.
            port: of loopback, at which the console answers.
            latency: of the sites, beside that of real ones.
        """
        self.sandbox, self.third = Sandbox(directory / "sites"), Sandbox(directory / desk.THIRD)
        self.operator = Operator(self.sandbox.directory)
        self._port, self._latency = port, latency

    @property
    def url(self) -> str:
        """Of the service; the console is below it."""
        return f"http://127.0.0.1:{self._port}"

    def lay_out(self) -> None:
        """Start the sites, write the files, and have the VNF run at its primary. The service is not
        there yet, and the VNF was not added to it.
        """
        self.third.up(self._latency, [STORE])
        store = StoreSettings(auth_url=self.third.settings(STORE).auth_url)
        self.sandbox.up(self._latency, store=store)
        desk.write(self.sandbox, self.third)
        path = self.sandbox.directory / desk.CONFIGURATION
        yaml = YAML()
        content = yaml.load(path)
        yaml.dump({**content, "api": desk.api(self._port), "readiness": {"every": "60s"}}, path)
        canary.create(self.sandbox, SITES[0])

    def down(self) -> None:
        """End the sites; what they hold stays."""
        for one in (self.sandbox, self.third):
            one.down()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A service, as an operator starts it, while the block runs."""
        with (
            (self.sandbox.directory / LOG).open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "antipode.cli.main", "serve"],
                env=self.operator.environment(),
                cwd=self.sandbox.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as service,
        ):
            try:
                canary.await_that(self._answers, "the console answers", STARTS_WITHIN_S, 0.05)
                yield
            finally:
                service.terminate()
                service.wait(ENDS_WITHIN_S)

    def _answers(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{self.url}/console/login", timeout=5).ok
            except requests.ConnectionError:
                return False
