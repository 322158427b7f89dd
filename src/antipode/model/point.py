"""The manifest of a recovery point: the one document from which a VNF is rebuilt with its primary
site gone.

The format is described in docs/manifest.md; `FORMAT` changes when a reader of the old one would be
wrong about the new one.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from antipode.model.base import Model
from antipode.model.topology import Topology
from antipode.model.vnf import Vnf

FORMAT = 1

Consistency = Literal["application", "group", "volume"]


class StoredObjects(Model):
    """What the backup store holds of one backup when the recovery point is made, so that it can be
    verified ever after.

    `sha256` is over the lines `name <TAB> bytes <TAB> etag <LF>` of its objects, sorted by name.
    """

    prefix: str
    """what the names of all its objects begin with"""
    objects: int
    bytes: int
    sha256: str


class BackupRecord(Model):
    """One Cinder backup: what it is, and the record that makes it known to another Cinder
    (export_record).
    """

    id: str
    volume_id: str
    parent_id: str | None
    """the backup this increment is based on; None for a full backup"""
    size_gib: int
    object_count: int
    container: str
    created_at: str
    service: str
    """backup_service of the record: the driver class, which must be the same at the backup site"""
    url: str
    """backup_url of the record, opaque"""
    stored: StoredObjects | None = None
    """None when no backup store is configured"""

    @property
    def incremental(self) -> bool:
        return self.parent_id is not None


class QuiesceWindow(Model):
    """How long the members were frozen, in seconds: in all, and each from its quiesce call to its
    confirmed unquiesce.
    """

    total_s: float
    per_member_s: dict[str, float]


class Manifest(Model):
    """A recovery point.

    `backups` holds every record needed, chains included; `restore` names the last one of each
    volume.
    """

    format: Literal[1] = 1
    id: str
    vnf: Vnf
    run: str
    consistent_at: str
    """RFC 3339, UTC: the moment whose state it holds, when the last member was frozen"""
    created_at: str
    """RFC 3339, UTC: when the manifest was made"""
    consistency: Consistency
    quiesce_window: QuiesceWindow | None
    topology: Topology
    restore: dict[str, str]
    """volume id at the primary -> id of the backup to restore"""
    backups: dict[str, BackupRecord]
    """backup id -> record"""
    made_by: str
    """antipode and its version"""

    def chain(self, volume_id: str) -> list[BackupRecord]:
        """The backups of one volume, base first.

        Raises:
            KeyError: a record of the chain is not in the manifest.
        """
        chain: list[BackupRecord] = []
        next_id: str | None = self.restore[volume_id]
        while next_id is not None:
            record = self.backups[next_id]
            chain.insert(0, record)
            next_id = record.parent_id
        return chain

    @property
    def incremental(self) -> bool:
        """Whether any volume of this point rests on an earlier backup."""
        return any(self.backups[b].incremental for b in self.restore.values())


def canonical(document: object) -> bytes:
    """The one byte string of a JSON document that checksums are made over."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal(manifest: Manifest) -> bytes:
    """What is written to the vault: `{"manifest": {...}, "sha256": "..."}`, the checksum over the
    canonical manifest.
    """
    body = manifest.model_dump(mode="json")
    return json.dumps(
        {"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()},
        indent=1,
        ensure_ascii=False,
    ).encode()
