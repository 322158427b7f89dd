# SPDX-License-Identifier: Apache-2.0
"""Volumes that several members have: captured once, while all of them are quiesced; planned,
restored and attached so that each of them has it again.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from antipode.errors import PreflightFailed, ResourceFailed
from antipode.model import point_v2
from antipode.model.plan import RecoveryPlan
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Topology
from antipode.protect.checks import shared_volumes
from antipode.recover import rollback
from antipode.recover.plan import make_plan
from antipode.recover.ports import create_ports
from antipode.recover.servers import boot
from antipode.runs.failover import shared_first
from antipode.topology.discovery import discover
from antipode.vault.keys import NO_KEYS
from antipode.vault.sealing import seal
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_format_2 import payload_of
from tests.unit.test_protect_steps import VNF, check_protect, protect
from tests.unit.test_quiesce_window import Scene
from tests.unit.test_recovery import VNF as MAPPED
from tests.unit.test_recovery import imported, restored, there

__all__ = ["there"]
SHARABLE = {"multiattach": "<is> True"}


def sharing(cloud: FakeCloud) -> FakeCloud:
    """Have `app` and `front` have the data volume of `app`."""
    cloud.share("app-data", "id-front")
    return cloud


@pytest.fixture
def point() -> RecoveryPoint:
    return protect(sharing(FakeCloud()), "one").model_copy(update={"vnf": MAPPED})


def found() -> Topology:
    return discover(VNF, sharing(FakeCloud()).site)


def test_a_volume_of_two_members_is_one_volume_of_the_vnf() -> None:
    topology = found()
    assert len(topology.volumes) == len(topology.disks) == 6
    assert [v.id for v in topology.server("front").volumes][-1] == "app-data"
    assert {v: [s.name for s in of] for v, of in topology.shared_volumes.items()} == {
        "app-data": ["app", "front"]
    }


@pytest.mark.parametrize(
    ("batches", "is_refused"),
    [
        ([["db", "app", "front"]], False),
        ([["db"], ["app", "front"]], False),
        ([["id-app", "id-front"], ["db"]], False),
        ([["db"], ["app"], ["front"]], True),
        ([["db", "app"]], True),
    ],
)
def test_all_members_that_have_a_volume_are_captured_together(
    batches: list[list[str]], is_refused: bool
) -> None:
    assert bool(list(shared_volumes(found(), batches))) is is_refused


def test_a_shared_volume_is_snapshotted_once_and_a_stranger_that_gets_it_ends_the_window() -> None:
    scene = Scene()
    sharing(scene.cloud)
    scene.topology = discover(VNF, scene.cloud.site)
    assert scene.run().snapshots["app-data"]
    assert scene.of("snapshot").count("app-data") == 1
    check_protect(VNF, scene.cloud)
    scene = Scene()
    sharing(scene.cloud)
    scene.topology = discover(VNF, scene.cloud.site)
    stranger = [{"server_id": s} for s in ("id-app", "id-front", "id-stranger")]
    scene.cloud.volumes["app-data"]["attachments"] = stranger
    with pytest.raises(ResourceFailed, match="id-stranger"):
        scene.run()
    assert not scene.cloud.frozen
    with pytest.raises(PreflightFailed, match="id-stranger"):
        check_protect(VNF, scene.cloud)


def test_the_type_at_the_backup_site_must_let_several_servers_have_it(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    with pytest.raises(PreflightFailed) as failed:
        make_plan(point, there.site)
    assert any('extra spec multiattach="<is> True"' in p for p in failed.value.problems)
    there.types[0]["extra_specs"] = SHARABLE
    make_plan(point, there.site)


def test_a_volume_that_one_server_has_needs_no_such_type_and_the_plan_says_what_it_loses(
    there: FakeCloud,
) -> None:
    cloud = FakeCloud()
    cloud.volumes["app-data"]["multiattach"] = True
    alone = protect(cloud, "one").model_copy(update={"vnf": MAPPED})
    warnings = make_plan(alone, there.site).warnings
    assert any("second server" in w for w in warnings)


def test_a_plan_has_it_once_and_knows_with_which_server_it_comes(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.types[0]["extra_specs"] = SHARABLE
    there.quotas = {"volumes": {"limit": 6}, "gigabytes": {"limit": 6}}
    plan = make_plan(point, there.site)
    assert len(plan.volumes) == 6
    assert [v.source_id for v in plan.first_of("front")] == ["front-root", "front-data"]
    assert [v.source_id for v in plan.shared_of("app")] == ["app-data"]
    assert (plan.sharing_before("front"), plan.sharing_before("app")) == (["app"], [])
    named = {name: name for name in ("db", "app", "front")}
    assert shared_first(plan, named) == [("app", "front")]


def test_servers_that_share_a_volume_are_booted_one_after_another(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.types[0]["extra_specs"] = SHARABLE
    plan = make_plan(point, there.site)
    ports, volumes = {}, dict[str, dict[str, str]]()
    for server in ("app", "front"):
        ports[server] = create_ports(parts.recovery(there, point, plan), server)
        imported(there, point, server)
        volumes[server] = restored(there, point, plan, server)
    assert volumes["app"]["app-data"] == volumes["front"]["app-data"]
    both = threading.Barrier(2)
    recovery = parts.recovery(there, point, plan)
    assert recovery.found.servers("none") == []

    def begin(server: str) -> str:
        both.wait(60)
        return boot(recovery, server, volumes[server], ports[server])

    with ThreadPoolExecutor(2) as pool:
        ids = list(pool.map(begin, ("app", "front")))
    shared = volumes["app"]["app-data"]
    assert all(shared in {a["volumeId"] for a in there.attachments[i]} for i in ids)


def test_a_server_in_error_is_removed_while_another_has_its_volume(
    point: RecoveryPoint, there: FakeCloud
) -> None:
    there.types[0]["extra_specs"] = SHARABLE
    plan = make_plan(point, there.site)
    made: dict[str, tuple[str, dict[str, str]]] = {}
    for server in ("app", "front"):
        ports = create_ports(parts.recovery(there, point, plan), server)
        imported(there, point, server)
        volumes = restored(there, point, plan, server)
        recovery = parts.recovery(there, point, plan)
        made[server] = boot(recovery, server, volumes, ports), volumes
    there.servers[made["front"][0]]["status"] = "ERROR"
    assert rollback.remove_failed(parts.recovery(there, point, plan), "front")
    shared = made["app"][1]["app-data"]
    assert there.volumes[shared]["status"] == "in-use"
    assert made["front"][0] not in there.servers


def test_a_reader_that_would_restore_it_twice_refuses_the_point(point: RecoveryPoint) -> None:
    assert payload_of(seal(point, NO_KEYS))["requires"] == [point_v2.SHARED_VOLUMES]


def test_a_volume_that_is_twice_in_one_server_is_no_point(point: RecoveryPoint) -> None:
    document: dict[str, Any] = point.model_dump(mode="json")
    attachments = document["topology"]["servers"][0]["attachments"]
    attachments.append(attachments[0])
    with pytest.raises(ValueError, match="volume"):
        RecoveryPoint.model_validate(document)


def test_a_plan_of_before_is_read(point: RecoveryPoint, there: FakeCloud) -> None:
    there.types[0]["extra_specs"] = SHARABLE
    plan = make_plan(point, there.site)
    assert RecoveryPlan.model_validate(plan.model_dump(mode="json")) == plan
