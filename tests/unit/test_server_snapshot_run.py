# SPDX-License-Identifier: Apache-2.0
"""Protections by option 2 as runs: on the chains of option 1, to a point that tells of each
member's moment, and recovered by the same road.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed, QuiesceFailed, ResourceFailed
from antipode.model.vnf import Answers
from antipode.operations.failover import prepare
from antipode.operations.inspect import look
from antipode.operations.protect import protect, request
from antipode.operations.resume import resume
from antipode.operations.site_check import check_all
from antipode.protect.server_snapshot import member
from antipode.topology import answering
from antipode.vault import points
from tests.unit.fakecloud import refuse
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]


@pytest.fixture
def two(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(member, "POLL_S", 0.01)
    monkeypatch.setattr(member, "NOVA_LOOKS_S", 0.0)
    monkeypatch.setattr(member, "UPDATED_EVERY_S", 0.0)
    monkeypatch.setattr(answering, "PAUSE_S", 0.01)
    return world


def by(world: World, option: str) -> Any:
    return protect(world.here, "v", Unobserved(), option=option)


def expect_nothing_left(world: World) -> None:
    assert not world.a.images
    assert not world.a.snapshots
    assert not world.a.all_frozen
    assert not world.here.freezes.overdue("site-a", 1e12)


def test_a_vnf_changes_its_option_without_a_new_full_backup(two: World) -> None:
    before = points.read(two.here.vault, "v")
    assert before.option == "quiesced-snapshot"
    for option in ("server-snapshot", "quiesced-snapshot", "server-snapshot"):
        assert by(two, option)["incremental"]
    point = points.read(two.here.vault, "v")
    assert point.option == "server-snapshot"
    assert {v: c[0] for v in point.sources if (c := point.chain(v))} == {
        v: c[0] for v in before.sources if (c := before.chain(v))
    }
    assert {len(point.chain(v)) for v in point.sources} == {4}
    expect_nothing_left(two)


def test_a_point_keeps_the_moment_of_each_member(two: World) -> None:
    record = by(two, "server-snapshot")
    point = points.read(two.here.vault, "v")
    assert (point.option, point.consistency) == ("server-snapshot", "member")
    assert dict(point.moments) == record["moments"]
    assert set(point.moments) == {"db", "front"}
    assert record["moments_apart_s"] == round(point.moments_apart_s, 3) > 0
    assert point.consistent_at == point.moments["front"], "the standby is captured first"


def test_a_point_of_one_moment_tells_none_of_its_members(two: World) -> None:
    record = by(two, "quiesced-snapshot")
    assert (record["moments"], record["moments_apart_s"]) == ({}, 0)


def test_the_roles_of_members_come_back_with_a_point(two: World) -> None:
    by(two, "server-snapshot")
    known = points.read(two.here.vault, "v").vnf
    assert {m.server: m.role for m in known.members} == {"db": "active", "front": "standby"}


def test_a_plan_says_that_the_members_are_of_different_moments(two: World) -> None:
    by(two, "quiesced-snapshot")
    assert not any("moments" in w for w in prepare(two.here, "v", "site-b", None).warnings)
    by(two, "server-snapshot")
    warned = [w for w in prepare(two.here, "v", "site-b", None).warnings if "moments" in w]
    assert len(warned) == 1
    assert "quiesced-snapshot" in warned[0]


def test_the_vnf_is_shown_with_how_far_the_members_of_its_newest_point_are_apart(
    two: World,
) -> None:
    by(two, "quiesced-snapshot")
    assert not any("moments" in w for w in look(two.here, "v").warnings)
    by(two, "server-snapshot")
    (warned,) = [w for w in look(two.here, "v").warnings if "moments" in w]
    assert "quiesced-snapshot" in warned


def test_a_vnf_is_recovered_from_a_point_of_option_2(two: World) -> None:
    by(two, "server-snapshot")
    record = two.failover()
    assert sorted(record["servers"]) == ["db", "front"]
    assert sorted(v["name"] for v in two.b.volumes.values()) == [
        "db-data",
        "db-root",
        "front-root",
    ]


def test_a_member_that_fails_leaves_neither_a_point_nor_anything_else(two: World) -> None:
    def fails(event: str) -> None:
        if event == "freeze db":
            refuse(409, "Guest agent is not responding")

    two.a.before = fails
    before = points.read(two.here.vault, "v")
    with pytest.raises(QuiesceFailed, match="server db"):
        by(two, "server-snapshot")
    expect_nothing_left(two)
    assert points.read(two.here.vault, "v").id == before.id
    two.a.before = lambda event: None
    by(two, "server-snapshot")
    expect_nothing_left(two)


def test_a_member_that_does_not_answer_after_its_capture_fails_the_run(
    two: World, tmp_path: Path
) -> None:
    well = tmp_path / "well"
    well.touch()
    answers = Answers(command=["test", "-e", str(well)], within=0.05)
    members = [m.model_copy(update={"answers": answers}) for m in VNF.members]
    two.here.vnfs.put(VNF.model_copy(update={"members": members}))
    two.a.before = lambda event: well.unlink() if event == "image front" else None
    with pytest.raises(ResourceFailed, match=r"server front.*db"):
        by(two, "server-snapshot")
    assert "image db" not in two.a.events
    expect_nothing_left(two)


def test_a_member_that_falls_silent_after_its_capture_keeps_the_next_from_being_frozen(
    two: World,
) -> None:
    asked = two.folder / "asked"
    # by the check, after its own capture, and before the next
    twice = f"echo >> {asked}; test $(wc -l < {asked}) -lt 3"
    members = [
        m.model_copy(update={"answers": Answers(command=["sh", "-c", twice], within=0.05)})
        if m.server == "front"
        else m
        for m in VNF.members
    ]
    two.here.vnfs.put(VNF.model_copy(update={"members": members}))
    with pytest.raises(ResourceFailed, match="db is left alone"):
        by(two, "server-snapshot")
    assert "image front" in two.a.events
    assert "image db" not in two.a.events
    expect_nothing_left(two)


def test_a_member_that_does_not_answer_beforehand_keeps_all_from_being_frozen(two: World) -> None:
    silent = Answers(command=["false"], within=0.05)
    members = [m.model_copy(update={"answers": silent}) for m in VNF.members]
    two.here.vnfs.put(VNF.model_copy(update={"members": members}))
    with pytest.raises(PreflightFailed, match=r"(?s)server db .*server front "):
        by(two, "server-snapshot")
    assert not [e for e in two.a.events if e.startswith("image")]


def test_a_problem_of_option_2_is_found_before_anything_is_frozen(two: World) -> None:
    two.a.volumes["db-root"]["volume_image_metadata"].pop("os_require_quiesce")
    with pytest.raises(PreflightFailed, match="os_require_quiesce"):
        by(two, "server-snapshot")
    assert not [e for e in two.a.events if e.startswith("image")]


def test_a_missing_add_on_is_a_warning_at_the_check_and_at_protect(
    two: World, caplog: pytest.LogCaptureFixture
) -> None:
    only = [p for p in VNF.protections if p.option == "server-snapshot"]
    two.here.vnfs.put(VNF.model_copy(update={"protections": only}))
    two.a.add_on = False
    found = [c for c in check_all(two.here) if c.check == "vnf v"]
    assert [(c.ok, c.needed) for c in found] == [(True, True), (False, False), (False, False)]
    with caplog.at_level(logging.WARNING):
        assert by(two, "server-snapshot")["quiesce_window_s"] is None
    assert any("add-on" in r.message for r in caplog.records)
    expect_nothing_left(two)


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot"])
def test_what_a_killed_try_has_captured_does_not_count_for_the_quotas_of_the_next(
    two: World, option: str
) -> None:
    with two.here.claims.begin(request(two.here, "v", option=option)) as claim:
        run = claim.run  # and its process dies
    if option == "server-snapshot":
        for server in ("id-db", "id-front"):
            two.a._create_image(server, f"antipode {run} {server}", {"antipode:run": run})
    else:
        for volume in ("db-root", "db-data", "front-root"):
            marks = {"antipode:run": run, "antipode:key": run}
            two.a._snapshot_of({"volume_id": volume, "name": "one", "metadata": marks})
    count = two.a._quota

    def exactly() -> Any:
        found = count()
        found["quota_set"]["snapshots"] = {
            "limit": 3,
            "in_use": len(two.a.snapshots),
            "reserved": 0,
        }
        return found

    two.a._quota = exactly  # type: ignore[method-assign]
    assert resume(two.here, run, Unobserved())["recovery_point"]
    assert not two.a.snapshots
