# SPDX-License-Identifier: Apache-2.0
"""The old copy of a VNF is cut off, stopped and locked; the active copy never is, whatever its
names, its clouds, the database and the vaults say.
"""

from __future__ import annotations

import itertools
import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.engine.deployment import Deployment
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    Busy,
    InvalidInput,
    NotFound,
    ResourceFailed,
    SiteUnreachable,
    VaultError,
)
from antipode.model import marks
from antipode.model.state import Claim, ProtectedVnf, VnfState
from antipode.operations.abort import abort
from antipode.operations.fence import fence, prepare, request
from antipode.operations.resume import resume
from antipode.recover import fencing
from antipode.runs import KINDS, kind_of
from antipode.vault import Vault, generations, old_copies, points, sealing
from antipode.vault.directory import DirectoryVault
from antipode.vault.ensemble import Vaults
from tests.unit.fakecloud import FakeCloud, refuse
from tests.unit.test_durable_runs import World, world

__all__ = ["world"]
OLD = ("id-db", "id-front")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fencing, "POLL_S", 0.01)


@pytest.fixture
def moved(world: World) -> World:
    """The VNF has failed over to site-b, and its old copy at site-a runs."""
    world.failover()
    for cloud in (world.a, world.b):
        cloud.events.clear()
    return world


def fenced(world: World, site: str = "site-a", here: Deployment | None = None) -> dict[str, Any]:
    here = here or world.process()
    return fence(here, request(prepare(here, "v", site)), Unobserved())


def is_fenced(cloud: FakeCloud, server: str) -> bool:
    ports = [p for p in cloud.ports.values() if p["device_id"] == server]
    there = cloud.servers[server]
    down = all(p.get("admin_state_up", True) is False for p in ports)
    return bool(ports) and down and there["status"] == "SHUTOFF" and there.get("locked") is True


def picture(cloud: FakeCloud) -> str:
    return json.dumps([cloud.servers, cloud.ports], sort_keys=True)


def claimed(world: World, run: str, to: str) -> Claim:
    """A failover that has the next generation, and has not ended."""
    vault = world.here.vault
    now = generations.present(vault, "v", "site-a")
    return generations.claim(vault, now, to, run)


def back(world: World) -> None:
    """The copy at site-a is the active one again, with the very servers that it had."""
    generations.complete(world.here.vault, claimed(world, "failover-back", "site-a"))


def test_the_old_copy_is_cut_off_stopped_and_locked_and_the_active_one_is_not_touched(
    moved: World,
) -> None:
    before = picture(moved.b)
    record = fenced(moved)
    assert all(is_fenced(moved.a, server) for server in OLD)
    assert (picture(moved.b), moved.b.events) == (before, [])
    row = moved.here.runs.get(record["run"])
    assert (row.kind, row.state, row.result["not_fenced"]) == ("fence", "succeeded", [])


def test_ports_go_down_before_any_server_is_stopped(moved: World) -> None:
    fenced(moved)
    events = moved.a.events
    last_port = max(i for i, e in enumerate(events) if e.startswith("describe"))
    assert last_port < min(i for i, e in enumerate(events) if e.startswith("os-stop"))


def test_what_it_was_before_is_kept_with_the_run_and_with_each_resource(moved: World) -> None:
    moved.a.servers["id-front"]["status"] = "SHUTOFF"
    moved.a.ports["port-id-front"]["admin_state_up"] = False
    record = fenced(moved)
    was = {s["server"]: s["was"] for s in record["servers"]}
    assert was == {"db": "ACTIVE unlocked", "front": "SHUTOFF unlocked"}
    up = {p["id"]: p["was_up"] for p in record["ports"]}
    assert up == {"port-id-db": True, "port-id-front": False}
    tagged = {p["id"] for p in moved.a.ports.values() if marks.is_fenced_port(p)}
    assert tagged == {"port-id-db"}
    kept = {s["name"]: s["metadata"][marks.FENCED_FROM] for s in moved.a.servers.values()}
    assert kept == was
    assert "voice" in moved.a.ports["port-id-db"]["tags"]


def test_again_changes_nothing_and_still_knows_what_it_was_before(moved: World) -> None:
    fenced(moved)
    moved.a.events.clear()
    again = fenced(moved)
    assert moved.a.events == []
    assert {s["was"] for s in again["servers"]} == {"ACTIVE unlocked"}
    assert all(p["was_up"] for p in again["ports"])


def test_a_guest_that_was_started_again_is_fenced_again(moved: World) -> None:
    fenced(moved)
    moved.a.servers["id-db"]["status"] = "ACTIVE"
    assert {s["was"] for s in fenced(moved)["servers"]} == {"ACTIVE unlocked"}
    assert is_fenced(moved.a, "id-db")


def test_the_plan_says_what_would_be_done_and_changes_nothing(moved: World) -> None:
    moved.a.servers["id-front"]["status"] = "SHUTOFF"
    moved.a.add_server("db", 7, "id-of-another-db")
    planned = prepare(moved.process(), "v", "site-a").record()
    assert {s["id"]: s["does"] for s in planned["servers"]} == {
        "id-db": ["stop", "lock"],
        "id-front": ["lock"],
    }
    assert planned["left_alone"] == ["db (id-of-another-db)"]
    assert moved.a.events == []


# ---- the active copy cannot be fenced ----


def refused(world: World, site: str, here: Deployment | None = None) -> type[AntipodeError]:
    """The error with which a fencing is refused; nothing was changed at any site."""
    before = picture(world.a), picture(world.b)
    with pytest.raises(AntipodeError) as raised:
        fenced(world, site, here)
    assert (picture(world.a), picture(world.b)) == before
    return raised.type


def test_a_vnf_that_never_moved_is_not_fenced_anywhere(world: World) -> None:
    assert refused(world, "site-a") is InvalidInput
    assert refused(world, "site-b") is InvalidInput


def test_the_active_copy_is_refused_by_the_name_of_its_site(moved: World) -> None:
    assert refused(moved, "site-b") is InvalidInput


def test_a_vnf_that_is_failing_over_is_not_fenced(world: World) -> None:
    claimed(world, "failover-of-another-host", "site-b")
    assert refused(world, "site-a") is Busy
    assert refused(world, "site-b") is Busy


def test_servers_with_the_names_of_members_are_left_alone(moved: World) -> None:
    moved.a.add_server("db", 7, "id-of-another-db")
    fenced(moved)
    assert moved.a.servers["id-of-another-db"]["status"] == "ACTIVE"
    assert all(is_fenced(moved.a, server) for server in OLD)


def test_of_two_sites_that_are_one_cloud_only_the_old_servers_are_fenced(moved: World) -> None:
    # everything that is at site-b is listed at site-a, too: the worst that one cloud can show
    active = dict(moved.b.servers)
    moved.a.servers.update(active)
    moved.a.ports.update(moved.b.ports)
    fenced(moved)
    assert all(is_fenced(moved.a, server) for server in OLD)
    for server in active:
        assert moved.a.servers[server]["status"] == "ACTIVE"
        assert not moved.a.servers[server].get("locked")
    ports = [p for p in moved.a.ports.values() if p["device_id"] in active]
    assert ports
    assert all(p.get("admin_state_up", True) for p in ports)


def test_after_a_failback_the_copy_at_the_first_site_is_the_active_one(moved: World) -> None:
    back(moved)
    assert refused(moved, "site-a") is InvalidInput
    record = fenced(moved, "site-b")  # by the mark of the failover: no point was taken there
    assert {s["server"] for s in record["servers"]} == {"db", "front"}
    ours = {s["id"] for s in record["servers"]}
    assert all(is_fenced(moved.b, server) for server in ours)


def test_a_database_that_is_behind_does_not_make_the_active_copy_old(moved: World) -> None:
    behind = moved.here.states.find("v")
    assert behind is not None
    back(moved)
    moved.here.states.forget("v")
    moved.here.states.keep(behind)
    assert refused(moved, "site-a") is InvalidInput


def test_a_database_that_knows_more_than_the_vault_stops_it(moved: World) -> None:
    known = moved.here.states.find("v")
    assert known is not None
    assert known.claim is not None
    later = known.claim.model_copy(
        update={"generation": 3, "site": "site-a", "former_site": "site-b", "run": "failover-x"}
    )
    moved.here.states.keep(
        ProtectedVnf(
            vnf="v",
            active_site="site-a",
            generation=3,
            state=VnfState.ACTIVE,
            since=known.since,
            claim=later,
        )
    )
    assert refused(moved, "site-a") is VaultError


def test_a_vault_that_is_silent_stops_it(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> Any:
        raise SiteUnreachable("black hole")

    here = moved.process()
    monkeypatch.setattr(here, "_open", silent)
    assert refused(moved, "site-a", here) is SiteUnreachable


def test_vaults_that_could_not_have_decided_the_next_move_are_too_few(tmp_path: Path) -> None:
    def silent() -> Vault:
        raise SiteUnreachable("black hole")

    def judge(*answering: str) -> None:
        vaults = Vaults(
            {
                name: partial(DirectoryVault, tmp_path / name) if name in answering else silent
                for name in ("a", "b", "third")
            },
            all_needed=False,
            sites={"a": "site-a", "b": "site-b", "third": None},
        )
        now = ProtectedVnf(vnf="v", active_site="site-b", generation=2)
        generations.must_be_decided(vaults, now)

    judge("a", "b", "third")
    judge("a", "third")
    judge("a", "b")  # of the two that would have a say the first breaks the tie
    for too_few in (("b",), ("third",), ("b", "third")):
        with pytest.raises(VaultError):
            judge(*too_few)


def test_a_vnf_that_moves_in_between_is_not_fenced_any_more(moved: World) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "site-a"))
    back(moved)
    before = picture(moved.a)
    with pytest.raises(InvalidInput):
        fence(here, row, Unobserved())
    assert picture(moved.a) == before


def test_a_vnf_that_moves_while_it_is_fenced_stops_the_fencing(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved.a.servers["id-db"]["OS-EXT-STS:task_state"] = "rebooting"  # one pass is not enough
    passes: list[str] = []
    do = fencing._Pass.do

    def and_moves(one: Any) -> None:
        passes.append("pass")
        do(one)
        if len(passes) == 1:
            back(moved)

    monkeypatch.setattr(fencing._Pass, "do", and_moves)
    with pytest.raises(InvalidInput):
        fenced(moved)
    assert len(passes) == 1


def test_points_without_a_trusted_signature_name_no_old_server(moved: World) -> None:
    vault = moved.here.vault
    here = moved.process()
    for point in points.list_ids(vault, "v"):
        name = sealing.manifest_name("v", point)
        vault.delete(name)
        vault.put(name, b"{}")
    # the failover that this host has made knows them still
    assert {s["id"] for s in prepare(here, "v", "site-a").servers} == set(OLD)
    with here.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM steps")
        connection.exec_driver_sql("DELETE FROM runs")
    assert refused(moved, "site-a") is NotFound


def test_an_old_copy_is_known_when_its_points_have_expired(moved: World) -> None:
    vault = moved.here.vault
    for point in points.list_ids(vault, "v"):
        vault.delete(sealing.manifest_name("v", point))
    fenced(moved)
    assert all(is_fenced(moved.a, server) for server in OLD)


def test_a_failover_that_was_aborted_names_no_old_server(world: World) -> None:
    vault = world.here.vault
    generations.release(vault, claimed(world, "failover-aborted", "site-b"))
    world.failover()
    state = generations.present(vault, "v", "site-a")
    planned = {"failover-aborted": {"id-app": "a member then"}}
    copy = old_copies.find(vault, "v", "site-a", state.generation, lambda run: planned.get(run, {}))
    assert set(copy.servers) == set(OLD)


def test_a_server_that_left_the_vnf_after_an_undo_is_not_of_its_old_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def point(**servers: str) -> Any:
        found = [SimpleNamespace(id=i, name=name) for i, name in servers.items()]
        empty: Any = {"unattached": [], "volumes": [], "vip_ports": []}
        return SimpleNamespace(topology=SimpleNamespace(servers=found, **empty))

    def moved_to(generation: int, site: str, former: str) -> Any:
        names = {"run": f"run-{generation}", "site": site, "former_site": former}
        return SimpleNamespace(generation=generation, **names), SimpleNamespace(outcome="active")

    claims = [
        moved_to(2, "site-b", "site-a"),
        moved_to(3, "site-a", "site-b"),
        moved_to(4, "site-b", "site-a"),
    ]
    made = {"1": point(db="db", left="left"), "3": point(db="db")}
    summaries = [(p, SimpleNamespace(generation=int(p), site="site-a")) for p in made]
    recorded = {"run-2": {"db": "db", "left": "left"}, "run-4": {"db": "db"}}
    monkeypatch.setattr(generations, "history", lambda vault, vnf: claims)
    monkeypatch.setattr(points, "list_points", lambda vault, vnf: summaries)
    monkeypatch.setattr(old_copies, "_read", lambda vault, vnf, name: made[name])
    here: Any = None
    look = partial(old_copies.find, here, "v", "site-a", 4, lambda run: recorded.get(run, {}))
    assert look().servers == {"db": "db"}
    made["3"] = point(other="db")  # a copy of its own, after a failback: both are old
    assert look().servers == {"db": "db", "left": "left", "other": "db"}


def test_a_server_of_the_present_generation_is_spared_though_an_older_point_names_it() -> None:
    copy = old_copies.OldCopy("site-a", {"s1": "db", "s2": "db"}, {"f2"}, {"s1"}, {"f3"})
    assert not copy.has({"id": "s1", "metadata": {}})
    assert not copy.has({"id": "s2", "metadata": {marks.RUN: "f3"}})
    assert not copy.has({"id": "s4", "name": "db", "metadata": {}})
    assert copy.has({"id": "s2", "metadata": {}})
    assert copy.has({"id": "s3", "metadata": {marks.RUN: "f2"}})
    assert copy.ids == ["s2"]


# ---- what may go wrong at the site ----


def silence(world: World, monkeypatch: pytest.MonkeyPatch, service: str, times: int) -> None:
    """Have a service of site-a not answer so many times."""
    site = world.a.site
    api = site.compute._api if service == "compute" else site.networks._api
    send, left = api._send, [times]

    def silent(*arguments: Any, **options: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise SiteUnreachable("site-a does not answer")
        return send(*arguments, **options)

    monkeypatch.setattr(api, "_send", silent)


@pytest.mark.parametrize("service", ["compute", "network"])
def test_a_service_that_answers_late_is_asked_again(
    moved: World, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "site-a"))
    silence(moved, monkeypatch, service, 3)
    fence(here, row, Unobserved())
    assert all(is_fenced(moved.a, server) for server in OLD)


def test_without_neutron_the_servers_are_stopped_and_locked_and_the_run_says_what_is_left(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "site-a"))
    name = row.id
    silence(moved, monkeypatch, "network", 10**9)
    monkeypatch.setattr(fencing, "WITHIN_S", 0.0)
    with pytest.raises(ResourceFailed):
        fence(here, row, Unobserved())
    assert all(moved.a.servers[s]["status"] == "SHUTOFF" for s in OLD)
    assert all(moved.a.servers[s]["locked"] for s in OLD)
    ended = here.runs.get(name)
    assert (ended.state, bool(ended.result["not_fenced"])) == ("failed", True)


def test_without_nova_the_ports_go_down(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "site-a"))
    silence(moved, monkeypatch, "compute", 10**9)
    monkeypatch.setattr(fencing, "WITHIN_S", 0.0)
    with pytest.raises(ResourceFailed):
        fence(here, row, Unobserved())
    assert all(moved.a.ports[f"port-{s}"]["admin_state_up"] is False for s in OLD)


def test_a_server_that_is_deleted_in_between_is_no_failure(moved: World) -> None:
    def deletes(event: str) -> None:
        if event == "os-stop db":
            moved.a.before = lambda event: None
            moved.a._delete_server("id-db")
            refuse(404, "Instance id-db could not be found.")

    moved.a.before = deletes
    fenced(moved)
    assert "id-db" not in moved.a.servers
    assert is_fenced(moved.a, "id-front")


def test_a_server_in_error_is_stopped_where_its_guest_may_run(moved: World) -> None:
    moved.a.servers["id-db"]["status"] = "ERROR"
    moved.a.servers["id-front"] |= {"status": "ERROR", "OS-EXT-STS:power_state": 0}
    fenced(moved)
    assert is_fenced(moved.a, "id-db")
    assert "os-stop front" not in moved.a.events
    assert moved.a.servers["id-front"]["locked"]


@pytest.mark.parametrize(
    ("status", "task"),
    [("SHUTOFF", "powering-on"), ("SUSPENDED", "resuming"), ("SHELVED_OFFLOADED", "spawning")],
)
def test_a_server_that_is_being_started_is_waited_for_and_stopped(
    moved: World, monkeypatch: pytest.MonkeyPatch, status: str, task: str
) -> None:
    real, looks = fencing.members, itertools.count(1)
    moved.a.servers["id-db"] |= {"status": status, "OS-EXT-STS:task_state": task}

    def members(*args: Any) -> list[dict[str, Any]]:
        if next(looks) == 5:
            moved.a.servers["id-db"] |= {"status": "ACTIVE", "OS-EXT-STS:task_state": None}
        return [dict(server) for server in real(*args)]

    monkeypatch.setattr(fencing, "members", members)
    fenced(moved)
    assert next(looks) > 5
    assert is_fenced(moved.a, "id-db")


def test_a_member_whose_cell_answers_late_keeps_what_it_was_before(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks, left = fencing.members, itertools.count(1), list[str]()
    note = fencing._must_go_on

    def members(*args: Any) -> list[dict[str, Any]]:
        down = {"id": "id-db", "status": "UNKNOWN", "name": ""}
        return [
            down if next(looks) < 4 and server["id"] == "id-db" else dict(server)
            for server in real(*args)
        ]

    def go_on(fencing: Any, fenced: Any, *args: Any, **more: Any) -> None:
        left.extend(fenced.left)
        note(fencing, fenced, *args, **more)

    monkeypatch.setattr(fencing, "members", members)
    monkeypatch.setattr(fencing, "_must_go_on", go_on)
    fenced(moved)
    assert "db" in left[0] and "UNKNOWN" not in left[0]
    assert is_fenced(moved.a, "id-db")
    assert moved.a.servers["id-db"]["metadata"][marks.FENCED_FROM] == "ACTIVE unlocked"


def test_a_change_that_is_refused_for_a_moment_is_tried_again(moved: World) -> None:
    refusals = {"os-stop db": 2, "lock front": 2, "mark db": 1}

    def busy(event: str) -> None:
        if refusals.get(event, 0) > 0:
            refusals[event] -= 1
            refuse(409, "another action is under way")

    moved.a.before = busy
    fenced(moved)
    assert all(is_fenced(moved.a, server) for server in OLD)


def test_a_server_that_cannot_be_stopped_fails_the_run_and_the_others_are_fenced(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(event: str) -> None:
        if event == "os-stop db":
            refuse(409, "Cannot 'stop' instance while it is in vm_state resized")

    moved.a.before = never
    monkeypatch.setattr(fencing, "WITHIN_S", 0.0)
    with pytest.raises(ResourceFailed):
        fenced(moved)
    assert is_fenced(moved.a, "id-front")
    assert moved.a.servers["id-db"]["locked"]
    assert moved.a.ports["port-id-db"]["admin_state_up"] is False


def test_a_member_that_is_locked_is_unlocked_to_be_stopped_where_we_are_no_administrator(
    moved: World,
) -> None:
    moved.a.site.roles = ["member"]
    moved.a.servers["id-db"]["locked"] = True

    def as_nova_does(event: str) -> None:
        if event == "os-stop db" and moved.a.servers["id-db"].get("locked"):
            refuse(409, "Instance id-db is locked")

    moved.a.before = as_nova_does
    record = fenced(moved)
    assert is_fenced(moved.a, "id-db")
    assert {s["server"]: s["was"] for s in record["servers"]}["db"] == "ACTIVE locked"


def test_a_clock_that_jumps_changes_nothing(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    moved.a.servers["id-db"]["OS-EXT-STS:task_state"] = "rebooting"
    looks = itertools.count()
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 86400 * (next(looks) % 3 - 1))
    moved.a.before = lambda event: moved.a.servers["id-db"].pop("OS-EXT-STS:task_state", None)
    fenced(moved)
    assert all(is_fenced(moved.a, server) for server in OLD)


# ---- the run ----


def test_two_hosts_fence_once(moved: World) -> None:
    one, other = moved.process(), moved.process()
    row = request(prepare(other, "v", "site-a"))
    with one.claims.begin(request(prepare(one, "v", "site-a"))), pytest.raises(Busy):
        fence(other, row, Unobserved())


def test_an_abort_stops_it_and_starts_nothing(moved: World) -> None:
    here = moved.process()
    row = request(prepare(here, "v", "site-a"))
    with here.claims.begin(row) as claim:
        run = claim.run
    record = abort(moved.process(), run, Unobserved())
    assert (record["state"], moved.a.events) == ("aborted", [])
    assert record["left"]


def test_a_run_whose_process_died_is_resumed(moved: World) -> None:
    here = moved.process()
    with here.claims.begin(request(prepare(here, "v", "site-a"))) as claim:
        run = claim.run
    resume(moved.process(), run, Unobserved())
    assert all(is_fenced(moved.a, server) for server in OLD)


def test_no_other_run_is_displaced_by_it() -> None:
    kind = kind_of("fence")
    assert not kind.is_recovery
    assert not any(kind.displaces(kind_of(name)) for name in KINDS.names)
