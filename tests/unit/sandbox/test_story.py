# SPDX-License-Identifier: Apache-2.0
"""A demo whose report breaks a promise says which; `make demo` shows that none is broken."""

from __future__ import annotations

from typing import Any

import pytest

from antipode.sandbox import story

KEPT: dict[str, Any] = {
    "site_a_dead": True,
    "members": 3,
    "recovery_points": 2,
    "second_point_incremental": True,
    "torn": 0,
    "gaps": 0,
    "duplicates": 0,
    "order_violations": 0,
    "calls_to_site_a_during_failover": 0,
    "recovered_last": {"front": 40},
    "frozen_last": {"front": 40},
}


WHOLE: dict[str, Any] = KEPT | {
    "drill_passed": True,
    "drill_leaks": 0,
    "old_copy_returned": 3,
    "old_copy_after_fence": 0,
    "active_copy_after_fence": 3,
    "failback_torn": 0,
    "failback_gaps": 0,
    "failback_duplicates": 0,
    "failback_order_violations": 0,
    "last_before_failback": {"front": 80},
    "failed_back_last": {"front": 80},
    "copies_running": {"site-a": 3, "site-b": 0},
}


def test_no_promise_is_broken_by_the_whole_story() -> None:
    assert story.broken_promises_of_the_whole(WHOLE) == []


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("torn", 1),
        ("drill_leaks", 2),
        ("old_copy_returned", 0),
        ("old_copy_after_fence", 1),
        ("active_copy_after_fence", 2),
        ("failback_gaps", 1),
        ("failed_back_last", {"front": 79}),
        ("copies_running", {"site-a": 3, "site-b": 3}),
    ],
)
def test_each_value_of_the_way_back_that_breaks_a_promise_is_named(
    what: str, value: object
) -> None:
    (broken,) = story.broken_promises_of_the_whole(WHOLE | {what: value})
    assert broken.startswith(what)


def test_no_promise_is_broken_by_a_whole_recovery() -> None:
    assert story.broken_promises(KEPT) == []


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("site_a_dead", False),
        ("recovery_points", 1),
        ("torn", 1),
        ("gaps", 1),
        ("recovered_last", {"front": 39}),
    ],
)
def test_each_value_that_breaks_a_promise_is_named(what: str, value: object) -> None:
    (broken,) = story.broken_promises(KEPT | {what: value})
    assert broken.startswith(what)
