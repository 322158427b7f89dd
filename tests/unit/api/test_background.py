# SPDX-License-Identifier: Apache-2.0
"""Resumes and aborts that the process of the API carries out itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from antipode.api import background
from antipode.api.background import Background
from antipode.api.gate import Installation
from antipode.errors import InvalidInput, TooManyRequests
from tests.unit.api.conftest import Things, run_of


@pytest.fixture
def full(
    installation: Installation, things: Things, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Background]:
    """With as much under way as may be."""
    monkeypatch.setattr(background, "AT_ONCE", 1)
    monkeypatch.setattr(background, "BEGINS_WITHIN_S", 0.1)
    made, over = Background(installation.deployment), threading.Event()
    made.begin(lambda *_: over.wait(30), things.mine)
    try:
        yield made
    finally:
        over.set()


def test_what_cannot_begin_now_is_refused_and_does_not_begin_later(
    full: Background, things: Things
) -> None:
    done: list[Any] = []
    with pytest.raises(TooManyRequests):
        full.begin(lambda *_: done.append(1), things.theirs)
    assert full._threads._work_queue.get(timeout=1).future.cancelled()
    assert not done


def test_an_abort_of_a_lost_run_is_kept_for_the_next_process(
    full: Background, installation: Installation
) -> None:
    deployment = installation.deployment
    lost = run_of("hlr", 1, id="protect-lost", state="running", ended_at=None)
    deployment.runs.create(lost)
    full.abort(deployment.runs.get("protect-lost"))
    assert deployment.runs.standing("protect-lost") == (0, True)


def test_an_abort_that_is_refused_leaves_nothing(
    full: Background, installation: Installation
) -> None:
    deployment = installation.deployment
    newer = run_of("hlr", 1, id="teleport-1", kind="teleport", state="running", ended_at=None)
    deployment.runs.create(newer)
    with pytest.raises(InvalidInput):
        full.abort(deployment.runs.get("teleport-1"))
    assert deployment.runs.standing("teleport-1") == (0, False)
