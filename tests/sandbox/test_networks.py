# SPDX-License-Identifier: Apache-2.0
"""Networks and security groups come into being at the backup site as they were, when the VNF file
says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.created_networks import furnish, seen
from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_fidelity import Cloud, Json, boot, world

__all__ = ["world"]


def know(world: World, **changes: Any) -> None:
    world.know(
        vnf="messy",
        members=[{"server": "alone", "user_data": "keep"}],
        **{"map": {"volume_types": {"fast": "standard"}}, "networks": "create", **changes},
    )


@pytest.fixture
def protected(world: World) -> Iterator[tuple[World, Cloud, Json]]:
    """A VNF with a recovery point whose site is lost, its backup site, and what was at its own."""
    here, there = Cloud(world, PRIMARY), Cloud(world, BACKUP)
    boot(here, "alone", furnish(here))
    know(world)
    before = seen(here)
    world.operator.ask("protect", "messy")
    world.sandbox.kill(PRIMARY)
    yield world, there, before


def hows(planned: Json, kind: str) -> dict[str, str]:
    return {one["former"]: one["how"] for one in planned[kind]}


def test_networks_and_groups_are_created_once_and_as_they_were(
    protected: tuple[World, Cloud, Json],
) -> None:
    world, there, before = protected
    planned = world.operator.ask("failover", "messy", "--to", BACKUP, "--plan")
    assert hows(planned, "networks") == dict.fromkeys(("inside", "bare", "twin"), "created")
    assert hows(planned, "security_groups") == {"peers": "created", "web": "created"}
    assert seen(there) == {"networks": [], "groups": {}}
    world.fault(BACKUP, r"^server\.create$", "error")
    failed = world.operator.run("failover", "messy", "--to", BACKUP, "--yes")
    assert failed.returncode != 0
    made = there.names("/networks", "networks")
    world.operator.ask("failover", "messy", "--to", BACKUP, "--yes")
    assert there.names("/networks", "networks") == made
    assert seen(there) == before
    ports = {p["name"]: p for p in there.network("GET", "/ports")["ports"]}
    assert [f["ip_address"] for f in ports["member"]["fixed_ips"]] == ["10.20.0.2", "fd00:20::2"]
    assert ports["bare"]["fixed_ips"] == []
    homes = {n["id"]: n["description"] for n in there.network("GET", "/networks")["networks"]}
    twins = {name: homes[ports[name]["network_id"]] for name in ("twin-1", "twin-2")}
    assert twins == {"twin-1": "number 1", "twin-2": "number 2"}


@pytest.mark.rest
def test_an_aborted_recovery_leaves_none_of_them_and_those_that_are_there_are_used(
    protected: tuple[World, Cloud, Json],
) -> None:
    world, there, _before = protected
    know(world, networks="map")
    refused = world.operator.run("failover", "messy", "--to", BACKUP, "--plan")
    assert refused.returncode == 3
    know(world)
    networks = there.names("/networks", "networks")
    groups = there.names("/security-groups", "security_groups")
    world.fault(BACKUP, r"^server\.create$", "error", times=None)
    failed = world.operator.run("failover", "messy", "--to", BACKUP, "--yes")
    assert failed.returncode != 0
    assert len(there.names("/networks", "networks")) == len(networks) + 4
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    world.operator.tell("run", "abort", world.newest_run()["run"], "--yes")
    assert there.names("/networks", "networks") == networks
    assert there.names("/security-groups", "security_groups") == groups

    inside = there.make("network", "/networks", name="inside")["id"]
    for version, cidr in ((4, "10.20.0.0/24"), (6, "fd00:20::/64")):
        wanted = {"network_id": inside, "ip_version": version, "enable_dhcp": False, "cidr": cidr}
        there.make("subnet", "/subnets", **wanted)
    planned = world.operator.ask("failover", "messy", "--to", BACKUP, "--plan")
    (mapped,) = [n for n in planned["networks"] if n["former"] == "inside"]
    assert (mapped["how"], mapped["network_id"]) == ("mapped", inside)
    changed = " ".join(mapped["changes"])
    for word in ("DHCP", "10.20.0.254", "10.20.0.53", "192.0.2.0/24"):
        assert word in changed
    assert [w for w in planned["warnings"] if "10.20.0.254" in w]
