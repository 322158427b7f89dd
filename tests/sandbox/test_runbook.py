# SPDX-License-Identifier: Apache-2.0
"""A runbook on embedded sites: a failover asks before it creates anything, is answered by another
process, and has commands done between the boots of its members.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from antipode.sandbox import desk
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until

pytestmark = pytest.mark.sandbox


def state(world: World) -> str:
    """Of the failover, once there is one."""
    return next((r["state"] for r in failovers(world)), "")


def failovers(world: World) -> list[dict[str, Any]]:
    return [r for r in world.operator.ask("run", "list") if r["kind"] == "failover"]


def test_a_failover_asks_is_answered_and_does_its_steps_in_their_places(own_world: World) -> None:
    first, second, _ = (m["server"] for m in desk.vnf(own_world.sandbox)["members"])
    log = own_world.sandbox.directory / "steps"
    note = ["sh", "-c", f'echo "$ANTIPODE_STEP $ANTIPODE_VERB {{site}}" >> {log}']
    steps: list[dict[str, Any]] = [
        {"name": "sure", "before": "all", "prompt": "Is the site lost?"},
        {"name": "is-there", "after": [first], "command": note},
        {"name": "rehearsed", "after": "all", "command": note, "on": "drill"},
        {"name": "serves", "after": "all", "prompt": {"message": "Ticket?", "answer": "text"}},
    ]
    own_world.know(steps=steps)
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    plan = own_world.operator.ask("failover", "canary", "--to", BACKUP, "--plan")
    assert [line.partition(",")[0] for line in plan["steps"]] == ["sure", "is-there", "serves"]
    # this host has no file any more: the steps are those of the signed point
    own_world.operator.tell("vnf", "remove", "canary", "--yes")
    arguments = ("failover", "canary", "--to", BACKUP, "--yes", "-f", "json")
    with own_world.meanwhile(*arguments) as await_end:
        until(lambda: state(own_world) == "waiting for input", "it asks")
        assert list(own_world.cloud(BACKUP).block_storage.volumes()) == []
        [run] = [r["run"] for r in failovers(own_world)]
        own_world.operator.tell("run", "answer", run, "sure", "--yes")
        until(
            lambda: "serves" in str(own_world.operator.ask("run", "show", run)["questions"]),
            "all members answer, and it asks again",
        )
        assert log.read_text() == f"is-there failover {BACKUP}\n"
        own_world.operator.tell("run", "answer", run, "--text", "INC-4711")
        done = await_end()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["generation"] == 2
    shown = own_world.operator.ask("run", "show", run)
    assert [q["answer"] for q in shown["questions"]] == ["yes", "INC-4711"]
    assert second in shown["servers"]
    assert len(own_world.guests(BACKUP)) == 3
