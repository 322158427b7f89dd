# SPDX-License-Identifier: Apache-2.0
"""Files and folders that only their owner may read, whatever the umask: they hold names and
addresses of VNFs, user_data and passwords.
"""

from __future__ import annotations

import os
from pathlib import Path

FILE, FOLDER = 0o600, 0o700


def opener(path: str, flags: int) -> int:
    """For `open(…, opener=…)`: a file that is made has mode 0600, and so has an older one of ours.

    Raises:
        OSError: as `open`.
    """
    handle = os.open(path, flags | os.O_CLOEXEC, FILE)
    if os.fstat(handle).st_uid == os.geteuid():  # the mode is its owner's to choose
        os.fchmod(handle, FILE)
    return handle


def touch(path: Path) -> None:
    """Have a file; what it holds stays, its mode is that of `opener`.

    Raises:
        OSError: it cannot be made.
    """
    os.close(opener(str(path), os.O_WRONLY | os.O_CREAT))


def make_folder(path: Path) -> None:
    """Have a folder; it and those above it that are missing get mode 0700, others keep theirs.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(FOLDER)
    except FileExistsError:  # another process has just made it
        return
    path.chmod(FOLDER)  # a umask can only take away, also from what is needed
