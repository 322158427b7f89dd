# SPDX-License-Identifier: Apache-2.0
"""A recovery has the mover write new volumes where none stand; what is half written is never used,
and none of it stays.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from antipode.cloud.api import ApiError
from antipode.model.marks import KEY, RUN, WRITTEN, WRITTEN_FOR
from antipode.model.source import BackupChain, VolumeKey
from antipode.model.standing import CLAIM
from antipode.mover import lock, work
from antipode.mover.child import NoMover
from antipode.recover import rollback, standing
from antipode.recover.sources import written
from antipode.recover.sources.standing import provided
from antipode.recover.standing import Want
from tests.unit.standingworld import BLOCK, SIZE, SOURCES, Killed, World, site_of, standing_world
from tests.unit.test_standing_roads import Recovering

Road = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ASKED_S", -1.0)
    monkeypatch.setattr(written, "STOPS_WITHIN_S", 0.0)


def restoring(folder: Path, points: int = 2) -> tuple[World, list[Want]]:
    """A world with chains of so many backups, and nothing at the site."""
    world = World(folder)
    for number in range(1, points):
        world.back_up(number)
    return world, world.back_up(points)


def provide(world: World, wants: list[Want], **more: Any) -> tuple[dict[str, str], list[str]]:
    recovering = Recovering(world, wants, **more)
    made = recovering.provide(written.provided)
    recovering.must_have(made)
    return made, recovering.roads


def half_written(world: World) -> list[str]:
    return [i for i, row in world.rows.items() if WRITTEN_FOR in row["metadata"]]


def test_new_volumes_get_the_bytes_of_the_point(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    made, roads = provide(world, wants)
    assert (set(made), set(made.values())) == (set(SOURCES), set(world.rows))
    assert roads == ["written by the mover"] * 2
    for want in wants:
        metadata = world.rows[made[want.source]]["metadata"]
        assert (metadata[KEY], metadata[WRITTEN]) == (f"point/{want.source}", want.backup)
        assert CLAIM not in metadata
    assert half_written(world) == []


def test_a_chain_of_fifty_costs_no_more_than_a_chain_of_one(tmp_path: Path) -> None:
    costs = {}
    for points in (1, 50):
        world, wants = restoring(tmp_path / f"{points}", points)
        world.store.asked.clear()
        made, _ = provide(world, wants)
        data = [name for name in world.store.asked if name[-5:].isdigit()]
        assert len(data) == len(set(data))
        blocks = sum(length for v in made.values() for _, length in world.disks[v].writes) // BLOCK
        assert blocks <= len(wants) * SIZE // BLOCK  # each once
        costs[points] = len(data)
    # an increment has an object for each run of blocks, and none is got for what was replaced
    assert costs[50] <= len(SOURCES) * SIZE // BLOCK
    assert costs[1] < costs[50]


def test_nothing_is_written_where_the_host_is_not_to(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    none = NoMover(world.locks, "this host has none")
    assert provide(world, wants, mover_restores=False) == ({}, [])
    assert provide(world, wants, mover=none) == ({}, [])
    assert provide(world, wants, mover=None) == ({}, [])
    assert world.rows == {}


@pytest.mark.parametrize("host", ["same", "another"])
def test_a_recovery_that_was_killed_anywhere_has_each_volume_once_in_the_end(
    host: str, tmp_path: Path
) -> None:
    world, wants = restoring(tmp_path / "count")
    provide(world, wants)
    for deed in range(1, len(world.fate.deeds) + 1):
        world, wants = restoring(tmp_path / f"{deed}")
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            provide(world, wants)
        where = world.fate.deeds[-1]
        world.fate.revive()
        if host == "another":
            world.becomes_another_host(tmp_path / f"{deed}")
        made, roads = provide(world, wants)
        assert set(made) == set(SOURCES), (where, roads)
        assert written.remove_half_written(cast(Any, site_of(world)), "fo-1") == []
        assert set(world.rows) == set(made.values()), where
        assert world.attached == {}, where


def test_an_abort_after_a_kill_anywhere_leaves_no_volume(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path / "count")
    provide(world, wants)
    for deed in range(1, len(world.fate.deeds) + 1):
        world, wants = restoring(tmp_path / f"{deed}")
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            provide(world, wants)
        where = world.fate.deeds[-1]
        world.fate.revive()
        written.let_go(cast(Any, site_of(world)), "fo-1")
        for volume in [v for v in world.listing() if rollback._is_to_go(v, "fo-1")]:
            world.delete_volume(volume["id"])
        assert world.rows == {}, where


def test_a_volume_whose_writer_may_live_is_left_and_another_is_made(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    world.fate.on_deed = lambda what: setattr(
        world.fate, "kill_at", len(world.fate.deeds) if what == "before write" else None
    )
    with pytest.raises(Killed):
        provide(world, wants)
    [left] = half_written(world)
    claim = world.rows[left]["metadata"][CLAIM]
    world.fate.on_deed = lambda what: None
    world.fate.revive()
    stopped = os.open(world.locks / claim, os.O_RDWR)  # its mover is stopped, and holds it
    try:
        fcntl.flock(stopped, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = len(world.disks[left].writes)
        made, _ = provide(world, wants)
        assert left not in made.values()
        assert KEY not in world.rows[left]["metadata"]
        assert (len(made), len(world.disks[left].writes)) == (2, before)
    finally:
        os.close(stopped)
    assert written.remove_half_written(cast(Any, site_of(world)), "fo-1") == []
    assert set(world.rows) == set(made.values())


def killed_after_a_write(world: World, recovery: Callable[[], object]) -> str:
    """The volume that a recovery has half written as its host is killed; the host lives again."""
    world.fate.on_deed = lambda what: setattr(
        world.fate, "kill_at", len(world.fate.deeds) if what == "after write" else None
    )
    with pytest.raises(Killed):
        recovery()
    [left] = half_written(world)
    world.fate.on_deed = lambda what: None
    world.fate.revive()
    return left


def test_what_is_half_written_is_finished_where_its_writer_has_ended(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    left = killed_after_a_write(world, lambda: provide(world, wants))
    made, _ = provide(world, wants)
    assert left in made.values()


def test_a_volume_that_is_whole_is_taken_by_the_process_that_resumes(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    made, _ = provide(world, wants)
    world.store.asked.clear()
    again, roads = provide(world, wants)
    assert (again, roads, world.store.asked) == (made, ["written before"] * 2, [])


def only_by_the_mover(world: World, wants: list[Want]) -> dict[str, str]:
    """As of change streams, for which there is no other road."""

    def road(r: Any, server: str, volumes: Any) -> dict[str, str]:
        return written.all_written(r, cast(Any, world), server, volumes)

    return Recovering(world, wants).provide(road)


@pytest.mark.parametrize("status", ["reserved", "attaching", "in-use"])
def test_a_volume_that_a_server_is_about_to_have_is_not_written_a_second_time(
    status: str, tmp_path: Path
) -> None:
    world, wants = restoring(tmp_path)
    made, _ = provide(world, wants)
    for row in world.rows.values():
        row["status"] = status
    assert only_by_the_mover(world, wants) == made
    assert provide(world, wants)[0] == made
    assert set(world.rows) == set(made.values())


def test_a_half_written_volume_that_does_not_become_free_is_replaced(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    left = killed_after_a_write(world, lambda: only_by_the_mover(world, wants))
    world.rows[left]["status"] = "error_managing"
    made = only_by_the_mover(world, wants)
    assert (set(made), left in made.values()) == (set(SOURCES), False)


def test_a_volume_that_cinder_restores_is_left_to_it(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    key = f"point/{wants[0].source}"
    begun = world.create_volume({"size": 1, "metadata": {RUN: "fo-1", KEY: key}})
    made, _ = provide(world, wants)
    assert set(made) == {wants[1].source}
    assert world.rows[begun]["metadata"] == {RUN: "fo-1", KEY: key}


def test_a_store_that_loses_an_object_leaves_cinders_restore_and_no_volume(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)
    newest = wants[0].chain[-1].stored
    assert newest is not None

    def lose(what: str) -> None:
        if what == "before attach":
            for name in [n for n in world.store.held if n.startswith(newest.prefix)]:
                del world.store.held[name]

    world.fate.on_deed = lose
    made, roads = provide(world, wants)
    assert set(made) == {wants[1].source}
    assert sorted(road.partition(":")[0] for road in roads) == [
        "Cinder's restore",
        "written by the mover",
    ]
    assert set(world.rows) == set(made.values())


def test_a_site_that_makes_no_volume_leaves_cinders_restore(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)

    def refuse(what: str) -> None:
        if what == "before create volume":
            raise ApiError("site-b", "POST /volumes", 413, "the quota is exhausted")

    world.fate.on_deed = refuse
    made, roads = provide(world, wants)
    assert made == {}
    assert all(road.startswith("Cinder's restore: ") for road in roads)


@pytest.mark.parametrize("road", [provided, written.provided])
def test_a_lock_that_cannot_be_made_leaves_cinders_restore(road: Road, tmp_path: Path) -> None:
    world, _, wants = standing_world(tmp_path)
    there = set(world.rows)
    (tmp_path / "file").touch()
    world.locks = tmp_path / "file" / "locks"
    recovering = Recovering(world, wants)
    assert recovering.provide(road) == {}
    assert [road.partition(":")[0] for road in recovering.roads] == ["Cinder's restore"] * 2
    assert set(world.rows) == there


def test_a_volume_that_another_process_has_claimed_is_not_taken(tmp_path: Path) -> None:
    world, wants = restoring(tmp_path)

    def claim(what: str) -> None:
        if what == "after detach":
            for row in world.rows.values():
                row["metadata"][CLAIM] = "of another"

    world.fate.on_deed = claim
    made, _ = provide(world, wants)
    assert made == {}


def test_a_mover_writes_into_no_volume_that_has_a_key_or_is_of_another_run(tmp_path: Path) -> None:
    for marks in ({RUN: "fo-1", KEY: "point/x"}, {RUN: "fo-2"}, {}):
        world, wants = restoring(tmp_path / str(len(marks)))

        def taken(what: str, marks: dict[str, str] = marks, world: World = world) -> None:
            if what == "after attach":
                for row in world.rows.values():
                    row["metadata"] = {CLAIM: row["metadata"][CLAIM], **marks}

        world.fate.on_deed = taken
        provide(world, wants)
        assert all(not disk.writes for disk in world.disks.values())


def test_volumes_that_stand_are_not_written_as_new_ones(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    stands = set(world.rows)
    made, _ = provide(world, first)
    assert stands.isdisjoint(made.values())  # this road looks at none of them
    assert world.shown_as_good() == sorted((w.source, w.backup) for w in first)


def test_sources_that_the_mover_does_not_read_are_named(tmp_path: Path) -> None:
    _, wants = restoring(tmp_path)
    chain = list(wants[0].chain)
    assert written.why_not(BackupChain(backups=chain)) is None
    other = [r.model_copy(update={"service": "cinder.backup.drivers.ceph.X"}) for r in chain]
    bare = [r.model_copy(update={"stored": None}) for r in chain]
    key = VolumeKey.model_construct(type_name="luks", kept={})
    locked = BackupChain(backups=chain).model_copy(update={"key": key})
    for source in (BackupChain(backups=other), BackupChain(backups=bare), locked):
        assert written.why_not(source)


def test_a_lock_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    asked: list[str] = []
    path = tmp_path / "locks" / "claim"
    assert not lock.awaited_over(path, lambda: asked.append("x"), 60)  # of another host
    lock.prepare(path)
    assert lock.awaited_over(path, lambda: asked.append("x"), 60)
    assert asked == []
    assert standing.STOPS_WITHIN_S > 0
