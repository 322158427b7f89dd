# SPDX-License-Identifier: Apache-2.0
"""Two embedded sites where the example VNF runs, and an operator who knows only antipode's
command line.
"""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import blocks, canary, desk
from antipode.sandbox.guests import RECORDS_END
from antipode.sandbox.supervision import Sandbox
from tests.sandbox import forked

PRIMARY, BACKUP = "site-a", "site-b"
LATENCY = 0.3


class World:
    """A sandbox and what a test does with it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.operator = forked.Operator(sandbox.directory)

    # ---- what goes wrong ----

    def fault(self, site: str, on: str, effect: str, **more: Any) -> str:
        """Make something go wrong; the id of the rule."""
        return str(
            self.sandbox.ask(site, "POST", "/faults", {"on": on, "effect": effect, **more})["id"]
        )

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
            self.conditions(
                site,
                clock_skew_s=0,
                store_capacity=None,
                skips_zeros=False,
                consistent_groups=False,
                replication_target=None,
            )

    # ---- what the operator does ----

    def know(self, **changes: Any) -> None:
        """Give antipode the VNF's file, with other values where a test wants them; by itself a
        window lasts long enough to do things in.
        """
        path = self.sandbox.directory / "vnf.yaml"
        YAML().dump(desk.vnf(self.sandbox) | quiesced_within(120) | changes, path)
        self.operator.tell("vnf", "add", str(path))

    def protect(self) -> Any:
        return self.operator.ask("protect", "canary")

    def points(self) -> list[str]:
        return [point["id"] for point in self.operator.ask("recovery-point", "list", "canary")]

    def verify(self) -> None:
        self.operator.tell("recovery-point", "verify", "canary")

    @contextmanager
    def meanwhile(
        self, *arguments: str
    ) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
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

    def newest_run(self) -> dict[str, Any]:
        """As `antipode run list` has it."""
        return dict(self.operator.ask("run", "list")[0])

    def backups(self, site: str = PRIMARY) -> dict[str, str]:
        return {b.id: b.status for b in self.cloud(site).block_storage.backups(details=True)}

    def held(self, site: str) -> Held:
        """What the volumes of the VNF hold at this moment, read behind OpenStack's back."""
        elsewhere, compute = {}, self.cloud(site).compute
        for server in compute.servers():
            for attached in compute.volume_attachments(server):
                begin = RECORDS_END if attached.device == "/dev/vdb" else 0
                elsewhere[server.name, attached.device] = digest(
                    canary.path_of_volume(self.sandbox, site, attached.volume_id), begin
                )
        return Held(canary.records(self.sandbox, site), elsewhere)

    @contextmanager
    def protecting(self) -> Iterator[Callable[[], subprocess.CompletedProcess[str]]]:
        """A protection beside the block, in its window: all members are frozen and no snapshot gets
        ready, until the end is awaited.
        """
        stuck = self.fault(PRIMARY, r"^snapshot\.create$", "stuck", times=None)
        with self.meanwhile("protect", "canary") as await_end:

            def end() -> subprocess.CompletedProcess[str]:
                self.sandbox.ask(PRIMARY, "DELETE", f"/faults/{stuck}")
                return await_end()

            try:
                until(
                    lambda: len(self.frozen()) == 3 and self.struck(PRIMARY),
                    "snapshots of frozen members are being made",
                )
                yield end
            finally:
                self.sandbox.ask(PRIMARY, "DELETE", f"/faults/{stuck}")

    def protect_and_look(self) -> Held:
        """Make a recovery point; what the volumes held while their members were frozen."""
        canary.fill(self.sandbox, PRIMARY, 1)
        with self.protecting() as end:
            held = self.held(PRIMARY)
            assert len(self.frozen()) == 3, (
                "it took longer than the quiesce timeout to read what the frozen members held"
            )
            done = end()
        assert done.returncode == 0, done.stderr
        return held


def quiesced_within(seconds: float) -> dict[str, Any]:
    """The protections of a VNF file whose members may be frozen for so long."""
    return {"protections": {"option": "quiesced-snapshot", "quiesce": {"timeout": f"{seconds}s"}}}


@dataclass(frozen=True)
class Held:
    """The bytes of all volumes of the VNF, but for the header in which each member counts its
    starts.
    """

    records: Mapping[str, bytes]
    elsewhere: Mapping[tuple[str, str], str]
    """(server, device) -> digest"""


def digest(volume: Path, begin: int) -> str:
    """Of all that is not zero in a volume, from an offset on."""
    found, piece = hashlib.sha256(), 64 << 10
    with blocks.Image(volume) as image:
        for offset in range(begin, image.size, piece):
            if not image.is_hole(offset, piece) and (data := image.read(offset, piece)).strip(
                b"\0"
            ):
                found.update(b"%d:" % offset + data)
    return found.hexdigest()


def until(holds: Callable[[], Any], what: str, patience_s: float = 120) -> None:
    canary.await_that(lambda: bool(holds()), what, patience_s, 0.02)


def await_thaw(world: World, longest_s: float) -> None:
    until(lambda: not world.frozen(), "no member is frozen", longest_s)


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
