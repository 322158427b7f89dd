# SPDX-License-Identifier: Apache-2.0
"""A protection as a run: it commits last, and when anything fails nothing is frozen, kept or left
behind.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from antipode import config
from antipode.cloud import site as cloud_site
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.run import new_run
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    AntipodeError,
    Busy,
    Interrupted,
    PreflightFailed,
    QuiesceFailed,
    ResourceFailed,
    SiteUnreachable,
    VaultError,
)
from antipode.model.capture import Transferred
from antipode.model.state import ProtectedVnf
from antipode.operations.protect import protect
from antipode.protect import checks
from antipode.protect.quiesced_snapshot import QuiescedSnapshot
from antipode.runs import kind_of
from antipode.runs import protect as protect_flow
from antipode.runs.protect import KIND
from antipode.store.tables import RunRow
from antipode.topology import discovery
from antipode.transfer import cinder_backup
from antipode.transfer.cinder_backup import CinderBackup
from antipode.vault import points
from antipode.vault.directory import DirectoryVault
from tests.unit import samples

World = SimpleNamespace
TRANSFER = CinderBackup.transfer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A deployment whose cloud is played by functions that note that they were called."""
    deployment = Deployment(config.load(str(samples.write_config(tmp_path))))
    deployment.vnfs.put(samples.vnf())
    world = World(deployment=deployment, calls=[], folder=tmp_path, patch=monkeypatch)

    def plays(module: Any, function: str, result: Callable[[], Any] = lambda: None) -> None:
        def play(*_: Any, **__: Any) -> Any:
            world.calls.append(function)
            return result()

        monkeypatch.setattr(module, function, play)

    world.plays = plays
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: samples.NamedSite(name))
    plays(discovery, "discover", samples.topology)
    plays(checks, "problems", list)
    plays(QuiescedSnapshot, "check", list)
    plays(QuiescedSnapshot, "remove_orphans")
    plays(CinderBackup, "check", list)
    monkeypatch.setattr(CinderBackup, "needs", lambda *_: [])
    plays(QuiescedSnapshot, "capture", samples.snapshots)
    plays(CinderBackup, "transfer", samples.transferred)
    plays(QuiescedSnapshot, "release")
    plays(CinderBackup, "roll_back", tuple)
    plays(CinderBackup, "remove_orphans", tuple)
    world.notes_orphans = lambda: notes_orphans(monkeypatch)
    return world


def notes_orphans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, set[str]]]:
    """From now on: the dead runs of each search for orphans, and the backups that it spares."""
    asked = []

    def note(_self: object, _site: object, runs: Any, needed: Any, _timeline: object) -> Any:
        asked.append((runs, set(needed())))
        return ()

    monkeypatch.setattr(CinderBackup, "remove_orphans", note)
    return asked


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def lose_the_answer() -> None:
    raise VaultError("no answer to the write")


def fails_with(world: World, kind: type[AntipodeError]) -> str:
    """The reason with which the run failed, after seeing that there is no recovery point."""
    with pytest.raises(kind):
        protect(world.deployment, "hlr", Unobserved())
    assert points.list_ids(world.deployment.vault, "hlr") == []
    run = world.deployment.runs.all()[0]
    assert run.state == "failed"
    return str(run.reason)


def test_a_protection_does_its_steps_in_order_and_commits_before_it_cleans_up(world: World) -> None:
    record = protect(world.deployment, "hlr", Unobserved())
    assert world.calls == [
        "discover",
        "problems",
        "check",
        "check",
        "capture",
        "transfer",
        "release",
    ]
    committed = points.read(world.deployment.vault, "hlr")
    assert committed.id == record["recovery_point"]
    assert committed.run == record["run"]
    assert (record["incremental"], record["quiesce_window_s"], record["volumes"]) == (True, 1.5, 2)
    run = world.deployment.runs.get(record["run"])
    assert (run.state, run.result["recovery_point"]) == ("succeeded", committed.id)
    assert [s.name for s in world.deployment.runs.steps(run.id)][-2:] == [
        "commit the recovery point",
        "succeeded",
    ]


def test_a_protection_that_succeeds_leaves_no_user_data_beside_the_database(world: World) -> None:
    secret = "password: of the guest"
    topology = samples.topology()
    servers = [s.model_copy(update={"user_data": secret}) for s in topology.servers]
    world.plays(discovery, "discover", lambda: topology.model_copy(update={"servers": servers}))
    protect(world.deployment, "hlr", Unobserved())
    kept = [path for path in world.folder.iterdir() if path.is_file()]
    assert {"flows.db", "antipode.db"} <= {path.name for path in kept}
    assert [path.name for path in kept if secret.encode() in path.read_bytes()] == []
    with sqlite3.connect(world.folder / "flows.db") as flows:
        assert [
            flows.execute(f"SELECT count(*) FROM {t}").fetchone()
            for t in ("logbooks", "flowdetails", "atomdetails")
        ] == [(0,)] * 3
    assert (world.folder / "flows.db").stat().st_mode & 0o077 == 0


def test_a_window_over_its_budget_is_reported_and_the_point_is_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for budget, is_over in (("1s", True), ("2s", False)):
        world.deployment.vnfs.put(samples.vnf(protections={"quiesce": {"budget": budget}}))
        caplog.clear()
        record = protect(world.deployment, "hlr", Unobserved())
        assert record["quiesce_budget_s"] == float(budget[0])
        assert any("budget" in r.getMessage() for r in caplog.records) == is_over
        assert points.read(world.deployment.vault, "hlr").id == record["recovery_point"]


def test_a_run_that_was_queued_until_the_hours_to_avoid_begins_no_window(world: World) -> None:
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC)
    world.patch.setattr(time, "time", noon.timestamp)
    settings = {"schedule": {"every": "15m"}, "quiesce": {"avoid": "11:30-12:30"}}
    vnf = samples.vnf(protections=settings)
    state = ProtectedVnf(vnf="hlr", active_site="site-a", generation=1)
    row = protect_flow.requested(vnf, state, due_at=noon.timestamp() - 3600)
    with world.deployment.claims.begin(row) as claim, pytest.raises(PreflightFailed):
        execute(world.deployment, KIND, claim, Unobserved())
    assert "capture" not in world.calls
    world.deployment.vnfs.put(vnf)
    protect(world.deployment, "hlr", Unobserved())  # an operator may


def test_a_preflight_that_fails_names_everything_that_is_wrong_before_anything_is_frozen(
    world: World,
) -> None:
    world.plays(checks, "problems", lambda: ["db has no agent", "front is SHUTOFF"])
    world.patch.setattr(
        DirectoryVault, "put", lambda *_: failing(VaultError("the vault is full"))()
    )
    reason = fails_with(world, PreflightFailed)
    assert all(
        words in reason for words in ("db has no agent", "front is SHUTOFF", "the vault is full")
    )
    assert "capture" not in world.calls


def test_a_backup_that_fails_commits_nothing_and_leaves_no_snapshot_and_no_backup(
    world: World,
) -> None:
    world.plays(
        CinderBackup,
        "transfer",
        failing(ResourceFailed("backup b-1 of volume vol-db is in error")),
    )
    assert fails_with(world, ResourceFailed) == "backup b-1 of volume vol-db is in error"
    assert world.calls[-2:] == ["roll_back", "release"]


def test_a_quiesce_that_fails_removes_the_snapshots_that_were_begun_and_once(world: World) -> None:
    world.plays(QuiescedSnapshot, "capture", failing(QuiesceFailed("front was not quiesced")))
    assert fails_with(world, QuiesceFailed) == "front was not quiesced"
    assert world.calls[-3:] == ["capture", "roll_back", "release"]


def test_cleaning_up_that_fails_does_not_hide_the_reason_and_does_not_end_the_cleaning(
    world: World,
) -> None:
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("the reason")))
    world.plays(CinderBackup, "roll_back", failing(ResourceFailed("cannot be removed")))
    assert fails_with(world, ResourceFailed) == "the reason"
    assert world.calls[-1] == "release"


def test_a_silent_site_is_not_waited_for_in_a_rollback_or_after_the_commit(
    world: World,
) -> None:
    patient: list[str] = []

    def remove(what: str) -> Callable[..., None]:
        return lambda _, protecting: (
            None
            if getattr(protecting.site, "patience_s", None) == protect_flow.SILENCE_S
            else patient.append(what)
        )

    world.patch.setattr(
        samples.NamedSite,
        "impatient",
        lambda site, patience_s: SimpleNamespace(name=site.name, patience_s=patience_s),
    )
    world.patch.setattr(QuiescedSnapshot, "release", remove("release"))
    world.patch.setattr(CinderBackup, "roll_back", remove("roll_back"))
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("the reason")))
    assert fails_with(world, ResourceFailed) == "the reason"
    world.plays(CinderBackup, "transfer", samples.transferred)
    protect(world.deployment, "hlr", Unobserved())
    assert patient == []


def test_a_write_to_the_vault_that_may_still_arrive_is_taken_back_before_the_backups(
    world: World,
) -> None:
    world.patch.setattr(points, "write", lambda *_: lose_the_answer())
    world.plays(points, "withdraw")
    assert fails_with(world, VaultError) == "no answer to the write"
    assert world.calls[-3:] == ["withdraw", "roll_back", "release"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("SIGTERM"), ZeroDivisionError("a bug"), ResourceFailed("busy")]
)
def test_nothing_that_goes_wrong_after_the_commit_takes_the_recovery_point_back(
    world: World, error: BaseException
) -> None:
    world.plays(QuiescedSnapshot, "release", failing(error))
    record = protect(world.deployment, "hlr", Unobserved())
    assert points.list_ids(world.deployment.vault, "hlr") == [record["recovery_point"]]
    assert "roll_back" not in world.calls
    assert world.deployment.runs.get(record["run"]).state == "succeeded"


def test_records_of_a_point_that_was_not_committed_go_with_its_backups(world: World) -> None:
    create, written = DirectoryVault.create, list[str]()

    def refuse_the_manifest(self: DirectoryVault, name: str, document: bytes) -> bool:
        if name.startswith("hlr/") and name.endswith(".json"):
            raise VaultError("the vault is full")
        written.append(name)
        return create(self, name, document)

    world.patch.setattr(DirectoryVault, "create", refuse_the_manifest)
    backups = [*samples.point().backups]
    world.plays(CinderBackup, "roll_back", lambda: backups)
    fails_with(world, VaultError)
    assert any(name.startswith("_records/hlr/") for name in written)
    assert world.deployment.vault.list("_records/") == []


def test_backups_of_a_point_that_may_have_been_committed_are_not_removed(world: World) -> None:
    def put_and_lose_the_answer(vault: Any, sealed: Any) -> None:
        vault.put(sealed.name, b"written")
        raise VaultError("no answer to the write")

    world.patch.setattr(points, "write", put_and_lose_the_answer)
    world.patch.setattr(points, "withdraw", lambda *_: failing(VaultError("still no answer"))())
    with pytest.raises(VaultError):
        protect(world.deployment, "hlr", Unobserved())
    assert "roll_back" not in world.calls


def test_backups_of_a_committed_point_are_not_removed_though_the_listing_does_not_show_it_yet(
    world: World,
) -> None:

    write = points.write

    def write_and_lose_the_answer(vault: Any, sealed: Any) -> None:
        write(vault, sealed)
        lose_the_answer()

    world.patch.setattr(points, "write", write_and_lose_the_answer)
    world.patch.setattr(type(world.deployment.vault), "list", lambda *_: [])
    record = protect(world.deployment, "hlr", Unobserved())
    assert points.read(world.deployment.vault, "hlr", record["recovery_point"]).run == record["run"]
    assert "roll_back" not in world.calls


def test_backups_are_not_removed_when_nobody_can_tell_whether_the_point_was_committed(
    world: World,
) -> None:
    world.patch.setattr(points, "write", lambda *_: lose_the_answer())
    world.patch.setattr(
        points, "read", lambda *_: failing(VaultError("the vault cannot be read"))()
    )
    with pytest.raises(VaultError):
        protect(world.deployment, "hlr", Unobserved())
    assert "roll_back" not in world.calls
    assert world.deployment.runs.all()[0].state == "failed"


def test_snapshots_that_cannot_be_removed_after_the_commit_are_a_warning_and_the_point_stays(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.plays(QuiescedSnapshot, "release", failing(ResourceFailed("busy")))
    with caplog.at_level(logging.WARNING):
        record = protect(world.deployment, "hlr", Unobserved())
    assert points.list_ids(world.deployment.vault, "hlr") == [record["recovery_point"]]
    assert "snapshots of run" in caplog.text


def test_snapshots_that_a_silent_site_kept_after_the_commit_are_looked_for_as_orphans(
    world: World,
) -> None:
    world.plays(QuiescedSnapshot, "release", failing(SiteUnreachable("site-a is silent")))
    record = protect(world.deployment, "hlr", Unobserved())
    run = world.deployment.runs.get(record["run"])
    assert run.state == "succeeded"
    assert run.result["not_done"] == record["not_done"] == "site-a is silent"
    assert protect_flow.KIND.may_have_orphans(run)


@pytest.mark.parametrize("step", ["capture", "transfer"])
def test_a_signal_ends_the_run_as_failed_and_cleans_up(world: World, step: str) -> None:
    module = QuiescedSnapshot if step == "capture" else CinderBackup
    world.plays(module, step, failing(KeyboardInterrupt(signal.SIGTERM)))
    assert fails_with(world, Interrupted) == "interrupted by a signal"
    assert world.calls[-1] == "release"


def test_an_error_that_nobody_foresaw_fails_the_run_with_its_name(world: World) -> None:
    world.plays(CinderBackup, "transfer", failing(ZeroDivisionError("a bug")))
    assert fails_with(world, AntipodeError) == "unexpected ZeroDivisionError: a bug"


def test_a_chain_that_the_backup_store_has_lost_is_started_over_and_so_is_every_one_if_asked_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = samples.MemoryStore()
    new_chains = [samples.record("b-db-2", "vol-db"), samples.record("b-front-0", "vol-front")]
    for backup in [*samples.point().backups.values(), *new_chains]:
        store.hold(backup)
    world.patch.setattr(world.deployment, "store_of", lambda *_: store)
    asked: list[Any] = []

    def back_up(
        protecting: Any, topology: Any, capture: Any, previous: Any, full: dict[str, str]
    ) -> Transferred:
        asked.append(full)
        new = {r.volume_id: samples.chain(r) for r in new_chains}
        return Transferred(sources=new) if full else samples.transferred()

    world.patch.setattr(CinderBackup, "transfer", TRANSFER)
    world.patch.setattr(cinder_backup, "back_up", back_up)
    protect(world.deployment, "hlr", Unobserved())
    protect(world.deployment, "hlr", Unobserved())
    assert asked == [{}, {}]
    del store.objects["volume_vol-db/b-db-0-00001"]
    record = protect(world.deployment, "hlr", Unobserved())
    assert list(asked[-1]) == ["vol-db"]
    assert "b-db-0" in asked[-1]["vol-db"]
    assert "volume vol-db: backup b-db-0" in caplog.text
    committed = points.read(world.deployment.vault, "hlr", record["recovery_point"])
    assert committed.chain("vol-db")[-1].id == "b-db-2"
    protect(world.deployment, "hlr", Unobserved(), full=True)
    assert set(asked[-1]) == {"vol-db", "vol-front"}


def test_a_second_run_of_the_same_vnf_does_not_begin_while_one_is_under_way(world: World) -> None:
    with (
        world.deployment.claims.begin(new_run(KIND, "hlr", {})) as first,
        pytest.raises(Busy, match=first.run),
    ):
        protect(world.deployment, "hlr", Unobserved())
    assert world.calls == []
    protect(world.deployment, "hlr", Unobserved())


def test_a_run_collects_what_runs_before_it_have_left_and_spares_what_a_recovery_point_needs(
    world: World,
) -> None:
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("killed, as it were")))
    fails_with(world, ResourceFailed)
    dead = world.deployment.runs.all()[0].id
    world.plays(CinderBackup, "transfer", samples.transferred)
    protect(world.deployment, "hlr", Unobserved())
    asked = world.notes_orphans()
    protect(world.deployment, "hlr", Unobserved())
    assert asked[0] == ({dead}, set(points.read(world.deployment.vault, "hlr").backups))


@pytest.mark.parametrize(
    ("known", "dead"), [(True, {"failed", "aborted", "running"}), (False, {"failed", "aborted"})]
)
def test_a_run_that_is_kept_as_running_is_dead_only_if_it_is_known_that_nobody_is_at_it(
    world: World, known: bool, dead: set[str]
) -> None:
    for state in ("succeeded", "failed", "aborted", "running"):
        for kind in ("protect", "failover"):
            row = new_run(kind_of(kind), "hlr", {})
            row.id, row.state, row.slot = f"{kind}-{state}", state, None
            world.deployment.runs.create(row)
    with world.deployment.claims.begin(new_run(KIND, "hlr", {})):
        if not known:
            world.patch.setattr(type(world.deployment.claims), "is_held", lambda *_: None)
        assert protect_flow.dead_runs(world.deployment, "hlr") == {
            f"protect-{state}" for state in dead
        }


def test_a_dead_run_whose_point_the_listing_does_not_show_yet_keeps_its_backups(
    world: World,
) -> None:
    record = protect(world.deployment, "hlr", Unobserved())
    world.deployment.runs.end(record["run"], 1, "failed", 0, "killed just after its commit", {})
    asked = world.notes_orphans()
    world.patch.setattr(type(world.deployment.vault), "list", lambda *_: [])
    protect(world.deployment, "hlr", Unobserved())
    assert asked[0] == ({record["run"]}, set(samples.point().backups))


def test_nothing_is_collected_when_a_recovery_point_cannot_be_read(world: World) -> None:
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("killed, as it were")))
    fails_with(world, ResourceFailed)
    world.plays(CinderBackup, "transfer", samples.transferred)
    world.deployment.vault.put("hlr/29990101T000000Z-000000.json", b"damaged")
    asked = world.notes_orphans()
    protect(world.deployment, "hlr", Unobserved())
    assert asked == []


def test_orphans_are_compared_with_points_that_may_name_them_only(world: World) -> None:
    for _ in range(5):
        protect(world.deployment, "hlr", Unobserved())
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("killed, as it were")))
    with pytest.raises(ResourceFailed):
        protect(world.deployment, "hlr", Unobserved())
    world.plays(CinderBackup, "transfer", samples.transferred)
    asked = world.notes_orphans()
    protect(world.deployment, "hlr", Unobserved())
    # the five points are older than the run that died
    assert [spared for _, spared in asked] == [set(), set()]


def test_a_step_that_fails_after_the_commit_is_in_the_record_and_the_list(world: World) -> None:
    world.plays(QuiescedSnapshot, "release", failing(ZeroDivisionError("a bug")))
    record = protect(world.deployment, "hlr", Unobserved())
    run = world.deployment.runs.get(record["run"])
    assert run.state == "succeeded"
    assert run.reason and record["not_done"]
    assert protect_flow.KIND.may_have_orphans(run)


def test_orphans_at_another_site_are_not_taken_for_collected(world: World) -> None:
    world.plays(CinderBackup, "transfer", failing(ResourceFailed("the site died")))
    fails_with(world, ResourceFailed)
    [dead] = world.deployment.runs.all()
    with world.deployment.database.begin() as connection:
        elsewhere = {**(dead.request or {}), "site": "site-b"}
        connection.execute(
            update(RunRow).values(request=elsewhere, ended_at=time.time() - 10 * 86400)
        )
    world.plays(CinderBackup, "transfer", samples.transferred)
    protect(world.deployment, "hlr", Unobserved())
    assert world.deployment.runs.get(dead.id).collected_at is None
