# SPDX-License-Identifier: Apache-2.0
"""The service protects a VNF by the schedule in its file, with real bytes, and tells of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.sandbox.conftest import World, until

PATIENCE_S = 600
SCHEDULED = {
    "rpo": "1h",
    "protections": {
        "option": "quiesced-snapshot",
        "quiesce": {"timeout": "120s"},
        "schedule": {"every": "1m"},
    },
}


@contextmanager
def serving(world: World) -> Iterator[None]:
    """The service, until it is stopped as systemd stops it."""
    with world.operator.begin("serve") as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told


def ended(world: World) -> list[str]:
    """The points of whose protections the end is in the log, once no run is open."""
    log = world.sandbox.directory / "events.jsonl"
    if not log.exists() or world.newest_run()["state"] in ("queued", "running"):
        return []
    told = [json.loads(line) for line in log.read_text().splitlines()]
    return [e["data"]["recovery_point"] for e in told if e["type"] == "dr.protect.end"]


def test_the_service_protects_by_schedule_until_it_is_paused_and_tells_of_each_point(
    own_world: World,
) -> None:
    configuration = own_world.sandbox.directory / "antipode.yaml"
    log = own_world.sandbox.directory / "events.jsonl"
    configuration.write_text(f"{configuration.read_text()}\nevents: {{log: {log}}}\n")
    own_world.know(**SCHEDULED)
    with serving(own_world):
        until(own_world.points, "a point is made by the schedule", PATIENCE_S)
        own_world.operator.tell("protection", "pause", "canary", "--reason", "enough")
        # a second slot may have begun before the pause
        until(lambda: ended(own_world) == own_world.points(), "each end is told", PATIENCE_S)
    assert own_world.frozen() == set()
    own_world.verify()
    runs = [r for r in own_world.operator.ask("run", "list") if r["kind"] == "protect"]
    assert {run["state"] for run in runs} == {"succeeded"}
    [protection] = own_world.operator.ask("protection", "list", "canary")
    assert (protection["last_run"], protection["reason"]) == (runs[0]["run"], "enough")
    assert own_world.operator.ask("vnf", "list")[0]["rpo"] == "met"
