# SPDX-License-Identifier: Apache-2.0
"""What the mover is asked to do, and what it answers: JSON between its process and ours."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from antipode.config import HelperConfig
from antipode.model.base import Model
from antipode.model.source import BackupRecord, Delta

ENDS_WITHIN_S = 60.0
"""How long the mover may live after the end of its input: for a write that is under way, and for
the detachment.
"""


class VolumeJob(Model):
    """One volume, and the backup that it is to hold."""

    volume: str
    claim: str
    """ours in the volume's metadata: while another stands there, nothing is written"""
    chain: list[BackupRecord] = Field(default_factory=list)
    """base first; the last is that which the volume is to hold"""
    deltas: list[Delta] = Field(default_factory=list)
    """those of a change stream, in the place of backups"""
    holds: BackupRecord | None = None
    """that which it holds; None: that is read from the volume"""
    holds_delta: str | None = None
    """the same of a change stream"""
    reads: bool = False
    """whether the volume is read even so, to see that it holds that"""
    is_new: bool = False
    run: str = ""
    """that which has made the volume for itself; empty: it stands, and none may have it"""

    @property
    def wanted(self) -> str:
        """The id of the backup or delta that the volume is to hold."""
        return self.deltas[-1].id if self.deltas else self.chain[-1].id

    @property
    def is_read(self) -> bool:
        """Whether all of the volume is read."""
        return self.reads or (self.holds is None and self.holds_delta is None)


class Access(Model):
    """How the mover gets at volumes and objects."""

    site: str
    cloud: str
    """of the site, in clouds.yaml"""
    store: str
    store_cloud: str
    """of the object store"""
    root_helper: str = "sudo"
    asks_host: bool = False
    keyring: Path | None = None
    modules: Path | None = None
    helper: HelperConfig | None = None
    """that to which volumes are attached; None: to this host"""


class Job(Model):
    lock: Path
    """held by the process while it lives"""
    at_once: int = 1
    """volumes"""
    volumes: list[VolumeJob]


class Outcome(Model):
    """How it went with one volume."""

    volume: str
    code: str = ""
    """of the error; empty: it holds the wanted backup"""
    problem: str = ""
    touched: bool = True
    """whether anything may have been written"""
    blocks: int = 0
    objects: int = 0
    fetched: int = 0
    """bytes, as all that follow"""
    written: int = 0
    zeroed: int = 0
    data: int = 0
    """bytes of the volume that are not zeros"""
    foreign: int = 0
    """blocks that held something else than was known of them"""
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return not self.code
