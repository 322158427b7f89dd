# SPDX-License-Identifier: Apache-2.0
"""What the mover is asked to do, and what it answers: JSON between its process and ours."""

from __future__ import annotations

from pathlib import Path

from antipode.model.base import Model
from antipode.model.source import BackupRecord


class VolumeJob(Model):
    """One volume, and the backup that it is to hold."""

    volume: str
    claim: str
    """ours in the volume's metadata: while another stands there, nothing is written"""
    chain: list[BackupRecord]
    """base first; the last is that which the volume is to hold"""
    holds: BackupRecord | None = None
    """that which it holds; None: that is read from the volume"""
    reads: bool = False
    """whether the volume is read even so, to see that it holds that"""
    is_new: bool = False
    run: str = ""
    """that which has made the volume for itself; empty: it stands, and none may have it"""


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


class Job(Model):
    access: Access
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
    foreign: int = 0
    """blocks that held something else than was known of them"""
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return not self.code
