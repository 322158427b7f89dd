# SPDX-License-Identifier: Apache-2.0
"""A witness of a quiesce window that is never too late: Cinder makes no snapshot before it has seen
all members frozen.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Self

from lab import supervision
from lab.site import Site
from lab.witness import Witness


class AwaitedWitness(Witness):
    """Holds cinder-volume until it has looked twice: what members had durable, and that it stays
    so.
    """

    def __init__(
        self,
        site: Site,
        servers: Mapping[str, str],
        while_frozen: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            servers: role -> server id.
            while_frozen: called once, while all members are frozen and before any snapshot is made.
        """
        super().__init__(site, servers)
        self._while_frozen: Callable[[], object] | None = while_frozen

    def __enter__(self) -> Self:
        supervision.send(self._site, "cinder-volume", signal.SIGSTOP)
        return super().__enter__()

    def look(self) -> dict[str, int] | None:
        durable = super().look()
        if durable and self.sightings:
            if self._while_frozen is not None:
                self._while_frozen()
                self._while_frozen = None
            self._let_go()
        return durable

    def __exit__(self, *raised: object) -> None:
        self._let_go()
        super().__exit__(*raised)

    def _let_go(self) -> None:
        supervision.send(self._site, "cinder-volume", signal.SIGCONT)
