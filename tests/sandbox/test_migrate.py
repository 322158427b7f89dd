# SPDX-License-Identifier: Apache-2.0
"""A planned migration on embedded sites: every record that a member has made durable before it was
switched off is there at the other site. A migration that fails leaves the VNF running where it was.
"""

from __future__ import annotations

import json
import signal

import pytest

from antipode.sandbox import canary, records
from antipode.sandbox.records import CHAIN
from tests.sandbox.conftest import BACKUP, PRIMARY, World, until

pytestmark = pytest.mark.sandbox
MIGRATE = ("migrate", "canary", "--to", BACKUP, "--yes", "-f", "json")


def last(world: World, site: str, boot: int) -> dict[str, int]:
    """The last record of each member that it made durable since a boot."""
    report = records.check(canary.records(world.sandbox, site))
    assert report.consistent, report
    return {role: report.members[role].last_of_boot[boot] for role in CHAIN}


def boots(world: World, site: str = PRIMARY) -> int:
    """How often each member has booted, with the volumes that it has at a site."""
    found = {m["boot"] for m in canary.state(world.sandbox, site).values()}
    assert len(found) == 1
    return int(found.pop())


def statuses(world: World, site: str) -> set[str]:
    return {s.status for s in world.cloud(site).compute.servers()}


def test_not_one_record_is_lost_and_the_old_copy_is_off_and_locked(own_world: World) -> None:
    canary.await_records(own_world.sandbox, PRIMARY, 40)
    boot = boots(own_world)
    done = own_world.operator.run(*MIGRATE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["downtime_s"] > 0
    assert last(own_world, BACKUP, boot) == last(own_world, PRIMARY, boot)
    assert statuses(own_world, BACKUP) == {"ACTIVE"}
    assert statuses(own_world, PRIMARY) == {"SHUTOFF"}
    assert all(s.is_locked for s in own_world.cloud(PRIMARY).compute.servers())
    canary.await_records(own_world.sandbox, BACKUP, 10)


def test_after_a_failed_recovery_the_vnf_runs_where_it_was(own_world: World) -> None:
    own_world.fault(BACKUP, r"^volume\.restore$", "error", times=None)
    done = own_world.operator.run(*MIGRATE)
    assert done.returncode == 1
    assert own_world.struck(BACKUP)
    assert list(own_world.cloud(BACKUP).compute.servers()) == []
    assert list(own_world.cloud(BACKUP).block_storage.volumes()) == []
    canary.await_records(own_world.sandbox, PRIMARY, 10)
    own_world.mend()
    assert own_world.operator.run(*MIGRATE).returncode == 0
    canary.await_records(own_world.sandbox, BACKUP, 10)


@pytest.mark.rest
def test_one_whose_process_is_killed_is_resumed(own_world: World) -> None:
    boot = boots(own_world)
    with own_world.operator.begin(*MIGRATE) as process:
        until(lambda: statuses(own_world, PRIMARY) == {"SHUTOFF"}, "all members are off")
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (run,) = [r for r in own_world.operator.ask("run", "list") if r["kind"] == "migrate"]
    assert run["state"] == "lost"
    own_world.operator.tell("run", "resume", run["run"])
    assert last(own_world, BACKUP, boot) == last(own_world, PRIMARY, boot)
    canary.await_records(own_world.sandbox, BACKUP, 10)


@pytest.mark.rest
def test_one_whose_process_was_killed_is_rolled_back(own_world: World) -> None:
    with own_world.operator.begin(*MIGRATE) as process:
        until(
            lambda: list(own_world.cloud(BACKUP).block_storage.volumes()),
            "volumes are being restored",
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (run,) = [r for r in own_world.operator.ask("run", "list") if r["kind"] == "migrate"]
    own_world.operator.tell("run", "abort", run["run"], "--yes")
    assert statuses(own_world, PRIMARY) == {"ACTIVE"}
    assert list(own_world.cloud(BACKUP).block_storage.volumes()) == []
    canary.await_records(own_world.sandbox, PRIMARY, 10)
