# SPDX-License-Identifier: Apache-2.0
"""Failovers that take the newest data that has arrived of each volume: replicas are promoted, all
or none, and what is half of one never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, InvalidInput, PreflightFailed, ResourceFailed
from antipode.operations import datastores
from antipode.operations.abort import abort
from antipode.operations.failover import failover, prepare
from antipode.operations.resume import resume
from antipode.operations.shown import failover as shown
from antipode.recover import heads
from antipode.runs.failover_checks import Accepted
from tests.unit.test_durable_runs import world
from tests.unit.test_replication_run import Replicated, replicated

__all__ = ["replicated", "world"]
HEADS = Accepted(newest_heads=True)
IMAGES = {"volume-db-root", "volume-db-data", "volume-front-root"}


def take_heads(replicated: Replicated, accepted: Accepted = HEADS) -> Any:
    here = replicated.world.here
    return failover(here, prepare(here, "v", "site-b", None, accepted), Unobserved())


def fails_at(beginning: str, after: int = 0) -> Callable[[str], None]:
    """Fails at each event that begins so, after some of them."""
    seen = 0

    def fails(event: str) -> None:
        nonlocal seen
        if event.startswith(beginning):
            seen += 1
            if seen > after:
                raise ResourceFailed("no more")

    return fails


def begun(replicated: Replicated, beginning: str) -> list[str]:
    return [e for e in replicated.events("site-b") if e.startswith(beginning)]


def test_all_replicas_are_promoted_before_any_volume_is_made_and_demoted_in_the_end(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    replicated.pools.dead.add("site-a")
    record = take_heads(replicated)
    events = replicated.events("site-b")
    promoted = [i for i, e in enumerate(events) if e.startswith("promote")]
    made = [i for i, e in enumerate(events) if e.startswith(("clone", "manage"))]
    assert len(promoted) == 3
    assert max(promoted) < min(made)
    assert (record["consistency"], record["heads_behind_s"].keys()) == (
        "replica",
        {"db-root", "db-data", "front-root"},
    )
    assert "left" not in record
    assert (world.b.clones, replicated.pools.promoted) == ({}, set())
    assert not any(replicated.pools.heads.values()), "no state of ours is left"
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]


def test_the_point_is_the_default_and_promotes_nothing(replicated: Replicated) -> None:
    replicated.world.protect()
    record = replicated.world.failover()
    assert begun(replicated, "promote") == []
    assert record["consistency"] == "application"
    assert "heads_behind_s" not in record


@pytest.mark.parametrize("accepted", [Accepted(), HEADS])
def test_a_plan_says_what_each_choice_loses(replicated: Replicated, accepted: Accepted) -> None:
    replicated.world.protect()
    prepared = prepare(replicated.world.here, "v", "site-b", None, accepted)
    record = shown.record(prepared)
    assert set(record["losses_s"]) == {"recovery_point", "newest_heads"}
    assert record["losses_s"]["newest_heads"] is None, "this storage does not say"
    assert record["takes_heads"] is accepted.newest_heads
    assert record["consistency"] == ("replica" if accepted.newest_heads else "application")
    assert len(record["heads"]) == 3
    assert "".join(shown.lines(prepared)).count("--newest-heads") == (
        0 if accepted.newest_heads else 3
    )


def test_what_is_half_of_an_image_is_never_promoted_and_the_point_is_there_instead(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    replicated.pools.half.add("volume-db-data")
    with pytest.raises(PreflightFailed):
        take_heads(replicated)
    assert replicated.events("site-b") == []
    assert sorted(world.failover()["servers"]) == ["db", "front"]
    assert begun(replicated, "promote") == []


def test_an_image_that_became_half_of_one_since_the_plan_keeps_all_from_being_promoted(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    prepared = prepare(world.here, "v", "site-b", None, HEADS)
    replicated.pools.half.add("volume-db-data")
    with pytest.raises(ResourceFailed):
        failover(world.here, prepared, Unobserved())
    assert begun(replicated, "promote") == []
    assert world.b.volumes == {}


def test_one_replica_that_cannot_be_promoted_keeps_every_volume_from_being_made(
    replicated: Replicated,
) -> None:
    world = replicated.world
    world.protect()
    world.b.before = fails_at("promote", after=2)
    with pytest.raises(ResourceFailed) as caught:
        take_heads(replicated)
    assert len(replicated.pools.promoted) == 2
    assert all(i in str(caught.value) for i in ("Promoted: ", "no volume is made"))
    assert (world.b.volumes, world.b.clones, world.b.servers) == ({}, {}, {})
    world.b.before = lambda event: None
    resume(world.here, world.here.runs.all()[0].id, Unobserved())
    assert len(set(begun(replicated, "promote"))) == len(begun(replicated, "promote")) == 3
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]


@pytest.mark.parametrize("stage", ["promote", "keep head", "clone", "manage", "boot front"])
def test_an_abort_demotes_what_was_promoted_and_says_how_it_follows_again(
    replicated: Replicated, stage: str
) -> None:
    world = replicated.world
    world.protect()
    world.b.before = fails_at(stage, after=0 if stage == "boot front" else 1)
    with pytest.raises(AntipodeError):
        take_heads(replicated)
    world.b.before = lambda event: None
    assert replicated.pools.promoted
    run = world.here.runs.all()[0].id
    abort(world.here, run, Unobserved())
    assert replicated.pools.promoted == set()
    assert not any(replicated.pools.heads.values())
    assert (world.b.clones, world.b.volumes, world.b.servers) == ({}, {}, {})
    left = "\n".join(world.here.runs.get(run).result["left"])
    assert left.count("--overwrite site-b") == len(replicated.pools.split) > 0


def test_a_split_is_resolved_only_by_the_word_of_the_operator(replicated: Replicated) -> None:
    world, pools = replicated.world, replicated.pools
    world.protect()
    pools.split.add("volume-db-data")
    pools.promoted.add("volume-db-root")

    def tell(_: str) -> None:
        """Nobody listens."""

    with pytest.raises(ResourceFailed):
        datastores.prepare(world.here, "v", awaits=False, tell=tell)
    assert begun(replicated, "follow") == []
    with pytest.raises(ResourceFailed):
        datastores.prepare(world.here, "v", awaits=False, tell=tell, overwrite=["site-a"])
    assert begun(replicated, "follow") == []
    found = datastores.prepare(world.here, "v", awaits=True, tell=tell, overwrite=["site-b"])
    assert sorted(begun(replicated, "follow")) == ["follow volume-db-data", "follow volume-db-root"]
    assert all(v.is_well for v in found)
    assert not [e for e in replicated.events("site-a") if e.startswith("follow")]


def test_nothing_follows_an_original_that_is_none(replicated: Replicated) -> None:
    world, pools = replicated.world, replicated.pools
    world.protect()
    pools.promoted.add("volume-db-root")
    pools.demoted.add("volume-db-root")
    with pytest.raises(ResourceFailed):
        datastores.prepare(
            world.here, "v", awaits=False, tell=lambda what: None, overwrite=["site-b"]
        )
    assert begun(replicated, "follow") == []


def test_heads_and_states_of_one_point_are_never_mixed(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    world.b.before = fails_at("boot front")
    with pytest.raises(AntipodeError):
        take_heads(replicated)
    world.b.before = lambda event: None
    with pytest.raises(PreflightFailed):  # there is a server db already
        prepare(world.here, "v", "site-b", None)
    again = prepare(world.here, "v", "site-b", None, HEADS)
    assert again.plan.already_there == ["db"]


def test_a_vnf_without_replicated_volumes_has_no_heads(replicated: Replicated) -> None:
    with pytest.raises(InvalidInput):
        take_heads(replicated)
    assert replicated.events("site-b") == []


def test_heads_that_are_not_known_are_not_planned(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that answers a moment later does not make it right: nothing would be promoted."""
    replicated.world.protect()
    monkeypatch.setattr(heads, "seen", lambda point, site: [])
    with pytest.raises(PreflightFailed, match="not known"):
        prepare(replicated.world.here, "v", "site-b", None, HEADS)
    prepare(replicated.world.here, "v", "site-b", None)


def test_a_replica_that_cannot_be_demoted_in_the_end_is_named(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    world.b.before = fails_at("demote")
    record = take_heads(replicated)
    assert len([w for w in record["left"] if "writable still" in w]) == 3
    assert replicated.pools.promoted == IMAGES


def test_replicas_are_demoted_though_a_volume_still_rests_on_one(replicated: Replicated) -> None:
    world = replicated.world
    world.protect()
    world.b.before = fails_at("separate ", after=2)
    record = take_heads(replicated)
    assert replicated.pools.promoted < IMAGES, "the others are demoted all the same"
    writable = [w for w in record["left"] if "writable still" in w]
    assert len(writable) == len(replicated.pools.promoted) == 1
