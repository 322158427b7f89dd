# SPDX-License-Identifier: Apache-2.0
"""The canary on replicated volumes: made, protected and looked at by the tests of option 3."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
    images = [i for i in storage_states(SITES["site-a"]) if is_mirrored(SITES["site-a"], i)]
    yield desk
    for site in SITES.values():
        canary.remove(site)
    remove_images(images)


def is_mirrored(site: Site, image: str) -> bool:
    mirroring = asked(site, "info", f"volumes/{image}").get("mirroring", {})
    return bool(mirroring.get("state") == "enabled")


def remove_images(images: Collection[str]) -> None:
    """Remove what is left of images at both sites: a replica that was promoted stays when Cinder
    deletes its volume, and rbd-mirror copies it back.
    """

    def are_gone() -> bool:
        left = [
            (s, i) for s in SITES.values() for i in set(asked(s, "ls", "volumes")) & set(images)
        ]
        for site, image in left:  # all of them first, so that none is copied meanwhile
            rbd(site, "mirror", "image", "disable", "--force", f"volumes/{image}", check=False)
        for site, image in left:
            # of an image that was a replica nothing can be removed otherwise
            rbd(site, "feature", "disable", f"volumes/{image}", "journaling", check=False)
            for state in snapshots(site, image):
                rbd(site, "snap", "unprotect", f"volumes/{image}@{state}", check=False)
            for words in (("snap", "purge"), ("rm",)):
                rbd(site, *words, "--no-progress", f"volumes/{image}", check=False)
        return not left

    wait_until(are_gone, "no image is left", 600, 2)


def snapshots(site: Site, image: str) -> set[str]:
    """The snapshots of an image of a site, if it is there."""
    listed = rbd(site, "snap", "ls", f"volumes/{image}", "--format", "json", check=False)
    return {s["name"] for s in json.loads(listed or "[]")}


def keep_points_at_a_third_place(desk: Desk) -> None:
    """A VNF is not protected at the site that has its only vault."""
    place = desk.folder / "third-place"
    place.mkdir()
    known = yaml.safe_load(desk.configuration.read_text())
    known["vault"] = {"directory": str(place)}
    desk.configuration.write_text(yaml.safe_dump(known, sort_keys=False))


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
    return {image: snapshots(site, image) for image in images}


def asked(site: Site, *arguments: str) -> Any:
    """What the operator's `rbd` answers."""
    return json.loads(rbd(site, *arguments, "--format", "json"))


def rbd(site: Site, *arguments: str, check: bool = True) -> bytes:
    """Have the operator's `rbd` do something; what it says."""
    command = [str(replication_settings(site).rbd), *arguments]
    return subprocess.run(command, check=check, capture_output=True).stdout
