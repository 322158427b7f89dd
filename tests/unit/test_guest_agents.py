# SPDX-License-Identifier: Apache-2.0
"""Guest agents are asked by an unquiesce, and none whose server may be frozen."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.model.topology import Topology
from antipode.operations import site_check
from antipode.protect import guest_agents
from antipode.protect.option import Protecting
from antipode.topology.discovery import discover
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, FakeLedger
from tests.unit.test_durable_runs import World, world
from tests.unit.test_server_snapshot import NEVER, vnf

__all__ = ["world"]


class Scene:
    """A VNF whose guest agents are asked."""

    def __init__(self) -> None:
        self.cloud, self.ledger = FakeCloud(), FakeLedger()

    @property
    def topology(self) -> Topology:
        return discover(vnf(), self.cloud.site)

    def protecting(self, **changes: Any) -> Protecting:
        return parts.protecting(self.cloud, vnf(), "protect-1", ledger=self.ledger, **changes)

    def asked(self, **changes: Any) -> list[str]:
        assert list(guest_agents.problems(self.protecting(**changes), self.topology)) == []
        asked = [e.split() for e in self.cloud.events if e.startswith("unquiesce")]
        return sorted(server for _, server in asked)


def test_each_guest_that_is_not_frozen_is_asked() -> None:
    assert Scene().asked() == ["app", "db", "front"]


def test_a_guest_that_nova_has_frozen_for_an_image_is_not_asked() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.cloud.site.compute.create_image("id-db", "somebody's", {}, 60.0)
    assert scene.asked() == ["app", "front"]
    assert scene.cloud.all_frozen == {"id-db"}


def test_a_guest_that_another_process_is_about_to_freeze_is_not_asked() -> None:
    scene = Scene()
    scene.ledger.freezing("site-a", "id-db", "db", 60.0)
    assert scene.asked() == ["app", "front"]


def test_no_guest_is_asked_while_another_run_protects_the_vnf() -> None:
    assert Scene().asked(asks_guests=False) == []


@pytest.mark.parametrize("is_protected", [True, False])
def test_a_check_of_sites_asks_no_guest_of_a_vnf_that_is_being_protected(
    world: World, is_protected: bool
) -> None:
    if is_protected:
        run = world.die_in("protect")
    world.a.events.clear()
    found = list(site_check._check_vnf(world.here, world.a.site, world.here.vnfs.get("v")))
    asked = [event for event in world.a.events if event.startswith("unquiesce")]
    assert bool(asked) is not is_protected
    assert any(is_protected and run in check.detail for check in found) is is_protected
