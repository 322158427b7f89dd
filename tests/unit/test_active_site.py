# SPDX-License-Identifier: Apache-2.0
"""A VNF has one active site: failed over, protected there, failed back; refused elsewhere."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.config import VaultConfig
from antipode.engine import activity
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    Busy,
    InvalidInput,
    NotFound,
    PreflightFailed,
    ResourceFailed,
    SiteUnreachable,
    VaultError,
)
from antipode.model.state import Claim, ProtectedVnf, VnfState
from antipode.operations import inspect
from antipode.operations.abort import abort
from antipode.operations.failover import failover, prepare
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.recover import probes, rollback, servers
from antipode.runs import protect as run_kind
from antipode.runs.failover_checks import Accepted
from antipode.store.database import open_database
from antipode.store.states import States
from antipode.vault import Vault, generations, points
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud
from tests.unit.test_durable_runs import InBackground, World, silent, until
from tests.unit.test_durable_runs import world as world  # the fixture
from tests.unit.test_kill_matrix import VNF, backup_site


def other_host(world: World, folder: Path, sites: str = "") -> Deployment:
    """A host with the same vault and a database of its own, which has the VNF file only."""
    folder.mkdir()
    path = samples.write_config(folder)
    text = path.read_text().replace(str(folder / "vault"), str(world.folder / "vault"))
    path.write_text(text.replace("site-b: {cloud: b}", f"site-b: {{cloud: b}}{sites}"))
    there = Deployment(config.load(str(path)))
    there.vnfs.put(VNF)
    return there


def state(world: World) -> ProtectedVnf:
    return generations.present(world.here.vault, "v", "site-a")


def settle(cloud: FakeCloud) -> None:
    """The servers of a recovery show all that a real Nova shows of a server that runs."""
    for server_id, server in cloud.servers.items():
        (port,) = (p for p in cloud.ports.values() if p["device_id"] == server_id)
        mac, address = port["mac_address"], port["fixed_ips"][0]["ip_address"]
        server |= {
            "status": "ACTIVE",
            "user_id": "user-1",
            "image": "",
            "flavor": {"original_name": "small", "vcpus": 1, "ram": 128, "disk": 0, "ephemeral": 0},
            "addresses": {"net-b": [{"addr": address, "OS-EXT-IPS-MAC:mac_addr": mac}]},
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:user_data": server.get("user_data"),
            "OS-EXT-STS:task_state": None,
            "config_drive": "",
        }
        for device, attachment in zip("ab", cloud.attachments[server_id], strict=False):
            attachment |= {"device": f"/dev/vd{device}", "tag": None}
            cloud.volumes[attachment["volumeId"]]["volume_image_metadata"] = {
                "hw_qemu_guest_agent": "yes"
            }


def test_the_old_copy_is_protected_from_no_host_after_a_failover(
    world: World, tmp_path: Path
) -> None:
    world.failover()
    since = state(world).since
    before = points.list_ids(world.here.vault, "v")
    events = list(world.a.events)
    there = other_host(world, tmp_path / "other")
    row = run_kind.requested(VNF, ProtectedVnf(vnf="v", active_site="site-a", generation=1))
    with pytest.raises(Busy) as caught, there.claims.begin(row) as claim:
        execute(there, run_kind.KIND, claim, Unobserved())
    assert "site-b" in str(caught.value)
    assert str(since) in str(caught.value)
    assert points.list_ids(world.here.vault, "v") == before
    assert [e for e in world.a.events[len(events) :] if e.startswith("quiesce")] == []


def test_a_failover_during_a_protection_keeps_it_from_committing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = points.list_ids(world.here.vault, "v")
    transfer = run_kind.TransferCaptures.execute

    def meanwhile(task: Any, **given: Any) -> Any:
        done = transfer(task, **given)
        now = state(world)
        generations.complete(
            world.here.vault, generations.claim(world.here.vault, now, "site-b", "failover-x")
        )
        return done

    monkeypatch.setattr(run_kind.TransferCaptures, "execute", meanwhile)
    with pytest.raises(Busy):
        world.protect()
    assert points.list_ids(world.here.vault, "v") == before


def test_a_vnf_is_protected_at_its_new_site_and_fails_back(world: World) -> None:
    assert world.failover()["generation"] == 2
    settle(world.b)
    record = world.protect()
    made = points.read(world.here.vault, "v")
    assert (record["generation"], made.site) == (2, "site-b")
    assert made.id == record["recovery_point"]
    with pytest.raises(InvalidInput):
        prepare(world.here, "v", "site-b", None)
    for held in (world.a.servers, world.a.volumes, world.a.ports, world.a.attachments):
        held.clear()  # the operator removes the old copy
    for group in world.a.server_groups:
        group["members"] = []
    back = prepare(world.here, "v", "site-a", None)
    assert back.point.id == made.id
    assert {p.network for s in back.plan.servers for p in s.ports} == {"net"}
    failover(world.here, back, Unobserved())
    assert (state(world).active_site, state(world).generation) == ("site-a", 3)


def renew(vault: Path) -> None:
    """The vault is lost, and an empty one is in its place."""
    vault.rename(vault.with_name("lost"))
    vault.mkdir()


def test_a_protection_teaches_an_empty_vault_where_the_vnf_is_active(
    world: World, tmp_path: Path
) -> None:
    world.failover()
    settle(world.b)
    before = state(world)
    renew(world.folder / "vault")
    made = points.read(world.here.vault, "v", world.protect()["recovery_point"])
    assert (made.site, made.generation) == ("site-b", 2)
    assert state(world) == before
    assert activity.read(other_host(world, tmp_path / "other"), VNF) == before


def test_a_protection_that_fails_early_has_taught_an_empty_vault_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.failover()
    before = state(world)
    renew(world.folder / "vault")
    monkeypatch.setattr(run_kind.Check, "execute", refuse_to_start)
    with pytest.raises(PreflightFailed):
        world.protect()
    assert state(world) == before


def refuse_to_start(*_: Any, **__: Any) -> None:
    raise PreflightFailed("the protection of v", ["something is missing"])


def test_a_failover_under_way_is_not_forgotten_with_the_vault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ResourceFailed("no valid host")

    with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
        patched.setattr(servers, "boot", fail)
        world.failover()
    assert activity.read(world.here, VNF).state is VnfState.FAILING_OVER
    renew(world.folder / "vault")
    with pytest.raises(Busy):
        world.protect()
    abort(world.here, world.here.runs.all()[0].id, Unobserved())
    assert world.protect()["generation"] == 1


def test_an_aborted_failover_gives_the_vnf_back(world: World, tmp_path: Path) -> None:
    silent(world)
    recovering = InBackground(lambda: world.failover(world.process()))
    until(lambda: "boot db" in world.b.events)
    assert state(world).state is VnfState.FAILING_OVER
    with pytest.raises(Busy):
        protect(other_host(world, tmp_path / "other"), "v", Unobserved())
    abort(world.here, world.here.runs.all()[0].id, Unobserved())
    recovering.join()
    assert isinstance(recovering.error, Aborted)
    assert (state(world).active_site, state(world).state) == ("site-a", VnfState.ACTIVE)
    world.here.vnfs.put(VNF)
    assert world.protect()["generation"] == 1
    assert world.failover()["generation"] == 3


def test_a_claim_that_arrives_after_its_run_was_aborted_comes_to_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way: list[Claim] = []

    def lose(_: object, claim: Claim) -> None:
        on_its_way.append(claim)
        raise VaultError("no answer came")

    with monkeypatch.context() as patched, pytest.raises(VaultError):
        patched.setattr(generations, "_claim_everywhere", lose)
        world.failover()
    abort(world.here, world.here.runs.all()[0].id, Unobserved())
    with suppress(Busy):
        generations._claim_everywhere(world.here.vault, on_its_way[0])
    assert (state(world).active_site, state(world).state) == ("site-a", VnfState.ACTIVE)
    assert world.protect()["generation"] == 1


def test_two_hosts_that_fail_over_at_once_do_so_once(world: World, tmp_path: Path) -> None:
    there = other_host(world, tmp_path / "other")
    planned = [(host, prepare(host, "v", "site-b", None)) for host in (world.here, there)]
    world.failover()
    booted = [e for e in world.b.events if e.startswith("boot")]
    host, prepared = planned[1]
    with pytest.raises(Busy):
        failover(host, prepared, Unobserved())
    assert [e for e in world.b.events if e.startswith("boot")] == booted


def test_a_failover_of_another_host_that_has_not_ended_is_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ResourceFailed("no valid host")

    with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
        patched.setattr(servers, "boot", fail)
        world.failover()
    run = world.here.runs.all()[0].id
    with pytest.raises(Busy, match=run):
        prepare(other_host(world, tmp_path / "other"), "v", "site-b", None)
    assert world.failover()["generation"] == 3  # on the host that knows that it has failed


def test_a_failed_failover_is_aborted_before_one_to_another_site(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = backup_site()
    third.site.name = "site-c"
    sites = {"site-a": world.a, "site-b": world.b, "site-c": third}
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: sites[name].site)
    text = world.config.read_text()
    two, three = "site-b: {cloud: b}", "site-b: {cloud: b}\n  site-c: {cloud: c}"
    assert two in text
    world.config.write_text(text.replace(two, three))
    world.here = world.process()
    world.here.vnfs.put(VNF.model_copy(update={"backup": ["site-b", "site-c"]}))

    def silent(*_: object) -> None:
        raise ResourceFailed("does not answer")

    for _ in range(2):  # to the same site it may fail again
        with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
            patched.setattr(probes, "await_answer", silent)
            world.failover()
    failed = state(world).claim
    assert failed is not None
    assert world.b.servers
    with pytest.raises(Busy, match=failed.run):
        prepare(world.here, "v", "site-c", None)
    assert not third.servers
    abort(world.here, failed.run, Unobserved())
    failover(world.here, prepare(world.here, "v", "site-c", None), Unobserved())
    assert (state(world).active_site, bool(world.b.servers)) == ("site-c", False)


def fail(*_: object) -> None:
    raise ResourceFailed("no valid host")


def lose_a_failover(world: World, monkeypatch: pytest.MonkeyPatch, module: Any, call: str) -> str:
    """A failover to site-b whose host is lost when it makes a call; its run."""
    with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
        patched.setattr(module, call, fail)
        world.failover()
    return str(world.here.runs.all()[0].id)


def test_a_failover_takes_the_place_of_one_that_is_lost_and_uses_what_it_has_made(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, probes, "await_answer")
    there = other_host(world, tmp_path / "other")
    with pytest.raises(Busy):
        prepare(there, "v", "site-b", None)
    prepared = prepare(there, "v", "site-b", None, Accepted(instead_of=lost))
    assert prepared.instead_of is not None and prepared.instead_of.run == lost
    record = failover(there, prepared, Unobserved())
    now = state(world)
    assert (now.active_site, now.generation) == ("site-b", 3)
    assert now.claim is not None and now.claim.run == record["run"]
    assert sorted(s["name"] for s in world.b.servers.values()) == ["db", "front"]


def test_a_failover_that_was_taken_for_lost_boots_nothing_and_removes_nothing_of_its_successor(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, probes, "await_answer")
    there = other_host(world, tmp_path / "other")
    failover(there, prepare(there, "v", "site-b", None, Accepted(lost)), Unobserved())
    held = [dict(kind) for kind in (world.b.servers, world.b.volumes, world.b.ports)]
    with pytest.raises(Busy):
        resume(world.here, lost, Unobserved())
    abort(world.here, lost, Unobserved())
    assert [world.b.servers, world.b.volumes, world.b.ports] == held
    assert (state(world).active_site, state(world).generation) == ("site-b", 3)


def test_a_failover_that_wakes_up_after_it_was_replaced_boots_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = other_host(world, tmp_path / "other")
    boot, replaced = servers.boot, threading.Event()

    def sleeps(*given: Any) -> Any:
        """The first server boots; then the process is taken for dead, and the server is removed.
        Volumes of the other server may still be restored at that moment, and stay.
        """
        booted = boot(*given)
        if not replaced.is_set():
            replaced.set()
            claim = state(world).claim
            assert claim is not None
            for held in (world.b.servers, world.b.attachments):
                held.clear()
            now = generations.present(there.vault, "v", "site-a")
            instead = generations.GivenUp(lost=claim.run)
            generations.claim(there.vault, now, "site-c", "failover-other", instead)
        return booted

    with monkeypatch.context() as patched, pytest.raises(Busy) as caught:
        patched.setattr(servers, "boot", sleeps)
        world.failover()
    assert "run resume" not in "".join(caught.value.__notes__)
    assert not world.b.servers
    assert state(world).claim == generations.present(there.vault, "v", "site-a").claim


def test_a_lost_failover_that_has_a_copy_at_another_site_is_in_the_way(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = backup_site()
    third.site.name = "site-c"
    sites = {"site-a": world.a, "site-b": world.b, "site-c": third}
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: sites[name].site)
    lost = lose_a_failover(world, monkeypatch, probes, "await_answer")
    there = other_host(world, tmp_path / "other", sites="\n  site-c: {cloud: c}")
    there.vnfs.put(VNF.model_copy(update={"backup": ["site-b", "site-c"]}))
    with pytest.raises(PreflightFailed) as caught:
        prepare(there, "v", "site-c", None, Accepted(instead_of=lost))
    assert all(any(i in p for p in caught.value.problems) for i in world.b.servers)
    for held in (world.b.servers, world.b.volumes, world.b.ports, world.b.attachments):
        held.clear()
    failover(there, prepare(there, "v", "site-c", None, Accepted(lost)), Unobserved())
    assert (state(world).active_site, bool(third.servers)) == ("site-c", True)


def test_a_failover_that_succeeds_after_it_was_taken_for_lost_is_not_replaced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, probes, "await_answer")
    there = other_host(world, tmp_path / "other")
    prepared = prepare(there, "v", "site-b", None, Accepted(instead_of=lost))
    resume(world.here, lost, Unobserved())
    booted = [e for e in world.b.events if e.startswith("boot")]
    with pytest.raises(Busy):
        failover(there, prepared, Unobserved())
    assert [e for e in world.b.events if e.startswith("boot")] == booted
    assert state(world).generation == 2


def test_a_lost_failover_that_makes_more_after_the_plan_is_not_replaced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, servers, "boot")
    there = other_host(world, tmp_path / "other")
    prepared = prepare(there, "v", "site-b", None, Accepted(instead_of=lost))
    with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
        patched.setattr(probes, "await_answer", fail)
        resume(world.here, lost, Unobserved())  # it was only slow
    booted = dict(world.b.servers)
    assert booted
    with pytest.raises(PreflightFailed) as caught:
        failover(there, prepared, Unobserved())
    assert all(any(i in p for p in caught.value.problems) for i in booted)
    assert world.b.servers == booted
    now = state(world)
    assert (now.active_site, now.state) == ("site-a", VnfState.ACTIVE)
    assert there.runs.all()[0].state == "failed"
    failover(there, prepare(there, "v", "site-b", None), Unobserved())
    assert state(world).active_site == "site-b"


def test_a_failover_that_has_taken_the_place_of_a_lost_one_is_resumed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, servers, "boot")
    there = other_host(world, tmp_path / "other")
    prepared = prepare(there, "v", "site-b", None, Accepted(instead_of=lost))
    with monkeypatch.context() as patched, pytest.raises(ResourceFailed):
        patched.setattr(probes, "await_answer", fail)
        failover(there, prepared, Unobserved())
    # what it makes itself is no sign of life of the other one
    monkeypatch.setattr(rollback, "made_at", lambda *_: {"server-x": "server x"})
    resume(there, there.runs.all()[0].id, Unobserved())
    assert state(world).active_site == "site-b"


def test_a_failover_that_has_lost_its_claim_is_to_be_aborted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_a_failover(world, monkeypatch, probes, "await_answer")
    there = other_host(world, tmp_path / "other")
    failover(there, prepare(there, "v", "site-b", None, Accepted(lost)), Unobserved())
    with pytest.raises(Busy) as caught:
        resume(world.here, lost, Unobserved())
    notes = "".join(caught.value.__notes__)
    assert f"run abort {lost}" in notes
    assert "run resume" not in notes


def test_a_failover_that_this_host_knows_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lose_a_failover(world, monkeypatch, servers, "boot")
    with pytest.raises(Busy) as caught:
        prepare(world.here, "v", "site-b", None, Accepted(instead_of=run))
    assert caught.value.resource == f"run {run}"


@pytest.mark.parametrize("under_way", [False, True])
def test_a_failover_that_has_no_claim_is_not_replaced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under_way: bool
) -> None:
    if under_way:
        lose_a_failover(world, monkeypatch, servers, "boot")
    there = other_host(world, tmp_path / "other")
    with pytest.raises(InvalidInput):
        prepare(there, "v", "site-b", None, Accepted(instead_of="failover-x"))


def test_a_vnf_goes_back_to_the_site_where_its_only_point_was_taken(world: World) -> None:
    world.failover()
    with pytest.raises(InvalidInput):
        prepare(world.here, "v", "site-a", None)
    with pytest.raises(PreflightFailed) as caught:
        prepare(world.here, "v", "site-a", None, Accepted(to_origin=True))
    assert all(any(i in p for p in caught.value.problems) for i in world.a.servers)
    for held in (world.a.servers, world.a.ports, world.a.attachments):
        held.clear()  # the operator removes the old copy, and keeps its volumes
    volumes = dict(world.a.volumes)
    back = prepare(world.here, "v", "site-a", None, Accepted(to_origin=True))
    assert {p.network for s in back.plan.servers for p in s.ports} == {"net"}
    failover(world.here, back, Unobserved())
    assert (state(world).active_site, state(world).generation) == ("site-a", 3)
    assert {i: world.a.volumes[i] for i in volumes} == volumes
    assert len(world.a.servers) == len(back.plan.servers)


def test_an_old_copy_under_another_name_is_found_at_the_origin(world: World) -> None:
    world.failover()
    for server in world.a.servers.values():
        server["name"] = f"{server['name']}-old"
    world.a.ports.clear()
    with pytest.raises(PreflightFailed) as caught:
        prepare(world.here, "v", "site-a", None, Accepted(to_origin=True))
    assert all(any(i in p for p in caught.value.problems) for i in world.a.servers)


def test_a_vnf_whose_backups_lie_at_its_active_site_is_not_protected(world: World) -> None:
    world.here.vnfs.put(VNF.model_copy(update={"store_at_active_site": None}))
    with pytest.raises(PreflightFailed):
        world.protect()
    assert not world.a.frozen


def test_the_state_is_shown_also_to_a_host_that_knows_nothing(world: World, tmp_path: Path) -> None:
    world.failover()
    there = other_host(world, tmp_path / "other")
    with there.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM vnfs")
    found = inspect.statuses(there)["v"]
    assert isinstance(found, inspect.Status)
    assert (found.state.active_site, found.state.generation) == ("site-b", 2)
    assert found.newest is not None
    assert found.trouble is None


def test_a_host_that_knows_nothing_recovers_from_another_point_than_a_damaged_one(
    world: World, tmp_path: Path
) -> None:
    (intact,) = points.list_ids(world.here.vault, "v")
    world.here.vault.put("v/20261231T235959Z-000000.json", b"{}")
    there = other_host(world, tmp_path / "other")
    there.vnfs.remove("v")
    assert prepare(there, "v", "site-b", intact).state.active_site == "site-a"


def test_a_host_that_knows_nothing_reads_no_point_to_know_a_site_that_a_claim_names(
    world: World, tmp_path: Path
) -> None:
    world.failover()
    for point in points.list_ids(world.here.vault, "v"):
        world.here.vault.put(f"v/{point}.json", b"{}")
    there = other_host(world, tmp_path / "other")
    there.vnfs.remove("v")
    assert activity.before_failover(there, "v", "site-a").state.active_site == "site-b"


@pytest.mark.parametrize("theirs", [1, 3])
def test_of_two_that_first_keep_a_state_at_once_the_higher_generation_stays(
    tmp_path: Path, theirs: int
) -> None:
    engine, theirs_engine = (open_database(f"sqlite:///{tmp_path}/antipode.db") for _ in range(2))
    first, second = States(engine), States(theirs_engine)
    mine = ProtectedVnf(vnf="w", active_site="site-b", generation=2)
    other = ProtectedVnf(vnf="w", active_site="site-c", generation=theirs)

    def refuse(*given: Any) -> None:
        """As a database with locks by row answers the second of two first writers."""
        if given[2].startswith("INSERT INTO states"):
            event.remove(engine, "before_cursor_execute", refuse)
            event.listen(engine, "begin", lambda _: second.keep(other), once=True)
            raise IntegrityError(given[2], None, Exception("there is one"))

    event.listen(engine, "before_cursor_execute", refuse)
    assert first.keep(mine) == max(mine, other, key=lambda state: state.generation)
    assert first.find("w") == max(mine, other, key=lambda state: state.generation)


def test_of_processes_that_first_keep_a_state_at_once_none_fails(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/antipode.db"
    hosts = [States(open_database(url)) for _ in range(4)]
    for number in range(40):
        states = [
            ProtectedVnf(vnf=f"w{number}", active_site="site-a", generation=n) for n in range(1, 5)
        ]
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host, state: host.keep(state), hosts, states))
        assert hosts[0].find(f"w{number}") == states[-1]


THREE_SITES = """\
sites:
  site-a: {cloud: a}
  site-b: {cloud: b}
  site-c: {cloud: c}
vaults:
  va: {swift: {site: site-a}}
  vb: {swift: {site: site-b}}
  vc: {swift: {site: site-c}}
"""


def new_host(
    world: World,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dead: str | None = None,
    empty: Collection[str] = (),
) -> Deployment:
    """A host that knows nothing, with three sites of which each has a vault: those that are neither
    dead nor empty hold what the world's has.
    """
    folder.mkdir()
    (folder / "empty").mkdir()
    path = folder / "antipode.yaml"
    path.write_text(f"{THREE_SITES}database: sqlite:///{folder}/antipode.db\n")

    def opened(_: Deployment, name: str, there: VaultConfig, go_on: object) -> Vault:
        assert there.swift is not None
        if there.swift.site == dead:
            raise SiteUnreachable(f"{dead} does not answer")
        return DirectoryVault(
            folder / "empty" if there.swift.site in empty else world.folder / "vault"
        )

    there = Deployment(config.load(str(path)))
    monkeypatch.setattr(Deployment, "_open", opened)
    return there


def test_the_primarys_vault_is_asked_where_the_others_do_not_answer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.failover()
    there = new_host(world, tmp_path / "new", monkeypatch, dead="site-b")
    there.vnfs.put(VNF.model_copy(update={"backup": ["site-b", "site-c"], "vaults": ["va", "vb"]}))
    found = activity.before_failover(there, "v", "site-c")
    assert (found.state.active_site, found.state.generation) == ("site-b", 2)
    assert points.list_ids(found.vaults, "v")


def test_the_primarys_vault_is_asked_where_the_others_hold_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.failover()
    there = new_host(world, tmp_path / "new", monkeypatch, dead="site-b", empty=["site-c"])
    there.vnfs.put(VNF.model_copy(update={"backup": ["site-b", "site-c"]}))
    assert activity.before_failover(there, "v", "site-c").state.active_site == "site-b"


def test_a_vault_at_a_third_site_is_asked_where_the_backup_sites_holds_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = new_host(world, tmp_path / "new", monkeypatch, dead="site-a", empty=["site-b"])
    found = activity.before_failover(there, "v", "site-b")
    assert found.state.active_site == "site-a"
    assert points.list_ids(found.vaults, "v")


def test_a_vnf_of_which_no_vault_knows_anything_is_not_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ["site-a", "site-b", "site-c"]
    there = new_host(world, tmp_path / "new", monkeypatch, empty=every)
    with pytest.raises(NotFound):
        activity.before_failover(there, "v", "site-b")


def test_a_site_that_is_known_to_be_the_active_one_is_not_asked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = new_host(world, tmp_path / "new", monkeypatch, empty=["site-b", "site-c"])
    there.states.keep(ProtectedVnf(vnf="v", active_site="site-a", generation=1))
    with pytest.raises(NotFound):
        activity.before_failover(there, "v", "site-b")


def test_a_claim_that_one_vault_alone_has_does_not_make_a_failover_search_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "antipode.yaml"
    path.write_text(f"{THREE_SITES}database: sqlite:///{tmp_path}/antipode.db\n")
    there = Deployment(config.load(str(path)))
    held = {name: tmp_path / name for name in there.config.all_vaults}
    for folder in held.values():
        folder.mkdir()
    monkeypatch.setattr(there, "_open", lambda name, *_: DirectoryVault(held[name]))
    there.vnfs.put(VNF)
    active = generations.present(there.vault, "v", "site-a")
    done = generations.claim(there.vault, active, "site-b", "failover-1")
    generations.complete(there.vault, done)
    active = generations.present(there.vault, "v", "site-a")
    pending = generations.claim(there.vaults(["vb"]), active, "site-a", "failover-2")
    chosen, searches = there.vaults, itertools.count(1)

    def counted(*given: Any, **more: Any) -> Vaults:
        assert next(searches) < 10
        return chosen(*given, **more)

    monkeypatch.setattr(there, "vaults", counted)
    assert activity.before_failover(there, "v", "site-b").state.claim == pending
