# SPDX-License-Identifier: Apache-2.0
"""The lab with an extra, for tests that need it."""

from __future__ import annotations

from lab import extras
from lab.site import SITES
from tests.lab.command import lab


def add(extra: str) -> None:
    """Have both sites have an extra, unless they do."""
    if not all(extras.has(site, extra) for site in SITES.values()):
        lab("up", "--with", extra)
