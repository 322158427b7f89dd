"""Waiting for a state, with a bound and with words for what is awaited."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.errors import LabError


def wait_until(holds: Callable[[], bool], what: str, timeout: float, interval: float = 0.1) -> None:
    """Ask `holds` every `interval` seconds until it is true; raise LabError naming `what` after
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:.0f} s in vain until {what}")
        time.sleep(interval)
