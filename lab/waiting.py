# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state, with a limit and a description for the error message."""

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
            raise LabError(f"not true after {timeout:.0f} s: {what}")
        time.sleep(interval)
