# SPDX-License-Identifier: Apache-2.0
"""Blocks that a guest has overwritten with zeros come back as zeros, whatever Cinder's release."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from antipode.sandbox import blocks, canary
from antipode.sandbox.guests import FILL_ROOM, RECORDS_END
from tests.sandbox.conftest import BACKUP, PRIMARY, World
from tests.sandbox.test_failover_failures import FAILOVER, expect_one_of_everything

pytestmark = pytest.mark.sandbox
MIB = 1 << 20
ZEROED = RECORDS_END + FILL_ROOM + MIB
"""the second mebibyte of what `canary.fill` writes"""


def data_volumes(world: World) -> dict[str, str]:
    """Server -> id of its data volume at the primary."""
    compute = world.cloud(PRIMARY).compute
    return {
        server.name: attached.volume_id
        for server in compute.servers()
        for attached in compute.volume_attachments(server)
        if attached.device == "/dev/vdb"
    }


def piece(path: Path) -> bytes:
    with blocks.Image(path) as image:
        return image.read(ZEROED, MIB)


def zero_a_mebibyte(world: World) -> list[bytes]:
    """Each data volume has a mebibyte of data in its full backup, and of zeros from now on; what
    they held.
    """
    canary.fill(world.sandbox, PRIMARY, 3)
    world.protect()
    paths = [canary.path_of_volume(world.sandbox, PRIMARY, v) for v in data_volumes(world).values()]
    before = [piece(path) for path in paths]
    assert all(before), "there is data"
    for path in paths:
        blocks.write(path, ZEROED, bytes(MIB))
    return before


@pytest.mark.parametrize("skips_zeros", [False, True], ids=["faithful", "skips zeros"])
def test_a_recovery_brings_back_the_captured_bytes_with_every_cinder(
    own_world: World, skips_zeros: bool
) -> None:
    zero_a_mebibyte(own_world)
    held = own_world.protect_and_look()
    own_world.conditions(BACKUP, skips_zeros=skips_zeros)
    own_world.sandbox.kill(PRIMARY)
    own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world, held)


@pytest.mark.rest
def test_a_volume_created_from_an_increment_has_the_old_data_where_cinder_skips_zeros(
    own_world: World,
) -> None:
    before = zero_a_mebibyte(own_world)
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    own_world.operator.ask(*FAILOVER)  # the records are known at the backup site now
    sources = set(data_volumes_of_backups(own_world))
    assert len(sources) == len(before)

    def restored() -> set[str]:
        return {hashlib.sha256(created_from(own_world, backup)).hexdigest() for backup in sources}

    zeros = {hashlib.sha256(bytes(MIB)).hexdigest()}
    assert restored() == zeros
    own_world.conditions(BACKUP, skips_zeros=True)
    assert restored() == {hashlib.sha256(piece).hexdigest() for piece in before}


def data_volumes_of_backups(world: World) -> list[str]:
    """The newest backups of the data volumes, as the backup site knows them."""
    shown = world.operator.ask("recovery-point", "show", "canary")
    return [v["chain"][-1] for v in shown["volumes"] if v["volume"].endswith("data")]


def created_from(world: World, backup: str) -> bytes:
    """The mebibyte in question of a volume that Cinder creates from a backup."""
    storage = world.cloud(BACKUP).block_storage
    volume = storage.create_volume(size=1, backup_id=backup, name="created")
    try:
        storage.wait_for_status(volume, "available", failures=["error"], wait=120)
        return piece(canary.path_of_volume(world.sandbox, BACKUP, volume.id))
    finally:
        storage.delete_volume(volume)
