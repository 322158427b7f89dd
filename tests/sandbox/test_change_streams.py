# SPDX-License-Identifier: Apache-2.0
"""Change streams on embedded sites: a VNF is recovered from the changes that the storage names,
and from Cinder's backups where that went wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from antipode.cloud import site as cloud_site
from antipode.sandbox import desk
from antipode.sandbox.rbd import CONDITIONS
from antipode.transfer.change_streams import CONTAINER
from tests.sandbox.conftest import BACKUP, PRIMARY, World, quiesced_within
from tests.sandbox.test_failover_failures import FAILOVER, expect_one_of_everything

pytestmark = pytest.mark.sandbox


def streaming(world: World, **more: Any) -> None:
    """Have the VNF's volumes go by change streams."""
    settings = quiesced_within(120)["protections"]
    world.know(protections=[{**settings, "transfer": "change_stream", **more}])


def streamed(world: World, run: str) -> Any:
    """What a protection has streamed."""
    steps = world.operator.ask("run", "show", run)["steps"]
    [found] = [s["result"] for s in steps if s["step"] == "stream changes of volumes"]
    return found


def conditions(world: World, **changes: Any) -> None:
    path = Path(world.sandbox.directory) / PRIMARY / CONDITIONS
    path.write_text(json.dumps(changes))


def test_a_vnf_is_recovered_from_its_change_streams(own_world: World) -> None:
    world = own_world
    streaming(world)
    first = streamed(world, world.protect()["run"])
    assert (first["volumes"], first["incremental"], first["backed_up_instead"]) == (6, 0, {})
    before = set(world.snapshots())
    held = world.protect_and_look()
    second = streamed(world, world.newest_run()["run"])
    assert (second["volumes"], second["incremental"]) == (6, 6)
    assert second["bytes"] > 0
    assert len(before) == len(world.snapshots()) == 6  # those of the newest point
    assert before.isdisjoint(world.snapshots())
    assert world.backups() == {}
    world.verify()
    world.sandbox.kill(PRIMARY)
    world.operator.ask(*FAILOVER)
    expect_one_of_everything(world, held)


@pytest.mark.rest
def test_what_cannot_be_streamed_is_backed_up_by_cinder(own_world: World) -> None:
    world = own_world
    streaming(world)
    world.protect()
    conditions(world, export="cut")
    held = world.protect_and_look()
    found = streamed(world, world.newest_run()["run"])
    assert (found["volumes"], len(found["backed_up_instead"]), len(world.backups())) == (0, 6, 6)
    conditions(world)
    assert len(world.snapshots()) == 6  # at which the next streams begin
    again = streamed(world, world.protect()["run"])
    assert (again["volumes"], again["incremental"]) == (6, 6)
    fallen_back = world.points()[1]
    world.sandbox.kill(PRIMARY)
    world.operator.ask(*FAILOVER, "--recovery-point", fallen_back)
    expect_one_of_everything(world, held)


@pytest.mark.rest
def test_standing_volumes_follow_change_streams(own_world: World) -> None:
    world = own_world
    streaming(world, standing=True)
    world.protect()
    first = world.operator.ask("standing", "apply", "canary")
    assert (first["volumes"], first["not_standing"], first["left"]) == (6, {}, [])
    held = world.protect_and_look()
    second = world.operator.ask("standing", "apply", "canary")
    assert second["written_bytes"] > 0
    world.sandbox.kill(PRIMARY)
    done = world.operator.ask(*FAILOVER)
    expect_one_of_everything(world, held)
    steps = world.operator.ask("run", "show", done["run"])["steps"]
    taken = [s["result"]["road"] for s in steps if s["step"] == "take standing volume"]
    assert taken == ["standing"] * 6
    assert list(world.cloud(BACKUP).block_storage.snapshots()) == []


@pytest.mark.rest
def test_deltas_go_with_the_last_point_that_needs_them(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = own_world
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(world.sandbox.directory / desk.CLOUDS))
    store = cloud_site.connect_objects("store", f"{BACKUP}-backup")

    def stored() -> set[str]:
        """The deltas in the store."""
        return {o.name.rpartition("/")[0] for o in store.listing(CONTAINER, "canary/")}

    streaming(world, retention={"last": 1}, full_every=2)
    world.protect()
    first = stored()
    world.protect()  # rests on the first
    chain = stored()
    assert (len(first), len(chain), len(world.points())) == (6, 12, 1)
    world.protect()  # a new chain
    assert (len(stored()), stored() & chain, len(world.points())) == (6, set(), 1)
    assert len(world.snapshots()) == 6
    world.verify()
