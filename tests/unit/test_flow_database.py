# SPDX-License-Identifier: Apache-2.0
"""The flow database: first opened by one process at a time, named when it is damaged, made again
when it is gone.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from antipode import config
from antipode.engine import flow_runner
from antipode.errors import AntipodeError
from antipode.store.database import open_database
from tests.unit import samples

pytestmark = pytest.mark.usefixtures("migrations")

AT_ONCE = 8
WITHIN_S = 120


def look(file: str, all_there: Any, seen: Any) -> None:
    settings = config.load(file)
    all_there.wait(WITHIN_S)
    open_database(settings.database).dispose()
    with flow_runner._backend(settings) as backend:
        seen.put(len(list(backend.get_connection().get_logbooks(lazy=True))))


def test_the_first_runs_of_a_new_installation_may_begin_at_once(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    for trial in range(3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        file = str(samples.write_config(folder))
        all_there, seen = processes.Barrier(AT_ONCE), processes.Queue()
        runs = [
            processes.Process(target=look, args=(file, all_there, seen)) for _ in range(AT_ONCE)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(WITHIN_S)
        assert [run.exitcode for run in runs] == [0] * AT_ONCE
        assert [seen.get(timeout=WITHIN_S) for _ in runs] == [0] * AT_ONCE


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    return config.load(str(samples.write_config(tmp_path)))


def test_a_damaged_flow_database_is_named(settings: config.Config) -> None:
    settings.state_dir.mkdir(exist_ok=True)
    path = settings.state_dir / "flows.db"
    path.write_bytes(b"damaged " * 1000)
    with pytest.raises(AntipodeError) as told:
        flow_runner.is_complete(settings, "protect-1")
    assert str(path) in str(told.value)
    assert flow_runner.books(settings) == []


def test_a_flow_database_that_was_removed_under_a_service_is_made_again(
    settings: config.Config,
) -> None:
    assert not flow_runner.is_complete(settings, "protect-1")
    for file in settings.state_dir.glob("flows.db*"):
        file.unlink()
    assert not flow_runner.is_complete(settings, "protect-1")


@pytest.mark.parametrize("name", ["antipode.db", "flows.db"])
def test_a_database_that_others_could_read_becomes_private(
    settings: config.Config, name: str
) -> None:
    settings.state_dir.mkdir(exist_ok=True)
    path = settings.state_dir / name
    path.touch()
    path.chmod(0o644)
    open_database(settings.database).dispose()
    flow_runner.is_complete(settings, "protect-1")
    assert path.stat().st_mode & 0o777 == 0o600
