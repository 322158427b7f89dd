# SPDX-License-Identifier: Apache-2.0
"""A whole circle between the two real sites: there, back and there again, each site the backup of
the other, and every record counted at each move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from antipode.sandbox.members import MEMBERS
from lab import canary
from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import Site
from lab.waiting import wait_until
from tests.lab.holdings import copies
from tests.lab.two_way import (
    REPLICATION,
    VNF,
    assert_nothing_was_lost,
    backups_at,
    boots,
    carried_to,
    file_of,
    two_way,
)
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def object_storage_at_both() -> None:
    add_replication()


@pytest.fixture
def canary_at_a(site_a: Site, site_b: Site) -> Iterator[None]:
    """The canary runs at site-a and not at site-b; in the end it is at neither."""
    canary.remove(site_b)
    canary.create(site_a)
    yield
    canary.remove(site_a)
    canary.remove(site_b)


def volumes(site: Site) -> int:
    return len(list(identity.connect(site, "antipode", PROJECT).block_storage.volumes()))


@pytest.mark.parametrize("option", ["quiesced-snapshot", "server-snapshot", REPLICATION])
def test_there_and_back_and_there_again_not_one_record_is_lost(
    canary_at_a: None,
    option: str,
    site_a: Site,
    site_b: Site,
    vnf_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    desk = two_way(tmp_path / "desk")
    desk.tell("vnf", "add", str(vnf_file(**file_of(option))))
    here = site_a
    moves: list[tuple[Site, list[str]]] = [
        (site_b, ["migrate", VNF, "--to", site_b.name]),
        (site_a, ["failback", VNF]),
        (site_b, ["failback", VNF, "--to", site_b.name]),  # an old copy is in the way there, too
    ]
    for generation, (there, command) in enumerate(moves, start=2):
        canary.wait_for_records(here, 20)
        last_boots = boots(here)
        with carried_to(there, option, desk, tmp_path):
            record: dict[str, Any] = desk.ask(*command, "--yes", timeout=3600)
            assert "not_done" not in record and "left" not in record
            assert_nothing_was_lost(here, there, last_boots)
            canary.wait_for_records(there, 10)
        assert copies(here) == [("SHUTOFF", True)] * len(MEMBERS)
        assert copies(there) == [("ACTIVE", False)] * len(MEMBERS)
        assert volumes(there) == volumes(here) == 2 * len(MEMBERS)
        (listed,) = desk.ask("vnf", "list")
        assert (listed["active_site"], listed["generation"]) == (there.name, generation)
        here = there


def test_after_a_failover_that_asks_the_vnf_is_protected_the_other_way_round(
    canary_at_a: None,
    site_a: Site,
    site_b: Site,
    vnf_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    desk = two_way(tmp_path / "desk")
    log = tmp_path / "steps"
    steps = [
        {"name": "sure", "before": "all", "on": "failover", "prompt": "Is the site lost?"},
        {"name": "note", "after": "all", "command": ["sh", "-c", f"echo {{site}} >> {log}"]},
    ]
    desk.tell("vnf", "add", str(vnf_file(**file_of("quiesced-snapshot"), steps=steps)))
    canary.wait_for_records(site_a, 20)
    desk.tell("protect", VNF)

    def asks() -> bool:
        return "waiting for input" in {run["state"] for run in desk.ask("run", "list")}

    command = ("failover", VNF, "--to", site_b.name, "--fence", "--yes")
    with desk.start(*command) as failover:
        wait_until(asks, "it asks", 600, 2)
        assert copies(site_b) == []
        [run] = [r["run"] for r in desk.ask("run", "list") if r["kind"] == "failover"]
        desk.tell("run", "answer", run, "sure", "--yes")
        assert failover.wait(1800) == 0
    assert log.read_text().split() == [site_b.name]
    canary.wait_for_records(site_b, 20)

    with backups_at(site_a, tmp_path):
        record = desk.ask("reprotect", VNF, "--old-copy", "remove", "--yes", timeout=1800)
    assert record["recoverable"] and record["missing"] == []
    assert copies(site_a) == []
    assert volumes(site_a) == 0
    assert copies(site_b) == [("ACTIVE", False)] * len(MEMBERS)
    newest = desk.ask("recovery-point", "list", VNF)[-1]
    assert (newest["id"], newest["generation"]) == (record["recovery_point"], 2)
    desk.tell("recovery-point", "verify", VNF, newest["id"])
