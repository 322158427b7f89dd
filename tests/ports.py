# SPDX-License-Identifier: Apache-2.0
"""Loopback ports for the servers of tests: below those that the kernel gives to clients, and no
two the same.
"""

from __future__ import annotations

import os
import random
import socket

FIRST, OF_EACH = 20_000, 1_000
"""Each worker of the tests has so many for itself, so that none takes what another has just found
free.
"""
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, for a server that is about to be started."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + worker % 12 * OF_EACH
    while True:
        port = random.randrange(first, first + OF_EACH)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
