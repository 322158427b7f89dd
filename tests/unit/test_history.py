# SPDX-License-Identifier: Apache-2.0
"""The history is bounded, and keeps every run that is still of use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from antipode import config
from antipode.engine.deployment import Deployment
from antipode.engine.run import new_run
from antipode.runs import history, kind_of
from antipode.store.tables import RunRow, StepRow
from tests.unit import samples

DAY_S = 86400.0


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    path = samples.write_config(tmp_path)
    path.write_text(path.read_text() + "history: {days: 10, keep_at_least: 1}\n")
    return Deployment(config.load(str(path)))


def run(deployment: Deployment, days_ago: float, state: str = "succeeded", **changes: Any) -> str:
    row = new_run(kind_of(changes.pop("kind", "protect")), changes.pop("vnf", "hlr"), {})
    row.started_at = row.ended_at = time.time() - days_ago * DAY_S
    row.state, row.slot, row_id = state, None, row.id
    for column, value in changes.items():
        setattr(row, column, value)
    if state in ("queued", "running"):
        row.ended_at = None
    deployment.runs.create(row)
    step = StepRow(
        id=row_id[-32:],
        run=row_id,
        number="1",
        name="discover",
        resource="",
        state="succeeded",
        started_at=1.0,
        result={},
    )
    deployment.runs.keep(row_id, 0, [step])
    return row_id


def left(deployment: Deployment) -> set[str]:
    with Session(deployment.database) as session:
        assert set(session.scalars(select(StepRow.run))) == set(session.scalars(select(RunRow.id)))
    return {row.id for row in deployment.runs.all()}


def test_runs_that_ended_long_ago_are_deleted_with_their_steps(deployment: Deployment) -> None:
    for days_ago in (12, 11):
        run(deployment, days_ago)
    kept = {run(deployment, 9), run(deployment, 1, "failed")}
    assert history.prune(deployment) == 2
    assert left(deployment) == kept


NEWER: dict[str, Any] = {"days_ago": 1.0, "state": "failed"}
"""A run after the others, so that these are not kept as the newest of their VNF."""


@pytest.mark.parametrize(
    ("days_ago", "state", "changes"),
    [
        (30, "succeeded", {}),  # the newest success
        (30, "running", {}),
        (30, "queued", {}),
        (30, "failed", {"kind": "failover"}),  # it can be resumed
        (30, "aborted", {"request": {"vnf": {}}}),  # its orphans were not collected
    ],
)
def test_a_run_that_is_still_of_use_is_kept(
    deployment: Deployment, days_ago: float, state: str, changes: dict[str, Any]
) -> None:
    kept = run(deployment, days_ago, state, **changes)
    newer = run(deployment, **NEWER)
    assert history.prune(deployment) == 0
    assert left(deployment) == {kept, newer}


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("aborted", {"request": {"vnf": {}}, "collected_at": 1.0}),
        ("failed", {"request": {"vnf": {}}, "collected_at": 1.0}),
        ("aborted", {}),
    ],
)
def test_a_run_that_is_over_for_good_is_deleted(
    deployment: Deployment, state: str, changes: dict[str, Any]
) -> None:
    run(deployment, 30, state, **changes)
    newer = run(deployment, **NEWER)
    assert history.prune(deployment) == 1
    assert left(deployment) == {newer}


def test_the_newest_runs_of_each_vnf_are_kept(deployment: Deployment) -> None:
    kept = {run(deployment, 30, "aborted"), run(deployment, 30, "aborted", vnf="other")}
    run(deployment, 31, "aborted")
    history.prune(deployment)
    assert left(deployment) == kept


def test_a_run_that_was_claimed_meanwhile_is_not_deleted(deployment: Deployment) -> None:
    run_id = run(deployment, 30, "failed")
    read = deployment.runs.get(run_id)
    with deployment.claims.take(run_id, also_failed=True):
        assert not deployment.runs.delete([read])
    assert left(deployment) == {run_id}


def test_a_long_history_is_deleted_in_parts(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST", 2)
    for number in range(4):
        run(deployment, 30 + number, "aborted")
    assert [history.prune(deployment) for _ in range(3)] == [2, 1, 0]


def test_what_is_looked_up_often_has_an_index(deployment: Deployment) -> None:
    queries = {
        "SELECT * FROM runs WHERE vnf = 'hlr' ORDER BY started_at DESC": "runs_of_vnf",
        "SELECT * FROM runs WHERE state IN ('queued', 'running')": "runs_in_state",
        "SELECT * FROM runs WHERE ended_at > 5": "runs_ended",
        "SELECT * FROM steps WHERE run = 'x' ORDER BY started_at": "steps_of_run",
        "SELECT * FROM freezes WHERE run = 'x' AND thawed_at IS NULL": "freezes_of_run",
    }
    with deployment.database.connect() as connection:
        for query, index in queries.items():
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
            assert any(index in row[-1] for row in plan), (query, plan)
