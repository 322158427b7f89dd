# SPDX-License-Identifier: Apache-2.0
"""The sandbox itself: what survives a kill, and records that an inconsistent snapshot gives
away.
"""

from __future__ import annotations

import fcntl
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import antipode
from antipode.sandbox import canary, demo, desk, records, site
from antipode.sandbox.guests import records_of
from antipode.sandbox.records import CHAIN
from antipode.sandbox.supervision import SITES, Sandbox, SandboxError
from tests.sandbox.conftest import PRIMARY, World, until

pytestmark = pytest.mark.sandbox


def test_up_leaves_what_is_up_and_a_killed_site_comes_back_with_what_it_held(
    own_world: World,
) -> None:
    sandbox = own_world.sandbox
    pids = {row["site"]: row["pid"] for row in sandbox.status()}
    sandbox.up()
    assert {row["site"]: row["pid"] for row in sandbox.status()} == pids
    durable = canary.durable(sandbox, PRIMARY)
    volumes = {v.id: v.status for v in own_world.cloud(PRIMARY).block_storage.volumes()}
    sandbox.kill(PRIMARY)
    assert [row["state"] for row in sandbox.status()] == ["down", "serving"]
    sandbox.start(PRIMARY)
    cloud = own_world.cloud(PRIMARY)
    assert {v.id: v.status for v in cloud.block_storage.volumes()} == volumes
    assert {s.status for s in cloud.compute.servers()} == {"SHUTOFF"}
    canary.create(sandbox, PRIMARY)
    assert all(canary.durable(sandbox, PRIMARY)[role] > durable[role] for role in CHAIN)
    report = records.check(canary.records(sandbox, PRIMARY))
    assert report.consistent, report
    assert {role: max(m.last_of_boot) for role, m in report.members.items()} == dict.fromkeys(
        CHAIN, 2
    )


def test_what_was_being_made_when_a_site_was_killed_is_an_error_when_it_comes_back(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox(tmp_path / "sites")
    sandbox.up(latency=0)
    try:
        desk.write(sandbox)
        storage = canary.connect(sandbox, PRIMARY).block_storage
        whole = storage.create_volume(name="whole", size=1)
        storage.wait_for_status(
            whole, "available", ["error"], interval=0.05, wait=canary.PATIENCE_S
        )
        for operation in ("volume.create", "snapshot.create"):
            sandbox.ask(PRIMARY, "POST", "/faults", {"on": operation, "effect": "stuck"})
        half = storage.create_volume(name="half", size=1)
        snapshot = storage.create_snapshot(volume_id=whole.id, name="half")
        sandbox.kill(PRIMARY)
        sandbox.start(PRIMARY)
        assert {v.id: v.status for v in storage.volumes()} == {
            whole.id: "available",
            half.id: "error",
        }
        assert [(s.id, s.status) for s in storage.snapshots()] == [(snapshot.id, "error")]
    finally:
        sandbox.down()


def test_sites_that_begin_at_the_same_moment_do_not_take_each_others_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # all would have the lowest that are free
    monkeypatch.setattr(random, "sample", lambda ports, count: list(ports))
    sandboxes = [Sandbox(tmp_path / str(number)) for number in range(2)]
    try:
        with ThreadPoolExecutor(2) as beside:
            list(beside.map(lambda sandbox: sandbox.up(latency=0), sandboxes))
        ports = [
            port
            for s in sandboxes
            for site in SITES
            for port in (s.settings(site).port, s.settings(site).control_port)
        ]
        assert len(set(ports)) == 8
        assert [row["state"] for sandbox in sandboxes for row in sandbox.status()] == [
            "serving"
        ] * 4
    finally:
        for sandbox in sandboxes:
            sandbox.down()


def test_a_site_that_starts_waits_for_who_only_looks_whether_somebody_serves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "LOOKED_AT_S", 60)
    with (tmp_path / "lock").open("w") as mine, (tmp_path / "lock").open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(looked_at, fcntl.LOCK_UN)).start()
        assert site._locked(mine.fileno())
        monkeypatch.setattr(site, "LOOKED_AT_S", 0)
        assert not site._locked(looked_at.fileno())


def test_a_witness_who_looked_too_seldom_is_told_what_all_had_durable_when_they_were_frozen(
    world: World,
) -> None:
    witness = demo.Watcher(world.sandbox, PRIMARY)
    compute, guests = world.cloud(PRIMARY).compute, world.guests()
    for action in ({"quiesce": {"timeout": 600}}, {"unquiesce": None}):
        durable = {g["role"]: g["durable"] for g in world.guests()}
        for guest in guests:
            compute.post(f"/servers/{guest['id']}/action", json=action).raise_for_status()
    assert witness.look() == durable
    assert witness.look() is None


def test_where_the_add_on_is_not_installed_nova_does_not_know_its_calls(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "sites")
    sandbox.up(latency=0, add_on=False)
    try:
        desk.write(sandbox)
        compute = canary.connect(sandbox, PRIMARY).compute
        answers = [compute.get("/os-quiesce"), compute.get("/servers/some/os-quiesce")]
        assert [(a.status_code, a.json()["itemNotFound"]["message"]) for a in answers] == [
            (404, "The resource could not be found.")
        ] * 2
        assert "not installed" in demo.Operator(sandbox.directory).run("site", "check").stdout
    finally:
        sandbox.down()


def test_a_quiesce_that_is_not_done_in_time_is_refused_with_504_and_thawed(world: World) -> None:
    server = world.guests()[0]["id"]
    world.fault(PRIMARY, r"^server\.quiesce$", "stuck")
    compute = world.cloud(PRIMARY).compute
    answer = compute.post(f"/servers/{server}/action", json={"quiesce": {"timeout": 1}})
    assert answer.status_code == 504, answer.text
    assert compute.get(f"/servers/{server}/os-quiesce").json()["quiesce"]["state"] is None
    assert world.frozen() == set()


def test_a_thaw_that_fails_is_made_again_by_the_add_on(world: World) -> None:
    server = world.guests()[0]["id"]
    compute = world.cloud(PRIMARY).compute
    compute.post(f"/servers/{server}/action", json={"quiesce": {"timeout": 600}}).raise_for_status()
    world.fault(PRIMARY, r"^server\.unquiesce$", "error", message="no answer from the agent")
    answer = compute.post(f"/servers/{server}/action", json={"unquiesce": None})
    assert answer.status_code == 409, answer.text
    assert compute.get(f"/servers/{server}/os-quiesce").json()["quiesce"]["state"] == "unquiescing"
    until(lambda: not world.frozen(), "the add-on has thawed it by itself")


def test_a_quiesce_that_an_administrators_reset_overtakes_freezes_no_member(world: World) -> None:
    server = world.guests()[0]["id"]
    rule = world.fault(PRIMARY, r"^server\.quiesce$", "stuck")
    compute = world.cloud(PRIMARY).compute
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(
            compute.post, f"/servers/{server}/action", json={"quiesce": {"timeout": 60}}
        )
        until(
            lambda: (
                compute.get(f"/servers/{server}/os-quiesce").json()["quiesce"]["state"]
                == "quiescing"
            ),
            "it is being quiesced",
        )
        busy = compute.post(f"/servers/{server}/action", json={"unquiesce": None})
        compute.post(
            f"/servers/{server}/action", json={"os-resetState": {"state": "active"}}
        ).raise_for_status()
        world.sandbox.ask(PRIMARY, "DELETE", f"/faults/{rule}")
        answer = asked.result()
    assert busy.status_code == 409
    assert answer.status_code == 409
    assert world.frozen() == set()


def test_nothing_else_of_antipode_imports_the_embedded_sites() -> None:
    source = Path(antipode.__file__).parent
    ways_in = {source / "cli" / "sandbox.py", source / "cli" / "demo.py"}
    others = {
        p for p in source.rglob("*.py") if "sandbox" not in p.relative_to(source).parts[:1]
    } - ways_in
    assert [
        p
        for p in others
        if "antipode.sandbox" in p.read_text() or "from antipode import sandbox" in p.read_text()
    ] == []


def test_a_directory_with_something_else_in_it_is_neither_used_nor_wiped(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(SandboxError):
        Sandbox(tmp_path).up()
    Sandbox(tmp_path).down(wipe=True)
    assert (tmp_path / "precious").read_text() == "mine"


def snapshot(world: World, meanwhile: Callable[[], object]) -> records.Report:
    """Snapshots of the data volumes one after the other, db first, with something else between
    them; what their bytes hold.
    """
    storage = world.cloud(PRIMARY).block_storage
    contents = {}
    for role, volume in sorted(
        canary.data_volumes(world.sandbox, PRIMARY).items(), key=lambda pair: CHAIN.index(pair[0])
    ):
        made = storage.create_snapshot(volume_id=volume, name=f"test-{role}", is_forced=True)
        storage.wait_for_status(made, "available", ["error"], interval=0.05, wait=canary.PATIENCE_S)
        contents[role] = records_of(canary.path_of_snapshot(world.sandbox, PRIMARY, made.id))
        storage.delete_snapshot(made)
        meanwhile()
    return records.check(contents)


def test_snapshots_of_running_guests_taken_db_first_with_pauses_violate_the_order(
    world: World,
) -> None:
    report = snapshot(world, lambda: canary.await_records(world.sandbox, PRIMARY, 3))
    assert [(v.ahead, v.behind) for v in report.order_violations] == [
        ("app", "db"),
        ("front", "app"),
    ]
    assert report.torn == report.gaps == report.duplicates == 0


def test_snapshots_of_frozen_guests_hold_exactly_what_the_guests_had_durable(world: World) -> None:
    compute = world.cloud(PRIMARY).compute
    servers = {g["role"]: g["id"] for g in world.guests()}
    for role in CHAIN:
        compute.post(
            f"/servers/{servers[role]}/action", json={"quiesce": {"timeout": 60}}
        ).raise_for_status()
    try:
        durable = {g["role"]: g["durable"] for g in world.guests()}
        # in which guests that are not frozen would write
        report = snapshot(world, lambda: time.sleep(0.3))
        assert {g["role"]: g["durable"] for g in world.guests()} == durable
    finally:
        for role in reversed(CHAIN):
            compute.post(
                f"/servers/{servers[role]}/action", json={"unquiesce": None}
            ).raise_for_status()
    assert report.consistent, report
    assert report.last == durable
    until(
        lambda: canary.durable(world.sandbox, PRIMARY)["front"] > durable["front"],
        "the chain goes on",
    )


def test_the_files_for_the_operator_name_what_there_is(world: World) -> None:
    for name in (desk.CLOUDS, desk.CONFIGURATION, desk.VNF_FILE):
        assert (world.sandbox.directory / name).is_file()
    checks = world.operator.ask("site", "check")
    assert [c for c in checks if c["needed"] and not c["ok"]] == []
