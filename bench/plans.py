# SPDX-License-Identifier: Apache-2.0
"""A plan over many VNFs on embedded sites, by the command line: rehearsed, recovered when the site
is lost, though VNFs fail and the process is killed, moved back, and moved.

`python -m bench.plans` prints, for 100 VNFs of one server and two volumes each, what each verb
takes of antipode's process: seconds, CPU seconds, memory, threads, HTTP calls per VNF. It fails
when a VNF is not where it belongs, is there twice, or a drill leaves anything. The embedded sites
have no latency, and are processes of their own that do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from antipode import config
from antipode.cloud.site import connect
from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Unobserved
from antipode.operations import fence, reprotect
from antipode.sandbox import demo, desk
from antipode.sandbox.supervision import SITES, Sandbox
from bench import scale
from bench.scale import Shape, say

VNFS, AT_ONCE = 100, 8
PLAN = "whole-site"
MOST_CALLS = 12
"""so many kinds of calls are in the report"""
MOST_MIB, MOST_THREADS = 400, 400
"""antipode's process takes no more than these, for as many VNFs as a plan may have at once"""
REPORT = Path("build") / "plans.json"


class Wrong(Exception):
    """What the plan has left is not what was confirmed."""


@dataclass
class Spent:
    """What one command took of antipode's process."""

    act: str
    vnfs: int
    seconds: float
    cpu_s: float
    memory_mib: float
    threads: int
    calls: float
    exit_code: int
    most: Sequence[tuple[str, int]] = ()
    """the calls that were made most often, and how often"""
    states: Mapping[str, int] = field(default_factory=dict)
    """how many runs of VNFs are in which state afterwards"""

    def __str__(self) -> str:
        states = ", ".join(f"{n} {state}" for state, n in self.states.items())
        return (
            f"| {self.act} | {self.exit_code} | {states} | {self.seconds:.0f} | {self.cpu_s:.1f} "
            f"| {self.memory_mib:.0f} | {self.threads} | {self.calls / self.vnfs:.1f} |"
        )


class Stage:
    """The sites, and an operator who carries the plan out."""

    def __init__(self, sandbox: Sandbox, vnfs: int, at_once: int) -> None:
        self.sandbox = sandbox
        self.vnfs = vnfs
        self.at_once = at_once
        self.operator = demo.Operator(sandbox.directory)

    def furnish(self) -> None:
        """Make the VNFs, a recovery point of each, and the plan: two groups, of which the second
        continues past a VNF that fails.
        """
        scale.furnish(self.vnfs, of_each=1)
        _with_a_vault_at_a_third_place(self.sandbox)
        self.protect()
        names = [f"vnf-{n}" for n in range(self.vnfs)]
        first = max(1, self.vnfs // 10)
        groups = [
            {"name": "registers", "vnfs": names[:first]},
            {"name": "services", "vnfs": names[first:], "on_failure": "continue"},
        ]
        path = self.sandbox.directory / "plan.yaml"
        YAML().dump({"plan": PLAN, "at_once": self.at_once, "groups": groups}, path)
        self.operator.tell("plan", "put", str(path))

    def protect(self) -> None:
        """Make a recovery point of each VNF where it is active."""
        say("  protect")
        shape = Shape(self.at_once, servers=1)
        scale.measured("protect", self.sandbox, self.vnfs, shape, SITES)

    def fence(self, site: str) -> None:
        """Fence the copy of each VNF at a site that has come back."""
        say("  fence")

        def one(here: Deployment, vnf: str) -> None:
            fence.fence(here, fence.request(fence.prepare(here, vnf, site)), Unobserved())

        self._each(one)

    def reprotect(self) -> None:
        """Protect each VNF where it has come back to, and remove the copy that it left: a migration
        removes none.
        """
        say("  reprotect")

        def one(here: Deployment, vnf: str) -> None:
            planned = reprotect.prepare(here, vnf, old_copy="remove")
            reprotect.reprotect(here, reprotect.request(planned), Unobserved())

        self._each(one)

    def _each(self, does: Callable[[Deployment, str], None]) -> None:
        """Do what no plan does with each VNF."""
        here = Deployment(config.load(str(self.sandbox.directory / desk.CONFIGURATION)))
        with ThreadPoolExecutor(self.at_once) as pool:
            for _ in pool.map(lambda number: does(here, f"vnf-{number}"), range(self.vnfs)):
                pass

    def does(self, act: str, *arguments: str, sites: Sequence[str] = SITES) -> Spent:
        """Give a command and await its end; what it took."""
        with self.begun(act, *arguments, sites=sites) as begun:
            return begun.ended()

    def begun(self, act: str, *arguments: str, sites: Sequence[str] = SITES) -> Begun:
        say(f"  {act}")
        for site in sites:
            self.sandbox.ask(site, "DELETE", "/calls")
        return Begun(self, act, arguments, sites)

    def runs(self) -> list[dict[str, Any]]:
        """The runs of the plan and of its VNFs, the newest plan first."""
        found: list[dict[str, Any]] = self.operator.ask("run", "list", "--plan", PLAN)
        return found

    def of_newest(self) -> Counter[str]:
        """How many VNFs of the newest run of the plan are in which state."""
        newest = next(row["run"] for row in self.runs() if row["vnf"] == f"plan:{PLAN}")
        shown = self.operator.ask("run", "show", newest)
        return Counter(vnf["state"] for vnf in shown.get("vnfs") or [])

    def servers(self, site: str) -> Counter[tuple[str, str]]:
        """Names and statuses of the servers at a site."""
        return Counter((s["name"], s["status"]) for s in connect(site, site).compute.servers())

    def expect(self, site: str, status: str) -> None:
        """See that each VNF has one server at a site, in a status.

        Raises:
            Wrong: it has none, or two, or it is in another one.
        """
        wanted = Counter((scale.server_name(n, 0), status) for n in range(self.vnfs))
        if (found := self.servers(site)) != wanted:
            raise Wrong(
                f"{site}: missing {list(wanted - found)[:5]}, too much {list(found - wanted)[:5]}"
            )

    def holdings(self, site: str) -> list[int]:
        """How many servers, volumes, ports and networks there are at a site."""
        at = connect(site, site)
        return [
            len(list(held))
            for held in (
                at.compute.servers(),
                at.volumes.volumes(),
                at.networks.ports_of_project(at.project_id),
                at.networks.networks(),
            )
        ]


class Begun:
    """A command under way."""

    def __init__(
        self, stage: Stage, act: str, arguments: Sequence[str], sites: Sequence[str]
    ) -> None:
        self._stage, self._act, self._sites = stage, act, sites
        self._began = time.monotonic()
        self._threads = 1
        folder = stage.sandbox.directory
        with (folder / "out").open("a") as out, (folder / "err").open("a") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "antipode.cli.main", *arguments],
                env=stage.operator.environment(),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self._watcher.join()

    def _watch(self) -> None:
        """Note the most threads that the kernel counts; 1 where it does not say."""
        status = Path(f"/proc/{self.process.pid}/status")
        while not self._over.wait(0.1):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return
            now = next((line.split()[1] for line in lines if line.startswith("Threads:")), "1")
            self._threads = max(self._threads, int(now))

    def ended(self) -> Spent:
        """Await its end; what it took."""
        _, status, usage = os.wait4(self.process.pid, 0)
        seconds = time.monotonic() - self._began
        self.process.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        stage = self._stage
        calls = scale.kinds_of_calls(stage.sandbox, self._sites)
        return Spent(
            self._act,
            stage.vnfs,
            seconds,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / unit,
            self._threads,
            calls.total(),
            self.process.returncode,
            calls.most_common(MOST_CALLS),
            stage.of_newest(),
        )


def _succeeds(spent: Spent) -> Spent:
    """
    Raises:
        Wrong: not every VNF has succeeded.
    """
    if spent.exit_code or spent.states.get("succeeded") != spent.vnfs:
        raise Wrong(f"{spent.act}: exit code {spent.exit_code}, {dict(spent.states)}")
    return spent


def story(stage: Stage) -> Iterator[Spent]:
    """Every verb of a plan, one after another; what each took.

    Raises:
        Wrong: a VNF is not where it belongs, or a drill has left something.
    """
    primary, backup = SITES
    yield _succeeds(stage.does("precheck", "plan", "precheck", PLAN, "--to", backup))
    before = stage.holdings(backup)
    yield _succeeds(stage.does("drill", "plan", "drill", PLAN, "--to", backup, "--yes"))
    if (after := stage.holdings(backup)) != before:
        raise Wrong(f"drills have left what was not there: {before} before, {after} after")
    yield from disaster(stage)
    stage.sandbox.start(primary)
    stage.fence(primary)
    yield _succeeds(stage.does("failback", "plan", "failback", PLAN, "--yes"))
    stage.expect(primary, "ACTIVE")
    stage.expect(backup, "SHUTOFF")
    stage.reprotect()
    yield _succeeds(stage.does("migrate", "plan", "migrate", PLAN, "--to", backup, "--yes"))
    stage.expect(backup, "ACTIVE")
    stage.expect(primary, "SHUTOFF")


def disaster(stage: Stage) -> Iterator[Spent]:
    """The primary is destroyed: two VNFs cannot be booted at first, the process is killed when a
    third is recovered, and what is left is taken up twice.
    """
    primary, backup = SITES
    failover = "plan", "failover", PLAN, "--to", backup, "--yes"
    stage.sandbox.kill(primary)
    after = max(1, stage.vnfs // 5)
    stage.sandbox.ask(
        backup,
        "POST",
        "/faults",
        {"on": "^server.create$", "effect": "error", "after": after, "times": 2},
    )
    sites = [backup]
    with stage.begun("failover, killed", *failover, sites=sites) as begun:
        _await(lambda: _recovered(stage) >= stage.vnfs // 3, begun.process)
        begun.process.send_signal(signal.SIGKILL)
        killed = begun.ended()
    yield killed
    newest = stage.runs()[0]["run"]
    resumed = stage.does("run resume", "run", "resume", newest, sites=sites)
    yield resumed
    if resumed.exit_code:
        yield stage.does("run resume, again", "run", "resume", newest, sites=sites)
    stage.expect(backup, "ACTIVE")
    again = stage.does("failover, once more", *failover, sites=sites)
    if again.exit_code != 2:
        raise Wrong(f"a plan of which nothing is left to do ends with {again.exit_code}")
    stage.expect(backup, "ACTIVE")


def _with_a_vault_at_a_third_place(sandbox: Sandbox) -> None:
    """As VNFs need that move there and back; the store is not asked, but by cinder-backup."""
    path = sandbox.directory / desk.CONFIGURATION
    content = YAML().load(path)
    for key in ("backup_store", "vault"):
        content.pop(key, None)
    folder = sandbox.directory.resolve() / "vault"
    folder.mkdir()
    content["vaults"] = {"third-place": {"directory": str(folder)}}
    YAML().dump(content, path)


def _recovered(stage: Stage) -> int:
    return sum(n for (_, status), n in stage.servers(SITES[1]).items() if status == "ACTIVE")


def _await(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """
    Raises:
        Wrong: the process has ended before it held.
    """
    while not holds():
        if process.poll() is not None:
            raise Wrong(f"the command has ended with {process.returncode} before it was killed")
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    parser.add_argument("--vnfs", type=int, default=VNFS, help=f"(default: {VNFS})")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, help=f"VNFs in progress (default: {AT_ONCE})"
    )
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sites are ended too
    print(
        "| act | exit code | VNFs | s | CPU s | memory MiB | threads | calls per VNF |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    found: list[Spent] = []
    with tempfile.TemporaryDirectory(prefix="antipode-plans-") as folder:
        sandbox = Sandbox(Path(folder))
        sandbox.up(latency=0, gib=scale.GIB)
        stage = Stage(sandbox, chosen.vnfs, chosen.at_once)
        try:
            desk.write(sandbox)
            os.environ["OS_CLIENT_CONFIG_FILE"] = str(sandbox.directory / desk.CLOUDS)
            stage.furnish()
            for spent in story(stage):
                found.append(spent)
                print(spent, flush=True)
                REPORT.parent.mkdir(exist_ok=True)
                REPORT.write_text(json.dumps([vars(s) for s in found], indent=2) + "\n")
        except Exception:
            print((sandbox.directory / "err").read_text()[-8000:], file=sys.stderr)
            raise
        finally:
            sandbox.down()
    too_much = [s for s in found if s.memory_mib > MOST_MIB or s.threads > MOST_THREADS]
    for spent in too_much:
        say(f"{spent.act} took {spent.memory_mib:.0f} MiB and {spent.threads} threads")
    return 1 if too_much else 0


if __name__ == "__main__":
    sys.exit(main())
