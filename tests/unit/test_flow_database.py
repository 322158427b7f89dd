"""The flow database: made once, however many begin at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from antipode import config
from antipode.engine import flow_runner
from tests.unit import samples

AT_ONCE = 4


def look(file: str, all_there: Any, seen: Any) -> None:
    settings = config.load(file)
    all_there.wait(120)
    with flow_runner._backend(settings) as backend:
        seen.put(len(list(backend.get_connection().get_logbooks(lazy=True))))


def test_the_first_runs_of_a_new_installation_may_begin_at_once(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    for trial in range(3):
        folder = tmp_path / str(trial)
        folder.mkdir()
        file = str(samples.write_config(folder))
        config.load(file).state_dir.mkdir(exist_ok=True)
        all_there, seen = processes.Barrier(AT_ONCE), processes.Queue()
        runs = [
            processes.Process(target=look, args=(file, all_there, seen)) for _ in range(AT_ONCE)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join(120)
        assert [run.exitcode for run in runs] == [0] * AT_ONCE
        assert [seen.get(timeout=60) for _ in runs] == [0] * AT_ONCE
