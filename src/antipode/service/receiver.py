# SPDX-License-Identifier: Apache-2.0
"""A place where events go."""

from __future__ import annotations

from abc import ABC, abstractmethod

from antipode.model.event import Event

ANSWERS_WITHIN_S = 10.0
"""How long a receiver may take to connect, and then for each answer."""


class NotDelivered(Exception):
    """A receiver did not take an event."""


class Refused(NotDelivered):
    """A receiver is there, and does not take this event; it may take others."""


class Receiver(ABC):
    """A place where events go."""

    @abstractmethod
    def give(self, event: Event, at: float) -> None:
        """Give it an event.

        Args:
            at: the moment, in seconds since the epoch.

        Raises:
            NotDelivered: it did not take it.
            Refused: it did not, and would not be nearer to take it if others waited.
        """
