# SPDX-License-Identifier: Apache-2.0
"""A drill at a real site: the captured guests start on networks that lead nowhere, with their
addresses, while site-a is a black hole; their content is compared, and nothing of it is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.members import MEMBERS
from lab import canary, wan
from lab.desk import EXAMPLE, Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import SITES, Site
from tests.lab.holdings import what_is_there

pytestmark = pytest.mark.lab
VNF = "canary"
STARTED = {"console": "canary: starts at", "within": "5m"}
"""What each guest says on its console once its disks and its user_data are there."""


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]) -> Desk:
    """A desk whose VNF has a recovery point, and is not at site-b."""
    canary.remove(SITES["site-b"])
    canary.create(SITES["site-a"])
    desk = Desk(tmp_path_factory.mktemp("desk"), f"antipode-test-{time.time_ns()}")
    members = yaml.safe_load(EXAMPLE.read_text())["members"]
    desk.tell("vnf", "add", str(vnf_file(members=[{**m, "drill": STARTED} for m in members])))
    canary.wait_for_records(SITES["site-a"], 20)
    desk.ask("protect", VNF)
    return desk


def held(site: Site) -> dict[str, set[str]]:
    """What a drill could leave; records of backups that it has imported stay, as they should."""
    cloud = identity.connect(site, "antipode", PROJECT)
    return {
        **what_is_there(site),
        "backups": set(),
        "networks": {n.id for n in cloud.network.networks()},
        "subnets": {s.id for s in cloud.network.subnets()},
        # Neutron makes the default one of a project by itself
        "security groups": {g.id for g in cloud.network.security_groups() if g.name != "default"},
    }


def addresses(site: Site) -> list[tuple[str, str]]:
    """MAC and IP address of each port of a server."""
    cloud = identity.connect(site, "antipode", PROJECT)
    return sorted(
        (p.mac_address, p.fixed_ips[0]["ip_address"])
        for s in cloud.compute.servers()
        for p in cloud.network.ports(device_id=s.id)
    )


def test_a_drill_of_a_dead_site_boots_the_captured_guests_and_leaves_nothing(
    protected: Desk, site_a: Site, site_b: Site
) -> None:
    before = held(site_b)
    wan.isolate(site_a)
    try:
        calls = wan.calls_to(site_a)
        record: dict[str, Any] = protected.ask("drill", VNF, "--yes")
        assert wan.calls_to(site_a) == calls
    finally:
        wan.rejoin(site_a)
    assert record["passed"] and record["leaks"] == []
    assert [a["ok"] for a in record["answers"]] == [True] * len(MEMBERS)
    assert {c["ok"] for c in record["content"]} == {True}
    for proof in (record["isolation"], record["isolation_in_the_end"]):
        assert (proof["routers"], proof["floating_ips"], proof["ports_of_others"]) == (0, 0, 0)
    assert held(site_b) == before
    canary.wait_for_records(site_a, 5)  # production has not noticed


def test_a_drill_that_is_kept_has_the_members_addresses_until_it_is_cleaned_up(
    protected: Desk, site_a: Site, site_b: Site
) -> None:
    before = held(site_b)
    protected.ask("drill", VNF, "--yes", "--keep", "1h")
    assert addresses(site_b) == addresses(site_a)
    cloud = identity.connect(site_b, "antipode", PROJECT)
    made = [n for n in cloud.network.networks() if n.id not in before["networks"]]
    assert made and not any(n.is_shared or n.is_router_external for n in made)
    removed = protected.ask("drill", "cleanup", VNF, "--yes")
    assert removed["leaks"] == []
    assert held(site_b) == before
