"""Reads the canary's records from the bytes of its data volumes and says whether they are one consistent state of the chain."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from lab.errors import LabError

CHAIN = ("db", "app", "front")
"""The members in the order in which a record becomes durable: what a member has, all before it must have."""

RECORD = 64
RECORDS_FILE = "/records.log"
_CHECKSUM = slice(55, 63)
_TEXT = re.compile(rb"(\d{12}) (\w+) +(\d{4}) (\d{13}) (\d{16}) ([0-9a-f]{8})\n")


@dataclass(frozen=True)
class Record:
    """One whole record, as `canary.c` writes it."""

    number: int
    role: str
    boot: int
    written_ms: int
    made_us: int
    """given by the head of the chain, so the same at all members"""


@dataclass(frozen=True)
class Member:
    """What one member's records say when looked at alone. All numbers that should not be there are lists, empty when all is well."""

    first: int
    last: int
    count: int
    torn: int
    """pieces of 64 bytes that are not a whole record with a right checksum"""
    gaps: list[int] = field(default_factory=list)
    """numbers between 1 and `last` that are missing"""
    duplicates: list[int] = field(default_factory=list)
    """numbers that come again, or after a higher one"""
    foreign: list[int] = field(default_factory=list)
    """numbers of records that another role wrote: the member has got another member's volume"""
    last_of_boot: dict[int, int] = field(default_factory=dict)
    """start of the member -> last number written since that start: what was there before a recovery, and what came after"""


@dataclass(frozen=True)
class OrderViolation:
    """`ahead` has records that `behind` lacks, although it may only write what `behind` has durable."""

    ahead: str
    behind: str
    ahead_last: int
    behind_last: int


@dataclass(frozen=True)
class ContentMismatch:
    """Two members have a record of the same number that is not the same record."""

    members: tuple[str, str]
    number: int


@dataclass(frozen=True)
class Report:
    """What the records of all members say together."""

    members: dict[str, Member]
    order_violations: list[OrderViolation]
    content_mismatches: list[ContentMismatch]

    @property
    def torn(self) -> int:
        return sum(m.torn for m in self.members.values())

    @property
    def gaps(self) -> int:
        return sum(len(m.gaps) for m in self.members.values())

    @property
    def duplicates(self) -> int:
        return sum(len(m.duplicates) for m in self.members.values())

    @property
    def last(self) -> dict[str, int]:
        return {role: m.last for role, m in self.members.items()}

    @property
    def consistent(self) -> bool:
        """True when nothing at all is wrong; False also when a member of the chain is missing or has no records."""
        alone = all(m.count and not (m.torn or m.gaps or m.duplicates or m.foreign) for m in self.members.values())
        return alone and set(self.members) == set(CHAIN) and not self.order_violations and not self.content_mismatches

    def as_json(self) -> dict[str, object]:
        totals = {"torn": self.torn, "gaps": self.gaps, "duplicates": self.duplicates, "last": self.last}
        return {"consistent": self.consistent, **totals, **asdict(self)}


def check(records: Mapping[str, bytes]) -> Report:
    """Check the contents of the members' record files.

    Args:
        records: role of the member (one of CHAIN) -> all bytes of its record file.
    """
    if unknown := set(records) - set(CHAIN):
        raise LabError(f"not a role of the canary: {', '.join(sorted(unknown))}; roles are {', '.join(CHAIN)}")
    present = [role for role in CHAIN if role in records]
    parsed = {role: list(_parse(records[role])) for role in present}
    members = {role: _check_member(role, parsed[role]) for role in present}
    made = {role: {r.number: r.made_us for r in parsed[role] if r} for role in present}
    violations, mismatches = [], []
    for behind, ahead in pairwise(present):
        if members[ahead].last > members[behind].last:
            violations.append(OrderViolation(ahead, behind, members[ahead].last, members[behind].last))
        common = made[ahead].keys() & made[behind].keys()
        mismatches += [ContentMismatch((behind, ahead), n) for n in sorted(common) if made[ahead][n] != made[behind][n]]
    return Report(members, violations, mismatches)


def _parse(content: bytes) -> Iterator[Record | None]:
    """The records in the order of the file; None for each piece that is torn."""
    for start in range(0, len(content), RECORD):
        piece = content[start : start + RECORD]
        match = _TEXT.fullmatch(piece)
        if match and zlib.crc32(piece[: _CHECKSUM.start]) == int(piece[_CHECKSUM], 16):
            number, role, boot, written, made, _ = match.groups()
            yield Record(int(number), role.decode(), int(boot), int(written), int(made))
        else:
            yield None


def _check_member(role: str, records: Sequence[Record | None]) -> Member:
    whole = [r for r in records if r]
    last, duplicates = 0, []
    for record in whole:
        if record.number <= last:
            duplicates.append(record.number)
        last = max(last, record.number)
    seen = {r.number for r in whole}
    return Member(
        first=min(seen, default=0),
        last=last,
        count=len(whole),
        torn=len(records) - len(whole),
        gaps=sorted(set(range(1, last + 1)) - seen),
        duplicates=duplicates,
        foreign=[r.number for r in whole if r.role != role],
        last_of_boot={r.boot: r.number for r in whole},
    )


def records_of_image(volume: Path) -> bytes:
    """The record file in a raw image of a data volume. The image is read only: a crashed filesystem is repaired on a copy.

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
    """As a mount would. What a frozen filesystem left needs none of it; what a crash left does."""
    done = subprocess.run(["e2fsck", "-fy", str(filesystem)], capture_output=True, text=True)
    if done.returncode & ~1:  # 1: errors were corrected
        raise LabError(
            f"no usable ext4 filesystem on the volume: e2fsck: exit {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}"
        )


def _run(*command: str | Path) -> str:
    if not shutil.which(str(command[0])):
        raise LabError(f"{command[0]} is not installed (Debian package e2fsprogs or coreutils)")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
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
