# SPDX-License-Identifier: Apache-2.0
"""The quota of open runs on real database servers: hosts that begin runs at once keep it."""

from __future__ import annotations

from tests.unit.test_room_of_a_project import HOSTS, MOST, runs_begun


def test_of_hosts_that_begin_runs_at_once_none_exceeds_the_quota(new_database: str) -> None:
    assert len(runs_begun([new_database] * HOSTS)) == MOST
