# SPDX-License-Identifier: Apache-2.0
"""Taking a recovery back: what the next one needs is free first, and nobody waits for hours for a
restore that nobody wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antipode.model.marks import VOLUME
from antipode.model.point import RecoveryPoint
from antipode.recover import rollback
from antipode.recover.plan import make_plan
from tests.unit.fakecloud import FakeCloud, FakeTimeline
from tests.unit.test_recovery import point, recover, there  # noqa: F401


def remove(
    cloud: FakeCloud, of: RecoveryPoint, go_on: Callable[[], None] = lambda: None
) -> list[str]:
    return rollback.remove(cloud.site, "run", make_plan(of, cloud.site), FakeTimeline(), go_on)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "POLL_S", 0.01)
    monkeypatch.setattr(rollback, "RESTORES_S", 0.2)


@pytest.fixture
def recovered(there: FakeCloud, point: RecoveryPoint) -> FakeCloud:  # noqa: F811
    plan = make_plan(point, there.site)
    for server in ("db", "app", "front"):
        recover(there, point, plan, server)
    there.events.clear()
    return there


def test_servers_go_first_then_ports_then_volumes(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
) -> None:
    remove(recovered, point)
    order = [event.split()[1] for event in recovered.events if event.startswith("delete")]
    assert order == sorted(order, key=["server", "port", "volume"].index)
    assert (len(recovered.servers), len(recovered.ports), len(recovered.volumes)) == (0, 0, 0)


def test_a_volume_whose_restore_lasts_is_left_and_named_and_its_port_is_free(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
) -> None:
    stuck = next(iter(recovered.volumes.values()))
    real = recovered._volume

    def restoring(method: str, path: list[str], body: Any, params: Any) -> Any:
        if stuck["id"] in recovered.volumes:
            stuck["status"] = "restoring-backup"
        return real(method, path, body, params)

    for api in (recovered.site.volumes._api, recovered.site.backups._api):
        api._send = recovered._transport(restoring)
    left = remove(recovered, point)
    (named,) = [line for line in left if stuck["id"] in line]
    assert "restoring-backup" in named
    assert recovered.ports == {}
    assert set(recovered.volumes) == {stuck["id"]}


def test_a_port_that_a_server_of_another_run_uses_is_left_and_named(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
) -> None:
    plan = make_plan(point, recovered.site)
    serving = next(iter(recovered.servers.values()))
    serving["metadata"] = {"antipode:run": "failover-other"}
    (port,) = (p["id"] for p in recovered.ports.values() if p["device_id"] == serving["id"])
    for volume in recovered.attachments[serving["id"]]:
        held = recovered.volumes[volume["volumeId"]]
        held["description"] = held["description"].replace("=run", "=failover-other")
        held["metadata"] = {"antipode:run": "failover-other"}
    left = rollback.remove(recovered.site, "run", plan, FakeTimeline(), lambda: None)
    assert any(port in line for line in left)
    assert (list(recovered.ports), list(recovered.servers)) == ([port], [serving["id"]])


def twin_of(cloud: FakeCloud, name: str, status: str) -> str:
    """A second volume for the same thing, as a request makes it that comes through late."""
    first = next(v for v in cloud.volumes.values() if v["name"] == name)
    as_made = {k: v for k, v in first["metadata"].items() if k != VOLUME}
    cloud.volumes["twin"] = {**first, "id": "twin", "status": status, "metadata": as_made}
    return str(first["id"])


def test_a_volume_that_somebody_restored_from_a_backup_of_a_recovered_one_is_no_twin_of_it(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
) -> None:
    plan = make_plan(point, recovered.site)
    first = next(v for v in recovered.volumes.values() if v["name"] == "app-data")
    recovered.volumes["saved"] = {**first, "id": "saved", "status": "available"}
    assert rollback.remove_twins(recovered.site, plan, FakeTimeline(), lambda: None) == []
    assert recovered.volumes["saved"]["status"] == "available"
    remove(recovered, point)
    assert list(recovered.volumes) == ["saved"]


@pytest.mark.parametrize("status", ["available", "restoring-backup", "error_restoring"])
def test_a_volume_that_is_there_twice_is_removed_and_the_one_in_use_stays(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
    status: str,
) -> None:
    plan, before = make_plan(point, recovered.site), set(recovered.volumes)
    twin_of(recovered, "app-data", status)
    assert rollback.remove_twins(recovered.site, plan, FakeTimeline(), lambda: None) == []
    assert set(recovered.volumes) == before
    assert rollback.remove_twins(recovered.site, plan, FakeTimeline(), lambda: None) == []


@pytest.mark.parametrize(
    "states",
    [
        ("available", "available"),
        ("in-use", "in-use"),
        ("in-use", "attaching"),
        ("in-use", "reserved"),
    ],
)
def test_of_two_volumes_none_is_removed_that_may_be_in_use(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
    states: tuple[str, str],
) -> None:
    first, second = states
    plan = make_plan(point, recovered.site)
    recovered.volumes[twin_of(recovered, "app-data", second)]["status"] = first
    rollback.remove_twins(recovered.site, plan, FakeTimeline(), lambda: None)
    assert len(recovered.volumes) == 7
    assert recovered.events == []


def test_a_volume_of_another_recovery_point_is_no_twin(
    recovered: FakeCloud,
    point: RecoveryPoint,  # noqa: F811
) -> None:
    plan = make_plan(point, recovered.site)
    twin_of(recovered, "app-data", "available")
    recovered.volumes["twin"]["metadata"] = {
        "antipode:key": "another/app-data",
        "antipode:run": "run",
    }
    rollback.remove_twins(recovered.site, plan, FakeTimeline(), lambda: None)
    assert "twin" in recovered.volumes
