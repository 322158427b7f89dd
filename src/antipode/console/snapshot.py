# SPDX-License-Identifier: Apache-2.0
"""The overview as it was a moment ago, so that many browsers are one look at the database."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from antipode.engine.deployment import Deployment
from antipode.operations import overview
from antipode.operations.overview import Definitions, Overview

LOG = logging.getLogger(__name__)
FRESH_S, AS_LONG = 1.5, 4.0
"""An overview is shown for so many seconds, and so many times as long as it took to make."""


class Snapshots:
    """The newest overview of a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._definitions = Definitions()
        self._newest: Overview | None = None
        self._fresh_s = FRESH_S
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Begin to read all definitions, so that the first visitor does not wait for that."""
        threading.Thread(target=self._warmed, name="console", daemon=True).start()

    def _warmed(self) -> None:
        try:
            self.newest()
        except SQLAlchemyError as error:
            LOG.warning("the VNFs cannot be read yet: %s", error)

    def newest(self) -> Overview:
        """The overview as it was a moment ago."""
        with self._lock:
            began = time.time()
            if self._newest is None or began - self._newest.at > self._fresh_s:
                definitions = self._definitions.all(self._deployment)
                self._newest = overview.of(self._deployment, definitions)
                self._fresh_s = max(FRESH_S, AS_LONG * (time.time() - began))
            return self._newest

    def forget(self) -> None:
        """Look again next time: something was changed."""
        with self._lock:
            self._newest = None
