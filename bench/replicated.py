# SPDX-License-Identifier: Apache-2.0
"""Recovery points of replicated volumes (option 3) beside their floor and beside an increment of
option 1: `python -m bench.replicated`, on the lab with its extra `replication`.

The floor makes the same calls: quiesce, one Cinder snapshot of each volume, unquiesce, then `rbd
snap ls` of each image and one `rbd mirror pool status` at the backup site until all are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.model.vnf import Vnf
from antipode.operations import protect
from antipode.operations.submit import is_served, submit
from bench import tidy, verdict, volumes
from bench.__main__ import BUILD, CHANGED_MIB, FILL_MIB, NotMeasured, find, say
from bench.clients import (
    Turn,
    client_environment,
    committed_at,
    must_be_incremental,
    remove_vault,
    turn_of,
)
from bench.cloud import Cloud, Failed, until
from bench.floor import at_once, discover, read_vnf, remove_snapshots, snapshot_quiesced, stop
from bench.restores import at_least_one
from bench.spent import ClientFailed, run
from lab import canary, extras
from lab.desk import EXAMPLE, STORAGE, Desk
from lab.errors import LabError
from lab.services.operator_rbd import replication_settings
from lab.site import BACKUP_STORE, SITES

NAME = "bench-replicated"
ARRIVES_S, STARTS_S = 300.0, 120.0
CLIENTS = ("antipode", "command", "floor", "incremental")
"""The point of option 3 by a service, as a schedule and the API have it made; by a command, whose
process has to start; its floor; and the incremental point of option 1 by the same service.
"""


def floor(vnf: Vnf, name: str) -> dict[str, Any]:
    """One point by the same calls, and nothing else."""
    site, settings = Cloud(vnf.primary), replication_settings(SITES[vnf.backup[0]])
    servers = discover(vnf, site)
    snapshots, window_s = snapshot_quiesced(site, servers, name)

    def rbd(*words: str) -> Any:
        command = [str(settings.rbd), *words, "--format", "json"]
        ended = subprocess.run(command, capture_output=True, check=True, text=True)
        return json.loads(ended.stdout)

    def is_listed(volume: str) -> bool:
        listed = rbd("snap", "ls", f"{settings.pool}/volume-{volume}")
        return f"snapshot-{snapshots[volume]}" in {s["name"] for s in listed}

    def standing() -> str:
        if not all(at_once(is_listed, snapshots)):
            return "under way"
        found = rbd("mirror", "pool", "status", settings.pool, "--verbose")["images"]
        states = {i["name"]: i["state"] for i in found}
        follow = all(states.get(f"volume-{v}") == "up+replaying" for v in snapshots)
        return "there" if follow else "under way"

    until(standing, "there", f"snapshots at {vnf.backup[0]}", ARRIVES_S)
    done = time.time()
    remove_snapshots(site, snapshots)
    return {"window_s": window_s, "done_at": done}


class Points:
    """The clients: a service that runs meanwhile, and others that are a process for each point."""

    def __init__(self, vnf_file: Path, vnf: Vnf, folder: Path, desk: Desk) -> None:
        self._vnf_file, self._vnf, self._folder, self._desk = vnf_file, vnf, folder, desk
        os.environ |= client_environment()
        self._here = Deployment(config.load(str(desk.configuration)))

    def prepare(self) -> None:
        """Have antipode know the VNF with both options, its volumes replicated, and a full backup
        for the increments to rest on.
        """
        file = self._folder / f"{NAME}.yaml"
        fields = self._vnf.model_dump(mode="json", exclude_none=True)
        protections = [{"option": option} for option in ("replication", "quiesced-snapshot")]
        stores = {"disks": {"storage": STORAGE}}
        # JSON is YAML
        known = {**fields, "vnf": NAME, "datastores": stores, "protections": protections}
        file.write_text(json.dumps(known, indent=1))
        self._desk.tell("vnf", "add", str(file))
        self._desk.tell("datastore", "prepare", NAME, "--wait")
        self._desk.tell("protect", NAME, "--option", "quiesced-snapshot", "--full")

    def turn(self, client: str, number: int) -> Turn:
        """One point of a client."""
        log = self._folder / f"{client}-{number}.log"
        if client == "floor":
            words = ["floor", "--vnf", str(self._vnf_file), "--name", f"{NAME}-{number}"]
            command = [sys.executable, "-m", "bench.replicated", *words]
            return turn_of(run(command, client_environment(), log))
        if client != "command":
            return self._by_service(client)
        binary = str(Path(sys.executable).with_name("antipode"))
        command = [binary, "protect", NAME, "--option", "replication", "-f", "json"]
        environment = {**client_environment(), "ANTIPODE_CONFIG": str(self._desk.configuration)}
        spent = run(command, environment, log)
        said = json.loads(spent.output)
        seconds = committed_at(self._desk, said["run"]) - spent.began
        return Turn(seconds, said.get("quiesce_window_s"), spent.cpu_s, spent.calls)

    @contextmanager
    def served(self) -> Iterator[None]:
        """A service runs while the block does."""
        with (self._folder / "service.log").open("wb") as log:
            process = self._desk.start("serve", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until(
                lambda: "there" if is_served(self._here) else "starting",
                *("there", "the service", STARTS_S),
            )
            yield
        finally:
            process.terminate()
            process.wait(STARTS_S)

    def _by_service(self, client: str) -> Turn:
        """One point by the service, from the order on."""
        option = "replication" if client == "antipode" else "quiesced-snapshot"
        began = time.time()
        run = submit(self._here, protect.request(self._here, NAME, option=option))["run"]
        until(lambda: self._outcome(run), "succeeded", run, ARRIVES_S)
        result = self._here.runs.get(run).result
        if client == "incremental":
            must_be_incremental({**result, "run": run})
        seconds = committed_at(self._desk, run) - began
        return Turn(seconds, result.get("quiesce_window_s"), 0.0, 0)

    def _outcome(self, run: str) -> str:
        row = self._here.runs.get(run)
        return f"error: {row.reason}" if row.state in ("failed", "aborted") else row.state


def each_minute(
    point: Callable[[int], object],
    points: int,
    *,
    every_s: float = 60.0,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Make points at a steady pace; the numbers of those that were missed: failed, or not whole
    when the next was due.

    Args:
        point: makes one; raises ClientFailed or Failed.
        points: how many.
        every_s: seconds from one to the next.
    """
    began, missed = now(), list[int]()
    for number in range(points):
        if (early_s := began + number * every_s - now()) > 0:
            sleep(early_s)
        try:
            point(number)
        except (ClientFailed, Failed) as failure:
            say(f"point {number} FAILED: {failure}")
            missed.append(number)
            continue
        if now() > began + (number + 1) * every_s:
            missed.append(number)
    return missed


def measure(points: Points, site: Any, rounds: int) -> list[verdict.Sample]:
    """The samples of all rounds, the clients in another order each time."""
    samples: list[verdict.Sample] = []
    for number in range(1, rounds + 1):
        first = (number - 1) % len(CLIENTS)
        for client in CLIENTS[first:] + CLIENTS[:first]:
            canary.fill(site, CHANGED_MIB, seed=time.time_ns())
            turn = points.turn(client, number)
            values = {"states_s": turn.seconds}
            if turn.calls:  # a service has no process of a point
                values |= {"states_cpu_s": turn.cpu_s, "states_calls": float(turn.calls)}
            samples += [verdict.Sample(number, client, m, v) for m, v in values.items()]
            say(f"round {number} {client:11} {turn.seconds:6.1f} s")
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 when everything was measured, 1 when not, or with --strict when a goal was
    missed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.replicated", description=__doc__)
    parser.add_argument("act", nargs="?", choices=["measure", "floor"], default="measure")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken (default 3)")
    parser.add_argument(
        "--minutes", type=int, default=0, help="then a point each minute, for so long (default 0)"
    )
    parser.add_argument("--gib", type=at_least_one, default=1, help="of a data volume (default 1)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--vnf", type=Path, default=EXAMPLE, help=argparse.SUPPRESS)
    parser.add_argument("--name", default=NAME, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, stop)
    vnf = read_vnf(given.vnf)
    if given.act == "floor":
        print(json.dumps(floor(vnf, given.name)))
        return 0
    if not all(extras.has(site, extras.REPLICATION) for site in SITES.values()):
        print("replicated points are not measured: lab up --with replication", file=sys.stderr)
        return 0
    return _measured(given, vnf)


def _measured(given: argparse.Namespace, vnf: Vnf) -> int:
    folder, site = BUILD / "bench-replicated", SITES[vnf.primary]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        canary.create(site)
        found = find(vnf)
        before = tidy.belongings(found)
        canary.fill(site, FILL_MIB)
        vault = f"antipode-bench-{time.time_ns()}"
        desk = Desk((folder / "antipode").resolve(), vault=vault)
        points = Points(given.vnf, vnf, folder, desk)
        with volumes.extended(found, given.gib):
            try:
                points.prepare()
                with points.served():
                    samples = measure(points, site, given.rounds)
                    missed = each_minute(lambda n: points.turn("antipode", 1000 + n), given.minutes)
            finally:
                tidy.thaw_all(found)
                tidy.remove_new(found, before)
                remove_vault(Cloud(BACKUP_STORE.name), vault)
    except (ClientFailed, Failed, LabError, NotMeasured) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    middle = verdict.medians(samples)
    verdicts = verdict.judge(middle, verdict.GOALS_OF_STATES)
    minutes = {"points": given.minutes, "missed": missed}
    document = {
        **verdict.report(samples, given.rounds),
        "gib": given.gib,
        "each_minute": minutes,
    }
    document["goals_of_states"] = [str(v) for v in verdicts]
    (BUILD / "bench-replicated.json").write_text(json.dumps(document, indent=1))
    print(json.dumps(middle, indent=1))
    print(*(str(v) for v in verdicts), sep="\n")
    if given.minutes:
        print(f"a point each minute for {given.minutes} minutes: {len(missed)} missed")
    is_met = not missed and all(v.met is not False for v in verdicts)
    return 1 if given.strict and not is_met else 0


if __name__ == "__main__":
    sys.exit(main())
