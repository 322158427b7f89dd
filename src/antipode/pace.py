# SPDX-License-Identifier: Apache-2.0
"""How long a wait pauses between two looks: shortly at first, as most waits are short."""

from __future__ import annotations

import time

SHORTEST_S = 0.1
AGE = 0.5
"""The pause is this part of how long the wait has lasted."""
WORK = 2.0
"""At least so many times as long as the look before it took: what is slow gets its rest."""


class Pace:
    """The pauses of one wait."""

    def __init__(self, longest_s: float) -> None:
        """
        Args:
            longest_s: the pause of a wait that has lasted for long, seconds.
        """
        self._longest_s = longest_s
        self._began = self._looks_since = time.monotonic()

    def pause_s(self, look_s: float, since: float | None = None) -> float:
        """The pause after a look, seconds.

        Args:
            look_s: how long the look took.
            since: the end of the look, by the monotonic clock, where others wait too and this is
                asked again during the pause: it does not grow then. Now by default.
        """
        age_s = max((time.monotonic() if since is None else since) - self._began, 0.0)
        return min(self._longest_s, max(SHORTEST_S, AGE * age_s, WORK * look_s))

    def pause(self) -> None:
        """Pause before the next look."""
        time.sleep(self.pause_s(time.monotonic() - self._looks_since))
        self._looks_since = time.monotonic()
