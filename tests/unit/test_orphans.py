# SPDX-License-Identifier: Apache-2.0
"""Orphans of runs that have ended are removed, and no resource that a run may use which is under
way or can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import Busy, ResourceFailed, SiteUnreachable
from antipode.operations import abort
from antipode.protect.quiesced_snapshot import QuiescedSnapshot
from antipode.recover import rollback
from antipode.runs import kind_of, orphans
from antipode.runs.protect import dead_runs
from antipode.store.tables import RunRow
from antipode.transfer.cinder_backup import CinderBackup
from tests.unit import samples

World = SimpleNamespace


class GatedSite(samples.NamedSite):
    """A site that asks before it is changed."""

    go_on: Callable[[], None] = staticmethod(lambda: None)

    def under(self, *gates: Any) -> Any:
        site = type(self)(self.name)
        site.go_on, *_ = gates
        return site


def failing(*_: Any) -> Any:
    raise ResourceFailed("cannot be removed")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    deployment.vnfs.put(samples.vnf())
    world = World(deployment=deployment, calls=[], connected=[], patch=monkeypatch)

    def connect(name: str, cloud: str) -> Any:
        world.connected.append(name)
        return GatedSite(name)

    def plays(name: str) -> Callable[..., list[str]]:
        def play(*about: Any) -> list[str]:
            site = next(a for a in about if isinstance(a, GatedSite))
            site.go_on()
            world.calls.append((name, site.name))
            return []

        return play

    monkeypatch.setattr(cloud_site, "connect", connect)
    monkeypatch.setattr(CinderBackup, "remove_orphans", lambda *_: ())
    for module, name in (
        (QuiescedSnapshot, "remove_orphans"),
        (rollback, "remove"),
        (rollback, "remove_twins"),
    ):
        monkeypatch.setattr(module, name, plays(name))
    return world


def ended(
    world: World,
    kind: str,
    state: str,
    *,
    claim: int = 1,
    ago_s: float = 60,
    result: dict[str, Any] | None = None,
) -> str:
    plan = samples.plan().model_dump(mode="json")
    request = (
        {"vnf": samples.vnf().model_dump(mode="json")}
        if kind == "protect"
        else {"to": "site-b", "plan": plan}
    )
    run = new_run(kind_of(kind), "hlr", request)
    run.started_at, run.claim, run_id = time.time() - ago_s - 10, claim, run.id
    world.deployment.runs.create(run)
    if state != "running":
        world.deployment.runs.end(run_id, claim, state, time.time() - ago_s, None, result or {})
    return run_id


@pytest.mark.parametrize(
    ("kind", "state", "claim", "removed"),
    [
        ("protect", "failed", 1, [("remove_orphans", "site-a")]),
        ("protect", "aborted", 1, [("remove_orphans", "site-a")]),
        ("protect", "succeeded", 1, []),  # it has had an answer to all that it asked for
        ("failover", "aborted", 1, [("remove", "site-b")]),
        ("failover", "succeeded", 1, [("remove_twins", "site-b")]),
        ("failover", "failed", 3, []),  # it can be resumed
    ],
)
def test_what_runs_have_left_is_removed_where_they_made_it(
    world: World, kind: str, state: str, claim: int, removed: list[tuple[str, str]]
) -> None:
    ended(world, kind, state, claim=claim)
    orphans.collect(world.deployment)
    assert world.calls == removed
    assert world.connected == [site for _, site in removed]


def test_a_point_that_is_gone_keeps_the_backups_of_its_run_and_no_snapshots(world: World) -> None:
    def removes_backups(*_: Any) -> Any:
        raise AssertionError("another point may rest on them")

    world.patch.setattr(CinderBackup, "remove_orphans", removes_backups)
    run = ended(world, "protect", "succeeded", claim=2)
    orphans.collect(world.deployment)  # the vault has no such point
    assert world.calls == [("remove_orphans", "site-a")]
    assert not orphans.is_collected(world.deployment.runs.get(run))


@pytest.mark.parametrize(
    ("kind", "claim", "not_done", "call"),
    [
        ("protect", 1, {"not_done": "site-a is silent"}, ("remove_orphans", "site-a")),
        ("protect", 2, {}, ("remove_orphans", "site-a")),
        ("failover", 1, {"not_done": "site-b is silent"}, ("remove_twins", "site-b")),
        ("failover", 3, {}, ("remove_twins", "site-b")),
    ],
)
def test_what_a_success_could_not_remove_is_removed_once_however_long_its_site_was_away(
    world: World, kind: str, claim: int, not_done: dict[str, str], call: tuple[str, str]
) -> None:
    with world.patch.context() as away:
        away.setattr(cloud_site, "connect", silent)
        old = ended(
            world, kind, "succeeded", claim=claim, ago_s=3 * orphans.LATE_S, result=not_done
        )
        orphans.collect(world.deployment)
    assert not orphans.is_collected(world.deployment.runs.get(old))
    for _ in range(3):
        orphans.collect(world.deployment)
    assert world.calls == [call]
    assert orphans.is_collected(world.deployment.runs.get(old))
    assert old not in [run.id for run in world.deployment.runs.to_collect(time.time())]


def test_a_success_that_did_all_is_never_looked_for_again(world: World) -> None:
    ended(world, "protect", "succeeded", ago_s=3 * orphans.LATE_S)
    assert world.deployment.runs.to_collect(time.time() - orphans.LATE_S) == []


def test_of_one_kind_only_its_own_runs_are_looked_for(world: World) -> None:
    failed = ended(world, "protect", "failed")
    ended(world, "failover", "failed")
    ended(world, "protect", "succeeded")
    assert len(orphans.to_collect(world.deployment)) == 2
    of_kind = orphans.to_collect(world.deployment, kind=kind_of("protect"))
    assert [run.id for run in of_kind] == [failed]


def silent(name: str, cloud: str) -> Any:
    raise SiteUnreachable("no answer")


def test_a_run_that_failed_is_looked_at_for_a_day_and_once_more_when_nothing_can_come_late(
    world: World,
) -> None:
    run = ended(world, "protect", "failed")
    for _ in range(2):
        orphans.collect(world.deployment)
    assert len(world.calls) == 2
    with world.deployment.database.begin() as connection:
        connection.execute(update(RunRow).values(ended_at=time.time() - orphans.LATE_S - 60))
    for _ in range(2):
        orphans.collect(world.deployment)
        assert dead_runs(world.deployment, "hlr") == set()
    assert len(world.calls) == 3
    assert orphans.is_collected(world.deployment.runs.get(run))


def test_what_could_not_be_removed_within_a_day_is_tried_until_it_is(world: World) -> None:
    run = ended(world, "protect", "failed", ago_s=orphans.LATE_S + 60)
    with world.patch.context() as broken:
        broken.setattr(QuiescedSnapshot, "remove_orphans", failing)
        orphans.collect(world.deployment)
    assert not orphans.is_collected(world.deployment.runs.get(run))
    orphans.collect(world.deployment)
    assert world.calls == [("remove_orphans", "site-a")]


def test_a_run_that_is_claimed_again_is_collected_again(world: World) -> None:
    run = ended(world, "protect", "failed", ago_s=orphans.LATE_S + 60)
    orphans.collect(world.deployment)
    with world.deployment.claims.take(run, abort=True) as claim:
        world.deployment.runs.end(run, claim.number, "aborted", time.time(), None, {})
    assert not orphans.is_collected(world.deployment.runs.get(run))


def test_runs_that_succeeded_long_ago_are_not_looked_at(world: World) -> None:
    ended(world, "failover", "succeeded", ago_s=orphans.LATE_S + 60)
    orphans.collect(world.deployment)
    assert world.connected == []


@pytest.mark.parametrize(
    ("kind", "state"), [("protect", "running"), ("failover", "running"), ("failover", "failed")]
)
def test_nothing_is_removed_while_another_run_of_the_vnf_may_use_it(
    world: World, kind: str, state: str
) -> None:
    aborted = ended(world, "failover", "aborted", ago_s=600)
    ended(world, kind, state)
    orphans.collect(world.deployment)
    assert [call for call in world.calls if call[0] == "remove"] == []
    with pytest.raises(Busy):
        orphans.remove(world.deployment, [world.deployment.runs.get(aborted)])


def test_a_run_that_begins_meanwhile_ends_the_removal_before_its_next_change(world: World) -> None:
    aborted = ended(world, "failover", "aborted")

    def remove(site: Any, *_: Any) -> list[str]:
        ended(world, "failover", "running")
        site.go_on()
        raise AssertionError("it went on")

    world.patch.setattr(rollback, "remove", remove)
    with pytest.raises(Busy):
        orphans.remove(world.deployment, [world.deployment.runs.get(aborted)])


def test_a_site_that_does_not_answer_is_asked_once_and_keeps_nobody_from_the_other(
    world: World,
) -> None:
    def connect(name: str, cloud: str) -> Any:
        world.connected.append(name)
        if name == "site-a":
            raise SiteUnreachable("no answer")
        return GatedSite(name)

    world.patch.setattr(cloud_site, "connect", connect)
    for vnf in ("a", "b", "c"):
        run = ended(world, "protect", "failed")
        with world.deployment.database.begin() as connection:
            connection.exec_driver_sql("UPDATE runs SET vnf = ? WHERE id = ?", (vnf, run))
    ended(world, "failover", "aborted")
    orphans.collect(world.deployment)
    assert sorted(world.connected) == ["site-a", "site-b"]
    assert world.calls == [("remove", "site-b")]


def test_what_fails_for_one_vnf_keeps_nobody_from_the_others(world: World) -> None:
    tried: list[str] = []

    def remove(*_: Any) -> list[str]:
        tried.append("x")
        raise ResourceFailed("cannot be removed")

    world.patch.setattr(rollback, "remove", remove)
    for vnf in ("a", "b"):
        run = ended(world, "failover", "aborted")
        with world.deployment.database.begin() as connection:
            connection.exec_driver_sql("UPDATE runs SET vnf = ? WHERE id = ?", (vnf, run))
    orphans.collect(world.deployment)
    assert len(tried) == 2


def test_an_abort_of_a_run_that_was_aborted_looks_again(world: World) -> None:
    run = ended(world, "failover", "aborted")
    assert abort.abort(world.deployment, run, Unobserved())["state"] == "aborted"
    assert world.calls == [("remove", "site-b")]


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("protect", {"vnf": "hlr"}),
        ("protect", {"vnf": {"vnf": "hlr", "of_tomorrow": 1}}),
        ("failover", {"to": "site-b", "plan": {"servers": [{"of_tomorrow": 1}]}}),
    ],
)
def test_a_run_of_a_newer_antipode_keeps_no_other_from_being_collected(
    world: World, kind: str, request_: dict[str, Any]
) -> None:
    row = new_run(kind_of(kind), "other", request_)
    run, row.claim, row.started_at = row.id, 1, time.time() - 60
    world.deployment.runs.create(row)
    world.deployment.runs.end(run, 1, "aborted", time.time() - 30, None, {})
    ended(world, "protect", "failed")
    orphans.collect(world.deployment)
    assert ("remove_orphans", "site-a") in world.calls
