# SPDX-License-Identifier: Apache-2.0
"""A process that only answers to the API comes after those that carry runs out."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from antipode.cli import serve


@pytest.mark.skipif(sys.platform != "linux", reason="the scheduling policy is one of Linux")
def test_the_api_also_answers_where_it_may_not_choose_its_scheduling_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nicer: dict[int, int] = {}

    def is_nicer(which: int, thread: int, by: int) -> None:
        assert which == os.PRIO_PROCESS
        nicer[thread] = by

    def refuses(_: int, policy: int, __: Any) -> None:
        assert policy == os.SCHED_BATCH
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", is_nicer)
    monkeypatch.setattr(os, "sched_setscheduler", refuses)
    over = threading.Event()
    with ThreadPoolExecutor(1) as others:
        others.submit(over.wait)
        serve.give_way()
        over.set()
        [other] = others._threads
    wanted = os.getpriority(os.PRIO_PROCESS, 0) + serve.GIVES_WAY
    assert nicer[threading.get_native_id()] == nicer[other.native_id or 0] == wanted
