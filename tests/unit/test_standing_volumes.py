# SPDX-License-Identifier: Apache-2.0
"""Standing volumes hold what they say that they hold, wherever the process that writes them is
killed, and whatever another does meanwhile.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from antipode.cloud.api import ApiError
from antipode.errors import AntipodeError, RecoveryPointInvalid, ResourceFailed, Stopped
from antipode.model.standing import CLAIM, HOLDS, RETIRED, released
from antipode.mover import work
from antipode.mover.job import Outcome, VolumeJob
from antipode.recover import standing
from antipode.recover.standing import bring, freed, listed, move, replaced, revert
from tests.unit.standingworld import SOURCES, VNF, Killed, World, standing_world

HELPER = "the helper server"
HOSTS = ("same", "another")


@pytest.fixture(autouse=True)
def asks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ASKED_S", -1.0)
    monkeypatch.setattr(standing, "STOPS_WITHIN_S", 0.0)


def at(wants: list[standing.Want]) -> list[tuple[str, str]]:
    return sorted((w.source, w.backup) for w in wants)


def test_standing_volumes_are_made_and_follow_each_point(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(1, 5):
        wants = world.back_up(number)
        found = bring(world.hands(), wants, world.store)
        assert (found.problems, found.left) == ([], [])
        assert world.shown_as_good() == at(wants)
        assert (len(world.rows), world.snapshot_rows, world.attached) == (2, {}, {})
    assert all(o.written < 12288 for o in found.outcomes.values())  # only what differs
    assert bring(world.hands(), wants, world.store).outcomes == {}  # nothing is to be done


def deeds_of_an_apply(folder: Path, helper: str | None) -> int:
    world, _, second = standing_world(folder, helper)
    world.fate.revive()
    bring(world.hands(), second, world.store)
    return len(world.fate.deeds)


@pytest.mark.parametrize(
    ("then", "host", "helper", "at_once"),
    [
        *((then, host, None, 1) for then in ("again", "forward", "back") for host in HOSTS),
        *(("again", host, None, 8) for host in HOSTS),
        ("forward", "another", None, 8),
        ("back", "same", None, 8),
        ("again", "same", HELPER, 1),
        ("forward", "another", HELPER, 1),
    ],
)
def test_a_process_that_is_killed_anywhere_leaves_nothing_wrong_that_is_shown_as_good(
    then: str, host: str, helper: str | None, at_once: int, tmp_path: Path
) -> None:
    for deed in range(1, deeds_of_an_apply(tmp_path / "count", helper) + 1):
        folder = tmp_path / f"{deed}"
        world, first, second = standing_world(folder, helper)
        world.fate.revive()
        world.at_once = at_once
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            bring(world.hands(), second, world.store)
        where = world.fate.deeds[-1]
        world.fate.revive()
        if host == "another":
            world.becomes_another_host(folder)
        world.shown_as_good()
        if then == "again":
            found = bring(world.hands(), second, world.store)
            assert found.problems == [], where
            assert world.shown_as_good() == at(second), where
            assert world.attached == {}, where
            bring(world.hands(1e9 + 86400), second, world.store)  # what no one knows of, later
            assert (len(world.rows), world.snapshot_rows) == (2, {}), where
        else:
            reached = recovered(world, first if then == "back" else second)
            assert reached == 2, where
            assert world.shown_as_good() == at(first if then == "back" else second)


def recovered(world: World, wants: list[standing.Want]) -> int:
    """How many volumes a failover gets to a point without Cinder's restore, as `_ready` does."""
    reached = 0
    there = listed(world.listing(), VNF)
    for want in wants:
        best = there[want.source][0]
        h = world.hands()
        free = freed(h, best) or replaced(h, best, want.label)
        if free is None:
            continue
        if free.holds != want.backup and free.snapshot_holds == want.backup:
            free = revert(h, free)
        if free.holds != want.backup:
            free = move(h, free, want)
        assert free.holds == want.backup
        reached += 1
    return reached


def test_a_first_copy_that_was_killed_anywhere_is_made_all_the_same(tmp_path: Path) -> None:
    world = World(tmp_path / "count")
    bring(world.hands(), world.back_up(1), world.store)
    for deed in range(1, len(world.fate.deeds) + 1):
        world = World(tmp_path / f"{deed}")
        wants = world.back_up(1)
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            bring(world.hands(), wants, world.store)
        world.fate.revive()
        world.shown_as_good()
        assert bring(world.hands(), wants, world.store).problems == []
        assert world.shown_as_good() == at(wants)
        bring(world.hands(2e9), wants, world.store)
        assert len(world.rows) == 2


def half_changed(folder: Path) -> tuple[World, list[standing.Want], list[standing.Want]]:
    """Volumes that stand at a point, and the next one, in which only the first has changed."""
    world = World(folder)
    first = world.back_up(1)
    bring(world.hands(), first, world.store)
    world.fate.revive()
    return world, first, world.back_up(2, unchanged={SOURCES[1]: 1})


def test_a_volume_that_has_not_changed_is_neither_copied_nor_attached(tmp_path: Path) -> None:
    world, _, second = half_changed(tmp_path)
    found = bring(world.hands(), second, world.store)
    deeds = [d.removeprefix("before ") for d in world.fate.deeds if d.startswith("before ")]
    assert (deeds.count("create snapshot"), deeds.count("attach")) == (1, 1)
    assert set(found.outcomes) == {SOURCES[0]}
    assert (world.shown_as_good(), world.snapshot_rows) == (at(second), {})


def test_a_volume_that_has_not_changed_is_right_wherever_its_process_is_killed(
    tmp_path: Path,
) -> None:
    world, _, second = half_changed(tmp_path / "whole")
    bring(world.hands(), second, world.store)
    for deed in range(1, len(world.fate.deeds) + 1):
        world, _, second = half_changed(tmp_path / str(deed))
        world.fate.kill_at = deed
        with pytest.raises(Killed):
            bring(world.hands(), second, world.store)
        world.fate.revive()
        world.shown_as_good()
        assert bring(world.hands(), second, world.store).problems == []
        assert (world.shown_as_good(), world.snapshot_rows) == (at(second), {}), deed


def test_a_volume_that_has_not_changed_stays_at_its_point_where_another_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, first, second = half_changed(tmp_path)

    def failing(claim: str, jobs: list[VolumeJob], *how: object) -> dict[str, Outcome]:
        return {j.volume: Outcome(volume=j.volume, code="x", problem="lost") for j in jobs}

    monkeypatch.setattr(world, "carry", failing)
    assert len(bring(world.hands(), second, world.store).problems) == 1
    assert world.shown_as_good() == at(first[1:])


def test_a_volume_that_has_not_changed_is_read_all_the_same_when_that_is_due(
    tmp_path: Path,
) -> None:
    world, _, second = half_changed(tmp_path)
    found = bring(world.hands(now=3e9), second, world.store)
    assert (set(found.outcomes), found.problems) == (set(SOURCES), [])


def test_nothing_is_written_unless_every_chain_is_whole(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    newest = second[1].chain[-1].stored
    assert newest is not None
    del world.store.held[f"{newest.prefix}-00001"]
    world.fate.revive()
    with pytest.raises(RecoveryPointInvalid):
        bring(world.hands(), second, world.store)
    assert world.fate.deeds == []
    assert world.shown_as_good() == at(first)


def test_all_volumes_go_back_together_where_the_objects_are_lost_in_the_midst(
    tmp_path: Path,
) -> None:
    world, first, second = standing_world(tmp_path)
    newest = second[1].chain[-1].stored
    assert newest is not None

    def lose(what: str) -> None:
        if what == "before attach":
            world.store.held.pop(f"{newest.prefix}-00001", None)

    world.fate.on_deed = lose
    found = bring(world.hands(), second, world.store)
    assert len(found.problems) == 1
    assert world.shown_as_good() == at([second[0], first[1]])
    assert len(world.snapshot_rows) == 2  # that of the other volume stays, too
    world.store.held.clear()
    assert recovered(world, first) == 2
    assert world.shown_as_good() == at(first)


def test_a_volume_that_was_not_touched_holds_what_it_held(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    newest = second[1].chain[-1].stored
    assert newest is not None

    def lose(what: str) -> None:
        if what.startswith("before merge") and "claim" in what:
            world.store.held.pop(f"{newest.prefix}-00001", None)

    world.fate.on_deed = lose
    found = bring(world.hands(), second, world.store)
    assert len(found.problems) == 1
    assert world.shown_as_good() == at([second[0], first[1]])


@pytest.mark.parametrize("helper", [None, HELPER])
def test_a_volume_of_a_mover_that_was_killed_alone_is_written_to_its_end(
    helper: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, second = standing_world(tmp_path, helper)
    volumes = set(world.rows)

    def killed(claim: str, jobs: list[VolumeJob], *how: object) -> dict[str, Outcome]:
        world.attached = {f"left-{j.volume}": (j.volume, helper) for j in jobs}
        return {j.volume: Outcome(volume=j.volume, code="resource-failed") for j in jobs}

    with monkeypatch.context() as patch:
        patch.setattr(world, "carry", killed)
        assert len(bring(world.hands(), second, world.store).problems) == 2
    assert (world.attached, world.shown_as_good()) == ({}, [])
    assert bring(world.hands(), second, world.store).problems == []
    assert (set(world.rows), world.shown_as_good()) == (volumes, at(second))


def test_a_move_that_cannot_be_done_leaves_what_was_there(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    world.store.held.clear()
    for want in second:
        with pytest.raises(ResourceFailed):
            move(world.hands(), listed(world.listing(), VNF)[want.source][0], want)
    assert world.shown_as_good() == at(first)


def test_a_writer_that_lives_keeps_its_volume_and_another_takes_its_place(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    # a mover that is stopped in the midst: it has claimed, attached, and written half
    world.merge_metadata(mine.id, {CLAIM: "stopped", "antipode:standing-snapshot": "none"})
    snapshot = world.create_snapshot(mine.id, "", {"antipode:standing-of": mine.id}, 1)
    backup = first[0].backup
    world.merge_metadata(mine.id, {"antipode:standing-snapshot": f"{snapshot}@{backup}"})
    world.create(mine.id, {})
    world.disks[mine.id].content[:4] = b"half"
    assert freed(world.hands(), listed(world.listing(), VNF)[SOURCES[0]][0]) is None
    found = bring(world.hands(), second, world.store)
    assert found.problems == []
    assert world.shown_as_good() == at(second)
    chosen = listed(world.listing(), VNF)[SOURCES[0]][0]
    assert chosen.id != mine.id
    # it lives again: it sees that the volume is not its own, and what it notes counts for nothing
    if mine.id in world.rows:
        assert world.rows[mine.id]["metadata"][CLAIM] != "stopped"
        world.merge_metadata(mine.id, {HOLDS: f"{second[0].backup}@stopped"})
        assert RETIRED in world.rows[mine.id]["metadata"]
    assert world.shown_as_good() == at(second)


@pytest.mark.parametrize("away", ["../precious", "/precious", "", ".", ".."])
def test_a_claim_that_names_a_file_elsewhere_changes_no_file(away: str, tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("the database")
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    claim = f"{tmp_path}{away}" if away.startswith("/") else away
    world.merge_metadata(mine.id, {CLAIM: claim})
    (claimed, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    assert freed(world.hands(), claimed) is None
    assert precious.read_text() == "the database"
    assert bring(world.hands(), first, world.store).problems == []


def test_what_a_late_writer_notes_of_a_volume_that_was_claimed_since_counts_for_nothing(
    tmp_path: Path,
) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    world.merge_metadata(mine.id, {CLAIM: released("of-a-recovery")})
    world.disks[mine.id].content[:5] = b"other"
    world.merge_metadata(mine.id, {HOLDS: f"{second[0].backup}@{mine.claim}"})
    assert SOURCES[0] not in [source for source, _ in world.shown_as_good()]


CLAIMED = "before merge ['standing-claim']"


def test_a_writer_that_has_looked_before_another_wrote_trusts_nothing_of_it(
    tmp_path: Path,
) -> None:
    world, _, second = standing_world(tmp_path)
    third = world.back_up(3)
    was_here: list[str] = []

    def on_deed(what: str) -> None:
        if what == CLAIMED and not was_here:
            was_here.append(what)
            bring(world.hands(), third, world.store)

    world.fate.on_deed = on_deed
    assert bring(world.hands(), second, world.store).problems == []
    assert world.shown_as_good() == at(second)


def test_a_revert_by_another_is_seen_by_a_writer_that_has_looked_before(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    third = world.back_up(3)
    bring(world.hands(), second, world.store)
    was_here: list[str] = []

    def claim(what: str) -> None:
        if what == CLAIMED and not was_here:
            was_here.append(what)
            (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
            older = world.create_snapshot(mine.id, "", {"antipode:standing-of": mine.id}, 1)
            world.snapshot_rows[older]["content"] = world.states[SOURCES[0]][first[0].backup]
            snapshot = f"{older}@{first[0].backup}"
            world.merge_metadata(mine.id, {"antipode:standing-snapshot": snapshot})
            (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
            world.fate.on_deed = before_it_is_noted
            with pytest.raises(Enough):
                revert(world.hands(), mine)

    def before_it_is_noted(what: str) -> None:
        if what == "after revert":
            world.fate.on_deed = lambda what: None
            raise Enough("it goes no further")

    world.fate.on_deed = claim
    assert bring(world.hands(), third, world.store).problems == []
    assert world.shown_as_good() == at(third)


def test_a_volume_that_another_is_writing_is_not_shown_as_good(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    third = world.back_up(3)
    half, over, began = threading.Event(), threading.Event(), list[str]()
    other = threading.Thread(target=lambda: bring(world.hands(), third, world.store))

    def on_deed(what: str) -> None:
        if what == CLAIMED and not began:
            began.append(what)
            other.start()
            assert half.wait(30)
        elif what == "after write" and not half.is_set():
            half.set()
            assert over.wait(30)

    world.fate.on_deed = on_deed
    try:
        found = bring(world.hands(), second, world.store)
        assert len(found.problems) == 1  # the volume is attached by the other
        world.shown_as_good()
    finally:
        over.set()
        other.join()
    world.shown_as_good()
    world.fate.on_deed = lambda what: None
    assert bring(world.hands(), second, world.store).problems == []
    assert world.shown_as_good() == at(second)


def test_a_snapshot_that_was_made_while_another_claimed_the_volume_counts_for_nothing(
    tmp_path: Path,
) -> None:
    world, first, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]

    def write(what: str) -> None:
        if what == "before create snapshot" and mine.id in world.rows:
            world.rows[mine.id]["metadata"][CLAIM] = "of an apply of another host"
            world.disks[mine.id].content[:5] = b"mixed"

    world.fate.on_deed = write
    with pytest.raises(ResourceFailed):
        bring(world.hands(), second, world.store)
    world.fate.on_deed = lambda what: None
    assert world.shown_as_good() == at([first[1]])
    assert world.rows[mine.id]["metadata"].get("antipode:standing-snapshot", "none") == "none"


def test_a_volume_of_another_size_is_replaced(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    world.rows[mine.id]["size"] = 7
    bring(world.hands(), second, world.store)
    assert world.shown_as_good() == at(second)
    assert mine.id not in world.rows


def test_snapshots_that_are_refused_leave_none_at_each_try(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)

    def refuse(what: str) -> None:
        if what == "before create snapshot" and world.snapshot_rows:
            raise ApiError("site-b", "POST /snapshots", 413, "the quota is exhausted")

    world.fate.on_deed = refuse
    for _ in range(2):
        with pytest.raises(ApiError):
            bring(world.hands(), second, world.store)
        assert world.snapshot_rows == {}
    assert world.shown_as_good() == at(first)


def test_a_volume_that_was_extended_is_replaced_where_the_quota_has_no_room_for_both(
    tmp_path: Path,
) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    world.rows[mine.id]["size"] = 7

    def refuse(what: str) -> None:
        if what == "before create volume" and len(world.rows) >= 2:
            raise ApiError("site-b", "POST /volumes", 413, "the quota is exhausted")

    world.fate.on_deed = refuse
    assert bring(world.hands(), second, world.store).problems == []
    assert world.shown_as_good() == at(second)


def test_a_volume_that_is_being_deleted_is_not_deleted_again(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    world.rows[mine.id]["status"] = "deleting"
    world.rows[mine.id]["metadata"][RETIRED] = "1"
    assert bring(world.hands(), second, world.store).left == []
    assert mine.id in world.rows
    assert world.shown_as_good() == at(second)


def test_a_volume_of_another_type_is_replaced(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    fast = [replace(w, volume_type="fast") for w in second]
    world.rows[listed(world.listing(), VNF)[SOURCES[1]][0].id]["volume_type"] = "fast"
    bring(world.hands(), fast, world.store)
    assert world.shown_as_good() == at(second)
    assert mine.id not in world.rows
    assert {row["volume_type"] for row in world.listing()} == {"fast"}
    before = set(world.rows)
    bring(world.hands(), fast, world.store)
    assert set(world.rows) == before


@pytest.mark.parametrize("what", ["encrypted", "multiattach"])
def test_a_volume_that_cannot_stand_is_refused_and_leaves_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    wants = world.back_up(1)
    made = World.create_volume

    def create(self: World, wanted: dict[str, object]) -> str:
        return made(self, {**wanted, what: True})

    monkeypatch.setattr(World, "create_volume", create)
    with pytest.raises(ResourceFailed):
        bring(world.hands(), wants, world.store)
    assert world.rows == {}


class Enough(AntipodeError):
    pass


def test_a_run_that_is_to_stop_says_that_its_writer_has_ended(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)

    def stop() -> None:
        raise Enough("enough")

    h = standing.Hands(**{**vars(world.hands()), "go_on": stop})
    with pytest.raises(Enough):
        bring(h, second, world.store)
    world.becomes_another_host(tmp_path)
    for same in listed(world.listing(), VNF).values():
        assert freed(world.hands(), same[0]) is not None


CLAIMS = "before merge ['standing-holds']"
NOTES = "before merge ['standing-data', 'standing-holds']"


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("where", [CLAIMS, NOTES])
def test_a_run_that_stops_while_it_claims_or_notes_says_that_its_writer_has_ended(
    where: str, at_once: int, tmp_path: Path
) -> None:
    world, _, second = standing_world(tmp_path)
    world.at_once = at_once
    together = threading.Barrier(min(at_once, len(SOURCES)))

    def stop(what: str) -> None:
        if what == where:
            together.wait(30)
            raise Stopped("it gives way to a failover")

    world.fate.on_deed = stop
    with pytest.raises(Stopped):
        bring(world.hands(), second, world.store)
    world.fate.on_deed = lambda what: None
    world.becomes_another_host(tmp_path)
    there = listed(world.listing(), VNF)
    assert [len(there[source]) for source in SOURCES] == [1, 1]
    assert all(freed(world.hands(), there[source][0]) is not None for source in SOURCES)
    assert bring(world.hands(), second, world.store).problems == []
    assert (len(world.rows), world.shown_as_good()) == (2, at(second))


def test_a_note_that_fails_leaves_those_of_the_other_volumes(tmp_path: Path) -> None:
    world, _, second = standing_world(tmp_path)
    failed: list[str] = []

    def fail(what: str) -> None:
        if what == NOTES and not failed:
            failed.append(what)
            raise ResourceFailed("no answer, once")

    world.fate.on_deed = fail
    with pytest.raises(ResourceFailed, match="once"):
        bring(world.hands(), second, world.store)
    assert world.shown_as_good() == at(second[1:])
    world.becomes_another_host(tmp_path)
    assert freed(world.hands(), listed(world.listing(), VNF)[SOURCES[0]][0]) is not None


@pytest.mark.parametrize("when", ["after detach", f"after {NOTES.removeprefix('before ')}"])
def test_an_apply_that_has_lost_a_volume_at_its_end_fails_and_keeps_all_snapshots(
    when: str, tmp_path: Path
) -> None:
    world, first, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]

    def claim(what: str) -> None:
        if what == when and world.rows[mine.id]["metadata"][CLAIM] != "of-another":
            world.rows[mine.id]["metadata"][CLAIM] = "of-another"

    world.fate.on_deed = claim
    found = bring(world.hands(), second, world.store)
    assert len(found.problems) == 1
    assert "was claimed by another process" in found.problems[0]
    assert world.shown_as_good() == at(second[1:])
    assert {s["volume_id"] for s in world.snapshot_rows.values()} == set(world.rows)
    assert all(
        same[0].snapshot_holds == want.backup
        for want, same in zip(first, listed(world.listing(), VNF).values(), strict=True)
    )


def test_an_interrupt_waits_for_no_call_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.at_once = 8
    wants = world.back_up(1)
    over, ended = threading.Event(), list[str]()

    def creating(ids: list[str], **how: object) -> None:
        over.wait(30)
        ended.extend(ids)
        raise ResourceFailed("they were never available")

    def interrupted(*calls: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "wait_for", creating)
    monkeypatch.setattr(standing, "wait", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            bring(world.hands(), wants, world.store)
        assert ended == []
    finally:
        over.set()


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_failure_is_raised_when_no_call_is_under_way(at_once: int, tmp_path: Path) -> None:
    h = replace(World(tmp_path).hands(), at_once=at_once)
    both, ended = threading.Barrier(min(at_once, 2)), list[int]()

    def work(number: int) -> int:
        if number < 2:
            both.wait(30)
        if number == 0:
            raise ResourceFailed("the first")
        ended.append(number)
        return number

    with pytest.raises(ResourceFailed, match="the first"):
        standing._for_each(h, range(20), work)
    known = list(ended)
    if at_once > 1:
        assert 1 in known
    assert standing._for_each(h, [5, 4, 3], work) == [5, 4, 3]
    assert ended[: len(known)] == known


@pytest.mark.parametrize("at_once", [1, 8])
def test_volumes_that_cannot_be_made_leave_none_at_each_try(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.at_once = at_once
    wants = world.back_up(1)
    made = World.create_volume

    def failing(self: World, wanted: dict[str, object]) -> str:
        volume = made(self, wanted)
        self.rows[volume]["status"] = "error"
        return volume

    monkeypatch.setattr(World, "create_volume", failing)
    for _ in range(2):
        with pytest.raises(ResourceFailed):
            bring(world.hands(), wants, world.store)
        assert world.rows == {}


def test_nothing_is_claimed_where_no_lock_can_be_made(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    (tmp_path / "file").touch()
    world.locks = tmp_path / "file" / "locks"
    with pytest.raises(ResourceFailed):
        bring(world.hands(), second, world.store)
    assert world.shown_as_good() == at(first)


def test_volumes_hold_what_they_hold_while_the_mover_has_another_job(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    shown: list[list[tuple[str, str]]] = []

    def on_deed(what: str) -> None:
        if what == "before turn":
            shown.append(world.shown_as_good())

    world.fate.on_deed = on_deed
    bring(world.hands(), second, world.store)
    assert shown == [at(first)]


def test_all_of_a_standing_volume_is_read_once_a_week(tmp_path: Path) -> None:
    world, first, second = standing_world(tmp_path)
    (mine, *_) = listed(world.listing(), VNF)[SOURCES[0]]
    world.disks[mine.id].content[40] ^= 1  # by somebody who has attached it
    found = bring(world.hands(1e9 + 8 * 86400), first, world.store)
    assert found.outcomes[SOURCES[0]].foreign == 1
    assert world.shown_as_good() == at(first)
    del second


def test_what_stands_for_a_volume_that_the_point_has_not_is_named_and_stays(
    tmp_path: Path,
) -> None:
    world, first, second = standing_world(tmp_path)
    (other, *_) = listed(world.listing(), VNF)[SOURCES[1]]
    found = bring(world.hands(), second[:1], world.store)
    assert len(found.left) == 1
    assert other.id in found.left[0]
    assert world.shown_as_good() == at([second[0], first[1]])


def test_volumes_of_two_vnfs_are_kept_apart(tmp_path: Path) -> None:
    world, first, _ = standing_world(tmp_path)
    other = standing.Hands(**{**vars(world.hands()), "vnf": "hlr2"})
    bring(other, first, world.store)
    assert len(world.rows) == 4
    assert {len(same) for same in listed(world.listing(), VNF).values()} == {1}
