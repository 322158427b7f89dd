# SPDX-License-Identifier: Apache-2.0
"""The service on one host: SQLite, and no other server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from antipode.engine.deployment import Deployment
from antipode.freezes.unquiesce import THAW_CALL_S
from antipode.service.daemon import STOPS_WITHIN_S
from antipode.vault import points
from tests.distributed.hosts import Host, Installation, has_ended, installation, look_from, vnf
from tests.distributed.servers import WITHIN_S, until


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path, limits={"runs": 2}) as made:
        yield made


@pytest.fixture
def host(there: Installation) -> Host:
    return there.host()


@pytest.fixture
def here(host: Host) -> Deployment:
    return look_from(host)


def test_the_service_carries_out_what_is_queued(
    there: Installation, host: Host, here: Deployment
) -> None:
    run = there.queue(here)
    service = host.serve()
    until("the run to end", lambda: has_ended(here, run))
    assert here.runs.get(run).state == "succeeded"
    assert len(points.list_ids(here.vault, "hlr")) == 1
    assert f" {run} " in service.log.read_text()  # each line of the log says which run it is of
    code, status, _ = host.antipode("service", "status")
    assert (code, status["service"], status["runs"], status["queued"]) == (0, "running", [], 0)
    assert service.stop() == 0
    code, status, _ = host.antipode("service", "status")
    assert (code, status["service"]) == (1, "not running")


def test_what_a_killed_service_was_at_is_resumed_by_the_next(
    there: Installation, host: Host, here: Deployment
) -> None:
    there.hold_backups()
    service = host.serve()
    run = there.queue(here)
    until("a backup to be under way", lambda: there.primary.cloud.backups)
    service.kill()
    assert host.antipode("run", "show", run)[1]["state"] == "lost"
    there.let_backups_be_ready()
    host.serve()
    until("the run to end", lambda: has_ended(here, run))
    assert here.runs.get(run).state == "succeeded"
    assert there.backups_made() == 6  # none twice


def test_a_stop_leaves_what_is_under_way_to_be_resumed(
    there: Installation, host: Host, here: Deployment
) -> None:
    there.hold_backups()
    service = host.serve()
    run = there.queue(here)
    until("a backup to be under way", lambda: there.primary.cloud.backups)
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < STOPS_WITHIN_S / 2  # then it gives the run up
    assert not there.primary.cloud.frozen
    assert here.runs.get(run).state == "running"
    there.let_backups_be_ready()
    host.serve()
    until("the run to end", lambda: has_ended(here, run))
    assert here.runs.get(run).state == "succeeded"


def test_what_another_process_has_frozen_and_died_on_is_thawed_though_the_other_site_is_silent(
    there: Installation, host: Host, here: Deployment
) -> None:
    there.backup.silent.set()
    past = -5.0
    hanging = 8
    for number in range(hanging):
        here.freezes.freezing("site-b", f"id-{number}", f"x-{number}", past)
    host.serve()
    assert there.backup.unanswered.wait(WITHIN_S)
    there.primary.cloud.frozen.add("id-db")
    here.freezes.freezing("site-a", "id-db", "db", past)
    # not after the others
    until(
        "the server to be thawed",
        lambda: not there.primary.cloud.frozen,
        (hanging - 2) * THAW_CALL_S,
    )
    run = there.queue(here)
    until("the run to end", lambda: has_ended(here, run))
    assert here.runs.get(run).state == "succeeded"


def test_two_services_with_one_state_directory_are_refused(host: Host) -> None:
    host.serve()
    second = host.start("serve")
    assert second.wait(WITHIN_S) == 6
    assert "[busy]" in (host.folder / "command.log").read_text()


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(WITHIN_S)
        service = host.serve(NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert told.recv(100) == b"READY=1"
        assert told.recv(100) == b"WATCHDOG=1"
        service.stop()
        while (last := told.recv(100)) == b"WATCHDOG=1":
            continue
        assert last == b"STOPPING=1"


def test_no_more_runs_than_the_limit_are_under_way_and_a_failover_does_not_wait_for_them(
    there: Installation, host: Host, here: Deployment
) -> None:
    cloud = there.primary.cloud
    for member in ("db", "app", "front"):
        here.vnfs.put(vnf(member, (member,)))
    assert host.antipode("protect", "front")[0] == 0
    there.hold_backups()
    runs = [there.queue(here, name) for name in ("db", "app", "hlr")]
    host.serve()
    until("two runs to be at their backups", lambda: len(cloud.backups) == 6)
    code, queued, told = host.antipode("failover", "front", "--to", "site-b", "--yes", "--detach")
    assert code == 0, told
    until("the failover to end", lambda: has_ended(here, queued["run"]))
    assert here.runs.get(queued["run"]).state == "succeeded"
    assert [here.runs.get(run).state for run in runs] == ["running", "running", "queued"]
    there.let_backups_be_ready()
    until("all runs to end", lambda: all(has_ended(here, run) for run in runs))
    assert {here.runs.get(run).state for run in runs} == {"succeeded"}


def test_what_is_queued_while_no_service_is_at_work_is_said_to_wait_for_one(
    host: Host, here: Deployment
) -> None:
    code, queued, told = host.antipode("protect", "hlr", "--detach", "-v")
    assert (code, queued["state"]) == (0, "queued")
    assert "antipode serve" in told
    assert here.runs.get(queued["run"]).state == "queued"


def test_with_nothing_left_but_the_vault_a_failover_is_done_from_any_machine(
    there: Installation, host: Host, here: Deployment
) -> None:
    assert host.antipode("protect", "hlr")[0] == 0
    there.primary.close()
    other = there.host(sites={"site-b": {"cloud": "b"}})
    code, record, told = other.antipode("failover", "hlr", "--to", "site-b", "--yes")
    assert code == 0, told
    assert set(record["servers"]) == {"db", "app", "front"}
