# SPDX-License-Identifier: Apache-2.0
"""The quiesce window: nothing stays quiesced, and nothing is snapshot before all are quiesced."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from antipode.cloud.compute import Freeze
from antipode.errors import (
    PreflightFailed,
    QuiesceFailed,
    ResourceFailed,
    SiteUnreachable,
    UnexpectedAnswer,
)
from antipode.freezes.unquiesce import one_after_another
from antipode.model.capture import Capture
from antipode.model.marks import marks
from antipode.model.topology import Topology
from antipode.model.vnf import Member, Vnf
from antipode.protect.quiesced_snapshot import window
from antipode.protect.quiesced_snapshot.settings import Quiesce
from antipode.protect.quiesced_snapshot.window import quiesced_snapshots
from antipode.topology.discovery import discover
from tests.unit.fakecloud import FakeCloud, FakeLedger, FakeTimeline, refuse

VNF = Vnf(
    vnf="v",
    primary="site-a",
    backup=["site-b"],
    members=[Member(server=s) for s in ("db", "app", "front")],
)
FAILS_WITHIN_S = 2.0
"""The time of a window in which thaws never succeed: it lasts so long, and all must have been
frozen by then.
"""
VOLUMES = {f"{s}-{k}" for s in ("db", "app", "front") for k in ("root", "data")}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "POLL_S", 0.01)
    monkeypatch.setattr(window, "THAW_PAUSE_S", 0.01)
    monkeypatch.setattr(window, "THAW_LONGEST_S", 0.3)


class Scene:
    def __init__(self, cloud: Callable[..., Any] = FakeCloud, **options: object) -> None:
        self.cloud = cloud(**options)
        self.ledger = FakeLedger()
        self.timeline = FakeTimeline()
        self.topology: Topology = discover(VNF, self.cloud.site)

    def run(self, timeout: float = 60.0) -> Capture:
        return quiesced_snapshots(
            self.cloud.site,
            self.topology,
            Quiesce(timeout=timeout),
            marks("run", "key"),
            self.ledger,
            self.timeline,
        )

    def of(self, action: str) -> list[str]:
        return [
            e.removeprefix(f"{action} ") for e in self.cloud.events if e.startswith(f"{action} ")
        ]

    def fail(self, event: str, how: Callable[[], object], times: int = 10**9) -> None:
        left = iter(range(times))

        def before(happening: str) -> None:
            if happening == event and next(left, None) is not None:
                how()

        self.cloud.before = before


def test_members_are_frozen_in_order_all_volumes_snapshot_and_members_thawed_in_reverse_order() -> (
    None
):
    scene = Scene()
    result = scene.run()
    assert scene.cloud.events[:3] == ["quiesce db", "quiesce app", "quiesce front"]
    assert scene.cloud.events[-3:] == ["unquiesce front", "unquiesce app", "unquiesce db"]
    assert set(scene.of("snapshot")) == set(result.snapshots) == VOLUMES
    assert all(scene.cloud.snapshots[s]["status"] == "available" for s in result.snapshots.values())
    assert result.consistency == "application"
    assert result.window is not None
    assert set(result.window.per_member_s) == {"db", "app", "front"}
    assert (
        result.window.total_s
        == result.window.per_member_s["db"]
        >= result.window.per_member_s["front"]
    )
    assert not scene.ledger.open
    assert [s[:2] for s in scene.timeline.steps if s[0] in ("1.2", "1.3", "1.4")] == [
        *[("1.2", "quiesce")] * 3,
        ("1.3", "snapshot all volumes"),
        *[("1.4", "unquiesce")] * 3,
    ]


def test_snapshots_begin_after_the_last_freeze_and_end_before_the_first_thaw() -> None:
    scene = Scene()

    def look(event: str) -> None:
        if event.startswith("snapshot"):
            assert len(scene.cloud.frozen) == 3
        if event == "unquiesce front":
            assert {s["status"] for s in scene.cloud.snapshots.values()} == {"available"}
            assert len(scene.cloud.snapshots) == len(VOLUMES)

    scene.cloud.before = look
    scene.run()


def test_every_member_is_on_the_ledger_before_the_first_is_frozen() -> None:
    scene = Scene()

    def look(event: str) -> None:
        if event.startswith(("quiesce", "unquiesce")):
            assert scene.ledger.open == ["db", "app", "front"]

    scene.cloud.before = look
    scene.run()
    assert not scene.ledger.open


def switched_off(*members: str) -> Scene:
    """A scene in which members are off."""
    scene = Scene()
    for member in members:
        scene.cloud.servers[f"id-{member}"] |= {"status": "SHUTOFF", "updated": "yesterday"}
    scene.topology = discover(VNF, scene.cloud.site)
    return scene


def test_a_member_that_is_off_is_not_quiesced_and_its_volumes_are_snapshotted() -> None:
    scene = switched_off("app")
    result = scene.run()
    assert scene.of("quiesce") == ["db", "front"]
    assert scene.of("unquiesce") == ["front", "db"]
    assert set(result.snapshots) == VOLUMES
    assert result.window is not None
    assert set(result.window.per_member_s) == {"db", "front"}
    assert not scene.ledger.open


def test_a_vnf_that_is_off_is_snapshotted_without_the_add_on() -> None:
    scene = switched_off("db", "app", "front")
    scene.cloud.add_on = False
    result = scene.run()
    assert set(result.snapshots) == VOLUMES
    assert (scene.of("quiesce"), scene.ledger.deadlines) == ([], [])
    assert result.window is None


@pytest.mark.parametrize("event", ["quiesce front", "snapshot db-root"])
@pytest.mark.parametrize(
    "change", [{"status": "ACTIVE"}, {"status": "SHUTOFF", "updated": "just now"}]
)
def test_a_member_that_was_off_and_is_started_meanwhile_fails_the_window(
    event: str, change: dict[str, str]
) -> None:
    scene = switched_off("app")
    scene.fail(event, lambda: scene.cloud.servers["id-app"].update(change), times=1)
    if (event, change["status"]) == ("quiesce front", "SHUTOFF"):
        scene.run()  # before any snapshot: it is off then
        return
    with pytest.raises(ResourceFailed, match="app"):
        scene.run()
    assert scene.of("unquiesce") == ["front", "db"]
    assert not scene.ledger.open


def test_a_volume_that_comes_to_a_member_that_is_off_fails_the_window_too() -> None:
    scene = switched_off("app")
    scene.fail("quiesce front", lambda: attach(scene.cloud, "id-app", "new"), times=1)
    with pytest.raises(ResourceFailed, match="new"):
        scene.run()


def attach(cloud: FakeCloud, server: str, volume: str) -> None:
    cloud.attachments[server].append({"volumeId": volume, "device": "/dev/vdc"})


def detach(cloud: FakeCloud, server: str, volume: str) -> None:
    cloud.attachments[server] = [a for a in cloud.attachments[server] if a["volumeId"] != volume]


@pytest.mark.parametrize("when", ["before the window", "while the first is frozen"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ([(attach, "id-app", "new")], ["app", "new"]),
        ([(detach, "id-app", "app-data")], ["app", "app-data"]),
        (
            [(detach, "id-db", "db-data"), (attach, "id-db", "new")],
            ["db", "db-data", "new"],
        ),
        (
            [
                (detach, "id-db", "db-data"),
                (attach, "id-front", "db-data"),
            ],
            ["db", "front", "db-data"],
        ),
    ],
    ids=["attached", "detached", "swapped", "moved"],
)
def test_a_volume_that_came_or_went_since_the_discovery_fails_the_window(
    when: str, changes: list[Any], named: list[str]
) -> None:
    scene = Scene()

    def change() -> None:
        for do, server, volume in changes:
            do(scene.cloud, server, volume)

    if when == "before the window":
        change()
    else:
        scene.fail("quiesce app", change, times=1)
    with pytest.raises(ResourceFailed) as failure:
        scene.run()
    assert all(name in str(failure.value) for name in named)
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_attachments_that_cannot_be_read_fail_the_window_and_all_are_thawed() -> None:
    scene = Scene()
    scene.fail("quiesce app", lambda: attach(scene.cloud, "id-app", ""), times=1)
    with pytest.raises(UnexpectedAnswer):
        scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_an_older_cinder_is_asked_for_snapshots_with_force_and_a_newer_one_without() -> None:
    for cinder, force in (((3, 65), True), ((3, 66), None)):
        scene = Scene(cinder=cinder)
        scene.run()
        assert {s.get("force") for s in scene.cloud.snapshots.values()} == {force}


HOWS: dict[str, Callable[[], object]] = {
    "refused": lambda: refuse(409, "no agent"),
    "server error": lambda: refuse(500, "broken"),
    "no answer": lambda: _raise(SiteUnreachable("no answer")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "bug": lambda: _raise(ZeroDivisionError("a bug")),
}


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "event",
    ["quiesce db", "quiesce app", "quiesce front", "snapshot db-root", "snapshot front-data"],
)
def test_whatever_call_fails_and_however_all_members_are_thawed_in_reverse_order(
    event: str, how: str
) -> None:
    scene = Scene()
    scene.fail(event, HOWS[how])
    with pytest.raises((QuiesceFailed, ResourceFailed, KeyboardInterrupt, ZeroDivisionError)):
        scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open
    thawed = scene.of("unquiesce")
    assert thawed == [m for m in ("front", "app", "db") if m in thawed]
    assert set(scene.of("quiesce")) <= set(thawed)
    if event.startswith("quiesce"):
        assert not scene.of("snapshot")


def test_a_member_whose_quiesce_call_got_no_answer_is_thawed_too() -> None:
    scene = Scene()

    def frozen_but_silent(event: str) -> None:
        if event == "quiesce app":
            scene.cloud.frozen.add("id-app")
            raise SiteUnreachable("time-out")

    scene.cloud.before = frozen_but_silent
    with pytest.raises(QuiesceFailed, match=r"app.*time-out"):
        scene.run()
    assert not scene.cloud.frozen
    assert scene.of("unquiesce") == ["app", "db"]


def test_a_member_that_another_run_has_frozen_is_left_to_that_run_and_nobody_is_frozen() -> None:
    scene = Scene()
    scene.cloud.frozen.add("id-app")
    with pytest.raises(QuiesceFailed, match="app"):
        scene.run()
    assert scene.cloud.frozen == {"id-app"}
    assert not scene.cloud.events
    assert not scene.ledger.open


def test_a_quiesce_that_is_delivered_twice_is_known_for_ours_and_thawed_though_it_was_refused() -> (
    None
):
    """A proxy that sends a request again gets 409 for it: the first one has frozen the member."""
    scene = Scene()
    scene.fail("quiesce app", lambda: scene.cloud.frozen.add("id-app"), times=1)
    with pytest.raises(QuiesceFailed, match="app"):
        scene.run()
    assert not scene.cloud.frozen
    assert scene.of("unquiesce") == ["app", "db"]
    assert not scene.ledger.open


def test_a_quiesce_whose_second_delivery_is_refused_is_thawed_as_soon_as_possible() -> None:
    scene = Scene()
    busy = iter(range(3))

    def before(event: str) -> None:
        if event == "quiesce app":
            scene.cloud.frozen.add("id-app")
        if event == "unquiesce app" and next(busy, None) is not None:
            refuse(409, "Cannot 'unquiesce' instance while it is in task_state quiescing")

    scene.cloud.before = before
    with pytest.raises(QuiesceFailed, match="app"):
        scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_a_refused_member_that_nobody_can_tell_about_is_thawed_until_that_is_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    asked = scene.cloud.site.compute.freeze_of
    looks: list[str] = []

    def silent_after_the_refusal(server: str, timeout_s: float | None = None) -> Freeze | None:
        if "id-app" in scene.cloud.frozen:
            raise SiteUnreachable("no answer")
        return asked(server, timeout_s)

    monkeypatch.setattr(scene.cloud.site.compute, "freeze_of", silent_after_the_refusal)

    def before(event: str) -> None:
        if event == "quiesce app":
            scene.cloud.frozen.add("id-app")
        if event == "unquiesce app" and len(looks) < 2:
            looks.append(event)
            refuse(409, "busy")

    scene.cloud.before = before
    with pytest.raises(QuiesceFailed, match="app"):
        scene.run()
    assert not scene.cloud.frozen


@pytest.mark.parametrize("member", ["db", "app", "front"])
@pytest.mark.parametrize("how", HOWS)
def test_a_thaw_that_fails_at_first_is_tried_again_after_all_others(member: str, how: str) -> None:
    scene = Scene()
    scene.fail(f"unquiesce {member}", HOWS[how], times=2)
    scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open
    assert scene.of("unquiesce")[-1] == (member if how else None)


def test_a_member_that_cannot_be_thawed_is_named_and_the_others_are_thawed() -> None:
    scene = Scene()
    scene.fail("unquiesce app", lambda: refuse(504, "nova-compute is silent"))
    with pytest.raises(QuiesceFailed, match=r"app \(id-app\): nova-compute is silent"):
        scene.run(timeout=FAILS_WITHIN_S)
    assert scene.cloud.frozen == {"id-app"}
    assert scene.ledger.open == ["app"]
    assert ("1.4", "app") in scene.timeline.errors


@pytest.mark.parametrize("how", ["server error", "no answer"])
def test_a_member_whose_quiesce_call_got_no_answer_may_be_frozen_though_its_thaw_is_refused(
    how: str,
) -> None:
    scene = Scene()

    def silent_agent(event: str) -> None:
        if event == "quiesce app":
            scene.cloud.frozen.add("id-app")
            HOWS[how]()
        if event == "unquiesce app":
            scene.cloud.events.append(event)
            refuse(409, "the agent does not answer")

    scene.cloud.before = silent_agent
    with pytest.raises(QuiesceFailed, match=r"app \(id-app\): the agent does not answer"):
        scene.run(timeout=FAILS_WITHIN_S)
    assert scene.of("unquiesce").count("app") > 1
    assert scene.ledger.open == ["app"]


def test_a_member_whose_quiesce_call_and_thaw_are_both_refused_was_never_frozen() -> None:
    scene = Scene()

    def no_agent(event: str) -> None:
        if event in ("quiesce app", "unquiesce app"):
            refuse(409, "no agent")

    scene.cloud.before = no_agent
    with pytest.raises(QuiesceFailed, match=r"app.*no agent"):
        scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_a_snapshot_that_goes_into_error_is_named_with_its_volume_and_all_are_thawed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()

    def becomes_error(event: str) -> None:
        for snapshot in scene.cloud.snapshots.values():
            if snapshot["volume_id"] == "app-data":
                snapshot["becomes"] = "error"

    scene.cloud.before = becomes_error
    original = scene.cloud._age

    def age(resources: dict[str, dict[str, Any]]) -> None:
        becomes_error("")
        original(resources)

    monkeypatch.setattr(scene.cloud, "_age", age)
    with pytest.raises(ResourceFailed, match=r"app-data.*error"):
        scene.run()
    assert not scene.cloud.frozen


def test_snapshots_that_are_not_ready_within_the_timeout_end_the_window() -> None:
    scene = Scene()
    scene.cloud.looks_until_available = 10**9
    with pytest.raises(ResourceFailed, match="snapshot"):
        scene.run(timeout=0.3)
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_a_member_frozen_only_after_the_timeout_is_over_is_not_snapshot() -> None:
    scene = Scene()
    hold = threading.Event()
    scene.fail("quiesce front", lambda: hold.wait(0.3))
    with pytest.raises(ResourceFailed, match="timeout"):
        scene.run(timeout=0.2)
    assert not scene.of("snapshot")
    assert not scene.cloud.frozen


def test_interrupts_again_and_again_neither_break_into_a_call_nor_keep_a_member_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    windows: list[Any] = []

    class Seen(window._Window):
        def __init__(self, *about: Any) -> None:
            super().__init__(*about)
            windows.append(self)

    monkeypatch.setattr(window, "_Window", Seen)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist has another

    def press_ctrl_c(event: str) -> None:
        if event in ("quiesce app", "unquiesce app", "unquiesce db"):
            signal.raise_signal(signal.SIGINT)
            while (
                windows[0].signal is None
            ):  # the main thread gets it while this call is on its way
                time.sleep(0.01)
            time.sleep(0.3)  # and the next ones, of which it notes nothing new

    scene.cloud.before = press_ctrl_c
    try:
        with pytest.raises(KeyboardInterrupt):
            scene.run()
    finally:
        signal.signal(signal.SIGINT, usual)
    assert scene.of("quiesce") == ["db", "app"]
    assert scene.of("unquiesce") == ["app", "db"]
    assert not scene.of("snapshot")
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_a_signal_while_the_thread_of_the_window_starts_does_not_leave_the_window_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "quiesce-window":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    scene.cloud.before = lambda event: time.sleep(0.05)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            scene.run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert scene.of("unquiesce") == scene.of("quiesce")[::-1]
    assert not scene.cloud.frozen
    assert not scene.ledger.open
    assert not [t for t in threading.enumerate() if t.name == "quiesce-window"]


def test_a_burst_of_signals_is_an_interrupt_and_nothing_else() -> None:
    scene = Scene()

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    usual = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def burst(event: str) -> None:
        for _ in range(50):
            for number in usual:
                os.kill(os.getpid(), number)

    scene.cloud.before = burst
    try:
        with pytest.raises(KeyboardInterrupt):
            scene.run()
        assert {signal.getsignal(s) for s in usual} == {interrupt}
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_nothing_is_frozen_when_the_ledger_cannot_be_written_and_nothing_is_left_on_it() -> None:
    scene = Scene()

    def full(server: str) -> None:
        if server == "front":
            raise OSError("disk full")

    scene.ledger.may_write = full
    with pytest.raises(OSError, match="disk full"):
        scene.run()
    assert not scene.cloud.events
    assert not scene.ledger.open


def test_nothing_is_frozen_without_the_add_on() -> None:
    scene = Scene()
    scene.cloud.add_on = False
    with pytest.raises(PreflightFailed, match="nova-quiesce"):
        scene.run()
    assert not scene.cloud.events


def test_snapshots_of_an_interrupted_attempt_are_removed_before_the_next() -> None:
    scene = Scene()
    scene.run()
    first = set(scene.cloud.snapshots)
    foreign = {
        "id": "foreign",
        "status": "available",
        "volume_id": "db-data",
        "metadata": {"antipode:key": "other"},
    }
    scene.cloud.snapshots["foreign"] = foreign
    scene.run()
    assert not first & set(scene.cloud.snapshots)
    assert "foreign" in scene.cloud.snapshots


def test_a_reaper_may_thaw_only_after_the_window_has_ended_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "LEDGER_GRACE_S", 60.0)
    scene = Scene()
    began: list[datetime] = []
    scene.cloud.before = lambda event: began.append(datetime.now(UTC))
    scene.run(timeout=30)
    assert all(d > began[0] + timedelta(seconds=30) for d in scene.ledger.deadlines)


def test_a_ledger_that_is_slow_to_write_shortens_the_window_instead_of_letting_a_reaper_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "LEDGER_GRACE_S", 0.1)
    scene = Scene()
    scene.ledger.may_write = lambda server: time.sleep(0.15)
    scene.cloud.looks_until_available = 8
    with pytest.raises(ResourceFailed, match="timeout"):
        scene.run(timeout=0.3)
    assert not scene.cloud.frozen


@pytest.mark.parametrize("member", ["db", "app", "front"])
def test_snapshots_during_which_somebody_thawed_a_member_do_not_count(member: str) -> None:
    """As a process does that was paused in an earlier window and wakes up in this one."""
    scene = Scene()
    scene.cloud.looks_until_available = 5

    def thaw_early(happening: str) -> None:
        if happening.startswith("snapshot"):
            scene.cloud.frozen.discard(f"id-{member}")

    scene.cloud.before = thaw_early
    with pytest.raises(ResourceFailed, match=member):
        scene.run()
    assert not scene.cloud.frozen
    assert scene.ledger.open == []


class FreezesWithIds(FakeCloud):
    """As the add-on tells them: each freeze has an id of its own."""

    def __init__(self, **options: object) -> None:
        self.freezes: dict[str, str] = {}
        super().__init__(**options)  # type: ignore[arg-type]

    def freeze_again(self, server: str) -> None:
        """Somebody thaws a server and quiesces it again."""
        self.frozen.add(server)
        self.freezes[server] = f"freeze-{next(self.ids)}"

    def _action(self, server: str, action: str) -> None:
        super()._action(server, action)
        if action == "quiesce":
            self.freeze_again(server)

    def _compute(self, method: str, path: list[str], body: Any, params: Any) -> Any:
        answer = super()._compute(method, path, body, params)
        if method == "GET" and path[2:] == ["os-quiesce"] and answer["quiesce"]["quiesced"]:
            answer["quiesce"] |= {
                "id": self.freezes[path[1]],
                "state": self.freezes.get(f"state of {path[1]}", "quiesced"),
            }
        return answer


@pytest.mark.parametrize("member", ["db", "app", "front"])
def test_a_thaw_and_a_new_quiesce_in_the_window_break_it_and_the_new_one_is_left_to_its_maker(
    member: str,
) -> None:
    scene = Scene(cloud=FreezesWithIds)
    scene.cloud.looks_until_available = 5

    def begin_another(happening: str) -> None:
        if happening == "snapshot db-root":
            scene.cloud.freeze_again(f"id-{member}")

    scene.cloud.before = begin_another
    with pytest.raises(ResourceFailed, match=member):
        scene.run()
    assert scene.cloud.frozen == {f"id-{member}"}
    assert member not in scene.of("unquiesce")
    assert not scene.ledger.open


@pytest.mark.parametrize("event", ["quiesce front", "snapshot db-root"])
def test_a_thaw_that_is_under_way_in_the_window_breaks_it(event: str) -> None:
    scene = Scene(cloud=FreezesWithIds)
    scene.fail(event, lambda: scene.cloud.freezes.update({"state of id-app": "unquiescing"}))
    with pytest.raises(ResourceFailed, match="app"):
        scene.run()
    assert not scene.cloud.frozen
    assert not scene.ledger.open


def test_a_member_that_is_thawed_while_the_others_are_frozen_is_noticed_before_any_snapshot() -> (
    None
):
    scene = Scene(cloud=FreezesWithIds)
    scene.fail("quiesce front", lambda: scene.cloud.frozen.discard("id-db"))
    with pytest.raises(ResourceFailed, match="db"):
        scene.run()
    assert not scene.of("snapshot")
    assert not scene.cloud.frozen


def test_a_window_of_freezes_that_stay_the_same_is_good() -> None:
    scene = Scene(cloud=FreezesWithIds)
    assert set(scene.run().snapshots) == VOLUMES
    assert not scene.cloud.frozen


def test_members_whose_thaws_get_no_answer_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A site behind a hole takes every call and answers none: each hangs for the whole of
    THAW_CALL_S.
    """
    monkeypatch.setattr(window, "HANGS_AFTER_S", 0.2)
    scene = Scene()
    all_hang = threading.Barrier(3)

    def hang(server: str, timeout_s: float) -> None:
        all_hang.wait(60)
        raise SiteUnreachable("no answer")

    monkeypatch.setattr(scene.cloud.site.compute, "unquiesce", hang)
    with pytest.raises(QuiesceFailed, match="app"):
        scene.run(timeout=FAILS_WITHIN_S)
    assert not all_hang.broken  # else the second was not begun while the first hung
    assert scene.ledger.open == ["db", "app", "front"]


def test_thaws_keep_their_order_and_one_that_hangs_keeps_the_next_waiting_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "HANGS_AFTER_S", 1.0)
    ended: list[str] = []
    others_have_ended = threading.Event()

    def thaw(
        name: str, takes: Callable[[], object] = lambda: time.sleep(0.05)
    ) -> Callable[[], str]:
        def act() -> str:
            takes()
            ended.append(name)
            if name == "db":
                others_have_ended.set()
            return name

        return act

    with ThreadPoolExecutor(4) as pool:
        thaws = [
            thaw("front"),
            thaw("cache", lambda: others_have_ended.wait(60)),
            thaw("app"),
            thaw("db", lambda: None),
        ]
        assert one_after_another(pool, thaws) == ["front", "cache", "app", "db"]
    assert ended == ["front", "app", "db", "cache"]


def test_a_look_that_hangs_keeps_no_member_from_its_unquiesce(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    hangs, thawed = threading.Event(), threading.Event()
    compute = type(scene.cloud.site.compute)

    def attached(*_: Any) -> set[str]:
        hangs.wait(60)
        return set()

    def fails(event: str) -> None:
        if event.startswith("snapshot"):
            refuse(500, "no room")
        if event == "unquiesce db":
            thawed.set()

    monkeypatch.setattr(compute, "attached_volumes", attached)
    scene.cloud.before = fails
    failing = threading.Thread(target=lambda: _swallow(scene.run))
    failing.start()
    try:
        assert thawed.wait(60)
    finally:
        hangs.set()
        failing.join(60)


def _swallow(work: Callable[[], object]) -> None:
    with pytest.raises(ResourceFailed):
        work()
