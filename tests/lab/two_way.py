# SPDX-License-Identifier: Apache-2.0
"""Two sites of which each is the backup of the other: a desk that knows a vault and a store at
each, and how a VNF is carried from one to the other.

What a site backs up lies at the other one. So cinder-backup of both sites uses, during each move,
the store of the site that the VNF moves to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from antipode.sandbox.story import recovered_last
from lab import canary
from lab.checker import check
from lab.desk import STORAGE, Desk
from lab.services.openstack_conf import KEYSTONE_PORT
from lab.site import BACKUP_STORE, SITES, Site
from tests.lab.substitute import own, substituted

VNF = "canary"
REPLICATION = "replication"


def two_way(folder: Path) -> Desk:
    """A desk that knows a vault and a store at each site; what a site backs up is at the other."""
    name = f"antipode-test-{time.time_ns()}"
    desk = Desk(folder, name)
    known = yaml.safe_load(desk.configuration.read_text())
    del known["vault"], known["backup_store"]
    first, second = SITES
    known["sites"] = {
        here: {"cloud": here, "store": f"at-{there}"}
        for here, there in ((first, second), (second, first))
    }
    known["vaults"] = {f"at-{s}": {"swift": {"site": s, "container": name}} for s in SITES}
    known["stores"] = {f"at-{s}": {"cloud": f"{s}-backup", "site": s} for s in SITES}
    desk.configuration.write_text(yaml.safe_dump(known, sort_keys=False))
    return desk


@contextmanager
def backups_at(store: Site, folder: Path) -> Iterator[None]:
    """While the block is executed, cinder-backup of both sites uses the object storage of one."""
    if store == BACKUP_STORE:
        yield  # it does so by itself
        return
    with ExitStack() as stack:
        for site in SITES.values():
            changed = site.etc / "cinder" / "another-store.conf"
            url = store.url(KEYSTONE_PORT, "/v3")
            changed.write_text(f"[DEFAULT]\nbackup_swift_auth_url = {url}\n")
            stack.callback(changed.unlink)
            command = [*own(site).command, "--config-file", str(changed)]
            log = folder / f"cinder-backup-{site.name}.log"
            stack.enter_context(substituted(site, command, log))
        yield


def boots(site: Site) -> dict[str, int]:
    return {role: member["boot"] for role, member in canary.state(site).items()}


def assert_nothing_was_lost(left: Site, reached: Site, last_boots: dict[str, int]) -> None:
    """The last record of each member from before its move is the same on both copies."""
    written, there = check(canary.records(left)), check(canary.records(reached))
    for report in (written, there):
        assert report.consistent, json.dumps(report.as_json(), indent=1)
    assert recovered_last(there, last_boots) == recovered_last(written, last_boots)


def file_of(option: str) -> dict[str, Any]:
    """What the VNF file says of an option."""
    protections = [{"option": option, "quiesce": {"timeout": "60s"}}]
    if option != REPLICATION:
        return {"protections": protections}
    return {"protections": protections, "datastores": {"disks": {"storage": STORAGE}}}


@contextmanager
def carried_to(there: Site, option: str, desk: Desk, folder: Path) -> Iterator[None]:
    """While the block is executed, what a site protects gets to the other one."""
    if option != REPLICATION:
        with backups_at(there, folder):
            yield
        return
    desk.tell("datastore", "prepare", VNF, "--wait", timeout=3600)
    yield
