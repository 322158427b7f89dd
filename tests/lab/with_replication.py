# SPDX-License-Identifier: Apache-2.0
"""The lab with its extra `replication`, for tests that need it."""

from __future__ import annotations

from lab import extras
from tests.lab import with_extra


def add_replication() -> None:
    """Have both sites have it, unless they do."""
    with_extra.add(extras.REPLICATION)
