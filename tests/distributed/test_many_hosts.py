# SPDX-License-Identifier: Apache-2.0
"""Several hosts, one database, one board: each run is carried out by one of them at a time,
whatever becomes of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from antipode.engine.deployment import Deployment
from antipode.engine.run import state_of
from antipode.errors import AntipodeError
from antipode.operations.protect import request
from antipode.service import daemon
from antipode.vault import points
from tests.distributed import servers
from tests.distributed.hosts import (
    EXPIRES_S,
    NEVER_S,
    Host,
    Installation,
    Service,
    at_work,
    has_ended,
    installation,
    look_from,
    through,
    vnf,
)
from tests.distributed.servers import until


@pytest.fixture
def database(postgresql: servers.DatabaseServer) -> str:
    return postgresql.new_database()


def jobboard(endpoint: str, name: str, expires_s: float = EXPIRES_S) -> dict[str, Any]:
    return {"etcd": {"endpoints": [endpoint]}, "name": name, "claim_expires": expires_s}


@pytest.fixture
def expires_s() -> float:
    return EXPIRES_S


@pytest.fixture
def there(
    tmp_path: Path, database: str, etcd: str, name: str, expires_s: float
) -> Iterator[Installation]:
    with installation(
        tmp_path, database=database, jobboard=jobboard(etcd, name, expires_s)
    ) as made:
        yield made


@pytest.fixture
def one(there: Installation) -> Host:
    return there.host()


@pytest.fixture
def two(there: Installation) -> Host:
    return there.host()


@pytest.fixture
def here(one: Host) -> Deployment:
    return look_from(one)


def begun_at(service: Service, there: Installation, here: Deployment) -> str:
    """A protect that one service is at, its backups under way."""
    there.hold_backups()
    run = there.queue(here)
    until("the backups to be under way", lambda: len(there.primary.cloud.backups) == 6)
    until("the service to be at it", lambda: service.has_logged(run))
    return run


def succeeds(here: Deployment, run: str) -> None:
    until(f"{run} to end", lambda: has_ended(here, run))
    row = here.runs.get(run)
    assert (row.state, row.reason) == ("succeeded", None)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_queued_runs_are_carried_out_once_each_by_a_free_host(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, etcd: str, name: str
) -> None:
    url = request.getfixturevalue(kind).new_database()
    with installation(
        tmp_path, database=url, jobboard=jobboard(etcd, name, NEVER_S), limits={"runs": 1}
    ) as there:
        hosts = [there.host(), there.host()]
        here = look_from(hosts[0])
        services = at_work([host.starts_to_serve() for host in hosts])
        for member in ("db", "app", "front"):
            here.vnfs.put(vnf(member, (member,)))
        runs = [there.queue(here, member) for member in ("db", "app", "front")]
        for run in runs:
            succeeds(here, run)
            assert here.runs.get(run).claim == 1
        assert there.backups_made() == 6
        claims: Any = here.claims
        until("the board to be empty", lambda: not claims.postings())
        claims.board.close()
        assert [s.stop() for s in services] == [0, 0]


def test_what_a_killed_host_was_at_another_goes_on_with(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    first = one.serve()
    run = begun_at(first, there, here)
    second = two.serve()
    first.kill()
    there.let_backups_be_ready()
    succeeds(here, run)
    assert there.backups_made() == 6  # none twice
    assert second.has_logged(run)
    assert len(points.list_ids(here.vault, "hlr")) == 1


def test_a_claim_is_renewed_while_a_long_step_lasts(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    first = one.serve()
    run = begun_at(first, there, here)
    second = two.serve()
    until_s = time.monotonic() + 2 * EXPIRES_S
    while time.monotonic() < until_s:
        assert state_of(here.runs.get(run), here) == "running"
        assert here.runs.get(run).claim == 1
        time.sleep(EXPIRES_S / 10)
    there.let_backups_be_ready()
    succeeds(here, run)
    assert here.runs.get(run).claim == 1
    assert not there.primary.made_by(second.pid)


def test_a_host_that_was_paused_changes_nothing_when_it_wakes_up(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    first = one.serve()
    run = begun_at(first, there, here)
    two.serve()
    first.pause()
    until("the other host to have it", lambda: here.runs.get(run).claim >= 2)
    there.let_backups_be_ready()
    succeeds(here, run)
    until(
        "the end of the run to be in its timeline too",
        lambda: "succeeded" in {s.name for s in here.runs.steps(run)},
    )
    before = there.primary.made_by(first.pid)
    steps = {(s.id, s.state) for s in here.runs.steps(run)}
    first.go_on()
    until("the late host to know", lambda: first.has_logged(f"{run} is not executed here"))
    time.sleep(EXPIRES_S / 2)  # there is nothing to wait for: it is to do nothing
    assert there.primary.made_by(first.pid) == before
    assert {(s.id, s.state) for s in here.runs.steps(run)} == steps
    assert here.runs.get(run).state == "succeeded"
    assert first.process.poll() is None
    # and it is of use again
    again = there.queue(here)
    succeeds(here, again)


def test_a_host_that_is_paused_inside_a_window_only_thaws_when_it_wakes_up(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    cloud = there.primary.cloud
    first = one.serve()
    cloud.looks_until_available = 10**6
    run = there.queue(here)
    until("the window to be open", lambda: len(cloud.snapshots) == 6)
    first.pause()
    with cloud.lock:
        cloud.looks_until_available = 2
        for snapshot in cloud.snapshots.values():
            snapshot["looks"] = 1
    two.serve()
    until("the other host to have it", lambda: here.runs.get(run).claim >= 2)
    succeeds(here, run)
    assert not cloud.frozen
    before = there.primary.made_by(first.pid)
    first.go_on()
    until("the late host to know", lambda: first.has_logged(f"{run} is not executed here"))
    late = there.primary.made_by(first.pid)[len(before) :]
    assert all(call.endswith("unquiesce") for call in late)
    assert not cloud.frozen


@pytest.mark.parametrize(
    "expires_s", [2 * EXPIRES_S]
)  # a third of it is how much earlier it stops: time in which it may be paused
def test_a_host_that_is_cut_off_from_the_board_stops_before_another_begins(
    there: Installation, two: Host, here: Deployment, etcd: str, name: str, expires_s: float
) -> None:
    wire = servers.Wire(int(etcd.rpartition(":")[2]))
    first = there.host(jobboard=jobboard(f"http://127.0.0.1:{wire.port}", name, expires_s)).serve()
    run = begun_at(first, there, here)
    two.serve()
    wire.cut()
    until("the run to have stopped here", lambda: first.has_logged(f"{run} is not executed here"))
    assert here.runs.get(run).claim == 1  # and nobody had it by then
    there.let_backups_be_ready()
    before = there.primary.made_by(first.pid)
    succeeds(here, run)
    assert there.primary.made_by(first.pid) == before
    assert there.backups_made() == 6
    wire.mend()
    again = there.queue(here)
    succeeds(here, again)
    wire.close()


def test_a_host_that_is_cut_off_from_the_database_loses_its_runs_to_others(
    there: Installation, two: Host, here: Deployment, database: str
) -> None:
    wire = servers.Wire(here.database.url.port or 0)
    first = there.host(database=through(wire, database)).serve()
    run = begun_at(first, there, here)
    two.serve()
    wire.cut()
    until("the other host to have it", lambda: here.runs.get(run).claim >= 2)
    there.let_backups_be_ready()
    before = there.primary.made_by(first.pid)
    succeeds(here, run)
    assert there.primary.made_by(first.pid) == before
    assert there.backups_made() == 6
    wire.close()


def test_when_the_board_is_lost_a_run_stops_thawed_and_goes_on_when_it_is_back(
    tmp_path: Path, database: str, name: str
) -> None:
    port = servers.free_port()
    with (
        servers.folder_unattached() as data,
        installation(
            tmp_path, database=database, jobboard=jobboard(f"http://127.0.0.1:{port}", name)
        ) as there,
    ):
        with servers.etcd(folder=data, port=port):
            host = there.host()
            here = look_from(host)
            first = host.serve()
            run = begun_at(first, there, here)
        until("the run to have stopped", lambda: first.has_logged(f"{run} is not executed here"))

        def status() -> tuple[int, str]:
            code, told, _ = host.antipode("service", "status")
            return code, str(told["trouble"])

        # the conductor looks now and then, and the service tells of it now and then
        until("the service to tell of the board", lambda: "no usable answer" in status()[1])
        assert status()[0] == 1
        assert here.runs.get(run).state == "running"
        assert not there.primary.cloud.frozen
        code, _, _ = host.antipode("protect", "hlr")
        assert code in (5, 6)
        with servers.etcd(folder=data, port=port):
            there.let_backups_be_ready()
            succeeds(here, run)
        assert there.backups_made() == 6


def test_a_command_carries_out_its_own_run_though_services_are_there(
    tmp_path: Path, database: str, etcd: str, name: str
) -> None:
    with installation(tmp_path, database=database, jobboard=jobboard(etcd, name, NEVER_S)) as there:
        one, two = there.host(), there.host()
        here = look_from(one)
        service = two.serve()
        code, record, told = one.antipode("protect", "hlr")
        assert code == 0, told
        assert here.runs.get(record["run"]).claim == 1
        assert not there.primary.made_by(service.pid)
        assert not here.claims.postings()  # type: ignore[union-attr]


def test_a_command_that_was_killed_leaves_its_run_to_the_services(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    two.serve()
    there.hold_backups()
    command = one.start("protect", "hlr")
    until("the backups to be under way", lambda: len(there.primary.cloud.backups) == 6)
    command.kill()
    there.let_backups_be_ready()
    (row,) = here.runs.all()
    succeeds(here, row.id)
    assert there.backups_made() == 6


def test_a_queued_run_that_never_got_onto_the_board_is_found(
    there: Installation, two: Host, here: Deployment
) -> None:
    row = request(here, "hlr")
    run, row.state = row.id, "queued"
    here.runs.create(row)
    two.serve()
    succeeds(here, run)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_host_whose_clock_is_wrong_does_not_serve(
    request: pytest.FixtureRequest,
    kind: str,
    tmp_path: Path,
    etcd: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with installation(
        tmp_path,
        database=request.getfixturevalue(kind).new_database(),
        jobboard=jobboard(etcd, name),
    ) as there:
        here = look_from(there.host())
        daemon.must_agree_on_time(here)
        right = time.time
        for wrong in (100, -100):  # what the database takes to answer is not counted in
            monkeypatch.setattr(time, "time", lambda wrong=wrong: right() + wrong)
            with pytest.raises(AntipodeError, match=r"differ by (9\d|100)\.\d s.*NTP"):
                daemon.must_agree_on_time(here)


def test_a_failover_is_gone_on_with_by_another_host_and_nothing_is_made_twice(
    there: Installation, one: Host, two: Host, here: Deployment
) -> None:
    assert one.antipode("protect", "hlr")[0] == 0
    first = one.serve()
    cloud, reached, released = there.backup.cloud, threading.Event(), threading.Event()

    def hold(event: str) -> None:
        if event == "boot app" and not reached.is_set():
            reached.set()
            released.wait(servers.WITHIN_S)

    cloud.before = hold
    code, queued, told = two.antipode("failover", "hlr", "--to", "site-b", "--yes", "--detach")
    assert (code, queued["state"]) == (0, "queued"), told
    assert reached.wait(servers.WITHIN_S)
    first.kill()
    released.set()  # the call that the killed one has sent has its effect all the same
    two.serve()
    succeeds(here, queued["run"])
    made = [event.partition(" ")[0] for event in cloud.events]
    assert (made.count("restore"), made.count("boot"), made.count("port")) == (6, 3, 3)
    assert sorted(s["name"] for s in cloud.servers.values()) == ["app", "db", "front"]
