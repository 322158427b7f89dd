# SPDX-License-Identifier: Apache-2.0
"""Standing volumes on embedded sites, with the mover in its own process: they follow each recovery
point, a failover takes them, an abort gives them back, a drill leaves them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from antipode.sandbox import canary, desk, records
from tests.movers import movers
from tests.sandbox.conftest import BACKUP, PRIMARY, World, quiesced_within, until
from tests.sandbox.test_api import serving
from tests.sandbox.test_failover_failures import FAILOVER, expect_one_of_everything

pytestmark = pytest.mark.sandbox


def standing(world: World) -> None:
    """Have the VNF's volumes stand at the backup site."""
    settings = quiesced_within(120)["protections"]
    world.know(protections=[{**settings, "standing": True}])


def there(world: World) -> Mapping[str, Any]:
    """The standing volumes by their ids."""
    return {v["volume"]: v for v in world.operator.ask("standing", "list", "canary")}


def roads(world: World, run: str) -> list[str]:
    """By which road each volume came in a recovery."""
    steps = world.operator.ask("run", "show", run)["steps"]
    return [s["result"]["road"] for s in steps if s["step"] == "take standing volume"]


def the_api_shows(world: World, stands: Mapping[str, Any]) -> None:
    """The same volumes are shown by the API, and brought to a point by a run that it begins."""
    with serving(world, "serve") as api:
        user = api.user(BACKUP, "operator")
        place = "/v1/vnfs/canary/standing"
        [status] = api.ask(user, "GET", place)["standing"]
        assert (status["state"], status["lag_s"]) == ("at the newest recovery point", 0.0)
        shown = api.ask(user, "GET", f"{place}_volumes?site={BACKUP}")["standing_volumes"]
        assert {one["volume"]: one["holds_backup"] for one in shown} == {
            id_: one["holds_backup"] for id_, one in stands.items()
        }
        asked = {"run": {"kind": "standing"}}
        run = api.ask(user, "POST", "/v1/vnfs/canary/runs", asked)["run"]
        result = api.carried_out(user, run)["result"]
        assert (result["volumes"], result["written_bytes"]) == (6, 0)


def test_a_failover_boots_from_volumes_that_stand_at_its_point(own_world: World) -> None:
    world = own_world
    standing(world)
    world.protect_and_look()
    first = world.operator.ask("standing", "apply", "canary")
    assert (first["volumes"], first["not_standing"], first["left"]) == (6, {}, [])
    held = world.protect_and_look()
    second = world.operator.ask("standing", "apply", "canary")
    assert 0 < second["written_bytes"] < first["written_bytes"]
    before = there(world)
    assert len(before) == 6
    shown = world.operator.ask("vnf", "show", "canary")["standing"][BACKUP]
    assert (shown["state"], shown["lag_s"]) == ("at the newest recovery point", 0.0)
    the_api_shows(world, before)
    world.sandbox.kill(PRIMARY)
    done = world.operator.ask(*FAILOVER)
    expect_one_of_everything(world, held)
    assert roads(world, done["run"]) == ["standing"] * 6
    volumes = list(world.cloud(BACKUP).block_storage.volumes())
    assert {v.id for v in volumes} == set(before)  # the very same
    assert not any(k.startswith("antipode:standing") for v in volumes for k in v.metadata)
    assert list(world.cloud(BACKUP).block_storage.snapshots()) == []


@pytest.mark.rest
def test_a_drill_leaves_what_stands_and_an_aborted_failover_gives_it_back(
    own_world: World,
) -> None:
    world = own_world
    members = [
        {**m, "drill": {"console": "canary: * started, boot *, * records found", "within": "2m"}}
        for m in desk.vnf(world.sandbox)["members"]
    ]
    protections = [{**quiesced_within(120)["protections"], "standing": True}]
    world.know(protections=protections, members=members)
    world.protect_and_look()
    world.operator.ask("standing", "apply", "canary")
    before = there(world)
    drilled = world.operator.ask("drill", "canary", "--yes")
    assert roads(world, drilled["run"]) == ["a clone of the standing volume"] * 6
    assert (drilled["passed"], there(world)) == (True, before)
    assert list(world.cloud(BACKUP).block_storage.snapshots()) == []
    world.fault(BACKUP, "^server.create$", "error", times=None)
    assert world.operator.run(*FAILOVER).returncode != 0
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    failed = world.newest_run()["run"]
    world.operator.ask("run", "abort", failed, "--yes")
    after = there(world)
    assert set(after) == set(before)
    assert {v["holds_backup"] for v in after.values()} == {None}  # servers may have written
    again = world.operator.ask("standing", "apply", "canary")
    assert (again["volumes"], again["left"]) == (6, [])
    assert there(world).keys() == before.keys()
    assert {v["holds_backup"] for v in there(world).values()} == {
        v["holds_backup"] for v in before.values()
    }
    removed = world.operator.ask("standing", "remove", "canary", "--yes")
    assert (removed["volumes"], removed["left"], there(world)) == (6, [], {})


def attached(world: World) -> list[str]:
    return [v.id for v in world.cloud(BACKUP).block_storage.volumes() if v.status == "in-use"]


def test_a_mover_that_is_stopped_and_lives_again_writes_nothing_that_a_failover_has(
    own_world: World,
) -> None:
    world = own_world
    standing(world)
    world.protect_and_look()
    world.operator.ask("standing", "apply", "canary")
    held = world.protect_and_look()
    data = world.fault(BACKUP, r"^object-store GET \S+-\d{5}$", "stuck", times=None)
    with world.operator.begin("standing", "apply", "canary") as command:
        until(lambda: world.struck(BACKUP), "the mover fetches what it is about to write")
        [mover] = movers(command.pid)
        os.kill(mover, signal.SIGSTOP)
        try:
            world.sandbox.ask(BACKUP, "DELETE", f"/faults/{data}")
            stopped = attached(world)
            assert stopped
            world.sandbox.kill(PRIMARY)
            done = world.operator.ask(*FAILOVER)
            used = {v.id for v in world.cloud(BACKUP).block_storage.volumes() if v.attachments}
            took = roads(world, done["run"])
            assert len(took) == 6
            assert not any(road.startswith("Cinder") for road in took), took
        finally:
            with suppress(ProcessLookupError):  # its run has killed it, as it did not end
                os.kill(mover, signal.SIGCONT)
        command.wait(120)
    serving = {
        a.volume_id
        for s in world.cloud(BACKUP).compute.servers()
        for a in world.cloud(BACKUP).compute.volume_attachments(s)
    }
    assert serving.isdisjoint(stopped)
    assert serving <= used
    canary.await_work(world.sandbox, BACKUP)
    now = world.held(BACKUP)
    assert now.elsewhere == held.elsewhere
    assert records.check(now.records).consistent
