# SPDX-License-Identifier: Apache-2.0
"""A member that changes between its discovery and the end of the window makes no recovery point;
all are unquiesced, nothing is left, and the next protection has it as it is then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antipode.errors import AntipodeError
from antipode.vault import points
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]
ONCE = VNF.model_copy(update={"protections": VNF.protections[:1]})


def delete(cloud: FakeCloud) -> None:
    del cloud.servers["id-front"]


def resize(cloud: FakeCloud) -> None:
    flavor = cloud.servers["id-front"]["flavor"]
    cloud.servers["id-front"]["flavor"] = {**flavor, "original_name": "large", "vcpus": 4}


def rename(cloud: FakeCloud) -> None:
    cloud.servers["id-front"]["name"] = "back"


def rebuild(cloud: FakeCloud) -> None:
    cloud.servers["id-front"]["OS-EXT-SRV-ATTR:user_data"] = "bmV3"


def migrate(cloud: FakeCloud) -> None:
    cloud.servers["id-front"]["OS-EXT-SRV-ATTR:host"] = "compute-2"


def when_it_begins_to_freeze(cloud: FakeCloud, change: Callable[[FakeCloud], Any]) -> None:
    left = [change]

    def before(happening: str) -> None:
        if happening == "quiesce db" and left:
            left.pop()(cloud)

    cloud.before = before


@pytest.mark.parametrize("change", [delete, resize, rename, rebuild])
def test_a_member_that_changes_between_discovery_and_window_makes_no_point(
    world: World, change: Callable[[FakeCloud], Any]
) -> None:
    world.here.vnfs.put(ONCE)
    known = points.list_ids(world.here.vaults(), "v")
    backups = set(world.a.backups)
    when_it_begins_to_freeze(world.a, change)
    with pytest.raises(AntipodeError) as caught:
        world.protect()
    assert "front" in str(caught.value)
    assert points.list_ids(world.here.vaults(), "v") == known
    assert not world.a.frozen and not world.here.freezes.open()
    assert not world.a.snapshots and set(world.a.backups) == backups


@pytest.mark.parametrize("change", [resize, rebuild])
def test_the_next_protection_has_the_member_as_it_is_then(
    world: World, change: Callable[[FakeCloud], Any]
) -> None:
    world.here.vnfs.put(ONCE)
    when_it_begins_to_freeze(world.a, change)
    with pytest.raises(AntipodeError):
        world.protect()
    world.protect()
    front = points.read(world.here.vault, "v").topology.server("front")
    now = world.a.servers["id-front"]
    assert front.flavor.vcpus == now["flavor"]["vcpus"]
    assert front.user_data == now["OS-EXT-SRV-ATTR:user_data"]


def test_a_member_that_is_migrated_meanwhile_changes_nothing(world: World) -> None:
    world.here.vnfs.put(ONCE)
    known = len(points.list_ids(world.here.vaults(), "v"))
    when_it_begins_to_freeze(world.a, migrate)
    world.protect()
    assert len(points.list_ids(world.here.vaults(), "v")) == known + 1
