# SPDX-License-Identifier: Apache-2.0
"""The lab with its extra `replication`, for tests that need it."""

from __future__ import annotations

from lab import extras
from lab.site import SITES
from tests.lab.command import lab


def add_replication() -> None:
    """Have both sites have it, unless they do."""
    if not all(extras.has(site, extras.REPLICATION) for site in SITES.values()):
        lab("up", "--with", extras.REPLICATION)
