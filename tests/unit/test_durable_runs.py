# SPDX-License-Identifier: Apache-2.0
"""Runs that are aborted, halted, resumed, superseded and upgraded: who may do what, and what is
left in the end.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from antipode import config
from antipode.claims.host import LETS_GO_S, HostClaims, Lock
from antipode.cloud import site as cloud_site
from antipode.engine import watch
from antipode.engine.deployment import Deployment
from antipode.engine.execution import execute
from antipode.engine.run import state_of
from antipode.engine.timeline import Unobserved
from antipode.errors import (
    Aborted,
    AntipodeError,
    Busy,
    ClaimLost,
    Halted,
    InvalidInput,
    ResourceFailed,
)
from antipode.model.vnf import Answers, Protection
from antipode.operations import abort as aborting
from antipode.operations import failover as failing
from antipode.operations import protect as protecting
from antipode.operations.abort import abort
from antipode.operations.failover import failover, prepare
from antipode.operations.protect import protect
from antipode.operations.resume import resume
from antipode.operations.submit import resubmit
from antipode.protect import snapshots
from antipode.protect.quiesced_snapshot import window
from antipode.recover import rollback
from antipode.runs import kind_of
from antipode.topology import answering
from antipode.vault import points
from tests.unit import samples
from tests.unit.fakecloud import FakeCloud, refuse
from tests.unit.test_kill_matrix import VNF, backup_site, primary

Json = dict[str, Any]
TEN_MINUTES = Protection.model_validate({"quiesce": {"timeout": 600}})
WITHIN_S = 60.0
"""How long anything may take on a machine that is slow and has much else to do."""


class World:
    """Two clouds and a folder; a VNF with one recovery point."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.a, self.b = primary(), backup_site()
        self.a.hosts.append("compute-2")  # for the server group, whose members stay in it
        self.config = samples.write_config(folder)

    @property
    def clouds(self) -> dict[str, FakeCloud]:
        return {"site-a": self.a, "site-b": self.b}

    @functools.cached_property
    def here(self) -> Deployment:
        return self.process()

    def becomes(self, other: World) -> None:
        """Have all that a world which was made once has at its sites, in its vault and in its
        databases. Nothing has happened in this one, or what has is in the other, too.
        """
        for database in self.folder.glob("*.db*"):
            database.unlink()
        ours = shutil.ignore_patterns(self.config.name, "*.db-*")
        shutil.copytree(other.folder, self.folder, ignore=ours, dirs_exist_ok=True)
        self.a.becomes(other.a)
        self.b.becomes(other.b)
        self.here = self.process()

    def process(self) -> Deployment:
        """As another process sees it."""
        return Deployment(config.load(str(self.config)))

    def protect(self, deployment: Deployment | None = None) -> Json:
        return protect(deployment or self.here, "v", Unobserved())

    def failover(self, deployment: Deployment | None = None) -> Json:
        deployment = deployment or self.here
        return failover(deployment, prepare(deployment, "v", "site-b", None), Unobserved())

    def dies_before_its_end(self, run: str) -> None:
        """As if the process of a run that has ended had died just before it told so."""
        with self.here.database.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE runs SET state = 'running', ended_at = NULL, slot = kind || ':' || vnf "
                "WHERE id = ?",
                (run,),
            )

    def die_in(self, kind: str) -> str:
        """A run whose process has died at once; its id."""
        row = (
            failing.request(prepare(self.here, "v", "site-b", None))
            if kind == "failover"
            else protecting.request(self.here, "v")
        )
        with self.here.claims.begin(row) as claim:
            return claim.run


def made_once(
    make: Callable[[World], object], begin: Callable[[Path], World] | None = None
) -> Callable[[], World]:
    """A world that `make` has changed, for other worlds to become like it: a process makes it when
    it is first asked for.

    Args:
        begin: makes it in a folder; a `World` by default.
    """

    @functools.cache
    def made() -> World:
        folder = tempfile.TemporaryDirectory(prefix="world-")
        world = (begin or World)(Path(folder.name))
        weakref.finalize(world, folder.cleanup)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cloud_site, "connect", lambda name, cloud: world.clouds[name].site)
            make(world)
        for file in world.folder.glob("*.db"):
            with closing(sqlite3.connect(file)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all is in the file itself
        return world

    return made


@made_once
def protected(world: World) -> None:
    """A world whose VNF has one recovery point."""
    world.here.vnfs.put(VNF)
    world.protect()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for module, pause in (
        (window, "POLL_S"),
        (rollback, "POLL_S"),
        (watch, "LOOK_S"),
        (aborting, "LOOK_S"),
        (answering, "PAUSE_S"),
    ):
        monkeypatch.setattr(module, pause, 0.02)
    world = World(tmp_path)
    monkeypatch.setattr(cloud_site, "connect", lambda name, cloud: world.clouds[name].site)
    world.becomes(protected())
    return world


class InBackground:
    """Work that goes on beside the test; what it raises is kept."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, args=(work,), daemon=True)
        self._thread.start()

    def _do(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "it has not ended"


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def silent(world: World) -> None:
    """The member that is booted first never answers."""
    member = VNF.members[0].model_copy(
        update={"answers": Answers(command=["false"], within=3600.0)}
    )
    world.here.vnfs.put(VNF.model_copy(update={"members": [member, VNF.members[1]]}))


# Abort.


def test_a_failover_under_way_stops_within_seconds_and_all_that_it_made_is_removed(
    world: World,
) -> None:
    silent(world)
    primary_events = list(world.a.events)
    recovering = InBackground(lambda: world.failover(world.process()))
    until(lambda: "boot db" in world.b.events)
    began = time.monotonic()
    told = abort(world.here, world.here.runs.all()[0].id, Unobserved())
    assert time.monotonic() - began < WITHIN_S  # the member has an hour to answer
    recovering.join()
    assert isinstance(recovering.error, Aborted)
    assert told["state"] == "aborted"
    assert not world.b.servers and not world.b.volumes and not world.b.ports
    assert [
        left for left in told["left"] if "3 backup records" in left and "deletes its data" in left
    ]
    assert [left for left in told["left"] if left.startswith("keypair key")]
    assert len(world.b.backups) == 3
    assert world.a.events == primary_events
    assert world.here.flows.books() == []
    assert abort(world.here, told["run"], Unobserved()) == told


def test_an_abort_within_the_window_thaws_at_once_and_names_the_snapshots_that_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_TIMEOUT_S", 0.2)
    world.here.vnfs.put(VNF.model_copy(update={"protections": [TEN_MINUTES]}))
    world.a.looks_until_available = 10**9
    protecting = InBackground(lambda: world.protect(world.process()))
    until(lambda: "snapshot front-root" in world.a.events[-6:] and world.a.frozen)
    began = time.monotonic()
    told = abort(world.here, world.here.runs.all()[0].id, Unobserved())
    assert time.monotonic() - began < WITHIN_S  # the window has ten minutes
    protecting.join()
    assert not world.a.frozen
    assert world.here.freezes.overdue("site-a", time.time() + 10**6) == []
    assert [left for left in told["left"] if left.startswith("the snapshots of")]
    assert len(points.list_ids(world.here.vault, "v")) == 1


@pytest.mark.parametrize("kind", ["protect", "failover"])
def test_an_abort_after_the_point_of_no_return_says_so_and_changes_nothing(
    world: World, kind: str
) -> None:
    record = world.failover() if kind == "failover" else world.protect()
    before = (list(world.a.events), list(world.b.events), world.here.runs.get(record["run"]).state)
    with pytest.raises(InvalidInput):
        abort(world.here, record["run"], Unobserved())
    assert (world.a.events, world.b.events, world.here.runs.get(record["run"]).state) == before


def test_a_protect_that_died_after_its_commit_cannot_be_aborted_and_is_finished_by_resume(
    world: World,
) -> None:
    record = world.protect()
    for _ in range(2):
        world.dies_before_its_end(record["run"])
        with pytest.raises(InvalidInput):
            abort(world.here, record["run"], Unobserved())
        assert world.here.runs.get(record["run"]).state == "succeeded"
    world.dies_before_its_end(record["run"])
    assert (
        resume(world.here, record["run"], Unobserved())["recovery_point"]
        == record["recovery_point"]
    )
    assert len(points.list_ids(world.here.vault, "v")) == 2
    assert set(points.read(world.here.vault, "v").backups) <= set(world.a.backups)


def test_a_protect_that_died_after_its_commit_is_finished_whatever_has_been_asked_and_begun_since(
    world: World,
) -> None:
    record = world.protect()
    world.dies_before_its_end(record["run"])
    world.here.runs.request_abort(record["run"])
    world.die_in("failover")
    assert (
        resume(world.here, record["run"], Unobserved())["recovery_point"]
        == record["recovery_point"]
    )
    assert world.here.runs.get(record["run"]).state == "succeeded"
    assert set(points.read(world.here.vault, "v").backups) <= set(world.a.backups)


def test_an_abort_that_dies_at_once_is_never_gone_on_with_as_a_failover(world: World) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot db" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    run = world.here.runs.all()[0].id
    world.here.claims.take(run, abort=True).release()
    world.b.before = lambda event: None
    there = world.process()
    with there.claims.take(run) as claim, pytest.raises(Aborted):
        execute(there, kind_of("failover"), claim, Unobserved())
    assert not world.b.servers and not world.b.volumes


@pytest.mark.parametrize("second_is", ["succeeded", "failed"])
def test_what_a_second_failover_has_taken_over_is_its_own_and_the_first_cannot_be_aborted_any_more(
    world: World, second_is: str
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot front" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    first = world.here.runs.all()[0].id
    if second_is == "succeeded":
        world.b.before = lambda event: None
        world.failover()
    else:
        with pytest.raises(ResourceFailed):
            world.failover()
    second = world.here.runs.all()[0].id
    there = (set(world.b.servers), set(world.b.volumes), set(world.b.ports))
    with pytest.raises(InvalidInput, match=second):
        abort(world.here, first, Unobserved())
    assert (set(world.b.servers), set(world.b.volumes), set(world.b.ports)) == there
    if second_is == "failed":
        abort(world.here, second, Unobserved())
        assert not world.b.servers and not world.b.volumes and not world.b.ports
        assert abort(world.here, first, Unobserved())["state"] == "aborted"


def test_an_abort_that_cannot_remove_everything_fails_says_what_is_left_and_can_be_repeated(
    world: World,
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot front" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    run = world.here.runs.all()[0].id
    world.b.before = lambda event: (
        refuse(400, "it has snapshots") if event == "delete volume front-root" else None
    )
    with pytest.raises(ResourceFailed, match="front-root"):
        abort(world.here, run, Unobserved())
    assert [v["name"] for v in world.b.volumes.values()] == ["front-root"]
    with pytest.raises(InvalidInput, match=f"antipode run abort {run}"):
        resume(world.here, run, Unobserved())
    world.b.before = lambda event: None
    assert abort(world.here, run, Unobserved())["state"] == "aborted"
    assert not world.b.volumes


@pytest.mark.parametrize("is_tried_before", [False, True])
def test_a_service_rolls_back_a_failed_run_that_is_handed_to_it(
    world: World, is_tried_before: bool
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot front" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    run = world.here.runs.all()[0].id
    if is_tried_before:
        world.b.before = lambda event: (
            refuse(400, "it has snapshots") if event == "delete volume front-root" else None
        )
        with pytest.raises(ResourceFailed):
            abort(world.here, run, Unobserved())
    world.b.before = lambda event: None
    resubmit(world.here, world.here.runs.get(run), abort=True)
    assert world.here.runs.get(run).state == "queued"
    there = world.process()
    with there.claims.take(run) as claim, pytest.raises(Aborted):
        execute(there, kind_of("failover"), claim, Unobserved())
    assert world.here.runs.get(run).state == "aborted"
    assert not world.b.servers and not world.b.volumes


# Failover and protect of one VNF.


def test_a_failover_asks_a_protect_that_hangs_at_the_dead_primary_to_abort_and_does_not_wait_for_it(
    world: World,
) -> None:
    hanging, dead = threading.Event(), threading.Event()

    def hang(event: str) -> None:
        if event.startswith("incremental backup"):
            hanging.set()
            world.a.lock.release()  # the site hangs, its double must not
            dead.wait(2 * WITHIN_S)
            world.a.lock.acquire()

    world.a.before = hang
    protecting = InBackground(lambda: world.protect(world.process()))
    assert hanging.wait(WITHIN_S)
    record = world.failover()
    assert record["servers"].keys() == {"db", "front"}
    assert world.here.runs.all()[0].state == "succeeded"
    with pytest.raises(Busy):
        world.protect()  # the one before is under way still
    dead.set()
    protecting.join()
    assert isinstance(protecting.error, Aborted)
    point = points.read(world.here.vault, "v")
    assert point.id == record["recovery_point"]
    assert set(point.backups) <= set(world.a.backups)
    assert not world.a.snapshots and not world.a.frozen


@pytest.mark.parametrize("failover_is", ["under way", "lost"])
def test_no_protect_begins_while_a_failover_has_not_ended(world: World, failover_is: str) -> None:
    run = world.die_in("failover")
    holder = world.process().claims.take(run) if failover_is == "under way" else None
    before = list(world.a.events)
    with pytest.raises(Busy, match=rf"{run}.*{'running' if holder else 'lost'}"):
        world.protect()
    assert world.a.events == before
    if holder:
        holder.release()
    abort(world.here, run, Unobserved())
    world.protect()


def test_two_failovers_of_a_vnf_are_never_under_way_at_once(world: World) -> None:
    run = world.die_in("failover")
    with world.process().claims.take(run), pytest.raises(Busy, match=run):
        world.failover()
    # once it is lost, a new one takes its place and uses what it has made
    record = world.failover()
    assert (world.here.runs.get(run).state, world.here.runs.get(record["run"]).state) == (
        "failed",
        "succeeded",
    )
    with pytest.raises(InvalidInput, match=record["run"]):
        resume(world.here, run, Unobserved())


def test_a_protect_that_failed_in_its_commit_takes_nothing_back_from_a_failover_that_uses_its_point(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = points.write

    def write_and_lose_the_answer(vault: Any, sealed: Any) -> str:
        write(vault, sealed)
        world.failover()
        raise AntipodeError("no answer to the write")

    monkeypatch.setattr(points, "write", write_and_lose_the_answer)
    world.protect(world.process())
    point = points.read(world.here.vault, "v")
    assert [r.result["recovery_point"] for r in world.here.runs.all() if r.kind == "failover"] == [
        point.id
    ]
    assert set(point.backups) <= set(world.a.backups)


def test_a_protect_that_takes_the_place_of_one_that_died_in_its_window_thaws_first(
    world: World,
) -> None:
    run = world.die_in("protect")
    for server in ("db", "front"):
        world.here.freezes.of(run).freezing("site-a", f"id-{server}", server, 3600)
        world.a.frozen.add(f"id-{server}")
    world.protect()
    assert world.here.runs.get(run).state == "failed"
    assert not world.a.frozen
    assert world.here.freezes.left_by(run) == []


# Resume.


def test_a_resumed_failover_continues_and_its_rto_counts_from_the_confirmation(
    world: World,
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot front" else None
    with pytest.raises(ResourceFailed, match="Nova is broken") as failure:
        world.failover()
    run = world.here.runs.all()[0]
    assert f"antipode run resume {run.id}" in failure.value.__notes__[0]
    world.b.before = lambda event: None
    time.sleep(0.5)
    events = len(world.b.events)
    record = resume(world.process(), run.id, Unobserved())
    assert world.b.events[events:] == ["boot front"]
    assert record["rto_s"] >= 0.5
    assert set(record["rto_breakdown_s"]) == {"import", "restore", "ports", "boot"}
    assert record["rto_breakdown_s"]["boot"] >= 0.5
    assert (record["servers"].keys(), record["run"]) == ({"db", "front"}, run.id)


def test_the_logbook_of_a_failed_failover_is_kept_until_another_has_taken_its_place(
    world: World,
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot db" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    assert world.here.flows.books() == [world.here.runs.all()[0].id]
    world.b.before = lambda event: None
    world.failover()
    assert world.here.flows.books() == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("succeeded", "has succeeded"),
        ("aborted", "was aborted"),
        ("failed", "antipode protect v"),
    ],
)
def test_what_has_ended_is_not_resumed_and_the_operator_is_told_what_to_do(
    world: World, state: str, words: str
) -> None:
    record = world.protect()
    world.here.runs.end(record["run"], 1, state, time.time(), "no agent", {})
    with pytest.raises(InvalidInput, match=words):
        resume(world.here, record["run"], Unobserved())


def test_a_run_of_another_host_of_which_nothing_is_known_is_neither_lost_nor_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        run = world.die_in("protect")
    claims = HostClaims(world.folder, world.here.runs, shared=True)
    assert claims.is_held(world.here.runs.get(run)) is None
    for take in (
        lambda: claims.take(run),
        lambda: claims.begin(protecting.request(world.here, "v")),
    ):
        with pytest.raises(Busy, match=run):
            take()
    assert HostClaims(world.folder, world.here.runs).is_held(world.here.runs.get(run)) is False


def test_a_lock_is_taken_though_somebody_looks_for_a_while_who_has_it_and_not_from_who_has_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "v.lock"
    path.touch()
    with path.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        looked = threading.Timer(3 * LETS_GO_S, lambda: fcntl.flock(looker, fcntl.LOCK_UN))
        looked.start()
        handle = Lock(path).take("run-1")
        looked.join()
    with pytest.raises(Busy, match="run-1"):
        Lock(path).take("run-2")
    os.close(handle)


def test_a_run_that_somebody_is_at_is_not_resumed(world: World) -> None:
    run = world.die_in("protect")
    with world.process().claims.take(run), pytest.raises(Busy):
        resume(world.here, run, Unobserved())


def test_a_halted_run_takes_nothing_back_and_goes_on_when_it_is_resumed(world: World) -> None:
    silent(world)
    run, halt = world.die_in("failover"), threading.Event()

    def conduct() -> None:
        there = world.process()
        with there.claims.take(run) as claim:
            execute(there, kind_of("failover"), claim, Unobserved(), halt)

    conducting = InBackground(conduct)
    begun = {
        "boot db",
        "restore front-root",
        "port fa:16:3e:00:00:01",
    }  # that of front goes on beside db's
    until(lambda: begun <= set(world.b.events))
    halt.set()
    conducting.join()
    assert isinstance(conducting.error, Halted)
    assert state_of(world.here.runs.get(run), world.here) == "lost"
    assert [s["name"] for s in world.b.servers.values()] == ["db"]
    events = len(world.b.events)
    resuming = InBackground(lambda: resume(world.process(), run, Unobserved()))
    until(lambda: state_of(world.here.runs.get(run), world.here) == "running")
    abort(world.here, run, Unobserved())
    resuming.join()
    assert not [
        e for e in world.b.events[events:] if e.split()[0] in ("import", "restore", "port", "boot")
    ]


def test_a_conductor_that_lost_its_claim_stops_and_writes_nothing(world: World) -> None:
    silent(world)
    run = world.die_in("failover")
    there = world.process()
    claim = there.claims.take(run)
    conducting = InBackground(lambda: execute(there, kind_of("failover"), claim, Unobserved()))
    until(lambda: "boot db" in world.b.events)
    mine = world.here.runs.claim(run, "another host", claim.number)
    conducting.join()
    assert isinstance(conducting.error, ClaimLost)
    row = world.here.runs.get(run)
    assert (row.claim, row.state, row.conductor, row.reason) == (
        mine,
        "running",
        "another host",
        None,
    )


def test_a_server_in_error_is_removed_and_made_again_and_its_volumes_are_not_lost(
    world: World,
) -> None:
    world.b.before = lambda event: refuse(500, "Nova is broken") if event == "boot front" else None
    with pytest.raises(ResourceFailed):
        world.failover()
    run = world.here.runs.all()[0].id
    (db,) = world.b.servers.values()
    volumes = {v["name"]: v["id"] for v in world.b.volumes.values()}
    db |= {"status": "ERROR", "fault": {"message": "no valid host"}}
    world.b.before = lambda event: None
    abort_not = len(world.b.events)
    # `Boot db` had not been finished: it is done again
    record = world.failover()
    assert record["run"] != run
    events = world.b.events[abort_not:]
    assert events.index("keep db-data") < events.index("delete server db") < events.index("boot db")
    assert {v["name"]: v["id"] for v in world.b.volumes.values()} == volumes
    assert not [e for e in events if e.startswith("restore")]


# Own upgrade.


@pytest.mark.parametrize("version", [None, 99])
@pytest.mark.parametrize("kind", ["protect", "failover"])
def test_a_run_of_another_version_says_so_and_is_finished_by_the_rules_of_abort(
    world: World, kind: str, version: int | None
) -> None:
    run = world.die_in(kind)
    with world.here.runs._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET flow_version = ?", (version,))
        if version is None:
            connection.exec_driver_sql("UPDATE runs SET request = NULL")
    with pytest.raises(Aborted):
        resume(world.here, run, Unobserved())
    row = world.here.runs.get(run)
    assert row.state == "aborted"
    assert "another version" in str(row.reason)


def test_a_run_of_another_version_that_is_past_the_point_of_no_return_is_left_as_it_is(
    world: World,
) -> None:
    record = world.protect()
    world.dies_before_its_end(record["run"])
    with world.here.runs._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET flow_version = 99")
    with pytest.raises(AntipodeError, match="version"):
        resume(world.here, record["run"], Unobserved())
    assert points.read(world.here.vault, "v").id == record["recovery_point"]


@pytest.fixture(autouse=True)
def clouds_at_rest() -> Iterator[None]:
    """No test leaves threads behind that make the next one's calls."""
    yield
    until(
        lambda: (
            not [
                t for t in threading.enumerate() if t.name.startswith(("task", "flow", "watch run"))
            ]
        )
    )
