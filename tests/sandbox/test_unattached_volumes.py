# SPDX-License-Identifier: Apache-2.0
"""A volume of no server is protected with the members at one site and recovered at the other; it is
rehearsed under another name, and moves with the VNF, there and back.
"""

from __future__ import annotations

import pytest

from antipode.sandbox import blocks, canary, desk
from tests.sandbox.conftest import BACKUP, PRIMARY, World, digest
from tests.sandbox.test_two_way import third, world

__all__ = ["third", "world"]
CONTENT = b"of no server " * 1000


def make(world: World, site: str = PRIMARY) -> str:
    cloud = world.cloud(site)
    image = cloud.image.find_image("canary").id
    made = cloud.block_storage.create_volume(
        name="spare",
        size=1,
        volume_type="fast",
        image_id=image,
        description="for a bad day",
        metadata={"kind": "spare"},
    )
    cloud.block_storage.wait_for_status(made, "available", ["error"], interval=0.1, wait=120)
    blocks.write(canary.path_of_volume(world.sandbox, site, made.id), 1 << 19, CONTENT)
    return str(made.id)


def know(world: World, *volumes: str) -> None:
    world.know(members=desk.vnf(world.sandbox)["members"], volumes=list(volumes))


def refusal(world: World, *arguments: str) -> str:
    done = world.operator.run(*arguments)
    assert done.returncode != 0
    return done.stderr


def spare(world: World, site: str) -> dict[str, object]:
    """The volume at a site, as its owner sees it, with what it holds."""
    (volume,) = world.cloud(site).block_storage.volumes(name="spare")
    own = {k: v for k, v in volume.metadata.items() if not k.startswith("antipode:")}
    path = canary.path_of_volume(world.sandbox, site, volume.id)
    image = dict(volume.volume_image_metadata or {})
    return {
        "status": volume.status,
        "description": volume.description,
        "metadata": {k: v for k, v in own.items() if k != "src_backup_id"},
        "bootable": volume.is_bootable,
        "agent": image.get("hw_qemu_guest_agent"),
        "content": digest(path, 0),
    }


def test_a_volume_of_no_server_moves_with_its_vnf_there_and_back(world: World) -> None:
    operator = world.operator
    know(world, "spare")
    assert "no volume spare" in refusal(world, "protect", "canary")
    make(world)
    before = spare(world, PRIMARY)
    assert (before["status"], before["agent"]) == ("available", "yes")
    shown = operator.ask("vnf", "show", "canary")
    assert shown["unattached_volumes"] == ["spare"]
    made = world.protect()
    assert made["volumes"] == 7
    world.verify()

    drilled = operator.ask("drill", "canary", "--yes")
    names = [c["volume"] for c in drilled["content"] if c["volume"].startswith("spare ")]
    assert len(names) == 1 and all(c["ok"] for c in drilled["content"])
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []

    planned = operator.ask("failover", "canary", "--to", BACKUP, "--plan")
    assert [v["name"] for v in planned["unattached_volumes"]] == ["spare"]
    operator.tell("migrate", "canary", "--to", BACKUP, "--yes")
    assert spare(world, BACKUP) == before
    assert len(list(world.cloud(BACKUP).block_storage.volumes())) == 7
    operator.tell("failback", "canary", "--yes")
    assert spare(world, PRIMARY) == before
    assert len(list(world.cloud(PRIMARY).block_storage.volumes())) == 7
    assert world.protect()["volumes"] == 7


@pytest.mark.rest
def test_a_volume_that_a_server_has_or_another_of_its_name_is_refused(world: World) -> None:
    know(world, "spare")
    volume = make(world)
    compute = world.cloud(PRIMARY).compute
    server = next(iter(compute.servers(name="canary-db")))
    compute.create_volume_attachment(server, volume_id=volume)
    assert f"attached to server {server.id}" in refusal(world, "protect", "canary")
    compute.delete_volume_attachment(server, volume)
    storage = world.cloud(PRIMARY).block_storage
    storage.wait_for_status(storage.get_volume(volume), "available", interval=0.1, wait=120)
    world.protect()
    world.sandbox.kill(PRIMARY)
    there = world.cloud(BACKUP).block_storage
    other = there.create_volume(name="spare", size=1)
    needs = refusal(world, "failover", "canary", "--to", BACKUP, "--plan")
    assert f"volume spare already ({other.id})" in needs
    there.wait_for_status(other, "available", interval=0.1, wait=120)
    there.delete_volume(other)
    there.wait_for_delete(other, interval=0.1, wait=120)

    world.fault(BACKUP, r"^server\.create$", "error", times=None)
    refusal(world, "failover", "canary", "--to", BACKUP, "--yes")
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    world.operator.tell("run", "abort", world.newest_run()["run"], "--yes")
    assert list(there.volumes()) == []
    world.operator.ask("failover", "canary", "--to", BACKUP, "--yes")
    assert spare(world, BACKUP)["status"] == "available"
