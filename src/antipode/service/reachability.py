# SPDX-License-Identifier: Apache-2.0
"""Whether a site answers, looked at again and again. Nothing but a metric depends on it: no run is
kept from a site that was silent a minute ago.
"""

from __future__ import annotations

import logging
import threading

from antipode.engine.deployment import Deployment
from antipode.errors import AntipodeError

LOG = logging.getLogger(__name__)
LOOK_S = 60.0
"""Between two looks."""


class Reachability:
    """Looks at one site, in a thread of its own: one that is silent holds up no other."""

    def __init__(self, deployment: Deployment, site: str) -> None:
        self.site = site
        self._deployment = deployment
        self.is_up: bool | None = None
        """None: it was not looked at yet"""

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while True:
            self.look()
            if stop.wait(LOOK_S):
                return

    def look(self) -> None:
        """Ask the site for a token, where there is none, and its Nova for the zones
        (GET /os-availability-zone). Whatever goes wrong there is the answer.
        """
        try:
            self._deployment.site(self.site, None).compute.availability_zones()
        except Exception as error:
            if self.is_up is not False:
                is_bug = not isinstance(error, AntipodeError)
                LOG.warning("site %s does not answer: %s", self.site, error, exc_info=is_bug)
            self.is_up = False
            return
        if self.is_up is False:
            LOG.info("site %s answers again", self.site)
        self.is_up = True
