# SPDX-License-Identifier: Apache-2.0
"""Volumes that were migrated, retyped, renamed and managed are protected with the names that the
storage really has for them, and their counterparts are found at the backup site.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from antipode.sandbox import canary
from antipode.sandbox.cinder.attachments import KEYRING
from tests.sandbox.conftest import BACKUP, PRIMARY, World

Json = dict[str, Any]


class Storage:
    """Cinder of a site, as its administrator calls it."""

    def __init__(self, world: World, site: str) -> None:
        self._world, self._site = world, site
        self._connection = canary.connect(world.sandbox, site)

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = self._connection.block_storage.request(
            path, method, json=body, microversion="3.70"
        )
        assert answer.ok, (method, path, answer.text)
        found: Json = answer.json() if answer.content else {}
        return found

    def volume(self, volume: str) -> Json:
        found: Json = self.ask("GET", f"/volumes/{volume}")["volume"]
        return found

    def until(self, volume: str, **wanted: str) -> None:
        canary.await_that(
            lambda: wanted.items() <= self.volume(volume).items(), f"{volume}: {wanted}", 120
        )

    def migrate(self, volume: str) -> str:
        """Its real name from now on."""
        moved = self._world.sandbox.ask(self._site, "POST", f"/volumes/{volume}/migrate")
        return f"volume-{moved['name_id']}"

    def retype(self, volume: str, kind: str) -> None:
        wanted = {"new_type": kind, "migration_policy": "never"}
        self.ask("POST", f"/volumes/{volume}/action", {"os-retype": wanted})
        self.until(volume, volume_type=kind, status="in-use")

    def manage_again(self, server: str) -> str:
        """A volume that was managed, and is attached to a server now; its real name."""
        made = self.ask("POST", "/volumes", {"volume": {"size": 1, "name": "x"}})["volume"]["id"]
        self.until(made, status="available")
        host = self.volume(made)["os-vol-host-attr:host"]
        self.ask("POST", f"/volumes/{made}/action", {"os-unmanage": {}})
        known = self._connection.block_storage
        canary.await_that(lambda: made not in {v.id for v in known.volumes()}, "unmanaged", 120)
        wanted = {"host": host, "ref": {"source-name": f"volume-{made}"}, "name": "managed"}
        taken = self.ask("POST", "/manageable_volumes", {"volume": wanted})["volume"]["id"]
        self.until(taken, status="available")
        compute = self._connection.compute
        compute.create_volume_attachment(compute.find_server(server), volume_id=taken)
        return f"volume-{taken}"


def shown(world: World, volume: str) -> Json:
    found: Json = world.operator.ask("volume", "show", "canary", volume)
    return found


@pytest.fixture
def storage(own_world: World) -> Storage:
    return Storage(own_world, PRIMARY)


def test_real_names_are_protected_and_found_at_the_backup_site_with_the_primary_dead(
    own_world: World, storage: Storage
) -> None:
    world = own_world
    volumes = canary.data_volumes(world.sandbox, PRIMARY)
    real = {volumes["db"]: storage.migrate(volumes["db"])}
    storage.retype(volumes["app"], "rbd1")
    storage.ask("PUT", f"/volumes/{volumes['front']}", {"volume": {"name": "another name"}})
    real |= {volumes[role]: f"volume-{volumes[role]}" for role in ("app", "front")}
    managed = storage.manage_again("canary-front")
    real |= {managed.removeprefix("volume-"): managed}
    canary.await_records(world.sandbox, PRIMARY, 2)  # the guest of the moved volume writes on

    live = {volume: shown(world, volume) for volume in real}
    assert {volume: s["real_name"] for volume, s in live.items()} == real
    assert {s["connection"]["name"] for s in live.values()} == {
        f"volumes/{r}" for r in real.values()
    }
    assert not any(s["missing"] or s["counterparts"] for s in live.values())
    references = world.operator.ask("vnf", "show", "canary")["real_references"]
    assert {v: references[v].rpartition("/")[2] for v in real} == real

    world.protect()
    images = (
        world.sandbox.directory / PRIMARY / "volumes",
        world.sandbox.directory / BACKUP / "volumes",
    )
    for name in real.values():
        shutil.copy(images[0] / name, images[1] / name)  # what the replication of a storage does
    world.sandbox.kill(PRIMARY)
    for volume, name in real.items():
        found = shown(world, volume)
        assert (found["real_name"], found["recovery_point"]) == (name, world.points()[0])
        (there,) = found["counterparts"]
        assert (there["site"], there["reference"], there["size_gib"], there["cinder_id"]) == (
            BACKUP,
            {"source-name": name},
            1,
            None,
        )
        assert shown(world, name)["id"] == volume  # found by its real name, too
    (images[1] / real[volumes["db"]]).unlink()
    gone = shown(world, volumes["db"])
    assert (gone["counterparts"], gone["not_found_at"]) == ([], [BACKUP])

    secret = KEYRING.encode().split()[-1]
    kept = [p for p in world.sandbox.directory.rglob("*") if p.is_file()]
    of_sites = [world.sandbox.directory / site for site in (PRIMARY, BACKUP)]
    ours = [p for p in kept if not any(site in p.parents for site in of_sites)]
    assert ours
    assert not [p for p in ours if secret in p.read_bytes()]


@pytest.mark.rest
def test_the_name_that_a_volume_has_lost_by_a_migration_is_shown_beside_the_new_one(
    own_world: World, storage: Storage
) -> None:
    own_world.protect()
    volume = canary.data_volumes(own_world.sandbox, PRIMARY)["db"]
    moved = storage.migrate(volume)
    found = shown(own_world, volume)
    assert (found["real_name"], found["recorded"].rpartition("/")[2]) == (
        moved,
        f"volume-{volume}",
    )
    assert found["warnings"]
