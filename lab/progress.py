# SPDX-License-Identifier: Apache-2.0
"""Progress messages of the lab."""

from __future__ import annotations

import sys
import time

from lab.service import Service
from lab.site import Site


class Progress:
    """Lines with the seconds since the beginning, one per thing that was done."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        print(f"{self.seconds:6.1f} s  {text}", file=sys.stderr, flush=True)

    def ready(self, site: Site, service: Service, seconds: float) -> None:
        self.say(f"{site.name}  {service.name:<20} ready, took {seconds:.1f} s")
