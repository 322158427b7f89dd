# SPDX-License-Identifier: Apache-2.0
"""Option 2: one member after another is captured by an image that Nova makes; no member stays
frozen, the VNF stays up, and nothing is left behind.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from antipode.cloud.api import Unlimited
from antipode.errors import AntipodeError, QuiesceFailed, ResourceFailed, SiteUnreachable
from antipode.model.capture import Capture, merged
from antipode.model.marks import RUN
from antipode.model.topology import Server, Topology
from antipode.model.vnf import Answers, Member, Vnf
from antipode.protect import snapshots
from antipode.protect.option import Protecting
from antipode.protect.server_snapshot import OPTION, checks, member
from antipode.protect.server_snapshot.order import members_in_order
from antipode.protect.server_snapshot.settings import Quiesce, Settings
from antipode.topology import answering
from antipode.topology.discovery import discover
from tests.unit import parts
from tests.unit.fakecloud import FakeCloud, FakeLedger, FakeTimeline, refuse

RUN_ID = "protect-1"
ROLES = {"db": "active", "app": "standby", "front": "standby"}
NEVER = 10**9


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "POLL_S", 0.01)
    monkeypatch.setattr(member, "THAW_PAUSE_S", 0.01)
    monkeypatch.setattr(member, "THAW_LONGEST_S", 0.3)
    monkeypatch.setattr(member, "NOVA_LOOKS_S", 0.0)
    monkeypatch.setattr(member, "UPDATED_EVERY_S", 0.0)
    monkeypatch.setattr(answering, "PAUSE_S", 0.01)
    monkeypatch.setattr(snapshots, "SNAPSHOT_TIMEOUT_S", 0.1)


class Scene:
    """A VNF of an active and two standby members, and a run that protects it."""

    def __init__(self, cloud: FakeCloud | None = None, **quiesce: Any) -> None:
        self.cloud = cloud or FakeCloud()
        self.ledger = FakeLedger()
        self.timeline = FakeTimeline()
        self.vnf = vnf()
        self.quiesce = Quiesce.model_validate(quiesce)

    @property
    def protecting(self) -> Protecting:
        return parts.protecting(
            self.cloud,
            self.vnf,
            RUN_ID,
            settings=Settings(quiesce=self.quiesce),
            ledger=self.ledger,
            timeline=self.timeline,
        )

    @property
    def topology(self) -> Topology:
        return discover(self.vnf, self.cloud.site)

    def capture(self, name: str = "db") -> Capture:
        found = self.topology
        batch = found.model_copy(update={"servers": [found.server(name)]})
        return OPTION.capture(self.protecting, batch)

    def capture_all(self) -> Capture:
        batches = OPTION.batches(self.vnf, self.protecting.settings)
        return merged([self.capture(name) for (name,) in batches])

    def before(self, event: str, act: Callable[[], object]) -> None:
        def happens(happening: str) -> None:
            if happening == event:
                act()

        self.cloud.before = happens

    def release(self) -> None:
        OPTION.release(self.protecting, set)

    def expect_nothing_left(self) -> None:
        """Nobody is frozen, and what is there is removed by the release."""
        assert not self.cloud.all_frozen
        assert not self.ledger.open
        self.cloud.before = lambda event: None
        self.cloud.looks_until_available = 1
        self.release()
        assert not self.cloud.images
        assert not self.cloud.snapshots


def vnf(**answers: Answers) -> Vnf:
    return Vnf(
        vnf="v",
        primary="site-a",
        backup=["site-b"],
        members=[Member(server=s, role=r, answers=answers.get(s)) for s, r in ROLES.items()],
    )


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def refusing(status: int) -> Callable[[], None]:
    return lambda: refuse(status, "no")


# ---- what is captured, and in which order ----


def test_standby_members_are_captured_first_and_active_ones_last() -> None:
    scene = Scene()
    captured = scene.capture_all()
    images = [e for e in scene.cloud.events if e.startswith("image ")]
    assert images == ["image app", "image front", "image db"]
    assert set(captured.snapshots) == {f"{s}-{k}" for s in ROLES for k in ("root", "data")}
    scene.expect_nothing_left()


def test_members_of_clusters_and_without_a_role_come_between_in_the_order_of_the_file() -> None:
    members = [
        Member(server="a", role="active"),
        Member(server="c1", role="cluster=db"),
        Member(server="n"),
        Member(server="c2", role="cluster=db"),
        Member(server="s", role="standby"),
    ]
    ordered = Vnf(vnf="v", primary="site-a", backup=["site-b"], members=members)
    assert members_in_order(ordered) == ["s", "c1", "n", "c2", "a"]
    assert OPTION.batches(ordered, Settings()) == [["s"], ["c1"], ["n"], ["c2"], ["a"]]


@pytest.mark.parametrize("role", ["Active", "cluster", "cluster=", "cluster=a b", "passive"])
def test_a_role_that_is_none_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="role"):
        Member(server="db", role=role)


def test_the_next_member_is_frozen_only_when_the_one_before_is_unquiesced() -> None:
    scene = Scene()

    def look(event: str) -> None:
        if event.startswith("freeze "):
            assert not scene.cloud.all_frozen
            assert {s["status"] for s in scene.cloud.snapshots.values()} <= {"available"}

    scene.cloud.before = look
    scene.capture_all()
    events = [e for e in scene.cloud.events if e.split()[0] in ("image", "unquiesce")]
    assert events == [
        f"{what} {name}" for name in ("app", "front", "db") for what in ("image", "unquiesce")
    ]


def test_the_snapshots_are_those_that_the_image_names() -> None:
    scene = Scene()

    def somebody_makes_one_of_the_same_name() -> None:
        scene.cloud.snapshots["foreign"] = {
            "id": "foreign",
            "name": f"snapshot for antipode {RUN_ID} id-db",
            "volume_id": "db-data",
            "status": "available",
            "metadata": {},
        }

    scene.before("snapshot db-data", somebody_makes_one_of_the_same_name)
    captured = scene.capture()
    assert "foreign" not in captured.snapshots.values()
    assert {scene.cloud.snapshots[s]["volume_id"] for s in captured.snapshots.values()} == {
        "db-root",
        "db-data",
    }


def test_a_capture_tells_the_moment_and_the_freeze_of_each_member() -> None:
    scene = Scene()
    captured = scene.capture_all()
    assert captured.consistency == "member"
    assert captured.window is not None
    assert set(captured.window.per_member_s) == set(captured.moments) == set(ROLES)
    moments = {s: datetime.fromisoformat(at) for s, at in captured.moments.items()}
    assert moments["app"] < moments["front"] < moments["db"]
    assert captured.consistent_at == captured.moments["app"]
    shown = {r: f for (n, r), f in scene.timeline.facts.items() if n == "2.2"}
    assert {r: f["frozen_s"] for r, f in shown.items()} == captured.window.per_member_s


def test_the_image_carries_the_run_in_its_name_and_its_properties() -> None:
    scene = Scene()
    scene.capture()
    (image,) = scene.cloud.images.values()
    assert image["name"] == f"antipode {RUN_ID} id-db"
    assert image[RUN] == RUN_ID


# ---- the pace ----


def test_a_member_that_does_not_answer_afterwards_stops_the_rest_and_is_named() -> None:
    scene = Scene()
    scene.vnf = vnf(app=Answers(command=["false"], within=0.05))
    with pytest.raises(ResourceFailed, match=r"server app.*front, db"):
        scene.capture_all()
    assert [e for e in scene.cloud.events if e.startswith("image ")] == ["image app"]
    scene.expect_nothing_left()


def test_the_last_member_is_not_waited_for() -> None:
    scene = Scene()
    scene.vnf = vnf(db=Answers(command=["false"], within=0.05))
    scene.capture_all()


def test_a_member_that_answers_is_asked_before_the_next_is_frozen() -> None:
    scene = Scene()
    scene.vnf = vnf(app=Answers(command=["true"]), front=Answers(command=["true"]))
    scene.capture_all()
    asked = [s for s in scene.timeline.steps if s[1] == "await answer of captured member"]
    assert [s[2] for s in asked] == ["app", "front"]


def test_a_member_that_does_not_answer_beforehand_keeps_all_from_being_frozen() -> None:
    scene = Scene()
    silent = Answers(command=["false"], within=0.05)
    scene.vnf = vnf(db=silent, app=Answers(command=["true"]))
    (problem,) = OPTION.check(scene.protecting, scene.topology)
    assert "server db" in problem


def test_a_member_that_is_off_or_the_only_one_is_not_asked_beforehand() -> None:
    scene = Scene()
    silent = Answers(command=["false"], within=0.05)
    scene.vnf = vnf(db=silent)
    scene.cloud.servers["id-db"]["status"] = "SHUTOFF"
    assert not list(OPTION.check(scene.protecting, scene.topology))
    scene.cloud.servers["id-db"]["status"] = "ACTIVE"
    scene.vnf = scene.vnf.model_copy(update={"members": scene.vnf.members[:1]})
    assert not list(OPTION.check(scene.protecting, scene.topology))


def awaits_turn(scene: Scene, name: str) -> None:
    OPTION.await_turn(scene.protecting, scene.topology, [name])


def test_no_member_is_frozen_while_another_one_does_not_answer_any_more() -> None:
    scene = Scene()
    silent = Answers(command=["false"], within=0.05)
    scene.vnf = vnf(db=Answers(command=["true"]), app=silent)
    awaits_turn(scene, "app")  # the first: the check has seen the others
    with pytest.raises(ResourceFailed, match=r"server app.*front is left alone"):
        awaits_turn(scene, "front")
    scene.cloud.servers["id-app"]["status"] = "SHUTOFF"
    awaits_turn(scene, "front")


def test_a_member_that_is_to_be_captured_needs_not_answer_before() -> None:
    scene = Scene()
    scene.vnf = vnf(db=Answers(command=["false"], within=0.05))
    awaits_turn(scene, "db")


def test_the_vnf_is_left_alone_for_the_pause_of_a_member() -> None:
    scene = Scene()
    members = [m.model_copy(update={"pause": 0.2}) for m in scene.vnf.members]
    scene.vnf = scene.vnf.model_copy(update={"members": members})
    moments = [datetime.fromisoformat(at) for at in scene.capture_all().moments.values()]
    assert all((b - a).total_seconds() >= 0.2 for a, b in itertools.pairwise(moments))


def test_a_run_that_must_stop_stops_in_a_pause() -> None:
    scene = Scene()
    members = [m.model_copy(update={"pause": 600.0}) for m in scene.vnf.members]
    scene.vnf = scene.vnf.model_copy(update={"members": members})
    must_stop = parts.protecting(
        scene.cloud,
        scene.vnf,
        RUN_ID,
        settings=Settings(),
        ledger=scene.ledger,
        go_on=raising(ResourceFailed("stop")),
    )
    batch = scene.topology.model_copy(update={"servers": [scene.topology.server("app")]})
    with pytest.raises(ResourceFailed, match="stop"):
        OPTION.capture(must_stop, batch)


# ---- whether Nova really quiesced ----


def without_demand(cloud: FakeCloud) -> FakeCloud:
    for volume in cloud.volumes.values():
        volume["volume_image_metadata"].pop("os_require_quiesce", None)
    return cloud


def test_a_member_that_need_not_be_quiesced_is_no_more_than_volume_consistent() -> None:
    scene = Scene(without_demand(FakeCloud()), required=False)
    captured = scene.capture()
    assert (captured.consistency, captured.window) == ("volume", None)
    scene.expect_nothing_left()


def test_a_demand_that_was_made_after_the_boot_is_no_demand() -> None:
    class Late(FakeCloud):
        def _create_image(self, server: str, name: str, metadata: Any) -> str:
            image = super()._create_image(server, name, metadata)
            del self.images[image]["os_require_quiesce"]
            return image

    scene = Scene(Late())
    with pytest.raises(QuiesceFailed, match="os_require_quiesce"):
        scene.capture()
    scene.expect_nothing_left()


def test_an_image_that_demands_no_quiesce_is_a_problem_unless_the_vnf_file_accepts_it() -> None:
    cloud = without_demand(FakeCloud())
    assert problems(Scene(cloud)) == ["os_require_quiesce"] * 3
    assert problems(Scene(cloud, required=False)) == []
    accepted = Scene(cloud, required=False)
    assert any("volume" in w for w in OPTION.warnings(accepted.protecting, accepted.topology))


def problems(scene: Scene) -> list[str]:
    found = OPTION.check(scene.protecting, scene.topology)
    return ["os_require_quiesce" if "os_require_quiesce" in f else f for f in found]


# ---- what goes wrong ----


def test_an_agent_that_is_dead_and_required_is_a_refusal_that_leaves_nothing() -> None:
    scene = Scene()
    scene.before("freeze db", refusing(409))
    with pytest.raises(QuiesceFailed, match="server db"):
        scene.capture()
    scene.expect_nothing_left()


def test_no_call_waits_for_its_turn_while_a_member_may_be_frozen() -> None:
    class Rated(Unlimited):
        def wait(self) -> None:
            assert not scene.cloud.all_frozen

    scene = Scene()
    scene.cloud.looks_until_available = 3
    quick = scene.protecting
    batch = scene.topology.model_copy(update={"servers": [scene.topology.server("db")]})
    OPTION.capture(replace(quick, site=quick.site.under(lambda: None, Rated())), batch)
    scene.expect_nothing_left()


def test_a_call_that_hangs_before_it_freezes_ends_with_an_unquiesce() -> None:
    scene = Scene()
    scene.before("freeze db", raising(SiteUnreachable("no answer")))
    with pytest.raises(SiteUnreachable):
        scene.capture()
    assert scene.cloud.events[-1] == "unquiesce db"
    scene.expect_nothing_left()


def test_a_call_that_hangs_after_it_has_frozen_ends_with_an_unquiesce() -> None:
    scene = Scene()
    scene.before("snapshot db-data", raising(SiteUnreachable("no answer")))
    with pytest.raises(SiteUnreachable):
        scene.capture()
    scene.expect_nothing_left()


def test_snapshots_that_stay_creating_end_with_an_unquiesce_within_the_timeout() -> None:
    scene = Scene(timeout=0.3)
    scene.cloud.looks_until_available = NEVER
    began = time.monotonic()
    with pytest.raises(ResourceFailed):
        scene.capture()
    assert time.monotonic() - began < 30
    assert not scene.cloud.all_frozen
    assert not scene.ledger.open
    for snapshot in scene.cloud.snapshots.values():
        snapshot["looks"] = 1
    scene.expect_nothing_left()


def test_a_snapshot_that_fails_ends_with_an_unquiesce() -> None:
    class Failing(FakeCloud):
        def _snapshot_of(self, wanted: Any) -> str:
            snapshot = super()._snapshot_of(wanted)
            self.snapshots[snapshot]["becomes"] = "error"
            return snapshot

    scene = Scene(Failing())
    with pytest.raises(ResourceFailed):
        scene.capture()
    scene.expect_nothing_left()


def test_a_quota_that_is_short_for_all_snapshots_leaves_nothing() -> None:
    scene = Scene()
    scene.before("freeze db", refusing(403))
    with pytest.raises(ResourceFailed):
        scene.capture()
    assert not scene.cloud.snapshots
    scene.expect_nothing_left()


def test_a_quota_that_is_short_for_the_second_snapshot_leaves_a_first_that_is_removed() -> None:
    scene = Scene()
    scene.before("snapshot db-data", refusing(403))
    with pytest.raises(ResourceFailed):
        scene.capture()
    assert len(scene.cloud.snapshots) == 1
    scene.expect_nothing_left()


class FullGlance(FakeCloud):
    """Glance takes no image, when the snapshots are made already."""

    def _create_image(self, server: str, name: str, metadata: Any) -> str:
        del self.images[super()._create_image(server, name, metadata)]
        return str(refuse(500, "the store of images is full"))


def test_a_glance_that_takes_no_image_leaves_snapshots_that_are_removed() -> None:
    scene = Scene(FullGlance())
    with pytest.raises(ResourceFailed):
        scene.capture()
    assert len(scene.cloud.snapshots) == 2
    scene.expect_nothing_left()


class GoneImage(FakeCloud):
    """Somebody deletes each image as soon as it is made."""

    def _create_image(self, server: str, name: str, metadata: Any) -> str:
        image = super()._create_image(server, name, metadata)
        del self.images[image]
        return image


def test_an_image_that_somebody_deletes_before_it_was_read_is_told_and_its_snapshots_removed() -> (
    None
):
    scene = Scene(GoneImage())
    with pytest.raises(ResourceFailed, match="image-"):
        scene.capture()
    scene.expect_nothing_left()


class UnreadableImage(FakeCloud):
    """An image whose mapping says nothing."""

    def _create_image(self, server: str, name: str, metadata: Any) -> str:
        image = super()._create_image(server, name, metadata)
        self.images[image]["block_device_mapping"] = "{"
        return image


def test_an_image_whose_mapping_cannot_be_read_ends_with_an_unquiesce() -> None:
    scene = Scene(UnreadableImage())
    with pytest.raises(AntipodeError, match="block_device_mapping"):
        scene.capture()
    scene.expect_nothing_left()


def test_a_glance_that_is_down_is_found_before_anything_is_frozen() -> None:
    scene = Scene()
    assert scene.cloud.site._image is not None
    scene.cloud.site._image._send = raising_transport(SiteUnreachable("glance is down"))
    assert any("glance is down" in p for p in OPTION.check(scene.protecting, scene.topology))


def test_a_limit_of_glance_that_leaves_less_than_an_image_per_member_is_found_beforehand() -> None:
    scene = Scene()
    scene.cloud.image_limits = {"image_count_total": {"limit": 10, "usage": 8}}
    (problem,) = OPTION.check(scene.protecting, scene.topology)
    assert "image_count_total" in problem
    scene.cloud.image_limits = {"image_count_total": {"limit": 11, "usage": 8}}
    assert not list(OPTION.check(scene.protecting, scene.topology))


def test_a_glance_that_is_down_keeps_no_snapshot_from_being_removed() -> None:
    scene = Scene()
    scene.capture()
    assert scene.cloud.site._image is not None
    scene.cloud.site._image._send = raising_transport(SiteUnreachable("glance is down"))
    with pytest.raises(SiteUnreachable):
        scene.release()
    assert not scene.cloud.snapshots


def raising_transport(error: BaseException) -> Any:
    def send(*_: Any, **__: Any) -> Any:
        raise error

    return send


def test_a_member_that_was_deleted_or_is_being_resized_is_not_captured() -> None:
    for status, kind in ((404, ResourceFailed), (409, QuiesceFailed)):
        scene = Scene()
        scene.before("freeze db", refusing(status))
        with pytest.raises(kind, match="server db"):
            scene.capture()
        scene.expect_nothing_left()


def test_a_member_that_was_switched_off_in_between_is_not_taken_for_quiesced() -> None:
    scene = Scene()

    def switched_off() -> None:
        scene.cloud.servers["id-db"]["status"] = "SHUTOFF"

    scene.before("snapshot db-root", switched_off)
    with pytest.raises(ResourceFailed, match="SHUTOFF"):
        scene.capture()
    scene.expect_nothing_left()


@pytest.mark.parametrize("status", ["ACTIVE", "SHUTOFF"])
def test_a_member_that_was_resized_after_the_discovery_is_no_part_of_a_point(status: str) -> None:
    scene = Scene()
    db = scene.cloud.servers["id-db"]
    db |= {"status": status, "updated": "2026-01-01T00:00:00Z"}
    batch = scene.topology.model_copy(update={"servers": [scene.topology.server("db")]})
    db["flavor"] = {**db["flavor"], "original_name": "large", "vcpus": 4}
    with pytest.raises(ResourceFailed, match=r"resized.*small.*large"):
        OPTION.capture(scene.protecting, batch)
    scene.expect_nothing_left()


def test_a_volume_that_was_attached_after_the_discovery_breaks_the_capture() -> None:
    scene = Scene()
    topology = scene.topology
    known = topology.server("db")
    fewer = known.model_copy(update={"attachments": known.attachments[:1]})
    with pytest.raises(ResourceFailed, match="db-data"):
        OPTION.capture(scene.protecting, topology.model_copy(update={"servers": [fewer]}))
    scene.expect_nothing_left()


def test_a_member_that_somebody_has_quiesced_is_left_to_them() -> None:
    scene = Scene()
    scene.cloud.frozen.add("id-db")
    with pytest.raises(QuiesceFailed, match="server db"):
        scene.capture()
    assert scene.cloud.frozen == {"id-db"}
    assert not scene.ledger.open


def test_a_member_that_somebody_quiesces_in_between_is_left_to_them() -> None:
    class Quiesced(FakeCloud):
        def _create_image(self, server: str, name: str, metadata: Any) -> str:
            self.frozen.add(server)
            return super()._create_image(server, name, metadata)

    scene = Scene(Quiesced())
    with pytest.raises(QuiesceFailed):
        scene.capture()
    assert scene.cloud.frozen == {"id-db"}


def test_a_member_of_which_somebody_makes_an_image_is_not_captured_meanwhile() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.cloud._create_image("id-db", "theirs", {})
    with pytest.raises(ResourceFailed, match="snapshot-1"):
        scene.capture()
    assert "id-db" in scene.cloud.all_frozen, "their freeze is not ended by us"
    assert any("snapshot-1" in p for p in problems(scene))


@pytest.mark.parametrize("moment", ["snapshot db-root", "snapshot db-data", "image db"])
def test_a_member_that_somebody_unquiesces_in_between_is_not_taken_for_quiesced(
    moment: str,
) -> None:
    scene = Scene()
    scene.before(moment, lambda: scene.cloud.site.compute.unquiesce("id-db", 1.0))
    with pytest.raises(ResourceFailed):
        scene.capture()
    assert not scene.cloud.all_frozen
    assert not scene.ledger.open


def test_an_unquiesce_that_never_succeeds_is_an_error_and_stays_on_the_ledger() -> None:
    scene = Scene(timeout=0.3)
    scene.before("unquiesce db", refusing(500))
    with pytest.raises(QuiesceFailed, match="server db"):
        scene.capture()
    assert scene.ledger.open == ["db"]


def test_an_unquiesce_that_fails_is_tried_again() -> None:
    scene = Scene()
    left = iter([None])

    def fails_once() -> None:
        if next(left, 1) is None:
            refuse(500, "no")

    scene.before("unquiesce db", fails_once)
    scene.capture()
    scene.expect_nothing_left()


def frozen_by_an_agent_that_vanished(scene: Scene, status: int, reason: str) -> None:
    """The agent takes the freeze and dies: createImage and each unquiesce are refused."""

    def takes_it_and_dies() -> None:
        scene.cloud.frozen_for_images["id-db"] = []
        scene.cloud.before = lambda event: refuse(409, DOWN) if event == "unquiesce db" else None
        refuse(status, reason)

    scene.before("freeze db", takes_it_and_dies)


DOWN = "Guest agent is not responding: QEMU guest agent is not connected"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (409, "Guest agent is not responding: Guest agent disappeared while executing command"),
        (409, "no"),
        (400, "Invalid volume: status must be available"),
        (403, "VolumeSizeExceedsAvailableQuota"),
    ],
)
def test_a_member_whose_agent_vanished_in_the_freeze_stays_on_the_ledger(
    status: int, reason: str
) -> None:
    scene = Scene(timeout=0.3)
    frozen_by_an_agent_that_vanished(scene, status, reason)
    with pytest.raises(QuiesceFailed, match=r"server db.*may still be frozen"):
        scene.capture()
    assert scene.ledger.open == ["db"]


def test_a_member_whose_agent_comes_back_is_unquiesced_after_a_conflict() -> None:
    scene = Scene()
    refusals = iter(range(3))

    def takes_it_and_dies() -> None:
        scene.cloud.frozen_for_images["id-db"] = []
        scene.cloud.before = until_it_is_back
        refuse(409, "Guest agent is not responding: Guest agent disappeared")

    def until_it_is_back(event: str) -> None:
        if event == "unquiesce db" and next(refusals, None) is not None:
            refuse(409, DOWN)

    scene.before("freeze db", takes_it_and_dies)
    with pytest.raises(QuiesceFailed, match="could not be captured"):
        scene.capture()
    scene.expect_nothing_left()


@pytest.mark.parametrize(
    "reason",
    [
        DOWN,
        "Cannot 'createImage' instance id-db while it is in task_state rebooting",
        "Cannot 'createImage' instance id-db while it is in vm_state resized",
        "Instance id-db is locked",
    ],
)
def test_a_refusal_that_came_before_the_freeze_leaves_nothing_on_the_ledger(reason: str) -> None:
    scene = Scene()

    def refuses(event: str) -> None:
        if event in ("freeze db", "unquiesce db"):
            refuse(409, reason)

    scene.cloud.before = refuses
    with pytest.raises(QuiesceFailed, match="could not be captured"):
        scene.capture()
    scene.expect_nothing_left()


def test_a_server_that_nova_cannot_freeze_is_not_taken_for_frozen() -> None:
    scene = Scene()

    def refuses(event: str) -> None:
        if event == "freeze db":
            refuse(400, "no")
        if event == "unquiesce db":
            refuse(409, "QEMU guest agent is not enabled")

    scene.cloud.before = refuses
    with pytest.raises(ResourceFailed):
        scene.capture()
    scene.expect_nothing_left()


def test_a_ledger_that_cannot_be_written_freezes_no_member() -> None:
    scene = Scene()

    def full(_: str) -> None:
        raise OSError("disk full")

    scene.ledger.may_write = full
    with pytest.raises(OSError, match="disk full"):
        scene.capture()
    assert not [e for e in scene.cloud.events if e.startswith("image")]


def test_a_signal_ends_the_capture_after_an_unquiesce() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.before("snapshot db-data", lambda: os.kill(os.getpid(), signal.SIGTERM))
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            scene.capture()
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert not scene.cloud.all_frozen
    assert not scene.ledger.open


class Late(FakeCloud):
    """A createImage of the run's dead process comes through just before each of the next."""

    late = 1

    def _create_image(self, server: str, name: str, metadata: Any) -> str:
        while self.late > 0:
            self.late -= 1
            self._create_image(server, name, metadata)
        return super()._create_image(server, name, metadata)


def test_a_late_request_of_a_dead_process_of_the_run_is_undone_and_the_capture_made() -> None:
    scene = Scene(Late())
    captured = scene.capture()
    assert set(captured.snapshots.values()) == set(scene.cloud.snapshots)
    assert len(scene.cloud.images) == 1
    scene.expect_nothing_left()


# ---- without the add-on ----


def test_without_the_add_on_the_deadline_ends_the_run_and_the_operator_is_warned() -> None:
    scene = Scene(timeout=0.3)
    scene.cloud.add_on = False
    assert any("add-on" in w for w in OPTION.warnings(scene.protecting, scene.topology))
    scene.cloud.looks_until_available = NEVER
    with pytest.raises(ResourceFailed, match="--state error"):
        scene.capture()
    assert not scene.ledger.open, "nobody could end that freeze"


def test_without_the_add_on_a_member_is_captured_and_its_freeze_is_not_known() -> None:
    scene = Scene()
    scene.cloud.add_on = False
    captured = scene.capture()
    assert (captured.consistency, captured.window) == ("member", None)
    assert "unquiesce db" not in scene.cloud.events
    scene.expect_nothing_left()


def test_with_the_add_on_and_probes_there_is_no_warning() -> None:
    scene = Scene()
    scene.vnf = vnf(app=Answers(command=["true"]), front=Answers(command=["true"]))
    assert list(OPTION.warnings(scene.protecting, scene.topology)) == []
    assert problems(scene) == []


def test_members_without_a_probe_are_named_but_for_the_last_and_those_that_are_off() -> None:
    scene = Scene()
    scene.vnf = vnf(db=Answers(command=["true"]))
    (warning,) = OPTION.warnings(scene.protecting, scene.topology)
    assert "app, front" in warning
    scene.cloud.servers["id-app"]["status"] = "SHUTOFF"
    scene.vnf = vnf()
    (warning,) = OPTION.warnings(scene.protecting, scene.topology)
    assert "front: no" in warning
    assert "app" not in warning
    assert "db" not in warning


# ---- what is left behind ----


def test_a_second_try_of_a_run_removes_what_the_first_has_made_of_the_member() -> None:
    scene = Scene()
    first = scene.capture("app"), scene.capture("db")
    again = scene.capture("db")
    assert not set(first[1].snapshots.values()) & set(again.snapshots.values())
    there = set(scene.cloud.snapshots)
    assert there == {*first[0].snapshots.values(), *again.snapshots.values()}
    scene.expect_nothing_left()


def test_an_image_that_is_gone_already_and_snapshots_that_are_gone_already_are_fine() -> None:
    for gone in ("images", "snapshots"):
        scene = Scene()
        scene.capture()
        getattr(scene.cloud, gone).clear()
        scene.expect_nothing_left()


def test_orphans_are_found_by_their_run_and_nothing_else_is_touched() -> None:
    scene = Scene()
    scene.capture()
    cloud = scene.cloud
    ours = next(iter(cloud.images.values()))
    theirs = {
        # of a server that somebody has booted from our image: it inherits our properties
        "inherited": {**ours, "id": "inherited", "name": "backup of my server"},
        # named like ours
        "named": {"id": "named", "name": ours["name"], "status": "active", "owner": ours["owner"]},
        "other-run": {
            **ours,
            "id": "other-run",
            "name": "antipode protect-2 id-db",
            RUN: "protect-2",
        },
    }
    cloud.images |= theirs
    foreign = {
        "id": "s",
        "volume_id": "db-data",
        "status": "available",
        "metadata": {},
        "name": f"snapshot for {ours['name']} of mine",
    }
    cloud.snapshots["s"] = foreign
    OPTION.remove_orphans(cloud.site, {RUN_ID, "protect-3"}, scene.timeline)
    assert set(cloud.images) == set(theirs)
    assert set(cloud.snapshots) == {"s"}


def test_snapshots_of_a_try_without_an_image_are_found_whatever_the_language_of_nova() -> None:
    scene = Scene(FullGlance())
    with pytest.raises(ResourceFailed):
        scene.capture()
    for snapshot in scene.cloud.snapshots.values():
        name = snapshot["name"].removeprefix("snapshot for ")
        snapshot["name"] = f"Instantané pour {name}"
    scene.expect_nothing_left()


def test_a_member_that_a_late_request_of_a_dead_run_has_frozen_is_unquiesced_with_its_orphans() -> (
    None
):
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.cloud._create_image("id-db", f"antipode {RUN_ID} id-db", {RUN: RUN_ID})
    assert scene.cloud.all_frozen == {"id-db"}
    with pytest.raises(ResourceFailed):
        OPTION.remove_orphans(scene.cloud.site, {RUN_ID}, scene.timeline)
    assert not scene.cloud.all_frozen
    for snapshot in scene.cloud.snapshots.values():
        snapshot["looks"] = 1
    scene.expect_nothing_left()


def test_a_member_of_which_somebody_makes_an_image_is_not_unquiesced_by_a_removal() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.cloud._create_image("id-db", "theirs", {})
    OPTION.remove_orphans(scene.cloud.site, {RUN_ID}, scene.timeline)
    assert scene.cloud.all_frozen == {"id-db"}


def servers(*names: str) -> Iterator[Server]:
    topology = Scene().topology
    yield from (topology.server(n) for n in names)


def test_snapshots_of_the_run_itself_do_not_keep_it_from_being_resumed() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = NEVER
    scene.cloud._create_image("id-db", f"antipode {RUN_ID} id-db", {})
    assert checks.snapshots_under_way(scene.cloud.site, list(servers("db")), RUN_ID) == []
    assert len(checks.snapshots_under_way(scene.cloud.site, list(servers("db")), "another")) == 2
