# SPDX-License-Identifier: Apache-2.0
"""A VNF that option 2 or option 3 protects is rehearsed at the other real site while it works,
recovered there, and given back to its old copy by an undo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from antipode.sandbox.members import MEMBERS, PAIR, Member
from lab import canary, pair
from lab.desk import EXAMPLE, Desk
from lab.site import SITES, Site
from tests.lab.holdings import copies, ports_up, what_is_there
from tests.lab.replicated import PREPARE
from tests.lab.two_way import REPLICATION, file_of
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab
STARTED = {"console": "canary: starts at", "within": "10m"}
"""What each guest says on its console once its disks and its user_data are there."""


@dataclass
class Protected:
    """A VNF that works at site-a, and the desk that protects it."""

    vnf: str
    members: Sequence[Member]
    desk: Desk

    def work_at(self, site: Site) -> None:
        """Return when each member makes records there."""
        for member in self.members:
            pair.wait_for_records(site, member, 10)

    def durable(self, site: Site) -> dict[str, int]:
        """The last record that each member has durable."""
        return {m.server: pair.durable(site, m, 60) for m in self.members}


@pytest.fixture(scope="module", autouse=True)
def with_replication() -> None:
    add_replication()


@pytest.fixture
def by_server_snapshots(tmp_path: Path, vnf_file: Callable[..., Path]) -> Iterator[Protected]:
    """The pair: each of its members has records of its own."""
    with empty_sites():
        pair.create(SITES["site-a"], PAIR)
        desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
        file = pair.vnf(yaml.safe_load(EXAMPLE.read_text()), members=PAIR)
        desk.tell("vnf", "add", str(vnf_file(**with_drill(file))))
        yield Protected("pair", PAIR, desk)


@pytest.fixture
def by_replication(tmp_path: Path, vnf_file: Callable[..., Path]) -> Iterator[Protected]:
    """The chain, on replicated volumes."""
    with empty_sites():
        canary.create(SITES["site-a"])
        desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
        file = yaml.safe_load(EXAMPLE.read_text()) | file_of(REPLICATION)
        desk.tell("vnf", "add", str(vnf_file(**with_drill(file))))
        desk.tell(*PREPARE)
        yield Protected("canary", MEMBERS, desk)


@contextmanager
def empty_sites() -> Iterator[None]:
    """Before the block and after it nothing of the VNFs is at either site."""
    for site in SITES.values():
        canary.remove(site)
    yield
    for site in SITES.values():
        canary.remove(site)


def with_drill(file: dict[str, Any]) -> dict[str, Any]:
    """A VNF file whose members are probed by a drill on their consoles."""
    return file | {"members": [member | {"drill": STARTED} for member in file["members"]]}


@pytest.mark.parametrize("protected", ["by_server_snapshots", "by_replication"])
def test_a_drill_leaves_nothing_and_a_failover_is_undone(
    protected: str, request: pytest.FixtureRequest, site_a: Site, site_b: Site
) -> None:
    there: Protected = request.getfixturevalue(protected)
    desk, vnf, count = there.desk, there.vnf, len(there.members)
    working, fenced = [("ACTIVE", False)] * count, [("SHUTOFF", True)] * count
    there.work_at(site_a)
    before = there.durable(site_a)
    desk.tell("protect", vnf)
    after = there.durable(site_a)

    held = what_is_there(site_b) | {"backups": set()}
    drill: dict[str, Any] = desk.ask("drill", vnf, "--yes", timeout=3600)
    assert drill["passed"] and drill["leaks"] == []
    assert [answer["ok"] for answer in drill["answers"]] == [True] * count
    assert what_is_there(site_b) | {"backups": set()} == held
    assert copies(site_a) == working

    within = ("--fence", "--undo-within", "1h", "--yes")
    failover = desk.ask("failover", vnf, "--to", site_b.name, *within, timeout=3600)
    assert failover["fence"]["not_fenced"] == []
    assert (copies(site_a), copies(site_b)) == (fenced, working)
    there.work_at(site_b)
    left, reached = (pair.records(site, there.members) for site in (site_a, site_b))
    for server, records in reached.items():
        assert records.is_whole, (server, records)
        captured = records.last_of_boot[max(left[server].last_of_boot)]
        assert before[server] <= captured <= after[server]

    assert desk.ask("undo", vnf, "--yes", timeout=3600)["generation"] == 3
    assert copies(site_a) == working
    assert {status for status, _ in copies(site_b)} == {"SHUTOFF"}
    assert all(ports_up(site_a))
    there.work_at(site_a)
    for server, records in pair.records(site_a, there.members).items():
        assert records.is_whole, (server, records)
        boot = max(left[server].last_of_boot)
        assert records.last_of_boot[boot] == left[server].last, "each record from before"
