# SPDX-License-Identifier: Apache-2.0
"""Storages that replicate by themselves, as they are configured and as they describe what they
hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from antipode.model.base import Model


@dataclass(frozen=True)
class StorageAt:
    """A storage as the configuration describes it at one site."""

    name: str
    driver: str
    settings: Mapping[str, Any]
    """checked by the driver"""


class Health(StrEnum):
    """How a replica is."""

    REPLICATING = "replicating"
    """it follows its original"""
    FIRST_SYNC = "first-sync"
    """it is being filled for the first time, and is no copy yet"""
    STOPPED = "stopped"
    """nothing arrives; it is a whole copy of an earlier moment"""
    BROKEN = "broken"
    """its storage reports an error, such as two originals"""
    WRITABLE = "writable"
    """it was promoted, or is the original itself"""
    ABSENT = "absent"


class Replica(Model):
    """A volume as its storage at one site describes it."""

    image: str
    """the name of the volume in the storage"""
    health: Health
    lag_s: float | None = None
    """how old it is, in seconds; None where the storage does not say"""
    lag_bytes: int | None = None
    detail: str = ""
    """in the words of the storage"""
