# SPDX-License-Identifier: Apache-2.0
"""A site comes back whose hypervisors start their guests again: the service sees two active copies
of the VNF, and fences the old one where the VNF file says so.
"""

from __future__ import annotations

import pytest

from antipode.sandbox import canary
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until
from tests.sandbox.test_schedule import PATIENCE_S, serving

pytestmark = pytest.mark.sandbox


def returned(world: World, on_return: str) -> None:
    """The VNF has failed over, and its old copy runs again at the site that was lost."""
    world.know(on_return=on_return)
    world.protect()
    world.sandbox.kill(PRIMARY)
    world.operator.tell("failover", "canary", "--to", BACKUP, "--yes")
    world.sandbox.start(PRIMARY)
    compute = world.cloud(PRIMARY).compute
    for server in compute.servers():
        compute.start_server(server)
    until(lambda: {s.status for s in compute.servers()} == {"ACTIVE"}, "the old copy runs")


def two_copies(world: World) -> object:
    return world.operator.ask("vnf", "show", "canary").get("two_active_copies")


def test_a_returning_copy_is_fenced_by_the_service_and_the_active_one_works_on(
    own_world: World,
) -> None:
    returned(own_world, "fence")
    with serving(own_world):
        until(
            lambda: all(
                (s.status, s.is_locked) == ("SHUTOFF", True)
                for s in own_world.cloud(PRIMARY).compute.servers()
            ),
            "the old copy is off and locked",
            PATIENCE_S,
        )
        until(lambda: not two_copies(own_world), "one copy is active", PATIENCE_S)
    cloud = own_world.cloud(PRIMARY)
    ports = [p for s in cloud.compute.servers() for p in cloud.network.ports(device_id=s.id)]
    assert [p.is_admin_state_up for p in ports] == [False] * 3
    (fence,) = [r for r in own_world.operator.ask("run", "list") if r["kind"] == "fence"]
    assert fence["state"] == "succeeded"
    canary.await_records(own_world.sandbox, BACKUP, 5)


def test_without_that_line_the_service_says_it_and_changes_nothing(own_world: World) -> None:
    returned(own_world, "alarm")
    with serving(own_world):
        until(lambda: two_copies(own_world), "two active copies are seen", PATIENCE_S)
    assert {s.status for s in own_world.cloud(PRIMARY).compute.servers()} == {"ACTIVE"}
    assert [r for r in own_world.operator.ask("run", "list") if r["kind"] == "fence"] == []
