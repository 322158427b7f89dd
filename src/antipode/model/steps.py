"""The timeline of a run as protect and recover see it: they say what they do, somebody else keeps
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol


class Step(Protocol):
    """One step under way."""

    def result(self, **facts: object) -> None:
        """Keep facts (JSON values; names carry units: `bytes`, `seconds`) with the step."""

    def waits_for(self, what: str) -> None:
        """Say what the step waits for now, in words; the same words again say that it still
        does.
        """


class Timeline(Protocol):
    """Where the steps of a run are kept: number of the step in the mission, name, resource, start,
    end, result.
    """

    @contextmanager
    def step(self, number: str, name: str, resource: str = "") -> Iterator[Step]:
        """A step that starts now and ends with the block; an exception that leaves the block is its
        failure.

        Called from several threads at once.
        """
        ...

    def past(
        self,
        number: str,
        name: str,
        resource: str = "",
        *,
        started: datetime,
        ended: datetime,
        error: str | None = None,
        **facts: object,
    ) -> None:
        """Keep a step that is already over: while members are frozen nothing is written, so the
        steps of the window are told afterwards.

        Args:
            started: when it began, aware UTC.
            ended: when it was over, aware UTC.
            error: why it failed; None when it did not.
        """
        ...
