"""That one process, and no other, works at a run: what every way of claiming runs gives, on one
host or on many.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from antipode.store.tables import RunRow


class Claim(AbstractContextManager["Claim"], Protocol):
    """A run that this process holds. Leaving the block lets go of it."""

    @property
    def run(self) -> str: ...

    @property
    def number(self) -> int:
        """Larger than that of every claim of the run before: what is written with an older one is
        refused.
        """
        ...

    def check(self) -> None:
        """Asked before every call that changes something; quick, and without a network.

        Raises:
            ClaimLost: the run is not ours any more, or nobody can be sure that it is.
        """
        ...

    def release(self) -> None:
        """Let go of the run; again is fine."""
        ...


class Claims(Protocol):
    """Where runs are claimed."""

    def begin(self, run: RunRow) -> Claim:
        """Keep a new run and hold it.

        Raises:
            Busy: another run of the VNF is under way that this one cannot begin beside.
        """
        ...

    def take(self, run: str, *, also_failed: bool = False, abort: bool = False) -> Claim:
        """Hold a run that nobody is at: one that is lost or queued.

        Args:
            also_failed: or that failed.
            abort: or that failed, to take it back; from then on it is never gone on with, whatever
                becomes of this process.

        Raises:
            NotFound: there is no such run.
            Busy: somebody is at it, or at another that it cannot go on beside.
        """
        ...

    def is_held(self, run: RunRow) -> bool | None:
        """Whether a process is at the run; None when that cannot be known from here."""
        ...
