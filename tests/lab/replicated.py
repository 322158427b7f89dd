# SPDX-License-Identifier: Apache-2.0
"""The canary on replicated volumes: made, protected and looked at by the tests of option 3."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antipode.sandbox.story import recovered_last
from lab import canary
from lab.checker import check
from lab.desk import STORAGE, Desk
from lab.services.operator_rbd import replication_settings
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.awaited import AwaitedWitness

VNF = "canary"
PREPARE = ("datastore", "prepare", VNF, "--wait")


def file_of_replicated(**protection: Any) -> dict[str, Any]:
    """What its VNF file says, with other values of its protection."""
    known = {"option": "replication", "quiesce": {"timeout": "60s"}}
    datastores = {"disks": {"storage": STORAGE}}
    return {"datastores": datastores, "protections": [{**known, **protection}]}


@contextmanager
def replicated_canary(folder: Path, vnf_file: Callable[..., Path]) -> Iterator[Desk]:
    """It runs at site-a, and its volumes are replicated to site-b; in the end it is at neither."""
    for site in SITES.values():
        canary.remove(site)
    canary.create(SITES["site-a"])
    desk = Desk(folder, f"antipode-test-{time.time_ns()}")
    desk.tell("vnf", "add", str(vnf_file(**file_of_replicated())))
    desk.tell(*PREPARE)
    yield desk
    for site in SITES.values():
        canary.remove(site)


@dataclass
class Made:
    """A recovery point, and what the members had made durable when it was made."""

    record: dict[str, Any]
    frozen_last: dict[str, int]
    boots: dict[str, int]


def protect(desk: Desk) -> Made:
    site_a = SITES["site-a"]
    servers = canary.create(site_a)
    canary.wait_for_records(site_a, 20)
    with AwaitedWitness(site_a, servers) as witness:
        record = desk.ask("protect", VNF)
    assert witness.sightings and not witness.disagreements
    boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
    return Made(record, witness.frozen_last, boots)


def assert_recovered(site: Site, made: Made) -> None:
    """The VNF works there, its chain is whole, and it has each record of the point and no other."""
    canary.wait_for_records(site, 10)
    report = check(canary.records(site))
    assert report.consistent, report
    assert recovered_last(report, made.boots) == made.frozen_last


def healths(desk: Desk, site: Site) -> Counter[str]:
    """How the copies of a site are, by what antipode says: health -> volumes."""
    done = desk.run("datastore", "status", VNF, "-f", "json")
    return Counter(row["health"] for row in json.loads(done.stdout) if row["site"] == site.name)


def replicates(desk: Desk, site: Site) -> None:
    """Return when all copies of a site follow their originals."""
    wait_until(lambda: set(healths(desk, site)) == {"replicating"}, "all volumes replicate", 600, 2)


def refusal(desk: Desk, *command: str) -> str:
    """The code of the error by which a command fails."""
    done = desk.run(*command, "-f", "json")
    assert done.returncode, done
    return str(json.loads(done.stderr.splitlines()[-1])["error"]["code"])


def storage_states(site: Site) -> dict[str, set[str]]:
    """The snapshots of each image of a site, asked of Ceph and not of antipode."""
    images = [i for i in asked(site, "ls", "volumes") if i.startswith("volume-")]
    return {i: {s["name"] for s in asked(site, "snap", "ls", f"volumes/{i}")} for i in images}


def asked(site: Site, *arguments: str) -> Any:
    """What the operator's `rbd` answers."""
    command = [str(replication_settings(site).rbd), *arguments, "--format", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
