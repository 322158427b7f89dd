"""A failover that something goes wrong with: it needs nothing of the dead site, and a second try ends with one of everything."""

from __future__ import annotations

from collections import Counter

import pytest

from antipode.sandbox import canary, records
from tests.sandbox.conftest import BACKUP, PRIMARY, World

pytestmark = pytest.mark.sandbox
FAILOVER = ("failover", "canary", "--to", BACKUP, "--yes")


def expect_one_of_everything(world: World) -> None:
    """And a VNF whose records are consistent and go on."""
    cloud = world.cloud(BACKUP)
    servers = list(cloud.compute.servers())
    assert Counter(s.name for s in servers) == Counter(m.server for m in canary.MEMBERS)
    volumes = list(cloud.block_storage.volumes())
    assert len(volumes) == 6
    assert {v.status for v in volumes} == {"in-use"}
    assert len([p for p in cloud.network.ports() if p.device_owner.startswith("compute:")]) == 3
    assert [p for p in cloud.network.ports() if not p.device_owner] == []
    canary.await_work(world.sandbox, BACKUP)
    report = records.check(canary.records(world.sandbox, BACKUP))
    assert report.consistent, report


def calls_to_primary(world: World) -> int:
    return sum(world.sandbox.ask(PRIMARY, "GET", "/calls").values())


def test_a_failover_needs_nothing_of_a_site_that_takes_connections_and_never_answers(own_world: World) -> None:
    own_world.protect()
    own_world.sandbox.isolate(PRIMARY)
    before = calls_to_primary(own_world)
    own_world.operator.ask(*FAILOVER)
    assert calls_to_primary(own_world) == before
    expect_one_of_everything(own_world)


@pytest.mark.parametrize(
    "call",
    [
        "^block-storage POST /v3/volumes$",
        "^compute POST /v2.1/servers$",
        "^network POST /v2.0/ports$",
        "^block-storage POST /v3/backups/import_record$",
    ],
)
def test_after_a_creation_whose_answer_is_lost_a_second_try_finds_what_the_first_has_made(own_world: World, call: str) -> None:
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    own_world.fault(BACKUP, call, "lost")
    done = own_world.operator.run(*FAILOVER)
    assert own_world.struck(BACKUP) == 1
    if done.returncode:
        own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world)


def test_a_restore_that_fails_is_told_and_made_again_by_the_second_try(own_world: World) -> None:
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    own_world.fault(BACKUP, r"^volume\.restore$", "error")
    done = own_world.operator.run(*FAILOVER)
    assert own_world.struck(BACKUP) == 1
    assert done.returncode == 1, done.stderr
    assert "error_restoring" in done.stderr
    own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world)


def test_a_backup_that_the_store_has_damaged_is_not_passed_off_as_restored(own_world: World) -> None:
    own_world.protect()
    own_world.sandbox.kill(PRIMARY)
    damaged = next(p for p in (own_world.sandbox.directory / BACKUP / "objects").iterdir() if p.stat().st_size > 1 << 16)
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    assert own_world.operator.run("recovery-point", "verify", "canary").returncode == 0, "the listing cannot know; a restore must"
    done = own_world.operator.run(*FAILOVER)
    assert done.returncode == 1, done.stderr
