"""The local database: migrated from nothing, the same tables by migration and by model, a ledger that outlives its writer."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import samples
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from antipode.errors import InvalidInput, NotFound
from antipode.store import database
from antipode.store.freezes import Freezes
from antipode.store.tables import Base
from antipode.store.vnfs import Vnfs


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return database.open_database(f"sqlite:///{tmp_path}/state/antipode.db")


def test_an_empty_database_is_migrated_to_the_tables_of_the_models(engine: Engine) -> None:
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, database.VERSION_TABLE}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": database.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_a_new_state_directory_and_the_files_in_it_are_nobody_elses_to_read(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM runs"))
        modes = {p.name: p.stat().st_mode & 0o077 for p in [tmp_path / "state", *(tmp_path / "state").iterdir()]}
    assert modes == {"state": 0, "antipode.db": 0, "antipode.db-wal": 0, "antipode.db-shm": 0}


def test_the_revision_that_spares_the_migrations_is_the_newest_one() -> None:
    folder = Path(database.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == database.REVISION


def test_opening_a_database_again_keeps_what_is_in_it(engine: Engine, tmp_path: Path) -> None:
    assert Vnfs(engine).put(samples.vnf())
    again = Vnfs(database.open_database(f"sqlite:///{tmp_path}/state/antipode.db"))
    assert again.get("hlr") == samples.vnf()
    assert not again.put(samples.vnf(option="quiesced-snapshot"))


def test_an_unknown_vnf_is_not_found_and_the_known_are_named(engine: Engine) -> None:
    Vnfs(engine).put(samples.vnf())
    with pytest.raises(NotFound, match="VNF hrl is not known here; known: hlr"):
        Vnfs(engine).get("hrl")


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x"])
def test_a_database_url_that_is_wrong_is_the_operators_error(url: str) -> None:
    with pytest.raises(InvalidInput, match=url):
        database.open_database(url)


def test_a_freeze_is_in_the_ledger_of_another_process_as_soon_as_it_is_noted(engine: Engine, tmp_path: Path) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    row = Freezes(engine).freezing("site-a", "srv-db", "db", deadline)
    elsewhere = Freezes(database.open_database(f"sqlite:///{tmp_path}/state/antipode.db"))
    assert elsewhere.overdue("site-a", time.time()) == []
    assert [r.id for r in elsewhere.overdue("site-a", deadline.timestamp() + 0.1)] == [row]
    assert elsewhere.overdue("site-b", deadline.timestamp() + 0.1) == []
    Freezes(engine).thawed(row)
    assert elsewhere.overdue("site-a", deadline.timestamp() + 0.1) == []
