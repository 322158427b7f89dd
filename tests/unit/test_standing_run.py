# SPDX-License-Identifier: Apache-2.0
"""The service applies the newest recovery point to standing volumes, once for each site, and says
how far they are behind.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import Busy, InvalidInput, NotFound
from antipode.model.vnf import Protection, Vnf
from antipode.operations import standing as operation
from antipode.recover.standing import bring
from antipode.runs import failover, protect, standing, standing_removal, standing_status
from antipode.runs.standing import StandingRequest, submit_due
from antipode.store.tables import RunRow
from tests.unit import samples
from tests.unit.standingworld import BLOCK, SIZE, site_of, standing_world

FIRST, SECOND = "20260101T000000Z-aaaaaa", "20260101T010000Z-bbbbbb"


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """A host that reaches the storage of site-b."""
    path = samples.write_config(tmp_path)
    text = path.read_text().replace("site-b: {cloud: b}", "site-b: {cloud: b, mover: {}}")
    path.write_text(text)
    made = Deployment(config.load(str(path)))
    assert made.config.site("site-b").mover is not None
    made.vnfs.put(vnf())
    return made


def vnf(*, stands: bool = True) -> Vnf:
    found = samples.point().vnf
    return found.model_copy(update={"protections": [Protection(standing=stands)]})


def ended(deployment: Deployment, row: RunRow, state: str = "succeeded", **result: Any) -> None:
    row.state, row.result, row.ended_at, row.slot = state, result, time.time(), None
    deployment.runs.create(row)


def protected(deployment: Deployment, point: str, hour: int, site: str = "site-a") -> None:
    request = {"site": site, "option": "quiesced-snapshot"}
    ended(
        deployment,
        new_run(protect.KIND, "hlr", request),
        recovery_point=point,
        option="quiesced-snapshot",
        consistent_at=f"2026-01-01T0{hour}:00:00+00:00",
    )


def applied(deployment: Deployment, point: str, hour: int, state: str = "succeeded") -> None:
    request = StandingRequest(site="site-b", recovery_point=point).model_dump()
    facts = {"site": "site-b", "recovery_point": point, "volumes": 2, "not_standing": {}}
    facts |= {"written_bytes": 7, "fetched_bytes": 5, "foreign_blocks": 0, "apply_s": 1.0}
    facts |= {"consistent_at": f"2026-01-01T0{hour}:00:00+00:00"}
    ended(deployment, new_run(standing.KIND, "hlr", request), state, **facts)


def queued(deployment: Deployment, *vnfs: Vnf, now: float = 0.0) -> list[StandingRequest]:
    found: list[RunRow] = []
    submit_due(deployment, vnfs or [vnf()], found.append, lambda: now or time.time())
    return [StandingRequest.of(row) for row in found]


def test_the_newest_point_is_applied_once(deployment: Deployment) -> None:
    assert queued(deployment) == []
    protected(deployment, FIRST, 1)
    assert queued(deployment) == [StandingRequest(site="site-b", recovery_point=FIRST)]
    applied(deployment, FIRST, 1)
    assert queued(deployment) == []
    protected(deployment, SECOND, 2)
    assert [r.recovery_point for r in queued(deployment)] == [SECOND]


def test_nothing_is_applied_where_no_volumes_are_to_stand(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1)
    assert queued(deployment, vnf(stands=False)) == []
    assert standing_status.summary(deployment, vnf(stands=False)) == {}


def test_an_apply_that_failed_is_tried_again_later(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1, "failed")
    assert queued(deployment) == []
    assert len(queued(deployment, now=time.time() + standing.AGAIN_S + 1)) == 1


def test_no_apply_begins_beside_a_recovery(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1)
    deployment.runs.create(new_run(failover.KIND, "hlr", {"to": "site-b"}))
    assert queued(deployment) == []
    with pytest.raises(Busy):
        standing.requested(deployment, "hlr", "site-b", FIRST)
    assert failover.KIND.displaces(standing.KIND)


def test_points_of_a_former_active_site_are_not_applied(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1, site="site-b")
    assert queued(deployment) == []


def test_a_host_without_a_way_to_the_storage_applies_nothing(tmp_path: Path) -> None:
    plain = Deployment(config.load(str(samples.write_config(tmp_path))))
    plain.vnfs.put(vnf())
    protected(plain, FIRST, 1)
    assert queued(plain) == []
    with pytest.raises(InvalidInput):
        standing.requested(plain, "hlr", "site-b", FIRST)
    with pytest.raises(InvalidInput):
        operation.site_of(plain, vnf(), "site-a")
    assert "mover" in standing_status.summary(plain, vnf())["site-b"]["state"]


def test_it_is_said_how_far_they_are_behind(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1)
    assert "lag_s" not in standing_status.summary(deployment, vnf())["site-b"]
    applied(deployment, FIRST, 1)
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] == 0.0
    protected(deployment, SECOND, 2)
    behind = standing_status.summary(deployment, vnf())["site-b"]
    assert (behind["lag_s"], behind["recovery_point"]) == (3600.0, FIRST)


@pytest.mark.parametrize("state", ["aborted", "failed", "succeeded"])
def test_after_a_failover_nothing_is_said_to_stand_before_it_is_applied_again(
    state: str, deployment: Deployment
) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    ended(deployment, new_run(failover.KIND, "hlr", {"to": "site-b"}), state)
    shown = standing_status.summary(deployment, vnf())["site-b"]
    assert (shown["lag_s"], "failover-" in shown["state"]) == (None, True)
    later = time.time() + standing.AGAIN_S + 1
    # one that has failed may be resumed, with the volumes that it has
    assert len(queued(deployment, now=later)) == (0 if state == "failed" else 1)
    applied(deployment, FIRST, 1)
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] == 0.0
    assert queued(deployment, now=later) == []


def test_a_failover_that_was_not_approved_leaves_what_stands(deployment: Deployment) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    ended(deployment, new_run(failover.KIND, "hlr", {"to": "site-b"}), "rejected")
    ended(deployment, new_run(failover.KIND, "hlr", {"to": "elsewhere"}), "aborted")
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] == 0.0


def test_a_point_that_could_not_be_applied_once_more_is_not_said_to_stand(
    deployment: Deployment,
) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    applied(deployment, FIRST, 1, "failed")
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] is None
    assert queued(deployment) == []
    assert len(queued(deployment, now=time.time() + standing.AGAIN_S + 1)) == 1
    protected(deployment, SECOND, 2)
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] == 3600.0  # at least


def test_what_no_failover_has_taken_can_be_removed_at_the_active_site(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, _ = standing_world(tmp_path)
    world.name = "site-a"
    monkeypatch.setattr(deployment, "site_in", lambda name, project: site_of(world))
    removed = operation.remove(deployment, "hlr", "site-a", Unobserved())
    assert (removed["site"], removed["volumes"], removed["left"]) == ("site-a", 2, [])
    assert world.rows == {}
    with pytest.raises(NotFound):
        operation.remove(deployment, "hlr", "nowhere", Unobserved())
    with pytest.raises(InvalidInput):  # no volume stands where the VNF is active
        operation.request(deployment, "hlr", "site-a", FIRST)


def test_after_a_removal_nothing_is_said_to_stand_and_only_a_later_point_is_applied(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _, _ = standing_world(tmp_path)
    monkeypatch.setattr(deployment, "site_in", lambda name, project: site_of(world))
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    assert standing_status.stands_at(deployment, "hlr", "site-b", FIRST) == {}
    removed = operation.remove(deployment, "hlr", "site-b", Unobserved())
    shown = standing_status.summary(deployment, vnf())["site-b"]
    assert removed["run"] in shown["state"]
    assert "recovery_point" not in shown
    assert standing_status.stands_at(deployment, "hlr", "site-b", FIRST) is None
    later = time.time() + standing.AGAIN_S + 1
    assert queued(deployment, now=later) == []  # the operator has just removed them
    protected(deployment, SECOND, 2)
    assert [r.recovery_point for r in queued(deployment, now=later)] == [SECOND]
    applied(deployment, SECOND, 2)
    assert standing_status.summary(deployment, vnf())["site-b"]["lag_s"] == 0.0


def test_a_removal_that_has_failed_leaves_nothing_that_is_said_to_stand(
    deployment: Deployment,
) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    ended(deployment, standing_removal.requested(deployment, "hlr", "site-b"), "failed")
    assert "recovery_point" not in standing_status.summary(deployment, vnf())["site-b"]
    assert standing_status.stands_at(deployment, "hlr", "site-b", FIRST) is None
    ended(deployment, standing_removal.requested(deployment, "hlr", "site-c"))
    applied(deployment, FIRST, 1)
    assert standing_status.stands_at(deployment, "hlr", "site-b", FIRST) == {}


def test_nothing_is_removed_beside_a_run_that_uses_it(deployment: Deployment) -> None:
    deployment.runs.create(new_run(failover.KIND, "hlr", {"to": "site-b"}))
    with pytest.raises(Busy):
        standing_removal.requested(deployment, "hlr", "site-b")
    with pytest.raises(InvalidInput):
        standing_removal.RemovalRequest.of(new_run(standing_removal.KIND, "hlr", {"at": 1}))


def test_it_is_said_what_standing_volumes_cost(deployment: Deployment, tmp_path: Path) -> None:
    protected(deployment, FIRST, 1)
    applied(deployment, FIRST, 1)
    shown = standing_status.summary(deployment, vnf())["site-b"]
    assert (shown["size_gib"], shown["data_bytes"]) == (None, None)  # an older antipode applied it
    world, _, second = standing_world(tmp_path)
    found = bring(world.hands(), second, world.store)
    assert found.size_gib == 2
    data = sum(
        len(block)
        for disk in world.disks.values()
        for at in range(0, SIZE, BLOCK)
        if (block := disk.content[at : at + BLOCK]).strip(b"\0")
    )
    assert found.data_bytes == data
    again = bring(world.hands(), second, world.store)  # nothing is written
    assert (again.outcomes, again.data_bytes) == ({}, data)


def test_volumes_stand_for_the_points_of_one_protection_only() -> None:
    both = [Protection(standing=True), Protection(option="server-snapshot", standing=True)]
    with pytest.raises(ValidationError, match="standing"):
        samples.vnf(protections=[p.model_dump() for p in both])
    assert standing_status.wanted(samples.vnf(protections=[p.model_dump() for p in both[:1]]))


def test_volumes_that_cannot_stand_are_named_with_the_reason() -> None:
    point = samples.point()
    volume = point.captured_disks[0]
    source = point.sources[volume.id]
    encrypted = volume.model_copy(update={"encrypted": True})
    shared = volume.model_copy(update={"multiattach": True})
    for one in (encrypted, shared):
        assert standing.why_not(one, source)
