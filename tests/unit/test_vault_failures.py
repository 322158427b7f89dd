# SPDX-License-Identifier: Apache-2.0
"""Protections and recoveries with a vault behind an S3 API that fills up, fails in the middle of a
commit, takes nothing, or is away.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from antipode.engine.timeline import Unobserved
from antipode.errors import AntipodeError, PreflightFailed, SiteUnreachable, VaultError
from antipode.operations import vaults
from antipode.operations.abort import abort
from antipode.operations.resume import resume
from antipode.vault import generations, points
from antipode.vault.directory import DirectoryVault
from tests.unit.s3server import S3Server
from tests.unit.test_durable_runs import World
from tests.unit.test_durable_runs import world as world  # the fixture
from tests.unit.test_kill_matrix import VNF

MANIFESTS = r"/v/[^/]*\.json$"


class Two:
    """A world with a vault in a directory, and one in S3."""

    def __init__(self, world: World, server: S3Server, more: str) -> None:
        self.world, self.server = world, server
        self.bucket = f"vault-{uuid.uuid4().hex}"  # all servers of a process share what they hold
        (world.folder / "disk").mkdir()
        text = world.config.read_text()
        vault = next(line for line in text.splitlines() if line.startswith("vault:"))
        settings = server.settings(self.bucket).model_dump(mode="json", exclude_defaults=True)
        mapped = (
            f"vaults:\n  disk: {{directory: {world.folder / 'disk'}}}\n  third: {{s3: {settings}}}"
        )
        world.config.write_text(text.replace(vault, mapped) + more)
        world.here = world.process()
        world.here.vnfs.put(VNF)
        server.make(self.bucket)
        self.disk = DirectoryVault(world.folder / "disk")
        self.s3 = server.vault(self.bucket)

    def ids(self) -> list[list[str]]:
        return [points.list_ids(vault, "v") for vault in (self.disk, self.s3)]

    def quiesced(self) -> int:
        return sum(event.startswith("quiesce") for event in self.world.a.events)


@pytest.fixture
def more() -> str:
    return ""


@pytest.fixture
def two(world: World, more: str) -> Iterator[Two]:
    (world.folder / "s3").mkdir()
    server = S3Server(world.folder / "s3")
    try:
        yield Two(world, server, more)
    finally:
        server.down()


def test_a_vnf_is_protected_and_recovered_with_a_vault_in_s3_alone(two: Two) -> None:
    made = two.world.protect()["recovery_point"]
    assert two.ids() == [[made], [made]]
    for name in two.disk.list(""):
        two.disk.delete(name)
    two.world.failover()
    for vault in (two.disk, two.s3):
        assert generations.present(vault, "v", "site-a").active_site == "site-b"


@pytest.mark.parametrize("more", ["vaults_needed: 1\n"])
@pytest.mark.parametrize("status", ["500 InternalError", "507 InsufficientStorage"])
def test_a_vault_that_fails_in_the_middle_of_a_commit_is_caught_up_by_the_next(
    two: Two, status: str
) -> None:
    with two.server.refusing("PUT", MANIFESTS, *status.split()):
        first = two.world.protect()["recovery_point"]
        assert two.ids() == [[first], []]
    second = two.world.protect()["recovery_point"]
    assert two.ids() == [[first, second]] * 2
    assert list(vaults.disagreements(two.world.here, every_point=True)) == []


@pytest.mark.parametrize(
    "status", ["500 InternalError", "507 InsufficientStorage", "413 EntityTooLarge"]
)
def test_a_point_that_a_needed_vault_does_not_take_stands_nowhere(two: Two, status: str) -> None:
    backups = set(two.world.a.backups)
    with two.server.refusing("PUT", MANIFESTS, *status.split()), pytest.raises(VaultError):
        two.world.protect()
    assert two.ids() == [[], []]
    assert set(two.world.a.backups) == backups
    assert not two.world.a.frozen
    made = two.world.protect()["recovery_point"]
    assert two.ids() == [[made]] * 2


@pytest.mark.parametrize("asked", [resume, abort])
def test_a_protection_that_died_between_two_vaults_keeps_its_point_until_both_have_it(
    two: Two, asked: Callable[..., object]
) -> None:
    record = two.world.protect()
    made, run = record["recovery_point"], record["run"]
    lose(two, made)
    two.world.dies_before_its_end(run)
    backups, frozen = set(two.world.a.backups), two.quiesced()
    for _ in range(2):
        full = two.server.refusing("PUT", MANIFESTS, "507", "InsufficientStorage")
        with full, pytest.raises(VaultError, match="third"):
            asked(two.world.here, run, Unobserved())
        assert two.world.here.runs.get(run).state in ("failed", "running")
        assert two.ids() == [[made], []]
    assert set(two.world.a.backups) == backups
    if asked is abort:
        assert not [row.trouble for row in vaults.synchronize(two.world.here) if row.trouble]
    assert resume(two.world.here, run, Unobserved())["recovery_point"] == made
    assert two.ids() == [[made], [made]]
    assert two.quiesced() == frozen


def test_a_resumed_protection_does_not_succeed_without_a_vault_that_is_silent(two: Two) -> None:
    record = two.world.protect()
    made, run = record["recovery_point"], record["run"]
    lose(two, made)
    two.world.dies_before_its_end(run)
    two.server.down()
    with pytest.raises(VaultError, match="third"):
        resume(two.world.here, run, Unobserved())
    assert two.world.here.runs.get(run).state == "failed"
    assert points.list_ids(two.disk, "v") == [made]


@pytest.mark.parametrize("more", ["vaults_needed: 1\n"])
def test_a_resumed_protection_succeeds_with_as_many_vaults_as_it_needs(two: Two) -> None:
    record = two.world.protect()
    lose(two, record["recovery_point"])
    two.world.dies_before_its_end(record["run"])
    two.server.down()
    assert resume(two.world.here, record["run"], Unobserved())["run"] == record["run"]
    assert two.world.here.runs.get(record["run"]).state == "succeeded"


def test_a_resumed_protection_writes_its_point_to_every_vault_though_its_site_is_gone(
    two: Two,
) -> None:
    record = two.world.protect()
    lose(two, record["recovery_point"])
    two.world.dies_before_its_end(record["run"])
    two.world.a.before = no_answer
    resume(two.world.here, record["run"], Unobserved())
    assert two.ids() == [[record["recovery_point"]]] * 2


def no_answer(event: str) -> None:
    raise SiteUnreachable("site-a does not answer")


def lose(two: Two, point: str) -> None:
    """The vault in S3 never got a point, as the process that committed it died before that."""
    for name in two.s3.list(""):
        if point in name:
            two.s3.delete(name)


def test_a_vault_that_takes_nothing_is_found_before_anything_is_frozen(two: Two) -> None:
    before = two.quiesced()
    with (
        two.server.refusing("PUT", two.bucket, "403", "AccessDenied"),
        pytest.raises((PreflightFailed, VaultError)),
    ):
        two.world.protect()
    assert two.quiesced() == before
    assert two.ids() == [[], []]


def test_a_failover_needs_no_vault_that_is_away_after_the_first(two: Two) -> None:
    two.world.protect()
    two.server.down()
    two.world.failover()
    assert generations.present(two.disk, "v", "site-a").active_site == "site-b"


def test_a_service_that_ignores_if_none_match_lets_nothing_fail_over(two: Two) -> None:
    two.world.protect()
    for name in two.disk.list(""):
        two.disk.delete(name)
    (two.world.folder / "disk").rename(two.world.folder / "disk away")
    two.server.ignored_headers = {"HTTP_IF_NONE_MATCH"}
    with pytest.raises(AntipodeError):
        two.world.failover()
    assert two.world.b.servers == {}
