# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes: their keys are in key managers only, each record has one of its own before it
is imported, and whatever a site lacks is said before anything is made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from antipode.cloud.api import ApiError
from antipode.cloud.backups import NO_VOLUME
from antipode.cloud.keys import NO_KEY
from antipode.cloud.site import Site
from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed
from antipode.model.point import RecoveryPoint
from antipode.operations.expiry import delete, plan_deletion
from antipode.operations.failover import prepare
from antipode.operations.protect import protect
from antipode.protect import partial
from antipode.recover.sources import encrypted
from antipode.vault import points
from tests.unit.fakecloud import A_BACKUP
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF
from tests.unit.test_partial_capture import with_capture

__all__ = ["world"]
KEY = b"k" * 32
VOLUME = "db-data"
LUKS = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}
HEAD = VNF.model_copy(update={"protections": VNF.protections[:1]})


class FakeKeys:
    """The secrets of one site."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.secrets: dict[str, tuple[str, bytes]] = {}

    def payload(self, secret_id: str) -> bytes:
        if secret_id not in self.secrets:
            raise ApiError(self.site, f"GET key-manager/secrets/{secret_id}", 404, "not found")
        return self.secrets[secret_id][1]

    def named(self, name: str) -> list[str]:
        return [i for i, (n, _) in self.secrets.items() if n == name]

    def name_of(self, secret_id: str) -> str | None:
        return self.secrets[secret_id][0] if secret_id in self.secrets else None

    def is_there(self, secret_id: str) -> bool:
        return secret_id in self.secrets

    def store(self, name: str, payload: bytes) -> str:
        made = f"{self.site}-secret-{len(self.secrets)}-{name}"
        self.secrets[made] = (name, payload)
        return made

    def kept(self, name: str, payload: bytes) -> str:
        found = [i for i in self.named(name) if self.payload(i) == payload]
        return found[0] if found else self.store(name, payload)

    def delete(self, secret_id: str) -> None:
        self.secrets.pop(secret_id, None)


class Keyed:
    """A world in which a data volume is encrypted, and both sites can handle that."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: dict[str, FakeKeys] = {n: FakeKeys(n) for n in ("site-a", "site-b")}
        self.keys["site-a"].secrets["key-1"] = ("", KEY)
        world.a.volumes[VOLUME] |= {
            "encrypted": True,
            "encryption_key_id": "key-1",
            "volume_type": "secret",
        }
        for cloud in (world.a, world.b):
            cloud.types.append({"id": "type-s", "name": "secret"})
            cloud.encrypted_types["type-s"] = dict(LUKS)
        world.here.vnfs.put(HEAD)

    def of(self, site: Site) -> FakeKeys:
        if site.name not in self.keys:
            raise PreflightFailed(f"The work with {site.name}", ["no key-manager in its catalog"])
        return self.keys[site.name]

    def newest(self) -> RecoveryPoint:
        return points.find(self.world.here.vaults(), "v", None).point


@pytest.fixture
def keyed(world: World, monkeypatch: pytest.MonkeyPatch) -> Keyed:
    keyed = Keyed(world)
    monkeypatch.setattr(Site, "keys", property(keyed.of))
    return keyed


def test_a_point_names_a_key_that_is_kept_at_the_backup_site_and_holds_none(keyed: Keyed) -> None:
    keyed.world.protect()
    protect(keyed.world.here, "v", Unobserved())
    (key,) = encrypted.keys_of(keyed.newest()).values()
    there = keyed.keys["site-b"]
    assert there.secrets == {key.kept["site-b"]: ("antipode:v:key-1", KEY)}
    for file in (keyed.world.folder / "vault").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(k in content for k in (KEY, KEY.hex().encode(), base64.b64encode(KEY)))


def test_each_record_has_a_key_of_its_own_when_it_is_imported(keyed: Keyed) -> None:
    keyed.world.protect()
    keyed.world.protect()
    keyed.world.failover()
    there, point = keyed.keys["site-b"], keyed.newest()
    (key,) = encrypted.keys_of(point).values()
    own = {there.named(f"antipode:backup:{record.id}")[0] for record in point.chain(VOLUME)}
    assert len(own) == len(point.chain(VOLUME)) == 2
    assert key.kept["site-b"] not in own
    assert {there.payload(secret) for secret in own} == {KEY}


def test_a_record_gets_the_same_key_when_it_is_imported_again(keyed: Keyed) -> None:
    keyed.world.protect()
    (record,) = keyed.newest().chain(VOLUME)[-1:]
    (key,) = encrypted.keys_of(keyed.newest()).values()
    urls = {encrypted.url_with_key(keyed.world.b.site, record, key) for _ in range(2)}
    (url,) = urls
    assert json.loads(base64.b64decode(url))["encryption_key_id"] in keyed.keys["site-b"].secrets


def _lacks_manager(site: str) -> Callable[[Keyed], Any]:
    return lambda keyed: keyed.keys.pop(site)


def _has_no_type(keyed: Keyed) -> None:
    keyed.world.b.types.pop()


def _has_another_name(keyed: Keyed) -> None:
    keyed.world.b.types[-1]["name"] = "other"


def _has_another_cipher(keyed: Keyed) -> None:
    keyed.world.b.encrypted_types["type-s"]["key_size"] = 512


def _has_a_plain_type(keyed: Keyed) -> None:
    del keyed.world.b.encrypted_types["type-s"]


def _has_a_fixed_key(keyed: Keyed) -> None:
    keyed.world.a.volumes[VOLUME]["encryption_key_id"] = NO_KEY


def _has_a_key_that_cannot_be_read(keyed: Keyed) -> None:
    keyed.keys["site-a"].secrets.clear()


def _has_an_old_cinder(keyed: Keyed) -> None:
    keyed.world.b.site.volumes._api.microversion = (3, 60)


@pytest.mark.parametrize(
    "lacks",
    [
        _lacks_manager("site-a"),
        _lacks_manager("site-b"),
        _has_no_type,
        _has_another_name,
        _has_another_cipher,
        _has_a_plain_type,
        _has_a_fixed_key,
        _has_a_key_that_cannot_be_read,
        _has_an_old_cinder,
    ],
)
def test_what_a_site_lacks_is_said_before_a_member_is_quiesced(
    keyed: Keyed, lacks: Callable[[Keyed], Any]
) -> None:
    before = list(keyed.world.a.events)
    lacks(keyed)
    with pytest.raises(PreflightFailed):
        keyed.world.protect()
    assert [e for e in keyed.world.a.events[len(before) :] if e.startswith("quiesce")] == []
    assert not any(keyed.keys[s].named("antipode:v:key-1") for s in keyed.keys)


@pytest.mark.parametrize("lost", [_has_no_type, _has_another_cipher, _lacks_manager("site-b")])
def test_what_has_gone_missing_since_is_in_the_plan(
    keyed: Keyed, lost: Callable[[Keyed], Any]
) -> None:
    keyed.world.protect()
    lost(keyed)
    with pytest.raises(PreflightFailed):
        prepare(keyed.world.here, "v", "site-b", None)


def test_a_kept_key_that_is_gone_is_in_the_plan(keyed: Keyed) -> None:
    keyed.world.protect()
    keyed.keys["site-b"].secrets.clear()
    with pytest.raises(PreflightFailed) as caught:
        prepare(keyed.world.here, "v", "site-b", None)
    assert any("gone" in problem for problem in caught.value.problems)


def test_a_kept_key_that_is_gone_is_in_the_plan_though_an_import_has_failed(keyed: Keyed) -> None:
    keyed.world.protect()
    (record,) = keyed.newest().chain(VOLUME)[-1:]
    failed = {"volume_id": NO_VOLUME, "status": "error", "container": None}
    keyed.world.b.backups[record.id] = {**A_BACKUP, "id": record.id, **failed}
    prepare(keyed.world.here, "v", "site-b", None)
    keyed.keys["site-b"].secrets.clear()
    with pytest.raises(PreflightFailed, match="is gone"):
        prepare(keyed.world.here, "v", "site-b", None)


def test_a_plain_volume_is_not_planned_into_an_encrypted_type(keyed: Keyed) -> None:
    keyed.world.protect()
    keyed.world.b.encrypted_types["type-2"] = dict(LUKS)
    with pytest.raises(PreflightFailed) as caught:
        prepare(keyed.world.here, "v", "site-b", None)
    assert any("unencrypted" in problem for problem in caught.value.problems)


@pytest.fixture
def cloned(keyed: Keyed) -> Keyed:
    """Of the pair the active member db is a clone of front."""
    world = keyed.world
    del world.a.volumes[VOLUME]
    world.a.attachments["id-db"] = [
        a for a in world.a.attachments["id-db"] if a["volumeId"] != VOLUME
    ]
    world.here.vnfs.put(with_capture())
    return keyed


def _encrypt(keyed: Keyed, *volumes: str) -> None:
    secret = {"encrypted": True, "encryption_key_id": "key-1", "volume_type": "secret"}
    for volume in volumes:
        keyed.world.a.volumes[volume] |= secret


@pytest.mark.parametrize("which", [["front-root"], ["db-root"], ["front-root", "db-root"]])
def test_no_protection_takes_an_encrypted_volume_for_a_clone(
    cloned: Keyed, which: list[str]
) -> None:
    _encrypt(cloned, *which)
    with pytest.raises(PreflightFailed) as caught:
        cloned.world.protect()
    found = [p for p in caught.value.problems if "encrypted" in p]
    assert [volume for volume in which if not any(volume in p for p in found)] == []


def test_no_plan_puts_a_clone_of_an_encrypted_volume_into_a_plain_type(
    cloned: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in points that were made before a protection refused that."""
    _encrypt(cloned, "front-root")
    monkeypatch.setattr(partial, "_unlike", lambda *_: [])
    cloned.world.protect()
    with pytest.raises(PreflightFailed) as caught:
        prepare(cloned.world.here, "v", "site-b", None)
    assert [p for p in caught.value.problems if "secret" in p and "standard" in p]


def test_no_plan_puts_a_clone_of_a_plain_volume_into_an_encrypted_type(cloned: Keyed) -> None:
    for cloud in (cloned.world.a, cloned.world.b):
        cloud.types.append({"id": "type-q", "name": "quick"})
    cloned.world.a.volumes["db-root"]["volume_type"] = "quick"
    cloned.world.b.encrypted_types["type-q"] = dict(LUKS)
    cloned.world.protect()
    with pytest.raises(PreflightFailed) as caught:
        prepare(cloned.world.here, "v", "site-b", None)
    assert [p for p in caught.value.problems if "db-root" in p and "unencrypted" in p]


def test_the_plan_says_what_cannot_be_seen(keyed: Keyed) -> None:
    keyed.world.protect()
    warnings = prepare(keyed.world.here, "v", "site-b", None).warnings
    assert any("send_service_user_token" in warning for warning in warnings)


def test_another_option_refuses_an_encrypted_volume(keyed: Keyed) -> None:
    keyed.world.here.vnfs.put(VNF.model_copy(update={"protections": VNF.protections[1:]}))
    with pytest.raises(PreflightFailed) as caught:
        keyed.world.protect()
    assert any("encrypted" in problem for problem in caught.value.problems)


def test_a_change_of_the_type_begins_a_new_chain(keyed: Keyed) -> None:
    keyed.world.protect()
    for cloud in (keyed.world.a, keyed.world.b):
        cloud.types[-1]["id"] = "type-t"
        cloud.encrypted_types["type-t"] = dict(LUKS)
    keyed.world.protect()
    assert len(keyed.newest().chain(VOLUME)) == 1


def test_a_change_of_the_key_begins_a_new_chain(keyed: Keyed) -> None:
    """Older points of the chain would be imported with the new key, and could not be opened."""
    keyed.world.protect()
    keyed.world.a.volumes[VOLUME]["encryption_key_id"] = "key-2"
    keyed.keys["site-a"].secrets["key-2"] = ("", b"n" * 32)
    keyed.world.protect()
    assert len(keyed.newest().chain(VOLUME)) == 1


def test_a_key_goes_with_the_last_point_that_names_it_and_no_other_secret_does(
    keyed: Keyed,
) -> None:
    keyed.world.protect()
    (key,) = encrypted.keys_of(keyed.newest()).values()
    there = keyed.keys["site-b"]
    there.secrets["somebody's"] = ("of somebody", b"x")
    first = keyed.newest().id
    keyed.world.a.volumes[VOLUME]["encryption_key_id"] = "key-2"
    keyed.keys["site-a"].secrets["key-2"] = ("", KEY)
    keyed.world.protect()
    going = [first, *(p for p in points.list_ids(keyed.world.here.vaults(), "v") if p < first)]
    delete(keyed.world.here, plan_deletion(keyed.world.here, "v", going), Unobserved())
    assert not there.is_there(key.kept["site-b"]) and there.is_there("somebody's")
    assert there.named("antipode:v:key-2")


def test_a_key_that_must_not_be_deleted_is_named_and_holds_up_nothing(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed.world.protect()
    (key,) = encrypted.keys_of(keyed.newest()).values()
    here, there, first = keyed.world.here, keyed.keys["site-b"], keyed.newest().id
    keyed.world.a.volumes[VOLUME]["encryption_key_id"] = "key-2"
    keyed.keys["site-a"].secrets["key-2"] = ("", KEY)
    keyed.world.protect()
    going = [p for p in points.list_ids(here.vaults(), "v") if p <= first]

    def refuse(secret_id: str) -> None:
        raise ApiError("site-b", f"DELETE key-manager/secrets/{secret_id}", 403, "Forbidden")

    with monkeypatch.context() as patched:
        patched.setattr(there, "delete", refuse)
        record = delete(here, plan_deletion(here, "v", going), Unobserved())
    assert [left for left in record["left"] if "Forbidden" in left]
    assert there.is_there(key.kept["site-b"])
    delete(here, plan_deletion(here, "v", [first]), Unobserved())
    assert not there.is_there(key.kept["site-b"])
