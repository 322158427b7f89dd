# SPDX-License-Identifier: Apache-2.0
"""The records of the canary VNF, and whether those of its members are one consistent state of their
chain.

Both the lab's guests and those of embedded sites write them, and both are judged here; nothing else
is imported for it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

CHAIN = ("db", "app", "front")
"""The members in the order in which a record becomes durable: what a member has, all before it must
have.
"""

RECORD = 64
_CHECKSUM = slice(55, 63)
_TEXT = re.compile(rb"(\d{12}) (\w+) +(\d{4}) (\d{13}) (\d{16}) ([0-9a-f]{8})\n")


def written(number: int, role: str, boot: int, written_ms: int, made_us: int) -> bytes:
    """A record as it is written."""
    text = b"%012d %-5s %04d %013d %016d " % (number, role.encode(), boot, written_ms, made_us)
    return text + b"%08x\n" % zlib.crc32(text)


@dataclass(frozen=True)
class Record:
    """One whole record."""

    number: int
    role: str
    boot: int
    written_ms: int
    made_us: int
    """given by the head of the chain, so the same at all members"""


@dataclass(frozen=True)
class Member:
    """The findings in one member's records, looked at alone.

    All numbers that should not be there are lists, empty when all is well.
    """

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
    """start of the member -> last number written since that start: what was there before a
    recovery, and what came after
    """

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with the member's own records, of which there are some."""
        return bool(self.count) and not (self.torn or self.gaps or self.duplicates or self.foreign)


@dataclass(frozen=True)
class OrderViolation:
    """`ahead` has records that `behind` lacks, although it may only write what `behind` has
    durable.
    """

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
    """The findings in the records of all members together."""

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
        """True when nothing at all is wrong; False also when a member of the chain is missing or
        has no records.
        """
        return (
            all(m.is_whole for m in self.members.values())
            and set(self.members) == set(CHAIN)
            and not self.order_violations
            and not self.content_mismatches
        )

    def as_json(self) -> dict[str, object]:
        totals = {
            "torn": self.torn,
            "gaps": self.gaps,
            "duplicates": self.duplicates,
            "last": self.last,
        }
        return {"consistent": self.consistent, **totals, **asdict(self)}


def check(records: Mapping[str, bytes]) -> Report:
    """Check the contents of the members' record files.

    Args:
        records: role of the member (one of CHAIN; others are left out) -> all bytes of its record
            file.
    """
    present = [role for role in CHAIN if role in records]
    parsed = {role: list(parse(records[role])) for role in present}
    members = {role: _check_member(role, parsed[role]) for role in present}
    made = {role: {r.number: r.made_us for r in parsed[role] if r} for role in present}
    violations, mismatches = [], []
    for behind, ahead in pairwise(present):
        if members[ahead].last > members[behind].last:
            violations.append(
                OrderViolation(ahead, behind, members[ahead].last, members[behind].last)
            )
        common = made[ahead].keys() & made[behind].keys()
        mismatches += [
            ContentMismatch((behind, ahead), n)
            for n in sorted(common)
            if made[ahead][n] != made[behind][n]
        ]
    return Report(members, violations, mismatches)


def check_alone(role: str, content: bytes) -> Member:
    """Check the records of one member by themselves: nothing is said of the order across members,
    which a capture of one member after another does not keep.
    """
    return _check_member(role, list(parse(content)))


def parse(content: bytes) -> Iterator[Record | None]:
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
