# SPDX-License-Identifier: Apache-2.0
"""The flow database: first opened by one process at a time, named when it is damaged, made again
when it is gone.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from taskflow.persistence import models

from antipode import config
from antipode.engine.flows import Flows, _book_id
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
    with Flows(settings).backend() as backend:
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
    flows = Flows(settings)
    with pytest.raises(AntipodeError) as told:
        flows.is_complete("protect-1")
    assert str(path) in str(told.value)
    assert flows.books() == []
    path.unlink()
    assert not flows.is_complete("protect-1")


def keep(flows: Flows, run: str, secret: str = "") -> None:
    with flows.backend() as backend:
        book = models.LogBook(run, _book_id(run))
        book.meta = {"user_data": secret}
        backend.get_connection().save_logbook(book)


@pytest.mark.parametrize("with_its_log", [True, False])
def test_a_flow_database_that_was_moved_away_under_a_service_is_made_again(
    settings: config.Config, with_its_log: bool
) -> None:
    flows, elsewhere = Flows(settings), Flows(settings)
    keep(flows, "protect-1")
    for file in settings.state_dir.glob("flows.db*" if with_its_log else "flows.db"):
        file.rename(file.with_name(f"damaged-{file.name}"))
    assert flows.books() == []
    keep(flows, "protect-2")
    assert flows.books() == elsewhere.books() == ["protect-2"]


def test_the_flow_database_is_opened_once_for_all_runs_and_threads(
    settings: config.Config,
) -> None:
    flows, threads = Flows(settings), 20

    def run(number: int) -> object:
        keep(flows, f"protect-{number}")
        with flows.backend() as backend:
            return backend

    with ThreadPoolExecutor(threads) as pool:
        backends = list(pool.map(run, range(threads)))
    assert len(set(map(id, backends))) == 1
    assert sorted(flows.books()) == sorted(f"protect-{number}" for number in range(threads))


def test_a_forked_process_has_connections_of_its_own(settings: config.Config) -> None:
    flows = Flows(settings)
    keep(flows, "protect-1")
    processes = multiprocessing.get_context("fork")
    seen = processes.Queue()

    def fork() -> None:
        with flows.backend() as backend:
            seen.put(id(backend.engine.pool))
        keep(flows, "protect-2")

    process = processes.Process(target=fork)
    process.start()
    with flows.backend() as backend:
        assert seen.get(timeout=WITHIN_S) != id(backend.engine.pool)
    process.join(WITHIN_S)
    assert process.exitcode == 0
    keep(flows, "protect-3")
    assert sorted(flows.books()) == ["protect-1", "protect-2", "protect-3"]


def test_what_is_forgotten_is_on_no_disk_while_the_database_is_open(
    settings: config.Config,
) -> None:
    flows, secret = Flows(settings), "password: of the guest"

    def written() -> bool:
        files = settings.state_dir.glob("flows.db*")
        return any(secret.encode() in file.read_bytes() for file in files)

    keep(flows, "failover-1", secret)
    assert written()
    flows.forget("failover-1")
    assert not written()


def test_what_a_killed_process_left_in_the_log_goes_when_the_database_is_opened(
    settings: config.Config,
) -> None:
    flows, secret = Flows(settings), "password: of the guest"
    keep(flows, "failover-1", secret)
    with flows.backend() as backend:
        backend.get_connection().destroy_logbook(_book_id("failover-1"))
    log = settings.state_dir / "flows.db-wal"
    assert secret.encode() in log.read_bytes()
    assert Flows(settings).books() == []
    assert secret.encode() not in log.read_bytes()


@pytest.mark.parametrize("name", ["antipode.db", "flows.db"])
def test_a_database_that_others_could_read_becomes_private(
    settings: config.Config, name: str
) -> None:
    settings.state_dir.mkdir(exist_ok=True)
    path = settings.state_dir / name
    path.touch()
    path.chmod(0o644)
    open_database(settings.database).dispose()
    Flows(settings).is_complete("protect-1")
    assert path.stat().st_mode & 0o777 == 0o600
