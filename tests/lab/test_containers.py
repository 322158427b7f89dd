# SPDX-License-Identifier: Apache-2.0
"""A VNF whose objects Swift's container sync carries to the other real site: they are there byte
by byte when every process of site-a was killed, and what keeps them from arriving is seen.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.datastores.swift_marker import NAME as MARKER
from lab import canary, power, wan
from lab.checker import check
from lab.desk import PROJECT as TREE
from lab.desk import Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.containers import PATIENCE_S, Container, arrives, refusals
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab
VNF, MEDIA = "canary", "media"
PREPARE = ("datastore", "prepare", VNF, "--wait")
SIZES = {"empty": 0, "one byte": 1, "Gerät/ß": 2**16, "large": 3 * 2**20 + 7}
"""Objects by their names, and their bytes."""


@pytest.fixture(scope="module", autouse=True)
def with_replication() -> None:
    add_replication()


class Media:
    """The container of the VNF, and what is known of it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.container = Container(f"test-{secrets.token_hex(4)}", "")
        secret = desk.folder / "media.secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        settings = {
            "containers": [self.container.name],
            "secret": str(secret),
            "stale_after": "1m",
        }
        known = yaml.safe_load(desk.configuration.read_text())
        sites = {site: {"cloud": site, **settings} for site in SITES}
        known["storages"]["objects"] = {"driver": "swift", "sites": sites}
        desk.configuration.write_text(yaml.safe_dump(known, sort_keys=False))

    def objects(self, site: Site) -> dict[str, bytes]:
        """All that is in the container, but for antipode's own."""
        listed = self.container.request("GET", site, params={"format": "json"}).json()
        names = [entry["name"] for entry in listed if entry["name"] != MARKER]
        contents = {name: self.container.get(site, name) for name in names}
        return {name: content for name, content in contents.items() if content is not None}

    def status(self) -> dict[str, dict[str, Any]]:
        """What `datastore status` says of the container, by site."""
        done = self.desk.run("datastore", "status", VNF, "-f", "json")
        rows = json.loads(done.stdout)
        return {row["site"]: row for row in rows if row["datastore"] == MEDIA}

    def health(self, site: Site) -> str:
        return str(self.status()[site.name]["health"])


@pytest.fixture
def media(
    site_a: Site, site_b: Site, tmp_path: Path, vnf_file: Callable[..., Path]
) -> Iterator[Media]:
    """The canary runs at site-a, and its container is followed at site-b."""
    canary.remove(site_b)
    canary.create(site_a)
    made = Media(Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}"))
    store = {"storage": "objects", "kind": "application", "arrives_within": "3m"}
    protection = {"option": "quiesced-snapshot", "quiesce": {"timeout": "60s"}}
    file = vnf_file(
        datastores={MEDIA: store}, protections=[protection], store_at_active_site="accepted"
    )
    made.desk.tell("vnf", "add", str(file))
    made.desk.tell(*PREPARE)
    yield made
    for site in SITES.values():
        canary.remove(site)
        made.container.remove(site)


def test_a_killed_site_has_each_object_at_the_other_byte_by_byte(
    media: Media, site_a: Site, site_b: Site
) -> None:
    written = {name: secrets.token_bytes(size) for name, size in SIZES.items()}
    for name, content in {**written, "gone": b"gone"}.items():
        media.container.put(site_a, name, content)
    media.container.request("DELETE", site_a, "gone").raise_for_status()
    canary.wait_for_records(site_a, 10)
    point = media.desk.ask("protect", VNF)["recovery_point"]
    found = media.status()
    assert found[site_b.name]["newest_point"] == point

    assert power.off(site_a)
    try:
        media.desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        assert media.objects(site_b) == written
        assert check(canary.records(site_b)).consistent
        servers = identity.connect(site_b, "antipode", PROJECT).compute.servers()
        references = {s.metadata[f"antipode:datastore:{MEDIA}"] for s in servers}
        assert references == {found[site_b.name]["reference"]}
        media.container.put(site_b, "new", b"new")
    finally:
        subprocess.run([sys.executable, "-m", "lab", "revive", site_a.name], cwd=TREE, check=True)

    # the old site has returned, and nothing of what it sends is taken
    refused = refusals(site_a, media.container)
    media.container.put(site_a, "late", b"late")
    wait_until(
        lambda: refusals(site_a, media.container) > refused, "the daemon was refused", PATIENCE_S
    )
    assert media.objects(site_b) == {**written, "new": b"new"}
    media.container.request("DELETE", site_a, "late").raise_for_status()
    assert media.desk.run("datastore", "prepare", VNF).returncode == 1
    media.desk.tell(*PREPARE, "--overwrite", site_a.name)
    arrives(media.container, site_a, "new", b"new")
    assert media.objects(site_a) == media.objects(site_b)


def test_a_key_that_is_wrong_and_a_link_that_is_cut_are_seen_and_mended(
    media: Media, site_a: Site, site_b: Site
) -> None:
    desk, container = media.desk, media.container
    desk.ask("protect", VNF)
    container.request("POST", site_b, headers={"X-Container-Sync-Key": "another"})
    container.put(site_a, "refused", b"1")  # Swift answers 201
    wait_until(lambda: refusals(site_a, container) > 0, "the daemon was refused", PATIENCE_S)
    assert media.health(site_b) == "broken"
    failed = desk.run("protect", VNF, "-f", "json")
    assert json.loads(failed.stderr.splitlines()[-1])["error"]["code"] == "preflight-failed"
    assert container.get(site_b, "refused") is None
    desk.tell(*PREPARE)
    arrives(container, site_b, "refused", b"1")
    replicates(media, site_b)

    wan.part(site_a, site_b)
    try:
        container.put(site_a, "held up", b"2")
        wait_until(
            lambda: media.health(site_b) == "stopped", "the copy is seen to be old", PATIENCE_S, 2
        )
        assert container.get(site_b, "held up") is None
    finally:
        wan.reunite(site_a, site_b)
    arrives(container, site_b, "held up", b"2")
    desk.tell(*PREPARE)
    replicates(media, site_b)
    desk.ask("protect", VNF)
    assert len(desk.ask("recovery-point", "list", VNF)) == 2


def replicates(media: Media, site: Site) -> None:
    """Return when the copy is seen to follow: a look at the original has a new marker sent."""
    wait_until(lambda: media.health(site) == "replicating", "it replicates", PATIENCE_S, 2)
