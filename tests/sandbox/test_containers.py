# SPDX-License-Identifier: Apache-2.0
"""The command line with containers that Swift's container sync keeps at both embedded sites."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.datastores.swift import KEY, ROLE
from antipode.datastores.swift_marker import NAME
from antipode.sandbox.desk import CONFIGURATION
from tests.sandbox.conftest import BACKUP, PRIMARY, World

pytestmark = pytest.mark.sandbox
MEDIA = "media"
PREPARE = ("datastore", "prepare", "canary", "--wait", "-f", "json")


class Containers:
    """The container of the example's VNF at both sites, which follow each other."""

    def __init__(self, world: World) -> None:
        self.world = world
        folder = world.sandbox.directory
        secret = folder / "media.secret"
        secret.write_text("sandbox " * 4)
        secret.chmod(0o600)
        yaml = YAML()
        config = yaml.load(folder / CONFIGURATION)
        settings = {"containers": [MEDIA], "secret": str(secret)}
        sites = {site: {"cloud": site, **settings} for site in (PRIMARY, BACKUP)}
        config["storages"]["objects"] = {"driver": "swift", "sites": sites}
        (folder / "vault").mkdir(mode=0o700)
        config["vault"] = {"directory": str(folder / "vault")}
        yaml.dump(config, folder / CONFIGURATION)
        self.arrive_within("2m")

    def arrive_within(self, limit: str) -> None:
        store = {"storage": "objects", "kind": "application", "arrives_within": limit}
        self.world.know(datastores={MEDIA: store}, store_at_active_site="accepted")

    def put(self, site: str, name: str, data: bytes) -> None:
        store = self.world.cloud(site).object_store
        assert store.put(f"/{MEDIA}/{name}", data=data).status_code == 201

    def names(self, site: str) -> list[str]:
        listed = self.world.cloud(site).object_store.get(f"/{MEDIA}").text.splitlines()
        return [name for name in listed if name != NAME]

    def headers(self, site: str) -> Any:
        return self.world.cloud(site).object_store.head(f"/{MEDIA}").headers

    def describe(self, site: str, **headers: str) -> None:
        store = self.world.cloud(site).object_store
        assert store.post(f"/{MEDIA}", headers=headers).status_code == 204

    def status(self) -> dict[str, dict[str, Any]]:
        done = self.world.operator.run("datastore", "status", "canary", "-f", "json")
        return {row["site"]: row for row in json.loads(done.stdout)}


@pytest.fixture
def containers(own_world: World) -> Containers:
    found = Containers(own_world)
    own_world.operator.tell(*PREPARE)
    return found


def test_a_destroyed_site_has_its_objects_at_the_other_and_gets_them_back(
    containers: Containers,
) -> None:
    world = containers.world
    containers.put(PRIMARY, "one", b"first")
    containers.put(PRIMARY, "two", b"second")
    point = world.protect()["recovery_point"]
    assert containers.names(BACKUP) == ["one", "two"]
    found = containers.status()
    assert {s: row["health"] for s, row in found.items()} == {
        PRIMARY: "writable",
        BACKUP: "replicating",
    }
    assert found[BACKUP]["newest_point"] == point
    assert found[BACKUP]["lag_s"] is not None

    drill = world.operator.run("drill", "canary", "--to", BACKUP, "--yes", "-f", "json")
    assert drill.returncode == 0, drill.stderr
    assert containers.status()[BACKUP]["health"] == "replicating"

    world.sandbox.kill(PRIMARY)
    done = world.operator.run("failover", "canary", "--to", BACKUP, "--yes", "-f", "json")
    assert done.returncode == 0, done.stderr
    containers.put(BACKUP, "three", b"third")
    servers = list(world.cloud(BACKUP).compute.servers())
    assert {s.metadata[f"antipode:datastore:{MEDIA}"] for s in servers} == {
        found[BACKUP]["reference"]
    }
    # the old site comes back, and sends what it has: nothing of it is taken
    world.sandbox.start(PRIMARY)
    containers.put(PRIMARY, "late", b"late")
    containers.world.cloud(PRIMARY).object_store.delete(f"/{MEDIA}/late")
    assert not containers.headers(BACKUP).get(KEY)
    refused = world.operator.run("datastore", "prepare", "canary", "-f", "json")
    assert refused.returncode == 1
    world.operator.tell(*PREPARE, "--overwrite", PRIMARY)
    assert containers.status()[PRIMARY]["health"] == "replicating"
    world.protect()
    assert containers.names(PRIMARY) == ["one", "three", "two"]
    assert containers.names(BACKUP) == ["one", "three", "two"]


@pytest.mark.rest
def test_a_migration_hands_the_objects_over_and_a_failback_brings_them_home(
    containers: Containers,
) -> None:
    world = containers.world
    containers.put(PRIMARY, "one", b"first")
    done = world.operator.run("migrate", "canary", "--to", BACKUP, "--yes", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert containers.names(BACKUP) == ["one"]
    health = {site: row["health"] for site, row in containers.status().items()}
    assert health == {PRIMARY: "stopped", BACKUP: "writable"}
    containers.put(BACKUP, "two", b"second")
    world.operator.tell(*PREPARE)
    done = world.operator.run("failback", "canary", "--yes", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert containers.names(PRIMARY) == ["one", "two"]
    health = {site: row["health"] for site, row in containers.status().items()}
    assert health == {PRIMARY: "writable", BACKUP: "stopped"}


@pytest.mark.rest
def test_a_key_that_is_wrong_is_seen_though_all_is_accepted(containers: Containers) -> None:
    world = containers.world
    world.protect()
    before = world.points()
    containers.describe(PRIMARY, **{KEY: "another"})
    containers.put(PRIMARY, "lost", b"lost")
    containers.arrive_within("3s")
    done = world.operator.run("protect", "canary", "-f", "json")
    assert done.returncode == 1
    assert "lost" not in containers.names(BACKUP)
    assert world.points() == before
    containers.describe(BACKUP, **{KEY: "another"})
    assert containers.status()[BACKUP]["health"] == "broken"
    done = world.operator.run("protect", "canary", "-f", "json")
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "preflight-failed"
    world.operator.tell(*PREPARE)
    containers.arrive_within("2m")
    world.protect()
    assert containers.names(BACKUP) == ["lost"]


@pytest.mark.rest
def test_what_container_sync_passes_over_makes_no_point_until_it_is_there(
    containers: Containers,
) -> None:
    world = containers.world
    rule = world.fault(PRIMARY, r"^container_sync\.send one$", "error", times=None)
    containers.put(PRIMARY, "one", b"first")
    containers.arrive_within("3s")
    done = world.operator.run("protect", "canary", "-f", "json")
    assert done.returncode == 1
    assert world.struck(PRIMARY)
    found = containers.status()[BACKUP]
    assert found["health"] == "replicating"  # its marker has arrived
    assert "one is not there" in found["detail"]
    world.sandbox.ask(PRIMARY, "DELETE", f"/faults/{rule}")
    containers.arrive_within("2m")
    world.protect()
    assert containers.names(BACKUP) == ["one"]


@pytest.mark.rest
def test_what_was_made_is_removed_and_the_objects_stay(containers: Containers) -> None:
    containers.put(PRIMARY, "one", b"first")
    containers.world.protect()
    containers.world.operator.tell("datastore", "remove", "canary", MEDIA, "--yes")
    for site in (PRIMARY, BACKUP):
        assert containers.names(site) == ["one"]
        assert not {n for n in (KEY, ROLE) if containers.headers(site).get(n)}
