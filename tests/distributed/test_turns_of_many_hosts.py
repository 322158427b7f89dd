# SPDX-License-Identifier: Apache-2.0
"""Turns of restores on real database servers: hosts that ask at once hold no more than a site
bears.
"""

from __future__ import annotations

from tests.unit.test_turns import HOSTS, MOST, most_held_at_once


def test_hosts_that_ask_at_once_hold_no_more_than_the_site_bears(new_database: str) -> None:
    assert most_held_at_once([new_database] * HOSTS) == MOST
