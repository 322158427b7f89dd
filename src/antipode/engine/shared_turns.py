# SPDX-License-Identifier: Apache-2.0
"""Turns that this process takes beside all others of its database: renewed while they are held."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from antipode.store.turns import HELD_S, Asked, Turns

LOG = logging.getLogger(__name__)
RENEWED_S = HELD_S / 4
"""How often turns are renewed."""


class SharedTurns:
    """Turns of one process. A database that does not answer holds up no run: the limits of the
    process hold alone then.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._changed = threading.Condition()
        self._held: set[tuple[str, str]] = set()
        """kind and turn"""
        self._renews = False

    def take(self, asked: Asked, at_once: int) -> Callable[[], None] | None:
        """Take a turn.

        Args:
            at_once: turns of this kind that the site bears, of all processes.

        Returns:
            what leaves it to the others; None: another comes first, ask again.
        """
        try:
            turn = self._turns.take(asked, at_once)
        except SQLAlchemyError as error:
            LOG.warning("turns at %s are not shared now: %s", asked.site, type(error).__name__)
            return lambda: None
        if turn is None:
            return None
        with self._changed:
            self._held.add((asked.kind, turn))
            if not self._renews:
                self._renews = True
                threading.Thread(target=self._renew, name="turns", daemon=True).start()
        return lambda: self._release(asked.kind, turn)

    def _release(self, kind: str, turn: str) -> None:
        with self._changed:
            self._held.discard((kind, turn))
            self._changed.notify_all()
        try:
            self._turns.release(kind, turn)
        except SQLAlchemyError as error:
            LOG.warning("a turn ends by itself in %d s: %s", HELD_S, type(error).__name__)

    def _renew(self) -> None:
        """Renew what is held, until nothing is."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._held, RENEWED_S)
                held = list(self._held)
                if not held:
                    self._renews = False
                    return
            try:
                for kind in {kind for kind, _ in held}:
                    self._turns.keep(kind, [turn for of, turn in held if of == kind])
            except SQLAlchemyError as error:
                LOG.warning("turns could not be renewed: %s", type(error).__name__)
