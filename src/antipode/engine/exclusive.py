"""One run of a VNF at a time: two that freeze the same servers would thaw each other's in the middle of a snapshot."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antipode.errors import AntipodeError, Busy


def run_under_way(vnf: str, state_dir: Path) -> str | None:
    """The run of this VNF that holds its lock on this host, if any."""
    try:
        handle = os.open(_path(vnf, state_dir), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(handle, 256).decode(errors="replace").partition(" ")[0]
    finally:
        os.close(handle)
    return None


def _path(vnf: str, state_dir: Path) -> Path:
    return state_dir / "locks" / f"{vnf}.lock"


@contextmanager
def only_run_of(vnf: str, state_dir: Path, run: str) -> Iterator[None]:
    """Hold the VNF's lock while the block runs. The kernel lets go of it when the process ends, however it ends.

    Raises:
        Busy: another process holds it.
    """
    path = _path(vnf, state_dir)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AntipodeError(f"{path}: {error.strerror}; antipode needs a state directory that it may write") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 256).decode(errors="replace").strip() or "another run"
            raise Busy(f"{holder} of {vnf} is under way on this host; wait for it, or see: antipode run list") from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"{run} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(handle)
