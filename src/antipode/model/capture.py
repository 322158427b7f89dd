"""What the steps of a protection hand on: the snapshots of one quiesce window, and the backups made
from them.
"""

from __future__ import annotations

from antipode.model.base import Model
from antipode.model.point import BackupRecord, Consistency, QuiesceWindow


class SnapshotSet(Model):
    """The snapshots of all volumes of a VNF at one consistent moment."""

    snapshots: dict[str, str]
    """volume id -> snapshot id"""
    consistent_at: str
    """RFC 3339, UTC: when the last member was frozen and no snapshot had been started yet"""
    window: QuiesceWindow
    consistency: Consistency = "application"


class BackupSet(Model):
    """The backups of one recovery point."""

    restore: dict[str, str]
    """volume id -> id of the backup to restore"""
    backups: dict[str, BackupRecord]
    """backup id -> record, the older backups of each chain included"""
    full_because: dict[str, str] = {}
    """volume id -> why its backup is a full one"""
