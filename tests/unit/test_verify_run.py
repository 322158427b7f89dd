# SPDX-License-Identifier: Apache-2.0
"""A proof of content as a run: refused where it cannot be had, a failure when a block differs, and
nothing left at the site.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.cloud.backups import read_record
from antipode.config import Config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import Busy, InvalidInput, NotFound, PreflightFailed, RecoveryPointInvalid
from antipode.model.source import BackupChain, BackupRecord, backup_chain
from antipode.model.vnf import Vnf
from antipode.operations import failover as failing
from antipode.operations.failover import prepare
from antipode.operations.recovery_points import deep_request, verify_deep
from antipode.runs import failover as failover_run
from antipode.runs import verify as verify_run
from antipode.runs.verify import VerifyRequest
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.verify import prefix_of
from tests.unit import samples
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]
BLOCK = 1 << 28
CAPTURED = ["11" * 32, "22" * 32, "33" * 32, "44" * 32]


class Digested:
    """A store in which backups that were made at the backup site, of a restored volume, have what
    `restored` says of the volume's name.
    """

    def __init__(self, there: Any) -> None:
        self.there = there
        self.restored: dict[str, list[str]] = {}
        self.kept: dict[str, list[str]] = {}
        """backup -> the digests that it carries, if they are not those of all"""
        self.lost: set[str] = set()
        """objects that are gone"""

    def under(self, _go_on: object) -> Digested:
        return self

    def get(self, container: str, name: str) -> bytes:
        if name.endswith("_metadata"):
            return self.objects(name.removesuffix("_metadata")).get(container, name)
        backup = name.removeprefix("objects-of-").removesuffix("_sha256file")
        made = self.there.backups[backup]
        volume = self.there.volumes.get(made["volume_id"])
        sums = self.restored.get(volume["name"], CAPTURED) if volume else CAPTURED
        return json.dumps({"chunk_size": BLOCK, "sha256s": self.kept.get(backup, sums)}).encode()

    def listing(self, container: str, prefix: str = "") -> list[Any]:
        return self.objects(prefix).listing(container, prefix)

    def objects(self, prefix: str) -> samples.MemoryStore:
        store = samples.MemoryStore()
        store.hold_under(prefix)
        for lost in self.lost:
            store.objects.pop(lost, None)
        return store


@pytest.fixture
def store(world: World) -> Digested:
    return Digested(world.b)


@contextmanager
def configured(store: Digested) -> Iterator[None]:
    """The backup store is known to the configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deployment, "store_of", lambda *_: store)
        patch.setattr(Config, "store_name", lambda *_: "backups")
        yield


def asked(world: World, store: Digested, site: str | None = None) -> RunRow:
    with configured(store):
        return deep_request(world.here, "v", None, site)


def verified(world: World, store: Digested) -> list[Any]:
    with configured(store):
        return verify_deep(world.here, deep_request(world.here, "v", None), Unobserved())


def chain_of(world: World, volume: str) -> Sequence[BackupRecord]:
    """The backups of a volume by its name, base first."""
    point = points.read(world.here.vault, "v")
    [found] = [v.id for v in point.topology.volumes if v.name == volume]
    return backup_chain(point.sources[found])


def expect_nothing_left(world: World) -> None:
    point = points.read(world.here.vault, "v")
    assert world.b.volumes == {}
    assert set(world.b.backups) <= set(point.backups)
    assert world.b.servers == {}


def test_every_volume_is_restored_compared_and_removed(
    world: World,
    store: Digested,
) -> None:
    world.protect()  # with increments
    findings = verified(world, store)
    assert [f.ok for f in findings] == [True] * 3
    assert all(f.bytes == 4 * BLOCK and f.first_difference is None for f in findings)
    expect_nothing_left(world)
    [run] = [r for r in world.here.runs.all("v") if r.kind == "verify"]
    assert (run.state, run.result["bytes_compared"]) == ("succeeded", 12 * BLOCK)


def test_throw_away_volumes_are_restored_in_the_way_of_a_recovery(
    world: World,
    store: Digested,
) -> None:
    verified(world, store)
    assert not [e for e in world.b.events if e.startswith("volume ")], "full backups, sparse"
    world.protect()
    before = len(world.b.events)
    verified(world, store)
    written = [e for e in world.b.events[before:] if e.startswith("volume ")]
    assert len(written) == 3, "chains with increments, written whole"


def test_a_block_that_differs_fails_the_run_and_is_named(
    world: World,
    store: Digested,
) -> None:
    store.restored["db-data"] = [*CAPTURED[:2], "00" * 32, CAPTURED[3]]
    findings = {f.volume: f for f in verified(world, store)}
    assert not findings["db-data"].ok
    assert findings["db-data"].first_difference == 2 * BLOCK
    assert findings["db-root"].ok and findings["front-root"].ok
    [run] = [r for r in world.here.runs.all("v") if r.kind == "verify"]
    assert run.state == "failed"
    assert "db-data" in str(run.reason)
    expect_nothing_left(world)


def test_a_volume_that_came_back_smaller_does_not_pass(
    world: World,
    store: Digested,
) -> None:
    store.restored["db-data"] = CAPTURED[:3]
    findings = {f.volume: f for f in verified(world, store)}
    assert findings["db-data"].first_difference == 3 * BLOCK


def test_digests_of_a_part_of_the_volume_prove_nothing(world: World, store: Digested) -> None:
    store.kept[chain_of(world, "db-data")[-1].id] = CAPTURED[:1]
    findings = {f.volume: f for f in verified(world, store)}
    assert not findings["db-data"].ok
    assert findings["db-root"].ok
    expect_nothing_left(world)


def test_a_chain_whose_objects_have_changed_is_not_restored_at_all(
    world: World, store: Digested
) -> None:
    store.lost.add(f"{prefix_of(chain_of(world, 'db-data')[0])}-00001")
    before = len(world.b.events)
    findings = {f.volume: f for f in verified(world, store)}
    assert not findings["db-data"].ok
    assert not [e for e in world.b.events[before:] if "db-data" in e]
    expect_nothing_left(world)


def test_digests_that_are_gone_fail_the_run_and_leave_nothing(
    world: World,
    store: Digested,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    get = store.get

    def gone(container: str, name: str) -> bytes:
        if name.endswith("_sha256file"):
            raise NotFound("no such object")
        return get(container, name)

    monkeypatch.setattr(store, "get", gone)
    with pytest.raises(RecoveryPointInvalid):
        verified(world, store)
    expect_nothing_left(world)


def test_what_is_missing_at_the_site_is_named_before_anything_is_restored(
    world: World,
    store: Digested,
) -> None:
    world.b.types = []
    world.b.quotas["gigabytes"] = {"limit": 0}
    with pytest.raises(PreflightFailed) as raised:
        verified(world, store)
    assert len(raised.value.problems) >= 2
    assert world.b.volumes == {} and world.b.backups == {}


def test_the_map_of_this_host_counts(world: World, store: Digested) -> None:
    world.b.types = [{"id": "type-3", "name": "gold"}]
    with pytest.raises(PreflightFailed):
        verified(world, store)
    mended = VNF.map.model_copy(update={"volume_types": {"fast": "gold"}})
    world.here.vnfs.put(VNF.model_copy(update={"map": mended}))
    assert all(f.ok for f in verified(world, store))


def test_one_volume_and_one_backup_of_quota_suffice_beside_the_records(
    world: World,
    store: Digested,
) -> None:
    world.b.quotas |= {"volumes": {"limit": 1}, "backups": {"limit": 4}}
    assert all(f.ok for f in verified(world, store))
    world.b.quotas["backups"] = {"limit": 0}
    with pytest.raises(PreflightFailed):
        verified(world, store)


def test_without_a_backup_store_nothing_can_be_compared(world: World) -> None:
    with pytest.raises(InvalidInput):
        deep_request(world.here, "v", None)


def test_the_site_must_be_one_of_the_vnfs(world: World, store: Digested) -> None:
    assert verify_run.VerifyRequest.of(asked(world, store)).site == "site-b"
    at_a = asked(world, store, "site-a")
    assert verify_run.VerifyRequest.of(at_a).site == "site-a"
    with pytest.raises(NotFound):
        asked(world, store, "nowhere")


def test_backups_without_digests_are_refused(world: World, store: Digested) -> None:
    point = points.read(world.here.vault, "v")
    [volume, *_] = point.sources
    source = point.sources[volume]
    assert isinstance(source, BackupChain)
    ceph = source.last.model_copy(update={"service": "cinder.backup.drivers.ceph.CephBackupDriver"})
    chain = source.model_copy(update={"backups": [*source.backups[:-1], ceph]})
    other = point.model_copy(update={"sources": {**point.sources, volume: chain}})
    with configured(store), pytest.raises(InvalidInput, match="ceph"):
        verify_run.requested(world.here, other, None)
    assert read_record(ceph.url)["id"] == ceph.id


def test_no_verification_begins_beside_a_failover_which_asks_one_to_abort(
    world: World,
    store: Digested,
) -> None:
    failover = failing.request(prepare(world.here, "v", "site-b", None))
    asked(world, store)  # without the failover it may begin
    with world.here.claims.begin(failover), pytest.raises(Busy):
        asked(world, store)
    assert failover_run.KIND.displaces(verify_run.KIND)
    assert not verify_run.KIND.may_begin_beside(failover_run.KIND)


def test_a_request_that_a_newer_antipode_made_is_refused_by_name() -> None:
    row = new_run(verify_run.KIND, "v", {"depth": 2})
    with pytest.raises(InvalidInput, match=row.id):
        verify_run.VerifyRequest.of(row)


# Periodic verification.


class Clock:
    """A day after all that has happened, and further when a test says so."""

    def __init__(self) -> None:
        self.at = time.time() + 86400

    def __call__(self) -> float:
        return self.at


def due(world: World, store: Digested, clock: Clock, *vnfs: Vnf) -> list[RunRow]:
    """The runs that the service would queue now."""
    queued: list[RunRow] = []
    with configured(store):
        verify_run.submit_due(world.here, vnfs, queued.append, clock)
    return queued


WEEKLY = VNF.model_copy(update={"verify_every": 7 * 86400.0})


def test_the_newest_point_is_verified_as_often_as_the_vnf_file_says(
    world: World, store: Digested
) -> None:
    clock = Clock()
    assert due(world, store, clock, VNF) == []
    [first] = due(world, store, clock, WEEKLY)
    assert VerifyRequest.of(first).recovery_point == points.read(world.here.vault, "v").id
    verified(world, store)
    clock.at = time.time() + 6 * 86400
    assert due(world, store, clock, WEEKLY) == []
    clock.at += 86400
    assert len(due(world, store, clock, WEEKLY)) == 1


def test_a_periodic_verification_that_failed_is_tried_again_earlier(
    world: World, store: Digested
) -> None:
    world.b.types = []
    with pytest.raises(PreflightFailed):
        verified(world, store)
    clock = Clock()
    clock.at = time.time() + 3600
    assert due(world, store, clock, WEEKLY) == []
    clock.at = time.time() + verify_run.AGAIN_S
    assert len(due(world, store, clock, WEEKLY)) == 1


def test_a_verification_that_failed_while_the_clock_was_ahead_holds_up_no_other(
    world: World, store: Digested
) -> None:
    world.b.types = []
    with pytest.raises(PreflightFailed):
        verified(world, store)
    clock = Clock()
    clock.at = time.time() - 365 * 86400
    assert len(due(world, store, clock, WEEKLY)) == 1


def test_none_is_queued_beside_one_that_has_not_ended(world: World, store: Digested) -> None:
    row = asked(world, store)
    row.state = "queued"
    world.here.runs.create(row)
    assert due(world, store, Clock(), WEEKLY) == []


def test_a_vnf_that_cannot_be_verified_keeps_no_other_from_it(
    world: World, store: Digested
) -> None:
    stranger = WEEKLY.model_copy(update={"vnf": "without-points"})
    [row] = due(world, store, Clock(), stranger, WEEKLY)
    assert row.vnf == "v"


@pytest.mark.parametrize("value", ["30m", "0s", "-1d", "weekly", ".inf"])
def test_an_interval_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Vnf.model_validate({**VNF.model_dump(mode="json"), "verify_every": value})
    assert (
        Vnf.model_validate({**VNF.model_dump(mode="json"), "verify_every": "7d"}).verify_every
        == 7 * 86400
    )
