# SPDX-License-Identifier: Apache-2.0
"""A plan over two VNFs of two real sites: looked at and rehearsed while site-a is a black hole, and
carried out by one command when every process of site-a was killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.members import MEMBERS
from antipode.sandbox.story import recovered_last
from lab import canary, pair, power, wan
from lab.checker import check
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site
from tests.lab.awaited import AwaitedWitness
from tests.lab.holdings import remove_root_disk_copies, what_is_there

pytestmark = pytest.mark.lab
PLAN, VNFS = "site-a-is-lost", ["canary", "pair"]
STARTED = {"console": "canary: starts at", "within": "10m"}
"""What each guest says on its console once its disks and its user_data are there."""


@dataclass
class Protected:
    """A chain of three members and a pair, each a VNF with a recovery point, and the plan in the
    vault.
    """

    desk: Desk
    frozen_last: dict[str, int]
    boots: dict[str, int]
    """of the chain, when it was captured"""
    pair_before: dict[str, int]
    """what each member of the pair had durable after its capture"""


@pytest.fixture(scope="module")
def protected(
    tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]
) -> Iterator[Protected]:
    for site in SITES.values():
        canary.remove(site)
    site_a, folder = SITES["site-a"], tmp_path_factory.mktemp("desk")
    try:
        chain = canary.create(site_a)
        pair.create(site_a)
        desk = Desk(folder, f"antipode-test-{time.time_ns()}")
        know(desk, vnf_file)
        canary.wait_for_records(site_a, 20)
        with AwaitedWitness(site_a, chain) as witness:
            desk.ask("protect", "canary")
        assert witness.sightings and not witness.disagreements
        boots = {role: member["boot"] for role, member in canary.state(site_a).items()}
        desk.ask("protect", "pair")
        before = {member.server: pair.durable(site_a, member, 60) for member in pair.MEMBERS}
        keep_plan(desk)
        yield Protected(desk, witness.frozen_last, boots, before)
    finally:
        for site in SITES.values():
            canary.remove(site)
            remove_root_disk_copies(site)


def know(desk: Desk, vnf_file: Callable[..., Path]) -> None:
    """Add both VNFs, with probes for a drill."""
    example = yaml.safe_load(EXAMPLE.read_text())
    two = pair.vnf(example)
    for definition in (example | {"protections": quiesced_within("60s")}, two):
        definition["members"] = [{**m, "drill": STARTED} for m in definition["members"]]
        desk.tell("vnf", "add", str(vnf_file(**definition)))


def keep_plan(desk: Desk) -> None:
    """Put a plan for both into the vault, by the keys that the first protection has made."""
    worked = {"name": "chain-works", "after": "chain", "on": ["failover"]}
    worked |= {"command": ["python", "-c", "import sys; print(*sys.argv[1:])", "{plan}", "{site}"]}
    plan = {
        "plan": PLAN,
        "to": "site-b",
        "groups": [{"name": "chain", "vnfs": ["canary"]}, {"name": "pair", "vnfs": ["pair"]}],
        "steps": [worked],
    }
    path = desk.folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    desk.tell("plan", "put", str(path))


def quiesced_within(timeout: str) -> list[dict[str, Any]]:
    return [{"option": "quiesced-snapshot", "quiesce": {"timeout": timeout}}]


def states(record: dict[str, Any]) -> dict[str, str]:
    return {one["vnf"]: one["state"] for one in record["vnfs"]}


def held(site: Site) -> dict[str, set[str]]:
    """What a drill could leave; records of backups that it has imported stay, as they should."""
    cloud = identity.connect(site, "antipode", tenant.PROJECT)
    networks = {n.id for n in cloud.network.networks()}
    return {**what_is_there(site), "backups": set(), "networks": networks}


def test_both_are_looked_at_and_rehearsed_without_site_a_and_nothing_is_left(
    protected: Protected, site_a: Site, site_b: Site
) -> None:
    desk, before = protected.desk, held(site_b)
    wan.isolate(site_a)
    try:
        calls = wan.calls_to(site_a)
        assert desk.ask("plan", "precheck", PLAN)["verdict"] in ("green", "yellow")
        record = desk.ask("plan", "drill", PLAN, "--yes", timeout=3600)
        assert wan.calls_to(site_a) == calls
    finally:
        wan.rejoin(site_a)
    assert states(record) == dict.fromkeys(VNFS, "succeeded")
    for one in record["vnfs"]:
        drill = desk.ask("run", "show", one["run"])
        assert drill["passed"] and drill["leaks"] == []
        assert {answer["ok"] for answer in drill["answers"]} == {True}
        assert drill["content"] and {c["ok"] for c in drill["content"]} == {True}
    assert held(site_b) == before
    canary.wait_for_records(site_a, 5)  # production has not noticed


def test_one_command_brings_both_back_after_the_disaster(
    protected: Protected, site_a: Site, site_b: Site
) -> None:
    desk = protected.desk
    assert power.off(site_a)
    try:
        record = desk.ask("plan", "failover", PLAN, "--yes", timeout=3600)
        assert states(record) == dict.fromkeys(VNFS, "succeeded")
        active = {v["vnf"]: v["active_site"] for v in desk.ask("vnf", "list")}
        assert active == dict.fromkeys(VNFS, site_b.name)
        assert_chain_is_there(protected, site_b)
        assert_pair_is_there(protected, site_b)
        again = desk.run("plan", "failover", PLAN, "--yes")
        assert again.returncode == 2, "nothing is left to be done"
        servers = identity.connect(site_b, "antipode", tenant.PROJECT).compute.servers()
        assert [s.status for s in servers] == ["ACTIVE"] * (len(MEMBERS) + len(pair.MEMBERS))
    finally:
        revive = [sys.executable, "-m", "lab", "revive", site_a.name]
        subprocess.run(revive, cwd=PROJECT, check=True)


def assert_chain_is_there(protected: Protected, site: Site) -> None:
    """Each record that was durable when the members were frozen, and no other."""
    canary.wait_for_records(site, 10)
    report = check(canary.records(site))
    assert report.consistent, json.dumps(report.as_json(), indent=1)
    assert recovered_last(report, protected.boots) == protected.frozen_last


def assert_pair_is_there(protected: Protected, site: Site) -> None:
    """Each member's own records, whole, up to its capture."""
    for member in pair.MEMBERS:
        pair.wait_for_records(site, member, 5)
    for server, records in pair.records(site).items():
        assert records.is_whole, (server, records)
        captured = records.last_of_boot[sorted(records.last_of_boot)[-2]]
        assert 0 < captured <= protected.pair_before[server]
