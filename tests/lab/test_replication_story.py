# SPDX-License-Identifier: Apache-2.0
"""Option 3 on two real sites: rbd-mirror carries the volumes, points are made of what has arrived,
and the VNF comes back at site-b without its former site, every record counted.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from antipode.sandbox.members import MEMBERS
from antipode.sandbox.story import recovered_last
from lab import canary, power, wan
from lab.checker import check
from lab.desk import PROJECT as TREE
from lab.desk import Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.holdings import what_is_there
from tests.lab.replicated import (
    VNF,
    assert_recovered,
    file_of_replicated,
    protect,
    storage_states,
)

pytestmark = pytest.mark.lab


def test_a_killed_site_comes_back_from_the_newest_state_that_arrived(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    backups = what_is_there(site_a)["backups"]
    protect(replicated)
    newest = protect(replicated)
    assert newest.record["consistency"] == "application"
    assert what_is_there(site_a)["backups"] == backups
    canary.wait_for_records(site_a, 20)
    power.off(site_a)
    try:
        result = replicated.ask("failover", VNF, "--to", site_b.name, "--yes")
        assert result["recovery_point"] == newest.record["recovery_point"]
        assert_recovered(site_b, newest)
        assert "left" not in result, "a volume still rests on its replica"
    finally:
        subprocess.run([sys.executable, "-m", "lab", "revive", site_a.name], cwd=TREE, check=True)


def test_an_isolated_site_is_not_needed_and_a_drill_leaves_nothing(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    newest = protect(replicated)
    before = what_is_there(site_b)
    wan.isolate(site_a)
    try:
        assert replicated.ask("drill", VNF, "--yes")["leaks"] == []
        assert what_is_there(site_b) == before
        replicated.ask("failover", VNF, "--to", site_b.name, "--yes")
        assert_recovered(site_b, newest)
    finally:
        wan.rejoin(site_a)


def test_a_point_goes_at_both_sites_when_it_expires(replicated: Desk, vnf_file: Any) -> None:
    replicated.tell("vnf", "add", str(vnf_file(**file_of_replicated(retention={"last": 1}))))
    replicated.ask("protect", VNF)
    kept = replicated.ask("protect", VNF)["recovery_point"]
    assert [p["id"] for p in replicated.ask("recovery-point", "list", VNF)] == [kept]
    cloud = identity.connect(SITES["site-a"], "antipode", PROJECT)
    names = {f"snapshot-{s.id}" for s in cloud.block_storage.snapshots()}
    assert len(names) == 2 * len(MEMBERS)

    def are_equal() -> bool:
        there = {s for states in storage_states(SITES["site-b"]).values() for s in states}
        return there == names

    wait_until(are_equal, "the expired states are gone at site-b", 120)
    replicated.tell("recovery-point", "verify", VNF)


def test_a_planned_migration_loses_not_one_record(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    backups = what_is_there(site_a)["backups"]
    canary.wait_for_records(site_a, 20)
    boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
    record = replicated.ask("migrate", VNF, "--to", site_b.name, "--yes", timeout=3600)
    assert "not_done" not in record and "left" not in record
    assert what_is_there(site_a)["backups"] == backups
    written, there = check(canary.records(site_a)), check(canary.records(site_b))
    assert written.consistent and there.consistent, (written, there)
    assert recovered_last(there, boots) == recovered_last(written, boots)
    canary.wait_for_records(site_b, 10)
    old = list(identity.connect(site_a, "antipode", PROJECT).compute.servers())
    assert [(s.status, s.is_locked) for s in old] == [("SHUTOFF", True)] * len(MEMBERS)
