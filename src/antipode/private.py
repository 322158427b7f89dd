# SPDX-License-Identifier: Apache-2.0
"""Files and folders that only their owner may read, whatever the umask: they hold names and
addresses of VNFs, user_data and passwords.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from antipode.errors import KeyUnusable

FILE, FOLDER = 0o600, 0o700
LARGEST_SECRET = 1 << 16


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


def secret_in(path: Path) -> str:
    """What is in a file that its owner alone may read, which is us or root.

    Raises:
        KeyUnusable: it cannot be read, or others can read or change it.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(LARGEST_SECRET)
    except OSError as error:
        raise KeyUnusable(
            f"key file {path} cannot be read: {error.strerror}", resource=f"file {path}"
        ) from error
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise KeyUnusable(
            f"key file {path} has mode {mode:04o}: others may use it, and it is not used. Run:"
            f" chmod 600 {path}",
            resource=f"file {path}",
        )
    if found.st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
        raise KeyUnusable(
            f"key file {path} belongs to user {found.st_uid}, and keys of others are not used",
            resource=f"file {path}",
        )
    return content.decode(errors="replace")
