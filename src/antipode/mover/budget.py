# SPDX-License-Identifier: Apache-2.0
"""Bounds the bytes of objects that the mover holds at once, over all volumes that it writes."""

from __future__ import annotations

import threading

MOST = 128 << 20
"""Bytes. Of Cinder's largest objects by default (50 MiB in Swift) one is written while another is
fetched, where they compress."""


class Budget:
    """So many bytes. Used by several threads."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._changed = threading.Condition()
        self.held = 0
        self.highest = 0
        """the most that was held"""

    def take(self, amount: int, *, waits: bool) -> bool:
        """Hold so many bytes more; whether they are held. One object is always let through when
        nothing else is held, however large it is.

        Args:
            waits: until there is room. The caller holds nothing, or all might wait for one another.
        """
        with self._changed:
            while self.held and self.held + amount > self._most:
                if not waits:
                    return False
                self._changed.wait()
            self.held += amount
            self.highest = max(self.highest, self.held)
            return True

    def give(self, amount: int) -> None:
        """Hold so many bytes less."""
        with self._changed:
            self.held -= amount
            self._changed.notify_all()
