# SPDX-License-Identifier: Apache-2.0
"""Whether members are known to be stopped at the site that a failover leaves. That site is asked
beside the run, which waits for no answer of it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping

from antipode import logs
from antipode.cloud.compute import is_unreadable
from antipode.errors import AntipodeError
from antipode.recover import fencing
from antipode.runs import failover_fence
from antipode.runs.failover_fence import Former

LOG = logging.getLogger(__name__)
ANSWERS_WITHIN_S = 5.0
AGAIN_S = 15.0
"""Between two looks."""


class StoppedCopies:
    """The members of the former copy that run no more, as far as that is known."""

    def __init__(self, former: Former, planned: Mapping[str, str]) -> None:
        """
        Args:
            planned: id at the captured site -> name of the members that are recovered. From an
                older point that may be one which is known as no member of that copy any more.
        """
        self._former = former
        self._planned = planned
        self._lock = threading.Lock()
        self._looks = False
        self._looked_at = -math.inf
        self._running: set[str] | None = None
        """by name; None: not known"""

    def has(self, server: str) -> bool:
        """Whether a member is known to be stopped there, by the last look; the next one begins
        when it is due.
        """
        with self._lock:
            if not self._looks and time.monotonic() - self._looked_at >= AGAIN_S:
                self._looks = True
                threading.Thread(target=self._look, name="former site", daemon=True).start()
            return self._running is not None and server not in self._running

    def _look(self) -> None:
        former, running = self._former, None
        logs.adopt(former.run.id)
        try:
            running = set() if failover_fence.is_fenced(former) else self._ask()
        except AntipodeError as error:
            LOG.info("whether the copy at %s is stopped is not known: %s", former.site, error)
        finally:
            with self._lock:
                self._running, self._looks = running, False
                self._looked_at = time.monotonic()

    def _ask(self) -> set[str] | None:
        """The members that run there; None where Nova does not show all of them.

        Raises:
            NotFound: nothing says which servers are of that copy.
            SiteUnreachable, VaultError: it is not known.
        """
        copy = self._former.copy
        site = self._former.run.site(self._former.site).impatient(ANSWERS_WITHIN_S)
        servers = site.compute.servers()
        if any(map(is_unreadable, servers)):
            return None  # such a one shows no mark either
        members = [s for s in servers if s["id"] in self._planned or copy.has(s)]
        names = {**copy.servers, **self._planned}
        return {str(names.get(m["id"], m["name"])) for m in members if not fencing.is_off(m)}
