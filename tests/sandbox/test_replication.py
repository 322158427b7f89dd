# SPDX-License-Identifier: Apache-2.0
"""Option 3 on embedded sites: a recovery point is a state of all volumes that the storage has
brought to the other site. The command `rbd` is played by its double.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import canary, records
from antipode.sandbox.desk import CONFIGURATION, STORAGE
from antipode.sandbox.rbd import CONDITIONS, MIRRORS
from tests.sandbox.conftest import BACKUP, PRIMARY, World

pytestmark = pytest.mark.sandbox
PREPARE = ("datastore", "prepare", "canary", "--wait", "-f", "json")


@pytest.fixture
def replicated(own_world: World) -> World:
    """Sites whose storage replicates all volumes of the VNF."""
    define(own_world)
    own_world.operator.tell(*PREPARE)
    return own_world


def define(world: World, **settings: Any) -> None:
    protection = {"option": "replication", "quiesce": {"timeout": "120s"}, **settings}
    world.know(datastores={"disks": {"storage": STORAGE}}, protections=protection)


def arriving(world: World, site: str, **conditions: Any) -> None:
    """What goes wrong with all that arrives at a site; nothing by default."""
    (world.sandbox.directory / site / CONDITIONS).write_text(json.dumps(conditions))


def states(world: World, site: str) -> set[str]:
    """The snapshots that the storage of a site has, behind OpenStack's back."""
    folder: Path = world.sandbox.directory / site / "snapshots"
    return {path.name for path in folder.iterdir()}


def fail_over(world: World) -> dict[str, Any]:
    done = world.operator.run("failover", "canary", "--to", BACKUP, "--yes", "-f", "json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def refused(world: World) -> str:
    """The code of the error of a protection."""
    done = world.operator.run("protect", "canary", "-f", "json")
    return str(json.loads(done.stderr.splitlines()[-1])["error"]["code"])


def test_a_destroyed_site_comes_back_from_the_newest_state_that_arrived(replicated: World) -> None:
    world = replicated
    canary.await_records(world.sandbox, PRIMARY, 20)
    first = world.protect()
    assert (first["option"], first["consistency"]) == ("replication", "application")
    held = world.protect_and_look()
    assert not world.frozen()
    assert world.backups() == {}
    world.sandbox.kill(PRIMARY)
    done = fail_over(world)
    assert done["recovery_point"] == world.points()[-1]
    report = records.check(canary.records(world.sandbox, BACKUP))
    assert report.consistent, report
    assert world.held(BACKUP).elsewhere == held.elsewhere
    canary.await_records(world.sandbox, BACKUP, 10)
    assert "left" not in done


def keep_points_at_a_third_place(world: World) -> None:
    configuration = world.sandbox.directory / CONFIGURATION
    third_place = world.sandbox.directory / "third-place"
    third_place.mkdir()
    settings = YAML().load(configuration)
    settings["vault"] = {"directory": str(third_place)}
    YAML().dump(settings, configuration)


@pytest.mark.rest
def test_a_failback_removes_the_old_copy_with_the_states_in_its_volumes(replicated: World) -> None:
    world = replicated
    keep_points_at_a_third_place(world)
    former = world.protect()["recovery_point"]
    world.operator.tell("migrate", "canary", "--to", BACKUP, "--yes")
    world.operator.tell(*PREPARE)
    planned = world.operator.ask("failback", "canary", "--plan")
    assert former in planned["removes"]["points"]
    world.operator.tell("failback", "canary", "--yes")
    points = world.operator.ask("recovery-point", "list", "canary")
    assert not {point["id"] for point in points} & set(planned["removes"]["points"])
    assert len(list(world.cloud(PRIMARY).block_storage.volumes())) == 6
    assert {p["generation"] for p in points} == {2}
    canary.await_records(world.sandbox, PRIMARY, 5)


@pytest.mark.rest
def test_the_next_point_is_made_the_other_way_round(replicated: World) -> None:
    world = replicated
    keep_points_at_a_third_place(world)
    world.protect()
    world.sandbox.isolate(PRIMARY)
    fail_over(world)
    world.sandbox.rejoin(PRIMARY)
    world.operator.tell(*PREPARE)
    point = world.protect()
    assert point["generation"] == 2
    status = world.operator.ask("datastore", "status", "canary")
    assert {(row["site"], row["health"]) for row in status} == {(PRIMARY, "replicating")}


def test_a_point_whose_states_do_not_arrive_is_not_made(replicated: World) -> None:
    world = replicated
    define(world, arrives_within="1s")
    world.protect()
    before = world.snapshots()
    arriving(world, BACKUP, link="cut")
    assert refused(world) == "resource-failed"
    assert not world.frozen()
    assert world.snapshots() == before
    assert len(world.points()) == 1
    rows = json.loads(world.operator.tell("datastore", "status", "canary", "-f", "json"))
    assert {row["newest_point"] for row in rows} == set(world.points())
    assert all("5 journal entries behind" in row["detail"] for row in rows)
    arriving(world, BACKUP, daemon="down")
    assert refused(world) == "preflight-failed"
    arriving(world, BACKUP)
    arriving(world, PRIMARY, daemon="down")  # it sends nothing: the other's daemon fetches
    world.protect()
    arriving(world, PRIMARY)
    assert len(world.points()) == 2


@pytest.mark.rest
def test_a_volume_in_its_first_synchronisation_is_not_protected(own_world: World) -> None:
    define(own_world)
    arriving(own_world, BACKUP, **{"first-sync": True})
    prepared = own_world.operator.run("datastore", "prepare", "canary", "-f", "json")
    assert prepared.returncode == 1
    assert {row["health"] for row in json.loads(prepared.stdout)} == {"first-sync"}
    assert refused(own_world) == "preflight-failed"
    assert not own_world.frozen()
    assert own_world.snapshots() == []


def test_a_state_goes_at_both_sites_when_its_point_expires(replicated: World) -> None:
    world = replicated
    define(world, retention={"last": 1})
    world.protect()
    kept = world.protect()["recovery_point"]
    assert world.points() == [kept]
    world.operator.run("datastore", "status", "canary")  # the double receives when it is asked
    assert states(world, BACKUP) == states(world, PRIMARY)
    assert len(states(world, PRIMARY)) == 6
    world.verify()


@pytest.mark.rest
def test_a_drill_disturbs_no_replication(replicated: World) -> None:
    world = replicated
    world.protect()
    done = world.operator.run("drill", "canary", "--yes", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
    rows = world.operator.ask("datastore", "status", "canary")
    assert {row["health"] for row in rows} == {"replicating"}
    world.protect()


def test_newest_heads_are_promoted_all_or_none_and_a_split_is_resolved_by_word(
    replicated: World,
) -> None:
    world = replicated
    canary.await_records(world.sandbox, PRIMARY, 20)
    point = world.protect()["recovery_point"]
    one_of_six = next(image for image in originals(world))
    arriving(world, BACKUP, stuck=one_of_six)
    command = ("failover", "canary", "--to", BACKUP, "--newest-heads", "--yes", "-f", "json")
    assert world.operator.run(*command).returncode == 1
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
    assert list(world.cloud(BACKUP).compute.servers()) == []
    arriving(world, BACKUP)
    world.operator.tell("run", "abort", "--yes", world.newest_run()["run"])
    # five of six have two originals: nothing is lost unless that is said
    rows = json.loads(world.operator.run("datastore", "status", "canary", "-f", "json").stdout)
    assert sorted(row["health"] for row in rows) == [*["broken"] * 5, "replicating"]
    assert refused(world) == "preflight-failed"
    assert world.operator.run(*PREPARE).returncode == 1
    world.operator.tell(*PREPARE, "--overwrite", BACKUP)
    extended(world)
    newest = world.protect()["recovery_point"]
    assert newest != point
    world.verify()
    # and now the disaster
    seen = canary.records(world.sandbox, PRIMARY)
    world.operator.tell("datastore", "status", "canary")  # the double receives when it is asked
    world.sandbox.kill(PRIMARY)
    done = json.loads(world.operator.tell(*command))
    assert (done["recovery_point"], done["consistency"]) == (newest, "replica")
    assert len(done["heads_behind_s"]) == 6
    assert "left" not in done
    assert sum(v.size for v in world.cloud(BACKUP).block_storage.volumes()) == 6 + 1
    came_back = canary.records(world.sandbox, BACKUP)
    assert all(came_back[m].startswith(before) for m, before in seen.items())
    # the old site returns with its originals: those here are none any more
    world.sandbox.start(PRIMARY)
    assert {i for i, m in mirrored(world, BACKUP).items() if m["primary"]} == set()


def extended(world: World) -> None:
    """Make a volume of the VNF larger, as its operator does while it runs."""
    storage = world.cloud(PRIMARY).block_storage
    volume = next(v for v in storage.volumes() if v.attachments[0]["device"] == "/dev/vdb")
    storage.extend_volume(volume, volume.size + 1)


def mirrored(world: World, site: str) -> dict[str, Any]:
    """The images that the storage of a site mirrors."""
    known = json.loads((world.sandbox.directory / site / MIRRORS).read_text())
    return dict(known["mirrored"])


def originals(world: World) -> list[str]:
    return [image for image, mirror in mirrored(world, PRIMARY).items() if mirror["primary"]]
