# SPDX-License-Identifier: Apache-2.0
"""Clocks that go back by an hour between two recovery points cost no point that the policy keeps,
and no backup that one of them needs.
"""

from __future__ import annotations

import itertools
import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import SiteUnreachable
from antipode.operations.failover import failover, prepare
from antipode.runs import expire as run_kind
from antipode.store.tables import RunRow
from antipode.vault import points
from tests.unit.test_durable_runs import World, world
from tests.unit.test_expiry import expire, ids, keep

__all__ = ["world"]

HOUR = timedelta(hours=1)
POLICIES = [{"last": 1}, {"last": 1, "hourly": 2}, {"last": 1, "hourly": 1, "daily": 1}]


class Clocks:
    """The clock of the host, and that of Cinder at the active site."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.cinder = timedelta()
        """how far each is ahead"""
        self._cloud = world.a
        self._add_backup = world.a.add_backup
        self._real_time = time.time
        monkeypatch.setattr(time, "time", lambda: self._real_time() + self.host.total_seconds())
        clocks = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + clocks.host

        for name, module in list(sys.modules.items()):
            if name.startswith("antipode") and getattr(module, "datetime", None) is datetime:
                monkeypatch.setattr(module, "datetime", Shifted)
        monkeypatch.setattr(world.a, "add_backup", self._backup)

    def set(self, of: str, ahead: timedelta) -> None:
        """Set the clock of the host, of Cinder, or both."""
        if of in ("host", "both"):
            self.host = ahead
        if of in ("cinder", "both"):
            self.cinder = ahead
            self._cloud.clock = itertools.count(10**6 + int(ahead.total_seconds()))

    def _backup(self, volume: str, **fields: Any) -> str:
        at = datetime.now(UTC).replace(tzinfo=None) + self.cinder
        return self._add_backup(volume, **{"created_at": at.isoformat(), **fields})


@pytest.fixture
def clocks(world: World, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks(world, monkeypatch)
    clocks.set("both", timedelta())
    return clocks


def test_an_expiry_that_failed_while_the_clock_was_ahead_holds_up_no_other(
    world: World, clocks: Clocks
) -> None:
    keep(world, retention="all")
    world.protect()
    keep(world, retention={"last": 1})
    clocks.set("host", 10_000 * HOUR)
    world.a.before = lambda event: (_ for _ in ()).throw(SiteUnreachable("no answer"))
    with pytest.raises(SiteUnreachable):
        expire(world)
    clocks.set("host", timedelta())
    queued: list[RunRow] = []
    run_kind.submit_due(world.here, world.here.vnfs.all(), queued.append)
    assert [row.kind for row in queued] == ["expire"]


def needed_backups_are_there(world: World) -> bool:
    there = set(world.a.backups)
    return all(
        there.issuperset(points.read(world.here.vault, "v", point).backups) for point in ids(world)
    )


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("of", ["host", "cinder", "both"])
def test_a_clock_that_goes_back_costs_not_the_point_that_was_made_last(
    world: World, clocks: Clocks, of: str, policy: dict[str, int]
) -> None:
    keep(world, retention="all", full_every=100)
    world.protect()
    clocks.set(of, -HOUR)
    world.protect()
    last = world.protect()["recovery_point"]
    keep(world, retention=policy, full_every=100)
    expire(world)
    assert last in ids(world)
    # the same clocks go on, until no point is of the future any more
    clocks.set(of, timedelta(minutes=5))
    expire(world)
    assert last in ids(world)
    assert needed_backups_are_there(world)
    made = failover(world.here, prepare(world.here, "v", "site-b", last), Unobserved())
    assert made["recovery_point"] == last


@pytest.mark.parametrize("of", ["host", "cinder", "both"])
def test_once_time_has_gone_on_no_point_stays_that_was_made_while_clocks_were_wrong(
    world: World, clocks: Clocks, of: str
) -> None:
    keep(world, retention={"last": 1}, full_every=1)
    clocks.set(of, -HOUR)
    for _ in range(3):
        world.protect()
    clocks.set(of, timedelta(minutes=5))
    newest = world.protect()["recovery_point"]
    assert ids(world) == [newest]
    assert set(world.a.backups) == set(points.read(world.here.vault, "v").backups)


def test_a_clock_of_cinder_that_goes_back_behind_all_backups_costs_full_ones(
    world: World, clocks: Clocks
) -> None:
    keep(world, retention={"last": 1}, full_every=100)
    clocks.set("cinder", -400 * HOUR)
    last = world.protect()
    assert not last["incremental"]
    assert last["recovery_point"] in ids(world)
    assert needed_backups_are_there(world)
