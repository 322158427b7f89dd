# SPDX-License-Identifier: Apache-2.0
"""Zeros are skipped only where every release of Cinder restores them right; a blank volume is never
taken for a restored one.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from antipode.errors import ResourceFailed
from antipode.model.marks import BLANK
from antipode.model.point import RecoveryPoint
from antipode.recover.plan import make_plan
from antipode.recover.sources import backup as from_backups
from antipode.recover.sources.zeros import way_of
from tests.unit.fakecloud import SWIFT, FakeCloud, refuse
from tests.unit.test_protect_steps import last, protect
from tests.unit.test_recovery import VNF, imported, of, restored, there

__all__ = ["there"]
CEPH = "cinder.backup.drivers.ceph.CephBackupDriver"


@pytest.fixture(scope="module")
def full() -> RecoveryPoint:
    return protect(FakeCloud(), "one").model_copy(update={"vnf": VNF})


@pytest.fixture(scope="module")
def point() -> RecoveryPoint:
    """With an increment for each volume."""
    cloud = FakeCloud()
    return protect(cloud, "two", protect(cloud, "one")).model_copy(update={"vnf": VNF})


def named(cloud: FakeCloud, name: str) -> list[dict[str, Any]]:
    return [v for v in cloud.volumes.values() if v["name"] == name]


def test_a_full_backup_is_restored_sparse(full: RecoveryPoint, there: FakeCloud) -> None:
    plan = make_plan(full, there.site)
    assert all(v.way.sparse and v.way.why for v in plan.server("app").volumes)
    imported(there, full, "app")
    restored(there, full, plan, "app")
    assert of(there, "volume") == []
    assert not any("written" in v for v in there.volumes.values())


def test_a_chain_with_increments_is_written_into_a_blank_volume(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    assert not any(v.way.sparse for v in plan.server("app").volumes)
    imported(there, point, "app")
    restored(there, point, plan, "app")
    assert sorted(of(there, "volume")) == sorted(of(there, "restore")) == ["app-data", "app-root"]
    for volume in there.volumes.values():
        assert volume["written"]
        assert volume["backup_id"] == last(point, volume["name"])
        assert BLANK not in volume["metadata"]
        assert volume["description"] == ""


@pytest.mark.parametrize("service", [CEPH, "swift", "cinder.backup.drivers.swiftly.Driver", ""])
def test_a_driver_that_is_not_known_to_be_right_writes_a_full_backup_too(
    full: RecoveryPoint, service: str
) -> None:
    [record] = full.chain("app-root")
    assert record.service == SWIFT
    assert way_of([record]).sparse
    assert not way_of([record.model_copy(update={"service": service})]).sparse


def test_a_blank_volume_of_a_process_that_died_is_not_taken_for_a_restored_one(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    there.before = lambda event: refuse(500, "killed") if event == "restore app-data" else None
    with pytest.raises(ResourceFailed, match=r"could not be restored into volume app-data"):
        restored(there, point, plan, "app")
    [blank] = named(there, "app-data")
    assert blank["status"] == "available"
    there.before = lambda event: None
    found = restored(there, point, plan, "app")
    assert found["app-data"] != blank["id"]
    assert there.volumes[found["app-data"]]["written"]
    assert blank["id"] not in there.volumes or blank["status"] == "deleting"


def test_a_volume_without_metadata_of_its_own_that_was_restored_is_used(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    there.before = lambda event: refuse(500, "killed") if event == "update app-data" else None
    with pytest.raises(Exception, match="killed"):
        restored(there, point, plan, "app")
    [volume] = named(there, "app-data")
    # a restore of a backup without metadata leaves ours, and notes the backup
    volume["metadata"] |= {BLANK: last(point, "app-data"), "antipode:key": "two/app-data"}
    there.before = lambda event: None
    assert restored(there, point, plan, "app")["app-data"] == volume["id"]
    assert of(there, "restore").count("app-data") == 1
    assert BLANK not in volume["metadata"]


def test_a_backup_that_somebody_restores_now_is_waited_for(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    backup = there.backups[last(point, "app-data")]
    backup["status"] = "restoring"
    looks: list[str] = []

    def end_after_three_looks(text: str) -> None:
        looks.append(text)
        if len(looks) == 3:
            backup["status"] = "available"

    class Told:
        def result(self, **_: object) -> None: ...

        def waits_for(self, what: str) -> None:
            if "backup" in what:
                end_after_three_looks(what)

    from tests.unit import parts

    recovery = parts.recovery(there, point, plan)
    [volume] = [v for v in plan.server("app").volumes if v.name == "app-data"]
    made = there.site.volumes.create_volume({"name": "app-data", "metadata": {}, "size": 1})
    from_backups._write_into(recovery, volume, made, Told())
    assert len(looks) >= 3
    assert of(there, "restore") == ["app-data"]


def test_a_backup_that_begins_to_be_restored_by_somebody_else_in_between_is_waited_for(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    backup, tries = there.backups[last(point, "app-data")], list[str]()

    def another_was_first(event: str) -> None:
        if event == "restore app-data" and not tries:
            tries.append(event)
            backup["status"] = "restoring"
            timer = threading.Timer(0.2, lambda: backup.update(status="available"))
            timer.start()
            refuse(400, "Backup status must be available")

    there.before = another_was_first
    restored(there, point, plan, "app")
    assert of(there, "restore").count("app-data") == 1


def test_a_volume_that_is_available_though_nothing_was_restored_is_refused(
    point: RecoveryPoint, there: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(point, there.site)
    imported(there, point, "app")
    monkeypatch.setattr(there.site.backups, "restore_into", lambda *_: None)
    with pytest.raises(ResourceFailed, match="app-"):
        restored(there, point, plan, "app")
    assert not of(there, "update")
