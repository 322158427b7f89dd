# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with replicated volumes on two real sites: daemons that die, and monitors that
cannot be reached.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import inside, supervision, wan
from lab.desk import Desk
from lab.services.rbd_mirror import PROGRAM, RbdMirror
from lab.site import Site
from lab.waiting import wait_until
from tests.lab.holdings import what_is_there
from tests.lab.replicated import (
    VNF,
    healths,
    protect,
    refusal,
    replicated_canary,
    replicates,
)
from tests.lab.with_replication import add_replication

pytestmark = pytest.mark.lab
PATIENCE_S = 600


@pytest.fixture(scope="module")
def replicated(
    tmp_path_factory: pytest.TempPathFactory, vnf_file: Callable[..., Path]
) -> Iterator[Desk]:
    """The canary at site-a, replicated to site-b: each test leaves it so."""
    add_replication()
    with replicated_canary(tmp_path_factory.mktemp("faults") / "desk", vnf_file) as desk:
        yield desk


def kill_daemon(site: Site) -> None:
    """Kill rbd-mirror; its supervisor starts it again."""
    os.kill(inside.pids(site)[supervision.processes(site)[PROGRAM]["pid"]], signal.SIGKILL)


def test_a_daemon_that_dies_while_its_peer_is_silent_is_seen_and_goes_on_when_it_answers(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    before = what_is_there(site_a)
    points = replicated.ask("recovery-point", "list", VNF)
    wan.part(site_b, site_a)  # no monitor of site-a answers it
    try:
        kill_daemon(site_b)
        wait_until(
            lambda: "replicating" not in healths(replicated, site_b),
            "the silence is seen",
            PATIENCE_S,
            2,
        )
        assert refusal(replicated, "protect", VNF) == "preflight-failed"
        assert what_is_there(site_a) == before
        assert replicated.ask("recovery-point", "list", VNF) == points
    finally:
        wan.reunite(site_b, site_a)
    replicates(replicated, site_b)
    protect(replicated)


def test_a_daemon_that_is_dead_at_the_active_site_keeps_nothing_from_arriving(
    replicated: Desk, site_a: Site
) -> None:
    supervision.stop(site_a, [PROGRAM])
    try:
        replicated.ask("protect", VNF)
    finally:
        supervision.start(site_a, RbdMirror().programs(site_a))
