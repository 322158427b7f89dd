"""What can go wrong in the lab, each error saying what happened, to what, and what to do."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab cannot go on from; its text is shown to the user as it is."""


class SiteDown(LabError):
    """A command needed a running site."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"{site} is not running; start it with: python -m lab revive {site} (or: python -m "
            "lab up)"
        )
