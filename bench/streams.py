# SPDX-License-Identifier: Apache-2.0
"""An increment by change streams beside Cinder's incremental backup of the same changes: `python -m
bench.streams`, on the lab.

What changes is a volume that no server has, in one piece or in scattered blocks as a database
writes them. Two installations protect the same member with it, by streams and by backups, each in
turn the first. Time is that of the transfer alone: the capture is the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from keystoneauth1.exceptions import ClientException

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.model.steps import Steps
from antipode.model.vnf import Vnf
from antipode.operations.recovery_points import recovery_point
from antipode.transfer.change_streams import CONTAINER, StreamSteps
from bench import tidy
from bench.__main__ import BUILD, FILL_MIB, say
from bench.clients import client_environment
from bench.cloud import Cloud, Failed, Json, await_status
from bench.floor import discover, read_vnf, stop
from bench.restores import at_least_one, remove
from bench.spent import ClientFailed, run
from lab import canary, inside, storage, supervision
from lab.desk import EXAMPLE, Desk
from lab.errors import LabError
from lab.services import identity
from lab.services.ceph import POOL
from lab.site import BACKUP_STORE, SITES, Site

NAME = "bench-streams"
CHANGED, BLOCK = 5 << 20, 4 << 10
"""Bytes that change before an increment, and of one of the scattered writes."""
MADE_S = 300.0
TIMES, BYTES = {"contiguous": 5.0, "scattered": 10.0}, 1.2
"""Goals: an increment is so many times shorter than Cinder's, and stores at most so many times what
has changed.
"""
TRANSFERS = {"streams": "change_stream", "backups": "cinder_backup"}
STEPS = (StreamSteps.STREAM.words, Steps.START_BACKUP.words, Steps.BACK_UP.words)
"""In which bytes are read and stored."""
SERVICES = {
    "site-a": ("cinder-backup", "ceph-osd"),
    BACKUP_STORE.name: tuple(
        f"swift-{kind}-server" for kind in ("account", "container", "object", "proxy")
    ),
}
"""Programs whose CPU time is counted beside that of the client."""
_WRITE = """
import json, os, rados, rbd, sys
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(sys.argv[1]) as io:
    with rbd.Image(io, sys.argv[2]) as image:
        for offset, length in json.loads(sys.argv[3]):
            image.write(os.urandom(length), offset)
        image.flush()
"""


@dataclass(frozen=True)
class Increment:
    """What was measured of one increment."""

    kind: str
    by: str
    seconds: float
    """of the transfer"""
    bytes: int
    """that it stored of the changed volume"""
    cpu_s: float
    """of the command with its processes"""
    services_cpu_s: float
    """of the services that read and store meanwhile"""


def ranges(kind: str, seed: int) -> list[tuple[int, int]]:
    """Where the volume is written, within the part of it that has data: offset and length."""
    if kind == "contiguous":
        return [((seed % (FILL_MIB - 10)) << 20, CHANGED)]
    places = random.Random(seed).sample(range((FILL_MIB << 20) // BLOCK), CHANGED // BLOCK)
    return [(place * BLOCK, BLOCK) for place in places]


def write(site: Site, volume: str, where: Sequence[tuple[int, int]]) -> None:
    script = ["python3", "-c", _WRITE, POOL, f"volume-{volume}", json.dumps(where)]
    inside.run(site, script, timeout=MADE_S)


def cpu_s(services: Mapping[str, Sequence[str]]) -> float:
    """The CPU seconds that programs of sites have used until now, with their children."""
    used = 0.0
    for name, programs in services.items():
        outer = inside.pids(SITES[name])
        known = supervision.processes(SITES[name])
        for program in programs:
            root = psutil.Process(outer[known[program]["pid"]])
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    used += sum(process.cpu_times()[:2])
    return used


class Side:
    """An installation that protects in one of the two ways."""

    def __init__(self, by: str, vnf: Vnf, folder: Path) -> None:
        self.by, self.name = by, f"{NAME}-{by}-{int(time.time())}"
        self._folder = folder
        vault = f"antipode-bench-{time.time_ns()}"
        self._desk = Desk((folder / by).resolve(), vault, has_mover=True)
        file = folder / f"{self.name}.yaml"
        fields = vnf.model_dump(mode="json", exclude_none=True)
        protection = {"option": "quiesced-snapshot", "transfer": TRANSFERS[by]}
        changes = {"vnf": self.name, "volumes": [NAME], "protections": [protection]}
        file.write_text(json.dumps({**fields, **changes}))  # JSON is YAML
        self._desk.tell("vnf", "add", str(file))

    def protect(self, kind: str, volume: str, number: int) -> Increment:
        """One recovery point, and what its transfer took.

        Raises:
            ClientFailed: it was not transferred as it should.
        """
        binary = str(Path(sys.executable).with_name("antipode"))
        where = {**client_environment(), "ANTIPODE_CONFIG": str(self._desk.configuration)}
        before = cpu_s(SERVICES)
        log = self._folder / f"{self.by}-{kind}-{number}.log"
        spent = run([binary, "protect", self.name, "-f", "json"], where, log)
        services_cpu_s = cpu_s(SERVICES) - before
        made = json.loads(spent.output)
        steps = [
            s for s in self._desk.ask("run", "show", made["run"])["steps"] if s["step"] in STEPS
        ]
        if (self.by == "streams") != ({s["step"] for s in steps} == {STEPS[0]}):
            raise ClientFailed(f"{self.by}: not all volumes went so: {steps}")
        began = min(datetime.fromisoformat(s["started_at"]) for s in steps)
        ended = max(datetime.fromisoformat(s["ended_at"]) for s in steps)
        return Increment(
            kind=kind,
            by=self.by,
            seconds=(ended - began).total_seconds(),
            bytes=self._stored(made, volume),
            cpu_s=spent.cpu_s,
            services_cpu_s=services_cpu_s,
        )

    def _stored(self, made: Json, volume: str) -> int:
        """The bytes that a point has added to the store for a volume."""
        deployment = Deployment(config.load(str(self._desk.configuration)))
        point = recovery_point(deployment, self.name, made["recovery_point"]).point
        return point.sources[volume].new_bytes or 0


@contextmanager
def spare(site: Cloud, kind: str) -> Iterator[Json]:
    """A volume that no server has, with random data on its beginning."""
    body = {"size": 1, "name": NAME, "volume_type": kind}
    made: Json = site.volume.post("/volumes", json={"volume": body}).json()["volume"]
    try:
        await_status(site.volume, "volume", made["id"], "available", MADE_S)
        write(SITES[site.name], made["id"], [(i << 20, 1 << 20) for i in range(FILL_MIB)])
        yield made
    finally:
        remove(site, "volume", made["id"])


def forget_streams() -> None:
    """Remove all objects of the bench's streams."""
    store: Any = identity.connect(BACKUP_STORE, "backup", "backup").object_store
    for item in list(store.objects(CONTAINER, prefix=NAME)):
        store.delete_object(item.name, container=CONTAINER)


def measured(vnf: Vnf, found: tidy.Vnf, folder: Path, rounds: int) -> list[Increment]:
    """The increments of all rounds; whatever the bench leaves is removed."""
    site = found.primary
    samples: list[Increment] = []
    with spare(site, found.volumes[-1]["type"]) as volume:
        mine = {**volume, "type": volume["volume_type"]}
        servers = [{**s, "volumes": [*s["volumes"], mine]} for s in found.servers]
        ours = tidy.Vnf(found.primary, found.backup, servers)
        before = tidy.belongings(ours)
        try:
            sides = [Side(by, vnf, folder) for by in TRANSFERS]
            for side in sides:
                say(f"full: {side.protect('full', volume['id'], 0)}")
            for number in range(1, rounds + 1):
                for kind in TIMES:
                    write(SITES[site.name], volume["id"], ranges(kind, time.time_ns()))
                    for side in sides:
                        samples.append(side.protect(kind, volume["id"], number))
                        say(f"round {number}: {samples[-1]}")
                sides.reverse()
        finally:
            tidy.thaw_all(ours)
            tidy.remove_new(ours, before)
            forget_streams()
    return samples


def judged(samples: Sequence[Increment]) -> list[str]:
    """Each goal and what was measured of it, by the medians of the rounds."""

    def middle(kind: str, by: str, field: str) -> float:
        return float(median(getattr(s, field) for s in samples if (s.kind, s.by) == (kind, by)))

    lines = []
    for kind, wanted in TIMES.items():
        ours, theirs = (middle(kind, by, "seconds") for by in TRANSFERS)
        stored, by_cinder = (middle(kind, by, "bytes") for by in TRANSFERS)
        cpu = [middle(kind, by, f) for by in TRANSFERS for f in ("cpu_s", "services_cpu_s")]
        is_met = "met" if theirs / ours >= wanted else "NOT MET"
        lines.append(
            f"{kind}: increment by a stream {ours:.2f} s, by cinder-backup {theirs:.2f} s:"
            f" {wanted:g} x shorter: {theirs / ours:.1f} x, {is_met}"
        )
        is_met = "met" if stored / CHANGED <= BYTES else "NOT MET"
        lines.append(
            f"{kind}: stored {stored:.0f} bytes of {CHANGED} changed, cinder-backup"
            f" {by_cinder:.0f}: at most {BYTES:g} x: {stored / CHANGED:.2f} x, {is_met}"
        )
        lines.append(
            f"{kind}: CPU of command and services {cpu[0]:.1f} + {cpu[1]:.1f} s, with"
            f" cinder-backup {cpu[2]:.1f} + {cpu[3]:.1f} s"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 when everything was measured, 1 when not, or with --strict when a goal was
    missed.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--rounds", type=at_least_one, default=3, help="3 by default")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, stop)
    os.environ |= client_environment()
    if storage.missing:
        print(f"change streams are not measured: {storage.missing}", file=sys.stderr)
        return 0
    folder, whole = BUILD / "bench-streams", read_vnf(EXAMPLE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    last = whole.members[-1].model_copy(update={"boot_before": [], "boot_after": []})
    vnf = whole.model_copy(update={"members": [last]})
    try:
        canary.create(SITES[vnf.primary])
        primary, backup = Cloud(vnf.primary), Cloud(vnf.backup[0])
        found = tidy.Vnf(primary, backup, discover(vnf, primary))
        samples = measured(vnf, found, folder, given.rounds)
    except (ClientException, ClientFailed, Failed, LabError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    verdicts = judged(samples)
    document = {
        "changed_bytes": CHANGED,
        "increments": [asdict(s) for s in samples],
        "goals": verdicts,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    (BUILD / "bench-streams.json").write_text(json.dumps(document, indent=1))
    print(*verdicts, sep="\n")
    return 1 if given.strict and any("NOT MET" in v for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
