# SPDX-License-Identifier: Apache-2.0
"""Recoveries on embedded sites whose volumes the mover writes, where none stand: by this road or by
Cinder's restore, each volume is there once, with the bytes of its recovery point.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import psutil
import pytest
from ruamel.yaml import YAML

from antipode.sandbox import desk
from tests.sandbox.conftest import BACKUP, PRIMARY, Held, World, until
from tests.sandbox.test_failover_failures import FAILOVER, expect_nothing, expect_one_of_everything
from tests.sandbox.test_standing import movers

pytestmark = pytest.mark.sandbox
DATA = r"^object-store GET \S+-\d{5}$"


@pytest.fixture
def held(own_world: World) -> Held:
    """The mover restores, the VNF has chains of two backups, and its site is dead; what the newest
    recovery point has to bring back.
    """
    path = own_world.sandbox.directory / desk.CONFIGURATION
    known = YAML(typ="safe").load(path)
    known["sites"][BACKUP]["mover"] = {"restores": True}
    YAML().dump(known, path)
    own_world.protect_and_look()
    held = own_world.protect_and_look()
    own_world.sandbox.kill(PRIMARY)
    return held


def roads(world: World, run: str) -> Counter[str]:
    """How many volumes took each road, without the reasons."""
    steps = world.operator.ask("run", "show", run)["steps"]
    return Counter(
        s["result"]["road"].partition(":")[0] for s in steps if "road" in (s["result"] or {})
    )


def test_a_failover_restores_by_the_mover_and_by_cinder_what_that_cannot_attach(
    own_world: World, held: Held
) -> None:
    world = own_world
    world.fault(BACKUP, r"^block-storage POST /v3/attachments$", "error", status=400, times=1)
    done = world.operator.ask(*FAILOVER)
    expect_one_of_everything(world, held)
    # the sixth is seen in two steps: that in which the mover failed, and Cinder's
    assert roads(world, done["run"]) == {"written by the mover": 5, "Cinder's restore": 2}
    assert world.struck(BACKUP) == 1
    known = list(world.cloud(BACKUP).block_storage.backups())
    assert len({b.volume_id for b in known}) == 1  # no other record was imported


@pytest.mark.rest
def test_a_failover_that_was_killed_while_its_mover_was_stopped_is_resumed(
    own_world: World, held: Held
) -> None:
    world = own_world
    stuck = world.fault(BACKUP, DATA, "stuck", times=None)
    with world.operator.begin(*FAILOVER) as command:
        until(lambda: world.struck(BACKUP), "the mover fetches what it is about to write")
        stopped = [psutil.Process(pid) for pid in movers(command.pid)]
        assert stopped
        for mover in stopped:
            os.kill(mover.pid, signal.SIGSTOP)
        command.kill()
    try:
        world.sandbox.ask(BACKUP, "DELETE", f"/faults/{stuck}")
        done = world.operator.ask("run", "resume", world.newest_run()["run"])
        assert roads(world, done["run"])["written by the mover"] == 6
    finally:
        for mover in stopped:
            mover.send_signal(signal.SIGCONT)
    psutil.wait_procs(stopped, timeout=120)
    expect_one_of_everything(world, held)


@pytest.mark.rest
def test_an_aborted_failover_leaves_nothing_of_what_its_mover_has_begun(
    own_world: World, held: Held
) -> None:
    world = own_world
    stuck = world.fault(BACKUP, DATA, "stuck", times=None)
    with world.operator.begin(*FAILOVER) as command:
        until(lambda: world.struck(BACKUP), "the mover fetches what it is about to write")
        command.kill()
    world.sandbox.ask(BACKUP, "DELETE", f"/faults/{stuck}")
    world.operator.ask("run", "abort", world.newest_run()["run"], "--yes")
    expect_nothing(world)
