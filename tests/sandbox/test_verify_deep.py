# SPDX-License-Identifier: Apache-2.0
"""A deep verification compares every block of every volume, names the first that differs, and
leaves nothing behind.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from antipode.sandbox import blocks, canary
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until
from tests.sandbox.test_zero_blocks import zero_a_mebibyte

pytestmark = pytest.mark.sandbox
DEEP = ("recovery-point", "verify", "canary", "--deep")
AT = (5 << 20) + 17


def stored(world: World) -> set[str]:
    """The names of all objects of backups in the store."""
    store = world.cloud(f"{BACKUP}-backup").object_store
    return {o.name for o in store.objects("volumebackups")}


def expect_nothing_left(world: World, objects: set[str]) -> None:
    cloud = world.cloud(BACKUP)
    assert list(cloud.block_storage.volumes()) == []
    assert not [b for b in cloud.block_storage.backups() if b.volume_id not in known(world)]
    assert stored(world) == objects


def known(world: World) -> set[str]:
    """The ids of the VNF's volumes."""
    return {v.id for v in world.cloud(PRIMARY).block_storage.volumes()}


def of_volumes(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings about volumes that were restored."""
    return [f for f in findings if "compared" in f["detail"] or "captured" in f["detail"]]


@pytest.mark.parametrize("skips_zeros", [False, True], ids=["faithful", "skips zeros"])
def test_what_comes_back_is_compared_and_nothing_is_left(
    own_world: World, skips_zeros: bool
) -> None:
    zero_a_mebibyte(own_world)
    own_world.protect()
    objects = stored(own_world)
    own_world.conditions(BACKUP, skips_zeros=skips_zeros)
    findings = own_world.operator.ask(*DEEP)
    assert all(f["ok"] for f in findings)
    compared = of_volumes(findings)
    assert len(compared) == 6
    assert all(f["bytes"] and f["first_difference"] is None for f in compared)
    expect_nothing_left(own_world, objects)
    assert own_world.newest_run()["state"] == "succeeded"
    own_world.protect()  # nothing of it is in the way of the next one


def test_the_first_block_that_differs_is_named(own_world: World) -> None:
    own_world.protect()
    objects = stored(own_world)
    stuck = own_world.fault(BACKUP, r"^backup\.create$", "stuck", times=None)
    with own_world.meanwhile(*DEEP, "-f", "json") as await_end:
        until(lambda: own_world.struck(BACKUP), "a throw-away volume is being backed up")
        [volume] = [
            v for v in own_world.cloud(BACKUP).block_storage.volumes() if v.status == "backing-up"
        ]
        blocks.write(canary.path_of_volume(own_world.sandbox, BACKUP, volume.id), AT, b"?")
        own_world.sandbox.ask(BACKUP, "DELETE", f"/faults/{stuck}")
        done = await_end()
    assert done.returncode == 1, done.stderr
    [wrong] = [f for f in json.loads(done.stdout) if not f["ok"]]
    assert wrong["volume"] == volume.name
    assert wrong["first_difference"] == AT - AT % (64 << 10)
    run = own_world.newest_run()
    assert run["state"] == "failed"
    expect_nothing_left(own_world, objects)


@pytest.mark.rest
def test_a_verification_gives_way_to_a_failover(own_world: World) -> None:
    held = own_world.protect_and_look()
    stuck = own_world.fault(BACKUP, r"^backup\.create$", "stuck", times=None)
    with own_world.meanwhile(*DEEP) as await_end:
        until(lambda: own_world.struck(BACKUP), "a throw-away volume is being backed up")
        own_world.sandbox.kill(PRIMARY)
        own_world.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
        own_world.sandbox.ask(BACKUP, "DELETE", f"/faults/{stuck}")
        assert await_end().returncode != 0
    from tests.sandbox.test_failover_failures import expect_one_of_everything

    expect_one_of_everything(own_world, held)
