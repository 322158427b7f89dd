# SPDX-License-Identifier: Apache-2.0
"""Reads the canary's records from the bytes of its data volumes and says whether they are one
consistent state of the chain.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from antipode.sandbox import records
from antipode.sandbox.records import (
    CHAIN,
    RECORD,
    ContentMismatch,
    Member,
    OrderViolation,
    Record,
    Report,
)
from lab.errors import LabError

__all__ = [
    "CHAIN",
    "RECORD",
    "ContentMismatch",
    "Member",
    "OrderViolation",
    "Record",
    "Report",
    "check",
    "records_of_image",
]

RECORDS_FILE = "/records.log"


def check(contents: Mapping[str, bytes]) -> Report:
    """Check the contents of the members' record files: role of the member (one of CHAIN) -> all
    bytes of its record file.
    """
    if unknown := set(contents) - set(CHAIN):
        raise LabError(
            f"not a role of the canary: {', '.join(sorted(unknown))}; roles are {', '.join(CHAIN)}"
        )
    return records.check(contents)


def records_of_image(volume: Path) -> bytes:
    """The record file in a raw image of a data volume. The image is read only: a crashed filesystem
    is repaired on a copy.

    Raises LabError when there is no ext4 filesystem or no record file in it.
    """
    with tempfile.TemporaryDirectory(prefix="canary-check-") as work:
        copy = Path(work) / "volume.raw"
        _run("cp", "--sparse=always", "--reflink=auto", volume, copy)
        return _read_records(copy)


def _read_records(filesystem: Path) -> bytes:
    _replay_journal(filesystem)
    out = filesystem.with_name("records")
    # debugfs exits with 0 whatever happens; that it made no file tells
    said = _run("debugfs", "-R", f"dump {RECORDS_FILE} {out}", filesystem)
    if not out.exists():
        raise LabError(f"no records on the volume: {said.strip() or 'debugfs gave no reason'}")
    return out.read_bytes()


def _replay_journal(filesystem: Path) -> None:
    """Replays the journal, as a mount would. A frozen file system needs no replay; a crash does."""
    done = subprocess.run(["e2fsck", "-fy", str(filesystem)], capture_output=True, text=True)
    if done.returncode & ~1:  # 1: errors were corrected
        raise LabError(
            f"no usable ext4 filesystem on the volume: e2fsck: exit {done.returncode}: "
            f"{(done.stdout + done.stderr).strip()[-300:]}"
        )


def _run(*command: str | Path) -> str:
    if not shutil.which(str(command[0])):
        raise LabError(f"{command[0]} is not installed (Debian package e2fsprogs or coreutils)")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise LabError(
            f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    return done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Check images of data volumes given as ROLE=PATH; exit code 1 when they are not consistent."""
    parser = argparse.ArgumentParser(prog="python -m lab.checker", description=main.__doc__)
    parser.add_argument("volume", nargs="+", metavar="ROLE=PATH", help=f"roles: {', '.join(CHAIN)}")
    volumes = dict(v.split("=", 1) for v in parser.parse_args(arguments).volume)
    report = check({role: records_of_image(Path(path)) for role, path in volumes.items()})
    json.dump(report.as_json(), sys.stdout, indent=2)
    return 0 if report.consistent else 1


if __name__ == "__main__":
    sys.exit(main())
