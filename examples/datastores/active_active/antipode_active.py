#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verbs `status`, `reference` and `point` of antipode's driver `command` for stores that are
written at each site: `antipode_active.py cassandra` and `antipode_active.py rgw`.

A position is a moment, in milliseconds since 1970. Nothing is promoted, demoted or overwritten.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

NO_ANSWER = 75
WINDOW_MS = 60_000
"""For so long the gateway may not have noted a change in its log (rgw_data_log_window, twice)."""
FAILED = "failed to"
Json = dict[str, Any]


class NoAnswer(Exception):
    """What was asked cannot be reached."""


def said(*command: str) -> str:
    """What a command prints.

    Raises:
        NoAnswer: it fails.
    """
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise NoAnswer(f"{command[0]} ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
    return ended.stdout


def milliseconds(moment: str) -> int:
    """A moment with its zone, as `2026-11-30 19:40:00.000Z` or `…+0000`."""
    text = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", moment.strip().replace("Z", "+00:00"))
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def cassandra() -> Json:
    """All nodes are up and normal, and all that was written before the last whole repair is at each
    data centre.
    """
    nodes = re.findall(r"^([UD?][NLJM])\s+(\S+)", said("nodetool", "status"), re.MULTILINE)
    if not nodes:
        raise NoAnswer("nodetool lists no node")
    bad = [f"{address} is {state}" for state, address in nodes if state != "UN"]
    wanted = os.environ["CASSANDRA_KEYSPACES"].split(",")
    repaired = [since for since in map(repaired_until(), wanted) if since is not None]
    until = min(repaired) if len(repaired) == len(wanted) else None
    return {
        "health": "stopped" if bad else "replicating" if until is not None else "first-sync",
        "until": until,
        "detail": "; ".join(bad) or f"{len(nodes)} nodes are up",
    }


def repaired_until() -> Callable[[str], int | None]:
    """Keyspace -> when the newest repair of it began that has ended well."""
    rows: dict[str, int] = {}
    names = "keyspace_name, started_at, finished_at, exception_message"
    question = f"SELECT JSON {names} FROM system_distributed.parent_repair_history"
    for line in said("cqlsh", "-e", question).splitlines():
        if line.strip().startswith("{"):
            row = json.loads(line)
            if row["finished_at"] and not row["exception_message"]:
                began = milliseconds(row["started_at"])
                rows[row["keyspace_name"]] = max(began, rows.get(row["keyspace_name"], 0))
    return rows.get


def rgw() -> Json:
    """The gateway has all that the other zone had noted in its log."""
    data = said("radosgw-admin", "sync", "status").partition("data sync source")[2]
    if not data:
        raise NoAnswer("this zone has no source of data")
    now = int(time.time() * 1000)
    oldest = re.search(r"oldest incremental change not applied: (\S+)", data)
    filling = re.search(r"full sync: (\d+)/", data)
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    detail = "; ".join(lines[-2:])[:300]
    if FAILED in data:
        return {"health": "stopped", "until": None, "detail": detail}
    if filling is None or filling[1] != "0":
        return {"health": "first-sync", "until": None, "detail": detail}
    if oldest is None and "caught up with source" not in data:
        return {"health": "replicating", "until": None, "detail": detail}
    until = (milliseconds(oldest[1]) if oldest else now) - WINDOW_MS
    return {"health": "replicating", "until": until, "detail": detail}


STORES: dict[str, Callable[[], Json]] = {"cassandra": cassandra, "rgw": rgw}


def status(store: Callable[[], Json], position: str | None) -> Json:
    """How the data is here, and whether it has reached a position."""
    wanted = None if position is None else int(position)  # another one is refused
    found = store()
    until = found["until"]
    answer = {"health": found["health"], "detail": found["detail"]}
    if until is not None:
        answer["position"] = str(until)
        answer["lag_s"] = max(0.0, time.time() - until / 1000)
    if wanted is not None:
        answer["reached"] = until is not None and until >= wanted
    return answer


def answer(store: str, request: Json) -> Json:
    """The answer to a request.

    Raises:
        NoAnswer: the store does not answer.
        ValueError: the request is none of those that there are.
    """
    if request.get("version") != 1:
        raise ValueError("version 1 of the contract only")
    verb = request["verb"]
    if verb == "status":
        return status(STORES[store], request.get("position"))
    if verb == "reference":
        return {"reference": os.environ["STORE_REFERENCE"]}
    if verb == "point":
        return {"position": str(int(time.time() * 1000))}
    raise ValueError(f"no verb {verb}: the store is written at each site")


def main(arguments: list[str]) -> int:
    """One request; the exit code."""
    try:
        print(json.dumps({"version": 1, **answer(arguments[0], json.load(sys.stdin))}))
    except NoAnswer as error:
        print(error, file=sys.stderr)
        return NO_ANSWER
    except (ValueError, KeyError, IndexError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
