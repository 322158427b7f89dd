"""The story antipode is for, on embedded sites: a VNF is protected, its site is killed, and it comes back at the other with its records."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from antipode.sandbox import canary, desk, records
from antipode.sandbox.supervision import SITES, Sandbox, SandboxError

RECORDS_BETWEEN = 40
"""How many more records the VNF makes durable before the next thing happens to it."""
LONGEST_S = 300.0


class Story:
    """Tells what happens, with the time it took."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def say(self, text: str) -> None:
        print(f"[{self.seconds:5.1f} s] {text}", file=self._out, flush=True)

    def tell(self, text: str, act: Callable[[], Any]) -> Any:
        """Do something and tell how long it took."""
        begin = time.monotonic()
        result = act()
        self.say(f"{text}: {time.monotonic() - begin:.1f} s")
        return result


class Operator:
    """Calls antipode's command line as an operator does, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `antipode ARGUMENTS`; what it prints is to be read by `communicate`."""
        files = {"OS_CLIENT_CONFIG_FILE": str(self._directory / desk.CLOUDS), "ANTIPODE_CONFIG": str(self._directory / desk.CONFIGURATION)}
        return subprocess.Popen(
            [sys.executable, "-m", "antipode.cli.main", *arguments],
            env=os.environ | files | {"NO_PROXY": "*"},
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Execute `antipode ARGUMENTS` to its end, whatever that is.

        Raises:
            SandboxError: it does not end.
        """
        with self.begin(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=LONGEST_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise SandboxError(f"antipode {' '.join(arguments)} has not ended after {LONGEST_S:g} s and was killed") from error
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def tell(self, *arguments: str) -> str:
        """Execute `antipode ARGUMENTS` and return what it printed.

        Raises:
            SandboxError: it failed.
        """
        done = self.run(*arguments)
        if done.returncode:
            raise SandboxError(f"antipode {' '.join(arguments)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        """As `tell`; what `-f json` printed, decoded."""
        return json.loads(self.tell(*arguments, "-f", "json"))


@dataclass
class Witness:
    """Stands beside a site's machines while something is done to them.

    `frozen_last` is what each member had durable when all were frozen.
    """

    sandbox: Sandbox
    site: str
    frozen_last: dict[str, int] = field(default_factory=dict)
    boots: dict[str, int] = field(default_factory=dict)
    disagreements: list[dict[str, int]] = field(default_factory=list)
    """what members had durable later in the same window: they went on though their agents said frozen"""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Witness:
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.03):
            try:
                guests = [g for g in self.sandbox.ask(self.site, "GET", "/guests") if g["role"]]
            except SandboxError:
                return  # the site is gone, and with it all that could be seen
            if guests and all(g["frozen"] for g in guests):
                durable = {g["role"]: int(g["durable"]) for g in guests}
                if self.frozen_last and durable != self.frozen_last:
                    self.disagreements.append(durable)
                self.frozen_last, self.boots = durable, {g["role"]: int(g["boot"]) for g in guests}


class Silence:
    """Takes the place of a dead site on its port, answers nothing, and counts who calls."""

    def __init__(self, port: int) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self._held: list[socket.socket] = []
        threading.Thread(target=self._listen, name="silence", daemon=True).start()

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._socket, *self._held):
            one.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: nobody needs to be counted any more
            self.calls += 1
            self._held.append(connection)


def run(directory: Path, out: TextIO) -> dict[str, Any]:
    """Tell the whole story in a directory of its own; the report. The sites are ended when it is over, what they hold is left.

    Raises:
        SandboxError: it cannot be told to its end.
    """
    sandbox = Sandbox(directory)
    sandbox.down(wipe=True)
    try:
        return _tell(sandbox, Operator(directory), Story(out))
    finally:
        sandbox.down()


def _tell(sandbox: Sandbox, operator: Operator, story: Story) -> dict[str, Any]:
    primary, backup = SITES
    story.tell("Two embedded OpenStack sites", sandbox.up)
    desk.write(sandbox)
    with ThreadPoolExecutor(1) as beside:
        told = beside.submit(operator.tell, "vnf", "add", str(sandbox.directory / desk.VNF_FILE))
        story.tell(f"A VNF of three members at {primary}, answering", lambda: canary.create(sandbox, primary))
        told.result()
    story.tell("antipode site check", lambda: operator.tell("site", "check"))
    first, _ = _protect(sandbox, operator, story)
    second, witness = _protect(sandbox, operator, story)
    canary.await_records(sandbox, primary, RECORDS_BETWEEN)
    lost = canary.durable(sandbox, primary)
    story.say(f"Disaster: the process of {primary} is killed, with everything in it, at records {lost}")
    sandbox.kill(primary)
    with Silence(sandbox.settings(primary).port) as silence:
        recovered = story.tell(
            f"antipode failover canary --to {backup}", lambda: operator.ask("failover", "canary", "--to", backup, "--yes")
        )
    points = operator.ask("recovery-point", "list", "canary")
    canary.await_records(sandbox, backup, 5)  # the chain goes on: the members work together again
    found = story.tell(f"Reading every record from the volumes at {backup}", lambda: canary.records(sandbox, backup))
    report = records.check(found)
    return {
        "site_a_dead": sandbox.pid(primary) is None,
        "members": len(report.members),
        "recovery_points": len(points),
        "second_point_incremental": bool(second["incremental"]) and not first["incremental"],
        "torn": report.torn,
        "gaps": report.gaps,
        "duplicates": report.duplicates,
        "order_violations": len(report.order_violations) + len(report.content_mismatches),
        "recovered_last": _brought(report, witness.boots),
        "frozen_last": witness.frozen_last,
        "last_before_disaster": lost,
        "last_now": report.last,
        "quiesce_window_s": second["quiesce_window_s"],
        "quiesce_window_per_member_s": second["quiesce_window_per_member_s"],
        "protect_full_s": first["seconds"],
        "protect_incremental_s": second["seconds"],
        "rpo_s": recovered["rpo_s"],
        "rto_s": recovered["rto_s"],
        "rto_breakdown_s": recovered["rto_breakdown_s"],
        "calls_to_site_a_during_failover": silence.calls,
        "seconds": round(story.seconds, 1),
    }


def _protect(sandbox: Sandbox, operator: Operator, story: Story) -> tuple[dict[str, Any], Witness]:
    primary = SITES[0]
    canary.await_records(sandbox, primary, RECORDS_BETWEEN)
    with Witness(sandbox, primary) as witness:
        result = story.tell("antipode protect canary", lambda: operator.ask("protect", "canary"))
    if witness.disagreements:
        raise SandboxError(f"members went on while their agents said frozen: {witness.disagreements}")
    if not witness.frozen_last:
        raise SandboxError("the witness never saw all members frozen at once: either they were not, or it looked too seldom")
    window = result["quiesce_window_s"]
    story.say(f"  recovery point {result['recovery_point']}, frozen for {window:.1f} s at records {witness.frozen_last}")
    return result, witness


def _brought(report: records.Report, boots: Mapping[str, int]) -> dict[str, int]:
    """Per member, the last record that was not written after the recovery: what the restored volume brought."""
    return {
        role: max((number for boot, number in member.last_of_boot.items() if boot <= boots[role]), default=0)
        for role, member in report.members.items()
    }


def broken_promises(report: Mapping[str, Any]) -> list[str]:
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
