# SPDX-License-Identifier: Apache-2.0
"""The reaper thaws what is past its deadline, not before, and keeps trying."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from antipode.errors import NotFound, SiteUnreachable
from antipode.freezes import reaper
from antipode.freezes.ledger import Freezes
from antipode.store import database
from antipode.store.database import open_database

SITE: Any = SimpleNamespace(name="site-a", project=None)


@pytest.fixture
def freezes(tmp_path: Path) -> Freezes:
    return Freezes(open_database(f"sqlite:///{tmp_path}/antipode.db"))


@pytest.fixture
def thawed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    thawed: list[str] = []
    monkeypatch.setattr(reaper, "thaw", lambda site, server: thawed.append(server))
    return thawed


def test_the_reaper_thaws_what_is_past_its_deadline_and_not_before(
    freezes: Freezes, thawed: list[str]
) -> None:
    before = freezes.now()
    freezes.freezing("site-a", "srv-db", "db", 1000)
    freezes.freezing("site-a", "srv-front", "front", 3000)
    after = freezes.now()
    assert reaper.reap(freezes, SITE, before + 1000) == []
    assert reaper.reap(freezes, SITE, after + 1001) == ["db"]
    assert reaper.reap(freezes, SITE, after + 3001) == ["front"]
    assert thawed == ["srv-db", "srv-front"]


def test_servers_are_thawed_in_the_reverse_of_the_order_in_which_they_were_frozen(
    freezes: Freezes, thawed: list[str]
) -> None:
    for server in ("db", "app", "front"):
        freezes.freezing("site-a", f"srv-{server}", server, -1)
    assert reaper.reap(freezes, SITE) == ["front", "app", "db"]


def test_leftovers_of_a_killed_run_are_thawed_after_a_window_that_freezes_them_and_not_within(
    freezes: Freezes, thawed: list[str]
) -> None:
    freezes.freezing("site-a", "srv-db", "db", -60)
    window = freezes.freezing("site-a", "srv-db", "db", 3600)
    assert reaper.reap(freezes, SITE) == []
    # perhaps since its call was refused: then nobody else thaws what the killed run has frozen
    freezes.thawed(window)
    assert reaper.reap(freezes, SITE) == ["db"]
    assert reaper.reap(freezes, SITE) == []


@pytest.mark.parametrize("meanwhile", ["a window begins", "another thaws it"])
def test_directly_before_a_thaw_the_ledger_is_read_again(
    freezes: Freezes, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    db = freezes.freezing("site-a", "srv-db", "db", -60)
    freezes.freezing("site-a", "srv-front", "front", -60)
    thawed: list[str] = []

    def thaw(_: Any, server: str) -> None:
        thawed.append(server)
        if meanwhile == "a window begins":
            freezes.freezing("site-a", "srv-db", "db", 3600)
        else:
            freezes.thawed(db)

    monkeypatch.setattr(reaper, "thaw", thaw)
    assert reaper.reap(freezes, SITE) == ["front"]
    assert thawed == ["srv-front"]


@pytest.fixture
def clock_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has a clock of its own, as a server has."""
    julian = "(julianday('now') - 2440587.5) * 86400.0"
    monkeypatch.setitem(database._SECONDS, "sqlite", julian)


@pytest.mark.usefixtures("clock_of_the_database")
@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
@pytest.mark.parametrize("wrong", ["the host that freezes", "the host that reaps"])
def test_a_host_whose_clock_is_an_hour_wrong_unquiesces_neither_too_early_nor_too_late(
    freezes: Freezes,
    thawed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    wrong: str,
) -> None:
    right = time.time
    freezing_host = wrong == "the host that freezes"
    with monkeypatch.context() as patched:
        if freezing_host:
            patched.setattr(time, "time", lambda: right() + ahead_s)
        freezes.freezing("site-a", "srv-db", "db", 600)
        freezes.freezing("site-a", "srv-front", "front", -1)
    if not freezing_host:
        monkeypatch.setattr(time, "time", lambda: right() + ahead_s)
    assert reaper.reap(freezes, SITE) == ["front"]
    assert [row.server for row in freezes.open()] == ["db"]
    assert freezes.is_frozen_rightly("site-a", "srv-db")
    assert not freezes.is_frozen_rightly("site-a", "srv-front")


def test_freezes_of_other_sites_are_left_alone(freezes: Freezes, thawed: list[str]) -> None:
    freezes.freezing("site-b", "srv-db", "db", -60)
    assert reaper.reap(freezes, SITE) == []


def test_a_thaw_that_fails_stays_in_the_ledger_and_does_not_keep_the_others_frozen(
    freezes: Freezes, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezes.freezing("site-a", "srv-db", "db", -1)
    freezes.freezing("site-a", "srv-front", "front", -1)

    def thaw(_: Any, server: str) -> None:
        if server == "srv-front":
            raise SiteUnreachable("no answer")

    monkeypatch.setattr(reaper, "thaw", thaw)
    assert reaper.reap(freezes, SITE) == ["db"]
    assert [r.server for r in freezes.overdue("site-a")] == ["front"]


def test_a_server_that_is_gone_leaves_the_ledger(
    freezes: Freezes, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezes.freezing("site-a", "srv-db", "db", -1)

    def thaw(_: Any, server: str) -> None:
        raise NotFound(server)

    monkeypatch.setattr(reaper, "thaw", thaw)
    reaper.reap(freezes, SITE)
    assert freezes.overdue("site-a") == []


def test_the_thread_thaws_while_the_run_hangs_and_survives_its_own_errors(
    freezes: Freezes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "EVERY_S", 0.01)
    thawed, calls = threading.Event(), iter((ValueError("a bug"), None))

    def thaw(_: Any, server: str) -> None:
        if error := next(calls):
            raise error
        thawed.set()

    monkeypatch.setattr(reaper, "thaw", thaw)
    freezes.freezing("site-a", "srv-db", "db", 0.1)
    with reaper.Reaper(freezes, lambda: [SITE]):
        assert thawed.wait(60), "the reaper did not thaw"


def test_a_thaw_that_keeps_failing_is_tried_less_and_less_often_and_the_next_server_at_once(
    freezes: Freezes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "EVERY_S", 0.01)
    tries: list[str] = []
    thawed = threading.Event()

    def thaw(_: Any, server: str) -> None:
        tries.append(server)
        if server == "srv-db":
            raise SiteUnreachable("no answer")
        thawed.set()

    monkeypatch.setattr(reaper, "thaw", thaw)
    freezes.freezing("site-a", "srv-db", "db", -1)
    with reaper.Reaper(freezes, lambda: [SITE]):
        while len(tries) < 3:
            time.sleep(0.01)
        time.sleep(1)  # time in which a reaper without pauses would try some 50 times
        freezes.freezing("site-a", "srv-front", "front", -1)
        assert thawed.wait(60)
    assert tries.count("srv-db") <= 12
