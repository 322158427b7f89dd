# SPDX-License-Identifier: Apache-2.0
"""A drill on embedded sites: the guests start on isolated networks from the captured bytes, nothing
of it is left, and the VNF at its active site does not notice.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from antipode.sandbox import desk
from antipode.sandbox.answer import ask
from antipode.sandbox.members import HTTP_PORT
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until

pytestmark = pytest.mark.sandbox
STARTED = "canary: * started, boot *, * records found"


def probed(world: World, text: str = STARTED, within: str = "1m") -> None:
    """Have the members probed by their consoles in a drill."""
    asked = {"console": text, "within": within}
    world.know(members=[{**m, "drill": asked} for m in desk.vnf(world.sandbox)["members"]])


def inventory(world: World) -> dict[str, set[str]]:
    """All that the project has at the backup site, asked with OpenStack's own client."""
    cloud = world.cloud(BACKUP)
    return {
        "servers": {s.id for s in cloud.compute.servers()},
        "volumes": {v.id for v in cloud.block_storage.volumes()},
        "ports": {p.id for p in cloud.network.ports()},
        "networks": {n.id for n in cloud.network.networks()},
        "subnets": {s.id for s in cloud.network.subnets()},
        "security groups": {g.id for g in cloud.network.security_groups()},
        "keypairs": {k.name for k in cloud.compute.keypairs()},
        "server groups": {g.id for g in cloud.compute.server_groups()},
        "objects": {
            o.name for o in world.cloud(f"{BACKUP}-backup").object_store.objects("volumebackups")
        },
    }


def answers(world: World, address: str) -> bool:
    """Whether a member answers from outside on an address at the backup site."""
    try:
        ask(world.sandbox.settings(BACKUP).url, address, HTTP_PORT)
    except OSError:
        return False
    return True


def result(world: World) -> dict[str, Any]:
    """Of the newest drill, as `run show` has it."""
    [newest, *_] = [r for r in world.operator.ask("run", "list") if r["kind"] == "drill"]
    return dict(world.operator.ask("run", "show", newest["run"]))


def test_a_drill_starts_the_captured_guests_and_leaves_nothing(own_world: World) -> None:
    probed(own_world)
    own_world.protect()
    before = inventory(own_world)
    with own_world.meanwhile("drill", "canary", "--yes", "-f", "json") as await_end:
        volumes = own_world.cloud(BACKUP).block_storage.volumes
        until(lambda: list(volumes()), "volumes of the drill are being restored")
        own_world.protect()
        done = await_end()
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["passed"] and record["leaks"] == []
    assert [a["ok"] for a in record["answers"]] == [True] * 3
    assert {c["ok"] for c in record["content"]} == {True}
    assert record["isolation"]["ports_of_others"] == 0
    assert inventory(own_world) == {**before, "objects": inventory(own_world)["objects"]}
    assert own_world.guests(BACKUP) == []
    assert [g["role"] for g in own_world.guests()] != []
    own_world.verify()


def test_a_drill_of_a_dead_site_needs_nothing_of_it_and_a_failover_follows(
    own_world: World,
) -> None:
    probed(own_world)
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    before = inventory(own_world)
    own_world.operator.tell("drill", "canary", "--yes")
    assert {**inventory(own_world), "objects": set()} == {**before, "objects": set()}
    own_world.operator.tell("drill", "canary", "--yes", "--keep", "1h")
    assert len(own_world.guests(BACKUP)) == 3
    for port in own_world.cloud(BACKUP).network.ports():
        for fixed in port.fixed_ips:
            assert not answers(own_world, fixed["ip_address"])
    own_world.operator.tell("failover", "canary", "--to", BACKUP, "--yes")
    assert len(own_world.guests(BACKUP)) == 6
    member = desk.vnf(own_world.sandbox)["members"][0]["server"]
    address = next(
        port.fixed_ips[0]["ip_address"]
        for server in own_world.cloud(BACKUP).compute.servers(name=f"^{member}$")
        for port in own_world.cloud(BACKUP).network.ports(device_id=server.id)
    )
    assert answers(own_world, address)
    own_world.operator.tell("drill", "cleanup", "canary", "--yes")
    servers = {s.name for s in own_world.cloud(BACKUP).compute.servers()}
    assert servers == {m["server"] for m in desk.vnf(own_world.sandbox)["members"]}
    assert len(own_world.guests(BACKUP)) == 3


@pytest.mark.rest
def test_a_member_that_does_not_start_fails_the_drill_and_nothing_is_left(world: World) -> None:
    probed(world, "never printed", within="1s")
    world.protect()
    before = inventory(world)
    done = world.operator.run("drill", "canary", "--yes", "-f", "json")
    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "drill-not-passed"
    assert [a["ok"] for a in result(world)["answers"]] == [False] * 3
    after = inventory(world)
    assert {**after, "objects": set()} == {**before, "objects": set()}


def test_a_plan_changes_nothing_and_names_the_networks(world: World) -> None:
    world.protect()
    before = inventory(world)
    plan = world.operator.ask("drill", "canary", "--plan")
    assert plan["networks"] and all(s["addresses"] for s in plan["servers"])
    assert world.operator.run("drill", "canary").returncode == 4  # nothing is typed
    assert inventory(world) == before
