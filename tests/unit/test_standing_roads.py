# SPDX-License-Identifier: Apache-2.0
"""A recovery gets the bytes of its point from standing volumes by whichever road, or none; and what
it has taken is given back, or kept, and never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from antipode.cloud.api import ApiError
from antipode.errors import ResourceFailed, Stopped
from antipode.model.marks import KEY, RUN, VOLUME
from antipode.model.plan import VolumePlan
from antipode.model.source import BackupChain
from antipode.model.standing import CLAIM, HOLDS, STANDING, is_standing
from antipode.model.steps import Unrecorded
from antipode.mover import work
from antipode.mover.child import NoMover
from antipode.recover import rollback, standing
from antipode.recover.existing import Found
from antipode.recover.sources import backup
from antipode.recover.sources.standing import provided
from antipode.recover.standing import Want, bring, freed, give_back, keep_taken, listed
from tests.unit.standingworld import SOURCES, VNF, Killed, World, site_of, standing_world


@pytest.fixture(autouse=True)
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ASKED_S", -1.0)
    monkeypatch.setattr(standing, "STOPS_WITHIN_S", 0.0)


def plan_of(want: Want) -> VolumePlan:
    return VolumePlan(
        source_id=want.source,
        source_kind="backup-chain",
        source_reference=want.backup,
        name=want.label,
        description="of its owner",
        size_gib=1,
        volume_type="",
        availability_zone=None,
        metadata={"theirs": "1"},
        image_metadata={},
        is_root=False,
        delete_on_termination=False,
        tag=None,
    )


class Recovering:
    """A recovery of these volumes; `roads` has how each came."""

    def __init__(self, world: World, wants: Sequence[Want], run: str = "fo-1", **more: Any) -> None:
        self.world, self.wants, self.roads = world, wants, list[str]()
        sources = {w.source: BackupChain(backups=list(w.chain)) for w in wants}
        site = site_of(world)
        point = SimpleNamespace(vnf=SimpleNamespace(vnf=VNF), source_of=sources.__getitem__)
        slots = SimpleNamespace(hold=nullcontext)
        self.recovery = SimpleNamespace(
            run=run,
            point=point,
            site=site,
            found=Found(site),
            slots_of=lambda server: slots,
            timeline=_Timeline(self.roads),
            go_on=lambda: None,
            mover=more.get("mover", world),
            mover_restores=more.get("mover_restores", True),
            keys=more.get("keys", ""),
            key=lambda source: f"{more.get('keys') or 'point'}/{source}",
        )

    def provide(self, road: Callable[..., dict[str, str]] = provided) -> dict[str, str]:
        # one thread: a killed process does nothing in another one
        with ThreadPoolExecutor(1) as pool:
            self.recovery.pool = pool
            return road(cast(Any, self.recovery), "server", [plan_of(w) for w in self.wants])

    def must_have(self, made: dict[str, str]) -> None:
        """Each of these volumes has the bytes of its backup, and is marked as the recovery's."""
        for want in self.wants:
            if (volume := made.get(want.source)) is None:
                continue
            wanted = self.world.states[want.source][want.backup]
            assert bytes(self.world.disks[volume].content) == wanted
            row = self.world.rows[volume]
            assert (row["metadata"][RUN], row["name"]) == (self.recovery.run, want.label)
            assert (row["metadata"]["theirs"], row["metadata"][VOLUME]) == ("1", volume)
            assert self.world.of(volume) == {}


class _Timeline(Unrecorded):
    def __init__(self, roads: list[str]) -> None:
        self._roads = roads

    def step(self, name: Any, resource: str = "") -> Any:
        roads = self._roads

        class Step:
            def result(self, **facts: Any) -> None:
                if "road" in facts:
                    roads.append(facts["road"])

            def waits_for(self, what: str) -> None: ...

        return nullcontext(Step())


def test_volumes_that_stand_at_the_point_are_taken_as_they_are(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    before = set(world.rows)
    recovering = Recovering(world, first)
    made = recovering.provide()
    recovering.must_have(made)
    assert (set(made.values()), recovering.roads) == (before, ["standing"] * 2)
    assert listed(world.listing(), VNF) == {}  # no apply finds them now


def test_volumes_are_brought_to_a_newer_or_an_older_point(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    newer = Recovering(world, second)
    newer.must_have(newer.provide())
    assert newer.roads == ["written"] * 2
    world, first, second = standing_world(tmp_path / "older")
    bring(world.hands(), second, world.store)
    older = Recovering(world, first)
    older.must_have(older.provide())
    assert older.roads == ["written"] * 2


def test_a_failover_that_is_stopped_says_that_its_writer_has_ended(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    is_stopped: list[str] = []

    def go_on() -> None:
        if is_stopped:
            raise Stopped("it is aborted")

    world.fate.on_deed = lambda what: is_stopped.append(what) if what == "after write" else None
    stopped = Recovering(world, second)
    stopped.recovery.site, stopped.recovery.go_on = site_of(world).under(go_on), go_on
    with pytest.raises(Stopped):
        stopped.provide()
    world.becomes_another_host(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    assert freed(world.hands(), mine) is not None


def test_without_a_mover_only_what_stands_at_the_point_is_taken(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    none = NoMover(world.locks, "this host has none")
    later = Recovering(world, second, mover=none)
    assert later.provide() == {}
    assert all(road.startswith("Cinder's restore") for road in later.roads)
    now = Recovering(world, first, mover=none)
    now.must_have(now.provide())
    assert now.roads == ["standing"] * 2


@pytest.mark.parametrize("host", ["same", "another"])
@pytest.mark.parametrize("point", [1, 2])
def test_after_an_apply_that_was_killed_anywhere_a_recovery_has_the_bytes_of_its_point(
    point: int, host: str, tmp_path: Path
) -> None:
    world, _, second = standing_world(tmp_path / "count")
    world.fate.revive()
    bring(world.hands(), second, world.store)
    for deed in range(1, len(world.fate.deeds) + 1):
        world, first, second = standing_world(tmp_path / f"{deed}")
        world.fate.revive()
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            bring(world.hands(), second, world.store)
        where = world.fate.deeds[-1]
        world.fate.revive()
        if host == "another":
            world.becomes_another_host(tmp_path / f"{deed}")
        recovering = Recovering(world, first if point == 1 else second)
        made = recovering.provide()
        assert len(made) == 2, (where, recovering.roads)
        recovering.must_have(made)
        world.shown_as_good()


def test_a_recovery_that_was_killed_anywhere_is_resumed(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path / "count")
    world.fate.revive()
    Recovering(world, second).provide()
    for deed in range(1, len(world.fate.deeds) + 1):
        world, _, second = standing_world(tmp_path / f"{deed}")
        world.fate.revive()
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            Recovering(world, second).provide()
        where = world.fate.deeds[-1]
        world.fate.revive()
        again = Recovering(world, second)
        made = again.provide()
        assert len(made) == 2, (where, again.roads)
        again.must_have(made)
        world.shown_as_good()


def test_a_volume_that_cinder_does_not_revert_is_written_instead(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    newest = second[1].chain[-1].stored
    assert newest is not None

    def lose(what: str) -> None:
        if what == "before attach":
            lost.update({k: v for k, v in world.store.held.items() if k.startswith(newest.prefix)})
            for name in lost:
                world.store.held.pop(name, None)

    lost: dict[str, bytes] = {}
    world.fate.on_deed = lose
    assert len(bring(world.hands(), second, world.store).problems) == 1
    world.fate.on_deed = lambda what: None
    world.store.held.update(lost)
    world.may_revert = False
    back = Recovering(world, first)
    made = back.provide()
    back.must_have(made)
    assert sorted(back.roads) == ["standing", "written"]


def test_a_recovery_waits_not_for_long_for_a_volume_that_something_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, first, _ = standing_world(tmp_path)
    for row in world.rows.values():
        row["status"] = "detaching"
    waits: list[float] = []

    def wait_for(ids: Sequence[str], timeout_s: float, **how: Any) -> None:
        waits.append(timeout_s)
        raise ResourceFailed("it does not settle")

    monkeypatch.setattr(world, "wait_for", wait_for)
    assert Recovering(world, first).provide() == {}
    assert max(waits) < 600


def taking(world: World, do: Callable[[], None]) -> None:
    """Do something just before the key of a recovery is set."""
    done: list[str] = []

    def on_deed(what: str) -> None:
        if what == "before merge ['key', 'run']" and not done:
            done.append(what)
            do()

    world.fate.on_deed = on_deed


def test_a_volume_that_is_claimed_while_it_is_taken_is_left(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    taking(world, lambda: world.rows[mine.id]["metadata"].update({CLAIM: "of another"}))
    recovering = Recovering(world, first)
    made = recovering.provide()
    assert SOURCES[0] not in made
    assert KEY not in world.rows[mine.id]["metadata"]
    recovering.must_have(made)


def test_a_volume_that_is_attached_while_it_is_taken_is_left(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    taking(world, lambda: world.attached.update(a=(mine.id, None)))
    recovering = Recovering(world, first)
    assert SOURCES[0] not in recovering.provide()
    assert KEY not in world.rows[mine.id]["metadata"]


def test_what_cinder_refuses_of_a_standing_volume_leaves_cinders_restore(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    before = world.shown_as_good()

    def refuse(what: str) -> None:
        if what == "before update volume" and not refused:
            refused.append(what)
            raise ApiError("site-b", "PUT", 403, "policy")

    refused: list[str] = []
    world.fate.on_deed = refuse
    recovering = Recovering(world, first)
    made = recovering.provide()
    assert len(made) == 1
    recovering.must_have(made)
    assert sorted([*world.shown_as_good(), *(b for b in before if b[0] in made)]) == before


def test_a_drill_whose_snapshot_is_refused_leaves_cinders_restore(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)

    def refuse(what: str) -> None:
        if what == "before create snapshot":
            raise ApiError("site-b", "POST /snapshots", 413, "the quota is exhausted")

    world.fate.on_deed = refuse
    drill = Recovering(world, first, run="drill-1", keys="drill-1")
    assert drill.provide() == {}
    assert all(road.startswith("Cinder's restore") for road in drill.roads)


def test_a_mover_whose_volume_is_taken_meanwhile_writes_no_more(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    taken_at: list[int] = []

    def on_deed(what: str) -> None:
        if what == "after attach" and not taken_at:
            world.rows[mine.id]["metadata"] |= {KEY: "point/x", RUN: "fo-1"}
            taken_at.append(len(world.disks[mine.id].writes))

    world.fate.on_deed = on_deed
    found = bring(world.hands(), second, world.store)
    assert found.outcomes[SOURCES[0]].code == "volume-taken"
    assert [len(world.disks[mine.id].writes)] == taken_at
    assert HOLDS in world.rows[mine.id]["metadata"]


def test_an_abort_gives_back_what_was_taken_and_it_is_read_before_it_counts_again(
    tmp_path: Path,
) -> None:
    world, first, second = standing_world(tmp_path)
    made = Recovering(world, first).provide()
    for volume in made.values():
        world.disks[volume].content[700:703] = b"XYZ"  # by a server that has booted from it
    assert give_back(cast(Any, site_of(world)), "fo-1", Unrecorded()) == 2
    assert sorted(world.rows) == sorted(made.values())
    assert world.shown_as_good() == []
    assert world.taken() == []
    bring(world.hands(), second, world.store)
    assert world.shown_as_good() == sorted((w.source, w.backup) for w in second)
    assert sorted(world.rows) == sorted(made.values())


def test_a_rollback_deletes_no_standing_volume() -> None:
    marked = {STANDING: f"{VNF}/s", VOLUME: "v", RUN: "fo-1", KEY: "k"}
    taken = {"id": "v", "metadata": marked, "description": ""}
    assert not rollback._is_to_go(taken, "fo-1")
    restored = {"id": "w", "metadata": {**marked, VOLUME: "w"}, "description": ""}
    assert is_standing(restored)
    plain = {"id": "w", "metadata": {RUN: "fo-1", VOLUME: "w"}, "description": ""}
    assert rollback._is_to_go(plain, "fo-1")


def test_what_a_vnf_is_active_on_is_its_own_for_good(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    snapshot = world.create_snapshot(mine.id, "", {"antipode:standing-of": mine.id}, 1)
    made = Recovering(world, first).provide()
    assert keep_taken(cast(Any, site_of(world)), "fo-1") == []
    assert snapshot not in world.snapshot_rows
    for volume in made.values():
        metadata = world.rows[volume]["metadata"]
        assert not [k for k in metadata if k.startswith("antipode:standing")]
        assert (metadata[RUN], metadata["theirs"]) == ("fo-1", "1")
    bring(world.hands(), second, world.store)  # others stand then
    assert set(made.values()).isdisjoint(
        s.id for v in listed(world.listing(), VNF).values() for s in v
    )


def test_a_drill_gets_clones_and_what_stands_stays(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    before = world.shown_as_good()
    drill = Recovering(world, first, run="drill-1", keys="drill-1")
    made = drill.provide()
    drill.must_have(made)
    assert drill.roads == ["a clone of the standing volume"] * 2
    assert world.shown_as_good() == before
    other = Recovering(world, second, run="drill-2", keys="drill-2")
    assert other.provide() == {}  # they are not at that point, and no drill moves them
    assert world.shown_as_good() == before


def test_a_clone_whose_volume_is_claimed_meanwhile_is_not_used(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]

    def on_deed(what: str) -> None:
        if what == "before create snapshot":
            world.rows[mine.id]["metadata"][CLAIM] = "of an apply"

    world.fate.on_deed = on_deed
    made = Recovering(world, first, run="drill-1", keys="drill-1").provide()
    assert SOURCES[0] not in made


def test_cinders_restore_never_uses_a_standing_volume_that_could_not_be_taken(
    tmp_path: Path,
) -> None:
    world, first, _ = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    killed = Recovering(world, first).recovery
    world.merge_metadata(mine.id, {RUN: "fo-1", KEY: killed.key(SOURCES[0])})
    world.merge_metadata(mine.id, {CLAIM: "of an apply"})
    world.disks[mine.id].content[:4] = b"half"
    resumed = Recovering(world, first)
    assert SOURCES[0] not in resumed.provide()
    known = resumed.recovery.found.volumes(resumed.recovery.key(SOURCES[0]))
    assert [v["id"] for v in known] == [mine.id]  # as it was listed
    assert backup._usable(site_of(world), known, plan_of(first[0])) is None
    assert mine.id in world.rows


def test_a_volume_of_a_server_that_is_being_built_stays_with_its_recovery(
    tmp_path: Path,
) -> None:
    world, first, _ = standing_world(tmp_path)
    made = Recovering(world, first).provide()
    for number, volume in enumerate(made.values()):
        world.rows[volume]["status"] = "reserved"
        world.attached[f"of-nova-{number}"] = (volume, "a server of ours")
    again = Recovering(world, first, run="fo-2")  # the first has failed
    assert again.provide() == made
    assert set(world.taken()) == set(made.values())
