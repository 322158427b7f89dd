# SPDX-License-Identifier: Apache-2.0
"""A plan on embedded sites: three VNFs of one member each, with their active site destroyed."""

from __future__ import annotations

import signal

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import desk
from tests.sandbox.conftest import BACKUP, PRIMARY, World, quiesced_within, until

pytestmark = pytest.mark.sandbox
VNFS = ("db", "app", "front")


def know(world: World) -> None:
    """Each member of the example is a VNF of its own, with a recovery point; a plan is in the
    vault.
    """
    whole = desk.vnf(world.sandbox)
    world.operator.tell("vnf", "remove", "canary", "--yes")
    for name, member in zip(VNFS, whole["members"], strict=True):
        alone = {k: v for k, v in member.items() if not k.startswith("boot_")}
        path = world.sandbox.directory / f"{name}.yaml"
        YAML().dump(whole | quiesced_within(120) | {"vnf": name, "members": [alone]}, path)
        world.operator.tell("vnf", "add", str(path))
        world.operator.tell("protect", name)
    groups = [{"name": "first", "vnfs": ["db"]}, {"name": "others", "vnfs": ["app", "front"]}]
    path = world.sandbox.directory / "plan.yaml"
    asks = {"name": "go", "before": "others", "on": "failover", "prompt": "Does the first work?"}
    YAML().dump({"plan": "p", "to": BACKUP, "groups": groups, "steps": [asks]}, path)
    world.operator.tell("plan", "put", str(path))


def states(world: World) -> dict[str, str]:
    """The states of the newest failover of the plan, and of the runs of its VNFs."""
    rows = world.operator.ask("run", "list", "--plan", "p")
    return {row["vnf"]: row["state"] for row in rows if "failover" in row["kind"]}


def servers(world: World) -> dict[str, str]:
    """Ids of the servers at the backup site, with their statuses."""
    return {s.id: s.status for s in world.cloud(BACKUP).compute.servers()}


def test_a_site_is_recovered_by_one_command_though_its_process_was_killed(
    own_world: World,
) -> None:
    world = own_world
    know(world)
    assert world.operator.ask("plan", "precheck", "p")["verdict"] in ("green", "yellow")
    world.sandbox.kill(PRIMARY)
    with world.operator.begin("plan", "failover", "p", "--yes") as process:
        until(lambda: states(world).get("plan:p") == "waiting for input", "it asks")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert states(world) == {"plan:p": "lost", "db": "succeeded"}
    (plan, *_) = world.operator.ask("run", "list", "--plan", "p")
    world.operator.tell("run", "answer", plan["run"], "go", "--yes")
    world.operator.tell("run", "resume", plan["run"])
    assert set(states(world)) == {"plan:p", *VNFS}
    assert set(states(world).values()) == {"succeeded"}
    recovered = servers(world)
    assert set(recovered.values()) == {"ACTIVE"}
    assert len(recovered) == 3
    again = world.operator.run("plan", "failover", "p", "--yes")
    assert again.returncode == 2  # nothing is left to be done
    assert servers(world) == recovered
