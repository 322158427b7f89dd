# SPDX-License-Identifier: Apache-2.0
"""The errors of the lab. Each says what happened, to which site or program, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what it was asked for. The text is shown to the user as it is."""


class SiteDown(LabError):
    """A command needed a running site."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"{site} is not running; start it with: python -m lab revive {site} (or: python -m "
            "lab up)"
        )
