# SPDX-License-Identifier: Apache-2.0
"""A planned migration between the two real sites: every record that a member has made durable
before it was switched off is at site-b, and the copy at site-a is off and locked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from antipode.sandbox.story import recovered_last
from lab import canary
from lab.checker import check
from lab.desk import Desk
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import Site

pytestmark = pytest.mark.lab
VNF = "canary"


@pytest.fixture
def at_work(site_a: Site, site_b: Site) -> Iterator[dict[str, int]]:
    """The canary runs at site-a and not at site-b; how often each member has booted."""
    canary.remove(site_b)
    canary.create(site_a)
    canary.wait_for_records(site_a, 20)
    yield {role: member["boot"] for role, member in canary.state(site_a).items()}
    canary.remove(site_a)
    canary.remove(site_b)


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot"])
def test_not_one_record_is_lost_and_the_old_copy_is_off_and_locked(
    at_work: dict[str, int],
    option: str,
    site_a: Site,
    site_b: Site,
    vnf_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
    protection = {"option": option, "quiesce": {"timeout": "60s"}}
    desk.tell("vnf", "add", str(vnf_file(protections=[protection])))
    record = desk.ask("migrate", VNF, "--to", site_b.name, "--yes")
    assert "not_done" not in record
    written, there = check(canary.records(site_a)), check(canary.records(site_b))
    for report in (written, there):
        assert report.consistent, json.dumps(report.as_json(), indent=1)
    assert recovered_last(there, at_work) == recovered_last(written, at_work)
    canary.wait_for_records(site_b, 10)
    old = list(identity.connect(site_a, "antipode", PROJECT).compute.servers())
    assert [(s.status, s.is_locked) for s in old] == [("SHUTOFF", True)] * 3
