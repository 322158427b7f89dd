# SPDX-License-Identifier: Apache-2.0
"""The ways in of the bench: rounds of the three clients, interleaved; the table, the goals and
build/bench.json, or build/bench-10-volumes.json of a VNF with so many.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from keystoneauth1.exceptions import ClientException

from antipode.model.vnf import Vnf
from bench import engine, tidy, verdict, volumes
from bench.clients import Act, Antipode, Client, CommandLine, Floor, remove_vault
from bench.cloud import Cloud, Failed
from bench.floor import discover, read_vnf, stop
from bench.spent import ClientFailed
from lab import canary
from lab.desk import EXAMPLE
from lab.errors import LabError
from lab.site import BACKUP_STORE, SITES

BUILD = Path("build")
FILL_MIB, CHANGED_MIB = 200, 5
"""random data on each data volume, and how much of it changes before an increment"""
ACTS: dict[str | None, tuple[Act, ...]] = {
    None: ("full", "incremental", "recover"),
    "window": ("window",),
    "protect": ("full", "incremental"),
    "recover": ("full", "recover"),
}


class NotMeasured(Exception):
    """The bench cannot be run as things are; the message says what to do."""


def say(text: str) -> None:
    """Progress, on standard error: standard output is for the result."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def find(vnf: Vnf) -> tidy.Vnf:
    """The VNF where it runs.

    Raises:
        NotMeasured: it does not run at its primary site, or something of it is at the backup site
            already.
    """
    primary, backup = Cloud(vnf.primary), Cloud(vnf.backup[0])
    running = {s["name"] for s in primary.servers() if s["status"] == "ACTIVE"}
    if missing := [m.server for m in vnf.members if m.server not in running]:
        raise NotMeasured(
            f"{', '.join(missing)} not ACTIVE at {vnf.primary}; see: python -m lab.canary"
        )
    if frozen := [
        s["name"]
        for s in primary.servers()
        if s["name"] in running and primary.is_quiesced(s["id"])
    ]:
        raise NotMeasured(
            f"{', '.join(frozen)} at {vnf.primary} is quiesced: another run is under way, or "
            "died; see: antipode run list"
        )
    found = tidy.Vnf(primary, backup, discover(vnf, primary))
    if there := tidy.standing_in_the_way(found):
        raise NotMeasured(
            f"a recovered VNF would collide with what is there: {'; '.join(there)}; remove that "
            "first"
        )
    return found


def take_turn(
    client: Client, round: int, acts: Sequence[Act], vnf: tidy.Vnf, samples: list[verdict.Sample]
) -> None:
    """All acts of one client in one round, put into `samples`; whatever it leaves is removed, and
    it leaves nothing frozen.
    """
    before = tidy.belongings(vnf)
    try:
        for act in acts:
            if act == "incremental":
                canary.fill(SITES[vnf.primary.name], CHANGED_MIB, seed=time.time_ns())
            turn = client.act(act, round)
            values = {f"{act}_cpu_s": turn.cpu_s, f"{act}_calls": float(turn.calls)}
            if act != "window":
                values[f"{act}_s"] = turn.seconds
            if turn.window_s is not None:
                values["window_s"] = turn.window_s
            samples += [
                verdict.Sample(round, client.name, measure, value)
                for measure, value in values.items()
            ]
            window = "" if turn.window_s is None else f", window {turn.window_s:.2f} s"
            say(f"round {round} {client.name:9} {act:12} {turn.seconds:6.1f} s{window}")
    except BaseException:
        tidy.thaw_all(vnf)
        raise
    finally:
        tidy.remove_new(vnf, before)


def measure(
    options: argparse.Namespace, vnf: Vnf, found: tidy.Vnf, folder: Path
) -> tuple[list[verdict.Sample], list[str]]:
    """The samples of all rounds, and what failed; a client that fails ends its turn only, a site
    that fails or a signal ends the bench.
    """
    antipode = Antipode(vnf, folder, time.strftime("%H%M%S"))
    floor = Floor(EXAMPLE, folder)
    clients: list[Client] = [floor, antipode, CommandLine(vnf, folder)]
    acts, samples, failures = ACTS[options.only], list[verdict.Sample](), list[str]()
    try:
        if not options.cold:
            say(
                "warming up: one untimed turn of the floor, so that no client pays for what only "
                "the first one meets"
            )
            take_turn(floor, 0, [a for a in acts if a != "incremental"], found, [])
        for number, client in _turns(clients, options):
            try:
                take_turn(client, number, acts, found, samples)
            except ClientFailed as failure:
                say(f"round {number} {client.name} FAILED: {failure}")
                failures.append(f"round {number}, {client.name}: {failure}")
        remove_vault(Cloud(BACKUP_STORE.name), antipode.vault)
    except (ClientException, Failed, LabError, KeyboardInterrupt, SystemExit) as error:
        failures.append(f"ended early: {type(error).__name__} {error}")
    return samples, failures


def _turns(clients: list[Client], options: argparse.Namespace) -> Iterator[tuple[int, Client]]:
    """Round after round, each begun by another client, so that what drifts on the machine hits all
    alike.
    """
    for number in range(1, options.rounds + 1):
        first = (number - 1) % len(clients)
        for client in clients[first:] + clients[:first]:
            if client.name != "cli" or number <= options.cli_rounds:
                yield number, client


def main() -> int:
    """Run the bench; 0 when everything was measured (goals missed or not), 1 when not, or with
    --strict when a goal was missed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="antipode beside a floor and the openstack command, on the lab",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="rounds of antipode and the floor; medians are taken (default 3)",
    )
    parser.add_argument(
        "--cli-rounds",
        type=int,
        default=1,
        help="in how many of them the openstack command takes part (default 1)",
    )
    parser.add_argument(
        "--skip-cli",
        dest="cli_rounds",
        action="store_const",
        const=0,
        help="leave the openstack command out",
    )
    parser.add_argument(
        "--only",
        choices=[a for a in ACTS if a],
        help="measure only this (recover: from full backups)",
    )
    parser.add_argument(
        "--volumes",
        type=int,
        default=volumes.OWN,
        help=f"how many the VNF has, {volumes.OWN} or more (default {volumes.OWN})",
    )
    parser.add_argument("--cold", action="store_true", help="no untimed turn first")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("-f", "--format", choices=["table", "json"], default="table")
    options = parser.parse_args()
    if options.volumes < volumes.OWN:
        parser.error(f"--volumes: the VNF has {volumes.OWN} by itself")
    signal.signal(signal.SIGTERM, stop)
    folder = BUILD / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vnf = read_vnf(EXAMPLE)
    try:
        say(f"the VNF at {vnf.primary}, with {FILL_MIB} MiB of random data on each data volume")
        canary.create(SITES[vnf.primary])
        volumes.have(SITES[vnf.primary], options.volumes, FILL_MIB)
        found = find(vnf)
        canary.fill(SITES[vnf.primary], FILL_MIB)
    except (ClientException, Failed, LabError, NotMeasured) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    began, load = time.time(), os.getloadavg()[0]
    samples, failures = measure(options, vnf, found, folder)
    say("the engine by itself")
    costs = engine.measure()
    document = {
        **verdict.report(samples, options.rounds),
        "engine": costs.as_json(),
        "failures": failures,
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "took_s": time.time() - began,
        "machine": {"cpus": os.cpu_count(), "load_at_start": load},
        "vnf": {
            "members": len(found.servers),
            "volumes": len(found.volumes),
            "gib": sum(v["size"] for v in found.volumes),
        },
    }
    name = "bench" if options.volumes == volumes.OWN else f"bench-{options.volumes}-volumes"
    (BUILD / f"{name}.json").write_text(json.dumps(document, indent=1))
    middle = verdict.medians(samples)
    verdicts = verdict.judge(middle)
    if options.format == "json":
        print(json.dumps(document, indent=1))
    else:
        print(verdict.table(middle))
        on_engine = costs.lines(middle.get("incremental_s", {}).get("antipode"))
        print(*(str(v) for v in verdicts), *on_engine, *failures, sep="\n")
    return 1 if failures or (options.strict and any(v.met is False for v in verdicts)) else 0


if __name__ == "__main__":
    sys.exit(main())
