# SPDX-License-Identifier: Apache-2.0
"""The processes of the mover that a command has begun, found for tests that stop them."""

from __future__ import annotations

import psutil

PROGRAMS = {"antipode.mover.process", "antipode.mover.helper_process"}


def movers(process: int) -> list[int]:
    """The processes of the mover that a command has begun."""
    return [
        found.pid
        for found in psutil.process_iter(["ppid", "cmdline"])
        if found.info["ppid"] == process and PROGRAMS.intersection(found.info["cmdline"] or [])
    ]
