# SPDX-License-Identifier: Apache-2.0
"""Whether the process that had claimed a volume has ended, as far as this host can prove it: the
process holds a lock of its claim's name while it lives, also while it is stopped.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

OVER = b"over"
"""In the file of a lock: another process has seen it free. Its owner must not begin any more."""
POLL_S = 0.5
_NAME = re.compile(r"[A-Za-z0-9-]+")


def named(folder: Path, claim: str) -> Path | None:
    """The file of a claim's lock; None for a claim that none of our writers has made. Each member
    of the project may change the claim of a volume, and must not choose a file of this host by it.
    """
    return folder / claim if _NAME.fullmatch(claim) else None


def prepare(path: Path) -> None:
    """Make the file of a lock, before its name is in any metadata."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))


def take(path: Path) -> bool:
    """Lock it until this process ends; whether it may begin."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    if os.read(handle, len(OVER)) == OVER:
        os.close(handle)
        return False
    return True  # the handle is never closed


def is_over(path: Path | None) -> bool:
    """Whether its owner has ended, or will never begin. False: it lives, or this host cannot
    know.
    """
    if path is None:
        return False
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(handle, OVER, 0)
        return True
    except OSError:  # it is held, or the disk is full, and its owner may still begin
        return False
    finally:
        os.close(handle)


def awaited_over(path: Path | None, go_on: Callable[[], None], within_s: float) -> bool:
    """The same, after a moment for an owner on this host that was asked to stop.

    Args:
        go_on: called while it is waited for; what it raises ends the wait.
        within_s: seconds.
    """
    deadline = time.monotonic() + within_s
    while not is_over(path):
        if path is None or not path.exists() or time.monotonic() > deadline:
            return False
        go_on()
        time.sleep(POLL_S)
    return True
