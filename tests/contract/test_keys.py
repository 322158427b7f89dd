# SPDX-License-Identifier: Apache-2.0
"""Keys of encrypted volumes: what Barbican and Cinder's encrypted types answer. On a lab without a
key manager these tests are left out.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator

import pytest

from antipode.cloud.api import ApiError
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from tests.contract.conftest import refused


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


def test_an_encrypted_type_says_how_and_its_volume_names_a_key(site: Site, name: str) -> None:
    api = site.volumes._api
    kind = api.post("/types", {"volume_type": {"name": name}})["volume_type"]["id"]
    luks = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}
    wanted = {**luks, "control_location": "front-end"}
    volume: str | None = None
    try:
        api.post(f"/types/{kind}/encryption", {"encryption": wanted})
        found = site.volumes.type_encryption(kind) or {}
        assert {k: found[k] for k in luks} == luks
        volume = site.volumes.create_volume({"size": 1, "name": name, "volume_type": name})
        site.volumes.watch.wait_for([volume], timeout_s=300)
        shown = site.volumes.volume(volume) or {}
        assert shown["encrypted"] and len(site.keys.payload(shown["encryption_key_id"])) == 32
    finally:
        if volume is not None:
            site.volumes.delete_volume(volume)
            site.volumes.watch.wait_gone([volume], timeout_s=300)
        api.delete(f"/types/{kind}")
    assert not site.keys.is_there(shown["encryption_key_id"])
