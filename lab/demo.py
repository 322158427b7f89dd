"""The story antipode is for: a VNF is protected at site-a, site-a is destroyed, and the VNF comes back at site-b with its records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import canary, checker, power, wan
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.errors import LabError
from lab.inside import init_pid
from lab.site import SITES, Site
from lab.witness import Witness

VNF = "canary"
REPORT = PROJECT / "build" / "demo-report.json"
RECORDS_BETWEEN = 40
"""How many more records the VNF makes durable before the next thing happens to it."""


class Story:
    """Tells what happens, with the time it took."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", flush=True)

    def tell(self, text: str, act: Callable[[], Any]) -> Any:
        self.say(f"{text} ...")
        start = time.monotonic()
        result = act()
        self.say(f"{text}: done in {time.monotonic() - start:.1f} s")
        return result


def bring_up_lab() -> None:
    if subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT).returncode:
        raise LabError("the lab did not come up; see above")


def prepare(desk: Desk, site_a: Site, site_b: Site, story: Story) -> dict[str, str]:
    """Both sites up, nothing left of an earlier story, the VNF at work at site-a and known to antipode; role -> server id."""
    story.tell("Two OpenStack sites", bring_up_lab)
    story.tell("Removing what an earlier demo left", lambda: [canary.remove(site) for site in (site_b, site_a)])
    servers = story.tell(f"A VNF of three members at {site_a.name}, answering", lambda: canary.create(site_a))
    desk.tell("vnf", "add", str(EXAMPLE))
    story.tell("antipode site check", lambda: desk.tell("site", "check"))
    return dict(servers)


def protect(desk: Desk, site: Site, servers: dict[str, str], story: Story) -> tuple[dict[str, Any], Witness]:
    """Wait until the VNF has made more records, then make a recovery point of it under the eyes of a witness."""
    canary.wait_for_records(site, RECORDS_BETWEEN)
    with Witness(site, servers) as witness:
        result = story.tell(f"antipode protect {VNF}", lambda: desk.ask("protect", VNF))
    if witness.disagreements:
        raise LabError(f"members went on while their agents said frozen: {witness.disagreements}")
    if not witness.sightings:
        raise LabError("the witness never saw all members frozen at once: either they were not, or it looked too seldom")
    window = result["quiesce_window_s"]
    story.say(f"  recovery point {result['recovery_point']}, frozen for {window:.1f} s at records {witness.frozen_last}")
    return result, witness


def fail_over(desk: Desk, site_a: Site, site_b: Site, story: Story) -> tuple[dict[str, Any], int]:
    """Recover the VNF at site-b; tells also how many calls went to site-a meanwhile."""
    before = wan.calls_to(site_a)
    result = story.tell(f"antipode failover {VNF} --to {site_b.name}", lambda: desk.ask("failover", VNF, "--to", site_b.name, "--yes"))
    return result, wan.calls_to(site_a) - before


def recovered_last(site: Site, frozen_boot: dict[str, int], report: checker.Report) -> dict[str, int]:
    """Per member, the last record that was not written after the recovery: what the restored volume brought."""
    last = {}
    for role, member in report.members.items():
        brought = [number for boot, number in member.last_of_boot.items() if boot <= frozen_boot[role]]
        last[role] = max(brought, default=0)
    return last


def run(desk: Desk) -> dict[str, Any]:
    """The whole story; the result is what the report file has."""
    story = Story()
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    servers = prepare(desk, site_a, site_b, story)
    first, _ = protect(desk, site_a, servers, story)
    second, witness = protect(desk, site_a, servers, story)
    boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
    canary.wait_for_records(site_a, RECORDS_BETWEEN)
    lost = {role: member["durable"] for role, member in canary.state(site_a).items()}
    story.tell(f"Disaster: every process of {site_a.name} is killed", lambda: power.off(site_a))
    result, calls = fail_over(desk, site_a, site_b, story)
    canary.wait_for_records(site_b, 5)  # the chain goes on: the members work together again
    records = story.tell("Reading every record from the volumes at site-b", lambda: canary.records(site_b))
    report = checker.check(records)
    return {
        "site_a_dead": init_pid(site_a) is None,
        "members": len(report.members),
        "recovery_points": len(desk.ask("recovery-point", "list", VNF)),
        "second_point_incremental": bool(second["incremental"]) and not first["incremental"],
        "torn": report.torn,
        "gaps": report.gaps,
        "duplicates": report.duplicates,
        "order_violations": len(report.order_violations) + len(report.content_mismatches),
        "recovered_last": recovered_last(site_b, boots, report),
        "frozen_last": witness.frozen_last,
        "last_before_disaster": lost,
        "last_now": report.last,
        "quiesce_window_s": second["quiesce_window_s"],
        "quiesce_window_per_member_s": second["quiesce_window_per_member_s"],
        "protect_full_s": first["seconds"],
        "protect_incremental_s": second["seconds"],
        "rpo_s": result["rpo_s"],
        "rto_s": result["rto_s"],
        "rto_breakdown_s": result["rto_breakdown_s"],
        "calls_to_site_a_during_failover": calls,
    }


def is_as_promised(report: dict[str, Any]) -> list[str]:
    """What the report says that must not be; empty when all is well."""
    expected = {
        "site_a_dead": True,
        "members": 3,
        "recovery_points": 2,
        "second_point_incremental": True,
        "torn": 0,
        "gaps": 0,
        "duplicates": 0,
        "order_violations": 0,
        "calls_to_site_a_during_failover": 0,
        "recovered_last": report["frozen_last"],
    }
    return [f"{key} is {report[key]}, not {value}" for key, value in expected.items() if report[key] != value]


def main() -> int:
    folder = PROJECT / "build" / "demo"
    desk = Desk(folder / time.strftime("%Y%m%dT%H%M%S"), vault=f"antipode-demo-{os.getpid()}-{int(time.time())}")
    try:
        report = run(desk)
    except LabError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    problems = is_as_promised(report)
    for problem in problems:
        print(f"demo: not as promised: {problem}", file=sys.stderr)
    if not problems:
        print(f"\nEvery record that was durable when the VNF was frozen is there at site-b, and nothing later.\nReport: {_short(REPORT)}")
    return 1 if problems else 0


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
