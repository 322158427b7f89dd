# SPDX-License-Identifier: Apache-2.0
"""A failover of a site that still answers, on embedded sites: its copy is fenced first, and the
failover is undone.
"""

from __future__ import annotations

import pytest

from antipode.sandbox import canary
from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_migrate import statuses

pytestmark = pytest.mark.sandbox


@pytest.mark.rest
def test_the_old_copy_is_fenced_first_and_works_again_once_that_is_undone(
    own_world: World,
) -> None:
    operator, sandbox = own_world.operator, own_world.sandbox
    canary.await_records(sandbox, PRIMARY, 3)
    own_world.protect()
    asked = ("failover", "canary", "--to", BACKUP, "--fence", "--undo-within", "1h", "--yes")
    assert operator.ask(*asked)["fence"]["not_fenced"] == []
    assert (statuses(own_world, PRIMARY), statuses(own_world, BACKUP)) == ({"SHUTOFF"}, {"ACTIVE"})
    assert all(s.is_locked for s in own_world.cloud(PRIMARY).compute.servers())
    canary.await_records(sandbox, BACKUP, 3)

    assert operator.ask("undo", "canary", "--yes")["generation"] == 3
    assert (statuses(own_world, PRIMARY), statuses(own_world, BACKUP)) == ({"ACTIVE"}, {"SHUTOFF"})
    cloud = own_world.cloud(PRIMARY)
    assert not any(s.is_locked for s in cloud.compute.servers())
    ports = [p for s in cloud.compute.servers() for p in cloud.network.ports(device_id=s.id)]
    assert all(p.is_admin_state_up for p in ports)
    canary.await_records(sandbox, PRIMARY, 10)
    (listed,) = operator.ask("vnf", "list")
    assert (listed["active_site"], listed["state"]) == (PRIMARY, "active")
