# SPDX-License-Identifier: Apache-2.0
"""The watch: one poller wakes all who wait, and says which resource failed and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from antipode.cloud import watch
from antipode.cloud.api import ApiError, Json
from antipode.cloud.watch import PAGE, Watch
from antipode.errors import ResourceFailed, SiteUnreachable, Stalled, UnexpectedAnswer


class Listing:
    def __init__(self, *pages: list[Json]) -> None:
        self.pages = list(pages)
        self.calls = 0
        self.pages_read = 0
        self.fails: list[Exception] = []

    def __call__(self, *, first: int, timeout_s: float) -> Iterator[list[Json]]:
        self.calls += 1
        self.first = first
        if self.fails:
            raise self.fails.pop()
        for page in self.pages:
            self.pages_read += 1
            yield page


def item(resource: str, status: str, **fields: str) -> Json:
    return {"id": resource, "status": status, **fields}


def test_one_listing_at_a_time_serves_all_who_wait() -> None:
    listing = Listing([item("a", "creating"), item("b", "creating")])
    watch = Watch("s", "volume", listing)
    with ThreadPoolExecutor(20) as pool:
        waits = [pool.submit(watch.wait_for, [n], timeout_s=60, interval_s=0.1) for n in "ab" * 10]
        while listing.calls < 3:
            time.sleep(0.01)
        calls = listing.calls
        listing.pages = [[item("a", "available"), item("b", "available")]]
        assert {i["status"] for w in waits for i in w.result().values()} == {"available"}
    assert listing.calls - calls < len(waits) / 2


def test_pages_are_read_only_until_all_that_is_waited_for_is_seen() -> None:
    listing = Listing([item("new", "available")], [item("old", "available")])
    Watch("s", "volume", listing).wait_for(["new"], timeout_s=60)
    assert listing.pages_read == 1
    assert listing.first == PAGE
    Watch("s", "volume", listing).wait_for(["old"], timeout_s=60)
    assert listing.pages_read == 3


def test_an_error_status_ends_the_wait_with_the_reason() -> None:
    watch = Watch("s", "backup", Listing([item("a", "error", name="x", fail_reason="no space")]))
    with pytest.raises(ResourceFailed, match=r"x.*error"):
        watch.wait_for(["a"], timeout_s=60)


def test_a_resource_that_disappears_ends_the_wait() -> None:
    with pytest.raises(ResourceFailed, match="a"):
        Watch("s", "volume", Listing([])).wait_for(["a"], timeout_s=60)


def test_a_wait_that_takes_too_long_says_what_for() -> None:
    with pytest.raises(ResourceFailed, match=r"a.*creating"):
        Watch("s", "volume", Listing([item("a", "creating")])).wait_for(
            ["a"], timeout_s=0.1, interval_s=0.02
        )


def test_what_is_created_after_a_listing_began_is_not_called_gone_by_it() -> None:
    began, go_on = threading.Event(), threading.Event()
    items = [item("a", "creating")]

    def slow(*, first: int, timeout_s: float) -> Iterator[list[Json]]:
        before = list(items)
        began.set()
        go_on.wait(60)
        yield before

    watch = Watch("s", "volume", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(watch.wait_for, ["a"], timeout_s=60, interval_s=0.01)
        began.wait(60)
        items[:] = [item("b", "available"), item("a", "available")]
        second = pool.submit(watch.wait_for, ["b"], timeout_s=60, interval_s=0.01)
        go_on.set()
        assert set(second.result()) == {"b"}
        assert set(first.result()) == {"a"}


def test_a_listing_that_fails_for_a_moment_is_asked_for_again() -> None:
    listing = Listing([item("a", "available")])
    listing.fails = [
        SiteUnreachable("no answer"),
        ApiError("s", "GET /volumes", 503, "busy"),
        UnexpectedAnswer("s", "GET /volumes", "a proxy's page"),
    ]
    Watch("s", "volume", listing).wait_for(["a"], timeout_s=60, interval_s=0.01)
    assert listing.calls == 4


def test_a_listing_that_is_refused_ends_the_wait() -> None:
    listing = Listing([])
    listing.fails = [ApiError("s", "GET /volumes", 403, "not allowed")]
    with pytest.raises(ApiError, match="not allowed"):
        Watch("s", "volume", listing).wait_for(["a"], timeout_s=60)


def test_waiting_until_things_are_gone_ends_when_they_are() -> None:
    listing = Listing([item("a", "deleting")])
    watch = Watch("s", "volume", listing)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(watch.wait_gone, ["a"], timeout_s=60, interval_s=0.02)
        while listing.calls < 2:
            time.sleep(0.01)
        listing.pages = [[]]
        wait.result()
    listing.pages = [[item("a", "error_deleting")]]
    with pytest.raises(ResourceFailed, match="error_deleting"):
        watch.wait_gone(["a"], timeout_s=60)


@pytest.mark.parametrize("status", ["error", "available", "error_deleting"])
def test_what_is_not_deleting_any_more_is_not_waited_for_to_be_gone(status: str) -> None:
    backups = Watch("s", "backup", Listing([item("a", status)]), deleted_in=("deleting",))
    with pytest.raises(ResourceFailed, match=status):
        backups.wait_gone(["a"], timeout_s=60, between=lambda: pytest.fail("it still waits"))


def test_who_waits_is_told_what_is_not_there_yet_and_that_a_site_is_silent() -> None:
    listing = Listing([item("a", "creating", name="root"), item("b", "available")])
    told: list[str] = []

    def tell(words: str) -> None:
        told.append(words)
        if len(told) == 1:
            listing.fails = [SiteUnreachable("no answer")]
        if len(told) == 2:
            listing.pages = [[item("a", "available"), item("b", "available")]]

    Watch("s", "backup", listing).wait_for(["a", "b"], timeout_s=60, interval_s=0.01, tell=tell)
    creating = "backup root (a) is creating, to be available"
    assert told == [creating, f"{creating}; s gives no usable answer"]


def test_of_many_that_are_waited_for_a_few_are_named() -> None:
    told: list[str] = []
    watch = Watch("s", "volume", Listing([item(n, "creating") for n in "abcde"]))
    with pytest.raises(ResourceFailed):
        watch.wait_for("abcde", timeout_s=0.5, interval_s=0.01, tell=told.append)
    assert set(told) == {
        "volume a is creating, volume b is creating, volume c is creating and 2 more, to be "
        "available"
    }


def test_the_first_page_has_room_for_all_that_is_waited_for_and_others() -> None:
    ids = [f"volume-{i}" for i in range(PAGE)]
    listing = Listing([item(i, "available") for i in ids])
    Watch("s", "volume", listing).wait_for(ids, timeout_s=60)
    assert listing.first == 2 * PAGE


def test_a_resource_of_which_nothing_changes_ends_the_wait_as_stalled() -> None:
    listing = Listing([item("a", "creating", name="root"), item("b", "available")])
    with pytest.raises(Stalled, match=r"root.*creating"):
        Watch("s", "backup", listing).wait_for(
            ["a", "b"], timeout_s=3600, interval_s=0.01, stalled_after_s=0.1
        )


def test_any_change_of_what_is_listed_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    listing = Listing([])

    def work() -> None:
        clock.s += 40
        listing.pages = [[item("a", "creating", object_count=str(int(clock.s)))]]
        if clock.s > 400:
            listing.pages = [[item("a", "available")]]

    work()
    Watch("s", "backup", listing).wait_for(
        ["a"], timeout_s=3600, interval_s=0, stalled_after_s=60, between=work
    )
    assert clock.s > 400


def test_the_time_in_which_a_site_lists_nothing_is_no_stall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    listing = Listing([item("a", "creating")])

    def out() -> None:
        clock.s += 50
        if clock.s < 150:
            listing.fails = [SiteUnreachable("no answer")]
        else:
            listing.pages = [[item("a", "available")]]

    Watch("s", "backup", listing).wait_for(
        ["a"], timeout_s=3600, interval_s=0, stalled_after_s=60, between=out
    )


class Clock:
    """The monotonic clock of the watch, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 0.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=self._now))

    def _now(self) -> float:
        self.s += 0.001  # no two moments are the same
        return self.s
