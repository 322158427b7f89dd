# SPDX-License-Identifier: Apache-2.0
"""What the metadata of a standing volume say: which volume it stands for, which backup it holds,
and which writer has it.

A volume holds a backup only if the writer that noted it is the last that has claimed the volume.
What a process notes that was stopped meanwhile, and lives again, therefore counts for nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antipode.model.marks import KEY, PREFIX, RUN, VOLUME

STANDING = "antipode:standing"
"""of a volume: VNF and id of the volume that it stands for"""
CLAIM = "antipode:standing-claim"
"""the last writer, by a name that it has given itself"""
HOLDS = "antipode:standing-holds"
"""a backup, and the writer that has brought the volume to it: `BACKUP@CLAIM`; or `WRITTEN`"""
WRITTEN = "written"
"""What a writer puts there before its first byte, and after its claim. A writer that finds it there
after its own claim knows that another was here since it has looked.
"""
SNAPSHOT = "antipode:standing-snapshot"
"""the snapshot from before the last write, and the backup that it holds: `SNAPSHOT@BACKUP`"""
READ_AT = "antipode:standing-read-at"
"""when all of it was read for the last time, in seconds since the epoch"""
DATA = "antipode:standing-data"
"""how many bytes of it are not zeros"""
RETIRED = "antipode:standing-retired"
"""a process that cannot be seen may still write it: it is of no more use, and is removed"""
NO_SNAPSHOT = "none"
"""in the place of both"""
RELEASED = "released-"
"""What a claim begins with that is no writer's."""
OF_SNAPSHOT = "antipode:standing-of"
"""of a snapshot: the volume, so that one which no metadata name is found"""


@dataclass(frozen=True)
class Standing:
    """A standing volume as Cinder shows it."""

    id: str
    source: str
    """id of the volume that it stands for"""
    size_gib: int
    volume_type: str
    status: str
    claim: str
    holds: str | None
    """the backup; None: what it holds is not known"""
    noted: str
    """what `HOLDS` says, word for word"""
    snapshot: str | None
    """id of the snapshot from before the last write"""
    snapshot_holds: str | None
    """the backup that it holds"""
    read_at: float
    """seconds since the epoch; 0: never"""
    data_bytes: int = 0
    """bytes that are not zeros; 0: not known"""

    @property
    def is_at_rest(self) -> bool:
        """Whether it holds a backup that is known, and no writer has it."""
        return self.status == "available" and self.holds is not None

    @property
    def is_free(self) -> bool:
        """Whether no writer has it, whatever it holds."""
        return self.is_at_rest or (self.status == "available" and self.claim.startswith(RELEASED))

    @property
    def is_broken(self) -> bool:
        """Whether it is of no use any more."""
        return self.status.startswith("error") or self.status == "deleting"


def standing_key(vnf: str, source_id: str) -> str:
    """What `STANDING` says of the volume that stands for one of a VNF."""
    return f"{vnf}/{source_id}"


def new_claim() -> str:
    """A name for a writer, unlike all others."""
    return secrets.token_hex(12)


def released(claim: str) -> str:
    """A claim by which nothing writes the volume."""
    return f"{RELEASED}{claim}"


def held_backup(metadata: Mapping[str, str]) -> str | None:
    """The backup that a volume holds, by its metadata; None where that is not known."""
    claim = metadata.get(CLAIM) or ""
    backup, _, writer = (metadata.get(HOLDS) or "").partition("@")
    return backup if backup and claim and writer == claim else None


def read_standing(volume: Mapping[str, Any], vnf: str) -> Standing | None:
    """What a volume says of itself; None for one that stands for none of this VNF.

    One that was restored from the backup of a standing volume has its metadata, and is none.
    """
    metadata = volume["metadata"]
    said = str(metadata.get(STANDING) or "")
    if not said.startswith(f"{vnf}/") or metadata.get(VOLUME) != volume["id"]:
        return None
    if RETIRED in metadata or is_taken(volume):
        return None
    claim = str(metadata.get(CLAIM) or "")
    snapshot, _, held = str(metadata.get(SNAPSHOT) or "").partition("@")
    try:
        read_at = float(metadata.get(READ_AT) or 0)
    except ValueError:
        read_at = 0.0
    return Standing(
        id=volume["id"],
        source=said.removeprefix(f"{vnf}/"),
        size_gib=int(volume["size"]),
        volume_type=str(volume.get("volume_type") or ""),
        status=str(volume["status"]),
        claim=claim,
        holds=held_backup(metadata),
        noted=str(metadata.get(HOLDS) or ""),
        snapshot=snapshot if held else None,
        snapshot_holds=held or None,
        read_at=read_at,
        data_bytes=int(said) if (said := str(metadata.get(DATA) or "")).isdecimal() else 0,
    )


def is_standing(volume: Mapping[str, Any]) -> bool:
    """Whether a volume is a standing one of any VNF, taken by a recovery or not: nothing deletes it
    with what a run has made.
    """
    metadata = volume["metadata"]
    return STANDING in metadata and metadata.get(VOLUME) == volume["id"]


def is_standing_of(volume: Mapping[str, Any], vnf: str) -> bool:
    """Whether a volume stands for one of this VNF, or did until it was retired."""
    said = volume["metadata"].get(STANDING) or ""
    return said.startswith(f"{vnf}/") and is_standing(volume) and not is_taken(volume)


def is_taken(volume: Mapping[str, Any]) -> bool:
    """Whether a recovery has a standing volume."""
    return KEY in volume["metadata"] or RUN in volume["metadata"]


def given_back(volume: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a standing volume that a recovery had: what it holds is not known."""
    kept = {
        k: v for k, v in volume["metadata"].items() if k in (STANDING, VOLUME, SNAPSHOT, READ_AT)
    }
    return {**kept, CLAIM: released(new_claim())}


def of_standing(metadata: Mapping[str, str]) -> dict[str, str]:
    """Those of a standing volume among metadata, which its use in a recovery leaves."""
    return {k: v for k, v in metadata.items() if k.startswith(f"{PREFIX}standing")}
