"""Two embedded sites with the example VNF at work, and an operator who knows only antipode's command line."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import canary, demo, desk
from antipode.sandbox.supervision import Sandbox

PRIMARY, BACKUP = "site-a", "site-b"
LATENCY = 0.3


class World:
    """A sandbox and what a test does with it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.operator = demo.Operator(sandbox.directory)

    # ---- what goes wrong ----

    def fault(self, site: str, on: str, effect: str, **more: Any) -> str:
        """Make something go wrong; the id of the rule."""
        return str(self.sandbox.ask(site, "POST", "/faults", {"on": on, "effect": effect, **more})["id"])

    def struck(self, site: str) -> int:
        """How often the faults of a site have struck: a fault that never did proves nothing."""
        return sum(int(rule["struck"]) for rule in self.sandbox.ask(site, "GET", "/faults"))

    def conditions(self, site: str, **changes: Any) -> None:
        self.sandbox.ask(site, "PUT", "/conditions", changes)

    def mend(self) -> None:
        """Both sites serve, with nothing wrong at either."""
        for site in (PRIMARY, BACKUP):
            self.sandbox.start(site)
            self.sandbox.rejoin(site)
            self.sandbox.ask(site, "DELETE", "/faults")
            self.conditions(site, clock_skew_s=0, store_capacity=None)

    # ---- what the operator does ----

    def know(self, **changes: Any) -> None:
        """Give antipode the VNF's file, with other values where a test wants them."""
        path = self.sandbox.directory / "vnf.yaml"
        YAML().dump(desk.vnf(self.sandbox) | changes, path)
        self.operator.tell("vnf", "add", str(path))

    def protect(self) -> Any:
        return self.operator.ask("protect", "canary")

    def points(self) -> list[str]:
        return [point["id"] for point in self.operator.ask("recovery-point", "list", "canary")]

    def verify(self) -> None:
        self.operator.tell("recovery-point", "verify", "canary")

    @contextmanager
    def meanwhile(self, *arguments: str) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
        """Run a command beside the block, which may await its end by calling what it is given."""
        done: list[subprocess.CompletedProcess[str]] = []
        thread = threading.Thread(target=lambda: done.append(self.operator.run(*arguments)))
        thread.start()

        def end() -> subprocess.CompletedProcess[str]:
            thread.join()
            return done[0]

        try:
            yield end
        finally:
            thread.join()

    # ---- what is so ----

    def guests(self, site: str = PRIMARY) -> list[dict[str, Any]]:
        return list(self.sandbox.ask(site, "GET", "/guests"))

    def frozen(self) -> set[str]:
        """The servers that are frozen now, asked beside their machine and not through OpenStack."""
        return {g["server"] for g in self.guests() if g["frozen"]}

    def cloud(self, site: str) -> Any:
        return canary.connect(self.sandbox, site)

    def snapshots(self) -> list[str]:
        return [s.id for s in self.cloud(PRIMARY).block_storage.snapshots()]

    def backups(self, site: str = PRIMARY) -> dict[str, str]:
        return {b.id: b.status for b in self.cloud(site).block_storage.backups(details=True)}


def until(holds: Callable[[], Any], what: str, patience_s: float = 30) -> None:
    canary.await_that(lambda: bool(holds()), what, patience_s, 0.02)


def frozen_for(world: World, longest_s: float) -> float:
    """Wait until nobody is frozen, and for how long that took."""
    began = time.monotonic()
    until(lambda: not world.frozen(), f"nobody is frozen after {longest_s:g} s", longest_s)
    return time.monotonic() - began


def make(directory: Path) -> World:
    sandbox = Sandbox(directory)
    sandbox.up(latency=LATENCY)
    try:
        desk.write(sandbox)
        canary.create(sandbox, PRIMARY)
    except BaseException:
        sandbox.down()
        raise
    return World(sandbox)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = make(tmp_path_factory.mktemp("shared"))
    yield world
    world.sandbox.down()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """Sites that tests share which leave them as they were."""
    shared.mend()
    shared.know()
    yield shared
    shared.mend()


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """Sites of a test's own, which it may destroy."""
    world = make(tmp_path / "own")
    world.know()
    yield world
    world.sandbox.down()
