# SPDX-License-Identifier: Apache-2.0
"""Volumes of no server of a copy that is old: which of them go with it, and which are left."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import PreflightFailed, ResourceFailed
from antipode.operations import fence as fencing
from antipode.operations.failover import prepare
from antipode.operations.migrate import prepare as prepare_migration
from antipode.runs import fence, old_copy_removal
from tests.unit.test_durable_runs import VNF, World, world

__all__ = ["world"]
NAMED = VNF.model_copy(update={"volumes": ["spare"]})


@pytest.fixture
def spared(world: World) -> World:
    """A VNF with a volume of no server, protected."""
    own = {"id": "spare", "name": "spare", "status": "available", "attachments": []}
    world.a.volumes["spare"] = {**world.a.volumes["db-data"], **own}
    world.here.vnfs.put(NAMED)
    world.protect()
    return world


@pytest.fixture
def moved(spared: World) -> World:
    """It runs at site-b and is protected there; its old copy is fenced."""
    spared.failover()
    spared.protect()
    here = spared.process()
    fencing.fence(here, fencing.request(fencing.prepare(here, "v", "site-a")), Unobserved())
    return spared


def removed(world: World) -> dict[str, Any]:
    here = world.process()
    state = fence.must_be_old(here, "v", "site-a").state
    with here.claims.begin(old_copy_removal.requested(state, "site-a")) as claim:
        return execute(here, old_copy_removal.KIND, claim, Unobserved())


def test_it_goes_with_the_old_copy(moved: World) -> None:
    assert removed(moved)["left"] == []
    assert moved.a.volumes == {}
    assert [v["name"] for v in moved.b.volumes.values()].count("spare") == 1


def renamed(world: World) -> None:
    world.a.volumes["spare"]["name"] = "of somebody"


def attached(world: World) -> None:
    world.a.volumes["spare"] |= {"status": "in-use", "attachments": [{"server_id": "stranger"}]}


def becomes_an_image(world: World) -> None:
    world.a.volumes["spare"]["status"] = "uploading"


def named_by_another(world: World) -> None:
    world.here.vnfs.put(NAMED.model_copy(update={"vnf": "other"}))


def no_more_of_the_vnf(world: World) -> None:
    world.here.vnfs.put(VNF)
    world.protect()


@pytest.mark.parametrize(
    "change",
    [renamed, attached, becomes_an_image, named_by_another, no_more_of_the_vnf],
    ids=lambda change: change.__name__,
)
def test_one_that_may_serve_something_else_is_left_and_said(moved: World, change: Any) -> None:
    change(moved)
    record = removed(moved)
    assert list(moved.a.volumes) == ["spare"]
    assert [what for what in record["left"] if "(spare)" in what] == record["left"] != []


def test_one_that_is_renamed_or_attached_when_the_removal_has_begun_is_left(moved: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("delete server"):
            renamed(moved)

    moved.a.before = before
    with pytest.raises(ResourceFailed, match="another name"):
        removed(moved)
    assert list(moved.a.volumes) == ["spare"]
    moved.a.before = lambda happens: None
    renamed_too = removed(moved)["left"]
    assert list(moved.a.volumes) == ["spare"] and len(renamed_too) == 1


def test_a_volume_that_a_stranger_gets_meanwhile_is_not_waited_for(moved: World) -> None:
    def before(happens: str) -> None:
        if happens.startswith("delete server"):
            attached(moved)

    moved.a.before = before
    with pytest.raises(ResourceFailed, match="another server uses it"):
        removed(moved)
    assert list(moved.a.volumes) == ["spare"]


def test_a_failback_that_a_volume_would_be_in_the_way_of_removes_nothing(moved: World) -> None:
    prepare_migration(moved.process(), "v", back=True)
    renamed(moved)
    moved.a.volumes["new"] = {**moved.a.volumes["spare"], "id": "new", "name": "spare"}
    with pytest.raises(PreflightFailed, match="new") as failed:
        prepare_migration(moved.process(), "v", back=True)
    assert any("another name" in problem for problem in failed.value.problems)
    moved.a.volumes["new"]["name"] = "own"
    removes = prepare_migration(moved.process(), "v", back=True).removes
    assert removes is not None and "spare" not in removes.ids


def test_two_vnfs_of_one_site_cannot_have_the_same(spared: World) -> None:
    named_by_another(spared)
    with pytest.raises(PreflightFailed, match="VNF other"):
        spared.protect()


def test_a_plan_says_that_a_point_is_without_a_volume_of_the_file(spared: World) -> None:
    more = NAMED.model_copy(update={"volumes": ["spare", "archive"]})
    spared.here.vnfs.put(more)
    warnings = prepare(spared.here, "v", "site-b", None).warnings
    assert any("archive" in w for w in warnings)
    assert not any("spare" in w for w in warnings)
