# SPDX-License-Identifier: Apache-2.0
"""Volumes that Cinder replicates to a target of its back end: prepared, looked at, switched and
switched back, while their site lives.
"""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from antipode.sandbox.cinder.storage import BACKEND
from antipode.sandbox.desk import CONFIGURATION
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until

pytestmark = [pytest.mark.sandbox, pytest.mark.rest]
DISKS = {"disks": {"storage": "array"}}
SWITCH = ("datastore", "switch", "canary", "disks", "--yes", "-f", "json")


@pytest.fixture
def array(own_world: World) -> World:
    """A site whose back end has a replication target, and a VNF in a datastore on it."""
    world = own_world
    world.conditions(PRIMARY, replication_target="b")
    path = world.sandbox.directory / CONFIGURATION
    settings = YAML().load(path)
    sites = {
        site: {"cloud": site, "host": f"cinder-{site}@{BACKEND}", "target": "b"}
        for site in (PRIMARY, BACKUP)
    }
    settings["storages"]["array"] = {"driver": "cinder", "sites": sites}
    YAML().dump(settings, path)
    world.know(datastores=DISKS)
    return world


def retype(world: World) -> None:
    """Give all volumes a type that is replicated."""
    storage = world.cloud(f"{PRIMARY}-admin").block_storage
    kind = storage.create_type(name="replicated", extra_specs={"replication_enabled": "<is> True"})
    cloud = world.cloud(PRIMARY).block_storage
    for volume in list(cloud.volumes()):
        cloud.retype_volume(volume, kind.name)
    until(lambda: all(v.status == "in-use" for v in cloud.volumes()), "all are of the type")


def stop(world: World) -> None:
    compute = world.cloud(PRIMARY).compute
    for server in compute.servers():
        compute.stop_server(server)
    until(lambda: all(s.status == "SHUTOFF" for s in compute.servers()), "all are off")


def error(world: World, *command: str) -> str:
    """The code of the error of a command."""
    done = world.operator.run(*command)
    assert done.returncode, done.stdout
    return str(json.loads(done.stderr.splitlines()[-1])["error"]["code"])


def health(world: World) -> set[str]:
    done = world.operator.run("datastore", "status", "canary", "-f", "json")
    return {row["health"] for row in json.loads(done.stdout)}


def replication(world: World) -> set[str]:
    volumes = world.cloud(PRIMARY).block_storage.volumes()
    return {v.replication_status for v in volumes}


def test_a_back_end_is_switched_with_its_vnf_off_and_back(array: World) -> None:
    assert health(array) == {"absent"}
    assert error(array, "datastore", "prepare", "canary", "-f", "json") == "resource-failed"
    no_point_is_made_of_what_cinder_does_not_say(array)
    retype(array)
    array.operator.tell("datastore", "prepare", "canary", "--wait")
    assert health(array) == {"replicating"}
    assert error(array, *SWITCH) == "resource-failed", "members are on"
    assert replication(array) == {"enabled"}
    stop(array)
    (switched,) = json.loads(array.operator.tell(*SWITCH))
    assert (switched["volumes"], switched["others"]) == (6, 0)
    assert health(array) == {"stopped"}
    assert replication(array) == {"failed-over"}
    array.operator.tell(*SWITCH)  # once more: nothing is left to do
    array.operator.tell(*SWITCH, "--back")
    assert health(array) == {"replicating"}
    assert replication(array) == {"enabled"}


def no_point_is_made_of_what_cinder_does_not_say(array: World) -> None:
    options = {"option": "replication", "quiesce": {"timeout": "120s"}}
    array.know(datastores=DISKS, protections=options)
    assert error(array, "protect", "canary", "-f", "json") == "preflight-failed"
    assert not array.frozen()
    array.know(datastores=DISKS)


def test_volumes_of_others_that_have_no_copy_are_lost_only_if_that_is_said(array: World) -> None:
    retype(array)
    stop(array)
    cloud = array.cloud(PRIMARY).block_storage
    other = cloud.create_volume(size=1, name="of-others", volume_type="fast")
    cloud.wait_for_status(other, "available")
    assert error(array, *SWITCH) == "invalid-input"
    assert cloud.get_volume(other.id).status == "available"
    array.operator.tell(*SWITCH, "--lose-others")
    assert cloud.get_volume(other.id).status == "error"


def test_a_switch_that_fails_says_so_and_a_dead_site_switches_nothing(array: World) -> None:
    retype(array)
    stop(array)
    array.fault(PRIMARY, r"^backend\.failover$", "error")
    assert error(array, *SWITCH) == "resource-failed"
    assert array.struck(PRIMARY) == 1
    assert replication(array) == {"enabled"}
    array.sandbox.kill(PRIMARY)
    assert error(array, *SWITCH) == "site-unreachable"
