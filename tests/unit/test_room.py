# SPDX-License-Identifier: Apache-2.0
"""Backups stay within a quota: expiry makes room, and a chain ends before it is too long for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from antipode.engine.run import Run
from antipode.errors import PreflightFailed
from antipode.model.retention import Dated, Retention
from antipode.model.room import Room
from antipode.model.vnf import Vnf
from antipode.runs import expire
from antipode.transfer import expiry
from antipode.vault import points
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import VOLUMES, keep
from tests.unit.test_vault_sync import three_vaults

__all__ = ["world"]

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def dated(name: str, at: datetime) -> Dated:
    return Dated(name, "o", 1, at, at)


def room(limit: int, last: int, *chain: str) -> Room:
    """One point that rests on a chain of backups of one volume."""
    held = [(dated("p", NOW - HOUR), dict.fromkeys(chain, 1))]
    return Room(held, {"o": Retention(last=last)}, {"v": 1}, limit)


@pytest.mark.parametrize(
    ("limit", "last", "chain", "increment", "full"),
    [
        (2, 1, "a", False, True),  # an increment, and then neither fits beside the other
        (3, 1, "a", True, True),
        (3, 1, "ab", False, True),
        (1, 1, "a", False, False),
        (3, 2, "a", False, True),
        (4, 2, "a", True, True),
        (100, 1, "abcdef", True, True),
    ],
)
def test_the_look_ahead_sees_where_one_more_increment_ends(
    limit: int, last: int, chain: str, increment: bool, full: bool
) -> None:
    there = room(limit, last, *chain)
    assert there.lasts(dated("n", NOW), tuple(chain), HOUR) is increment
    assert there.lasts(dated("n", NOW), (), HOUR) is full


def quota(world: World, backups: int) -> None:
    """The limit; what is used is what there is."""

    quotas: Any = world.a.quotas
    quotas["backups"] = Counted(backups, world)


class Counted(Mapping[str, int]):
    """A quota whose use is counted when it is asked for."""

    def __init__(self, limit: int, world: World) -> None:
        self._limit, self._world = limit, world

    def __getitem__(self, key: str) -> int:
        return {"limit": self._limit, "in_use": len(self._world.a.backups), "reserved": 0}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("limit", "in_use", "reserved"))

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(("last", "more"), [(1, 0), (1, 2), (2, 1), (3, 0), (3, 2)])
def test_protections_go_on_for_ever_where_the_quota_has_room_for_one_point_more_than_are_kept(
    world: World,
    last: int,
    more: int,
) -> None:
    keep(world, retention={"last": last}, full_every=100)
    quota(world, (last + 1 + more) * VOLUMES)
    for _ in range(8):
        world.protect()
    assert len(points.list_ids(world.here.vault, "v")) == last


def test_points_are_read_for_room_only_where_it_gets_short(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def looking(run: Run, vnf: Vnf) -> expiry.Expiry:
        looked.append(run.id)
        return expiry_of(run, vnf)

    expiry_of = expire.expiry_of
    monkeypatch.setattr(expire, "expiry_of", looking)
    keep(world, retention={"last": 9})
    quota(world, 99 * VOLUMES)
    world.protect()
    world.protect()
    assert looked == []
    quota(world, 5 * VOLUMES)
    world.protect()
    assert looked


def test_a_quota_without_room_is_named_before_anything_is_frozen(world: World) -> None:
    keep(world, retention={"last": 1})
    quota(world, 2 * VOLUMES - 1)
    there = set(world.a.backups)
    world.a.events.clear()
    with pytest.raises(PreflightFailed) as refused:
        world.protect()
    assert "backups" in str(refused.value)
    # guest agents are asked by an unquiesce
    assert {e.split()[0] for e in world.a.events} <= {"unquiesce"}
    assert set(world.a.backups) == there


def test_what_has_expired_makes_room_before_the_window(world: World) -> None:
    keep(world, retention="all")
    world.protect()
    keep(world, retention={"last": 1})
    quota(world, 2 * VOLUMES)
    world.a.events.clear()
    world.protect()
    deleted = [i for i, e in enumerate(world.a.events) if e.startswith("delete backup")]
    assert deleted[VOLUMES - 1] < world.a.events.index("quiesce db")


def test_a_silent_vault_makes_no_room(world: World) -> None:
    places = three_vaults(world, "vaults_needed: 2\n")
    keep(world, retention="all")
    there = [world.protect()["recovery_point"] for _ in range(2)]
    keep(world, retention={"last": 1})
    quota(world, len(world.a.backups))
    kept = set(world.a.backups)
    places.away("two")  # it may have a point that rests on these backups
    with pytest.raises(PreflightFailed):
        world.protect()
    assert set(world.a.backups) == kept
    places.back("two")
    assert points.list_ids(world.here.vaults(), "v") == there
