# SPDX-License-Identifier: Apache-2.0
"""Storages that replicate by themselves, as they are configured and as they describe what they
hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from antipode.model.base import Model


@dataclass(frozen=True)
class StorageAt:
    """A storage as the configuration describes it at one site."""

    name: str
    driver: str
    settings: Mapping[str, Any]
    """checked by the driver"""


def _of_one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be one line of printable characters")
    return text


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


class Following(Model):
    """How a copy of data is, as its storage at one site says."""

    health: Health
    lag_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """how old it is, in seconds; None where the storage does not say"""
    lag_bytes: Annotated[int, Field(ge=0)] | None = None
    """how many bytes have not arrived; None where the storage does not say"""
    detail: Annotated[str, Field(max_length=1000)] = ""
    """in the words of the storage"""


class Replica(Following):
    """A volume as its storage at one site describes it."""

    image: str
    """the name of the volume in the storage"""
    is_split: bool = False
    """whether both sites have written to it, so that it follows no longer until one side is given
    up
    """

    @property
    def is_original(self) -> bool:
        """Whether data was written to it here that the other site does not have."""
        return self.is_split or self.health is Health.WRITABLE


Line = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_of_one_line)]
"""What a storage says, and only it understands; fit for the metadata of a server."""


class Standing(Following):
    """The data of an application as one site has it."""

    position: Line | None = None
    """the last consistent position that is durable there, in the words of the storage"""
    reached: bool | None = None
    """whether the position that was asked for is durable there; None: none was asked for"""
    origin: Line | None = None
    """the reference of the data that it follows; None where the storage does not say"""


class Verb(StrEnum):
    """What an application's own replication is asked for at one site."""

    STATUS = "status"
    """how the data is, and whether it has reached a position"""
    REFERENCE = "reference"
    """by what the application finds the data"""
    POINT = "point"
    """have a position that holds all that was written before"""
    PROMOTE = "promote"
    """have the data writable"""
    DEMOTE = "demote"
    """have the data not writable"""
    RESYNC = "resync"
    """have the data follow that of another site, whatever it was before"""


class KeptPosition(Model):
    """The data of an application as a recovery point has it."""

    storage: str
    """its name in antipode.yaml"""
    position: Line
    """which holds all that was written before the moment of the point"""
    sites: Annotated[list[str], Field(min_length=1)]
    """those that had reached it when the point was made, beside that where it was made"""
    references: dict[str, Line] = {}
    """site -> by what the application finds the data there"""
