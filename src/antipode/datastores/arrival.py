# SPDX-License-Identifier: Apache-2.0
"""The wait until a copy of an application's data has reached a position, through failures that
pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from antipode.datastores.application import Application, Data
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable, Stopped

LOG = logging.getLogger(__name__)
LOOK_S = 0.2
"""Between two looks: a storage does not notify."""
VOUCH_S = 5.0
"""How often the original is asked what a copy may be compared with."""
SILENCE_S = 30.0
"""For how long a site may be silent that is not needed."""


@dataclass
class Arrival:
    """One position on its way from an original to a copy.

    Args:
        within_s: what the limit is, in seconds, for messages.
        deadline: that of the monotonic clock at which the wait has failed.
        is_needed: whether a copy that is silent is waited for until then.
    """

    here: Application
    copy: Application
    data: Data
    position: str
    within_s: float
    deadline: float
    is_needed: bool = True
    waits: Callable[[], None] = lambda: None
    """called before each wait"""

    def awaited(self) -> None:
        """Return when the position is reached.

        Raises:
            ResourceFailed: it is not in time; the message says how the copy is.
            SiteUnreachable: the copy is silent, and for how long it may be.
        """
        wanted, vouched_at, silent_since = self.position, -VOUCH_S, None
        while True:
            now = time.monotonic()
            if now - vouched_at >= VOUCH_S:
                wanted, vouched_at = self._vouched(wanted), now
            is_late = now > self.deadline
            if (trouble := self._trouble(wanted, is_late=is_late)) is None:
                return
            if not isinstance(trouble, SiteUnreachable):
                silent_since = None
            elif silent_since is None:
                silent_since = now
            elif not self.is_needed and now - silent_since > SILENCE_S:
                raise trouble
            if is_late:
                raise trouble
            self.waits()
            self.data.go_on()
            time.sleep(LOOK_S)

    def _vouched(self, known: str) -> str:
        """What to wait for; as before, while the original cannot be asked."""
        try:
            return self.here.vouched(self.data, self.position)
        except Stopped:
            raise
        except AntipodeError as error:
            LOG.warning("%s: datastore %s: %s", self.here.label, self.data.datastore, error)
            return known

    def _trouble(self, wanted: str, *, is_late: bool) -> AntipodeError | None:
        """Why the position is not seen to be reached; None: it is."""
        try:
            if self.copy.has_reached(self.data, wanted):
                return None
            if not is_late:
                return ResourceFailed("it is not there yet")
            now = self.copy.status(self.data)
        except Stopped:
            raise
        except AntipodeError as error:
            LOG.warning("%s: datastore %s: %s", self.copy.label, self.data.datastore, error)
            return error
        return ResourceFailed(
            f"{self.copy.label}: datastore {self.data.datastore} has not reached {self.position}"
            f" within {self.within_s:g} s: it is {now.health} at {now.position} ({now.detail})."
            " Mend its replication: antipode datastore status",
            resource=f"datastore {self.data.datastore}",
        )
