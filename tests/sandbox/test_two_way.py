# SPDX-License-Identifier: Apache-2.0
"""Two sites, each the backup of the other, with a vault at both and the backups at a third place:
each site dies once, and a VNF is moved there, back and there again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antipode.sandbox import canary, desk
from antipode.sandbox.keystone import BACKUP as BACKUP_USER
from antipode.sandbox.store import StoreSettings
from antipode.sandbox.supervision import STORE, Sandbox
from tests.sandbox.conftest import BACKUP, LATENCY, PRIMARY, World
from tests.sandbox.test_migrate import boots, last, statuses

THIRD = "third-place"


@pytest.fixture
def third(tmp_path: Path) -> Iterator[Sandbox]:
    """A third place, of which only the object storage is used."""
    third = Sandbox(tmp_path / "third")
    third.up(latency=LATENCY)
    third.kill(PRIMARY)  # one site of it is enough
    yield third
    third.down()


@pytest.fixture
def world(tmp_path: Path, third: Sandbox) -> Iterator[World]:
    sandbox = Sandbox(tmp_path / "sites")
    sandbox.up(latency=LATENCY)
    try:
        for site in (PRIMARY, BACKUP):
            sandbox.kill(site)
            store = StoreSettings(auth_url=third.settings(STORE).auth_url)
            known = sandbox.settings(site).model_copy(update={"store": store})
            known.write(sandbox.directory / site)
            sandbox.start(site)
        desk.write(sandbox)
        write_configuration(sandbox, third)
        canary.create(sandbox, PRIMARY)
        yield World(sandbox)
    finally:
        sandbox.down()


def write_configuration(sandbox: Sandbox, third: Sandbox) -> None:
    path = sandbox.directory / desk.CLOUDS
    clouds = YAML().load(path)
    clouds["clouds"][THIRD] = desk._entry(third.settings(STORE), BACKUP_USER, BACKUP_USER)
    YAML().dump(clouds, path)
    configuration = {
        "sites": {site: {"cloud": site} for site in (PRIMARY, BACKUP)},
        "vaults": {f"at-{site}": {"swift": {"site": site}} for site in (PRIMARY, BACKUP)},
        "stores": {THIRD: {"cloud": THIRD}},
        "database": f"sqlite:///{sandbox.directory.resolve()}/antipode.db",
    }
    YAML().dump(configuration, sandbox.directory / desk.CONFIGURATION)


def know(world: World) -> None:
    definition = desk.vnf(world.sandbox)
    path = world.sandbox.directory / "vnf.yaml"
    protection = {"option": "quiesced-snapshot", "quiesce": {"timeout": "120s"}}
    YAML().dump({**definition, "protections": [protection]}, path)
    world.operator.tell("vnf", "add", str(path))


def fail_over(world: World, to: str) -> Any:
    return world.operator.ask("failover", "canary", "--to", to, "--yes")


def test_each_site_is_the_backup_of_the_other(world: World) -> None:
    operator, sandbox = world.operator, world.sandbox
    know(world)
    canary.await_records(sandbox, PRIMARY, 3)
    assert world.protect()["generation"] == 1
    sandbox.kill(PRIMARY)
    assert fail_over(world, BACKUP)["generation"] == 2
    assert operator.ask("vnf", "list")[0]["active_site"] == BACKUP

    # another host, which has the vaults and nothing else
    (sandbox.directory / "antipode.db").rename(sandbox.directory / "elsewhere.db")
    (listed,) = operator.ask("vnf", "list")
    assert (listed["active_site"], listed["state"], listed["generation"]) == (BACKUP, "active", 2)

    sandbox.start(PRIMARY)
    canary.await_work(sandbox, BACKUP)
    know(world)
    before = {s.id for s in world.cloud(BACKUP).compute.servers()}
    record = operator.ask("reprotect", "canary", "--old-copy", "remove", "--yes")
    assert (record["generation"], record["recoverable"]) == (2, True)
    assert list(world.cloud(PRIMARY).compute.servers()) == []
    assert list(world.cloud(PRIMARY).block_storage.volumes()) == []
    assert {s.id for s in world.cloud(BACKUP).compute.servers()} == before
    assert operator.ask("vnf", "list")[0]["newest_point_age_s"] is not None
    assert not any(guest["frozen"] for guest in world.guests(BACKUP))

    sandbox.kill(BACKUP)
    assert fail_over(world, PRIMARY)["generation"] == 3
    canary.await_work(sandbox, PRIMARY)
    (listed,) = operator.ask("vnf", "list")
    assert (listed["active_site"], listed["generation"]) == (PRIMARY, 3)


@pytest.mark.rest
def test_there_and_back_and_there_again_no_record_is_lost(world: World) -> None:
    know(world)
    sandbox = world.sandbox
    canary.await_records(sandbox, PRIMARY, 20)
    boot = boots(world, PRIMARY)
    assert world.operator.run("migrate", "canary", "--to", BACKUP, "--yes").returncode == 0
    for here, there in ((BACKUP, PRIMARY), (PRIMARY, BACKUP)):
        assert last(world, here, boot) == last(world, there, boot)
        canary.await_records(sandbox, here, 20)
        boot = boots(world, here)
        world.operator.tell("failback", "canary", "--to", there, "--yes")
        assert last(world, there, boot) == last(world, here, boot)
        assert (statuses(world, there), statuses(world, here)) == ({"ACTIVE"}, {"SHUTOFF"})
        assert len(list(world.cloud(there).compute.servers())) == 3
        assert len(list(world.cloud(there).block_storage.volumes())) == 6
    canary.await_records(sandbox, BACKUP, 10)
    assert world.operator.ask("vnf", "list")[0]["generation"] == 4


@pytest.mark.rest
def test_an_old_copy_in_the_way_is_removed_though_the_active_site_is_dead(world: World) -> None:
    know(world)
    sandbox, operator = world.sandbox, world.operator
    canary.await_records(sandbox, PRIMARY, 3)
    operator.tell("migrate", "canary", "--to", BACKUP, "--yes")
    operator.tell("failback", "canary", "--yes")
    assert world.protect()["generation"] == 3
    sandbox.kill(PRIMARY)
    assert operator.run("failover", "canary", "--to", BACKUP, "--yes").returncode == 3
    removal = "reprotect", "canary", "--old-copy", "remove", "--yes"
    # the vault at the dead site may know of a later move: only the operator knows that it is lost
    assert operator.run(*removal).returncode == 1
    assert len(list(world.cloud(BACKUP).compute.servers())) == 3
    record = operator.ask(*removal, "--lost-vault", f"at-{PRIMARY}")
    assert len(record["removed"]["servers"]) == 3
    assert record["missing"] == []
    assert list(world.cloud(BACKUP).block_storage.volumes()) == []
    assert fail_over(world, BACKUP)["generation"] == 4
    canary.await_work(sandbox, BACKUP)
