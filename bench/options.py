# SPDX-License-Identifier: Apache-2.0
"""The cost of option 2 beside option 1 on embedded sites: calls, snapshots, images, seconds, bytes.

`python -m bench.options` protects a pair of members twice by each option, and once more a pair of
which one boots from an image, and counts the second, incremental recovery point.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from antipode.sandbox import canary, demo, desk
from antipode.sandbox.creation import Creation
from antipode.sandbox.members import PAIR
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import SITES, Sandbox

REPORT = Path("build") / "options.json"
LATENCY = 1.0
"""Of the embedded sites: each call and what comes after it takes about a quarter of the lab's."""
CASES = (
    ("quiesced-snapshot", False),
    ("server-snapshot", False),
    ("server-snapshot", True),
)
"""The option, and whether one member boots from an image."""
COUNTED = {
    "create_image": r"compute POST .*/action createImage",
    "snapshot_calls": r"block-storage POST /v3/[^ ]*snapshots",
    "quiesce": r"compute POST .*/action quiesce",
    "unquiesce": r"compute POST .*/action unquiesce",
    "glance_calls": r"image ",
}
"""The calls at both sites that are shown by themselves, by how their names begin."""


def cases() -> Iterator[dict[str, Any]]:
    """The cost of the incremental recovery point of each case."""
    for from_image in (False, True):
        with tempfile.TemporaryDirectory(prefix="antipode-options-") as folder:
            sandbox = Sandbox(Path(folder))
            sandbox.up(latency=LATENCY)
            try:
                operator = _furnish(sandbox, from_image)
                for option, boots in CASES:
                    if boots == from_image:
                        yield _measured(sandbox, operator, option, from_image)
            finally:
                sandbox.down()


def _furnish(sandbox: Sandbox, from_image: bool) -> demo.Operator:
    desk.write(sandbox)
    members = (PAIR[0], replace(PAIR[1], boots_from_image=from_image))
    Creation(
        canary.connect(sandbox, f"{SITES[0]}-tenant"),
        SITES[0],
        IMAGE,
        canary.PERIOD_MS,
        lambda server: None,
        canary.PATIENCE_S,
        interval_s=0.1,
        members=members,
    ).run()
    quiesce = {"timeout": "120s"}
    file = {
        **desk.vnf(sandbox),
        "members": [{"server": m.server, "role": str(m.name)} for m in members],
        "protections": [
            {"option": "quiesced-snapshot", "quiesce": quiesce},
            {"option": "server-snapshot", "quiesce": {**quiesce, "required": not from_image}},
        ],
    }
    path = sandbox.directory / "pair.yaml"
    YAML().dump(file, path)
    operator = demo.Operator(sandbox.directory)
    operator.tell("vnf", "add", str(path))
    return operator


def _measured(
    sandbox: Sandbox, operator: demo.Operator, option: str, from_image: bool
) -> dict[str, Any]:
    operator.ask("protect", "canary", "--option", option)
    for site in SITES:
        sandbox.ask(site, "DELETE", "/calls")
    began = time.monotonic()
    record = operator.ask("protect", "canary", "--option", option)
    seconds = time.monotonic() - began
    calls = [sandbox.ask(site, "GET", "/calls") for site in SITES]
    frozen = record["quiesce_window_per_member_s"]
    return {
        "option": option,
        "from_image": from_image,
        "consistency": record["consistency"],
        "seconds": round(seconds, 1),
        "longest_freeze_s": max(frozen.values(), default=None),
        "moments_apart_s": record["moments_apart_s"],
        "calls": sum(_count(of_site, ".") for of_site in calls),
        **{
            what: sum(_count(of_site, pattern) for of_site in calls)
            for what, pattern in COUNTED.items()
        },
        "stored_bytes": record["stored_bytes"],
    }


def _count(calls: dict[str, int], pattern: str) -> int:
    """The calls of which the name begins so; not those of cinder-backup at the object store."""
    return sum(
        int(n)
        for name, n in calls.items()
        if re.match(pattern, name) and not name.startswith("object-store")
    )


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.options", description=__doc__).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sites are ended too
    found: list[dict[str, Any]] = []
    for row in cases():
        if not found:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
        found.append(row)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
