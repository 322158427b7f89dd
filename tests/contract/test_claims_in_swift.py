# SPDX-License-Identifier: Apache-2.0
"""Of several hosts that fail over the same VNF at once, Swift lets one have it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from antipode.cloud.site import connect_objects
from antipode.errors import Busy
from antipode.model.state import Claim, ProtectedVnf
from antipode.vault import generations
from antipode.vault.swift import SwiftVault
from tests.contract.conftest import BACKUP

HOSTS = 4


@pytest.fixture
def hosts(clouds: Path, prefix: str) -> Iterator[list[SwiftVault]]:
    """The same vault, as each of several hosts has connected to it."""
    storages = [connect_objects(BACKUP, BACKUP) for _ in range(HOSTS)]
    yield [SwiftVault(storage, prefix, BACKUP) for storage in storages]
    for item in storages[0].listing(prefix):
        storages[0].delete(prefix, item.name)
    storages[0]._send("DELETE", prefix)


def test_of_hosts_that_claim_at_once_one_has_it_when_all_have_answers(
    hosts: list[SwiftVault],
) -> None:
    for number in range(5):
        expected = ProtectedVnf(vnf=f"vnf-{number}", active_site="site-a", generation=1)

        def claim(host: int, expected: ProtectedVnf = expected) -> Claim | None:
            try:
                return generations.claim(hosts[host], expected, BACKUP, f"failover-{host}")
            except Busy:
                return None

        with ThreadPoolExecutor(HOSTS) as pool:
            claims = [claim for claim in pool.map(claim, range(HOSTS)) if claim is not None]
        standing = 0
        for mine in claims:
            try:
                generations.confirm(hosts[0], mine)
                standing += 1
            except Busy:
                continue
        assert standing == 1
