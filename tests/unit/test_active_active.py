# SPDX-License-Identifier: Apache-2.0
"""The example for stores that are written at each site, with tools that print as documented."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = (
    Path(__file__).parents[2] / "examples" / "datastores" / "active_active" / "antipode_active.py"
)
NODES = "Datacenter: dc1\n--  Address\nUN  10.0.0.1  1 MiB\nDatacenter: dc2\n{}N  10.0.0.2  1 MiB\n"
SYNC = """          realm r
  metadata sync syncing
                full sync: 0/64 shards
      data sync source: 6a74 (a)
                        syncing
                        full sync: {}/128 shards
                        incremental sync: 128/128 shards
                        {}
"""
CAUGHT_UP = "data is caught up with source"
BEHIND = (
    "data is behind on 3 shards\n oldest incremental change not applied:"
    " 2026-11-30T19:40:00.000000+0000 [12]"
)
BEHIND_MS = 1_796_067_600_000


@pytest.fixture
def tools(tmp_path: Path) -> Any:
    def prints(name: str, output: str, code: int = 0) -> None:
        program = tmp_path / name
        (tmp_path / f"{name}.out").write_text(output)
        program.write_text(f"#!/bin/sh\ncat {tmp_path / name}.out\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    prints.folder = tmp_path  # type: ignore[attr-defined]
    return prints


def ask(tools: Any, store: str, **request: Any) -> tuple[int, Any]:
    ended = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), store],
        input=json.dumps({"version": 1, **request}),
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{tools.folder}:/usr/bin:/bin",
            "CASSANDRA_KEYSPACES": "cdr,billing",
            "STORE_REFERENCE": "10.1.0.5:9042",
        },
    )
    return ended.returncode, json.loads(ended.stdout) if ended.returncode == 0 else ended.stderr


def repairs(**began: str) -> str:
    rows = [
        {
            "keyspace_name": name,
            "started_at": at,
            "finished_at": None if at.endswith("01Z") else at,
            "exception_message": None,
        }
        for name, at in began.items()
    ]
    return " [json]\n---\n" + "".join(f"  {json.dumps(row)}\n" for row in rows)


def test_cassandra_has_reached_what_was_written_before_the_older_of_its_last_repairs(
    tools: Any,
) -> None:
    tools("nodetool", NODES.format("U"))
    done = {"cdr": "2026-11-30 19:40:00.000Z", "billing": "2026-11-30 19:50:00.000Z"}
    tools("cqlsh", repairs(**done))
    _, found = ask(tools, "cassandra", verb="status", position=str(BEHIND_MS))
    assert (found["health"], found["reached"]) == ("replicating", True)
    assert found["position"] == str(BEHIND_MS)
    _, found = ask(tools, "cassandra", verb="status", position=str(BEHIND_MS + 1))
    assert found["reached"] is False


@pytest.mark.parametrize(
    ("node", "began", "health"),
    [
        ("D", "2026-11-30 19:40:00.000Z", "stopped"),
        ("U", "2026-11-30 19:40:00.001Z", "first-sync"),
    ],
    ids=["a node is down", "a repair has not ended"],
)
def test_cassandra_is_no_copy_without_all_nodes_and_a_repair_of_each_keyspace(
    tools: Any, node: str, began: str, health: str
) -> None:
    tools("nodetool", NODES.format(node))
    tools("cqlsh", repairs(cdr="2026-11-30 19:40:00.000Z", billing=began))
    _, found = ask(tools, "cassandra", verb="status", position="1")
    assert found["health"] == health


@pytest.mark.parametrize(
    ("full", "says", "health", "reached"),
    [
        ("0", CAUGHT_UP, "replicating", True),
        ("0", BEHIND, "replicating", False),
        ("0", "data is behind on 3 shards", "replicating", False),
        ("5", CAUGHT_UP, "first-sync", False),
        ("0", "failed to fetch datalog info", "stopped", False),
    ],
)
def test_a_gateway_has_reached_what_its_zone_has_applied(
    tools: Any, full: str, says: str, health: str, reached: bool
) -> None:
    tools("radosgw-admin", SYNC.format(full, says))
    position = BEHIND_MS - 59_999 if says is BEHIND else int(time.time() * 1000) - 61_000
    _, found = ask(tools, "rgw", verb="status", position=str(position))
    assert (found["health"], found["reached"]) == (health, reached)


def test_a_moment_that_the_log_may_not_have_yet_is_not_reached(tools: Any) -> None:
    tools("radosgw-admin", SYNC.format("0", CAUGHT_UP))
    _, made = ask(tools, "rgw", verb="point")
    _, found = ask(tools, "rgw", verb="status", position=made["position"])
    assert found["reached"] is False


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"verb": "promote"}, 1),
        ({"verb": "status", "position": "no number"}, 1),
        ({"verb": "status", "version": 0}, 1),
        ({"verb": "status"}, 75),
    ],
)
def test_what_cannot_be_done_has_an_exit_code_of_its_own(
    tools: Any, request_: dict[str, Any], code: int
) -> None:
    tools("radosgw-admin", "", code=1)
    assert ask(tools, "rgw", **request_)[0] == code
    assert ask(tools, "rgw", verb="reference") == (0, {"version": 1, "reference": "10.1.0.5:9042"})
