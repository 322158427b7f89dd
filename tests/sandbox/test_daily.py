# SPDX-License-Identifier: Apache-2.0
"""Day by day on embedded sites: is it ready, what would be lost, when would it be back; and what a
forecast was worth once the site has died.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox.conftest import BACKUP, PRIMARY, World, until
from tests.sandbox.test_schedule import PATIENCE_S, serving

pytestmark = pytest.mark.sandbox


def readiness(world: World) -> list[Any]:
    """What the service has seen of the VNF; one that is red, or was not seen, is an answer, too."""
    found = json.loads(world.operator.run("readiness", "canary", "-f", "json").stdout)
    return [one for one in found if one["verdict"] is not None]


def test_before_a_disaster_it_is_known_what_is_lost_and_when_the_vnf_is_back(
    own_world: World,
) -> None:
    world = own_world
    world.know(rpo="1h", rto="1h")
    world.protect()
    (before,) = world.operator.ask("forecast", "canary")
    assert before["back_in_s"] is None and before["unmeasured"]
    assert 0 <= before["loses_s"] < PATIENCE_S
    world.operator.tell("drill", "canary", "--yes")
    (measured,) = world.operator.ask("forecast", "canary")
    assert measured["back_in_s"] > 0 and measured["unmeasured"] == []
    advice = {one["option"]: one for one in world.operator.ask("advise", "canary")}
    assert advice["quiesced-snapshot"]["in_use"]
    # the sandbox has a storage that replicates, and the volumes of the VNF are on it
    measures = advice["replication"]["measured"]
    assert 0 < measures["replicated"] == measures["volumes"]
    assert advice["replication"]["verdict"] != "does not fit"

    world.sandbox.kill(PRIMARY)
    with serving(world):
        until(lambda: readiness(world), "the service has looked, with the site dead", PATIENCE_S)
    (ready,) = readiness(world)
    assert (ready["site"], ready["verdict"], ready["stale"]) == (BACKUP, "yellow", False)
    whole = world.operator.ask("forecast", "--site", PRIMARY)
    assert [row["vnf"] for row in whole] == ["canary", "(all)"]
    world.operator.tell("failover", "canary", "--to", BACKUP, "--yes")
    kept = world.operator.ask("forecast", "canary", "--history")
    assert [row["kind"] for row in kept] == ["failover", "drill"]
    assert kept[0]["took_s"] > 0
    assert kept[0]["off_by_s"] == pytest.approx(kept[0]["took_s"] - kept[0]["back_in_s"], abs=0.01)
    (history,) = world.operator.ask("report", "vnf", "canary", "--since", "1d")
    assert (history["points_made"], history["drills_passed"], history["failovers"]) == (1, 1, 1)
    assert history["rpo_kept_percent"] is not None
