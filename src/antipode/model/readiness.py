# SPDX-License-Identifier: Apache-2.0
"""Whether a VNF could be recovered now: findings in three colours, and the verdict over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

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


def reasons(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Why the verdict over findings, as they are kept, is not green; the worst first."""
    found = [f for f in findings if f["level"] != Level.GREEN]
    found.sort(key=lambda f: -_ORDER.index(Level(f["level"])))
    return [f"{f['level']}: {f['check']}: {f['detail']}" for f in found]
