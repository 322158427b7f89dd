# SPDX-License-Identifier: Apache-2.0
"""The story on two real OpenStack sites: the stage it is played on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antipode.errors import AntipodeError
from antipode.sandbox.story import Storyteller, broken_promises, play
from lab import canary, power, wan
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.errors import LabError
from lab.inside import init_pid
from lab.site import SITES
from lab.witness import Witness

REPORT = PROJECT / "build" / "demo-report.json"


@dataclass
class Calls:
    """How many calls went to the dead site."""

    calls: int = 0


class LabStage:
    """The story's stage in the lab. Setting it removes what an earlier story left."""

    primary, backup = "site-a", "site-b"

    def __init__(self, desk: Desk) -> None:
        self.operator = desk
        self._servers: Mapping[str, str] = {}

    def set(self, teller: Storyteller) -> None:
        teller.tell("Two OpenStack sites", _bring_up_lab)
        teller.tell(
            "Removing what an earlier demo left",
            lambda: [canary.remove(SITES[site]) for site in (self.backup, self.primary)],
        )
        self._servers = teller.tell(
            f"A VNF of three members at {self.primary}, answering",
            lambda: canary.create(SITES[self.primary]),
        )
        self.operator.tell("vnf", "add", str(EXAMPLE))

    def state(self, site: str) -> Mapping[str, Mapping[str, Any]]:
        return canary.state(SITES[site])

    def await_records(self, site: str, more: int) -> None:
        canary.wait_for_records(SITES[site], more)

    def witness(self) -> Witness:
        return Witness(SITES[self.primary], self._servers)

    def destroy_primary(self) -> None:
        power.off(SITES[self.primary])

    def primary_is_dead(self) -> bool:
        return init_pid(SITES[self.primary]) is None

    @contextmanager
    def silence(self) -> Iterator[Calls]:
        before, counted = wan.calls_to(SITES[self.primary]), Calls()
        yield counted
        counted.calls = wan.calls_to(SITES[self.primary]) - before

    def records(self, site: str) -> Mapping[str, bytes]:
        return canary.records(SITES[site])


def _bring_up_lab() -> None:
    if subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT).returncode:
        raise LabError("the lab did not come up; see above")


def main() -> int:
    folder = PROJECT / "build" / "demo"
    desk = Desk(
        folder / time.strftime("%Y%m%dT%H%M%S"),
        vault=f"antipode-demo-{os.getpid()}-{int(time.time())}",
    )
    try:
        report = play(LabStage(desk), Storyteller(sys.stdout, beforehand=True))
    except (LabError, AntipodeError) as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    problems = broken_promises(report)
    for problem in problems:
        print(f"demo: not as promised: {problem}", file=sys.stderr)
    if not problems:
        print(
            "\nEvery record that was durable when the VNF was frozen is there at site-b, and "
            f"nothing later.\nReport: {_short(REPORT)}"
        )
    return 1 if problems else 0


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
