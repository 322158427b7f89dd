# SPDX-License-Identifier: Apache-2.0
"""Where the mover writes: an attached volume, behind the smallest interface that it needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Target(Protocol):
    """The bytes of a volume that is attached to this host. Used by one thread."""

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Have a range read as zeros."""
        ...

    def is_known_as_zeros(self, offset: int, length: int) -> bool:
        """Whether a range reads as zeros, where that is known without its bytes on the way here."""
        ...

    def flush(self) -> None:
        """Return when all that was written would outlive a loss of power."""
        ...


Attached = Callable[[str], AbstractContextManager[Target]]
"""By the id of a volume: the volume, attached to this host while the block runs, and to nothing
else. The attachment is made and removed at the site; it is what keeps other writers away.
"""
