# SPDX-License-Identifier: Apache-2.0
"""The week of the bench, as an hour: hosts are processes, and one of them is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.week.drive import Settings, Week
from bench.week.verdict import faults, lines

pytestmark = [pytest.mark.sandbox, pytest.mark.rest]


def test_no_slot_is_lost_or_begun_twice_though_a_host_is_killed_and_all_that_is_old_is_pruned(
    tmp_path: Path,
) -> None:
    settings = Settings(
        vnfs=3, hours=1.25, places=2, kills=1, seed=3, history_days=0.01, keep_at_least=1
    )
    account = Week(settings, tmp_path).play()
    assert faults(account) == []
    assert len(account.kills) == 1
    assert account.sums.due == account.sums.made == 3 * 4
    assert sum(account.sums.states.values()) > account.sizes[-1].rows["runs"]
    assert any("12 made" in line for line in lines(settings, account))
