# SPDX-License-Identifier: Apache-2.0
"""A witness of a quiesce window that is never too late: Cinder makes no snapshot before it has seen
all members frozen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Self

from lab import inside, supervision
from lab.site import Site
from lab.witness import Witness


class AwaitedWitness(Witness):
    """Holds cinder-volume until it has looked twice: what members had durable, and that it stays
    so.
    """

    def __init__(self, site: Site, servers: Mapping[str, str]) -> None:
        super().__init__(site, servers)
        # of the group of processes that its supervisor has made
        self._cinder_volume = inside.pids(site)[supervision.processes(site)["cinder-volume"]["pid"]]

    def __enter__(self) -> Self:
        os.killpg(self._cinder_volume, signal.SIGSTOP)
        return super().__enter__()

    def look(self) -> dict[str, int] | None:
        durable = super().look()
        if durable and self.sightings:
            self._let_go()
        return durable

    def __exit__(self, *raised: object) -> None:
        self._let_go()
        super().__exit__(*raised)

    def _let_go(self) -> None:
        os.killpg(self._cinder_volume, signal.SIGCONT)
