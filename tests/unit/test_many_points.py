# SPDX-License-Identifier: Apache-2.0
"""What antipode does with a VNF asks a vault as often with 3,000 recovery points as with 10."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.operations.failover import failover, prepare
from antipode.operations.recovery_points import recovery_points
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from antipode.vault.sealing import Summary
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import keep, three_points

__all__ = ["world"]

CALLS = ("put", "create", "get", "list", "delete")
MANY = 3000


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


def test_the_last_points_are_listed_and_all_where_there_are_fewer(world: World) -> None:
    keep(world, retention="all")
    world.protect()
    ids = points.list_ids(world.here.vault, "v")
    for last, listed in ((1, ids[1:]), (2, ids), (3, ids), (None, ids)):
        assert [point for point, _ in recovery_points(world.here, "v", last)] == listed
