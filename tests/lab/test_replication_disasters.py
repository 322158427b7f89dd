# SPDX-License-Identifier: Apache-2.0
"""Option 3 when site-a is destroyed at a bad moment: the newest heads of its volumes, and a point
that is half across. Every record is counted.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from antipode.sandbox.members import MEMBERS
from lab import canary, power
from lab.desk import PROJECT as TREE
from lab.desk import Desk
from lab.site import Site
from lab.waiting import wait_until
from tests.lab.awaited import AwaitedWitness
from tests.lab.heads import (
    VOLUMES,
    assert_lost_only_what_is_newer,
    assert_taken_from_heads,
    before_recovery,
    originals,
)
from tests.lab.holdings import copies
from tests.lab.mirroring import hold_up, under_orders
from tests.lab.replicated import (
    PREPARE,
    VNF,
    assert_recovered,
    keep_points_at_a_third_place,
    protect,
    refusal,
    replicates,
    storage_states,
)

pytestmark = pytest.mark.lab
LOG = logging.getLogger(__name__)
WORKING = [("ACTIVE", False)] * len(MEMBERS)
FENCED = [("SHUTOFF", True)] * len(MEMBERS)
FAILOVER = ("failover", VNF, "--to", "site-b")
PATIENCE_S = 600


@contextmanager
def killed(site: Site) -> Iterator[None]:
    """While the block is executed, the site is dead; afterwards it serves again."""
    power.off(site)
    try:
        yield
    finally:
        subprocess.run([sys.executable, "-m", "lab", "revive", site.name], cwd=TREE, check=True)


def test_the_newest_heads_of_a_killed_site_come_back_and_its_return_overwrites_nothing(
    replicated: Desk, site_a: Site, site_b: Site
) -> None:
    keep_points_at_a_third_place(replicated)
    made = protect(replicated)
    canary.wait_for_records(site_a, 40)
    with killed(site_a):
        planned = replicated.ask(*FAILOVER, "--newest-heads", "--plan")
        assert planned["losses_s"]["recovery_point"] > 0
        assert len(planned["heads"]) == VOLUMES
        done = replicated.ask(*FAILOVER, "--newest-heads", "--yes")
        assert done["recovery_point"] == made.record["recovery_point"]
        assert done["consistency"] == "replica"
        assert len(done["heads_behind_s"]) == VOLUMES
        assert "left" not in done
        LOG.info("told: %s, and now: %s", planned["losses_s"], done["heads_behind_s"])
        came_back = assert_taken_from_heads(site_b, made)

    # the site is back with its originals, and they are the only ones of its volumes
    assert (len(originals(site_a)), originals(site_b)) == (VOLUMES, set())
    replicated.ask("fence", VNF, "--site", site_a.name, "--yes")
    assert (copies(site_a), copies(site_b)) == (FENCED, WORKING)
    written = canary.records(site_a)
    assert_lost_only_what_is_newer(before_recovery(written, made), came_back)

    replicated.tell(*PREPARE)
    assert replicated.ask("protect", VNF)["generation"] == 2
    assert len(originals(site_b)) == VOLUMES
    assert canary.records(site_a) == written, "what did not come back is there still"


def test_a_point_that_is_half_across_when_its_site_is_killed_is_never_used(
    replicated: Desk, site_a: Site, site_b: Site, tmp_path: Path
) -> None:
    servers = canary.create(site_a)
    held_up = f"volume-{canary.data_volumes(site_a)['app']}"
    whole = protect(replicated)
    arrived = storage_states(site_b)
    canary.wait_for_records(site_a, 20)

    def has_arrived_but_for_one() -> bool:
        new = {i: there - arrived[i] for i, there in storage_states(site_b).items() if i in arrived}
        assert not new[held_up]
        return all(there for image, there in new.items() if image != held_up)

    with under_orders(site_b, tmp_path / "mirror.log"), (tmp_path / "log").open("w") as log:
        replicates(replicated, site_b)
        with AwaitedWitness(site_a, servers, while_frozen=lambda: hold_up(site_b, held_up)):
            under_way = replicated.start("protect", VNF, stdout=log, stderr=log)
            wait_until(has_arrived_but_for_one, "the point is half across", PATIENCE_S, 0.5)
        with killed(site_a):
            under_way.send_signal(signal.SIGKILL)  # its host is at the site
            under_way.wait()
            assert refusal(replicated, *FAILOVER, "--newest-heads", "--yes") == "preflight-failed"
            result = replicated.ask(*FAILOVER, "--yes")
            assert result["recovery_point"] == whole.record["recovery_point"]
            assert_recovered(site_b, whole)
            assert originals(site_b) == set()
