# SPDX-License-Identifier: Apache-2.0
"""Tests of the pauses between the looks of a wait."""

from __future__ import annotations

import pytest

from antipode import pace
from antipode.pace import SHORTEST_S, WORK, Pace


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.s = 1000.0

    def monotonic(self) -> float:
        return self.s

    def sleep(self, seconds: float) -> None:
        self.s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_a_wait_looks_often_at_first_and_at_its_own_interval_later(clock: Clock) -> None:
    began, wait, pauses = clock.s, Pace(2.0), []
    while clock.s < began + 60:
        before = clock.s
        wait.pause()
        pauses.append(clock.s - before)
    assert pauses[0] == pytest.approx(SHORTEST_S)
    assert pauses == sorted(pauses) and pauses[-1] == pytest.approx(2.0)
    assert len(pauses) < 60 / 2.0 + 15


def test_a_slow_site_is_asked_less_often(clock: Clock) -> None:
    wait = Pace(2.0)
    clock.s += 0.4  # the look
    wait.pause()
    assert clock.s == pytest.approx(1000.4 + WORK * 0.4)


@pytest.mark.parametrize("longest_s", [0.0, 0.005])
def test_no_pause_is_longer_than_the_interval(clock: Clock, longest_s: float) -> None:
    assert Pace(longest_s).pause_s(10.0) == longest_s


def test_a_pause_does_not_grow_while_it_lasts(clock: Clock) -> None:
    wait = Pace(60.0)
    clock.s += 10
    looked_at = clock.s
    pause_s = wait.pause_s(0.1, looked_at)
    clock.s += 4
    assert wait.pause_s(0.1, looked_at) == pause_s
    assert wait.pause_s(0.1) > pause_s
    assert Pace(60.0).pause_s(0.0, float("-inf")) == SHORTEST_S  # before the first look
