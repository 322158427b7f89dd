# SPDX-License-Identifier: Apache-2.0
"""Logins that have failed: many of them from one address hold up further ones."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from antipode.errors import Forbidden

TRIES, TRIES_S = 10, 60.0
"""Logins that may fail from one address within so many seconds."""
MOST_KNOWN = 10_000


class Tries:
    """Counts logins that have failed, by address."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def must_be_few(self, address: str) -> None:
        """See that few logins from an address have failed of late.

        Raises:
            Forbidden: too many have.
        """
        since = time.monotonic() - TRIES_S
        with self._lock:
            recent = [at for at in self._failed.get(address, []) if at > since]
        if len(recent) >= TRIES:
            raise Forbidden(f"too many logins from here have failed; wait {TRIES_S:.0f} s")

    def failed(self, address: str) -> None:
        """A login from an address has failed."""
        now = time.monotonic()
        with self._lock:
            recent = [at for at in self._failed.pop(address, []) if at > now - TRIES_S]
            self._failed[address] = [*recent, now]
            while len(self._failed) > MOST_KNOWN:
                self._failed.popitem(last=False)

    def forget(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._failed.clear()
