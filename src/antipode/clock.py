# SPDX-License-Identifier: Apache-2.0
"""The wall clock of this process, by which runs and what is kept about them are dated: that of the
host, or one that a simulation hands in.

Waits, and deadlines of servers that are frozen, never go by it: they need the time that passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _Followed:
    source: Callable[[], float] | None = None
    """in place of the host's clock; None: that one"""


_FOLLOWED = _Followed()


def now() -> float:
    """Seconds since the epoch."""
    return time.time() if _FOLLOWED.source is None else _FOLLOWED.source()


def is_simulated() -> bool:
    """Whether this process goes by another clock than its host's."""
    return _FOLLOWED.source is not None


@contextmanager
def following(source: Callable[[], float]) -> Iterator[None]:
    """Have this process go by another clock while the block runs: `bench.week` plays a week in
    minutes. All hosts of one database must follow the same.

    Args:
        source: seconds since the epoch.
    """
    before, _FOLLOWED.source = _FOLLOWED.source, source
    try:
        yield
    finally:
        _FOLLOWED.source = before
