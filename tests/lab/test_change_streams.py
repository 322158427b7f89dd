# SPDX-License-Identifier: Apache-2.0
"""Change streams of real Ceph: what `rbd export-diff` tells of the canary is enough to have its
volumes at the other site byte by byte, by antipode and by the documented reader alone, while their
site is dead. A chain of which a part is gone is refused at the choice of the point.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from antipode import change_stream
from antipode.sandbox.members import MEMBERS
from antipode.transfer.change_streams import CONTAINER
from antipode.vault.sealing import MANIFEST
from lab import canary, power, storage
from lab.desk import PROJECT as TREE
from lab.desk import Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import BACKUP_STORE, SITES, Site
from lab.waiting import wait_until
from tests.lab.captured import content, expect_what_was_frozen, protected
from tests.lab.holdings import what_is_there

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(storage.missing), reason=storage.missing),
]
VNF = "canary"
VOLUMES = 2 * len(MEMBERS)
FAILOVER = ("failover", VNF, "--to", "site-b", "--yes")
CHANGED_MIB = 5
COMPARED = {
    "name": "compared",
    "before": [m.server for m in MEMBERS],  # a guest would write its volumes
    "prompt": "Are the bytes of all volumes those that were captured?",
}


@dataclass
class Streamed:
    """The canary with two recovery points of change streams."""

    desk: Desk
    vault: str
    points: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    """what each protection says of its streams"""
    frozen_last: Mapping[str, int]
    boots: Mapping[str, int]
    captured: Mapping[str, str]
    """by the name of the volume, the SHA-256 of the snapshot of the second point"""


def store() -> Any:
    return identity.connect(BACKUP_STORE, "backup", "backup").object_store


def step_of(desk: Desk, run: str) -> dict[str, Any]:
    steps = desk.ask("run", "show", run)["steps"]
    [found] = [s["result"] for s in steps if s["step"] == "stream changes of volumes"]
    return dict(found)


def captured(site: Site) -> dict[str, str]:
    """The SHA-256 of the only snapshot of each volume of the VNF, by the name of the volume."""
    cloud = identity.connect(site, "antipode", PROJECT).block_storage
    names = {v.id: v.name for v in cloud.volumes() if v.name.startswith(f"{VNF}-")}
    kept = {s.volume_id: s.id for s in cloud.snapshots() if s.volume_id in names}
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda volume: content(site, volume, kept[volume]), kept)
        return dict(zip((names[volume] for volume in kept), found, strict=True))


@pytest.fixture(scope="module")
def streamed(
    tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]
) -> Iterator[Streamed]:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    for site in (site_a, site_b):
        canary.remove(site)
    canary.create(site_a)
    vault = f"antipode-test-{time.time_ns()}"
    desk = Desk(tmp_path_factory.mktemp("desk"), vault, has_mover=True)
    protection = {"option": "quiesced-snapshot", "quiesce": {"timeout": "60s"}}
    file = vnf_file(protections=[{**protection, "transfer": "change_stream"}], steps=[COMPARED])
    desk.tell("vnf", "add", str(file))
    try:
        first, _ = protected(desk, VNF)
        canary.fill(site_a, CHANGED_MIB)
        second, witness = protected(desk, VNF)
        boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
        steps = [step_of(desk, made["run"]) for made in (first, second)]
        last = witness.frozen_last
        yield Streamed(desk, vault, [first, second], steps, last, boots, captured(site_a))
    finally:
        for site in (site_a, site_b):
            canary.remove(site)
        for item in list(store().objects(CONTAINER, prefix=f"{VNF}/")):
            store().delete_object(item.name, container=CONTAINER)


def test_a_point_is_what_has_changed_since_the_one_before(streamed: Streamed, site_a: Site) -> None:
    first, second = streamed.steps
    assert (first["volumes"], first["incremental"], first["backed_up_instead"]) == (VOLUMES, 0, {})
    assert (second["volumes"], second["incremental"]) == (VOLUMES, VOLUMES)
    assert second["backed_up_instead"] == {}
    assert len(MEMBERS) * (CHANGED_MIB << 20) <= second["bytes"] < first["bytes"] / 2
    assert len(streamed.captured) == VOLUMES
    runs = {made["run"] for made in streamed.points}
    cloud = identity.connect(site_a, "antipode", PROJECT).block_storage
    assert not [b for b in cloud.backups() if b.metadata.get("antipode:run") in runs]


def sealed(streamed: Streamed, volume: str) -> dict[str, Any]:
    """The source of a volume in the manifest of the second point, as any reader finds it."""
    vault = identity.connect(BACKUP_STORE, "antipode", PROJECT).object_store
    name = f"{VNF}/{streamed.points[1]['recovery_point']}{MANIFEST}"
    envelope = json.loads(vault.download_object(name, streamed.vault))
    manifest = json.loads(base64.b64decode(envelope["payload"]))
    attached = (a for s in manifest["found"]["servers"] for a in s["attachments"])
    volumes = (a["volume"] for a in attached)
    [found] = [v["id"] for v in volumes if v["name"] == volume]
    return dict(manifest["sources"][found])


def test_the_documented_reader_alone_makes_the_captured_bytes_of_a_stream(
    streamed: Streamed, tmp_path: Path
) -> None:
    """As docs/change-stream.md says: an isolated Python, one file, and the objects as files."""
    name = f"{VNF}-db-data"
    delta = sealed(streamed, name)["deltas"][-1]
    for item in store().objects(CONTAINER, prefix=f"{VNF}/"):
        place = tmp_path / "got" / item.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(store().download_object(item.name, CONTAINER))
    reader = [sys.executable, "-I", change_stream.__file__, str(tmp_path / "got"), delta["prefix"]]
    image = tmp_path / "volume.raw"
    subprocess.run([*reader, str(image), "--sha256", delta["sha256"]], check=True)
    with image.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == streamed.captured[name]


def test_a_point_whose_base_is_gone_is_refused_before_anything_is_made(
    streamed: Streamed, site_b: Site
) -> None:
    base = streamed.points[0]["run"]
    name = max(o.name for o in store().objects(CONTAINER, prefix=f"{VNF}/{base}/"))
    kept = store().download_object(name, CONTAINER)
    before = what_is_there(site_b)
    store().delete_object(name, container=CONTAINER)
    try:
        refused = streamed.desk.run(*FAILOVER)
    finally:
        store().upload_object(CONTAINER, name, data=kept, generate_checksums=False)
    assert refused.returncode == 3
    assert name.split("/")[2] in refused.stderr  # the delta
    assert what_is_there(site_b) == before


def test_a_dead_sites_volumes_are_there_byte_by_byte_and_boot(
    streamed: Streamed, site_a: Site, site_b: Site
) -> None:
    desk = streamed.desk
    assert power.off(site_a)
    try:
        failover = desk.start(*FAILOVER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: asks(desk) is not None, "all volumes are there", 600)
        cloud = identity.connect(site_b, "antipode", PROJECT).block_storage
        ids = {v.name: v.id for v in cloud.volumes() if v.name in streamed.captured}
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda volume: content(site_b, volume), ids.values())
            assert dict(zip(ids, found, strict=True)) == streamed.captured
        desk.tell("run", "answer", str(asks(desk)), "--yes")
        assert failover.wait(900) == 0
        expect_what_was_frozen(site_b, streamed.frozen_last, streamed.boots)
    finally:
        subprocess.run([sys.executable, "-m", "lab", "revive", site_a.name], cwd=TREE, check=True)


def asks(desk: Desk) -> str | None:
    """The failover that waits for an answer."""
    runs = desk.ask("run", "list")
    waiting = [r["run"] for r in runs if r["state"] == "waiting for input"]
    return waiting[0] if waiting else None
