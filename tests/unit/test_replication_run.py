# SPDX-License-Identifier: Apache-2.0
"""Protections and recoveries of a VNF whose storage replicates by itself."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from antipode import processes
from antipode.datastores import STORAGES
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    AntipodeError,
    NotSynchronised,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
)
from antipode.model import marks
from antipode.model.datastore import Health
from antipode.model.source import ReplicatedState
from antipode.model.vnf import Vnf
from antipode.operations import datastores, reprotect
from antipode.operations.abort import abort
from antipode.operations.drill import drill, prepare, request
from antipode.operations.expiry import expire
from antipode.operations.failover import prepare as prepare_failover
from antipode.operations.protect import protect
from antipode.operations.recovery_points import verify
from antipode.operations.resume import resume
from antipode.runs import old_copy_removal
from antipode.runs import reprotect as reprotecting
from antipode.runs.fence import must_be_old
from antipode.transfer import replication
from antipode.vault import points
from tests.unit import fakestorage, twosites
from tests.unit.fakestorage import Pools
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF
from tests.unit.unstarted import answered_here

__all__ = ["world"]


class Replicated:
    """A world whose VNF is on replicated storage."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pools = Pools(world.clouds)
        text = world.config.read_text()
        if "storages:" not in text:
            world.config.write_text(text + fakestorage.CONFIGURATION)
        world.here = world.process()
        self.define()

    def define(
        self,
        volumes: Any = "all",
        records: Any = None,
        synchronises_within: str = "1h",
        **settings: Any,
    ) -> None:
        protection = {"option": "replication", "quiesce": {"timeout": "5m"}, **settings}
        limit = {"synchronises_within": synchronises_within}
        stores = {"disks": {"storage": "mirror", "volumes": volumes, **limit}}
        if records is not None:
            stores["records"] = records
        fields = VNF.model_dump(mode="json")
        changes = {"datastores": stores, "protections": [protection]}
        self.world.here.vnfs.put(Vnf.model_validate(fields | changes))

    def newest(self) -> Any:
        return points.newest_or_none(self.world.here.vault, "v")

    def events(self, site: str, begin: int = 0) -> list[str]:
        return self.world.clouds[site].events[begin:]


@pytest.fixture
def replicated(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(replication, "LOOK_S", 0.01)
    found = Replicated(world)
    with STORAGES.registered(fakestorage.DRIVER, fakestorage.driver(found.pools.ask)):
        yield found


def test_a_point_is_made_of_states_and_nothing_is_backed_up(replicated: Replicated) -> None:
    world, began = replicated.world, len(replicated.events("site-a"))
    record = world.protect()
    point = replicated.newest()
    assert record["consistency"] == point.consistency == "application"
    assert {type(s) for s in point.sources.values()} == {ReplicatedState}
    assert {s.snapshot_id for s in point.sources.values()} == set(world.a.snapshots)
    events = replicated.events("site-a", began)
    assert not [e for e in events if e.startswith(("backup", "delete"))]
    assert world.a.all_frozen == set()


def test_the_storages_of_both_sites_are_asked_side_by_side(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, asked = threading.Barrier(2, timeout=300), set[str]()

    def problems(storage: Any) -> Iterator[str]:
        asked.add(storage.site)
        both.wait()
        return iter((f"of {storage.site}",))

    monkeypatch.setattr(STORAGES.get(fakestorage.DRIVER), "problems", problems)
    with pytest.raises(PreflightFailed) as refused:
        replicated.world.protect()
    assert asked == {"site-a", "site-b"}
    assert refused.value.problems == ["of site-a", "of site-b"]


def test_volumes_in_no_datastore_are_backed_up_in_the_same_point(replicated: Replicated) -> None:
    replicated.define(volumes=["db-data"])
    replicated.world.protect()
    kinds = {v: s.kind for v, s in replicated.newest().sources.items()}
    assert kinds == {
        "db-data": "replicated-state",
        "db-root": "backup-chain",
        "front-root": "backup-chain",
    }
    kept = [s["volume_id"] for s in replicated.world.a.snapshots.values()]
    assert kept == ["db-data"], "the other snapshots were temporary"
    assert sorted(replicated.world.failover()["servers"]) == ["db", "front"]


def test_backups_stay_increments_whatever_replication_protects_in_between(
    replicated: Replicated,
) -> None:
    world = replicated.world
    fields = world.here.vnfs.get("v").model_dump(mode="json")
    also = {"option": "quiesced-snapshot", "quiesce": {"timeout": "5m"}}
    both = [*fields["protections"], also]
    world.here.vnfs.put(Vnf.model_validate(fields | {"protections": both}))
    before = replicated.newest()
    for option in ("quiesced-snapshot", "replication", "replication", "quiesced-snapshot"):
        protect(world.here, "v", Unobserved(), option=option)
    newest = replicated.newest()
    for volume in newest.sources:
        assert len(newest.chain(volume)) == len(before.chain(volume)) + 2
    protect(world.here, "v", Unobserved(), option="replication")
    found = points.newest_stored(world.here.vault, "v", list(newest.sources))
    assert {point.id for point in found.values()} == {newest.id}


def test_the_data_of_an_application_is_in_the_same_point_and_comes_back_with_the_clones(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replicated.world
    monkeypatch.setattr(processes, "ask", answered_here)
    records = twosites.Application(world.folder)
    world.config.write_text(world.config.read_text() + records.configuration())
    world.here = world.process()
    replicated.define(records={"storage": "pg", "kind": "application"})
    world.protect()
    point = replicated.newest()
    assert {type(s) for s in point.sources.values()} == {ReplicatedState}
    assert point.datastores["records"].position == "2"
    assert {s.datastore for s in datastores.status(world.here, "v")} == {"disks", "records"}
    replicated.pools.dead.add("site-a")
    records.says("status at site-a", code=75)
    assert "left" not in world.failover()
    assert records.health["site-b"] == "writable"
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]


def test_a_recovery_clones_every_state_and_promotes_nothing(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    replicated.pools.dead.add("site-a")
    record = world.failover()
    assert "left" not in record
    assert replicated.events("site-b").count("manage db-root") == 1
    assert world.b.clones == {}, "each is separated"
    volumes = {v["name"]: v for v in world.b.volumes.values()}
    assert {n: v["status"] for n, v in volumes.items()} == dict.fromkeys(volumes, "in-use")
    assert volumes["db-root"]["bootable"] == "true"
    assert volumes["db-root"]["volume_image_metadata"]["hw_qemu_guest_agent"] == "yes"
    assert volumes["db-data"]["metadata"]["kind"] == "data"


@pytest.mark.parametrize("fails_at", ["clone", "manage", "boot front"])
def test_an_aborted_recovery_leaves_no_clone(replicated: Replicated, fails_at: str) -> None:
    world = replicated.world
    world.protect()
    seen = 0

    def fails(event: str) -> None:
        nonlocal seen
        if event.startswith(fails_at):
            seen += 1
            if fails_at == "boot front" or seen > 1:
                raise ResourceFailed("no more")

    world.b.before = fails
    with pytest.raises(AntipodeError):
        world.failover()
    world.b.before = lambda event: None
    abort(world.here, world.here.runs.all()[0].id, Unobserved())
    assert (world.b.clones, world.b.volumes, world.b.servers) == ({}, {}, {})


def test_a_failed_recovery_is_resumed_with_the_clones_that_it_has(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()

    def fails(event: str) -> None:
        if event.startswith("boot front"):
            raise ResourceFailed("no room")

    world.b.before = fails
    with pytest.raises(ResourceFailed):
        world.failover()
    world.b.before = lambda event: None
    resume(world.here, world.here.runs.all()[0].id, Unobserved())
    managed = [e for e in replicated.events("site-b") if e.startswith("manage")]
    assert len(managed) == len(set(managed)) == 3


def test_a_volume_that_cinder_could_not_take_is_made_again(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    lost: list[str] = []

    def loses(event: str) -> None:
        if event.startswith("manage") and not lost:
            lost.extend(world.b.clones)
            world.b.clones.clear()

    world.b.before = loses
    with pytest.raises(ResourceFailed):
        world.failover()
    world.b.before = lambda event: None
    resume(world.here, world.here.runs.all()[0].id, Unobserved())
    assert len([v for v in world.b.volumes.values() if v["status"] == "in-use"]) == 3


def test_states_that_do_not_arrive_are_no_point_and_leave_nothing(
    replicated: Replicated,
) -> None:
    replicated.define(arrives_within="50ms")
    before = replicated.newest().id
    replicated.pools.arrives = lambda state: False
    with pytest.raises(ResourceFailed):
        replicated.world.protect()
    assert replicated.newest().id == before
    assert replicated.world.a.snapshots == {}
    assert replicated.world.a.all_frozen == set()


def test_a_site_that_dies_while_a_point_is_half_across_leaves_the_point_before_it(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    whole = replicated.newest()
    held = set(world.a.snapshots)

    def half(state: str) -> bool:
        if state in held:
            return True
        half_way = sorted(set(world.a.snapshots) - held)[:1]
        if len(set(world.a.snapshots) - held) == 3:
            replicated.pools.dead.add("site-a")
            world.here.runs.request_abort(world.here.runs.all()[0].id)  # as its process dies
        return state in half_way

    replicated.pools.arrives = half
    with pytest.raises(AntipodeError):
        world.protect()
    replicated.pools.arrives = lambda state: state in held
    assert replicated.newest().id == whole.id
    record = world.failover()
    assert record["recovery_point"] == whole.id
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]


def test_a_replica_that_is_not_replicated_makes_a_vnf_less_ready(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    replicated.pools.health = Health.STOPPED
    planned = prepare_failover(world.here, "v", "site-b", None)
    assert len([w for w in planned.warnings if "not replicated now" in w]) == 3


@pytest.mark.parametrize("health", [h for h in Health if h is not Health.REPLICATING])
def test_a_volume_that_does_not_replicate_is_refused_before_anything_is_frozen(
    replicated: Replicated, health: Health
) -> None:
    began = len(replicated.events("site-a"))
    replicated.pools.health = health
    with pytest.raises(PreflightFailed):
        replicated.world.protect()
    assert not [e for e in replicated.events("site-a", began) if e.startswith("quiesce")]


def test_a_silent_storage_at_the_backup_site_is_found_before_the_window(
    replicated: Replicated,
) -> None:
    replicated.pools.dead.add("site-b")
    with pytest.raises(PreflightFailed):
        replicated.world.protect()
    assert replicated.world.a.snapshots == {}


def test_a_point_whose_state_is_gone_is_not_recovered_from(replicated: Replicated) -> None:
    replicated.world.protect()
    replicated.world.a.snapshots.popitem()
    with pytest.raises(PreflightFailed):
        replicated.world.failover()
    assert replicated.events("site-b") == []
    assert [f.ok for f in verify(replicated.world.here, "v", None)].count(False) == 1


def test_snapshots_go_when_their_point_expires(replicated: Replicated) -> None:
    replicated.define(retention={"last": 1})
    for _ in range(3):
        replicated.world.protect()
        expire(replicated.world.here, "v", Unobserved())
    assert set(replicated.newest().states) == set(replicated.world.a.snapshots)


def test_a_snapshot_on_which_a_clone_rests_stays_until_that_is_gone(
    replicated: Replicated,
) -> None:
    world = replicated.world
    replicated.define(retention={"last": 1})
    world.protect()
    first = replicated.newest()
    state = next(iter(first.states.values()))
    world.b.clones["of-a-drill"] = {"image": state.image, "state": state.state}
    world.protect()
    done = expire(world.here, "v", Unobserved(), again=True)
    assert [w for w in done["left"] if "of-a-drill" in w]
    assert state.snapshot_id in world.a.snapshots
    world.b.clones.clear()
    expire(world.here, "v", Unobserved(), again=True)
    assert set(replicated.newest().states) == set(world.a.snapshots)


def test_no_point_expires_in_favour_of_one_whose_state_is_gone(replicated: Replicated) -> None:
    world = replicated.world
    replicated.define(retention="all")
    world.protect()
    kept = replicated.newest()
    world.protect()
    for snapshot in replicated.newest().states:
        del world.a.snapshots[snapshot]
    replicated.define(retention={"last": 1})
    expire(world.here, "v", Unobserved())
    assert set(kept.states) <= set(world.a.snapshots)


def test_snapshots_of_others_are_never_touched(replicated: Replicated) -> None:
    world = replicated.world
    replicated.define(retention={"last": 1})
    others = world.a._snapshot_of({"volume_id": "db-data", "name": "mine", "metadata": {}})
    for _ in range(2):
        world.protect()
        expire(world.here, "v", Unobserved())
    assert others in world.a.snapshots


def test_a_drill_leaves_no_clone_and_separates_nothing(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    drill(world.here, request(prepare(world.here, "v"), None), Unobserved())
    assert (world.b.clones, world.b.volumes) == ({}, {})
    assert not [e for e in replicated.events("site-b") if e.startswith("separate")]


def test_a_clone_that_cannot_be_separated_is_named_and_finished_later(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()

    def fails(event: str) -> None:
        if event.startswith("separate"):
            raise ResourceFailed("no space")

    world.b.before = fails
    record = world.failover()
    assert len(record["left"]) == 3
    world.b.before = lambda event: None
    replicated.pools.origin = "site-b"
    datastores.prepare(world.here, "v", awaits=True, tell=lambda what: None)
    assert world.b.clones == {}


def test_a_reprotection_replicates_the_volumes_the_other_way_round(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    world.failover()
    replicated.pools.origin = "site-b"
    row = reprotect.request(reprotect.prepare(world.here, "v", "keep"))
    record = reprotect.reprotect(world.here, row, Unobserved())
    assert {f"volume-{v}" for v in world.b.volumes} <= replicated.pools.replicated
    found = points.newest_or_none(world.here.vault, "v")
    assert found is not None and (found.id, found.site) == (record["recovery_point"], "site-b")


def moved(replicated: Replicated) -> World:
    """A world whose VNF is at site-b, where it is protected, with points in its old copy."""
    world = replicated.world
    world.b.ids = itertools.count(1000)  # those of two clouds differ
    world.protect()
    world.failover()
    replicated.pools.origin = "site-b"
    reprotect.reprotect(
        world.here, reprotect.request(reprotect.prepare(world.here, "v", "keep")), Unobserved()
    )
    return world


def removal(world: World) -> Any:
    """The old copy is removed by a run of its own; what that has come to."""
    standing = must_be_old(world.here, "v", "site-a")
    row = old_copy_removal.requested(standing.state, "site-a")
    run = row.id
    with world.here.claims.begin(row) as claim:
        execute(world.here, old_copy_removal.KIND, claim, Unobserved())
    return world.here.runs.get(run).result


def test_an_old_copy_goes_with_the_points_whose_states_its_volumes_hold(
    replicated: Replicated,
) -> None:
    world = moved(replicated)
    former = set(points.list_ids(world.here.vault, "v")) - {replicated.newest().id}
    standing = must_be_old(world.here, "v", "site-a")
    found = old_copy_removal.holdings(world.here, standing, world.here.site("site-a"))
    held = set(found.points)
    assert held and held <= former
    assert removal(world)["points_removed"] == sorted(held)
    assert (world.a.servers, world.a.volumes, world.a.snapshots) == ({}, {}, {})
    left = points.list_ids(world.here.vault, "v")
    assert replicated.newest().id in left and not held & set(left)


def test_an_old_copy_keeps_a_volume_with_a_snapshot_of_somebody(replicated: Replicated) -> None:
    world = moved(replicated)
    mine = world.a._snapshot_of({"volume_id": "db-data", "name": "mine", "metadata": {}})
    record = removal(world)
    assert [left for left in record["left"] if mine in left]
    assert (world.a.servers, set(world.a.volumes)) == ({}, {"db-data"})
    assert mine in world.a.snapshots


def test_an_old_copy_stays_whole_while_a_state_of_it_is_in_use(replicated: Replicated) -> None:
    world = moved(replicated)
    newest = replicated.newest()
    state = next(
        state
        for id_ in points.list_ids(world.here.vault, "v")
        if id_ != newest.id
        for state in points.examine(world.here.vault, "v", id_).point.states.values()
    )
    world.b.clones["of-a-drill"] = {"image": state.image, "state": state.state}
    servers, volumes = set(world.a.servers), set(world.a.volumes)
    with pytest.raises(ResourceFailed, match="of-a-drill"):
        removal(world)
    assert (set(world.a.servers), set(world.a.volumes)) == (servers, volumes)
    world.b.clones.clear()
    removal(world)
    assert (world.a.servers, world.a.volumes) == ({}, {})


def test_points_of_an_old_copy_stay_while_no_newer_one_can_be_recovered_from(
    replicated: Replicated,
) -> None:
    world = moved(replicated)
    former, servers = points.list_ids(world.here.vault, "v"), set(world.a.servers)
    of_a_stream = {marks.TRACKED: "v", marks.RUN: "protect-1"}
    kept = world.a._snapshot_of({"volume_id": "db-data", "name": "", "metadata": of_a_stream})
    states = list(replicated.newest().states)
    removed = {i: world.b.snapshots.pop(i) for i in states}
    with pytest.raises(PreflightFailed, match="none can be recovered from"):
        removal(world)
    assert points.list_ids(world.here.vault, "v") == former
    assert set(world.a.servers) == servers and len(world.a.snapshots) > 1
    assert kept in world.a.snapshots
    world.b.snapshots |= removed
    removal(world)
    assert (world.a.servers, world.a.snapshots) == ({}, {})


def test_a_state_stays_while_the_active_site_does_not_say_what_rests_on_it(
    replicated: Replicated,
) -> None:
    world = moved(replicated)
    there = set(world.a.snapshots)
    replicated.pools.dead.add("site-b")
    with pytest.raises(ResourceFailed, match="unknown"):
        removal(world)
    assert set(world.a.snapshots) == there and world.a.servers


def test_preparing_twice_begins_replication_once(replicated: Replicated) -> None:
    for _ in range(2):
        found = datastores.prepare(replicated.world.here, "v", awaits=True, tell=lambda what: None)
        assert all(v.is_well for v in found)
    begun = [e for e in replicated.events("site-a") if e.startswith("replicate")]
    assert begun == ["replicate 3"]


def test_a_first_synchronisation_is_awaited_for_a_limited_time_and_again(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replicated.world
    monkeypatch.setattr(datastores, "LOOK_S", 0.001)
    monkeypatch.setattr(reprotecting, "POLL_S", 0.001)
    replicated.pools.health = Health.FIRST_SYNC
    with pytest.raises(NotSynchronised):
        datastores.prepare(world.here, "v", awaits=True, tell=lambda _: None, within_s=0.01)
    replicated.pools.health = Health.REPLICATING
    assert datastores.prepare(world.here, "v", awaits=True, tell=lambda _: None)
    world.protect()
    world.failover()
    replicated.pools.origin = "site-b"
    replicated.define(synchronises_within="10ms")
    replicated.pools.health = Health.FIRST_SYNC
    row = reprotect.request(reprotect.prepare(world.here, "v", "keep"))
    with pytest.raises(NotSynchronised):
        reprotect.reprotect(world.here, row, Unobserved())
    [run] = [r for r in world.here.runs.all() if r.kind == "reprotect"]
    assert run.state == "failed"
    replicated.pools.health = Health.REPLICATING
    resume(world.here, run.id, Unobserved())
    assert world.here.runs.get(run.id).state == "succeeded"


def test_the_status_is_known_with_the_active_site_dead(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replicated.world
    world.protect()
    replicated.pools.dead.add("site-a")

    def silent(*_: Any) -> Any:
        raise SiteUnreachable("site-a does not answer")

    monkeypatch.setattr(world.here, "site", silent)
    found = datastores.status(world.here, "v")
    everywhere = datastores.status(world.here, "v", "disks", everywhere=True)
    original = [s for s in everywhere if s.is_active]
    assert {s.reference for s in original} == {f"volume-{v}" for v in world.a.volumes}
    assert not any(s.is_well for s in original) and len(everywhere) == 2 * len(found)
    replicated.pools.dead.clear()
    alive = datastores.status(world.here, "v", everywhere=True)
    assert all(s.is_well for s in alive) and len(alive) == 2 * len(found)
    assert {(v.site, v.point) for v in found} == {("site-b", replicated.newest().id)}
    assert all(v.is_well and v.reference for v in found)


def test_an_aborted_protection_leaves_no_snapshot(replicated: Replicated) -> None:
    world = replicated.world

    def is_aborted_meanwhile(state: str) -> bool:
        world.here.runs.request_abort(world.here.runs.all()[0].id)
        return False

    replicated.pools.arrives = is_aborted_meanwhile
    with pytest.raises(Aborted):
        world.protect()
    assert world.a.snapshots == {}


def test_a_drill_of_backups_does_not_ask_storages_that_it_has_not_used(
    replicated: Replicated,
) -> None:
    world = replicated.world
    fields = VNF.model_dump(mode="json")
    world.here.vnfs.put(Vnf.model_validate(fields))
    world.protect()
    replicated.pools.dead |= {"site-a", "site-b"}
    drill(world.here, request(prepare(world.here, "v"), None), Unobserved())
    assert world.b.volumes == {}


def test_clones_that_nobody_manages_are_gone_when_the_vnf_is_active(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    state = next(iter(replicated.newest().states.values()))

    def begun_twice(event: str) -> None:
        if event == "boot front":
            clone = f"antipode-{world.here.runs.all()[0].id}-0123456789abcdef"
            world.b.clones[clone] = {"image": state.image, "state": state.state}

    world.b.before = begun_twice
    world.failover()
    assert world.b.clones == {}


def test_a_point_whose_image_is_filled_again_is_not_recovered_from(
    replicated: Replicated,
) -> None:
    replicated.world.protect()
    replicated.pools.health = Health.FIRST_SYNC
    with pytest.raises(PreflightFailed):
        replicated.world.failover()
    assert replicated.events("site-b") == []
    point = replicated.newest().id
    assert [f.ok for f in verify(replicated.world.here, "v", point)].count(False) == 3


def test_a_replica_that_has_stopped_is_recovered_from(replicated: Replicated) -> None:
    replicated.world.protect()
    replicated.pools.health = Health.STOPPED
    replicated.pools.dead.add("site-a")
    assert sorted(replicated.world.failover()["servers"]) == ["db", "front"]


def test_a_host_without_the_storage_removes_no_snapshot(replicated: Replicated) -> None:
    world = replicated.world
    replicated.define(retention="all")
    world.protect()
    first = set(replicated.newest().states)
    world.protect()
    text = world.config.read_text()
    world.config.write_text(text.replace(fakestorage.CONFIGURATION, ""))
    world.here = world.process()
    replicated.define(retention={"last": 1})
    done = expire(world.here, "v", Unobserved(), again=True)
    assert len([w for w in done["left"] if "mirror" in w]) == len(first)
    assert first <= set(world.a.snapshots)


def test_a_snapshot_of_another_volume_than_a_point_names_stays(replicated: Replicated) -> None:
    world = replicated.world
    replicated.define(retention={"last": 1})
    world.protect()
    others = next(iter(replicated.newest().states))
    world.a.snapshots[others]["volume_id"] = "of-another-vnf"
    world.protect()
    expire(world.here, "v", Unobserved(), again=True)
    assert set(world.a.snapshots) == {others, *replicated.newest().states}


def test_the_snapshots_of_a_point_stay_when_a_volume_is_renamed_meanwhile(
    replicated: Replicated,
) -> None:
    world = replicated.world
    replicated.define(volumes=["db-data"])

    def renamed_after_the_capture(state: str) -> bool:
        world.a.volumes["db-data"]["name"] = "another"
        return True

    replicated.pools.arrives = renamed_after_the_capture
    world.protect()
    assert set(replicated.newest().states) == set(world.a.snapshots) != set()
