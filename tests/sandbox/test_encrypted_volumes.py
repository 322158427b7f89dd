# SPDX-License-Identifier: Apache-2.0
"""An encrypted volume is protected with a key at one site and recovered with a key of the other;
what a site lacks for that is said before, and a restore that failed is explained.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest

from antipode.cloud.site import Site, connect
from antipode.sandbox import blocks, canary, desk
from antipode.sandbox.members import MEMBERS, TENANTS
from tests.sandbox.conftest import BACKUP, PRIMARY, World, digest
from tests.sandbox.test_two_way import third, world

__all__ = ["third", "world"]
CONTENT, MORE = b"of a subscriber " * 1000, b"of another one " * 1000
LUKS = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}
MEMBER = MEMBERS[0].server


@pytest.fixture
def sites(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Site]:
    path = str(world.sandbox.directory / desk.CLOUDS)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", path)
    return {name: connect(name, name) for name in (PRIMARY, BACKUP)}


def have_type(world: World, site: Site, type_id: str, name: str, **luks: Any) -> None:
    wanted = {"id": type_id, "name": name}
    world.sandbox.ask(site.name, "POST", "/volume-types", wanted)
    encryption = {"encryption": {**LUKS, "control_location": "front-end", **luks}}
    site.volumes._api.post(f"/types/{type_id}/encryption", encryption)


def know(world: World, **types: str) -> None:
    """Give antipode the VNF's file, with these types at the backup site for others."""
    known = desk.vnf(world.sandbox)["map"]
    world.know(map={**known, "volume_types": {**known["volume_types"], **types}})


def attached(world: World, kind: str) -> str:
    """The id of an encrypted volume of a member."""
    cloud = world.cloud(PRIMARY)
    made = cloud.block_storage.create_volume(name="vault", size=1, volume_type=kind)
    cloud.block_storage.wait_for_status(made, "available", ["error"], interval=0.1, wait=120)
    server = cloud.compute.find_server(MEMBER, ignore_missing=False)
    cloud.compute.create_volume_attachment(server, volume_id=made.id)
    cloud.block_storage.wait_for_status(made, "in-use", ["error"], interval=0.1, wait=120)
    return str(made.id)


def restored(site: Site) -> dict[str, Any]:
    return next(v for v in site.volumes.volumes() if v["name"] == "vault")


def secrets(site: Site, name: str) -> set[bytes]:
    return {site.keys.payload(i) for i in site.keys.named(name)}


def refusals(world: World, *arguments: str) -> str:
    done = world.operator.run(*arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_an_encrypted_volume_is_refused_until_the_backup_site_can_restore_it_and_then_it_does(
    world: World, sites: dict[str, Site]
) -> None:
    there, here = sites[BACKUP], sites[PRIMARY]
    type_id = str(uuid.uuid4())
    have_type(world, here, type_id, "secret")
    source = attached(world, "secret")
    know(world, secret="secret-b")
    assert "no volume type with the id" in refusals(world, "protect", "canary")

    have_type(world, there, type_id, "secret-b", key_size=512)
    assert "512" in refusals(world, "protect", "canary")
    made = there.volumes.type_encryption(type_id) or {}
    resource = f"/types/{type_id}/encryption/{made['encryption_id']}"
    there.volumes._api.call("PUT", resource, {"encryption": LUKS})

    path = canary.path_of_volume(world.sandbox, PRIMARY, source)
    blocks.write(path, 1 << 19, CONTENT)
    world.protect()
    blocks.write(path, 3 << 19, MORE)
    world.protect()
    before = digest(path, 0)
    world.verify()

    held = str((here.volumes.volume(source) or {})["encryption_key_id"])
    key = here.keys.payload(held)
    shown = json.dumps(world.operator.ask("recovery-point", "show", "canary"))
    kept = there.keys.named(f"antipode:canary:{held}")
    assert [there.keys.payload(i) for i in kept] == [key]
    there.keys.delete(kept[0])
    assert kept[0] in refusals(world, "failover", "canary", "--to", BACKUP, "--plan")
    world.protect()
    kept = there.keys.named(f"antipode:canary:{held}")
    assert [there.keys.payload(i) for i in kept] == [key]
    assert key.hex() not in shown and base64.b64encode(key).decode() not in shown

    world.fault(BACKUP, r"^key\.clone$", "error")
    failed = refusals(world, "failover", "canary", "--to", BACKUP, "--yes")
    assert "token" in failed
    world.operator.tell("run", "resume", world.newest_run()["run"])
    volume = restored(there)
    assert volume["encrypted"] and volume["volume_type"] == "secret-b"
    assert there.keys.payload(volume["encryption_key_id"]) == key
    assert digest(canary.path_of_volume(world.sandbox, BACKUP, volume["id"]), 0) == before
    records = [b for b in there.backups.backups() if b["volume_id"] == source]
    of_records = {b["encryption_key_id"] for b in records}
    assert len(records) == len(of_records) == 3
    assert not of_records & {*kept, volume["encryption_key_id"]}


@pytest.mark.rest
def test_a_plain_volume_is_not_restored_into_a_type_that_is_encrypted(
    world: World, sites: dict[str, Site]
) -> None:
    know(world, **{TENANTS[PRIMARY].volume_type: "secret"})
    world.protect()
    have_type(world, sites[BACKUP], str(uuid.uuid4()), "secret")
    assert "unencrypted" in refusals(world, "failover", "canary", "--to", BACKUP, "--yes")
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
