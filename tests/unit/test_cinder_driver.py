# SPDX-License-Identifier: Apache-2.0
"""Volumes that Cinder replicates to a target of their back end, or of their volume group."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.datastores import cinder, of_volumes, opened
from antipode.datastores.cinder import ByCinder
from antipode.errors import InvalidInput, ResourceFailed
from antipode.model.datastore import Health, StorageAt
from antipode.operations import datastore_switch
from antipode.operations.datastore_switch import Planned

HOST = "cinder-a@array"


class Array:
    """A Cinder with a back end that replicates, as far as the driver asks it."""

    def __init__(self) -> None:
        self.service: dict[str, Any] = {
            "host": HOST,
            "state": "up",
            "replication_status": "enabled",
            "active_backend_id": None,
        }
        self.able: dict[str, Any] = {"replication_enabled": True, "replication_targets": ["b"]}
        self.group: dict[str, Any] = {"id": "g", "name": "hlr", "replication_status": "disabled"}
        self.all: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.stays = False
        """whether what was begun never ends"""
        self.volumes = SimpleNamespace(
            services=lambda binary: [self.service],
            volumes_of_all_projects=lambda: self.all,
        )
        self.backends = SimpleNamespace(
            pools=lambda: [{"name": f"{HOST}#pool", "capabilities": self.able}],
            fail_over=lambda host, target: self._begin(self.service, f"{host} {target}"),
        )
        self.groups = SimpleNamespace(
            groups=lambda: [self.group],
            enable_replication=lambda group: self._enable(group),
            fail_over=lambda group, target: self._begin(self.group, f"{group} {target}"),
        )

    def has(self, name: str, status: str = "enabled", **fields: Any) -> None:
        known = {"id": name, "name": name, "replication_status": status}
        self.all.append({**known, "os-vol-host-attr:host": f"{HOST}#pool", **fields})

    def _enable(self, group: str) -> None:
        self.calls.append(f"enable {group}")
        for what in (self.group, *self.all):
            what["replication_status"] = "enabled"

    def _begin(self, holder: dict[str, Any], call: str) -> None:
        self.calls.append(call)
        to = "enabled" if call.endswith("default") else "failed-over"
        holder["replication_status"] = "failing-over" if self.stays else to


@pytest.fixture
def array() -> Array:
    return Array()


def driver(array: Array, **settings: Any) -> ByCinder:
    known = {"cloud": "a", "host": HOST, "target": "b", **settings}
    found = opened(StorageAt("array", "cinder", known), "site-a")
    assert isinstance(found, ByCinder)
    vars(found)["_cloud"] = array
    return found


def go_on() -> None:
    """Nothing stops it."""


@pytest.mark.parametrize(
    ("status", "health"),
    [
        ("enabled", Health.REPLICATING),
        ("failed-over", Health.STOPPED),
        ("failover-error", Health.BROKEN),
        ("error", Health.BROKEN),
        ("enabling", Health.FIRST_SYNC),
        ("disabled", Health.ABSENT),
        ("not-capable", Health.ABSENT),
        (None, Health.ABSENT),
    ],
)
def test_the_health_of_a_volume_by_its_status(array: Array, status: Any, health: Health) -> None:
    array.has("v", status)
    found = driver(array).replicas(["v", "gone"])
    assert found["v"].health is health
    assert found["gone"].health is Health.ABSENT


@pytest.mark.parametrize(
    "able",
    [{}, {"replication_enabled": False}, {"replication_enabled": True}],
    ids=["nothing", "disabled", "another target"],
)
def test_a_back_end_without_the_target_is_a_problem_and_is_never_asked_to_switch(
    array: Array, able: dict[str, Any]
) -> None:
    array.able = able
    array.has("v")
    assert len(list(driver(array).problems())) == 1
    with pytest.raises(ResourceFailed):
        driver(array).look(["v"], back=False)
    assert array.calls == []


def test_a_whole_back_end_is_switched_with_all_that_it_has(array: Array) -> None:
    array.has("v")
    array.has("of-others")
    array.has("no-copy", "disabled")
    array.has("elsewhere", **{"os-vol-host-attr:host": "another@array#pool"})
    found = driver(array).look(["v"], back=False)
    assert [w.split()[0] for w in found.others] == ["of-others"]
    assert [w.split()[0] for w in found.lost] == ["no-copy"]
    driver(array).switch(back=False, go_on=go_on)
    driver(array).switch(back=False, go_on=go_on)
    driver(array).switch(back=True, go_on=go_on)
    assert array.calls == [f"{HOST} b", f"{HOST} default"]
    assert driver(array).look(["v"], back=True).lost == [], "a failback puts none into error"


def test_a_volume_on_another_back_end_is_not_switched(array: Array) -> None:
    array.has("v", **{"os-vol-host-attr:host": "another@array#pool"})
    with pytest.raises(ResourceFailed):
        driver(array).look(["v"], back=False)


def test_a_group_is_replicated_and_switched_by_itself(array: Array) -> None:
    array.has("v", "disabled", group_id="g")
    array.has("of-others", group_id=None)
    here = driver(array, group="hlr")
    assert here.replicate(["v"]) == ["v"]
    assert here.replicate(["v"]) == []
    assert list(here.look(["v"], back=False).others) == []
    here.switch(back=False, go_on=go_on)
    assert array.calls == ["enable g", "g b"]
    assert array.service["replication_status"] == "enabled", "the back end is left alone"


def test_a_volume_outside_the_group_is_not_prepared(array: Array) -> None:
    array.has("v", "disabled", group_id=None)
    with pytest.raises(ResourceFailed):
        driver(array, group="hlr").replicate(["v"])
    assert array.calls == []


def test_a_group_that_is_not_there_is_a_problem(array: Array) -> None:
    assert len(list(driver(array, group="another").problems())) == 1


def test_a_switch_that_was_begun_is_awaited_and_not_begun_again(array: Array) -> None:
    array.has("v")
    array.service["replication_status"] = "failing-over"

    def ends() -> None:
        array.service["replication_status"] = "failed-over"

    driver(array).switch(back=False, go_on=ends)
    assert array.calls == []


def test_a_switch_that_does_not_end_has_a_limit(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cinder, "LOOK_S", 0.001)
    array.stays = True
    with pytest.raises(ResourceFailed):
        driver(array, timeout="10ms").switch(back=False, go_on=go_on)


@pytest.mark.parametrize("status", ["failover-error", "disabled", None])
def test_what_cinder_would_refuse_is_not_asked_for(array: Array, status: Any) -> None:
    array.service["replication_status"] = status
    with pytest.raises(ResourceFailed):
        driver(array).switch(back=False, go_on=go_on)
    assert array.calls == []


def test_no_recovery_point_is_made_of_it(array: Array) -> None:
    with pytest.raises(InvalidInput, match="has arrived"):
        of_volumes(driver(array))


def test_what_has_changed_since_a_switch_was_confirmed_keeps_it_from_being_done(
    array: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    array.has("v")
    storage, here = driver(array), SimpleNamespace(runs=SimpleNamespace(open=lambda name: []))
    look = storage.look(["v"], back=False)
    planned = Planned("hlr", "disks", "site-a", storage, ["v"], ["db"], look, back=False)

    def prepare(*_: Any, back: bool) -> Planned:
        return replace(planned, switch=storage.look(["v"], back=back))

    def members_are_on(*_: Any, back: bool) -> Planned:
        raise ResourceFailed(f"db is on, back: {back}")

    monkeypatch.setattr(datastore_switch, "prepare", members_are_on)
    with pytest.raises(ResourceFailed):
        datastore_switch.switch(here, planned, loses_others=True)  # type: ignore[arg-type]
    monkeypatch.setattr(datastore_switch, "prepare", prepare)
    array.has("of-others")
    with pytest.raises(InvalidInput, match="of-others"):
        datastore_switch.switch(here, planned, loses_others=True)  # type: ignore[arg-type]
    array.all[-1]["replication_status"] = "disabled"
    with pytest.raises(InvalidInput, match="of-others"):
        datastore_switch.switch(here, planned, loses_others=True)  # type: ignore[arg-type]
    assert array.calls == []
    array.all.pop()
    datastore_switch.switch(here, planned, loses_others=False)  # type: ignore[arg-type]
    assert array.calls == [f"{HOST} b"]
