# SPDX-License-Identifier: Apache-2.0
"""The consistency that a VNF file accepts at least: a point that would be worse is not made."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed, ResourceFailed
from antipode.model.state import ProtectedVnf
from antipode.model.vnf import Vnf
from antipode.operations.site_check import check_all
from antipode.protect.quiesced_snapshot import OPTION
from antipode.runs import protect
from antipode.vault import points
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]


def accepting(consistency: str | None, option: str = "quiesced-snapshot", **changes: Any) -> Vnf:
    quiesce = {"timeout": "5m", **({"required": False} if option == "server-snapshot" else {})}
    protection = {"option": option, "quiesce": quiesce, "consistency": consistency}
    fields = VNF.model_dump(mode="json") | {"protections": [protection]} | changes
    return Vnf.model_validate(fields)


def without_agent(world: World, *names: str) -> None:
    for name in names:
        world.a.volumes[f"{name}-root"]["volume_image_metadata"] = {}
    world.a.events.clear()


def touched(world: World, *how: str) -> list[str]:
    return [e for e in world.a.events if e.startswith(how)]


@pytest.mark.parametrize("accepted", [None, "application", "member"])
def test_a_vnf_without_agents_is_refused_where_that_is_not_accepted(
    world: World, accepted: str | None
) -> None:
    world.here.vnfs.put(accepting(accepted))
    without_agent(world, "db")
    with pytest.raises(PreflightFailed, match="no guest agent"):
        world.protect()
    assert not touched(world, "quiesce", "snapshot")


def test_a_vnf_without_agents_is_protected_by_volume_where_that_is_accepted(world: World) -> None:
    world.here.vnfs.put(accepting("volume"))
    without_agent(world, "db", "front")
    record = world.protect()
    assert record["consistency"] == "volume"
    assert record["quiesce_window_s"] is None
    assert points.read(world.here.vault, "v").consistency == "volume"
    assert not touched(world, "quiesce")
    assert len(touched(world, "snapshot ")) == 3


def test_members_with_an_agent_are_quiesced_all_the_same(world: World) -> None:
    world.here.vnfs.put(accepting("volume"))
    without_agent(world, "db")
    assert world.protect()["consistency"] == "volume"
    assert touched(world, "quiesce") == ["quiesce front"]


def test_a_vnf_with_agents_is_labelled_by_what_was_done(world: World) -> None:
    world.here.vnfs.put(accepting("volume"))
    assert world.protect()["consistency"] == "application"


def scheduled(world: World, accepted: str, avoided: tuple[int, int], **changes: Any) -> Any:
    """The result of a run of a schedule that avoids hours from and to so many minutes from now."""
    hours = [f"{datetime.now(UTC) + timedelta(minutes=m):%H:%M}" for m in avoided]
    protection = {
        "option": "quiesced-snapshot",
        "schedule": {"every": "15m"},
        "quiesce": {"timeout": "5m", "avoid": "-".join(hours)},
        "consistency": accepted,
    }
    vnf = accepting(accepted, protections=[protection], **changes)
    state = ProtectedVnf(vnf="v", active_site="site-a", generation=1)
    row = protect.requested(vnf, state, due_at=time.time() - 1)
    run = row.id
    world.a.events.clear()
    with world.here.claims.begin(row) as claim:
        execute(world.here, protect.KIND, claim, Unobserved())
    return world.here.runs.get(run).result


def test_no_member_is_quiesced_in_hours_to_avoid_where_that_is_accepted(world: World) -> None:
    assert scheduled(world, "volume", (-30, 30))["consistency"] == "volume"
    point = points.read(world.here.vault, "v")
    assert point.consistency == "volume" and point.quiesce_window is None
    assert not touched(world, "quiesce")


def test_one_volume_alone_is_a_group_in_hours_to_avoid(world: World) -> None:
    one = [{"server": "front"}]
    assert scheduled(world, "group", (-30, 30), members=one)["consistency"] == "group"
    assert not touched(world, "quiesce")


def test_members_are_quiesced_in_other_hours(world: World) -> None:
    assert scheduled(world, "volume", (30, 60))["consistency"] == "application"
    assert len(touched(world, "quiesce")) == 2


def test_what_is_not_accepted_is_not_captured_in_hours_to_avoid(world: World) -> None:
    for accepted in ("member", "group"):
        with pytest.raises(PreflightFailed):
            scheduled(world, accepted, (-30, 30))
        assert not touched(world, "quiesce", "snapshot")


def test_group_is_refused_where_the_volumes_are_in_no_group(world: World) -> None:
    world.here.vnfs.put(accepting("group"))
    without_agent(world, "db", "front")
    with pytest.raises(PreflightFailed, match="volume now"):
        world.protect()
    assert not touched(world, "quiesce", "snapshot")


def test_one_volume_alone_is_a_group(world: World) -> None:
    members = [{"server": "front"}]
    world.here.vnfs.put(accepting("group", members=members))
    without_agent(world, "front")
    assert world.protect()["consistency"] == "group"


def test_an_option_that_cannot_promise_it_is_refused(world: World) -> None:
    world.here.vnfs.put(accepting("application", option="server-snapshot"))
    world.a.events.clear()
    with pytest.raises(PreflightFailed, match="accepts application"):
        world.protect()
    assert not touched(world, "quiesce", "snapshot", "image")


def test_partial_capture_is_no_application_consistency(world: World) -> None:
    world.here.vnfs.put(accepting("application", capture="standby"))
    with pytest.raises(PreflightFailed, match="capture all members"):
        world.protect()


def test_a_capture_that_turns_out_worse_makes_no_point(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = points.read(world.here.vault, "v").id
    world.here.vnfs.put(accepting("application"))
    capture = type(OPTION).capture

    def worse(self: Any, *given: Any) -> Any:
        return capture(self, *given).model_copy(update={"consistency": "volume"})

    monkeypatch.setattr(type(OPTION), "capture", worse)
    world.a.events.clear()
    with pytest.raises(ResourceFailed, match="no recovery point"):
        world.protect()
    assert points.read(world.here.vault, "v").id == before
    assert not touched(world, "full backup", "incremental backup")
    assert not world.a.snapshots


def test_a_site_check_says_it_beforehand(world: World) -> None:
    world.here.vnfs.put(accepting("group"))
    without_agent(world, "db")
    checks = {c.check: c for c in check_all(world.here)}
    assert not checks["vnf v"].ok
    assert "group" in checks["vnf v"].detail


@pytest.mark.parametrize("wrong", ["replica", "none", "best"])
def test_an_unknown_consistency_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        accepting(wrong)
