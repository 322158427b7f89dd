# SPDX-License-Identifier: Apache-2.0
"""The block size of site-a's cinder-backup changes between two recovery points: Cinder refuses the
increments, and the chains begin again by themselves.

The option is `backup_swift_block_size`, as the driver of the lab is Swift's; of a driver for files
it is `backup_sha_block_size_bytes`. Cinder compares both in the same place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox.members import MEMBERS
from lab import canary
from lab.checker import check
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from tests.lab.images import dense_blocks
from tests.lab.substitute import own, substituted

pytestmark = pytest.mark.lab
VNF = "canary"
VOLUMES = 2 * len(MEMBERS)
FULL_MIB, CHANGED_MIB = 8, 2
BLOCKS_OF_A_MIB = (1 << 20) // 4096
OTHER_BLOCK_SIZE = 128 << 10
"""bytes; that of the lab is 64 KiB"""


@dataclass
class Protected:
    """The canary with three recovery points, of which the last two have another block size."""

    desk: Desk
    before: dict[str, Any]
    changed: dict[str, Any]
    after: dict[str, Any]
    backups: dict[str, str]
    """of the volumes at site-a, with their states"""
    held: dict[str, dict[str, str]]
    """role -> the dense blocks of its data volume"""


@contextmanager
def another_block_size(site: Site, folder: Path) -> Iterator[None]:
    """cinder-backup of a site compares blocks of another size."""
    changed = site.etc / "cinder" / "another-block-size.conf"
    changed.write_text(f"[DEFAULT]\nbackup_swift_block_size = {OTHER_BLOCK_SIZE}\n")
    command = [*own(site).command, "--config-file", str(changed)]
    try:
        with substituted(site, command, folder / "cinder-backup.log"):
            yield
    finally:
        changed.unlink()


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    site_a, folder = SITES["site-a"], tmp_path_factory.mktemp("block-size")
    canary.remove(SITES["site-b"])
    canary.remove(site_a)
    canary.create(site_a)
    desk = Desk(folder / "desk", f"antipode-test-{time.time_ns()}")
    desk.tell("vnf", "add", str(EXAMPLE))
    canary.fill(site_a, FULL_MIB)
    before = desk.ask("protect", VNF)
    with another_block_size(site_a, folder):
        changed = desk.ask("protect", VNF)
        canary.fill(site_a, CHANGED_MIB, seed=2)
        after = desk.ask("protect", VNF)
    data = canary.data_volumes(site_a)
    cloud = identity.connect(site_a, "antipode", PROJECT)
    volumes = {
        a.volume_id for s in cloud.compute.servers() for a in cloud.compute.volume_attachments(s)
    }
    return Protected(
        desk,
        before,
        changed,
        after,
        {b.id: b.status for b in cloud.block_storage.backups() if b.volume_id in volumes},
        {role: dense_blocks(site_a, volume) for role, volume in data.items()},
    )


def backups_of(desk: Desk, record: dict[str, Any]) -> list[list[str]]:
    """The chains of a recovery point: the ids of the backups of each volume."""
    shown = desk.ask("recovery-point", "show", VNF, record["recovery_point"])
    return [v["chain"] for v in shown["volumes"]]


def test_each_volume_gets_a_full_backup_and_the_run_says_why(protected: Protected) -> None:
    assert protected.changed["incremental"] is False
    assert [len(chain) for chain in backups_of(protected.desk, protected.changed)] == [1] * VOLUMES
    steps = protected.desk.ask("run", "show", protected.changed["run"])["steps"]
    reasons = [s["result"]["full_because"] for s in steps if "full_because" in s["result"]]
    assert len(reasons) == VOLUMES
    assert all("block size" in reason for reason in reasons), reasons


def test_increments_that_cinder_refused_are_gone(protected: Protected) -> None:
    assert set(protected.backups.values()) == {"available"}
    assert len(protected.backups) == 3 * VOLUMES


def test_the_next_recovery_point_is_incremental_and_all_of_them_verify(
    protected: Protected,
) -> None:
    assert protected.after["incremental"] is True
    assert [len(chain) for chain in backups_of(protected.desk, protected.after)] == [2] * VOLUMES
    for record in (protected.before, protected.changed, protected.after):
        protected.desk.tell("recovery-point", "verify", VNF, record["recovery_point"])


def test_a_failover_brings_back_the_bytes_of_both_block_sizes(protected: Protected) -> None:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    for blocks in protected.held.values():
        assert len(blocks) >= (FULL_MIB + CHANGED_MIB - 1) * BLOCKS_OF_A_MIB
    canary.remove(site_a)
    protected.desk.ask("failover", VNF, "--to", site_b.name, "--yes", timeout=3600)
    canary.wait_for_records(site_b, 5)
    recovered = {
        role: dense_blocks(site_b, volume) for role, volume in canary.data_volumes(site_b).items()
    }
    assert recovered == protected.held
    report = check(canary.records(site_b))
    assert report.consistent, report.as_json()
