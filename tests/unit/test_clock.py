# SPDX-License-Identifier: Apache-2.0
"""The clock that may be handed in, and what looks that a service makes again and again read of a
long history.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import event

import antipode
from antipode import clock, config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.runs import expire, history, kind_of, orphans, protect, verify
from antipode.store import database
from antipode.store.tables import RunRow
from tests.unit import samples

SOURCE = Path(antipode.__file__).parent
FOLLOWING = [
    *sorted((SOURCE / "engine").glob("*.py")),
    *sorted((SOURCE / "store").glob("*.py")),
    *(SOURCE / "runs" / f"{name}.py" for name in ("history", "orphans", "forecast")),
    *(SOURCE / "service" / f"{name}.py" for name in ("scheduler", "metrics", "observer")),
]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(config.load(str(samples.write_config(tmp_path))))


def test_another_clock_counts_while_it_is_followed_and_not_after(deployment: Deployment) -> None:
    with clock.following(lambda: 1000.0):
        assert clock.now() == database.now(deployment.database) == 1000.0
        assert new_run(kind_of("protect"), "hlr", {}).started_at == 1000.0
    assert clock.now() > 1e9


@pytest.mark.parametrize("path", FOLLOWING, ids=lambda path: path.stem)
def test_what_is_kept_is_dated_by_that_clock(path: Path) -> None:
    assert not re.search(r"\btime\.time\(\)", path.read_text())


def test_looks_that_are_made_often_do_not_read_a_long_history(deployment: Deployment) -> None:
    vnf = samples.vnf(verify_every="1h")
    deployment.vnfs.put(vnf)
    now = time.time()
    for number in range(60):
        row = new_run(kind_of("protect"), "hlr", {})
        row.id, row.slot, row.state = f"protect-{number:03}", None, "succeeded"
        row.started_at = row.ended_at = now - 3600 + number
        deployment.runs.create(row)
    read: list[str] = []

    def note(row: RunRow, _: object) -> None:
        read.append(row.id)

    event.listen(RunRow, "load", note)
    try:
        orphans.collect(deployment)
        assert protect.dead_runs(deployment, "hlr") == set()
        expire.submit_due(deployment, [vnf], lambda row: None)
        verify.submit_due(deployment, [vnf], lambda row: None)
        assert history.prune(deployment) == 0
    finally:
        event.remove(RunRow, "load", note)
    assert len(read) < 5
