# SPDX-License-Identifier: Apache-2.0
"""Files of SQLite databases: private to their owner, and opened by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antipode import private

BESIDE = ("", "-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files that it puts beside it."""


def make_private(path: Path) -> None:
    """Create a database file and its directory, or take the rights of others away from a file that
    exists: VNF definitions and results of runs are in it.

    Files that SQLite makes beside it later get its mode.

    Raises:
        OSError: the file cannot be created, or belongs to somebody else.
    """
    private.make_folder(path.parent)
    if not path.exists():
        private.touch(path)
    for file in (path.with_name(path.name + suffix) for suffix in BESIDE):
        # not opened here: closing it again would drop the locks that SQLite holds in this process
        if file.exists() and file.stat().st_mode & 0o077:
            file.chmod(private.FILE)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file of a database while the block runs.

    The first connection to a database changes its journal mode, which SQLite refuses at once, with
    "database is locked", while another connection does the same.
    """
    lock = path.with_suffix(".lock")
    private.touch(lock)
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
