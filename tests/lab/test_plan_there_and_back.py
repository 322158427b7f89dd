# SPDX-License-Identifier: Apache-2.0
"""A plan over two VNFs moves them to the other real site and brings them back, each time once a
second person has approved it, and not one record is lost.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.members import MEMBERS, PAIR
from lab import canary, pair
from lab.desk import EXAMPLE, Desk
from lab.site import SITES, Site
from lab.waiting import wait_until
from tests.lab.holdings import copies
from tests.lab.two_way import assert_nothing_was_lost, backups_at, boots, file_of, two_way
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab
PLAN, VNFS = "maintenance", ["canary", "pair"]
OTHER_PERSON = "65534"
SERVERS = len(MEMBERS) + len(PAIR)
WORKING = [("ACTIVE", False)] * SERVERS
FENCED = [("SHUTOFF", True)] * SERVERS


@pytest.fixture(scope="module", autouse=True)
def object_storage_at_both() -> None:
    add_replication()


@pytest.fixture
def both_at_a(site_a: Site) -> Iterator[None]:
    """Both VNFs run at site-a; in the end they are at neither site."""
    for site in SITES.values():
        canary.remove(site)
    canary.create(site_a)
    pair.create(site_a, PAIR)
    yield
    for site in SITES.values():
        canary.remove(site)


@pytest.fixture
def desk(both_at_a: None, tmp_path: Path, vnf_file: Callable[..., Path]) -> Desk:
    """A desk where another person approves what moves a VNF; the plan is in the vaults."""
    desk = two_way(tmp_path / "desk")
    known = yaml.safe_load(desk.configuration.read_text())
    known["approvals"] = {"migrate": 1, "failback": 1}
    desk.configuration.write_text(yaml.safe_dump(known, sort_keys=False))
    desk.tell("vnf", "add", str(vnf_file(**file_of("quiesced-snapshot"))))
    example = yaml.safe_load(EXAMPLE.read_text())
    two = pair.vnf(example, option="quiesced-snapshot", members=PAIR)
    desk.tell("vnf", "add", str(vnf_file(**two)))
    with backups_at(SITES["site-b"], tmp_path):  # signs, so the vaults know this host's key
        desk.tell("protect", "pair")
    groups = [{"name": "both", "vnfs": VNFS}]
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"plan": PLAN, "groups": groups}, sort_keys=False))
    desk.tell("plan", "put", str(path))
    return desk


def log_in() -> None:
    """As another person, as PAM does at a login: the kernel keeps it of the process."""
    Path("/proc/self/loginuid").write_text(OTHER_PERSON)


def carried_out(desk: Desk, verb: str, *arguments: str) -> tuple[str, Any]:
    """Have a plan be carried out that another person approves while nothing is done; its id and
    its record.
    """

    def awaiting() -> list[str]:
        runs = desk.ask("run", "list")
        return [run["run"] for run in runs if run["state"] == "awaiting approval"]

    before = {name: copies(site) for name, site in SITES.items()}
    command = ("plan", verb, PLAN, *arguments, "--yes", "-f", "json")
    with desk.start(*command, stdout=subprocess.PIPE) as process:
        wait_until(lambda: bool(awaiting()), "it awaits an approval", 600, 2)
        [run] = awaiting()
        assert desk.run("run", "approve", run, "--yes").returncode == 2, "it is one's own"
        assert awaiting() == [run]
        assert {name: copies(site) for name, site in SITES.items()} == before
        approval = desk.start("run", "approve", run, "--yes", preexec_fn=log_in)
        assert approval.wait(600) == 0
        said, _ = process.communicate(timeout=3600)
    assert process.returncode == 0
    return run, json.loads(said)


def assert_moved(desk: Desk, left: Site, reached: Site, last_boots: dict[str, int]) -> None:
    """Both VNFs work there and nowhere else, and have each record from before."""
    assert (copies(left), copies(reached)) == (FENCED, WORKING)
    assert {v["vnf"]: v["active_site"] for v in desk.ask("vnf", "list")} == (
        dict.fromkeys(VNFS, reached.name)
    )
    canary.wait_for_records(reached, 10)
    assert_nothing_was_lost(left, reached, last_boots)
    for member in PAIR:
        pair.wait_for_records(reached, member, 5)
    written, there = pair.records(left), pair.records(reached)
    for server, old in written.items():
        assert old.is_whole and there[server].is_whole, (old, there[server])
        boot = max(old.last_of_boot)
        assert there[server].last_of_boot[boot] == old.last


def test_two_vnfs_move_there_and_back_once_another_person_approves(
    desk: Desk, site_a: Site, site_b: Site, tmp_path: Path
) -> None:
    for verb, here, there, arguments in (
        ("migrate", site_a, site_b, ["--to", site_b.name]),
        ("failback", site_b, site_a, []),
    ):
        canary.wait_for_records(here, 20)
        last_boots = boots(here)
        with backups_at(there, tmp_path):
            run, record = carried_out(desk, verb, *arguments)
        assert {one["vnf"]: one["state"] for one in record["vnfs"]} == (
            dict.fromkeys(VNFS, "succeeded")
        )
        shown = desk.ask("run", "show", run)
        assert len(shown["approved_by"]) == 1 and shown["author"] not in shown["approved_by"]
        assert_moved(desk, here, there, last_boots)
