# SPDX-License-Identifier: Apache-2.0
"""One timer for each quiesced server, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Timers:
    """Runs a function later in a thread of its own; at most one is pending for a key."""

    def __init__(self) -> None:
        self._pending: dict[str, threading.Timer] = {}
        self._lock = threading.Lock()

    def start(self, key: str, seconds: float, function: Callable[[], None]) -> None:
        """Run `function` in `seconds` seconds, instead of what was pending for `key`."""
        timer = threading.Timer(seconds, function)
        timer.daemon = True
        with self._lock:
            replaced = self._pending.pop(key, None)
            self._pending[key] = timer
        if replaced:
            replaced.cancel()
        timer.start()

    def cancel(self, key: str) -> None:
        """Forget what is pending for `key`, if anything is."""
        with self._lock:
            timer = self._pending.pop(key, None)
        if timer:
            timer.cancel()
