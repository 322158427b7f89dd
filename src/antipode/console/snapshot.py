# SPDX-License-Identifier: Apache-2.0
"""The overview as it was a moment ago, so that many browsers are one look at the database."""

from __future__ import annotations

import threading
import time

from antipode.engine.deployment import Deployment
from antipode.operations import overview
from antipode.operations.overview import Definitions, Overview

FRESH_S = 1.5


class Snapshots:
    """The newest overview of a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._definitions = Definitions()
        self._newest: Overview | None = None
        self._lock = threading.Lock()

    def newest(self) -> Overview:
        """The overview, at most FRESH_S old."""
        with self._lock:
            if self._newest is None or time.time() - self._newest.at > FRESH_S:
                self._newest = overview.of(
                    self._deployment, self._definitions.all(self._deployment)
                )
            return self._newest

    def forget(self) -> None:
        """Look again next time: something was changed."""
        with self._lock:
            self._newest = None
