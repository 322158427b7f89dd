# SPDX-License-Identifier: Apache-2.0
"""The example plug-in with real PostgreSQL servers: it conforms, positions are true, and after the
primary was killed every record that a recovery point promises is at the standby.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from antipode.cli import main
from antipode.datastores import opened
from antipode.datastores.application import Data
from antipode.datastores.command import ByCommands
from antipode.errors import PreflightFailed, ResourceFailed, SiteUnreachable
from antipode.model.datastore import Health, StorageAt
from antipode.model.vnf import Vnf
from antipode.operations import datastores
from antipode.vault import points
from tests.distributed import replicas
from tests.distributed.replicas import Server
from tests.distributed.servers import until
from tests.unit import samples
from tests.unit.test_durable_runs import World, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]
DATA = Data("v", "records")


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with replicas.pair() as servers:
        yield servers


def at(site: str, server: Server) -> ByCommands:
    found = opened(StorageAt("pg", "command", server.settings), site)
    assert isinstance(found, ByCommands)
    return found


class Writer:
    """Writes records 1, 2, 3 … to a server, one transaction each, until it is gone."""

    def __init__(self, server: Server) -> None:
        server.ask("CREATE TABLE records (number int PRIMARY KEY)")
        self.acknowledged = 0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def has_written(self, more: int) -> None:
        wanted = self.acknowledged + more
        until(f"{more} more records", lambda: self.acknowledged >= wanted)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _write(self) -> None:
        try:
            with self._server.connection as connection:
                while not self._stop.is_set():
                    number = self.acknowledged + 1
                    connection.execute("INSERT INTO records VALUES (%s)", (number,))
                    self.acknowledged = number
        except psycopg.OperationalError:
            return


def records(server: Server) -> list[int]:
    with server.connection as connection:
        return [r[0] for r in connection.execute("SELECT number FROM records ORDER BY 1")]


def configured(path: Path, pair: tuple[Server, Server]) -> None:
    """Have an antipode.yaml name the commands of both servers."""
    sites = {s: server.settings for s, server in zip(("site-a", "site-b"), pair, strict=True)}
    storages = {"pg": {"driver": "command", "sites": sites}}
    path.write_text(f"{path.read_text()}storages: {json.dumps(storages)}\n")


def test_the_plug_in_conforms(
    pair: tuple[Server, Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = samples.write_config(tmp_path)
    configured(path, pair)
    sites = ["--active", "site-a", "--backup", "site-b"]
    command = ["datastore", "conformance", "pg", *sites, "--promote", "-f", "json"]
    code = main.main(["--config", str(path), *command])
    rows = json.loads(capsys.readouterr().out)
    assert [row for row in rows if row["result"] != "conforms"] == []
    assert (code, len(rows) > 30) == (0, True)
    assert replicas.follows(pair[1])


def test_each_record_before_a_position_is_there_after_the_primary_is_killed(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    here, there = at("site-a", primary), at("site-b", standby)
    writer = Writer(primary)
    writer.has_written(200)
    before = writer.acknowledged
    position = here.point(DATA, 60)
    until("the position to arrive", lambda: there.has_reached(DATA, position))
    writer.has_written(50)
    primary.kill()
    writer.end()
    with pytest.raises(SiteUnreachable):
        here.status(DATA)
    there.promote(DATA, position)
    there.promote(DATA, position)
    assert there.status(DATA).health is Health.WRITABLE
    assert there.has_reached(DATA, position)
    found = records(standby)
    assert found == list(range(1, len(found) + 1)), "a record is missing"
    assert before <= len(found) <= writer.acknowledged + 1
    standby.ask("INSERT INTO records VALUES (0)")


def test_a_standby_that_is_paused_says_how_far_it_is_behind(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    there = at("site-b", standby)
    primary.ask("CREATE TABLE first AS SELECT 1")
    until("the first record", lambda: standby.ask("SELECT to_regclass('first')"))
    standby.ask("SELECT pg_wal_replay_pause()")
    primary.ask("CREATE TABLE records AS SELECT generate_series(1, 20000) AS number")
    until("bytes that are not replayed", lambda: (there.status(DATA).lag_bytes or 0) > 100_000)
    first = there.status(DATA)
    assert first.lag_s is not None
    until("more seconds", lambda: (there.status(DATA).lag_s or 0) > (first.lag_s or 0))
    standby.ask("SELECT pg_wal_replay_resume()")
    until("nothing to be behind", lambda: there.status(DATA).lag_bytes == 0)


def test_a_standby_whose_primary_is_gone_has_stopped(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    primary.kill()
    there = at("site-b", standby)
    until("the end of the replication", lambda: there.status(DATA).health is Health.STOPPED)


def test_data_that_has_diverged_has_not_reached_a_position_of_the_other(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    here, there = at("site-a", primary), at("site-b", standby)
    there.promote(DATA)
    primary.ask("CREATE TABLE a AS SELECT 1")
    position = here.point(DATA, 60)
    standby.ask("CREATE TABLE b AS SELECT generate_series(1, 100000)")
    assert not there.has_reached(DATA, position), "its LSN is greater, and its history another"
    there.resync(DATA, here.reference(DATA))
    until("the position to arrive", lambda: there.has_reached(DATA, position))
    assert standby.ask("SELECT to_regclass('b')") is None


def test_a_server_that_is_demoted_has_given_all_to_the_other(pair: tuple[Server, Server]) -> None:
    primary, standby = pair
    here, there = at("site-a", primary), at("site-b", standby)
    writer = Writer(primary)
    writer.has_written(100)
    writer.end()
    position = here.demote(DATA)
    assert position is not None
    until("the last position", lambda: there.has_reached(DATA, position))
    there.promote(DATA, position)
    assert len(records(standby)) == writer.acknowledged
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        primary.ask("INSERT INTO records VALUES (0)")
    here.resync(DATA, there.reference(DATA))
    until("the old server to follow", lambda: replicas.follows(primary))


def test_data_that_was_promoted_and_demoted_follows_nobody_by_itself(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    here, there = at("site-a", primary), at("site-b", standby)
    # A migration that is rolled back: both sites begin a timeline of the same number.
    last = here.demote(DATA)
    assert last is not None
    until("the last position", lambda: there.has_reached(DATA, last))
    there.promote(DATA, last)
    standby.ask("CREATE TABLE b AS SELECT generate_series(1, 1000)")
    there.demote(DATA)
    here.promote(DATA)
    early = here.point(DATA, 60)
    primary.ask("CREATE TABLE a AS SELECT generate_series(1, 100000)")
    position = here.point(DATA, 60)
    assert not there.has_reached(DATA, position)
    # A position is not reached by records of another history that have a greater LSN either.
    assert not there.has_reached(DATA, early), "its LSN is greater, and its history another"
    assert standby.ask("SHOW primary_conninfo") == ""
    assert there.status(DATA).health is Health.STOPPED
    there.resync(DATA, here.reference(DATA))
    until("the position to arrive", lambda: there.has_reached(DATA, position))
    assert standby.ask("SELECT to_regclass('b')") is None


def test_a_resync_that_was_killed_between_its_renames_keeps_the_settings_of_the_server(
    pair: tuple[Server, Server],
) -> None:
    primary, standby = pair
    here, there = at("site-a", primary), at("site-b", standby)
    standby.stop()
    standby.data.rename(standby.data.with_name("data.old"))
    there.resync(DATA, here.reference(DATA))
    until("the server to follow", lambda: replicas.follows(standby))


@pytest.fixture
def kept(world: World, pair: tuple[Server, Server]) -> World:
    """A VNF whose application has the data of both servers."""
    configured(world.config, pair)
    world.here = world.process()
    changes = {"datastores": {"records": {"storage": "pg", "kind": "application"}}}
    world.here.vnfs.put(Vnf.model_validate(VNF.model_dump(mode="json") | changes))
    return world


def test_a_failover_promotes_the_standby_and_no_record_of_the_point_is_lost(
    kept: World, pair: tuple[Server, Server]
) -> None:
    primary, standby = pair
    writer = Writer(primary)
    writer.has_written(100)
    before = writer.acknowledged
    kept.protect()
    point = points.newest_or_none(kept.here.vault, "v")
    assert point is not None and point.datastores["records"].sites == ["site-b"]
    writer.has_written(20)
    primary.kill()
    writer.end()
    kept.failover()
    found = records(standby)
    assert found == list(range(1, len(found) + 1))
    assert before <= len(found) <= writer.acknowledged + 1
    metadata = [s["metadata"] for s in kept.b.servers.values()]
    assert {m["antipode:datastore:records"] for m in metadata} == {
        f"host=127.0.0.1 port={standby.port}"
    }
    # The old primary returns, with records that are nowhere else.
    primary.start()
    with pytest.raises(ResourceFailed):
        datastores.prepare(kept.here, "v", awaits=True, tell=lambda what: None)
    shown = datastores.prepare(
        kept.here, "v", awaits=True, tell=lambda what: None, overwrite=["site-a"]
    )
    assert all(s.is_well for s in shown)
    assert replicas.follows(primary)
    assert records(primary) == found


def test_a_protection_whose_standby_is_cut_off_makes_no_point(
    kept: World, pair: tuple[Server, Server]
) -> None:
    before = points.newest_or_none(kept.here.vault, "v")
    pair[1].kill()
    with pytest.raises(PreflightFailed, match="records"):
        kept.protect()
    assert points.newest_or_none(kept.here.vault, "v") == before
    assert kept.a.all_frozen == set()
