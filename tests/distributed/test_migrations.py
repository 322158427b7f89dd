# SPDX-License-Identifier: Apache-2.0
"""A database that an older antipode has filled is brought up to date with all that is in it, on
each of the three databases.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    column,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    table,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from antipode import config
from antipode.engine.flows import Flows
from antipode.engine.run import new_run
from antipode.errors import AntipodeError, InvalidInput
from antipode.runs import kind_of
from antipode.store import database
from antipode.store.database import VERSION_TABLE, open_database
from antipode.store.runs import Runs
from antipode.store.tables import Base, StepRow
from tests.distributed import servers

ROWS: dict[str, list[dict[str, Any]]] = {
    "vnfs": [
        {
            "name": "hlr",
            "definition": {"vnf": "hlr", "größe": [1, 2.5, None, True]},
            "added_at": 1763829600.123456,
        }
    ],
    "runs": [
        {
            "id": "protect-1",
            "kind": "protect",
            "vnf": "hlr",
            "state": "succeeded",
            "started_at": 1763829601.5,
            "ended_at": 1763829651.25,
        }
        | {
            "reason": None,
            "result": {"recovery_point": "20261122T160501Z-1a2b3c", "stored_bytes": 2**40},
        },
        {
            "id": "protect-2",
            "kind": "protect",
            "vnf": "hlr",
            "state": "failed",
            "started_at": 1763829701.5,
            "ended_at": 1763829751.25,
        }
        | {"reason": "Cinder said: „no“ 💥 " + "x" * 5000, "result": {}},
        {
            "id": "failover-1",
            "kind": "failover",
            "vnf": "hlr",
            "state": "running",
            "started_at": 1763829801.5,
            "ended_at": None,
        }
        | {"reason": None, "result": {}},
    ],
    "steps": [
        {
            "id": "a" * 32,
            "run": "protect-1",
            "number": "1.2",
            "name": "quiesce",
            "resource": "db",
            "state": "succeeded",
        }
        | {
            "started_at": 1763829602.000001,
            "ended_at": 1763829603.999999,
            "result": {"frozen_s": 0.1},
        },
        {
            "id": "b" * 32,
            "run": "failover-1",
            "number": "1.7.1",
            "name": "restore volume",
            "resource": "db-data",
            "state": "running",
        }
        | {"started_at": 1763829802.0, "ended_at": None, "result": {}},
    ],
    "freezes": [
        {
            "id": "c" * 32,
            "site": "site-a",
            "server_id": "s-1",
            "server": "db",
            "noted_at": 1763829602.0,
            "deadline": 1763829612.0,
        }
        | {"thawed_at": 1763829603.5},
        {
            "id": "d" * 32,
            "site": "site-a",
            "server_id": "s-2",
            "server": "app",
            "noted_at": 1763829602.0,
            "deadline": 1763829612.0,
        }
        | {"thawed_at": None},
    ],
}
OF_THE_SECOND: dict[str, Any] = {
    "request": {"to": "site-b"},
    "flow_version": 1,
    "claim": 3,
    "conductor": "process 1 on host",
    "abort_requested_at": 1763829803.5,
    "ending": "aborted",
    "slot": "failover:hlr",
}
NewDatabase = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / 'antipode.db'}"
    server: servers.DatabaseServer = request.getfixturevalue(request.param)
    return server.new_database


def connected(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", database._prepare_sqlite)
    return engine


def migrate(connection: Connection, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", "antipode.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, to)


def fill(engine: Engine) -> None:
    """Put rows into the tables of the first antipode."""
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.execute(text("ALTER DATABASE CHARACTER SET utf8mb4"))
        migrate(connection, "0001")
        for name, rows in ROWS.items():
            types = Base.metadata.tables[name].columns
            for row in rows:
                connection.execute(
                    insert(table(name, *(column(c, types[c].type) for c in row))), row
                )


def fill_as_the_second(url: str) -> None:
    """Put rows into the tables of the antipode before the history was bounded."""
    engine = connected(url)
    fill(engine)
    engine.dispose()
    with database.alone(make_url(url)) as connection:
        migrate(connection, "0002")
        runs = Base.metadata.tables["runs"].columns
        changed = table("runs", *(column(c, runs[c].type) for c in ("id", *OF_THE_SECOND)))
        connection.execute(
            update(changed).where(changed.c.id == "failover-1").values(**OF_THE_SECOND)
        )


def rows_of(engine: Engine, name: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(select(Base.metadata.tables[name]))
        return sorted((dict(row._mapping) for row in found), key=by_id)


def by_id(row: dict[str, Any]) -> str:
    return str(row.get("id"))


def test_all_rows_of_the_second_antipode_are_kept_by_the_newest(new_database: NewDatabase) -> None:
    url = new_database()
    fill_as_the_second(url)
    migrated = open_database(url)
    for name, before in ROWS.items():
        after = rows_of(migrated, name)
        assert [{c: row[c] for c in before[0]} for row in after] == sorted(before, key=by_id), name
    runs = Runs(migrated)
    failover = runs.get("failover-1")
    assert {c: getattr(failover, c) for c in OF_THE_SECOND} == OF_THE_SECOND
    # what had failed is looked at once more
    assert [run.id for run in runs.to_collect(0.0) if run.state == "failed"] == ["protect-2"]
    runs.collected([runs.get("protect-2")])
    assert runs.to_collect(time.time()) == []
    # and what is over is pruned, with its steps
    assert runs.prunable(time.time(), 0) == ["protect-2"]
    assert runs.delete([runs.get("protect-2")]) == 1
    assert {run.id for run in runs.all()} == {"protect-1", "failover-1"}
    migrated.dispose()


@pytest.mark.parametrize("words", ["db\udc80", "\ud800", "a\0b", "„größe“ 💥", "x" * 300])
def test_every_database_holds_text_from_anywhere(new_database: NewDatabase, words: str) -> None:
    engine = open_database(new_database())
    runs = Runs(engine)
    row = new_run(kind_of("protect"), "hlr", {"text": words})
    run = row.id
    runs.create(row)
    step = StepRow(
        id="s",
        run=run,
        number="1",
        name=words,
        resource=words,
        state="failed",
        started_at=1.0,
        result={"error": words},
    )
    runs.keep(run, 0, [step])
    runs.end(run, 0, "failed", 2.0, words, {"error": words})
    [kept] = runs.steps(run)
    escaped = words.encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
    assert kept.result == runs.get(run).result == {"error": escaped}
    assert runs.get(run).reason == escaped
    assert kept.resource[:100] == escaped[:100]
    engine.dispose()


def test_all_rows_of_the_first_antipode_are_kept_by_the_newest(new_database: NewDatabase) -> None:
    url = new_database()
    engine = connected(url)
    fill(engine)
    engine.dispose()
    migrated = open_database(url)
    for name, before in ROWS.items():
        after = rows_of(migrated, name)
        assert [{c: row[c] for c in before[0]} for row in after] == sorted(before, key=by_id), name
    # and they are of use: what an older antipode has begun can be claimed, to be ended
    runs = Runs(migrated)
    assert runs.claim("failover-1", "me", runs.get("failover-1").claim) == 1
    assert [s.name for s in runs.steps("failover-1")] == ["restore volume"]
    migrated.dispose()


def test_the_migrations_make_what_the_models_say(new_database: NewDatabase) -> None:
    engine = open_database(new_database())
    found = inspect(engine)
    for name, of_model in Base.metadata.tables.items():
        assert {c["name"]: c["nullable"] for c in found.get_columns(name)} == {
            c.name: c.nullable for c in of_model.columns
        }, name
        made = {tuple(i["column_names"]) for i in found.get_indexes(name)}
        made |= {tuple(u["column_names"]) for u in found.get_unique_constraints(name)}
        wanted = {tuple(c.name for c in index.columns) for index in of_model.indexes} | {
            (c.name,) for c in of_model.columns if c.unique
        }
        assert wanted <= made, name
    engine.dispose()


def test_many_processes_that_open_a_new_database_at_once_all_find_it_ready(
    new_database: NewDatabase,
) -> None:
    code = (
        "from antipode.store.database import open_database; "
        f"open_database({new_database()!r}).dispose()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=servers.WITHIN_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told


FIRST_FLOWS = """
from concurrent.futures import ThreadPoolExecutor
from antipode.config import Config
from antipode.engine.flows import Flows
from antipode.store.database import open_database
config = Config.model_validate({settings!r})
open_database(config.database).dispose()
flows = Flows(config)
def begin(_):
    with flows.backend() as backend:
        return list(backend.get_connection().get_logbooks(lazy=True))
with ThreadPoolExecutor(3) as threads:
    assert list(threads.map(begin, range(3))) == [[]] * 3
"""


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_the_first_runs_of_a_new_installation_may_begin_at_once_on_one_host_and_on_several(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    url = request.getfixturevalue(kind).new_database()
    settings = {
        "sites": {"a": {"cloud": "a"}},
        "vault": {"directory": "/v"},
        "database": url,
        "state_directory": str(tmp_path),
    }
    code = FIRST_FLOWS.format(settings=settings)
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [process.communicate(timeout=servers.WITHIN_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, told


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_was_made_again_under_a_service_gets_the_tables_of_flows_again(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    url = request.getfixturevalue(kind).new_database()
    settings = config.Config.model_validate(
        {
            "sites": {"a": {"cloud": "a"}},
            "vault": {"directory": "/v"},
            "database": url,
            "state_directory": str(tmp_path),
        }
    )
    flows = Flows(settings)
    assert not flows.is_complete("protect-1")
    engine = create_engine(url)
    with engine.begin() as connection:
        every = MetaData()
        every.reflect(connection)
        every.drop_all(connection)
    engine.dispose()
    assert not flows.is_complete("protect-1")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_process_that_is_paused_in_the_middle_of_a_write_does_not_keep_its_run_from_others(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_TRANSACTION_S", 2)
    engine = open_database(request.getfixturevalue(kind).new_database())
    runs = Runs(engine)
    row = new_run(kind_of("protect"), "hlr", {})
    run, row.claim = row.id, 1
    runs.create(row)
    with engine.connect() as paused:
        paused.execute(text("UPDATE runs SET reason = 'never committed' WHERE claim = 1"))
        assert runs.claim(run, "another host", 1) == 2
        with pytest.raises(SQLAlchemyError):
            paused.execute(text("UPDATE runs SET reason = 'too late'"))
        paused.invalidate()
    assert runs.get(run).reason is None
    engine.dispose()


def test_who_waits_in_vain_for_another_process_that_changes_the_tables_says_so_and_changes_nothing(
    mariadb: servers.DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mariadb.new_database()
    monkeypatch.setattr(database, "MIGRATED_WITHIN_S", 1)
    with connected(url).connect() as other:
        other.execute(text(f"SELECT GET_LOCK('{VERSION_TABLE}', 1)"))
        with pytest.raises(AntipodeError):
            open_database(url)
        assert inspect(other).get_table_names() == []
        other.invalidate()


def test_a_migration_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'antipode.db'}"
    engine = connected(url)
    fill(engine)
    kill = (
        "import os, signal; from alembic.operations.batch import BatchOperationsImpl as I; "
        "flush = I.flush; "
    )
    kill += "I.flush = lambda self: (flush(self), os.kill(os.getpid(), signal.SIGKILL)); "
    code = f"{kill}import antipode.store.database as d; d.open_database({url!r})"
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=servers.WITHIN_S).returncode
        == -signal.SIGKILL
    )
    with engine.connect() as connection:
        assert database._revision(connection) == "0001"
        assert "claim" not in {c["name"] for c in inspect(connection).get_columns("runs")}
    engine.dispose()
    assert len(rows_of(open_database(url), "steps")) == 2


def test_a_database_of_a_newer_antipode_is_left_alone(new_database: NewDatabase) -> None:
    url = new_database()
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(AntipodeError, match="9999"):
        open_database(url)


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    url = f"postgresql+psycopg://antipode:s3cret@127.0.0.1:{servers.free_port()}/antipode"
    with pytest.raises(AntipodeError) as told:
        open_database(url)
    assert "s3cret" not in str(told.value)


def test_a_database_driver_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(database, "create_engine", refuse)
    with pytest.raises(InvalidInput, match=r"pip install 'antipode\[postgresql\]'") as told:
        open_database("postgresql+psycopg://antipode:s3cret@127.0.0.1/antipode")
    assert "s3cret" not in str(told.value)
