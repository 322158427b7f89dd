# SPDX-License-Identifier: Apache-2.0
"""What antipode does with a VNF asks a vault as often with 3,000 recovery points as with 10."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import VaultCorrupt
from antipode.operations import protect as protecting
from antipode.operations.failover import failover, prepare
from antipode.operations.recovery_points import recovery_points
from antipode.runs import expire as expire_kind
from antipode.runs import protect as protect_kind
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from antipode.vault.keys import Keyring
from antipode.vault.sealing import Summary
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import expire, ids, keep, three_points

__all__ = ["world"]

CALLS = ("put", "create", "get", "list", "delete")
MANY = 3000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each document of a vault is read."""
    counted: Counter[str] = Counter()
    get = DirectoryVault.get

    def count(vault: DirectoryVault, name: str) -> bytes:
        counted[name] += 1
        return get(vault, name)

    monkeypatch.setattr(DirectoryVault, "get", count)
    return counted


def manifests(reads: Counter[str]) -> dict[str, int]:
    """How often the manifest of each point was read since the last look."""
    found = {n.split("/")[1].removesuffix(".json"): reads[n] for n in reads if is_manifest(n)}
    reads.clear()
    return found


def is_manifest(name: str) -> bool:
    return name.startswith("v/") and name.endswith(".json")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each call of a vault is made."""
    counted: Counter[str] = Counter()
    for name in CALLS:
        does = getattr(DirectoryVault, name)

        def count(vault: Any, *about: Any, does: Any = does, name: str = name) -> Any:
            counted[name] += 1
            return does(vault, *about)

        monkeypatch.setattr(DirectoryVault, name, count)
    return counted


def older_points(world: World, many: int) -> None:
    """So many points of long ago, under whose names is nothing that could be read."""
    folder = world.folder / "vault" / "v"
    for number in range(many):
        (folder / f"20200101T{number:06}Z-000000.json").write_bytes(b"not to be read")


def measured(calls: Counter[str]) -> dict[str, int]:
    found = dict(calls)
    calls.clear()
    return found


def test_protecting_listing_and_failing_over_cost_the_same_with_many_points(
    world: World,
    calls: Counter[str],
) -> None:
    there = three_points(world)
    world.protect()
    costs: list[list[dict[str, int]]] = []
    for many in (10, MANY):
        older_points(world, many)
        assert len(points.list_ids(world.here.vault, "v")) >= many
        measured(calls)
        world.protect()
        protecting = measured(calls)
        shown = [found for _, found in recovery_points(world.here, "v", len(there))]
        assert [type(found) for found in shown] == [Summary] * len(there)
        listing = measured(calls)
        prepare(world.here, "v", "site-b", None)
        costs.append([protecting, listing, measured(calls)])
    assert costs[0] == costs[1]
    failover(world.here, prepare(world.here, "v", "site-b", None), Unobserved())
    assert measured(calls)["get"] < 100


def test_an_expiry_reads_each_recovery_point_once(world: World, reads: Counter[str]) -> None:
    there = three_points(world)
    keep(world, retention={"last": 2})
    reads.clear()
    assert expire(world)["expired"] == there[:1]
    assert manifests(reads) == dict.fromkeys(there, 1)
    assert expire(world)["run"] is None
    assert manifests(reads) == {}


def test_an_expiry_reads_what_the_points_of_a_chain_have_in_common_once(
    world: World, reads: Counter[str]
) -> None:
    keep(world, retention="all", full_every=100)
    for _ in range(4):
        world.protect()
    keep(world, retention={"last": 3})
    reads.clear()
    assert len(expire(world)["expired"]) == 2
    records = {name: times for name, times in reads.items() if name.startswith("_records/")}
    assert records
    assert set(records.values()) == {1}


def test_an_expiry_that_goes_on_with_withdrawn_points_reads_each_once(
    world: World, reads: Counter[str]
) -> None:
    there = three_points(world)
    for point in there[:2]:
        points.hide(world.here.vault, "v", point, "It has expired.")
    reads.clear()
    expire(world)
    assert ids(world) == there[2:]
    assert manifests(reads) == dict.fromkeys(there, 1)


def test_a_service_reads_each_new_point_once_until_one_may_have_expired(
    world: World, reads: Counter[str]
) -> None:
    keep(world, retention={"last": 4})
    there = ids(world)
    for _ in range(3):
        reads.clear()
        assert service_queues(world) == []
        assert manifests(reads) == dict.fromkeys(there[-1:], 1)
        assert service_queues(world) == []
        assert manifests(reads) == {}
        with world.here.claims.begin(protecting.request(world.here, "v")) as claim:
            execute(world.here, protect_kind.KIND, claim, Unobserved())
        there = ids(world)
    keep(world, retention={"last": 3})
    reads.clear()
    (row,) = service_queues(world)
    assert manifests(reads) == {there[-1]: 1}
    with world.here.claims.begin(row) as claim:
        execute(world.here, expire_kind.KIND, claim, Unobserved())
    assert ids(world) == there[1:]
    assert manifests(reads) == dict.fromkeys(there, 1)


def test_a_service_looks_again_at_points_whose_key_was_not_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three_points(world)
    keep(world, retention={"last": 1})
    with monkeypatch.context() as before_the_import:
        stranger = Ed25519PrivateKey.generate().public_key()
        before_the_import.setattr(Keyring, "trusted", lambda _keys: {"stranger": stranger})
        assert service_queues(world) == []
    (row,) = service_queues(world)
    with world.here.claims.begin(row) as claim:
        execute(world.here, expire_kind.KIND, claim, Unobserved())
    assert ids(world) == there[2:]


def test_what_a_service_remembers_of_points_removes_nothing(world: World) -> None:
    there = three_points(world)
    keep(world, retention={"last": 3})
    assert service_queues(world) == []
    (world.folder / "vault" / "v" / f"{there[1]}.json").write_bytes(b"{}")
    keep(world, retention={"last": 1})
    (row,) = service_queues(world)
    backups = set(world.a.backups)
    with world.here.claims.begin(row) as claim, pytest.raises(VaultCorrupt):
        execute(world.here, expire_kind.KIND, claim, Unobserved())
    assert set(world.a.backups) == backups
    assert ids(world) == there


def service_queues(world: World) -> list[RunRow]:
    """The expiries that the service queues now."""
    queued: list[RunRow] = []
    expire_kind.submit_due(world.here, world.here.vnfs.all(), queued.append)
    return queued


def test_the_last_points_are_listed_and_all_where_there_are_fewer(world: World) -> None:
    keep(world, retention="all")
    world.protect()
    ids = points.list_ids(world.here.vault, "v")
    for last, listed in ((1, ids[1:]), (2, ids), (3, ids), (None, ids)):
        assert [point for point, _ in recovery_points(world.here, "v", last)] == listed
