# SPDX-License-Identifier: Apache-2.0
"""A failover that something goes wrong with: it needs nothing of the dead site, and a second try
ends with one of everything.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen
from typing import Any

import pytest

from antipode.sandbox import canary, records
from antipode.sandbox.members import MEMBERS
from tests.sandbox.conftest import BACKUP, PRIMARY, Held, World, until

pytestmark = pytest.mark.sandbox
FAILOVER = ("failover", "canary", "--to", BACKUP, "--yes")
NAMES = Counter(m.server for m in MEMBERS)


def expect_one_of_everything(world: World, held: Held) -> None:
    """With the bytes of the recovery point in its volumes, and a VNF whose records are consistent
    and go on.
    """
    cloud = world.cloud(BACKUP)
    servers = list(cloud.compute.servers())
    assert Counter(s.name for s in servers) == NAMES
    assert {s.status for s in servers} == {"ACTIVE"}
    volumes = list(cloud.block_storage.volumes())
    assert len(volumes) == 6
    assert {v.status for v in volumes} == {"in-use"}
    assert [(g.name, sorted(g.member_ids)) for g in cloud.compute.server_groups()] == [
        ("canary", sorted(s.id for s in servers))
    ]
    assert len([p for p in cloud.network.ports() if p.device_owner.startswith("compute:")]) == 3
    assert [p for p in cloud.network.ports() if not p.device_owner] == []
    canary.await_work(world.sandbox, BACKUP)
    now = world.held(BACKUP)
    assert now.elsewhere == held.elsewhere
    assert {
        role: content[: len(held.records[role])] for role, content in now.records.items()
    } == held.records
    report = records.check(now.records)
    assert report.consistent, report


def expect_nothing(world: World) -> None:
    cloud = world.cloud(BACKUP)
    assert list(cloud.compute.servers()) == []
    assert list(cloud.block_storage.volumes()) == []
    assert [p for p in cloud.network.ports() if p.device_owner != "network:dhcp"] == []


@pytest.fixture
def held(own_world: World) -> Held:
    """The VNF is protected and its site is dead; what the recovery point has to bring back."""
    held = own_world.protect_and_look()
    own_world.sandbox.kill(PRIMARY)
    return held


def fail_over_at_last(world: World) -> None:
    """A failover, and a second one if the first has failed."""
    if world.operator.run(*FAILOVER).returncode:
        world.operator.ask(*FAILOVER)


@contextmanager
def failover_stuck(world: World, operation: str, after: int) -> Iterator[Popen[str]]:
    """A failover in a process of its own, of which so many operations have gone well and the next
    does not come to its end.
    """
    world.fault(BACKUP, f"^{operation}$", "stuck", after=after)
    with world.operator.begin(*FAILOVER) as process:
        try:
            until(lambda: world.struck(BACKUP) == 1, f"{operation} is stuck")
            yield process
        finally:
            process.kill()


def calls_to_primary(world: World) -> int:
    return sum(world.sandbox.ask(PRIMARY, "GET", "/calls").values())


@pytest.mark.parametrize("is_slow", [False, True], ids=["never answers", "answers slowly"])
def test_a_failover_needs_nothing_of_a_site_that_takes_connections_and(
    own_world: World, is_slow: bool
) -> None:
    held = own_world.protect_and_look()
    if is_slow:
        own_world.fault(PRIMARY, "", "slow", seconds=600, times=None)
    else:
        own_world.sandbox.isolate(PRIMARY)
    before = calls_to_primary(own_world)
    own_world.operator.ask(*FAILOVER)
    assert calls_to_primary(own_world) == before
    expect_one_of_everything(own_world, held)


CREATIONS = [
    "^block-storage POST /v3/volumes$",
    "^compute POST /v2.1/servers$",
    "^network POST /v2.0/ports$",
    "^block-storage POST /v3/backups/import_record$",
]


def test_after_creations_whose_answers_are_lost_the_next_try_finds_what_was_made(
    own_world: World, held: Held
) -> None:
    for call in CREATIONS:
        own_world.fault(BACKUP, call, "lost")
    tries = (own_world.operator.run(*FAILOVER).returncode for _ in [*CREATIONS, "the last"])
    assert 0 in tries  # and none is made after the one that succeeds
    assert own_world.struck(BACKUP) == len(CREATIONS)
    expect_one_of_everything(own_world, held)


@pytest.mark.rest
def test_creations_that_are_delivered_twice_leave_one_of_everything(
    own_world: World, held: Held
) -> None:
    for call in CREATIONS:
        own_world.fault(BACKUP, call, "twice")
    fail_over_at_last(own_world)
    assert own_world.struck(BACKUP) == len(CREATIONS)
    expect_one_of_everything(own_world, held)


def test_after_a_creation_whose_connection_breaks_a_second_try_makes_what_is_missing(
    own_world: World, held: Held
) -> None:
    own_world.fault(BACKUP, "^compute POST /v2.1/servers$", "drop", after=1)
    fail_over_at_last(own_world)
    assert own_world.struck(BACKUP) == 1
    expect_one_of_everything(own_world, held)


@pytest.mark.rest
def test_questions_that_are_not_answered_at_once_do_not_end_a_failover(
    own_world: World, held: Held
) -> None:
    own_world.fault(BACKUP, "^block-storage GET ", "drop", after=3)
    own_world.fault(BACKUP, "^compute GET /v2.1/servers/detail", "drop", after=1)
    own_world.fault(BACKUP, "^network GET ", "slow", seconds=2)
    own_world.operator.ask(*FAILOVER)
    assert own_world.struck(BACKUP) == 3
    expect_one_of_everything(own_world, held)


@pytest.mark.rest
@pytest.mark.parametrize("hours", [2, -24], ids=["ahead", "back"])
def test_a_clock_of_the_backup_site_that_jumps_does_not_end_the_failover(
    own_world: World, held: Held, hours: int
) -> None:
    with failover_stuck(own_world, r"volume\.restore", after=2) as process:
        # ahead: every token of the site has expired
        own_world.conditions(BACKUP, clock_skew_s=hours * 3600)
        own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
        _, told = process.communicate()
    assert process.returncode == 0, told
    expect_one_of_everything(own_world, held)


def test_a_restore_that_fails_is_told_and_made_again_by_the_second_try(
    own_world: World, held: Held
) -> None:
    own_world.fault(BACKUP, r"^volume\.restore$", "error")
    done = own_world.operator.run(*FAILOVER)
    assert own_world.struck(BACKUP) == 1
    assert done.returncode == 1, done.stderr
    own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world, held)


TROUBLES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("^block-storage POST /v3/volumes$", {"status": 413, "message": "VolumeLimitExceeded"}),
    (r"^volume\.restore$", {}),
    (r"^server\.create$", {"message": "No valid host was found."}),
)
"""What a failover meets one after another: a quota that has run out since the plan, a restore that
fails, and no host with room."""


def test_after_each_trouble_a_failover_is_taken_up_and_repeats_nothing(
    own_world: World, held: Held
) -> None:
    for number, (on, more) in enumerate(TROUBLES, 1):
        own_world.fault(BACKUP, on, "error", **more)
        done = own_world.operator.run(
            *(("run", "resume", own_world.newest_run()["run"]) if number > 1 else FAILOVER)
        )
        assert own_world.struck(BACKUP) == number
        assert done.returncode == 1, done.stderr
        assert own_world.newest_run()["state"] == "failed"
        assert "run resume" in done.stderr
    own_world.operator.tell("run", "resume", own_world.newest_run()["run"])
    expect_one_of_everything(own_world, held)
    calls = own_world.sandbox.ask(BACKUP, "GET", "/calls")
    assert calls["block-storage POST /v3/backups/import_record"] == 6
    assert calls["network POST /v2.0/ports"] == 3
    assert calls["compute POST /v2.1/servers"] == 4  # for one there was no host at first


def test_a_dead_site_that_comes_back_meanwhile_is_not_asked_and_a_second_order_waits(
    own_world: World, held: Held
) -> None:
    with failover_stuck(own_world, r"volume\.restore", after=2) as process:
        own_world.sandbox.start(PRIMARY)
        before = calls_to_primary(own_world)
        second = own_world.operator.run(*FAILOVER)
        assert second.returncode == 6, second.stderr
        own_world.sandbox.kill(PRIMARY)
        own_world.sandbox.start(PRIMARY)
        before = min(before, calls_to_primary(own_world))
        own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert calls_to_primary(own_world) == before
    expect_one_of_everything(own_world, held)
    assert own_world.operator.run(*FAILOVER).returncode == 2


def test_a_backup_that_the_store_has_damaged_is_not_passed_off_as_restored(
    own_world: World, held: Held
) -> None:
    large = [
        (path, content)
        for path in (own_world.sandbox.directory / BACKUP / "objects").iterdir()
        if path.stat().st_size > 1 << 16
        # no list of digests, which a restore does not read
        and not (content := path.read_bytes()).startswith(b"{")
    ]
    damaged, content = large[0]
    damaged.write_bytes(content[:-1000])
    assert own_world.operator.run("recovery-point", "verify", "canary").returncode == 0, (
        "the listing cannot know; a restore must"
    )
    done = own_world.operator.run(*FAILOVER)
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize(
    ("operation", "after"),
    [(r"volume\.restore", 2), (r"server\.create", 1)],
    ids=["restoring", "booting"],
)
def test_a_failover_whose_process_is_killed_is_gone_on_with_by_run_resume(
    own_world: World, held: Held, operation: str, after: int
) -> None:
    with failover_stuck(own_world, operation, after) as process:
        process.kill()
    own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
    run = own_world.newest_run()
    assert run["state"] == "lost"
    own_world.operator.ask("run", "resume", run["run"])
    assert own_world.newest_run()["state"] == "succeeded"
    expect_one_of_everything(own_world, held)


@contextmanager
def at_a_terminal(
    world: World, *arguments: str, nohup: bool = False
) -> Iterator[tuple[Popen[bytes], Callable[[], bool]]]:
    """A command at a terminal of its own, which is gone after the block; and a look whether a fault
    has struck, which reads what the terminal shows.
    """
    ours, its = os.openpty()

    def take() -> None:
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    process = Popen(
        [sys.executable, "-m", "antipode.cli.main", *arguments],
        env=world.operator.environment(),
        cwd=world.sandbox.directory,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=take,
    )
    os.close(its)
    os.set_blocking(ours, False)

    def struck() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 1 << 20)
        return world.struck(BACKUP) > 0

    try:
        yield process, struck
    finally:
        os.close(ours)


@pytest.mark.rest
def test_a_failover_whose_terminal_goes_away_is_resumed_and_with_nohup_goes_on(
    own_world: World, held: Held
) -> None:
    own_world.fault(BACKUP, r"^volume\.restore$", "stuck", after=2)
    with at_a_terminal(own_world, *FAILOVER) as (process, struck):
        until(struck, "a restore is stuck")
    assert process.wait(120) == 130
    run = own_world.newest_run()
    assert run["state"] == "failed"
    own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
    own_world.fault(BACKUP, r"^server\.create$", "stuck", after=1)
    resume = ("run", "resume", run["run"], "--yes")
    with at_a_terminal(own_world, *resume, nohup=True) as (process, struck):
        until(struck, "a boot is stuck")
    own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
    process.wait(120)
    assert own_world.newest_run()["state"] == "succeeded"
    expect_one_of_everything(own_world, held)


@pytest.mark.parametrize("killed", [True, False], ids=["of a killed process", "of one that works"])
def test_run_abort_takes_a_half_done_failover_back_and_the_next_one_is_whole(
    own_world: World, held: Held, killed: bool
) -> None:
    with failover_stuck(own_world, r"server\.create", after=1) as process:
        if killed:
            process.kill()
        run = own_world.newest_run()["run"]
        done = own_world.operator.run("run", "abort", run, "--yes")
        process.communicate()
    assert done.returncode == 0, done.stderr
    assert own_world.newest_run()["state"] == "aborted"
    expect_nothing(own_world)
    own_world.sandbox.ask(BACKUP, "DELETE", "/faults")
    own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world, held)


@pytest.mark.rest
def test_a_backup_site_that_dies_under_a_failover_and_comes_back_is_failed_over_to_by_a_second_try(
    own_world: World, held: Held
) -> None:
    with failover_stuck(own_world, r"volume\.restore", after=2) as process:
        own_world.sandbox.kill(BACKUP)
        own_world.sandbox.start(BACKUP)
        process.communicate()
    own_world.operator.ask(*FAILOVER)
    expect_one_of_everything(own_world, held)
