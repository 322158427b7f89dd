# SPDX-License-Identifier: Apache-2.0
"""Runs killed on two real sites, and resumed or rolled back: each ends as if it had not been
killed, or as if it had never begun.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from antipode.sandbox.members import MEMBERS
from antipode.sandbox.story import recovered_last
from lab import canary
from lab.checker import check
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from lab.waiting import wait_until
from lab.witness import is_frozen
from tests.lab.awaited import AwaitedWitness
from tests.lab.holdings import what_is_there

pytestmark = pytest.mark.lab
VNF = "canary"
VOLUMES = 2 * len(MEMBERS)


@dataclass
class Protected:
    """The canary with a recovery point whose run was killed in its backups and resumed."""

    desk: Desk
    servers: dict[str, str]
    held_before: dict[str, set[str]]
    held_after: dict[str, set[str]]
    resumed: dict[str, Any]
    frozen_last: dict[str, int]
    boots: dict[str, int]


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    site_a, site_b = SITES["site-a"], SITES["site-b"]
    canary.remove(site_b)
    servers = canary.create(site_a)
    canary.wait_for_records(site_a, 20)
    desk = Desk(tmp_path_factory.mktemp("killed"), f"antipode-test-{time.time_ns()}")
    desk.tell("vnf", "add", str(EXAMPLE))
    before = what_is_there(site_a)
    cloud = identity.connect(site_a, "antipode", PROJECT)
    with AwaitedWitness(site_a, servers) as witness:
        kill_when(
            desk,
            lambda: any(b.status == "creating" for b in cloud.block_storage.backups()),
            "a backup is made",
            "protect",
            VNF,
        )
        resumed = desk.ask("run", "resume", run_id(desk, "protect"))
    boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
    assert witness.sightings and not witness.disagreements
    return Protected(
        desk, servers, before, what_is_there(site_a), resumed, witness.frozen_last, boots
    )


@pytest.fixture
def nothing_at_site_b(protected: Protected, site_b: Site) -> Iterator[dict[str, set[str]]]:
    """What site-b holds without the VNF."""
    canary.remove(site_b)
    yield what_is_there(site_b)
    canary.remove(site_b)


def kill_when(desk: Desk, is_so: Callable[[], bool], what: str, *arguments: str) -> None:
    """Start `antipode ARGUMENTS` and end it with SIGKILL as soon as it `is_so`."""
    process = desk.start(
        *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:

        def is_so_or_over() -> bool:
            return process.poll() is not None or is_so()

        wait_until(is_so_or_over, what, timeout=600, interval=0.2)
    finally:
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -9, f"it ended before {what}: {said}"


def run_id(desk: Desk, kind: str) -> str:
    """The newest run of that kind."""
    return str(
        next(run["run"] for run in desk.ask("run", "list", "--vnf", VNF) if run["kind"] == kind)
    )


@pytest.mark.core
def test_a_protect_killed_in_its_backups_goes_on_with_those_and_leaves_nothing_else(
    protected: Protected, site_a: Site
) -> None:
    new = {kind: ids - protected.held_before[kind] for kind, ids in protected.held_after.items()}
    assert len(new.pop("backups")) == VOLUMES, "each volume is backed up once"
    assert not any(new.values()), new
    assert not any(is_frozen(site_a, server) for server in protected.servers.values())
    points = protected.desk.ask("recovery-point", "list", VNF)
    assert [(p["id"], p["consistency"]) for p in points] == [
        (protected.resumed["recovery_point"], "application")
    ]
    protected.desk.tell("recovery-point", "verify", VNF, protected.resumed["recovery_point"])


def test_a_failover_killed_while_servers_boot_and_aborted_leaves_only_what_it_names(
    protected: Protected, nothing_at_site_b: dict[str, set[str]], site_b: Site
) -> None:
    cloud = identity.connect(site_b, "antipode", PROJECT)
    at_site_a = what_is_there(SITES["site-a"])

    def boots() -> bool:
        return any(True for _ in cloud.compute.servers())

    kill_when(
        protected.desk, boots, "a server is made", "failover", VNF, "--to", site_b.name, "--yes"
    )
    aborted = protected.desk.ask("run", "abort", run_id(protected.desk, "failover"), "--yes")
    left = {kind: ids - nothing_at_site_b[kind] for kind, ids in what_is_there(site_b).items()}
    assert [len(left.pop(kind)) for kind in ("backups", "keypairs", "server groups")] == [
        VOLUMES,
        1,
        1,
    ]
    assert not any(left.values()), left
    for named in ("backup records of canary", "keypair canary", "server group canary"):
        assert any(named in words for words in aborted["left"]), aborted
    assert what_is_there(SITES["site-a"]) == at_site_a


def test_a_failover_killed_while_volumes_are_restored_restores_none_twice_and_loses_no_record(
    protected: Protected, nothing_at_site_b: dict[str, set[str]], site_b: Site
) -> None:
    cloud = identity.connect(site_b, "antipode", PROJECT)
    began: set[str] = set()

    def are_restored() -> bool:
        began.update(
            v.id
            for v in cloud.block_storage.volumes()
            if v.status in ("creating", "restoring-backup")
        )
        return len(began) >= VOLUMES // 2

    kill_when(
        protected.desk,
        are_restored,
        "volumes are restored",
        "failover",
        VNF,
        "--to",
        site_b.name,
        "--yes",
    )
    resumed = protected.desk.ask("run", "resume", run_id(protected.desk, "failover"), "--yes")
    new = {kind: ids - nothing_at_site_b[kind] for kind, ids in what_is_there(site_b).items()}
    assert (len(new["servers"]), len(new["ports"]), len(new["volumes"])) == (
        len(MEMBERS),
        len(MEMBERS),
        VOLUMES,
    )
    assert began <= new["volumes"], "what was being restored is what is used"
    assert set(resumed["servers"].values()) == new["servers"]
    canary.wait_for_records(site_b, 5)
    report = check(canary.records(site_b))
    assert report.consistent, report.as_json()
    assert recovered_last(report, protected.boots) == protected.frozen_last
