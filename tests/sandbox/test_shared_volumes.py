# SPDX-License-Identifier: Apache-2.0
"""A volume that two members have: protected once, restored once, and attached to both of them."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.sandbox import blocks, canary, desk
from antipode.sandbox.cinder.storage import BACKEND
from tests.sandbox.conftest import BACKUP, PRIMARY, World, digest, until

CONTENT = b"of all members " * 1000
SPECS = {"volume_backend_name": BACKEND, "multiattach": "<is> True"}


def make_type(world: World, site: str, name: str, **specs: str) -> None:
    world.cloud(site).block_storage.create_type(name=name, extra_specs=specs)


def share(world: World, *servers: str) -> str:
    """A volume of these servers, with content."""
    cloud = world.cloud(PRIMARY)
    storage = cloud.block_storage
    made = storage.create_volume(
        name="shared-data", size=1, volume_type="shared", metadata={"kind": "journal"}
    )
    storage.wait_for_status(made, "available", ["error"], interval=0.1, wait=120)
    for server in servers:
        attach(cloud, server, made.id)
    blocks.write(canary.path_of_volume(world.sandbox, PRIMARY, made.id), 1 << 16, CONTENT)
    return str(made.id)


def attach(cloud: Any, server: str, volume: str) -> None:
    found = next(s for s in cloud.compute.servers() if s.name == server)
    cloud.compute.create_volume_attachment(found, volume_id=volume)


def know(world: World, option: str = "quiesced-snapshot", **types: str) -> None:
    definition = desk.vnf(world.sandbox)
    mapped = definition["map"]["volume_types"] | types
    world.know(
        members=definition["members"],
        protections={"option": option, "quiesce": {"timeout": "120s"}},
        map={**definition["map"], "volume_types": mapped},
    )


def refusal(world: World, *arguments: str) -> str:
    done = world.operator.run(*arguments)
    assert done.returncode == 3, done.stderr
    return done.stderr


def having(world: World, site: str, volume: str) -> dict[str, str]:
    """Server -> device, of those that have a volume."""
    compute = world.cloud(site).compute
    return {
        server.name: attached.device
        for server in compute.servers()
        for attached in compute.volume_attachments(server)
        if attached.volume_id == volume
    }


def test_a_shared_volume_comes_back_once_and_to_all_that_had_it(own_world: World) -> None:
    world, operator = own_world, own_world.operator
    make_type(world, PRIMARY, "shared", **SPECS)
    volume = share(world, "canary-db", "canary-app")
    others = {"canary-db": "/dev/vdc", "canary-app": "/dev/vdc"}
    assert having(world, PRIMARY, volume) == others
    content = digest(canary.path_of_volume(world.sandbox, PRIMARY, volume), 0)

    know(world, "server-snapshot")
    assert "not captured together" in refusal(world, "protect", "canary")
    know(world)
    cloud = world.cloud(PRIMARY)
    image = cloud.image.find_image("canary").id
    root = cloud.block_storage.create_volume(name="stranger", size=1, image_id=image)
    cloud.block_storage.wait_for_status(root, "available", ["error"], interval=0.1, wait=120)
    disks = [{"uuid": root.id, "source_type": "volume", "destination_type": "volume"}]
    stranger = cloud.compute.create_server(
        name="stranger",
        flavor_id=cloud.compute.find_flavor("tiny").id,
        networks="none",
        block_device_mapping=[{**disks[0], "boot_index": 0}],
    )
    cloud.compute.wait_for_server(stranger, interval=0.1, wait=120)
    attach(cloud, "stranger", volume)
    assert "not captured with the members" in refusal(world, "protect", "canary")
    assert world.frozen() == set()
    cloud.compute.delete_server(stranger)
    cloud.compute.wait_for_delete(stranger, interval=0.1, wait=120)
    until(lambda: having(world, PRIMARY, volume) == others, "the stranger is gone")

    made = world.protect()
    assert made["volumes"] == 7
    backups = list(cloud.block_storage.backups(details=True))
    assert [b.volume_id for b in backups].count(volume) == 1
    world.verify()

    world.sandbox.kill(PRIMARY)
    make_type(world, BACKUP, "single", volume_backend_name=BACKEND)
    know(world, shared="single")
    needs = refusal(world, "failover", "canary", "--to", BACKUP, "--plan")
    assert 'no extra spec multiattach="<is> True"' in needs
    make_type(world, BACKUP, "together", **SPECS)
    know(world, shared="together")
    planned = operator.ask("failover", "canary", "--to", BACKUP, "--plan")
    assert planned["restored_gib"] == 7
    operator.ask("failover", "canary", "--to", BACKUP, "--yes")

    there = world.cloud(BACKUP).block_storage
    (restored,) = there.volumes(name="shared-data")
    assert len(list(there.volumes())) == 7
    assert (restored.volume_type, restored.metadata["kind"]) == ("together", "journal")
    assert having(world, BACKUP, restored.id) == others
    assert digest(canary.path_of_volume(world.sandbox, BACKUP, restored.id), 0) == content
    canary.await_work(world.sandbox, BACKUP)


@pytest.mark.rest
def test_a_server_that_cannot_be_built_leaves_the_shared_volume_to_a_second_try(
    own_world: World,
) -> None:
    world, operator = own_world, own_world.operator
    for site, name in ((PRIMARY, "shared"), (BACKUP, "together")):
        make_type(world, site, name, **SPECS)
    volume = share(world, "canary-db", "canary-app")
    content = digest(canary.path_of_volume(world.sandbox, PRIMARY, volume), 0)
    know(world, shared="together")
    world.protect()
    world.sandbox.kill(PRIMARY)
    world.fault(BACKUP, r"^server\.create$", "error", after=1)
    failed = operator.run("failover", "canary", "--to", BACKUP, "--yes")
    assert failed.returncode != 0 and world.struck(BACKUP) == 1
    operator.tell("run", "resume", world.newest_run()["run"])
    (restored,) = world.cloud(BACKUP).block_storage.volumes(name="shared-data")
    assert set(having(world, BACKUP, restored.id)) == {"canary-db", "canary-app"}
    assert digest(canary.path_of_volume(world.sandbox, BACKUP, restored.id), 0) == content
    assert len(list(world.cloud(BACKUP).block_storage.volumes())) == 7


@pytest.mark.rest
def test_an_aborted_recovery_leaves_no_shared_volume(own_world: World) -> None:
    world, operator = own_world, own_world.operator
    for site, name in ((PRIMARY, "shared"), (BACKUP, "together")):
        make_type(world, site, name, **SPECS)
    share(world, "canary-db", "canary-app")
    know(world, shared="together")
    world.protect()
    drilled = operator.ask("drill", "canary", "--yes")
    assert [c["ok"] for c in drilled["content"] if c["volume"] == "shared-data"] == [True]
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
    world.sandbox.kill(PRIMARY)
    world.fault(BACKUP, r"^server\.create$", "error", after=2, times=None)
    assert operator.run("failover", "canary", "--to", BACKUP, "--yes").returncode != 0
    world.sandbox.ask(BACKUP, "DELETE", "/faults")
    operator.tell("run", "abort", world.newest_run()["run"], "--yes")
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
    assert list(world.cloud(BACKUP).compute.servers()) == []
