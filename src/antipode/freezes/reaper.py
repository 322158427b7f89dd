# SPDX-License-Identifier: Apache-2.0
"""The reaper: unquiesces servers that are past their deadline in the freeze ledger, whichever
process froze them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from antipode.errors import AntipodeError, NotFound
from antipode.freezes.ledger import Freezes
from antipode.freezes.unquiesce import one_after_another, thaw
from antipode.logs import adopt, current_run
from antipode.store.tables import FreezeRow

if TYPE_CHECKING:
    from antipode.cloud.site import Site

LOG = logging.getLogger(__name__)
EVERY_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between two attempts to unquiesce the same server."""
MOST_THREADS = 16
"""Servers of a dead run that are unquiesced at once."""


def reap(freezes: Freezes, site: Site, now: float | None = None) -> list[str]:
    """Unquiesce every server of a site whose deadline is before `now` (seconds since the epoch, by
    the database's clock; by default this moment); the names of those unquiesced.

    One that fails stays in the ledger and is tried again by the next reaper.
    """
    now = freezes.now() if now is None else now
    overdue = _overdue(freezes, site, now)
    return [row.server for row in overdue if _thaw(freezes, site, row, now)]


def thaw_left_by(freezes: Freezes, site: Site, run: str) -> list[str]:
    """Unquiesce at a site the servers that a run has left frozen whose process is dead, whatever
    the deadline; the names of those unquiesced.

    The last that was frozen comes first. One that hangs does not delay the others for long.
    """
    there = (site.name, site.project)
    left = [row for row in freezes.left_by(run) if (row.site, row.project) == there]
    if not left:
        return []
    with ThreadPoolExecutor(
        min(len(left), MOST_THREADS), "thaw", initializer=adopt, initargs=(current_run(),)
    ) as pool:
        thawed = one_after_another(pool, [partial(_thaw_now, freezes, site, row) for row in left])
        return [row.server for row, done in zip(left, thawed, strict=True) if done]


class Reaper:
    """A thread that reaps at all connected sites while the block runs."""

    def __init__(self, freezes: Freezes, sites: Callable[[], Sequence[Site]]) -> None:
        self._freezes = freezes
        self._sites = sites
        self._pause: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reaper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                for site in self._sites():
                    self._reap_at(site)
            except Exception:
                LOG.exception("reaping failed; trying again")

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _reap_at(self, site: Site) -> None:
        try:
            self._reap(site)
        except Exception:
            # the last layer but one against a frozen VNF must survive a locked database or a bug
            LOG.exception("reaping at %s failed; trying again", site.name)

    def _reap(self, site: Site) -> None:
        """Unquiesce what is overdue. A server that fails is tried after longer and longer pauses,
        so that it does not delay the others.
        """
        for row in _overdue(self._freezes, site):
            if time.monotonic() < self._next.get(row.id, 0):
                continue
            if not _thaw(self._freezes, site, row, self._freezes.now()):
                self._pause[row.id] = min(2 * self._pause.get(row.id, EVERY_S), LONGEST_PAUSE_S)
                self._next[row.id] = time.monotonic() + self._pause[row.id]


def _overdue(freezes: Freezes, site: Site, now: float | None = None) -> list[FreezeRow]:
    """Those of the project that the connection to the site is of: a server of another one may look
    as if it did not exist.
    """
    return [row for row in freezes.overdue(site.name, now) if row.project == site.project]


def _thaw(freezes: Freezes, site: Site, row: FreezeRow, now: float) -> bool:
    """Unquiesce one server that is past its deadline; whether it is unquiesced or gone."""
    if not freezes.is_overdue(row, now):
        # meanwhile it was unquiesced, or a window has begun in which it is frozen rightly
        return False
    LOG.warning(
        "server %s at %s is past its freeze deadline by %.1f s and is unquiesced",
        row.server,
        site.name,
        now - row.deadline,
    )
    return _thaw_now(freezes, site, row)


def _thaw_now(freezes: Freezes, site: Site, row: FreezeRow) -> bool:
    server = f"server {row.server} ({row.server_id}) at {site.name}"
    try:
        thaw(site, row.server_id)
    except NotFound:
        LOG.warning("%s does not exist any more", server)
    except AntipodeError as error:
        LOG.error("%s may still be frozen: %s", server, error)
        return False
    freezes.thawed(row.id)
    return True
