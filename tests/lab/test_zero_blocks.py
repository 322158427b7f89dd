# SPDX-License-Identifier: Apache-2.0
"""What was zeroed between two recovery points comes back as zeros, though the cinder-backup of the
backup site is of a release that skips zeros of increments.

Needs such a cinder-backup in a virtual environment, which `ANTIPODE_LAB_OLD_CINDER` names; see
docs/lab.md. Without it, these tests are skipped.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab import canary
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from tests.lab.images import execute
from tests.lab.substitute import own, substituted

pytestmark = [pytest.mark.lab, pytest.mark.last]
VNF = "canary"
MIB = 1 << 20
OLD = os.environ.get("ANTIPODE_LAB_OLD_CINDER")
FIND = """
import rados, rbd, sys
pool, name = sys.argv[1:3]
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(pool) as io:
    with rbd.Image(io, name, read_only=True) as image:
        for at in range(1 << 20, image.size(), 1 << 20):
            data = image.read(at, 1 << 20)
            if all(data[i : i + 4096].strip(b"\\0") for i in range(0, 1 << 20, 4096)):
                print(at)
                break
"""
"""Prints the first mebibyte of an image whose every block holds data."""
READ = """
import hashlib, rados, rbd, sys
pool, name, at = *sys.argv[1:3], int(sys.argv[3])
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(pool) as io:
    with rbd.Image(io, name, read_only=True) as image:
        print(hashlib.sha256(image.read(at, 1 << 20)).hexdigest())
"""
ZERO = """
import rados, rbd, sys
pool, name, at = *sys.argv[1:3], int(sys.argv[3])
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(pool) as io:
    with rbd.Image(io, name) as image:
        image.write(bytes(1 << 20), at)
        image.flush()
"""
ZEROS = hashlib.sha256(bytes(MIB)).hexdigest()


@dataclass
class Zeroed:
    """The canary with two recovery points, between which a mebibyte of a data volume was zeroed."""

    desk: Desk
    at: int
    before: str
    """digest of that mebibyte in the first point"""
    backup: str
    """the newest one of the volume"""
    role: str


@pytest.fixture(scope="module")
def old_cinder_backup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """site-b's cinder-backup is the old one."""
    if OLD is None:
        pytest.skip("ANTIPODE_LAB_OLD_CINDER names no virtual environment with an old Cinder")
    site = SITES["site-b"]
    command = [f"{OLD}/bin/cinder-backup", *own(site).command[1:]]
    log = tmp_path_factory.mktemp("cinder") / "cinder-backup.log"
    with substituted(site, command, log, path=f"{OLD}/bin"):
        yield


@pytest.fixture(scope="module")
def zeroed(old_cinder_backup: None, tmp_path_factory: pytest.TempPathFactory) -> Zeroed:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    canary.remove(site_b)
    canary.remove(site_a)
    canary.create(site_a)
    desk = Desk(tmp_path_factory.mktemp("desk"), f"antipode-test-{time.time_ns()}")
    desk.tell("vnf", "add", str(EXAMPLE))
    canary.fill(site_a, 8)
    desk.ask("protect", VNF)
    role, volume = next(iter(canary.data_volumes(site_a).items()))
    at = int(execute(site_a, FIND, volume))
    before = execute(site_a, READ, volume, at)
    execute(site_a, ZERO, volume, at)
    second = desk.ask("protect", VNF)
    assert second["incremental"]
    [chain] = [
        v["chain"]
        for v in desk.ask("recovery-point", "show", VNF)["volumes"]
        if v["chain"] and backed_up_volume(site_a, v["chain"][-1]) == volume
    ]
    return Zeroed(desk, at, before, chain[-1], role)


def backed_up_volume(site: Site, backup: str) -> str:
    found: Any = identity.connect(site, "antipode", PROJECT).block_storage.get_backup(backup)
    return str(found.volume_id)


def test_a_deep_verification_passes(zeroed: Zeroed) -> None:
    findings = zeroed.desk.ask("recovery-point", "verify", VNF, "--deep", timeout=3600)
    assert all(f["ok"] for f in findings), findings
    cloud = identity.connect(SITES["site-b"], "antipode", PROJECT)
    assert list(cloud.block_storage.volumes()) == []


def test_a_volume_created_from_the_increment_has_the_old_data(zeroed: Zeroed) -> None:
    site = SITES["site-b"]
    storage = identity.connect(site, "antipode", PROJECT).block_storage
    volume = storage.create_volume(name="created", size=1, backup_id=zeroed.backup)
    try:
        storage.wait_for_status(volume, "available", failures=["error"], wait=600)
        assert execute(site, READ, volume.id, zeroed.at) == zeroed.before
    finally:
        storage.delete_volume(volume)
        storage.wait_for_delete(volume, wait=600)


def test_a_failover_brings_back_the_zeros(zeroed: Zeroed) -> None:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    canary.remove(site_a)
    zeroed.desk.ask("failover", VNF, "--to", "site-b", "--yes", timeout=3600)
    volume = canary.data_volumes(site_b)[zeroed.role]
    assert execute(site_b, READ, volume, zeroed.at) == ZEROS
