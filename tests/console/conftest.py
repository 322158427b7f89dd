# SPDX-License-Identifier: Apache-2.0
"""Two embedded sites, a service with the console, and a browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from ruamel.yaml import YAML

from antipode.sandbox import canary, desk
from antipode.sandbox.demo import Operator
from antipode.sandbox.store import StoreSettings
from antipode.sandbox.supervision import SITES, STORE, Sandbox
from tests.console.browser import Browser
from tests.ports import free_port

LATENCY = 0.02


class Desk:
    """The sites, the operator's files, and where the console answers."""

    def __init__(self, directory: Path) -> None:
        self.sandbox, self.third = Sandbox(directory / "sites"), Sandbox(directory / desk.THIRD)
        self.third.up(LATENCY, [STORE])
        store = StoreSettings(auth_url=self.third.settings(STORE).auth_url)
        self.sandbox.up(LATENCY, store=store)
        self.operator = Operator(self.sandbox.directory)
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lay_out(self) -> None:
        """Write the operator's files, and have the VNF run at its primary."""
        desk.write(self.sandbox, self.third)
        path = self.sandbox.directory / desk.CONFIGURATION
        yaml = YAML()
        content = yaml.load(path)
        content["api"] = desk.api(self.port)
        content["readiness"] = {"every": "60s"}
        yaml.dump(content, path)
        canary.create(self.sandbox, SITES[0])

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A service, as an operator starts it, while the block runs."""
        log = (self.sandbox.directory / "serve.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "antipode.cli.main", "serve"],
            env=self.operator.environment(),
            cwd=self.sandbox.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            canary.await_that(self._answers, "the console answers", 60, 0.05)
            yield
        finally:
            process.terminate()
            process.wait(120)
            log.close()

    def _answers(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{self.url}/console/login", timeout=5).ok
            except requests.ConnectionError:
                return False


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    try:
        made.lay_out()
        with made.serving():
            yield made
    finally:
        for one in (made.sandbox, made.third):
            one.down()


@pytest.fixture
def browser(laid: Desk) -> Iterator[Browser]:
    made = Browser(laid.url)
    try:
        yield made
    finally:
        made.quit()
