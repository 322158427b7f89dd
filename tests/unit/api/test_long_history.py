# SPDX-License-Identifier: Apache-2.0
"""A long history slows no list: each is read along an index."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from antipode.api.gate import Installation
from antipode.store.runs import RunFilter

MINE = ["vnf"]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (RunFilter(), "runs_by_time"),
        (RunFilter(vnf="hlr"), "runs_of_vnf"),
        (RunFilter(state="running"), "runs_in_state"),
        (RunFilter(kind="drill"), "runs_of_kind"),
        (RunFilter(kind="drill", state="failed"), "runs_of_kind_in_state"),
        (RunFilter(MINE), "runs_of_project"),
        (RunFilter(MINE, state="running"), "runs_of_project_in_state"),
        (RunFilter(MINE, vnf="hlr"), "runs_of_project_and_vnf"),
    ],
)
def test_a_list_of_runs_is_read_along_an_index(
    installation: Installation, wanted: RunFilter, index: str
) -> None:
    database, asked = installation.deployment.database, []

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        asked.append((statement, given))

    event.listen(database, "before_cursor_execute", note)
    installation.deployment.runs.page(wanted, 10)
    event.remove(database, "before_cursor_execute", note)
    statement, given = asked[-1]
    with database.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
    assert f"INDEX {index} " in f"{plan[0][3]} "
