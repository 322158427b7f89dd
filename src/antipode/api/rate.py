# SPDX-License-Identifier: Apache-2.0
"""How many requests a user may make, and how many that take long are answered at once."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from antipode.errors import TooManyRequests

MOST_KNOWN = 20_000
LONG_AT_ONCE = 8
"""Requests that ask sites or vaults; others are answered from the database."""
WAITS_S = 5.0


class Buckets:
    """A bucket of requests for each key, which fills up evenly. Safe to use from several threads.

    Args:
        per_minute: how fast a bucket fills up, and how much it holds.
    """

    def __init__(self, per_minute: int) -> None:
        self._most, self._per_s = float(per_minute), per_minute / 60
        self._level: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, *, only_look: bool = False) -> None:
        """Take one from the bucket of a key.

        Args:
            only_look: leave it there.

        Raises:
            TooManyRequests: the bucket is empty.
        """
        now = time.monotonic()
        with self._lock:
            level, at = self._level.get(key, (self._most, now))
            level = min(self._most, level + (now - at) * self._per_s)
            if level < 1:
                raise TooManyRequests(
                    f"more than {self._most:.0f} requests a minute; wait, and ask less often"
                )
            self._level[key] = (level if only_look else level - 1), now
            self._level.move_to_end(key)
            while len(self._level) > MOST_KNOWN:
                self._level.popitem(last=False)


class Long:
    """Requests that take long, a few at once: the others keep the API responsive."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(LONG_AT_ONCE)

    @contextmanager
    def one(self) -> Iterator[None]:
        """While the block runs, one of them is under way.

        Raises:
            TooManyRequests: as many are, and none has ended within WAITS_S.
        """
        if not self._free.acquire(timeout=WAITS_S):
            raise TooManyRequests(
                f"{LONG_AT_ONCE} requests that ask sites or vaults are under way; try again"
            )
        try:
            yield
        finally:
            self._free.release()
