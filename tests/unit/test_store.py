# SPDX-License-Identifier: Apache-2.0
"""The local database: migrated from nothing, the same tables by migration and by model, a ledger
that outlives its writer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from antipode.errors import Busy, ClaimLost, InvalidInput, NotFound
from antipode.freezes.ledger import Freezes
from antipode.store import database, vnfs
from antipode.store.runs import Runs, slot_of
from antipode.store.tables import Base, RunRow, StepRow
from antipode.store.vnfs import Vnfs
from tests.unit import samples

pytestmark = pytest.mark.usefixtures("migrations")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return database.open_database(f"sqlite:///{tmp_path}/state/antipode.db")


def test_an_empty_database_is_migrated_to_the_tables_of_the_models(engine: Engine) -> None:
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, database.VERSION_TABLE}
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": database.VERSION_TABLE}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_new_state_directory_and_the_files_in_it_are_read_by_their_owner_only(
    engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM runs"))
        modes = {
            p.name: p.stat().st_mode & 0o077
            for p in [tmp_path / "state", *(tmp_path / "state").iterdir()]
        }
    assert modes == dict.fromkeys(
        ("state", "antipode.db", "antipode.db-wal", "antipode.db-shm", "antipode.lock"), 0
    )


def test_the_revision_that_spares_the_migrations_is_the_newest_one() -> None:
    folder = Path(database.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == database.REVISION


def test_opening_a_database_again_keeps_what_is_in_it(engine: Engine, tmp_path: Path) -> None:
    assert Vnfs(engine).put(samples.vnf())
    again = Vnfs(database.open_database(f"sqlite:///{tmp_path}/state/antipode.db"))
    assert again.get("hlr") == samples.vnf()
    assert not again.put(samples.vnf(protections="quiesced-snapshot"))


def test_an_unknown_vnf_is_not_found_and_the_known_are_named(engine: Engine) -> None:
    Vnfs(engine).put(samples.vnf())
    with pytest.raises(NotFound, match=r"hrl.*hlr"):
        Vnfs(engine).get("hrl")


def test_long_definitions_are_read_each_time_and_fill_no_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Vnfs(engine)
    kept.put(samples.vnf())
    [name] = kept.names()
    assert kept.listed(name).definition is kept.listed(name).definition
    assert kept.get(name) is kept.get(name)
    monkeypatch.setattr(vnfs, "LONGEST_REMEMBERED", 10)
    assert kept.listed(name).definition is not kept.listed(name).definition
    assert kept.listed(name).definition == kept.listed(name).definition
    assert kept.get(name) is not kept.get(name)


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x"])
def test_a_database_url_that_is_wrong_is_the_operators_error(url: str) -> None:
    with pytest.raises(InvalidInput, match=url):
        database.open_database(url)


def test_a_freeze_is_in_the_ledger_of_another_process_as_soon_as_it_is_noted(
    engine: Engine, tmp_path: Path
) -> None:
    row = Freezes(engine).freezing("site-a", "srv-db", "db", 3600)
    over = Freezes(engine).now() + 3601
    elsewhere = Freezes(database.open_database(f"sqlite:///{tmp_path}/state/antipode.db"))
    assert elsewhere.overdue("site-a") == []
    assert [r.id for r in elsewhere.overdue("site-a", over)] == [row]
    assert elsewhere.overdue("site-b", over) == []
    Freezes(engine).thawed(row)
    assert elsewhere.overdue("site-a", over) == []


# Runs that several processes may want.


def a_run(kind: str = "protect", name: str = "1") -> RunRow:
    return RunRow(
        id=f"{kind}-{name}",
        kind=kind,
        vnf="hlr",
        state="running",
        started_at=1.0,
        result={},
        slot=slot_of(kind, "hlr"),
    )


def a_step(state: str = "succeeded", ended_at: float | None = 3.0) -> StepRow:
    return StepRow(
        id=f"step-{state}",
        run="protect-1",
        number="1.1",
        name="discover",
        resource="",
        state=state,
        started_at=2.0,
        ended_at=ended_at,
        result={},
    )


def test_what_is_written_with_an_older_claim_is_refused_and_changes_nothing(engine: Engine) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    old = runs.claim("protect-1", "one", 0)
    new = runs.claim("protect-1", "two", old)
    for write in (
        lambda: runs.end("protect-1", old, "succeeded", 9.0, None, {}),
        lambda: runs.begin_ending("protect-1", old, "aborted", "late"),
        lambda: runs.release("protect-1", old),
        lambda: runs.keep("protect-1", old, [a_step()]),
        lambda: runs.close_steps("protect-1", old),
    ):
        with pytest.raises(ClaimLost, match="protect-1"):
            write()
    run = runs.get("protect-1")
    assert (run.claim, run.state, run.conductor, run.ending, runs.steps("protect-1")) == (
        new,
        "running",
        "two",
        None,
        [],
    )


def test_of_two_who_claim_a_run_at_once_one_gets_it(engine: Engine) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    runs.claim("protect-1", "one", 0)
    with pytest.raises(ClaimLost):
        runs.claim("protect-1", "two", 0)


@pytest.mark.parametrize("state", ["succeeded", "aborted", "failed"])
def test_a_run_that_has_ended_meanwhile_is_not_taken(engine: Engine, state: str) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    runs.end("protect-1", 0, state, 9.0, "why", {"a": 1})
    with pytest.raises(Busy, match=state):
        runs.claim("protect-1", "one", 0)
    run = runs.get("protect-1")
    assert (run.state, run.claim, run.reason, run.result, run.slot) == (
        state,
        0,
        "why",
        {"a": 1},
        None,
    )


def test_a_claim_to_abort_says_so_in_the_same_breath(engine: Engine) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    runs.end("protect-1", 0, "failed", 9.0, "why", {})
    assert runs.standing("protect-1") == (0, False)
    assert runs.claim("protect-1", "one", 0, abort=True) == 1
    assert runs.standing("protect-1") == (1, True)


def test_a_vnf_has_one_run_of_a_kind_at_a_time_also_where_no_lock_of_a_host_sees_to_it(
    engine: Engine,
) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    runs.create(a_run("failover"))  # which does not wait for a protect
    with pytest.raises(Busy, match="protect-1"):
        runs.create(a_run(name="2"))
    number = runs.claim("protect-1", "one", 0)
    runs.end("protect-1", number, "failed", 9.0, "no agent", {})
    runs.create(a_run(name="2"))
    with pytest.raises(Busy, match="protect-2"):
        runs.claim("protect-1", "one", number, also_failed=True)


def test_steps_that_were_under_way_when_their_process_died_are_closed_at_its_last_sign_of_life(
    engine: Engine,
) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    number = runs.claim("protect-1", "one", 0)
    runs.keep("protect-1", number, [a_step(), a_step("running", None)])
    assert runs.close_steps("protect-1", number) == 1
    lost = next(s for s in runs.steps("protect-1") if s.id == "step-running")
    assert (lost.state, lost.ended_at, lost.result) == (
        "lost",
        3.0,
        {"error": "the process that executed it died"},
    )
    assert next(s for s in runs.steps("protect-1") if s.id == "step-succeeded").state == "succeeded"


def test_a_request_to_abort_reaches_open_runs_only(engine: Engine) -> None:
    runs = Runs(engine)
    runs.create(a_run())
    runs.request_abort("protect-1")
    assert runs.standing("protect-1") == (0, True)
    runs.create(a_run("failover"))
    runs.end("failover-1", 0, "failed", 9.0, "no host", {})
    runs.request_abort("failover-1")
    assert runs.standing("failover-1") == (0, False)


def test_what_a_first_antipode_has_kept_is_there_after_the_upgrade(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/antipode.db"
    old = create_engine(url)
    with old.begin() as connection:
        alembic = Config()
        alembic.set_main_option("script_location", "antipode.store:migrations")
        alembic.set_main_option("path_separator", "os")
        alembic.attributes.update(connection=connection, version_table=database.VERSION_TABLE)
        command.upgrade(alembic, "0001")
        for statement in (
            "INSERT INTO vnfs VALUES ('hlr', '{}', 1.0)",
            "INSERT INTO runs VALUES ('protect-1', 'protect', 'hlr', 'running', 1.0, NULL, NULL, "
            "'{\"a\": 1}')",
            "INSERT INTO runs VALUES ('protect-2', 'protect', 'hlr', 'failed', 2.0, 3.0, 'no "
            "agent', '{}')",
            "INSERT INTO steps VALUES ('s', 'protect-1', '1.1', 'discover', '', 'succeeded', "
            "1.0, 2.0, '{}')",
            "INSERT INTO freezes VALUES ('f', 'site-a', 'srv', 'db', 1.0, 2.0, NULL)",
        ):
            connection.exec_driver_sql(statement)
    old.dispose()
    engine = database.open_database(url)
    runs = Runs(engine)
    first, second = runs.get("protect-1"), runs.get("protect-2")
    assert (
        first.state,
        first.result,
        first.request,
        first.flow_version,
        first.claim,
        first.slot,
    ) == (
        "running",
        {"a": 1},
        None,
        None,
        0,
        None,
    )
    assert (second.state, second.reason) == ("failed", "no agent")
    assert [s.id for s in runs.steps("protect-1")] == ["s"]
    assert [f.server for f in Freezes(engine).overdue("site-a", 10.0)] == ["db"]
    runs.create(a_run(name="3"))


def test_an_error_of_the_database_does_not_quote_what_was_written(tmp_path: Path) -> None:
    engine = database.open_database(f"sqlite:///{tmp_path}/antipode.db")
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as caught:
        connection.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "user_data!"})
    assert "user_data!" not in str(caught.value)
