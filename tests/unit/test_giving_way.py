# SPDX-License-Identifier: Apache-2.0
"""A process that only answers to the API comes after those that carry runs out."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from antipode.cli import serve


@pytest.mark.skipif(sys.platform != "linux", reason="the scheduling policy is one of Linux")
def test_the_api_also_answers_where_it_may_not_choose_its_scheduling_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nicer: list[int] = []

    def refuses(_: int, policy: int, __: Any) -> None:
        assert policy == os.SCHED_BATCH
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", nicer.append)
    monkeypatch.setattr(os, "sched_setscheduler", refuses)
    serve.give_way()
    assert nicer == [serve.GIVES_WAY]
