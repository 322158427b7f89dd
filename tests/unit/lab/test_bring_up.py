# SPDX-License-Identifier: Apache-2.0
"""Bringing a site up: a person that waits learns for which service, and why."""

from __future__ import annotations

import threading

import pytest

from lab import bring_up, supervision
from lab.progress import Progress
from lab.service import NotReady, Service
from lab.site import SITES, Site


class Slow(Service):
    """Answers at the third time."""

    name = "slow"

    def __init__(self) -> None:
        self.asked = 0

    def check_ready(self, site: Site) -> None:
        self.asked += 1
        if self.asked < 3:
            raise NotReady("it still loads")


def test_a_service_that_is_not_ready_for_long_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bring_up, "REASON_EVERY", 0)
    monkeypatch.setattr(bring_up, "services_of", lambda site: [Slow()])
    monkeypatch.setattr(supervision, "given_up", lambda site, programs: [])
    ascent = bring_up._Ascent(SITES["site-a"], Progress())
    ascent._await_ready(ascent.services[0], threading.Event())
    said = capsys.readouterr().err
    assert "site-a" in said and "slow" in said and said.count("it still loads") == 2
