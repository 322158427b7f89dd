# SPDX-License-Identifier: Apache-2.0
"""The driver `swift` on two object storages in memory: killed before and after each change that it
makes, with several containers, with clocks that differ. What a real Swift does is in
tests/contract/test_container_sync.py.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest

from antipode.cloud import site as cloud_site
from antipode.cloud.objects import Cluster, StoredObject
from antipode.datastores import swift, swift_marker
from antipode.datastores.application import Data
from antipode.datastores.swift import KEY, REACHED, ROLE, TO, BySwift, Settings
from antipode.datastores.swift_marker import NAME, Position, Seen
from antipode.engine.deployment import Deployment
from antipode.errors import NotFound, ResourceFailed, SiteUnreachable
from antipode.model.datastore import Health, StorageAt
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf
from antipode.recover import application_data
from antipode.runs.replicating import Replicating

NAMES = ["media", "cdr"]
DATA = Data("hlr", "objects")
NOW = time.time


class Killed(BaseException):
    """The process is killed."""


class Store:
    """An object storage in memory, as far as the driver asks one."""

    def __init__(self, site: str, project: str) -> None:
        self.account = f"http://{site}/v1/AUTH_{project}"
        self.skew_s = 0.0
        self.headers: dict[str, dict[str, str]] = {}
        self.objects: dict[str, dict[str, tuple[float, bytes]]] = {}
        self.happens: Callable[[str], None] = lambda event: None
        self._site = site
        self._latest = 0.0

    def clusters(self) -> dict[Cluster, bool]:
        return {Cluster("ANTIPODE", s): s == self._site.upper() for s in ("SITE-A", "SITE-B")}

    def properties(self, container: str) -> dict[str, str]:
        count = {"x-container-object-count": str(len(self._there(container)))}
        now = datetime.fromtimestamp(NOW() + self.skew_s, UTC)
        return {**self.headers[container], **count, "date": format_datetime(now, usegmt=True)}

    def describe(self, container: str, headers: Mapping[str, str]) -> None:
        self._there(container)
        self.happens(f"describe {container}")
        self.headers[container].update(headers)
        self.happens(f"describe {container}, not answered")

    def ensure_container(self, container: str) -> None:
        if container not in self.objects:
            self.happens(f"make {container}")
            self.headers[container], self.objects[container] = {}, {}

    def put(self, container: str, name: str, data: bytes) -> None:
        there = self._there(container)
        self.happens(f"put {container}/{name}")
        self._latest = max(time.time() + self.skew_s, self._latest + 1e-4)
        if there.get(name, (0.0, b""))[0] < self._latest:
            there[name] = (round(self._latest, 5), data)
        self.happens(f"put {container}/{name}, not answered")

    def delete(self, container: str, name: str) -> None:
        self.happens(f"delete {container}/{name}")
        self._there(container).pop(name, None)

    def get(self, container: str, name: str, at_most: int | None = None) -> bytes:
        return self._object(container, name)[1][:at_most]

    def changed_at(self, container: str, name: str) -> str:
        return f"{self._object(container, name)[0]:.5f}"

    def listing(self, container: str, prefix: str = "") -> list[StoredObject]:
        return [
            StoredObject(name, len(data), hashlib.md5(data).hexdigest(), _written(at))
            for name, (at, data) in sorted(self._there(container).items())
        ]

    def send(self, other: Store) -> None:
        """What container sync does, as far as the keys are right."""
        for name, headers in self.headers.items():
            to, key = headers.get(TO, ""), headers.get(KEY, "")
            if to.endswith(f"/{name}") and key and other.headers.get(name, {}).get(KEY) == key:
                for item, version in self.objects[name].items():
                    if other.objects[name].get(item, (0.0, b""))[0] < version[0]:
                        other.objects[name][item] = version

    def _there(self, container: str) -> dict[str, tuple[float, bytes]]:
        if container not in self.objects:
            raise NotFound(container)
        return self.objects[container]

    def _object(self, container: str, name: str) -> tuple[float, bytes]:
        if name not in self._there(container):
            raise NotFound(name)
        return self.objects[container][name]


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


class Pair:
    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret"
        self.secret.write_text("0123456789abcdef")
        self.secret.chmod(0o600)
        self.stores = {"site-a": Store("site-a", "1"), "site-b": Store("site-b", "2")}
        self.a, self.b = self.stores.values()
        self.a.skew_s = -10.0  # what it has written is older than what the other writes

    def at(self, site: str, **settings: Any) -> BySwift:
        """A driver as a new process has it."""
        values = {"cloud": site, "containers": NAMES, "secret": self.secret, **settings}
        found = BySwift("objects", site, Settings.model_validate(values))
        found.__dict__["_objects"] = self.stores[site]
        return found

    def follow(self, original: str = "site-a", copy: str = "site-b") -> None:
        here, there = self.at(original), self.at(copy)
        here.create(DATA)
        there.resync(DATA, here.reference(DATA))
        here.feed(DATA, there.reference(DATA))

    def begin(self) -> str:
        self.follow()
        for name in NAMES:
            self.a.put(name, "one", b"first")
        position = self.at("site-a").point(DATA, 10)
        self.a.send(self.b)
        return position

    def kill_at(self, site: str, number: int) -> None:
        """Have the process killed at the so manieth change at a site."""
        left = iter(range(number))

        def happens(event: str) -> None:
            if next(left, None) is None:
                self.stores[site].happens = lambda event: None
                raise Killed(event)

        self.stores[site].happens = happens


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def changes(pair: Pair, site: str, do: Callable[[], object]) -> int:
    """How many changes something makes at a site."""
    seen: list[str] = []
    pair.stores[site].happens = seen.append
    do()
    pair.stores[site].happens = lambda event: None
    return len(seen)


def test_a_promotion_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    def promoted(pair: Pair) -> None:
        pair.at("site-b").promote(DATA)

    undisturbed = Pair(tmp_path)
    undisturbed.begin()
    total = changes(undisturbed, "site-b", lambda: promoted(undisturbed))
    assert total == len(NAMES) * 2 * 2
    for number in range(total):
        pair = Pair(tmp_path)
        position = pair.begin()
        pair.kill_at("site-b", number)
        with pytest.raises(Killed):
            promoted(pair)
        found = pair.at("site-b").status(DATA, position)
        assert found.health is not Health.WRITABLE or number == total - 1
        assert found.reached
        promoted(pair)
        late = pair.at("site-a").point(DATA, 10)
        pair.a.put(NAMES[0], "late", b"late")
        pair.a.send(pair.b)
        now = pair.at("site-b").status(DATA, position)
        assert (now.health, now.reached) == (Health.WRITABLE, True)
        assert "late" not in pair.b.objects[NAMES[0]]
        assert not pair.at("site-b").status(DATA, late).reached
        histories = {
            Position.of(str(pair.at("site-b").status(DATA).position)).history for _ in range(2)
        }
        assert histories != {Position.of(position).history}
        pair.at("site-b").point(DATA, 10)  # all containers have one history


def test_a_demotion_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    undisturbed = Pair(tmp_path)
    undisturbed.begin()
    total = changes(undisturbed, "site-a", lambda: undisturbed.at("site-a").demote(DATA))
    for number in range(total):
        pair = Pair(tmp_path)
        pair.begin()
        pair.kill_at("site-a", number)
        with pytest.raises(Killed):
            pair.at("site-a").demote(DATA)
        position = pair.at("site-a").demote(DATA)
        assert position is not None
        assert pair.at("site-a").status(DATA).health is Health.STOPPED
        assert pair.at("site-a").vouched(DATA, position) == position
        pair.a.send(pair.b)
        assert pair.at("site-b").has_reached(DATA, position)
        pair.at("site-a").promote(DATA)
        assert pair.at("site-a").status(DATA).health is Health.WRITABLE
        pair.a.put(NAMES[0], "two", b"second")
        pair.a.send(pair.b)
        assert "two" in pair.b.objects[NAMES[0]]


def test_a_half_promoted_copy_is_demoted_and_follows_again(pair: Pair) -> None:
    pair.begin()
    pair.kill_at("site-b", 5)  # one container is promoted
    with pytest.raises(Killed):
        pair.at("site-b").promote(DATA)
    pair.at("site-b").demote(DATA)
    assert pair.at("site-b").status(DATA).health is Health.STOPPED
    pair.a.skew_s = 10.0  # later
    pair.follow()
    later = pair.at("site-a").vouched(DATA, pair.at("site-a").point(DATA, 10))
    pair.a.send(pair.b)
    assert pair.at("site-b").status(DATA).health is Health.REPLICATING
    assert pair.at("site-b").has_reached(DATA, later)


@pytest.mark.parametrize("site", ["site-a", "site-b"])
def test_a_preparation_that_is_killed_anywhere_is_repeated(tmp_path: Path, site: str) -> None:
    total = changes(undisturbed := Pair(tmp_path), site, undisturbed.follow)
    for number in range(total):
        pair = Pair(tmp_path)
        pair.kill_at(site, number)
        with pytest.raises(Killed):
            pair.follow()
        position = pair.begin()
        found = pair.at("site-b").status(DATA, position)
        assert (found.health, found.reached) == (Health.REPLICATING, True)
        assert found.origin == pair.at("site-a").reference(DATA)


def test_an_object_that_is_missing_older_or_stray_keeps_a_position_from_being_reached(
    pair: Pair,
) -> None:
    pair.begin()
    for spoil in (
        lambda there: there.pop("one"),
        lambda there: there.update(one=(1.0, b"first")),
        lambda there: there.update(one=(there["one"][0], b"other")),
        lambda there: there.update(stray=(there["one"][0], b"stray")),
    ):
        wanted = pair.at("site-a").vouched(DATA, pair.at("site-a").point(DATA, 10))
        pair.a.send(pair.b)
        assert pair.at("site-b").has_reached(DATA, wanted)
        before = dict(pair.b.objects["cdr"])
        spoil(pair.b.objects["cdr"])
        assert not pair.at("site-b").has_reached(DATA, wanted)
        assert "differs" in pair.at("site-b").status(DATA).detail
        pair.b.objects["cdr"] = before


def test_what_is_deleted_while_a_position_is_awaited_is_not_waited_for(pair: Pair) -> None:
    pair.begin()
    pair.a.put("cdr", "two", b"second")
    position = pair.at("site-a").point(DATA, 10)
    wanted = pair.at("site-a").vouched(DATA, position)
    pair.a.delete("cdr", "two")
    pair.a.send(pair.b)
    assert not pair.at("site-b").has_reached(DATA, wanted)
    wanted = pair.at("site-a").vouched(DATA, position)
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, wanted)


def test_a_container_with_too_many_objects_is_believed_by_its_marker(pair: Pair) -> None:
    pair.begin()
    here = pair.at("site-a", compares=0)
    wanted = here.vouched(DATA, here.point(DATA, 10))
    pair.a.send(pair.b)
    pair.b.objects["cdr"].pop("one")
    assert pair.at("site-b").has_reached(DATA, wanted)


def test_a_promotion_waits_for_a_clock_that_is_behind_and_says_if_it_is_far_behind(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swift, "LOOK_S", 0.01)
    monkeypatch.setattr(swift, "CLOCKS_S", 0.05)
    pair.a.skew_s = 3600.0
    position = pair.begin()
    with pytest.raises(ResourceFailed, match="clock"):
        pair.at("site-b").promote(DATA, position)
    assert pair.at("site-b").status(DATA).health is Health.STOPPED
    pair.b.skew_s = 3601.0
    pair.at("site-b").promote(DATA, position)
    found = pair.at("site-b").status(DATA, position)
    assert (found.health, found.reached) == (Health.WRITABLE, True)


def test_a_marker_that_is_old_makes_a_copy_stopped_and_a_look_at_its_original_mends_it(
    pair: Pair,
) -> None:
    pair.a.skew_s = -400.0
    pair.begin()
    assert pair.at("site-b").status(DATA).health is Health.STOPPED
    pair.a.skew_s = 0.0
    assert pair.at("site-a").status(DATA).health is Health.WRITABLE
    pair.a.send(pair.b)
    found = pair.at("site-b").status(DATA)
    assert found.health is Health.REPLICATING
    assert found.lag_s is not None and found.lag_s < 60


def test_containers_are_sent_to_one_place_only(pair: Pair) -> None:
    pair.begin()
    with pytest.raises(ResourceFailed, match="one place"):
        pair.at("site-a").feed(DATA, "//antipode/site-c/AUTH_3")


def test_a_copy_gets_no_marker_of_its_own(pair: Pair) -> None:
    pair.begin()
    before = pair.b.objects["cdr"][NAME]
    with pytest.raises(ResourceFailed, match="no original"):
        pair.at("site-b").point(DATA, 10)
    assert pair.b.objects["cdr"][NAME] == before


@pytest.mark.parametrize("content", [b"no json", b"{}", b'{"history": "x", "origin": ""}'])
def test_an_object_that_is_no_marker_is_named_and_not_replaced(pair: Pair, content: bytes) -> None:
    pair.follow()
    pair.a.put("cdr", NAME, content)
    with pytest.raises(ResourceFailed, match="cdr"):
        pair.at("site-a").point(DATA, 10)
    assert pair.a.get("cdr", NAME) == content


@pytest.mark.parametrize("text", ["", "x", "@1", "0123456789ab@x", "0123456789ab@-1", "1:2"])
def test_what_is_no_position_is_refused(pair: Pair, text: str) -> None:
    pair.begin()
    with pytest.raises(ResourceFailed):
        pair.at("site-b").status(DATA, text)


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [(0o644, "0123456789abcdef", "chmod"), (0o600, "short", "16"), (0o600, None, "read")],
)
def test_a_secret_that_is_none_is_a_problem(
    pair: Pair, mode: int, content: str | None, said: str
) -> None:
    pair.secret.unlink()
    if content is not None:
        pair.secret.write_text(content)
        pair.secret.chmod(mode)
    assert [p for p in pair.at("site-a").problems() if said in p]


def test_a_swift_that_does_not_say_which_cluster_it_is_is_a_problem(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.a, "clusters", lambda: {Cluster("R", "A"): False})
    assert [p for p in pair.at("site-a").problems() if "current" in p]
    several = {Cluster("R", "A"): True, Cluster("S", "A"): True}
    monkeypatch.setattr(pair.a, "clusters", lambda: several)
    assert list(pair.at("site-a").problems())
    assert not list(pair.at("site-a", realm="s").problems())
    assert pair.at("site-a", realm="s").reference(DATA) == "//s/a/AUTH_1"


def test_a_driver_that_is_ready_has_logged_in(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def connect(site: str, cloud: str) -> Store:
        made.append(cloud)
        return pair.a

    monkeypatch.setattr(cloud_site, "connect_objects", connect)
    pair.begin()
    driver = pair.at("site-a")
    del driver.__dict__["_objects"]
    driver.be_ready()
    driver.point(DATA, 10)
    assert made == ["site-a"]


def test_each_direction_has_a_key_of_its_own(pair: Pair) -> None:
    pair.begin()
    forth = pair.b.headers["cdr"][KEY]
    pair.at("site-b").promote(DATA)
    pair.follow("site-b", "site-a")
    assert pair.a.headers["cdr"][KEY] == pair.b.headers["cdr"][KEY] != forth


def test_an_empty_list_misses_nothing_of_an_empty_container() -> None:
    assert list(Seen(since=1.0, objects={}).missed_by([])) == []


def test_a_marker_without_a_list_shows_nothing_to_a_copy(pair: Pair) -> None:
    position = pair.begin()
    assert pair.at("site-b").status(DATA, position).reached
    assert not pair.at("site-b").has_reached(DATA, position)
    pair.at("site-a").vouched(DATA, position)
    assert not pair.at("site-b").has_reached(DATA, position)
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, position)


def test_a_list_from_before_a_position_shows_nothing_when_it_arrives_later(pair: Pair) -> None:
    """A look at the original was paused while it wrote its marker."""
    pair.at("site-a").vouched(DATA, pair.begin())
    earlier = {name: pair.a.get(name, NAME) for name in NAMES}
    pair.a.put("cdr", "new", b"new")
    position = pair.at("site-a").point(DATA, 10)
    for name, marker in earlier.items():
        pair.a.put(name, NAME, marker)
    pair.a.send(pair.b)
    del pair.b.objects["cdr"]["new"]  # passed over
    assert pair.at("site-b").status(DATA, position).reached
    assert not pair.at("site-b").has_reached(DATA, position)
    pair.at("site-a").vouched(DATA, position)
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, position)


@pytest.mark.parametrize("ahead", [NAMES, ["media"], ["cdr"]])
def test_a_marker_by_a_clock_that_is_ahead_shows_no_later_position_and_is_not_waited_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, ahead: list[str]
) -> None:
    """A proxy of the same Swift is ahead, and another one answers from now on."""
    pair.at("site-a").vouched(DATA, pair.begin())
    for name in ahead:
        at, content = pair.a.objects[name][NAME]
        pair.a.objects[name][NAME] = (round(at + 3.0, 5), content)
    pair.a.send(pair.b)
    pair.a.put("cdr", "new", b"new")
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", lambda s: pytest.fail("members are quiesced"))
        position = pair.at("site-a").point(DATA, 10)
    pair.a.send(pair.b)
    del pair.b.objects["cdr"]["new"]  # passed over
    assert not pair.at("site-b").has_reached(DATA, position)
    pair.a.skew_s += 4.0
    for _ in range(2):
        pair.at("site-a").vouched(DATA, position)
    pair.a.put("cdr", "new", b"new")
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, position)


def test_no_list_is_read_while_members_are_quiesced(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.at("site-a").vouched(DATA, pair.begin())
    driver = pair.at("site-a")
    driver.be_ready()
    read: list[bytes] = []
    get = pair.a.get

    def seen(*arguments: Any) -> bytes:
        read.append(get(*arguments))
        return read[-1]

    monkeypatch.setattr(pair.a, "get", seen)
    driver.point(DATA, 10)
    assert len(read) == len(NAMES)
    assert not [content for content in read if b"first" in content or b"since" in content]


def test_a_swift_that_hangs_does_not_hold_members_quiesced(pair: Pair) -> None:
    pair.begin()
    answers = threading.Event()

    def hang(event: str) -> None:
        answers.wait(60)

    pair.a.happens = hang
    began = time.monotonic()
    try:
        with pytest.raises(SiteUnreachable, match="quiesced"):
            pair.at("site-a").point(DATA, 0.1)
        assert not answers.is_set()
        assert time.monotonic() - began < 30
    finally:
        answers.set()


def test_a_list_that_is_larger_than_a_marker_may_be_is_left_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = pair.begin()
    for number in range(30):
        pair.a.put("cdr", f"{number}-{'x' * 200}", b"")
    for module in (swift, swift_marker):
        monkeypatch.setattr(module, "LARGEST", 4096)
    pair.at("site-a").vouched(DATA, position)
    pair.a.send(pair.b)
    assert len(pair.b.get("cdr", NAME)) < 4096
    assert pair.at("site-b").has_reached(DATA, position)
    pair.at("site-b").promote(DATA, position)


def following(pair: Pair) -> None:
    """What `datastore prepare` does."""
    data = Replicating(
        cast(Deployment, None),
        cast(Vnf, None),
        "site-a",
        cast(Topology, None),
        lambda words: None,
    )
    data._follow(DATA, pair.at("site-a"), pair.at("site-b"))


def test_a_container_with_data_is_not_made_to_follow_because_another_one_is_absent(
    pair: Pair,
) -> None:
    pair.b.ensure_container("cdr")
    pair.b.put("cdr", "newer", b"newer")
    with pytest.raises(ResourceFailed, match="overwrite"):
        following(pair)
    assert not pair.b.headers["cdr"]
    pair.b.delete("cdr", "newer")
    following(pair)  # an empty one has nothing to lose
    assert pair.b.headers["cdr"][ROLE]


def test_a_fence_names_containers_of_which_only_some_are_writable(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_site, "connect_objects", lambda site, cloud: pair.stores[site])
    pair.begin()
    pair.kill_at("site-a", 6)  # one container is demoted
    with pytest.raises(Killed):
        pair.at("site-a").demote(DATA)
    assert pair.at("site-a").status(DATA).health is Health.STOPPED
    settings = {"cloud": "site-a", "containers": NAMES, "secret": str(pair.secret)}
    storages = {"objects": StorageAt("objects", "swift", settings)}
    store = {"storage": "objects", "kind": "application"}
    vnf = Vnf.model_validate(
        {
            "vnf": "hlr",
            "members": [{"server": "hlr-1"}],
            "primary": "site-a",
            "backup": "site-b",
            "datastores": {"objects": store},
        }
    )
    assert [s for s in application_data.writable(vnf, "site-a", storages) if "is writable" in s]
    pair.at("site-a").demote(DATA)
    assert not list(application_data.writable(vnf, "site-a", storages))


def test_containers_that_are_absent_do_not_keep_others_from_being_demoted(pair: Pair) -> None:
    pair.begin()
    del pair.a.objects["media"], pair.a.headers["media"]
    assert pair.at("site-a").demote(DATA) is None
    assert pair.a.headers["cdr"][ROLE]


def test_a_removal_leaves_what_antipode_has_not_made(pair: Pair) -> None:
    for name in NAMES:
        pair.a.ensure_container(name)
        pair.a.describe(name, {TO: f"//theirs/site-c/AUTH_3/{name}", KEY: "theirs"})
    pair.a.put("cdr", "one", b"first")
    pair.at("site-a").remove(DATA)
    assert {name: pair.a.headers[name][KEY] for name in NAMES} == dict.fromkeys(NAMES, "theirs")
    pair.a.put("cdr", NAME, b"theirs")
    with pytest.raises(ResourceFailed, match="no marker"):
        pair.at("site-a").remove(DATA)
    assert pair.a.get("cdr", NAME) == b"theirs"


@pytest.mark.parametrize("site", ["site-a", "site-b"])
def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next(
    tmp_path: Path, site: str
) -> None:
    undisturbed = Pair(tmp_path)
    undisturbed.begin()
    total = changes(undisturbed, site, lambda: undisturbed.at(site).remove(DATA))
    for number in range(total):
        pair = Pair(tmp_path)
        pair.begin()
        pair.kill_at(site, number)
        with pytest.raises(Killed):
            pair.at(site).remove(DATA)
        pair.at(site).remove(DATA)
        store = pair.stores[site]
        assert not [h for headers in store.headers.values() for h in headers.values() if h]
        assert [list(objects) for objects in store.objects.values()] == [["one"], ["one"]]


@pytest.mark.parametrize("skew_s", [-86400.0, 86400.0])
def test_the_clock_of_the_host_does_not_decide_how_a_copy_is(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    pair.begin()
    monkeypatch.setattr(time, "time", lambda: NOW() + skew_s)
    found = pair.at("site-b").status(DATA)
    assert found.health is Health.REPLICATING
    assert found.lag_s is not None and 5 < found.lag_s < 60


@pytest.mark.parametrize("name", ["a b", "bücher", "50%", "a/b", ""])
def test_a_container_that_container_sync_cannot_be_told_of_is_refused(
    pair: Pair, name: str
) -> None:
    with pytest.raises(ValueError, match="containers"):
        pair.at("site-a", containers=[name])


def test_containers_of_one_vnf_are_neither_promoted_nor_ended_with_another(pair: Pair) -> None:
    pair.begin()
    before = [{name: dict(h) for name, h in s.headers.items()} for s in pair.stores.values()]
    other, a, b = Data("imsi", "objects"), pair.at("site-a"), pair.at("site-b")
    for do in (
        lambda: a.status(other),
        lambda: b.status(other),
        lambda: a.point(other, 10),
        lambda: a.vouched(other, "ignored"),
        lambda: b.promote(other),
        lambda: a.demote(other),
        lambda: b.resync(other, a.reference(other)),
        lambda: a.feed(other, b.reference(other)),
        lambda: b.remove(other),
    ):
        with pytest.raises(ResourceFailed, match="VNF hlr"):
            do()
    assert before == [s.headers for s in pair.stores.values()]


def test_a_copy_is_promoted_though_the_application_has_deleted_the_marker(tmp_path: Path) -> None:
    def deleted(folder: Path) -> tuple[Pair, str]:
        pair = Pair(folder)
        position = pair.begin()
        pair.at("site-a").vouched(DATA, position)
        pair.a.send(pair.b)
        assert pair.at("site-b").has_reached(DATA, position)
        for name in NAMES:
            pair.b.delete(name, NAME)
        return pair, position

    undisturbed, position = deleted(tmp_path)
    found = undisturbed.at("site-b").status(DATA, position)
    assert (found.health, found.reached) == (Health.STOPPED, True)
    assert not undisturbed.at("site-b").has_reached(DATA, position)  # no point is made by that
    total = changes(undisturbed, "site-b", lambda: undisturbed.at("site-b").promote(DATA))
    for number in range(total):
        pair, position = deleted(tmp_path)
        pair.kill_at("site-b", number)
        with pytest.raises(Killed):
            pair.at("site-b").promote(DATA)
        found = pair.at("site-b").status(DATA, position)
        assert found.reached
        pair.at("site-b").promote(DATA)
        now = pair.at("site-b").status(DATA, position)
        assert (now.health, now.reached) == (Health.WRITABLE, True)
        pair.at("site-b").point(DATA, 10)


def test_a_position_stays_reached_when_the_marker_was_deleted_and_made_again(pair: Pair) -> None:
    earlier = pair.begin()
    pair.at("site-a").vouched(DATA, earlier)
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, earlier)
    for name in NAMES:
        pair.a.delete(name, NAME)
        pair.b.delete(name, NAME)
    assert pair.at("site-a").status(DATA).health is Health.WRITABLE  # marks it again
    later = pair.at("site-a").point(DATA, 10)
    assert Position.of(later).history != Position.of(earlier).history
    pair.at("site-a").vouched(DATA, later)
    pair.a.send(pair.b)
    assert pair.at("site-b").status(DATA, earlier).reached
    assert pair.at("site-b").has_reached(DATA, later)
    pair.at("site-b").promote(DATA)
    assert pair.at("site-b").status(DATA, later).reached


def test_what_was_reached_is_forgotten_when_containers_follow_another_site(pair: Pair) -> None:
    position = pair.begin()
    pair.at("site-a").vouched(DATA, position)
    pair.a.send(pair.b)
    assert pair.at("site-b").has_reached(DATA, position)
    pair.follow()  # safe to repeat
    assert pair.b.headers["cdr"][REACHED]
    pair.at("site-b").resync(DATA, "//antipode/site-c/AUTH_3")
    assert not pair.b.headers["cdr"][REACHED]
