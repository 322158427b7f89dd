# SPDX-License-Identifier: Apache-2.0
"""The quota of open runs: of processes that begin runs of one project at once, none exceeds it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from antipode.errors import QuotaExceeded
from antipode.store.approvals import Approvals
from antipode.store.database import open_database
from antipode.store.runs import OPEN, Room, Runs
from antipode.store.vnfs import Vnfs
from tests.unit.api.conftest import definition, run_of

HOSTS, MOST = 6, 2
PROJECT = Room("vnf", MOST)


def runs_begun(urls: list[str]) -> list[str]:
    """Have a run of each of as many VNFs of one project begun at once, by hosts of these
    databases; those that were.
    """
    engines = [open_database(url) for url in urls]
    vnfs = Vnfs(engines[0])
    for number in range(len(urls)):
        vnfs.put(definition(f"v{number}", "vnf"))
    together = threading.Barrier(len(urls))

    def begin(number: int) -> str | None:
        row = run_of(f"v{number}", number, state="queued", ended_at=None)
        run: str = row.id
        together.wait(60)
        try:
            if number % 2:
                Approvals(engines[number]).ask(row, PROJECT)
            else:
                Runs(engines[number]).create(row, PROJECT)
        except QuotaExceeded:
            return None
        return run

    with ThreadPoolExecutor(len(urls)) as pool:
        found = [run for run in pool.map(begin, range(len(urls))) if run is not None]
    assert Runs(engines[0]).count_unfinished("vnf") == len(found)
    return found


def test_of_hosts_that_begin_runs_at_once_none_exceeds_the_quota(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'antipode.db'}"
    assert len(runs_begun([url] * HOSTS)) == MOST


def test_a_run_that_has_ended_makes_room(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'antipode.db'}")
    Vnfs(engine).put(definition("hlr", "vnf"))
    runs = Runs(engine)
    for number, state in enumerate((*OPEN, "succeeded", "failed")):
        runs.create(run_of("hlr", number, state=state, ended_at=None))
    for most, refused in ((2, True), (3, False)):
        row = run_of("hlr", 10 + most, state="queued", ended_at=None)
        if refused:
            with pytest.raises(QuotaExceeded):
                runs.create(row, Room("vnf", most))
        else:
            runs.create(row, Room("vnf", most))
    assert runs.count_unfinished("vnf") == 3
