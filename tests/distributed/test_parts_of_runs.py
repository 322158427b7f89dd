# SPDX-License-Identifier: Apache-2.0
"""Runs and their parts on real database servers, which read JSON each in its own way."""

from __future__ import annotations

import pytest

from antipode.store.database import open_database
from antipode.store.runs import Runs
from antipode.store.tables import RunRow


@pytest.fixture
def runs(new_database: str) -> Runs:
    return Runs(open_database(new_database))


def kept(runs: Runs, run: str, vnf: str, at: float, **request: object) -> RunRow:
    row = RunRow(
        id=run,
        kind=run.partition(" ")[0],
        vnf=vnf,
        state="failed",
        started_at=at,
        result={},
        request=request,
    )
    runs.create(row)
    return runs.get(run)


def test_parts_are_found_and_those_of_plans_are_the_newest_of_their_vnfs(runs: Runs) -> None:
    plan = kept(runs, "plan-migrate 1", "plan:p", 100.0, part_of=None)
    of_plan = kept(runs, "migrate 1", "v", 101.0, part_of=plan.id)
    below = kept(runs, "failover 1", "v", 102.0, part_of=of_plan.id)
    alone = kept(runs, "failover 2", "w", 103.0)
    assert [row.id for row in runs.parts([plan])] == [of_plan.id]
    assert [row.id for row in runs.parts([of_plan, alone])] == [below.id]
    newest = runs.newest_of_each(["migrate", "failover"])
    assert [row.id for row in newest] == [alone.id, of_plan.id]
    assert [row.id for row in runs.unfinished_of("plan:%")] == [plan.id]
