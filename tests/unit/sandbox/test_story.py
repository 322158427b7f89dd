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
