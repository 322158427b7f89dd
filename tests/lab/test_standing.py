# SPDX-License-Identifier: Apache-2.0
"""Standing volumes on two real sites, written by the mover through Cinder's attachments, os-brick
and librbd: they hold what Cinder restores byte by byte, also after a killed mover; a drill leaves
them, an abort gives them back, a failover boots from them; a mover that was stopped and lives again
writes into none that a server has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from antipode.sandbox.members import MEMBERS
from lab import canary, storage, wan
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.captured import content, expect_what_was_frozen, nothing_boots, protected
from tests.movers import movers

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(storage.missing), reason=storage.missing),
]
VNF = "canary"
VOLUMES = 2 * len(MEMBERS)
FAILOVER = ("failover", VNF, "--to", "site-b", "--yes")
STARTED = {"console": "canary: starts at", "within": "5m"}


@dataclass
class Standing:
    """The canary with standing volumes at its newest recovery point, and what was frozen in it."""

    desk: Desk
    points: list[dict[str, Any]]
    applied: list[dict[str, Any]]
    frozen_last: Mapping[str, int]
    boots: Mapping[str, int]


def settled(folder: Path, vnf_file: Callable[..., Path]) -> Desk:
    """A desk that keeps standing volumes of the canary, which has its first recovery point."""
    canary.remove(SITES["site-b"])
    canary.create(SITES["site-a"])
    desk = Desk(folder, f"antipode-test-{time.time_ns()}", has_mover=True)
    members = yaml.safe_load(EXAMPLE.read_text())["members"]
    protections = [{"option": "quiesced-snapshot", "quiesce": {"timeout": "60s"}, "standing": True}]
    file = vnf_file(members=[{**m, "drill": STARTED} for m in members], protections=protections)
    desk.tell("vnf", "add", str(file))
    return desk


def boots() -> dict[str, int]:
    return {role: member["boot"] for role, member in canary.state(SITES["site-a"]).items()}


def there(desk: Desk) -> Mapping[str, Any]:
    """The standing volumes by their ids."""
    return {v["volume"]: v for v in desk.ask("standing", "list", VNF)}


def held(desk: Desk) -> Mapping[str, str | None]:
    return {volume: v["holds_backup"] for volume, v in there(desk).items()}


def roads(desk: Desk, run: str) -> list[str]:
    """By which road each volume came in a recovery."""
    steps = desk.ask("run", "show", run)["steps"]
    return [s["result"]["road"] for s in steps if s["step"] == "take standing volume"]


@contextmanager
def writing(desk: Desk) -> Iterator[tuple[int, subprocess.Popen[str], list[str]]]:
    """An apply whose mover is stopped while it has volumes attached: the mover, the command, and
    these volumes.
    """
    cloud = identity.connect(SITES["site-b"], "antipode", PROJECT)
    command = desk.start(
        *("standing", "apply", VNF), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def attached() -> list[str]:
        return [v.id for v in cloud.block_storage.volumes() if v.status == "in-use"]

    mover = 0
    try:
        wait_until(lambda: bool(movers(command.pid)), "the mover runs", 300)
        [mover] = movers(command.pid)
        wait_until(lambda: bool(attached()), "the mover has attached a volume", 300, 0.05)
        os.kill(mover, signal.SIGSTOP)
        stopped = attached()
        assert stopped, "it has ended too early"
        yield mover, command, stopped
    finally:
        if mover and psutil.pid_exists(mover):
            os.kill(mover, signal.SIGCONT)
        if command.poll() is None:
            command.terminate()
        command.wait(300)


def killed_in_the_midst(desk: Desk) -> None:
    """Kill a mover that has volumes attached, and then the command that has begun it."""
    with writing(desk) as (mover, command, _):
        command.kill()
        os.kill(mover, signal.SIGKILL)


def restored(site: Site, backup: str) -> str:
    """The SHA-256 of what Cinder restores."""
    storage = identity.connect(site, "antipode", PROJECT).block_storage
    wanted = {"backup_id": backup, "size": 1, "name": f"{VNF}-restored"}
    answer = storage.post("/volumes", json={"volume": wanted}, microversion="3.47")
    answer.raise_for_status()
    made = storage.get_volume(answer.json()["volume"]["id"])
    storage.wait_for_status(made, "available", ["error"], interval=0.5, wait=600)
    try:
        return content(site, made.id)
    finally:
        storage.delete_volume(made)


@pytest.fixture(scope="module")
def standing(
    tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]
) -> Iterator[Standing]:
    desk = settled(tmp_path_factory.mktemp("standing"), vnf_file)
    try:
        first, _ = protected(desk, VNF)
        applied = [desk.ask("standing", "apply", VNF)]
        canary.fill(SITES["site-a"], 30)
        second, witness = protected(desk, VNF)
        killed_in_the_midst(desk)
        assert None in held(desk).values()
        applied.append(desk.ask("standing", "apply", VNF))
        yield Standing(desk, [first, second], applied, witness.frozen_last, boots())
    finally:
        canary.remove(SITES["site-b"])
        desk.run("standing", "remove", VNF, "--yes")


def test_standing_volumes_hold_what_cinder_restores_also_after_a_killed_mover(
    standing: Standing, site_a: Site, site_b: Site
) -> None:
    first, second = standing.applied
    assert [(a["volumes"], a["not_standing"], a["left"]) for a in (first, second)] == [
        (VOLUMES, {}, [])
    ] * 2
    now = held(standing.desk)
    assert len(now) == VOLUMES
    assert None not in now.values()
    with ThreadPoolExecutor(2) as pool:
        is_at_b = dict(zip(now, pool.map(lambda v: content(site_b, v), now), strict=True))
        restores = pool.map(lambda backup: restored(site_a, str(backup)), now.values())
        by_cinder = dict(zip(now, restores, strict=True))
    assert is_at_b == by_cinder
    cloud = identity.connect(site_b, "antipode", PROJECT)
    assert not [s for s in cloud.block_storage.snapshots() if s.volume_id in now]


def test_a_drill_boots_from_clones_and_leaves_what_stands(standing: Standing) -> None:
    before = there(standing.desk)
    drilled = standing.desk.ask("drill", VNF, "--yes")
    assert drilled["passed"] and drilled["leaks"] == []
    assert roads(standing.desk, drilled["run"]) == ["a clone of the standing volume"] * VOLUMES
    assert there(standing.desk) == before


def test_an_aborted_failover_gives_back_what_stands(standing: Standing, site_b: Site) -> None:
    before = held(standing.desk)
    with nothing_boots(site_b):
        assert standing.desk.run(*FAILOVER).returncode != 0
    [failed] = [
        r["run"] for r in standing.desk.ask("run", "list") if r["run"].startswith("failover")
    ]
    standing.desk.tell("run", "abort", failed, "--yes")
    assert roads(standing.desk, failed) == ["standing"] * VOLUMES
    assert held(standing.desk) == dict.fromkeys(before)  # servers might have written
    again = standing.desk.ask("standing", "apply", VNF)
    assert (again["volumes"], again["left"]) == (VOLUMES, [])
    assert held(standing.desk) == before


def test_a_failover_of_a_silent_site_boots_from_what_stands(
    standing: Standing, site_a: Site, site_b: Site
) -> None:
    before = there(standing.desk)
    wan.isolate(site_a)
    try:
        calls = wan.calls_to(site_a)
        done = standing.desk.ask(*FAILOVER)
        assert wan.calls_to(site_a) == calls
    finally:
        wan.rejoin(site_a)
    assert roads(standing.desk, done["run"]) == ["standing"] * VOLUMES
    assert served(site_b) == set(before)
    expect_what_was_frozen(site_b, standing.frozen_last, standing.boots)


def served(site: Site) -> set[str]:
    """The volumes that servers have."""
    compute = identity.connect(site, "antipode", PROJECT).compute
    return {a.volume_id for s in compute.servers() for a in compute.volume_attachments(s)}


def test_a_mover_that_was_stopped_and_lives_again_writes_nothing_that_a_server_has(
    tmp_path: Path, vnf_file: Callable[..., Path], site_a: Site, site_b: Site
) -> None:
    desk = settled(tmp_path / "desk", vnf_file)
    try:
        protected(desk, VNF)
        desk.ask("standing", "apply", VNF)
        canary.fill(site_a, 30)
        _, witness = protected(desk, VNF)
        began = boots()
        with writing(desk) as (mover, command, stopped):
            wan.isolate(site_a)
            try:
                done = desk.ask(*FAILOVER)
            finally:
                wan.rejoin(site_a)
            with suppress(ProcessLookupError):  # its run has killed it, as it did not end
                os.kill(mover, signal.SIGCONT)
            command.wait(300)
            assert not psutil.pid_exists(mover)
        took = roads(desk, done["run"])
        assert len(took) == VOLUMES
        assert not any(road.startswith("Cinder") for road in took), took
        assert served(site_b).isdisjoint(stopped)
        expect_what_was_frozen(site_b, witness.frozen_last, began)
    finally:
        canary.remove(site_b)
        desk.run("standing", "remove", VNF, "--yes")
