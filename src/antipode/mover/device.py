# SPDX-License-Identifier: Apache-2.0
"""Attached volumes as this host sees them: a block device or a file by its path, or an image that
os-brick has opened through librbd.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antipode.errors import ResourceFailed

BLKZEROOUT = 0x127F
"""linux/fs.h: a range of a block device reads as zeros, without that they are sent."""
_PIECE = 4 << 20


class Device:
    """A block device, or a file in its place."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.size = os.lseek(handle, 0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        found = os.pread(self._handle, length, offset)
        while len(found) < length:
            if not (piece := os.pread(self._handle, length - len(found), offset + len(found))):
                raise ResourceFailed(f"the volume ends at byte {offset + len(found)}")
            found += piece
        return found

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, offset)
            view, offset = view[written:], offset + written

    def zero(self, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):  # a file, or a kernel that does not know how
            fcntl.ioctl(self._handle, BLKZEROOUT, struct.pack("QQ", offset, length))
            return
        for at in range(offset, offset + length, _PIECE):
            self.write(at, bytes(min(_PIECE, offset + length - at)))

    def is_known_as_zeros(self, offset: int, length: int) -> bool:
        return False

    def flush(self) -> None:
        os.fsync(self._handle)
        if sys.platform == "linux":  # what is read again comes from the storage
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_DONTNEED)


class Image:
    """An image of Ceph: the `rbd.Image` behind what os-brick opens."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.size: int = image.size()

    def read(self, offset: int, length: int) -> bytes:
        found: bytes = self._image.read(offset, length)
        return found

    def write(self, offset: int, data: bytes) -> None:
        self._image.write(data, offset)

    def zero(self, offset: int, length: int) -> None:
        """Never by `discard`: librbd leaves out what is less than its granularity."""
        if hasattr(self._image, "write_zeroes"):
            self._image.write_zeroes(offset, length)
            return
        for at in range(offset, offset + length, _PIECE):
            self.write(at, bytes(min(_PIECE, offset + length - at)))

    def is_known_as_zeros(self, offset: int, length: int) -> bool:
        return False

    def flush(self) -> None:
        self._image.flush()
        if hasattr(self._image, "invalidate_cache"):
            self._image.invalidate_cache()


@contextmanager
def opened(path: object) -> Iterator[Device | Image]:
    """What os-brick's `connect_volume` calls `path`, open for reading and writing.

    Raises:
        ResourceFailed: it cannot be opened.
    """
    if hasattr(path, "rbd_image"):
        yield Image(path.rbd_image)
        return
    try:
        handle = os.open(Path(os.fsdecode(str(path))), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ResourceFailed(
            f"the attached volume cannot be opened for writing: {error.strerror}. The mover needs"
            " rights on the devices of this host"
        ) from error
    try:
        yield Device(handle)
    finally:
        os.close(handle)
