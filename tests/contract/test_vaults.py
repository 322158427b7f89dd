# SPDX-License-Identifier: Apache-2.0
"""A vault in Swift, as real Swift answers it: the tests that run over all back ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode.cloud.site import Site, connect_objects
from antipode.vault.swift import SwiftVault
from tests.contract.conftest import BACKUP, STORE
from tests.vault_suite import *  # noqa: F403 the tests that run over all back ends


@pytest.fixture
def vault(clouds: Path, prefix: str) -> Iterator[SwiftVault]:
    storage = connect_objects(BACKUP, BACKUP)
    container = f"{prefix}-vault"
    yield SwiftVault(storage, container, BACKUP)
    storage.ensure_container(container)
    for item in storage.listing(container):
        storage.delete(container, item.name)
    storage._send("DELETE", container)


def test_a_container_that_others_may_use_is_remarked(vault: SwiftVault) -> None:
    storage, container = vault._objects, vault._container
    assert vault.remarks() == []
    storage.ensure_container(container)
    assert vault.remarks() == []
    storage._send("POST", container, headers={"X-Container-Write": "tenants:*"})
    (remark,) = vault.remarks()
    assert "tenants:*" in remark
    storage._send("POST", container, headers={"X-Container-Write": ""})
    assert vault.remarks() == []


def test_the_account_names_the_project(other_site: Site) -> None:
    ours, store = other_site.objects.account, connect_objects("s", STORE).account
    assert connect_objects("b", BACKUP).account == ours
    assert store
    assert store != ours
