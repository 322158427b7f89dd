# SPDX-License-Identifier: Apache-2.0
"""Volumes go by change streams where the storage tells its changes, and by Cinder's backups where
that goes wrong; what expires goes, and nothing else.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import antipode
from antipode.change_stream import write_image
from antipode.cloud.objects import Refused
from antipode.cloud.site import Site
from antipode.config import ChangesConfig
from antipode.errors import Aborted, NotFound, SiteUnreachable
from antipode.model.capture import Capture, Transferred
from antipode.model.full_every import FullEvery
from antipode.model.marks import KEY, RUN, TRACKED
from antipode.model.point import RecoveryPoint
from antipode.model.reference import BackendReference
from antipode.model.source import ChangeStream, Delta
from antipode.model.steps import Unrecorded
from antipode.model.topology import Topology
from antipode.protect import tracked
from antipode.protect.option import Protecting
from antipode.protect.quiesced_snapshot.settings import Settings
from antipode.recover.sources.change_stream import PROVIDER
from antipode.sandbox import blocks
from antipode.sandbox.rbd import CONDITIONS, GRAIN, SETTINGS
from antipode.transfer import change_streams, expiry
from antipode.transfer.change_streams import CONTAINER, TRANSFER
from antipode.transfer.stream_expiry import Doomed, remove_deltas, without_deltas
from tests.unit import samples
from tests.unit.chunked import Listed

GIB = 1 << 30
VOLUMES = ("vol-db", "vol-front")


class Store:
    """A backup store in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def ensure_container(self, container: str) -> None:
        assert container == CONTAINER

    def put(self, container: str, name: str, data: bytes) -> None:
        self.held[name] = data

    def get(self, container: str, name: str) -> bytes:
        if name not in self.held:
            raise NotFound(name)
        return self.held[name]

    def delete(self, container: str, name: str) -> None:
        self.held.pop(name, None)

    def listing(self, container: str, prefix: str = "") -> Sequence[Listed]:
        return [
            Listed(name, len(data), str(hash(data)))
            for name, data in sorted(self.held.items())
            if name.startswith(prefix)
        ]


@dataclass
class World:
    """A site with the storage of two volumes, a store, and the points that were made."""

    folder: Path
    store: Store = field(default_factory=Store)
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: list[RecoveryPoint] = field(default_factory=list)
    backed_up: list[list[str]] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def write(self, volume: str, offset: int, data: bytes) -> None:
        blocks.write(self.folder / "volumes" / f"volume-{volume}", offset, data)

    def content(self, snapshot: str, volume: str) -> Path:
        return self.folder / "snapshots" / f"volume-{volume}@snapshot-{snapshot}"

    def capture(self, run: str) -> Capture:
        made: dict[str, str] = {}
        for volume in VOLUMES:
            name = f"{run}-{volume}"
            blocks.copy(self.folder / "volumes" / f"volume-{volume}", self.content(name, volume))
            self.snapshots[name] = {
                "id": name,
                "volume_id": volume,
                "status": "available",
                "metadata": {RUN: run, KEY: run},
            }
            made[volume] = name
        return samples.snapshots().model_copy(update={"snapshots": made})

    def delete(self, snapshot: str) -> None:
        found = self.snapshots.pop(snapshot)
        self.content(snapshot, found["volume_id"]).unlink()

    @property
    def site(self) -> Site:
        settings = ChangesConfig(host="host@rbd#pool", command=self.command)
        volumes = SimpleNamespace(
            snapshots=lambda: list(self.snapshots.values()),
            merge_snapshot_metadata=lambda i, m: self.snapshots[i]["metadata"].update(m),
            delete_snapshot=self.delete,
            snapshot_watch=SimpleNamespace(wait_gone=lambda *_, **__: None),
        )
        return cast(Site, SimpleNamespace(name="site-a", changes=[settings], volumes=volumes))

    def protecting(self, run: str, **changes: Any) -> Protecting:
        made = Protecting(
            run=run,
            vnf=samples.vnf(),
            settings=Settings(transfer="change_stream"),
            site=self.site,
            ledger=cast(Any, None),
            timeline=Unrecorded(),
            store=cast(Any, self.store),
            slots=nullcontext(),
            at_once=2,
            streams=True,
            streamed=self.streamed,
        )
        return replace(made, **changes)

    def streamed(self, volumes: Collection[str]) -> Mapping[str, RecoveryPoint]:
        return {
            volume: point
            for point in self.points
            for volume in volumes
            if isinstance(point.sources[volume], ChangeStream)
        }

    def protect(self, number: int, **changes: Any) -> Transferred:
        run = f"protect-20261122T16050{number}Z-1a2b3c"
        p = self.protecting(run, **changes)
        made = TRANSFER.transfer(p, topology(), self.capture(run), lambda _: {})
        point = samples.point(
            run.removeprefix("protect-"), run=run, topology=topology(), sources=made.sources
        )
        self.points.append(point)
        for snapshot in [i for i, s in self.snapshots.items() if TRACKED not in s["metadata"]]:
            self.delete(snapshot)
        tracked.drop_older(p.site, "hlr", point.needed_ids(), p.timeline)
        return made

    def restored(self, source: object) -> bytes:
        """The first MiB of what is read of a stream; all that is not zeros is there."""
        assert isinstance(source, ChangeStream)
        image, last = self.folder / "restored", source.last
        write_image(partial(self.store.get, CONTAINER), last.prefix, image, last.sha256)
        assert image.stat().st_size == GIB
        return beginning(image)


def topology() -> Topology:
    found = samples.topology().model_dump()
    for server in found["servers"]:
        for attachment in server["attachments"]:
            volume = attachment["volume"]
            volume["backend"] = BackendReference(name=f"volume-{volume['id']}").model_dump()
    return Topology.model_validate(found)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("a", "b"):
        for part in ("volumes", "snapshots"):
            (tmp_path / name / part).mkdir(parents=True)
        nowhere = {"host": "127.0.0.1", "control_port": 1}
        (tmp_path / name / SETTINGS).write_text(json.dumps(nowhere))
    source = Path(antipode.__file__).parents[1]
    command = ["env", f"PYTHONPATH={source}", sys.executable, "-S", "-m", "antipode.sandbox.rbd"]
    made = World(tmp_path / "a", command=[*command, str(tmp_path / "a")])
    for volume in VOLUMES:
        blocks.create(tmp_path / "a" / "volumes" / f"volume-{volume}", GIB)
        made.write(volume, 0, random.Random(volume).randbytes(64 * GRAIN))

    class Backups:
        def transfer(self, p: Protecting, topology: Topology, *_: object) -> Transferred:
            made.backed_up.append([v.id for v in topology.volumes])
            sources = samples.transferred().sources
            return Transferred(sources={v.id: sources[v.id] for v in topology.volumes})

        def roll_back(self, _: Protecting) -> Sequence[str]:
            return ()

    monkeypatch.setattr(change_streams, "BACKUPS", Backups())
    yield made


def beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 20)


def test_a_point_is_a_stream_and_the_next_one_its_changes(world: World) -> None:
    first = world.protect(1)
    assert not any(s.incremental for s in first.sources.values())
    assert set(first.full_because) == set(VOLUMES)
    world.write("vol-db", 7 * GRAIN, random.Random(9).randbytes(GRAIN))
    second = world.protect(2)
    [db, front] = [second.sources[v] for v in VOLUMES]
    assert isinstance(db, ChangeStream) and isinstance(front, ChangeStream)
    assert (len(db.deltas), len(front.deltas), second.full_because) == (2, 2, {})
    assert GRAIN < db.last.stored.bytes < 1.2 * GRAIN
    assert front.last.stored.objects == 1  # an index that says that nothing has changed
    assert world.backed_up == []
    assert sorted(world.snapshots) == sorted(world.points[-1].tracked)
    assert world.restored(db) == beginning(world.content(db.last.snapshot_id, "vol-db"))


def test_a_base_whose_snapshot_is_gone_begins_a_new_chain(world: World) -> None:
    world.protect(1)
    for snapshot in list(world.snapshots):
        world.delete(snapshot)
    made = world.protect(2)
    assert [s.incremental for s in made.sources.values()] == [False, False]
    assert all("gone" in why for why in made.full_because.values())


def test_a_chain_that_the_store_has_lost_or_changed_is_not_built_on(world: World) -> None:
    world.protect(1)
    db, front = (world.points[-1].sources[v] for v in VOLUMES)
    assert isinstance(db, ChangeStream) and isinstance(front, ChangeStream)
    del world.store.held[f"{db.last.prefix}/pack-00000"]
    world.store.held[f"{front.last.prefix}/pack-00000"] += b"!"
    made = world.protect(2)
    assert [s.incremental for s in made.sources.values()] == [False, False]
    assert without_deltas(world.points, lambda _: cast(Any, world.store)) == {world.points[0].id}


def cut(world: World) -> None:
    (world.folder / CONDITIONS).write_text(json.dumps({"export": "cut"}))


def no_tool(world: World) -> None:
    world.command[:] = ["/no-such-rbd"]


@pytest.mark.parametrize("deed", [cut, no_tool])
def test_what_cannot_be_streamed_is_backed_up_and_streamed_the_next_time(
    world: World, deed: Any
) -> None:
    command = list(world.command)
    world.protect(1)
    deed(world)
    before = set(world.store.held)
    made = world.protect(2)
    assert [s.kind for s in made.sources.values()] == ["backup-chain"] * 2
    assert world.backed_up == [list(VOLUMES)]
    assert set(world.store.held) == before  # nothing of a delta that is not whole
    (world.folder / CONDITIONS).unlink(missing_ok=True)
    world.command[:] = command
    again = world.protect(3)
    assert [s.incremental for s in again.sources.values()] == [True, True]


def test_a_delta_that_the_store_does_not_list_whole_is_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sealed of such a listing would differ for ever from what the store has."""
    listing = world.store.listing
    monkeypatch.setattr(world.store, "listing", lambda *of: listing(*of)[1:])
    made = world.protect(1)
    assert [s.kind for s in made.sources.values()] == ["backup-chain"] * 2
    assert [name for name in world.store.held if name.endswith("/index")] == []


def test_a_container_that_cannot_be_had_leaves_cinders_backups(world: World) -> None:
    def refused(container: str) -> None:
        raise Refused("403", 403)

    world.store.ensure_container = refused  # type: ignore[method-assign]
    made = world.protect(1)
    assert [s.kind for s in made.sources.values()] == ["backup-chain"] * 2


def test_only_the_volume_that_cannot_be_streamed_is_backed_up(world: World) -> None:
    elsewhere = topology()
    db, front = elsewhere.servers
    [attached] = front.attachments
    moved = attached.model_copy(
        update={"volume": attached.volume.model_copy(update={"backend_host": "host@lvm#lvm"})}
    )
    servers = [db, front.model_copy(update={"attachments": [moved]})]
    run = "protect-20261122T160501Z-1a2b3c"
    made = TRANSFER.transfer(
        world.protecting(run),
        elsewhere.model_copy(update={"servers": servers}),
        world.capture(run),
        lambda _: {},
    )
    assert {v: s.kind for v, s in made.sources.items()} == {
        "vol-db": "change-stream",
        "vol-front": "backup-chain",
    }
    assert world.backed_up == [["vol-front"]]


def test_a_run_that_is_to_stop_falls_back_to_nothing(world: World) -> None:
    def streamed(_: object) -> Mapping[str, RecoveryPoint]:
        raise Aborted("it is to stop")

    with pytest.raises(Aborted):
        world.protect(1, streamed=streamed)
    assert world.backed_up == []


def test_what_an_earlier_try_of_a_run_has_written_is_written_again(world: World) -> None:
    run = "protect-20261122T160501Z-1a2b3c"
    capture = world.capture(run)
    for _ in range(2):
        made = TRANSFER.transfer(world.protecting(run), topology(), capture, lambda _: {})
    named = {d.id for s in made.sources.values() for d in cast(ChangeStream, s).deltas}
    assert {name.split("/")[2] for name in world.store.held} == named


def test_a_run_that_makes_no_point_leaves_neither_objects_nor_snapshots(world: World) -> None:
    run = "protect-20261122T160501Z-1a2b3c"
    TRANSFER.transfer(world.protecting(run), topology(), world.capture(run), lambda _: {})
    assert all(TRACKED in s["metadata"] for s in world.snapshots.values())
    TRANSFER.roll_back(world.protecting(run))
    assert (world.store.held, world.snapshots) == ({}, {})


def test_a_rollback_that_cinder_holds_up_leaves_no_deltas(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would keep from expiry what they rest on."""
    run = "protect-20261122T160501Z-1a2b3c"
    TRANSFER.transfer(world.protecting(run), topology(), world.capture(run), lambda _: {})

    def away(_: Protecting) -> Sequence[str]:
        raise SiteUnreachable("cinder-backup does not answer")

    monkeypatch.setattr("antipode.transfer.change_streams.BACKUPS.roll_back", away)
    with pytest.raises(SiteUnreachable):
        TRANSFER.roll_back(world.protecting(run))
    assert (world.store.held, world.snapshots) == ({}, {})


def test_a_chain_ends_by_full_every(world: World) -> None:
    world.protect(1)
    made = world.protect(2, full_every=FullEvery(backups=1))
    assert [s.incremental for s in made.sources.values()] == [False, False]
    assert world.protect(3, full=True).full_because.keys() == set(VOLUMES)


# ---- expiry ----


def deltas(world: World) -> list[Delta]:
    return [d for point in world.points for d in point.deltas.values()]


def expire(
    world: World,
    going: Sequence[Delta],
    needed: Sequence[Delta],
    damaged: Collection[str] = (),
) -> set[str]:
    """The deltas that stay."""
    store, doomed = cast(Any, world.store), Doomed(going, damaged)
    return set(remove_deltas("hlr", doomed, {d.id for d in needed}, store, Unrecorded()))


def prefixes(world: World) -> set[str]:
    return {name.rpartition("/")[0] for name in world.store.held}


def test_deltas_that_no_point_needs_expire_and_others_stay(world: World) -> None:
    world.protect(1)
    world.protect(2)
    world.protect(3, full=True)
    first, second, third = (list(p.deltas.values()) for p in world.points)
    assert expire(world, first, [*second, *third]) == set()  # the second rests on the first
    assert prefixes(world) == {d.prefix for d in [*second, *third]}
    assert expire(world, [*first, *second], third) == set()
    assert prefixes(world) == {d.prefix for d in third}


def test_nothing_expires_on_which_a_delta_rests_that_no_known_point_names(world: World) -> None:
    """That of a point in another vault, or of one that the listing lacks."""
    world.protect(1)
    world.protect(2)
    going = list(world.points[0].deltas.values())
    assert expire(world, going, []) == {d.id for d in going}
    assert len(prefixes(world)) == 4


def test_what_a_dead_run_has_left_keeps_what_it_rests_on_and_nothing_else(world: World) -> None:
    """Else one process that was killed for good would end the expiry of all streams."""
    for number in (1, 2, 3, 4):
        world.protect(number, full=number == 3)
    first, _, third, last = (list(p.deltas.values()) for p in world.points)
    known = {d.id for d in [*third, *last]}
    # the run of the second was killed before its point was there
    assert expire(world, [*first, *third, *last], []) == {d.id for d in first}
    assert {p.rpartition("/")[2] for p in prefixes(world)}.isdisjoint(known)
    assert len(prefixes(world)) == 4


def test_what_a_dead_run_has_streamed_is_removed_and_what_a_point_needs_stays(
    world: World,
) -> None:
    for number in (1, 2, 3):
        world.protect(number)
    first, second, third = (list(p.deltas.values()) for p in world.points)
    dead = {d.run for d in third} - {d.run for d in second}
    ended = {d.run for d in second} - {d.run for d in first}
    # the point of the second run is there all the same
    needed = {d.id for d in second}
    store = cast(Any, world.store)
    count = TRANSFER.remove_stored(store, "hlr", dead | ended, lambda: needed, Unrecorded())
    assert count > 0
    assert prefixes(world) == {d.prefix for d in second}
    assert (
        TRANSFER.remove_stored(store, "other", dead, lambda: pytest.fail("no"), Unrecorded()) == 0
    )


def test_of_a_young_run_that_no_point_names_nothing_is_known(world: World) -> None:
    for number in (1, 2, 3):
        world.protect(number, full=number == 3)
    first, second, third = (list(p.deltas.values()) for p in world.points)
    moved = next(d for d in second if d not in first)
    young = f"hlr/protect-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-1a2b3c/{moved.id}"
    for name in [n for n in world.store.held if n.startswith(moved.prefix)]:
        world.store.held[name.replace(moved.prefix, young)] = world.store.held.pop(name)
    before, going = prefixes(world), [*first, *third]
    assert expire(world, going, []) == {d.id for d in going}
    assert prefixes(world) == before


def test_deltas_of_a_damaged_point_are_found_by_the_run_that_made_them(world: World) -> None:
    world.protect(1)
    world.protect(2)
    world.protect(3, full=True)
    first, second, third = (list(p.deltas.values()) for p in world.points)
    damaged = [world.points[1].id]
    assert expire(world, [], [*first, *second, *third], damaged) == set()  # all are needed
    assert len(prefixes(world)) == 6
    assert expire(world, first, third, damaged) == set()
    assert prefixes(world) == {d.prefix for d in third}


def test_a_damaged_point_does_not_end_the_expiry_of_streams(world: World) -> None:
    """It goes when nothing is left, so that nothing may stay because of it."""
    world.protect(1)
    world.protect(2)
    world.protect(3, full=True)
    first, second, third = world.points
    site, store = world.site, cast(Any, world.store)
    looking = expiry.Expiry(
        vnf=samples.vnf(),
        vault=cast(Any, None),
        every_vault=cast(Any, None),
        site=lambda _: site,
        users=dict,
        timeline=Unrecorded(),
        go_on=lambda: None,
        store=lambda name: store if name == first.site else None,
    )
    work = expiry._Work([first], [second.id], [], third.needed_ids(), VOLUMES, lambda _: False)
    outcome = expiry.Outcome()
    assert expiry._remove_streams(looking, work, first.site, outcome) == set()
    assert outcome.left == []
    assert prefixes(world) == {d.prefix for d in third.deltas.values()}


def test_a_damaged_point_stays_while_the_store_of_its_streams_is_away(world: World) -> None:
    world.protect(1)
    [point] = world.points

    def away(name: str) -> Any:
        raise SiteUnreachable("no answer")

    looking = expiry.Expiry(
        vnf=samples.vnf(),
        vault=cast(Any, None),
        every_vault=cast(Any, None),
        site=lambda _: world.site,
        users=dict,
        timeline=Unrecorded(),
        go_on=lambda: None,
        store=away,
    )
    work = expiry._Work([], [point.id], [], [], VOLUMES, lambda _: False)
    assert point.id in expiry._remove_streams(looking, work, point.site, expiry.Outcome())
    assert len(prefixes(world)) == 2


def test_what_a_protection_may_be_making_keeps_all_and_what_was_left_long_ago_nothing(
    world: World,
) -> None:
    world.protect(1)
    going, now = deltas(world), datetime.now(UTC)
    run = f"protect-{now:%Y%m%dT%H%M%SZ}-1a2b3c"
    world.store.held[f"hlr/{run}/begun/pack-00000"] = b"packed"
    assert expire(world, going, []) == {d.id for d in going}
    world.store.held.pop(f"hlr/{run}/begun/pack-00000")
    left = f"hlr/protect-{now - timedelta(days=30):%Y%m%dT%H%M%SZ}-1a2b3c/left"
    world.store.held[f"{left}/pack-00000"] = b"packed"
    assert expire(world, going, []) == set()
    assert prefixes(world) == {left}


def test_a_forged_delta_has_nothing_of_others_removed(world: World) -> None:
    world.protect(1)
    mine = deltas(world)
    forged = mine[0].model_copy(update={"id": "forged", "prefix": "other-vnf/protect-1/x"})
    world.store.held["other-vnf/protect-1/x/index"] = b"theirs"
    assert expire(world, [forged], mine) == set()
    assert "other-vnf/protect-1/x/index" in world.store.held


def test_snapshots_stay_until_a_newer_point_has_others(world: World) -> None:
    world.protect(1)
    before = set(world.snapshots)
    cut(world)
    world.protect(2)
    assert set(world.snapshots) == before
    (world.folder / CONDITIONS).unlink()
    world.protect(3)
    assert set(world.snapshots) == world.points[-1].tracked


def test_a_delta_whose_snapshot_cannot_be_kept_is_none(world: World) -> None:
    """Else it would be in the store, in no point, and keep from expiry what it rests on."""

    def refused(snapshot: str, metadata: Mapping[str, str]) -> None:
        raise SiteUnreachable("no answer")

    run = "protect-20261122T160501Z-1a2b3c"
    p = world.protecting(run)
    p.site.volumes.merge_snapshot_metadata = refused  # type: ignore[assignment, method-assign]
    made = TRANSFER.transfer(p, topology(), world.capture(run), lambda _: {})
    assert [s.kind for s in made.sources.values()] == ["backup-chain"] * 2
    assert world.store.held == {}


# ---- recovery ----


def test_a_host_that_cannot_write_the_volumes_says_so_before_the_recovery(world: World) -> None:
    world.protect(1)
    types = SimpleNamespace(types=lambda: [{"id": "t", "name": "standard"}])
    types.type_encryption = lambda _: {"provider": "luks"}
    for attaches, problems in ((True, 1), (False, 2)):
        site = cast(Site, SimpleNamespace(name="site-b", attaches=attaches, volumes=types))
        found = list(PROVIDER.check(world.points[-1], site))
        assert len(found) == problems + 1  # each of the two volumes is of a type that is encrypted
    types.type_encryption = lambda _: None
    site = cast(Site, SimpleNamespace(name="site-b", attaches=True, volumes=types))
    assert list(PROVIDER.check(world.points[-1], site)) == []


def test_a_delta_that_is_gone_is_found_by_verification_and_by_a_quick_look(world: World) -> None:
    world.protect(1)
    [point], store = world.points, cast(Any, world.store)
    db = point.sources["vol-db"]
    assert isinstance(db, ChangeStream)

    def findings() -> list[bool]:
        return [f.ok for f in PROVIDER.verify("db", db, store, lambda _: world.site)]

    assert (findings(), PROVIDER.missing(point, store)) == ([True], [])
    del world.store.held[f"{db.last.prefix}/index"]
    assert (findings(), PROVIDER.missing(point, store)) == ([False], [f"delta {db.last.id}"])


def test_a_base_that_is_gone_is_found_by_the_same_look(world: World) -> None:
    """Else the choice of a point would pass, and the volume be refused when it is written."""
    world.protect(1)
    world.write("vol-db", 0, b"x" * GRAIN)
    world.protect(2)
    point, store = world.points[-1], cast(Any, world.store)
    db = point.sources["vol-db"]
    assert isinstance(db, ChangeStream)
    base, last = db.deltas
    for delta in (base, last):
        kept = world.store.held.pop(f"{delta.prefix}/pack-00000")
        assert PROVIDER.missing(point, store) == [f"delta {delta.id}"]
        world.store.held[f"{delta.prefix}/pack-00000"] = kept
    assert PROVIDER.missing(point, store) == []
    world.store.held.clear()
    assert len(PROVIDER.missing(point, store)) == len(point.deltas) == 4


def test_snapshots_of_volumes_that_go_are_removed_and_those_of_others_stay(world: World) -> None:
    """Cinder deletes no volume of an old copy that has a snapshot."""
    world.protect(1)
    world.capture("made-by-hand")
    tracked.drop_of_volumes(world.site, ["vol-db"], Unrecorded())
    left = {i for i in world.snapshots if not i.startswith("made-by-hand")}
    assert {world.snapshots[i]["volume_id"] for i in left} == {"vol-front"}
    assert len(world.snapshots) == 3
