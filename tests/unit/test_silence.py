# SPDX-License-Identifier: Apache-2.0
"""A service that does not answer is waited for once, not again by each call, where its work can
be left undone.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from antipode.cloud import watch
from antipode.cloud.api import Reply
from antipode.cloud.site import Site
from antipode.errors import SiteUnreachable
from antipode.model.marks import marks
from antipode.protect import snapshots
from tests.unit.fakecloud import FakeCloud, FakeTimeline


class HoledCloud(FakeCloud):
    """From a moment on its Cinder takes calls and never answers them."""

    def __init__(self) -> None:
        self.is_silent = False
        self.waited: list[float] = []
        super().__init__()

    def _transport(self, service: Any) -> Any:
        send = super()._transport(service)

        def maybe(method: str, path: str, *, timeout: float | None, **rest: Any) -> Reply:
            if self.is_silent and service == self._volume:
                assert timeout is not None  # else the connection's own, three times over
                self.waited.append(timeout)
                time.sleep(timeout)
                raise SiteUnreachable("no answer")
            return send(method, path, timeout=timeout, **rest)

        return maybe


@pytest.fixture
def cloud() -> HoledCloud:
    return HoledCloud()


def impatient(cloud: HoledCloud, patience_s: float = 0.3) -> Site:
    return cloud.site.impatient(patience_s)


def test_all_calls_together_wait_no_longer_than_the_patience(cloud: HoledCloud) -> None:
    site = impatient(cloud)
    cloud.is_silent = True
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(SiteUnreachable):
            site.volumes.snapshots()
        with pytest.raises(SiteUnreachable):
            site.backups.backups()
    assert time.monotonic() - began < 10 * 0.3
    assert sum(cloud.waited) == pytest.approx(0.3, abs=0.05)


def test_silence_before_counts_and_is_named_with_the_service(cloud: HoledCloud) -> None:
    cloud.is_silent = True
    with pytest.raises(SiteUnreachable):
        cloud.site.volumes.create_snapshot("db-root", "name", {}, 0.4)  # as in a window
    with pytest.raises(
        SiteUnreachable,
        match="block-storage",
    ):
        impatient(cloud).volumes.snapshots()
    assert cloud.waited == [0.4]


def test_an_answer_ends_the_silence_and_other_services_are_not_taken_for_silent(
    cloud: HoledCloud,
) -> None:
    site = impatient(cloud)
    cloud.is_silent = True
    with pytest.raises(SiteUnreachable):
        site.volumes.snapshots()
    assert site.compute.servers()
    cloud.is_silent = False
    cloud.site.volumes.snapshots()  # somebody else's call
    assert site.volumes.snapshots() == []


def test_a_call_that_must_be_done_is_repeated(cloud: HoledCloud) -> None:
    cloud.is_silent = True
    for _ in range(2):
        with pytest.raises(SiteUnreachable):
            cloud.site.volumes.create_snapshot("db-root", "name", {}, 0.1)
    assert cloud.waited == [0.1, 0.1]


def test_a_removal_that_waits_when_the_silence_begins_ends_soon(
    cloud: HoledCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.1)
    cloud.looks_until_available = 10**6
    cloud.site.volumes.create_snapshot("db-root", "name", marks("run", "key"), 1)
    (snapshot,) = cloud.snapshots.values()
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(snapshots.remove_snapshots, impatient(cloud), "key", FakeTimeline())
        while snapshot["looks"] > 10**6 - 2:  # until it waits
            time.sleep(0.01)
        cloud.is_silent = True
        began = time.monotonic()
        with pytest.raises(SiteUnreachable):
            removal.result()
    assert time.monotonic() - began < snapshots.SNAPSHOT_TIMEOUT_S / 2


def test_a_listing_that_hangs_does_not_take_the_whole_time_of_a_long_wait(
    cloud: HoledCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(watch, "PATIENCE_S", 0.2)
    cloud.is_silent = True
    with pytest.raises(SiteUnreachable):
        cloud.site.volumes.watch.wait_for(["db-root"], timeout_s=24 * 3600, interval_s=0.01)
    assert set(cloud.waited) == {0.05}
