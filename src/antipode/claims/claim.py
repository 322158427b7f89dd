# SPDX-License-Identifier: Apache-2.0
"""The protocol of claims: a single process executes a run, on one host or on many."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from antipode.store.tables import RunRow


class Claim(AbstractContextManager["Claim"], Protocol):
    """A run that this process holds. Leaving the block releases it."""

    @property
    def run(self) -> str: ...

    @property
    def number(self) -> int:
        """Larger than the number of every earlier claim of the run: writes with an older one are
        refused.
        """
        ...

    def check(self) -> None:
        """Asked before every call that changes something; quick, and without a network.

        Raises:
            ClaimLost: the run is not ours any more, or may not be.
        """
        ...

    def release(self) -> None:
        """Release the run; it can be repeated."""
        ...


class Claims(Protocol):
    """Where runs are claimed."""

    def begin(self, run: RunRow) -> Claim:
        """Store a new run and hold it.

        Raises:
            Busy: another run of the VNF is under way that this one cannot begin beside.
        """
        ...

    def take(self, run: str, *, also_failed: bool = False, abort: bool = False) -> Claim:
        """Hold a run that no process executes: one that is lost or queued.

        Args:
            also_failed: or that failed.
            abort: or that failed, to roll it back; from then on it is never resumed, even if this
                process dies.

        Raises:
            NotFound: there is no such run.
            Busy: another process executes it, or a run that it cannot continue beside.
        """
        ...

    def is_held(self, run: RunRow) -> bool | None:
        """Whether a process executes the run; None if that cannot be known from here."""
        ...
