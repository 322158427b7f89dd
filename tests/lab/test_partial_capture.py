# SPDX-License-Identifier: Apache-2.0
"""An active and a standby member on two real sites: the standby one is captured for both, a client
never sees the active one pause, and both come back after every process of site-a was killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from antipode.sandbox.members import PAIR
from lab import canary, pair, power, supervision
from lab.desk import EXAMPLE, PROJECT, Desk
from lab.services import identity, tenant
from lab.site import SITES, Site
from lab.waiting import wait_until
from lab.witness import is_frozen

pytestmark = pytest.mark.lab
VNF = "pair"
ACTIVE, STANDBY = PAIR
PATIENCE_S = 120


@pytest.fixture
def servers(site_a: Site) -> Iterator[dict[str, str]]:
    """The pair at site-a: name -> server id."""
    for site in SITES.values():
        canary.remove(site)
    yield pair.create(site_a, PAIR)
    for site in SITES.values():
        canary.remove(site)


@pytest.fixture
def desk(servers: dict[str, str], tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk", f"antipode-test-{time.time_ns()}")
    file = tmp_path / "pair.yaml"
    example = yaml.safe_load(EXAMPLE.read_text())
    known = pair.vnf(example, option="quiesced-snapshot", capture=["standby"])
    file.write_text(yaml.safe_dump(known))
    desk.tell("vnf", "add", str(file))
    return desk


def test_the_active_member_makes_records_while_the_standby_one_is_captured_for_both(
    desk: Desk, servers: dict[str, str], site_a: Site, site_b: Site
) -> None:
    frozen_last = protect_and_look(desk, servers, site_a)
    newest = desk.ask("recovery-point", "show", VNF)
    assert newest["consistency"] == "member"
    assert newest["not_captured"] == {ACTIVE.server: f"a clone of {STANDBY.server}"}
    assert backed_up(site_a, servers) == {STANDBY.server}
    desk.tell("recovery-point", "verify", VNF)

    assert power.off(site_a)
    try:
        recovered = desk.ask("failover", VNF, "--to", site_b.name, "--yes")
        assert set(recovered["servers"]) == {member.server for member in PAIR}
        for member in PAIR:  # each at its own address
            pair.wait_for_records(site_b, member, 5)
        found = pair.records(site_b)
    finally:
        subprocess.run(
            [sys.executable, "-m", "lab", "revive", site_a.name], cwd=PROJECT, check=True
        )
    for server, records in found.items():
        assert records.is_whole, (server, records)
        captured = records.last_of_boot[sorted(records.last_of_boot)[-2]]
        assert captured == frozen_last, "both have what the captured one held"


def protect_and_look(desk: Desk, servers: dict[str, str], site: Site) -> int:
    """Make a recovery point; the last record of the standby member in its quiesce window.

    Cinder makes no snapshot before it has been seen that this member stands still and is frozen,
    and that the active one makes records.
    """
    supervision.send(site, "cinder-volume", signal.SIGSTOP)
    try:
        process = desk.start("protect", VNF, stderr=subprocess.PIPE)
        standby, active = servers[str(STANDBY.name)], servers[str(ACTIVE.name)]
        wait_until(lambda: is_frozen(site, standby), "the standby member is frozen", PATIENCE_S)
        last = pair.durable(site, STANDBY)
        assert not is_frozen(site, active)
        pair.wait_for_records(site, ACTIVE, 10)
        assert not is_frozen(site, active)
        assert (pair.durable(site, STANDBY), is_frozen(site, standby)) == (last, True)
    finally:
        supervision.send(site, "cinder-volume", signal.SIGCONT)
    _, said = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    return last


def backed_up(site: Site, servers: dict[str, str]) -> set[str]:
    """The members that any backup is of."""
    cloud = identity.connect(site, "antipode", tenant.PROJECT)
    of = {b.volume_id for b in cloud.block_storage.backups(details=True)}
    return {
        member.server
        for member in PAIR
        for attached in cloud.compute.volume_attachments(servers[str(member.name)])
        if attached.volume_id in of
    }
