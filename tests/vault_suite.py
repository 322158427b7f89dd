# SPDX-License-Identifier: Apache-2.0
"""What every back end of a vault keeps: the tests that run over all of them, each with a fixture
`vault` of its own that is empty.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from antipode.errors import Busy, NotFound, VaultError
from antipode.model.state import Claim, ProtectedVnf
from antipode.vault import PROBE, Vault, generations, points
from tests.unit import samples

HOSTS = 4


def test_what_is_put_is_read_and_a_second_put_replaces_it(vault: Vault) -> None:
    for document in (b"one", b"", bytes(range(256)) * 5000):
        vault.put("hlr/name of a document.json", document)
        assert vault.get("hlr/name of a document.json") == document


def test_of_a_document_that_is_too_large_only_the_beginning_is_read(vault: Vault) -> None:
    vault.put("hlr/large", bytes(range(256)) * 5000)
    for largest in (0, 1, 100_000):
        vault.largest = largest
        assert vault.get("hlr/large") == (bytes(range(256)) * 5000)[: largest + 1]
    vault.largest = 256 * 5000
    assert len(vault.get("hlr/large")) == 256 * 5000


def test_a_document_is_created_once(vault: Vault) -> None:
    assert vault.create("hlr/one", b"first")
    assert not vault.create("hlr/one", b"second")
    assert vault.get("hlr/one") == b"first"
    vault.delete("hlr/one")
    assert vault.create("hlr/one", b"third")
    assert vault.get("hlr/one") == b"third"


def test_what_is_not_there_is_not_found_and_can_be_deleted(vault: Vault) -> None:
    with pytest.raises(NotFound):
        vault.get("hlr/none")
    vault.delete("hlr/none")
    assert vault.versions("hlr/none") == []


def test_names_are_listed_by_prefix_in_order_and_probes_are_not(vault: Vault) -> None:
    assert vault.list("") == []
    for name in ("hlr/b", "hlr/a", "hlr2/c", f"{PROBE}x"):
        vault.put(name, b"")
    assert vault.list("hlr/") == ["hlr/a", "hlr/b"]
    assert vault.list("hlr") == ["hlr/a", "hlr/b", "hlr2/c"]
    assert vault.list("") == ["hlr/a", "hlr/b", "hlr2/c"]


def test_a_check_leaves_nothing(vault: Vault) -> None:
    vault.check("run-1")
    assert vault.versions(f"{PROBE}run-1") == []


def test_of_hosts_that_claim_at_once_one_has_it_when_all_have_answers(vault: Vault) -> None:
    expected = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)

    def claim(host: int) -> Claim | None:
        try:
            return generations.claim(vault, expected, "site-b", f"failover-{host}")
        except Busy:
            return None

    with ThreadPoolExecutor(HOSTS) as hosts:
        claims = [claim for claim in hosts.map(claim, range(HOSTS)) if claim is not None]
    standing = 0
    for mine in claims:
        try:
            generations.confirm(vault, mine)
            standing += 1
        except Busy:
            continue
    assert standing == 1


def test_a_point_is_committed_read_listed_and_withdrawn(vault: Vault) -> None:
    point = samples.point()
    points.commit(vault, point)
    assert points.list_ids(vault, "hlr") == [point.id]
    assert points.read(vault, "hlr") == point
    points.withdraw(vault, "hlr", point.id, on_its_way=True)
    assert points.list_ids(vault, "hlr") == []


def test_a_point_is_never_written_over_by_another(vault: Vault) -> None:
    points.commit(vault, samples.point())
    with pytest.raises(VaultError):
        points.commit(vault, samples.point(consistent_at="2026-11-22T16:00:09Z"))
    assert points.read(vault, "hlr") == samples.point()
