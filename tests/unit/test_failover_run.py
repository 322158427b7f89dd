# SPDX-License-Identifier: Apache-2.0
"""A failover as a run: from the vault and the backup site alone, in boot order, and never without
the operator's word.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.cloud.backups import read_record
from antipode.engine.deployment import Deployment
from antipode.engine.limits import Party
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    InvalidInput,
    NotFound,
    PointUnsigned,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
    VaultCorrupt,
)
from antipode.model.source import BackupRecord
from antipode.model.state import ProtectedVnf
from antipode.model.steps import Steps
from antipode.operations.failover import failover, prepare
from antipode.recover import plan as planning
from antipode.recover import ports as plugging
from antipode.recover import probes, rollback
from antipode.recover import servers as booting
from antipode.recover.sources.backup import FromBackups
from antipode.runs import protect as protect_flow
from antipode.runs.failover_checks import Accepted
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from antipode.vault.sealing import seal
from tests.unit import samples, storages
from tests.unit.test_format_1 import OF_0_1, resealed

World = SimpleNamespace
FRONT = {"server": "front", "boot_after": ["db"]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A deployment with one recovery point of a VNF that is not in its database, and a primary that
    must not be asked.
    """
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    points.commit(deployment.vault, samples.point())
    world = World(deployment=deployment, events=[], patch=monkeypatch, lock=threading.Lock())

    def connect(name: str, cloud: str) -> Any:
        assert name != "site-a", "the primary was connected to"
        return samples.NamedSite(name)

    def note(event: str) -> None:
        with world.lock:
            world.events.append(event)

    def provide(_: Any, recovery: Any, server: str, volumes: Any) -> dict[str, str]:
        with recovery.timeline.step(Steps.IMPORT_RECORDS, server):
            note(f"import {server}")
        with recovery.timeline.step(Steps.RESTORE_VOLUME, server):
            note(f"restore {server}")
        return {f"vol-{server}": f"new-vol-{server}"}

    def create_ports(recovery: Any, server: str) -> list[str]:
        with recovery.timeline.step(Steps.CREATE_PORTS, server):
            note(f"ports {server}")
        return [f"new-port-{server}"]

    def boot(recovery: Any, server: str, volumes: Any, ports: Any) -> str:
        assert (volumes, ports) == ({f"vol-{server}": f"new-vol-{server}"}, [f"new-port-{server}"])
        with recovery.timeline.step(Steps.BOOT_SERVER, server) as step:
            note(f"boot {server}")
            step.result(server_id=f"new-srv-{server}")
        return f"new-srv-{server}"

    def await_answer(recovery: Any, server: str, server_id: str) -> None:
        with recovery.timeline.step(Steps.PROBE, server):
            time.sleep(0.05)  # long enough that a successor that did not wait would be seen
            note(f"answer {server}")

    monkeypatch.setattr(cloud_site, "connect", connect)
    monkeypatch.setattr(planning, "make_plan", lambda manifest, site: samples.plan())
    monkeypatch.setattr(FromBackups, "provide", provide)
    monkeypatch.setattr(FromBackups, "settle", lambda *_: [])
    monkeypatch.setattr(plugging, "create_ports", create_ports)
    monkeypatch.setattr(rollback, "remove_failed", lambda *_: False)
    monkeypatch.setattr(rollback, "remove_twins", lambda *_: [])
    monkeypatch.setattr(booting, "boot", boot)
    monkeypatch.setattr(probes, "await_answer", await_answer)
    return world


def test_a_failover_touches_only_the_backup_site_and_needs_no_database_that_knows_the_vnf(
    world: World,
) -> None:
    record = failover(
        world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved()
    )
    assert record["recovery_point"] == samples.point().id
    assert record["servers"] == {"db": "new-srv-db", "front": "new-srv-front"}
    assert set(record["rto_breakdown_s"]) == {"import", "restore", "ports", "boot", "answers"}
    assert 0 < record["rto_s"] <= record["seconds"] + 60
    assert world.deployment.runs.get(record["run"]).state == "succeeded"


def test_a_server_is_booted_when_its_own_volumes_and_ports_are_there_and_its_predecessors_answer(
    world: World,
) -> None:
    failover(world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved())
    order = world.events.index
    assert order("answer db") < order("boot front")
    for server in ("db", "front"):
        assert (
            order(f"import {server}")
            < order(f"restore {server}")
            < order(f"boot {server}")
            < order(f"answer {server}")
        )
        assert order(f"ports {server}") < order(f"boot {server}")


def test_with_too_few_slots_the_volumes_of_the_server_that_others_wait_for_are_restored_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = samples.plan()
    late_first = plan.model_copy(update={"servers": plan.servers[::-1]})
    monkeypatch.setattr(planning, "make_plan", lambda manifest, site: late_first)
    limits = world.deployment.limits
    slots = limits._of("site-b", "restores", 1)
    somebody_else = limits.restores("site-b", Party("imsi", 0, lambda: None))

    def provide(_: Any, recovery: Any, server: str, volumes: Any) -> dict[str, str]:
        with recovery.slots_of(server).hold():
            world.events.append(f"restore {server}")
        return {f"vol-{server}": f"new-vol-{server}"}

    monkeypatch.setattr(FromBackups, "provide", provide)
    with ThreadPoolExecutor(1) as pool:
        with somebody_else:
            done = pool.submit(
                failover,
                world.deployment,
                prepare(world.deployment, "hlr", "site-b", None),
                Unobserved(),
            )
            while len(slots._waiting) < 2:
                assert not done.done(), done.result()
                time.sleep(0.001)
        done.result(120)
    assert [e for e in world.events if e.startswith("restore")] == ["restore db", "restore front"]


def test_preparing_creates_nothing_and_warns_of_two_active_copies(world: World) -> None:
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    assert world.events == []
    assert world.deployment.runs.all() == []
    assert "still runs at site-a" in prepared.warnings[0]
    assert prepared.point.age_s > 0


def test_a_failover_that_stops_says_what_is_left_and_how_to_go_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def boot(*arguments: Any) -> str:
        raise ResourceFailed(f"server {arguments[1]} is in error")

    world.patch.setattr(booting, "boot", boot)
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ResourceFailed, match="db") as caught,
    ):
        failover(world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved())
    run = world.deployment.runs.all()[0]
    assert (
        f"antipode failover hlr --to site-b --recovery-point {samples.point().id}"
        in caught.value.__notes__[0]
    )
    assert all(
        f"antipode run {what} {run.id}" in caught.value.__notes__[0] for what in ("resume", "abort")
    )
    assert (run.state, run.reason) == ("failed", "server db is in error")
    assert "answer db" not in world.events


def test_what_the_site_lacks_ends_the_failover_before_it_is_a_run(world: World) -> None:
    def make_plan(*_: Any) -> Any:
        raise PreflightFailed("the recovery of hlr", ["no flavor small", "no network net"])

    world.patch.setattr(planning, "make_plan", make_plan)
    with pytest.raises(PreflightFailed, match="small"):
        prepare(world.deployment, "hlr", "site-b", None)
    assert world.deployment.runs.all() == []


@pytest.mark.parametrize("site", ["site-a", "site-c"])
def test_a_failover_to_a_site_that_is_not_the_backup_site_is_refused(
    world: World, site: str
) -> None:
    world.deployment.vnfs.put(samples.vnf())
    with pytest.raises(InvalidInput, match=site):
        prepare(world.deployment, "hlr", site, None)


def test_a_failover_to_the_primary_is_refused_also_without_a_definition(world: World) -> None:
    world.patch.setattr(cloud_site, "connect", lambda name, cloud: samples.NamedSite(name))
    with pytest.raises(InvalidInput, match="site-a"):
        prepare(world.deployment, "hlr", "site-a", None)


def test_an_unknown_recovery_point_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="20260101T000000Z-000000"):
        prepare(world.deployment, "hlr", "site-b", "20260101T000000Z-000000")


def test_a_mapping_that_was_mended_after_the_disaster_is_used(world: World) -> None:
    world.deployment.vnfs.put(samples.vnf(map={"networks": {"net": "net-b"}}))
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    assert prepared.point.vnf.map.networks == {"net": "net-b"}
    assert any("was changed" in w for w in prepared.warnings)


def test_a_point_with_other_members_than_the_vnf_file_is_refused(world: World) -> None:
    world.deployment.vnfs.put(samples.vnf(members=[{"server": "db"}]))
    with pytest.raises(InvalidInput):
        prepare(world.deployment, "hlr", "site-b", None)
    assert world.events == []


@pytest.fixture
def store(world: World, tmp_path: Path) -> storages.MemoryObjects:
    """The backup store of the sites, at a third place, with all backups of the point."""
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + "backup_store: {cloud: s, container: backups}\n")
    world.deployment = Deployment(config.load(str(path)))
    objects = storages.MemoryObjects()
    for record in samples.point().backups.values():
        objects.put(record.container, f"{prefix_of(record)}_metadata", b"{}")
    world.patch.setattr(Deployment, "store", lambda self, name: objects)
    return objects


def prefix_of(record: BackupRecord) -> str:
    return str(read_record(record.url)["service_metadata"])


def test_a_failover_is_planned_when_the_store_has_the_newest_backups(
    world: World, store: storages.MemoryObjects
) -> None:
    assert prepare(world.deployment, "hlr", "site-b", None).plan.vnf == "hlr"


def test_backups_that_the_store_lacks_are_named_before_anything_is_claimed(
    world: World, store: storages.MemoryObjects
) -> None:
    newest = [chain[-1] for chain in map(samples.point().chain, samples.point().sources)]
    for record in newest:
        store.delete(record.container, f"{prefix_of(record)}_metadata")
    with pytest.raises(PreflightFailed) as caught:
        prepare(world.deployment, "hlr", "site-b", None)
    for record in newest:
        assert any(record.id in problem for problem in caught.value.problems)
    prepare(world.deployment, "hlr", "site-b", None, Accepted(store_unchecked=True))


def test_a_store_that_does_not_answer_is_named_before_anything_is_claimed(world: World) -> None:
    def dead(_: Deployment, name: str) -> Any:
        raise SiteUnreachable(f"{name} does not answer")

    world.patch.setattr(Deployment, "store", dead)
    world.patch.setattr(type(world.deployment.config), "store_name", lambda *_: "there")
    world.patch.setattr(type(world.deployment.config), "site_of_store", lambda *_: None)
    with pytest.raises(PreflightFailed) as caught:
        prepare(world.deployment, "hlr", "site-b", None)
    assert any("there" in problem for problem in caught.value.problems)


def test_a_store_at_the_failed_site_is_not_called(world: World) -> None:
    def called(_: Deployment, name: str) -> Any:
        raise AssertionError("the failed site was called")

    world.patch.setattr(Deployment, "store", called)
    world.patch.setattr(type(world.deployment.config), "store_name", lambda *_: "there")
    world.patch.setattr(type(world.deployment.config), "site_of_store", lambda *_: "site-a")
    prepare(world.deployment, "hlr", "site-b", None)


def test_the_record_of_a_failover_says_which_copies_may_have_answered(world: World) -> None:
    def await_answer(recovery: Any, server: str, server_id: str) -> None:
        with recovery.timeline.step(Steps.PROBE, server) as step:
            step.result(asked="TCP 10.0.0.5:22", reaches="either-site")

    world.patch.setattr(probes, "await_answer", await_answer)
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    record = failover(world.deployment, prepared, Unobserved())
    assert record["answered_from"] == {"db": "either-site", "front": "either-site"}


def test_a_file_whose_members_are_only_reordered_is_used(world: World) -> None:
    members = [{"server": "front", "boot_after": ["db"]}, {"server": "db", "answers": {"tcp": 22}}]
    world.deployment.vnfs.put(samples.vnf(members=members))
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    assert [m.server for m in prepared.point.vnf.members] == ["db", "front"]
    answers = prepared.point.vnf.member("db").answers
    assert answers is not None and answers.tcp == 22


def newest_of(world: World, point: str) -> None:
    """Let this host have made a recovery point."""
    row = protect_flow.requested(
        samples.vnf(), ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)
    )
    row.state = "succeeded"
    row.result = {
        "recovery_point": point,
        "generation": 1,
        "consistent_at": "2026-11-22T17:00:01.000Z",
    }
    world.deployment.runs.create(row)


def test_a_point_that_the_listing_does_not_show_yet_is_the_newest_all_the_same(
    world: World,
) -> None:
    newest = samples.point("20261122T170000Z-000000", consistent_at="2026-11-22T17:00:01.000Z")
    points.commit(world.deployment.vault, newest)
    newest_of(world, newest.id)
    lists = DirectoryVault.list

    def lagging(self: DirectoryVault, prefix: str) -> list[str]:
        return [name for name in lists(self, prefix) if newest.id not in name]

    world.patch.setattr(DirectoryVault, "list", lagging)
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    assert prepared.point.id == newest.id
    older = prepare(world.deployment, "hlr", "site-b", samples.point().id)
    assert older.point.id == samples.point().id


def test_a_newer_point_that_was_removed_from_the_vault_is_warned_about(world: World) -> None:
    newest_of(world, "20261122T170000Z-000000")
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    assert prepared.point.id == samples.point().id
    assert any("20261122T170000Z-000000" in warning for warning in prepared.warnings)


COMMAND: dict[str, Any] = {"server": "db", "answers": {"command": ["touch", "/tmp/executed"]}}


def with_a_command(world: World) -> str:
    """A recovery point of format 2 whose probe is a command; its id."""
    point = samples.point("20261122T170000Z-000000", vnf=samples.vnf(members=[COMMAND, FRONT]))
    points.commit(world.deployment.vault, point)
    return point.id


def test_a_command_of_a_signed_point_is_taken_where_there_is_no_vnf_file_and_it_is_said(
    world: World,
) -> None:
    point = with_a_command(world)
    prepared = prepare(world.deployment, "hlr", "site-b", point)
    answers = prepared.point.vnf.member("db").answers
    assert answers is not None and answers.command == COMMAND["answers"]["command"]
    assert any("signed by key" in warning for warning in prepared.warnings)


STEPS = [{"name": "say", "after": "all", "command": ["touch", "/tmp/executed"]}]


def test_the_runbook_of_a_signed_point_is_taken_where_there_is_no_vnf_file_and_it_is_said(
    world: World,
) -> None:
    point = samples.point("20261122T170000Z-000000", vnf=samples.vnf(steps=STEPS))
    points.commit(world.deployment.vault, point)
    prepared = prepare(world.deployment, "hlr", "site-b", point.id)
    assert [p.step.command for p in prepared.plan.steps] == [STEPS[0]["command"]]
    assert any("signed by key" in warning for warning in prepared.warnings)
    world.deployment.vnfs.put(samples.vnf())
    assert prepare(world.deployment, "hlr", "site-b", point.id).plan.steps == []


def test_the_runbook_of_a_point_that_is_not_signed_is_left_out(world: World) -> None:
    of_0_1 = json.loads(OF_0_1)["manifest"]
    of_0_1["vnf"]["steps"] = STEPS
    point, vnf = of_0_1["id"], of_0_1["vnf"]["vnf"]
    world.deployment.vault.put(f"{vnf}/{point}.json", resealed(of_0_1))
    prepared = prepare(world.deployment, vnf, "site-b", point, Accepted(unsigned=True))
    assert prepared.plan.steps == [] and prepared.point.vnf.steps == []
    assert any("not signed" in warning for warning in prepared.warnings)


def test_a_vnf_file_of_this_host_has_the_last_word_over_commands_of_a_point(world: World) -> None:
    point = with_a_command(world)
    world.deployment.vnfs.put(samples.vnf())
    prepared = prepare(world.deployment, "hlr", "site-b", point)
    assert all(m.answers is None for m in prepared.point.vnf.members)


def test_a_command_of_a_point_that_is_not_signed_is_never_executed(world: World) -> None:
    of_0_1 = json.loads(OF_0_1)["manifest"]
    of_0_1["vnf"]["members"][0]["answers"] = {"command": ["touch", "/tmp/executed"]}
    point, vnf = of_0_1["id"], of_0_1["vnf"]["vnf"]
    world.deployment.vault.put(f"{vnf}/{point}.json", resealed(of_0_1))
    with pytest.raises(PointUnsigned):
        prepare(world.deployment, vnf, "site-b", point)
    prepared = prepare(world.deployment, vnf, "site-b", point, Accepted(unsigned=True))
    assert not any(m.answers and m.answers.command for m in prepared.point.vnf.members)
    assert any("not signed" in warning for warning in prepared.warnings)


def test_a_command_of_the_vnf_file_of_this_host_is_kept(world: World) -> None:
    world.deployment.vnfs.put(samples.vnf(members=[COMMAND, FRONT]))
    answers = prepare(world.deployment, "hlr", "site-b", None).point.vnf.member("db").answers
    assert answers is not None and answers.command == ["touch", "/tmp/executed"]


def test_a_point_that_was_exchanged_after_the_confirmation_is_refused(world: World) -> None:
    prepared = prepare(world.deployment, "hlr", "site-b", None)
    topology = samples.topology()
    changed = topology.servers[0].model_copy(update={"user_data": "YmFk"})
    servers = [changed, topology.servers[1]]
    exchanged = samples.point(topology=topology.model_copy(update={"servers": servers}))
    vault = world.deployment.vault
    sealed = seal(exchanged, vault.keys)
    vault.put(sealed.name, sealed.manifest.encode())
    with pytest.raises(VaultCorrupt):
        failover(world.deployment, prepared, Unobserved())
    assert world.events == []


def test_after_the_newest_point_is_refused_the_next_one_is_taken(world: World) -> None:
    vault = world.deployment.vault
    [next_one] = points.list_ids(vault, "hlr")
    newest = samples.point("20261122T170000Z-000000", consistent_at="2026-11-22T17:00:01.000Z")
    points.commit(vault, newest)
    sealed = seal(newest, vault.keys)
    vault.put(sealed.name, sealed.manifest.encode()[:-9])
    with pytest.raises(VaultCorrupt, match=next_one):
        prepare(world.deployment, "hlr", "site-b", None)
    assert world.events == []
    record = failover(
        world.deployment, prepare(world.deployment, "hlr", "site-b", next_one), Unobserved()
    )
    assert record["recovery_point"] == next_one


def test_what_is_frozen_too_long_at_the_dead_primary_is_no_reason_to_ask_it(world: World) -> None:
    world.deployment.freezes.freezing("site-a", "srv-db", "db", -1)
    failover(world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved())


def test_an_error_that_nobody_foresaw_is_named(world: World) -> None:
    def create_ports(*_: Any) -> Any:
        raise KeyError("net")

    world.patch.setattr(plugging, "create_ports", create_ports)
    with pytest.raises(AntipodeError, match="KeyError"):
        failover(world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved())


def test_what_cannot_be_said_of_late_requests_after_all_members_answer_fails_no_recovery(
    world: World,
) -> None:
    def remove_twins(*_: Any) -> list[str]:
        raise ResourceFailed("the site is tired")

    world.patch.setattr(rollback, "remove_twins", remove_twins)
    record = failover(
        world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved()
    )
    assert world.deployment.runs.get(record["run"]).state == "succeeded"
    assert record["rto_s"] > 0


def test_a_volume_that_is_there_twice_and_cannot_be_removed_yet_is_in_the_record(
    world: World,
) -> None:
    world.patch.setattr(rollback, "remove_twins", lambda *_: ["volume x: it is restoring-backup"])
    record = failover(
        world.deployment, prepare(world.deployment, "hlr", "site-b", None), Unobserved()
    )
    assert record["left"] == ["volume x: it is restoring-backup"]
