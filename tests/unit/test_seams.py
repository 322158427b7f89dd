# SPDX-License-Identifier: Apache-2.0
"""The seams are real: an option, a source of volumes and a kind of run that are defined here work
with everything that antipode does, without a change in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from taskflow import task
from taskflow.patterns import linear_flow

from antipode.engine.flow_runner import guarded, run_flow
from antipode.engine.kind import Priority, RunKind
from antipode.engine.run import Run, new_run, state_of
from antipode.engine.timeline import Unobserved
from antipode.errors import Aborted, InvalidFile, ResourceFailed
from antipode.model.base import Model
from antipode.model.capture import Capture
from antipode.model.marks import marks
from antipode.model.plan import VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.source import VolumeSource, source_kind
from antipode.model.steps import StepName
from antipode.model.topology import Topology
from antipode.model.vnf import Protection, Vnf
from antipode.operations.abort import abort
from antipode.operations.failover import prepare
from antipode.operations.progress import outlook
from antipode.operations.recovery_points import verify
from antipode.operations.resume import resume
from antipode.operations.submit import submit
from antipode.operations.vnfs import read_file
from antipode.protect.option import OPTIONS, Option, Protecting
from antipode.recover.recovery import Recovery
from antipode.recover.sources import PROVIDERS, VolumeProvider
from antipode.runs import KINDS
from antipode.service.conductor import Conductor
from antipode.store.tables import RunRow
from antipode.vault import points
from antipode.vault.verify import Finding
from tests.unit import samples
from tests.unit.test_durable_runs import World, until, world
from tests.unit.test_kill_matrix import VNF

__all__ = ["world"]

# A source of volumes: a mirror at the other site, which is promoted.


@source_kind
class Mirror(VolumeSource):
    kind: str = "mirror"
    image: str

    @property
    def reference(self) -> str:
        return self.image


class FromMirrors(VolumeProvider):
    kind = "mirror"
    promoted: list[str] = []  # noqa: RUF012
    demoted: list[str] = []  # noqa: RUF012

    def check(self, point: RecoveryPoint, site: Any) -> Iterator[str]:
        if any(m.image == "lost" for m in point.sources.values() if isinstance(m, Mirror)):
            yield "a mirror is lost"

    def provide(
        self, recovery: Recovery, server: str, volumes: Sequence[VolumePlan]
    ) -> dict[str, str]:
        made = {}
        for volume in volumes:
            key = recovery.key(volume.source_id)
            found = recovery.found.volumes(key)
            made[volume.source_id] = (
                found[0]["id"]
                if found
                else recovery.site.volumes.create_volume(
                    {
                        "name": volume.name,
                        "description": "a mirror",
                        "size": volume.size_gib,
                        "metadata": marks(recovery.run, key),
                    }
                )
            )
            self.promoted.append(volume.source_reference)
        return made

    def roll_back(self, *_: Any) -> list[str]:
        self.demoted.append("all")
        return ["the mirrors are demoted"]

    def verify(self, volume: str, source: VolumeSource, store: Any, site: Any) -> list[Finding]:
        return [Finding(volume=volume, backup=source.reference, ok=True, detail="it is in step")]


# An option that captures such mirrors, one member after another.


class MirrorSteps(StepName):
    MARK = "3.2", "mark a consistent moment"


class MirrorSettings(Model):
    lag: int = 5


class Mirrored(Option):
    name = "mirrored"
    settings = MirrorSettings
    transfer = "none"
    captured: list[list[str]] = []  # noqa: RUF012
    released: list[str] = []  # noqa: RUF012

    def batches(self, vnf: Vnf, settings: Model) -> list[list[str]]:
        return [[m.server] for m in vnf.members]

    def check(self, protecting: Protecting, topology: Topology) -> Iterator[str]:
        assert isinstance(protecting.settings, MirrorSettings)
        if protecting.settings.lag > 100:
            yield "the mirror lags"

    def capture(self, protecting: Protecting, topology: Topology) -> Capture:
        self.captured.append([s.name for s in topology.servers])
        with protecting.timeline.step(MirrorSteps.MARK, topology.servers[0].name):
            sources = {v.id: Mirror(image=f"mirror-{v.id}") for v in topology.volumes}
        now = datetime.now(UTC).isoformat()
        return Capture(sources=sources, consistent_at=now, window=None, consistency="replica")

    def release(self, protecting: Protecting, kept: Callable[[], Collection[str]]) -> None:
        self.released.append(protecting.run)

    def remove_orphans(self, site: Any, runs: Collection[str], timeline: Any) -> None:
        """It makes nothing."""


@pytest.fixture
def mirrored(world: World) -> Iterator[World]:
    for made in (Mirrored.captured, Mirrored.released, FromMirrors.promoted, FromMirrors.demoted):
        made.clear()
    with (
        OPTIONS.registered("mirrored", Mirrored()),
        PROVIDERS.registered("mirror", FromMirrors()),
    ):
        protection = Protection.model_validate({"option": "mirrored", "lag": 3})
        world.here.vnfs.put(VNF.model_copy(update={"protections": [protection]}))
        yield world


def test_a_new_option_captures_member_by_member_and_commits_its_own_sources(
    mirrored: World,
) -> None:
    record = mirrored.protect()
    assert Mirrored.captured == [["db"], ["front"]]
    assert Mirrored.released == [record["run"]]
    point = points.read(mirrored.here.vault, "v")
    assert (point.option, point.consistency) == ("mirrored", "replica")
    assert {type(s) for s in point.sources.values()} == {Mirror}
    steps = [s.number for s in mirrored.here.runs.steps(record["run"])]
    assert steps.count("3.2") == 2
    assert not [e for e in mirrored.a.events[-5:] if "quiesce" in e]


def test_a_vnf_is_recovered_from_a_new_kind_of_source(mirrored: World) -> None:
    mirrored.protect()
    record = mirrored.failover()
    assert sorted(record["servers"]) == ["db", "front"]
    assert sorted(FromMirrors.promoted) == [
        "mirror-db-data",
        "mirror-db-root",
        "mirror-front-root",
    ]
    assert all(f.ok for f in verify(mirrored.here, "v", None))


def test_the_checks_of_a_new_source_stop_a_recovery_before_it_begins(mirrored: World) -> None:
    mirrored.protect()
    point = points.read(mirrored.here.vault, "v")
    lost = {v: Mirror(image="lost") for v in point.sources}
    later = {"id": "30000101T000000Z-000000", "sources": lost}
    points.commit(mirrored.here.vault, point.model_copy(update=later))
    with pytest.raises(Exception, match="a mirror is lost"):
        prepare(mirrored.here, "v", "site-b", "30000101T000000Z-000000")
    assert mirrored.b.events == []


def test_a_recovery_from_a_new_source_is_rolled_back(mirrored: World) -> None:
    mirrored.protect()

    def fails(event: str) -> None:
        if event.startswith("boot front"):
            raise ResourceFailed("no room")

    mirrored.b.before = fails
    with pytest.raises(ResourceFailed):
        mirrored.failover()
    told = abort(mirrored.here, mirrored.here.runs.all()[0].id, Unobserved())
    assert "the mirrors are demoted" in told["left"]
    assert mirrored.b.servers == {}
    assert mirrored.b.volumes == {}


def test_the_settings_of_a_new_option_are_checked_with_line_and_field(
    mirrored: World, tmp_path: Path
) -> None:
    file = tmp_path / "v.yaml"
    file.write_text(
        samples.VNF_FILE + "protections:\n  - option: mirrored\n    lag: 3\n    lagg: 4\n"
    )
    with pytest.raises(InvalidFile) as caught:
        read_file(file, mirrored.here.config)
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.field) == (12, "protections[0].lagg")
    file.write_text(samples.VNF_FILE + "protections: mirrored\n")
    assert read_file(file, mirrored.here.config).protections[0].option == "mirrored"
    file.write_text(samples.VNF_FILE + "protections: [miror]\n")
    with pytest.raises(InvalidFile) as caught:
        read_file(file, mirrored.here.config)
    assert [mistake.field for mistake in caught.value.mistakes] == ["protections[0].option"]


def test_a_point_with_a_kind_of_source_that_is_not_known_is_refused(mirrored: World) -> None:
    mirrored.protect()
    point = points.read(mirrored.here.vault, "v").model_dump(mode="json")
    for source in point["sources"].values():
        source["kind"] = "of-tomorrow"
    with pytest.raises(ValidationError):
        RecoveryPoint.model_validate(point)


# A kind of run: it writes a tag to every server of the VNF.


class TagSteps(StepName):
    TAG = "", "tag a server"


class Tag(task.Task):
    def __init__(self, run: Run, server: str) -> None:
        super().__init__(name=f"tag {server}", provides=f"tag of {server}")
        self.run, self.server = run, server

    @guarded
    def execute(self) -> str:
        with self.run.timeline.step(TagSteps.TAG, self.server):
            Tagging.before(self.run, self.server)
            self.run.go_on()
            Tagging.tags.append(self.server)
        return self.server


class Tagging(RunKind):
    name = "tagging"
    flow_version = 7
    priority = Priority.UPKEEP
    rolls_back_failures = False
    works_at_active_site = True
    creates = "tags"
    volume_step = None
    tags: list[str] = []  # noqa: RUF012

    @staticmethod
    def before(run: Run, server: str) -> None:
        """Nothing keeps a task from its work."""

    def site_of(self, row: RunRow) -> str:
        return "site-a"

    def execute(self, run: Run) -> None:
        run.touches_clouds()
        flow = linear_flow.Flow("tagging").add(Tag(run, "db"), Tag(run, "front"))
        run.result["tags"] = sorted(run_flow(flow, run).values())

    def roll_back(self, run: Run) -> list[str]:
        self.tags.clear()
        return ["the label printer is warm"]

    def point_of_no_return(self, run: Run) -> str | None:
        return None


@pytest.fixture
def tagging(world: World) -> Iterator[World]:
    Tagging.tags.clear()
    with KINDS.registered("tagging", Tagging()):
        yield world


def asked(vnf: str = "v") -> RunRow:
    return new_run(KINDS.get("tagging"), vnf, {"asked_by": "a test"})


def die_in(world: World) -> str:
    with world.here.claims.begin(asked()) as claim:
        return claim.run


def test_a_new_kind_of_run_is_listed_watched_and_resumed_after_its_process_died(
    tagging: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(run: Run, server: str) -> None:
        if server == "front":
            raise KeyboardInterrupt("SIGTERM")

    run = die_in(tagging)
    assert state_of(tagging.here.runs.get(run), tagging.here) == "lost"
    monkeypatch.setattr(Tagging, "before", staticmethod(dies))
    with pytest.raises(Exception, match="interrupted"):
        resume(tagging.process(), run, Unobserved())
    assert Tagging.tags == ["db"]
    assert outlook(tagging.here.runs, run, time.time()).run.state == "failed"
    monkeypatch.undo()
    assert resume(tagging.process(), run, Unobserved())["tags"] == ["db", "front"]
    assert Tagging.tags == ["db", "front"]  # the finished task was not done again
    assert run in [r.id for r in tagging.here.runs.all("v")]


def test_a_new_kind_of_run_is_rolled_back(tagging: World) -> None:
    run = die_in(tagging)
    Tagging.tags.append("db")
    assert abort(tagging.process(), run, Unobserved())["left"] == ["the label printer is warm"]
    assert Tagging.tags == []
    assert tagging.here.runs.get(run).state == "aborted"


def test_a_new_kind_of_run_that_is_asked_to_abort_stops_and_is_rolled_back(
    tagging: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def waits(under_way: Run, server: str) -> None:
        begun.set()
        until(lambda: under_way.stopped_by is not None)

    monkeypatch.setattr(Tagging, "before", staticmethod(waits))
    run, ended = die_in(tagging), []

    def resumes() -> None:
        try:
            resume(tagging.process(), run, Unobserved())
        except Aborted as error:
            ended.append(error)

    thread = threading.Thread(target=resumes)
    thread.start()
    assert begun.wait(60)
    tagging.here.runs.request_abort(run)
    thread.join(60)
    assert ended
    assert tagging.here.runs.get(run).state == "aborted"


def test_a_new_kind_of_run_is_queued_and_has_its_place_and_limit(
    tagging: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from antipode.operations import protect

    tagging.here.limits._settings = tagging.here.config.limits
    rows = [asked("a"), asked("b"), protect.request(tagging.here, "v")]
    queued = [submit(tagging.here, row)["run"] for row in rows]
    order: list[str] = []
    at_once: list[int] = []
    under_way = 0
    lock = threading.Lock()
    begin = Conductor._begin

    def noted(self: Conductor, row: RunRow, kind: RunKind) -> None:
        order.append(row.id)
        begin(self, row, kind)

    def before(run: Run, server: str) -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            at_once.append(under_way)
        time.sleep(0)
        with lock:
            under_way -= 1

    monkeypatch.setattr(Conductor, "_begin", noted)
    monkeypatch.setattr(Tagging, "before", staticmethod(before))
    made = Conductor(tagging.here)
    made._most = 1
    thread = threading.Thread(target=made.conduct)
    thread.start()
    try:
        until(lambda: not tagging.here.runs.open())
    finally:
        made.halt.set()
        thread.join(60)
    first, second, protection = queued
    assert order[0] == protection
    assert order.index(first) < order.index(second)
    assert max(at_once) == 1
    assert {tagging.here.runs.get(r).state for r in queued} == {"succeeded"}
