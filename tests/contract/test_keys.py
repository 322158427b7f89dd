# SPDX-License-Identifier: Apache-2.0
"""Keys of encrypted volumes: what Barbican and Cinder's encrypted types answer. On a lab without a
key manager these tests are left out.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from functools import partial

import pytest

from antipode.cloud.api import ApiError, Json
from antipode.cloud.backups import read_record
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from tests.contract.conftest import PATIENCE_S, Things, refused, there, until


@pytest.fixture
def name(site: Site) -> Iterator[str]:
    """A name for secrets, which are removed afterwards."""
    name = f"contract-{uuid.uuid4()}"
    try:
        site.keys.named(name)
    except PreflightFailed as error:
        pytest.skip(str(error))
    yield name
    for secret in site.keys.named(name):
        site.keys.delete(secret)


def test_a_key_is_stored_found_by_its_name_and_read_as_it_was(site: Site, name: str) -> None:
    key = secrets.token_bytes(32)
    made = site.keys.store(name, key)
    assert site.keys.named(name) == [made]
    assert site.keys.payload(made) == key
    assert site.keys.is_there(made)


def test_a_key_that_is_kept_again_is_the_same_and_another_of_its_name_is_not(
    site: Site, name: str
) -> None:
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    one = site.keys.kept(name, first)
    assert site.keys.kept(name, first) == one
    other = site.keys.kept(name, second)
    assert other != one and site.keys.payload(other) == second


def test_a_key_that_is_deleted_is_gone_and_deleting_it_again_is_fine(site: Site, name: str) -> None:
    made = site.keys.store(name, secrets.token_bytes(32))
    site.keys.delete(made)
    site.keys.delete(made)
    assert not site.keys.is_there(made)
    with pytest.raises(ApiError) as raised:
        site.keys.payload(made)
    assert raised.value.status == 404


def test_a_plain_volume_type_has_no_encryption_and_one_that_is_missing_is_refused(
    site: Site,
) -> None:
    kind = site.volumes.types()[0]["id"]
    assert site.volumes.type_encryption(kind) is None
    assert refused(lambda: site.volumes.type_encryption(str(uuid.uuid4()))).status == 404


LUKS = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}


@pytest.fixture
def encrypted(site: Site, name: str, things: Things) -> str:
    """The name of an encrypted volume type."""
    return make_type(site, things, name)


def make_type(site: Site, things: Things, name: str) -> str:
    api = site.volumes._api
    kind = api.post("/types", {"volume_type": {"name": name}})["volume_type"]["id"]
    things.removals.append(lambda: api.delete(f"/types/{kind}"))
    wanted = {**LUKS, "control_location": "front-end"}
    api.post(f"/types/{kind}/encryption", {"encryption": wanted})
    return name


def key_of(site: Site, shown: Json) -> bytes:
    return site.keys.payload(shown["encryption_key_id"])


def from_backup(site: Site, things: Things, backup: Json, volume_type: str) -> Json:
    """A volume that is made from a backup, in the state in which it ends."""
    volume = site.volumes.create_volume(
        {
            "size": 1,
            "name": things.name(),
            "volume_type": volume_type,
            "backup_id": backup["id"],
        }
    )

    def remove() -> None:
        site.volumes.delete_volume(volume)
        site.volumes.watch.wait_gone([volume], timeout_s=PATIENCE_S)

    things.removals.append(remove)
    ends = ("available", "error_restoring", "error")
    until(lambda: there(site.volumes.volume(volume))["status"] in ends, "it is made")
    return there(site.volumes.volume(volume))


def test_an_encrypted_type_says_how_and_its_volume_names_a_key_that_goes_with_it(
    site: Site, name: str, encrypted: str
) -> None:
    (kind,) = [t["id"] for t in site.volumes.types() if t["name"] == encrypted]
    found = there(site.volumes.type_encryption(kind))
    assert {k: found[k] for k in LUKS} == LUKS
    volume = site.volumes.create_volume({"size": 1, "name": name, "volume_type": encrypted})
    site.volumes.watch.wait_for([volume], timeout_s=PATIENCE_S)
    shown = there(site.volumes.volume(volume))
    assert shown["encrypted"] and len(key_of(site, shown)) == 32
    site.volumes.delete_volume(volume)
    site.volumes.watch.wait_gone([volume], timeout_s=PATIENCE_S)
    assert not site.keys.is_there(shown["encryption_key_id"])


def test_how_a_type_encrypts_is_changed_until_it_has_a_volume(
    site: Site, things: Things, encrypted: str
) -> None:
    (kind,) = [t["id"] for t in site.volumes.types() if t["name"] == encrypted]
    made = there(site.volumes.type_encryption(kind))
    path = f"/types/{kind}/encryption/{made['encryption_id']}"
    site.volumes._api.call("PUT", path, {"encryption": {**LUKS, "key_size": 512}})
    found = there(site.volumes.type_encryption(kind))
    assert found == {**found, **LUKS, "key_size": 512}
    things.volume(volume_type=encrypted)
    change = partial(site.volumes._api.call, "PUT", path, {"encryption": LUKS})
    assert refused(change).status == 400


def test_each_backup_of_an_encrypted_volume_and_what_is_made_from_it_have_keys_of_their_own(
    site: Site, things: Things, encrypted: str
) -> None:
    made = things.volume(volume_type=encrypted)
    volume = there(site.volumes.volume(made["id"]))
    backups = []
    for incremental in (False, True):
        snapshot = things.snapshot(made["id"])
        backup = things.backup(made["id"], snapshot["id"], incremental=incremental)
        (shown,) = [b for b in site.backups.backups() if b["id"] == backup["id"]]
        record = read_record(site.backups.export_record(backup["id"])[1])
        assert record["encryption_key_id"] == shown["encryption_key_id"]
        backups.append(shown)
    restored = from_backup(site, things, backups[-1], encrypted)
    assert (restored["status"], restored["encrypted"]) == ("available", True)
    holders = [volume, *backups, restored]
    assert len({one["encryption_key_id"] for one in holders}) == len(holders)
    assert {key_of(site, one) for one in holders} == {key_of(site, volume)}


def test_a_backup_takes_its_key_with_it(site: Site, things: Things, encrypted: str) -> None:
    made = things.volume(volume_type=encrypted)
    snapshot = things.snapshot(made["id"])
    backup = site.backups.create_backup(
        made["id"], snapshot["id"], things.name(), {}, incremental=False
    )
    site.backups.watch.wait_for([backup], timeout_s=PATIENCE_S)
    (shown,) = [b for b in site.backups.backups() if b["id"] == backup]
    assert site.keys.is_there(shown["encryption_key_id"])
    things.remove_backup(backup)
    assert not site.keys.is_there(shown["encryption_key_id"])


def test_an_encrypted_backup_is_restored_into_a_type_of_its_own_id_only(
    site: Site, things: Things, encrypted: str
) -> None:
    made = things.volume(volume_type=encrypted)
    backup = things.backup(made["id"], things.snapshot(made["id"])["id"])
    other = make_type(site, things, things.name())
    assert from_backup(site, things, backup, other)["status"] == "error_restoring"


def test_the_backup_of_a_plain_volume_leaves_a_volume_of_an_encrypted_type_unencrypted(
    site: Site, things: Things, encrypted: str
) -> None:
    made = things.volume()
    backup = things.backup(made["id"], things.snapshot(made["id"])["id"])
    restored = from_backup(site, things, backup, encrypted)
    assert (restored["status"], restored["encrypted"]) == ("available", False)
    assert not restored.get("encryption_key_id")
