# SPDX-License-Identifier: Apache-2.0
"""Failovers with standing volumes beside Cinder's restore and beside booting alone; and an apply of
an increment beside Cinder's restore of the chain: `python -m bench.standing`, on the lab.

The other client is the floor: the same calls for the same recovery point, and nothing else. Its
restore is Cinder's, and its boot, from the call that begins the first server, has no other work
left. All recover the VNF at the backup site while it runs on at the other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from keystoneauth1.exceptions import ClientException

from antipode.model.vnf import Vnf
from antipode.sandbox.members import MEMBERS
from bench import tidy, volumes
from bench.__main__ import BUILD, CHANGED_MIB, FILL_MIB, NotMeasured, find, say
from bench.clients import client_environment
from bench.cloud import POLL_S, Cloud, Failed, Json
from bench.floor import at_once, discover, read_vnf, stop
from bench.restores import at_least_one, created_from, remove
from bench.spent import ClientFailed, Spent, run
from lab import canary, storage
from lab.desk import EXAMPLE, Desk
from lab.errors import LabError
from lab.site import SITES

NAME = "bench-standing"
BOOT_AND_S, APPLY_TIMES, MEMORY_MIB = 5.0, 10.0, 256.0
"""Goals: a failover takes at most so much longer than booting alone; an apply of an increment is so
many times shorter than a restore of the chain; the mover needs at most so much memory.
"""


@dataclass(frozen=True)
class Round:
    """What was measured in one round, in seconds, bytes and MiB."""

    failover_s: float
    """from the start of the process until the last member answers"""
    boot_s: float
    """from the floor's first call for a server until its last member answers"""
    restored_failover_s: float
    """the floor's recovery with Cinder's restore"""
    apply_full_s: float
    """a process that makes the volumes and writes the first point"""
    apply_s: float
    """a process that applies an increment to all volumes"""
    write_s: float
    """of it, the mover alone"""
    restore_s: float
    """Cinder's restore of all chains at once"""
    fetched_bytes: int
    written_bytes: int
    mover_mib: float
    """the most memory that a mover has had resident"""
    mover_cpu_s: float
    """of the process that applies an increment, with its mover"""


class Peak:
    """The most memory that any mover has had resident while this was entered."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        """The kernel keeps the peak, so that only its growth after the last look is missed."""
        while not self._ends.wait(POLL_S / 2):
            for process in psutil.process_iter(["cmdline"]):
                if "antipode.mover.process" in (process.info["cmdline"] or []):
                    self.mib = max(self.mib, peak_mib(process.pid))


def peak_mib(process: int) -> float:
    """The most memory that a process has had resident; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0][1]) / 1024 if lines else 0.0


class Clients:
    """antipode and the floor, each called as a process."""

    def __init__(self, vnf: Vnf, folder: Path, desk: Desk) -> None:
        self._vnf, self._folder, self._desk = vnf, folder, desk

    def measured(self, found: tidy.Vnf, number: int) -> Round:
        """One round, with a VNF of its own; all that it leaves at the backup site is removed."""
        site, backup = SITES[self._vnf.primary], Cloud(self._vnf.backup[0])
        name = f"{NAME}-{number}-{int(time.time())}"
        before = tidy.belongings(found)
        try:
            self._know(name)
            self._desk.tell("protect", name)
            with Peak() as peak:
                first = self._antipode(f"{number}-full", "standing", "apply", name)
                canary.fill(site, CHANGED_MIB, seed=time.time_ns())
                self._desk.tell("protect", name)
                second = self._antipode(f"{number}-apply", "standing", "apply", name)
            said = json.loads(second.output)
            moved = self._antipode(f"{number}-failover", *self._failover(name))
            failover_s = self._ended_at(moved) - moved.began
            state = self._folder / f"{name}.json"
            state.write_text(json.dumps(self._state(name)))
            self._clear(found, before)
            floor = self._floor(state, number)
            marks = json.loads(floor.output)
            began = min(m["restored_at"] for m in marks["members"].values())
            return Round(
                failover_s=failover_s,
                boot_s=marks["done_at"] - began,
                restored_failover_s=marks["done_at"] - floor.began,
                apply_full_s=first.wall_s,
                apply_s=second.wall_s,
                write_s=self._step_s(said["run"], "write standing volumes"),
                restore_s=restored_s(backup, json.loads(state.read_text())),
                fetched_bytes=said["fetched_bytes"],
                written_bytes=said["written_bytes"],
                mover_mib=peak.mib,
                mover_cpu_s=second.cpu_s,
            )
        finally:
            tidy.thaw_all(found)
            tidy.remove_new(found, before)
            self._desk.run("standing", "remove", name, "--yes")

    def _know(self, name: str) -> None:
        file = self._folder / f"{name}.yaml"
        fields = self._vnf.model_dump(mode="json", exclude_none=True)
        protections = [{"option": "quiesced-snapshot", "standing": True}]
        # JSON is YAML
        file.write_text(json.dumps({**fields, "vnf": name, "protections": protections}))
        self._desk.tell("vnf", "add", str(file))

    def _failover(self, name: str) -> Sequence[str]:
        return "failover", name, "--to", self._vnf.backup[0], "--yes"

    def _antipode(self, log: str, *arguments: str) -> Spent:
        binary = str(Path(sys.executable).with_name("antipode"))
        environment = {**client_environment(), "ANTIPODE_CONFIG": str(self._desk.configuration)}
        command = [binary, *arguments, "-f", "json"]
        return run(command, environment, self._folder / f"antipode-{log}.log")

    def _ended_at(self, failover: Spent) -> float:
        shown = self._desk.ask("run", "show", json.loads(failover.output)["run"])
        roads = {s["result"]["road"] for s in shown["steps"] if s["step"] == "take standing volume"}
        if roads != {"standing"}:
            raise ClientFailed(f"volumes came by {', '.join(sorted(roads)) or 'no road'}")
        return datetime.fromisoformat(shown["ended_at"]).timestamp()

    def _step_s(self, run_id: str, step: str) -> float:
        [found] = [s for s in self._desk.ask("run", "show", run_id)["steps"] if s["step"] == step]
        ends = (datetime.fromisoformat(found[at]) for at in ("started_at", "ended_at"))
        began, ended = ends
        return (ended - began).total_seconds()

    def _state(self, name: str) -> Json:
        """What the floor recovers from: the chains of the newest recovery point."""
        primary = Cloud(self._vnf.primary)
        shown = self._desk.ask("recovery-point", "show", name)

        def exported(backup: str) -> Json:
            path = f"/backups/{backup}/export_record"
            return {"id": backup, "record": primary.volume.get(path).json()["backup-record"]}

        servers = discover(self._vnf, primary)
        ids = {v["name"]: v["id"] for server in servers for v in server["volumes"]}
        chains = {ids[v["volume"]]: at_once(exported, v["chain"]) for v in shown["volumes"]}
        return {"servers": servers, "chains": chains}

    def _floor(self, state: Path, number: int) -> Spent:
        file = self._folder / "floor.yaml"
        file.write_text(self._vnf.model_dump_json(exclude_none=True))  # JSON is YAML
        words = ["recover", "--vnf", str(file), "--state", str(state)]
        command = [sys.executable, "-m", "bench.floor", *words, "--name", f"{NAME}-{number}"]
        return run(command, client_environment(), self._folder / f"floor-{number}.log")

    def _clear(self, found: tidy.Vnf, before: Mapping[str, set[str]]) -> None:
        """Remove what a recovery has made; backups and their records stay."""
        kinds = ("records", "snapshots", "backups")
        there = tidy.belongings(found)
        tidy.remove_new(found, {**before, **{kind: there[kind] for kind in kinds}})


def restored_s(site: Cloud, state: Json) -> float:
    """The seconds of Cinder's restore of all chains at once; the site has their records."""
    volumes = [v for s in state["servers"] for v in s["volumes"]]
    began = time.monotonic()
    made = at_once(
        lambda v: created_from(site, state["chains"][v["id"]][-1]["id"], {"size": v["size"]}),
        volumes,
    )
    took = time.monotonic() - began
    at_once(lambda volume: remove(site, "volume", volume), made)
    return took


def judged(rounds: Sequence[Round]) -> list[str]:
    """Each goal and what was measured of it, by the medians of the rounds."""
    failover, boot = median(r.failover_s for r in rounds), median(r.boot_s for r in rounds)
    restored = median(r.restored_failover_s for r in rounds)
    apply_s, restore_s = median(r.apply_s for r in rounds), median(r.restore_s for r in rounds)
    write_s, memory = median(r.write_s for r in rounds), max(r.mover_mib for r in rounds)

    def met(is_so: bool) -> str:
        return "met" if is_so else "NOT MET"

    return [
        f"failover with standing volumes {failover:.1f} s, booting alone {boot:.1f} s, with"
        f" Cinder's restore {restored:.1f} s: at most {BOOT_AND_S:g} s more than booting alone:"
        f" {failover - boot:+.1f} s, {met(failover - boot <= BOOT_AND_S)}",
        f"apply of an increment {apply_s:.1f} s, of it the mover {write_s:.1f} s, Cinder's restore"
        f" {restore_s:.1f} s: {APPLY_TIMES:g} x shorter: the command {restore_s / apply_s:.1f} x,"
        f" the mover {restore_s / write_s:.1f} x, {met(restore_s / apply_s >= APPLY_TIMES)}",
        f"memory of the mover {memory:.0f} MiB: at most {MEMORY_MIB:g} MiB:"
        f" {met(0 < memory <= MEMORY_MIB)}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 when everything was measured, 1 when not, or with --strict when a goal was
    missed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.standing", description=__doc__)
    parser.add_argument("--rounds", type=at_least_one, default=1, help="1 by default")
    parser.add_argument("--gib", type=at_least_one, default=1, help="of a data volume (default 1)")
    parser.add_argument(
        "--members",
        type=at_least_one,
        default=len(MEMBERS),
        help="the last so many of the VNF, with two volumes each (default: all)",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, stop)
    if storage.missing:
        print(f"standing volumes are not measured: {storage.missing}", file=sys.stderr)
        return 0
    folder, whole = BUILD / "bench-standing", read_vnf(EXAMPLE)
    vnf = whole.model_copy(update={"members": whole.members[-given.members :]})
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rounds: list[Round] = []
    try:
        canary.create(SITES[vnf.primary])
        found = find(vnf)
        canary.fill(SITES[vnf.primary], FILL_MIB)
        vault = f"antipode-bench-{time.time_ns()}"
        desk = Desk((folder / "antipode").resolve(), vault=vault, has_mover=True)
        with volumes.extended(found, given.gib):
            for number in range(1, given.rounds + 1):
                rounds.append(Clients(vnf, folder, desk).measured(find(vnf), number))
                say(f"round {number}: {rounds[-1]}")
    except (ClientException, ClientFailed, Failed, LabError, NotMeasured) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    verdicts = judged(rounds)
    document: dict[str, Any] = {
        "gib": given.gib,
        "members": given.members,
        "rounds": [asdict(r) for r in rounds],
        "goals": verdicts,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    name = f"bench-standing-{given.gib}-{given.members}.json"
    (BUILD / name).write_text(json.dumps(document, indent=1))
    print(*verdicts, sep="\n")
    return 1 if given.strict and any("NOT MET" in v for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
