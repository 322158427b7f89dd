# SPDX-License-Identifier: Apache-2.0
"""The clock of one host: it stands still until the driver moves it, and runs wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOKS_EVERY_S = 0.002


class Pace:
    """Satisfies what `antipode.clock.following` takes."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._moved = threading.Condition()
        self._parked: dict[object, float] = {}

    def __call__(self) -> float:
        return self._now

    def advance(self, now: float) -> None:
        """Move the clock. What has waited for a moment up to it is no longer parked."""
        with self._moved:
            self._now = now
            self._parked = {who: until for who, until in self._parked.items() if until > now}
            self._moved.notify_all()

    def park(self, until: float, go_on: Callable[[], None]) -> None:
        """Return at a moment; `go_on` is called again and again meanwhile, and may raise."""
        me = object()
        with self._moved:
            if until > self._now:
                self._parked[me] = until
            try:
                while me in self._parked:
                    self._moved.wait(1.0)
                    go_on()
            finally:
                self._parked.pop(me, None)

    def settle(self, under_way: Callable[[], int]) -> None:
        """Return when all that is under way is parked."""
        with self._moved:
            while under_way() > len(self._parked):
                self._moved.wait(LOOKS_EVERY_S)
