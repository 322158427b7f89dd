# SPDX-License-Identifier: Apache-2.0
"""Two VNFs of two projects, whose servers are on a network that a third project shares with both,
come back by one plan: each in its own project, with its own addresses on the shared network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import desk
from antipode.sandbox.keystone import OTHER, OTHERS_OPERATOR
from antipode.sandbox.site import IMAGE
from antipode.sandbox.supervision import SITES, Sandbox
from tests.sandbox.conftest import BACKUP, PRIMARY, World, quiesced_within

pytestmark = pytest.mark.sandbox
NETWORK = "backbone"
OF_OTHER = "others"
"""The entry of clouds.yaml is called so, behind the name of a site."""
ADDRESSES = {"one": "10.9.0.11", "two": "10.9.0.12"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    sandbox = Sandbox(tmp_path / "sites")
    sandbox.up(latency=0)
    try:
        desk.write(sandbox)
        _know_two_projects(sandbox)
        world = World(sandbox)
        for site in SITES:
            _share(world.cloud(f"{site}-admin"))
        for vnf, project in (("one", None), ("two", OTHER)):
            _run(world.cloud(PRIMARY if project is None else f"{PRIMARY}-{OF_OTHER}"), vnf)
            _add(world, vnf, project)
        yield world
    finally:
        sandbox.down()


def _know_two_projects(sandbox: Sandbox) -> None:
    clouds, configuration = (sandbox.directory / f for f in (desk.CLOUDS, desk.CONFIGURATION))
    entries, content = YAML().load(clouds), YAML().load(configuration)
    for site in SITES:
        entry = desk._entry(sandbox.settings(site), OTHERS_OPERATOR, OTHER)
        entries["clouds"][f"{site}-{OF_OTHER}"] = entry
        content["sites"][site]["projects"] = {OTHER: f"{site}-{OF_OTHER}"}
    YAML().dump(entries, clouds)
    YAML().dump(content, configuration)


def _share(admin: Any) -> None:
    """A network of a project that has no VNF, which every project may use."""
    network = admin.network.create_network(name=NETWORK, is_shared=True)
    admin.network.create_subnet(
        network_id=network.id, name=NETWORK, ip_version=4, cidr="10.9.0.0/24", gateway_ip=None
    )


def _run(cloud: Any, vnf: str) -> None:
    """A server of one volume on the shared network."""
    network = cloud.network.find_network(NETWORK, ignore_missing=False).id
    port = cloud.network.create_port(
        network_id=network, name=f"{vnf}-port", fixed_ips=[{"ip_address": ADDRESSES[vnf]}]
    )
    image = cloud.image.find_image(IMAGE, ignore_missing=False).id
    root = cloud.block_storage.create_volume(name=f"{vnf}-root", size=1, image_id=image)
    cloud.block_storage.wait_for_status(root, "available", ["error"], interval=0.1, wait=120)
    disk = {"uuid": root.id, "source_type": "volume", "destination_type": "volume"}
    server = cloud.compute.create_server(
        name=f"{vnf}-server",
        flavor_id=cloud.compute.find_flavor("tiny", ignore_missing=False).id,
        networks=[{"port": port.id}],
        block_device_mapping=[{**disk, "boot_index": 0}],
        config_drive=True,
    )
    cloud.compute.wait_for_server(server, interval=0.1, wait=120)


def _add(world: World, vnf: str, project: str | None) -> None:
    path = world.sandbox.directory / f"{vnf}.yaml"
    whose = {} if project is None else {"project": project}
    definition = {"vnf": vnf, "primary": PRIMARY, "backup": BACKUP, **whose}
    YAML().dump(
        definition | quiesced_within(120) | {"members": [{"server": f"{vnf}-server"}]}, path
    )
    world.operator.tell("vnf", "add", str(path))
    world.operator.tell("protect", vnf)


def _there(world: World, entry: str) -> dict[str, str]:
    """Name and address of each server of a project at the backup site that is active."""
    cloud = world.cloud(entry)
    return {
        server.name: port.fixed_ips[0]["ip_address"]
        for server in cloud.compute.servers()
        for port in cloud.network.ports(device_id=server.id)
        if server.status == "ACTIVE"
    }


@pytest.mark.rest
def test_two_vnfs_of_two_projects_come_back_by_one_plan_on_the_network_that_they_share(
    world: World,
) -> None:
    path = world.sandbox.directory / "plan.yaml"
    plan = {"plan": "both", "to": BACKUP, "groups": [{"name": "g", "vnfs": ["one", "two"]}]}
    YAML().dump(plan, path)
    world.operator.tell("plan", "put", str(path))
    world.sandbox.kill(PRIMARY)
    record = world.operator.ask("plan", "failover", "both", "--yes")
    assert (record["succeeded"], record["failed"]) == (2, 0)
    assert _there(world, BACKUP) == {"one-server": ADDRESSES["one"]}
    assert _there(world, f"{BACKUP}-{OF_OTHER}") == {"two-server": ADDRESSES["two"]}
    admin = world.cloud(f"{BACKUP}-admin").network
    assert [n.name for n in admin.networks(name=NETWORK)] == [NETWORK]
    (network,) = admin.networks(name=NETWORK)
    used = [p for p in admin.ports(network_id=network.id) if p.device_owner.startswith("compute")]
    assert len({p.project_id for p in used}) == len(used) == 2
