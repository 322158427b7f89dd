# SPDX-License-Identifier: Apache-2.0
"""Whether a VNF could be recovered now: findings in three colours, and the verdict over them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from antipode.model.base import Model


class Level(StrEnum):
    """The meaning of a finding for a recovery."""

    GREEN = "green"
    """it is as it should be"""
    YELLOW = "yellow"
    """the VNF can be recovered all the same; losses and things to mend are named"""
    RED = "red"
    """the VNF cannot be recovered until it is mended"""


_ORDER = list(Level)


class Finding(Model):
    """One thing that was looked at."""

    check: str
    """the thing, in a word or two"""
    level: Level
    detail: str


def verdict(findings: Iterable[Finding]) -> Level:
    """The worst level of all findings; green where there is none."""
    return max((f.level for f in findings), key=_ORDER.index, default=Level.GREEN)
