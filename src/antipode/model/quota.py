# SPDX-License-Identifier: Apache-2.0
"""What a run needs of the quotas of a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antipode.model.base import Model

OF_ONE = ("metadata_items", "per_volume_gigabytes")
"""Quotas that limit one server, or one volume, each by itself."""


class QuotaNeed(Model):
    """The need of one quota of the project; `limit` -1 is unlimited."""

    resource: str
    needed: int
    used: int
    limit: int
    freed: int = 0
    """how much of `used` will be free by then"""

    @property
    def staying(self) -> int:
        """How much is used by that which stays."""
        return max(self.used - self.freed, 0)

    @property
    def adds_up(self) -> bool:
        """Whether what several VNFs need of it counts together."""
        return not self.resource.startswith(OF_ONE)

    @property
    def is_short(self) -> bool:
        return self.limit >= 0 and self.staying + self.needed > self.limit

    def is_near(self, times: int) -> bool:
        """Whether there is room for what is needed, but not for `times` as much."""
        return 0 <= self.limit < self.staying + times * self.needed and not self.is_short

    def __str__(self) -> str:
        free = max(self.limit - self.staying, 0)
        return (
            f"quota {self.resource} of the project: {self.needed} more are needed,"
            f" {free} of {self.limit} are free"
        )


def quota_needs(
    needed: Mapping[str, int], quota: Mapping[str, Any], used: str = "in_use"
) -> list[QuotaNeed]:
    """The needs of those quotas that a service has.

    Args:
        needed: quota -> how much more of it is needed.
        quota: the service's answer: quota -> {limit, reserved, and the field `used`}.
    """
    return [
        QuotaNeed(
            resource=name,
            needed=amount,
            used=quota[name][used] + quota[name]["reserved"],
            limit=quota[name]["limit"],
        )
        for name, amount in needed.items()
        if amount and name in quota
    ]
