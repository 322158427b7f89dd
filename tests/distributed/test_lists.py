# SPDX-License-Identifier: Apache-2.0
"""Lists of runs and VNFs, page by page, on real database servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from antipode.model.state import ProtectedVnf
from antipode.store.database import open_database
from antipode.store.runs import RunFilter, Runs
from antipode.store.states import States
from antipode.store.vnfs import Vnfs
from tests.unit.api.conftest import definition, run_of

PROJECTS = ("vnf", "other", None)
SHOWN: list[tuple[Sequence[str] | None, int]] = [(None, 9), (["vnf"], 3), (["vnf", "other"], 6)]


def paged(page: Callable[[str | None], Sequence[Any]], name: str) -> list[str]:
    """The names of all items, of pages of two."""
    found: list[str] = []
    while more := [getattr(item, name) for item in page(found[-1] if found else None)]:
        assert len(more) <= 2
        found += more
    return found


@pytest.mark.parametrize(("projects", "count"), SHOWN)
def test_pages_have_each_item_once_in_order(
    new_database: str, projects: Sequence[str] | None, count: int
) -> None:
    engine = open_database(new_database)
    runs, vnfs, states = Runs(engine), Vnfs(engine), States(engine)
    for number in range(9):
        project, name = PROJECTS[number % 3], f"vnf-{number}"
        vnfs.put(definition(name, project))
        # of two that began at one moment, too
        runs.create(run_of(name, number, project=project, started_at=float(number // 2)))
        states.keep(ProtectedVnf(vnf=name, active_site="site-a", generation=1))
    mine = RunFilter(projects, kind="protect", state="succeeded")
    began = paged(lambda last: runs.page(mine, 2, last), "id")
    moments = [(row.started_at, row.id) for row in map(runs.get, began)]
    assert moments == sorted(moments, reverse=True)
    assert len(set(began)) == len(began) == count
    names = paged(lambda last: vnfs.page(projects, 2, last), "name")
    assert names == sorted(set(names)) and len(names) == count
    assert set(states.some([*names, "never-read"])) == set(names)
    newest = runs.newest(9, projects=projects, after=began[0])
    assert [row.id for row in newest] == began[1:]
