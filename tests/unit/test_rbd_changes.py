# SPDX-License-Identifier: Apache-2.0
"""What `rbd export-diff` says is read whole or refused: with the double of the embedded sites, and
with commands that go wrong.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import antipode
from antipode.config import ChangesConfig
from antipode.datastores.rbd_changes import HEADER, Change, NoSuchState, RbdChanges
from antipode.errors import AntipodeError, Interrupted, ResourceFailed, SiteUnreachable
from antipode.sandbox import blocks
from antipode.sandbox.rbd import CONDITIONS, GRAIN, SETTINGS

SIZE = 4 << 20
IMAGE = "volume-1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of an embedded site, beside another; neither is up."""
    for name in ("a", "b"):
        for part in ("volumes", "snapshots"):
            (tmp_path / name / part).mkdir(parents=True)
        (tmp_path / name / SETTINGS).write_text(
            json.dumps({"host": "127.0.0.1", "control_port": 1})
        )
    return tmp_path / "a"


def double(folder: Path, timeout: float = 60.0) -> RbdChanges:
    source = Path(antipode.__file__).parents[1]  # a command does not get PYTHONPATH from us
    command = ["env", f"PYTHONPATH={source}", sys.executable, "-S", "-m", "antipode.sandbox.rbd"]
    return by([*command, str(folder)], timeout)


def by(command: Sequence[str], timeout: float = 60.0) -> RbdChanges:
    settings = ChangesConfig(host="c@rbd#rbd", command=list(command), timeout=timeout)
    return RbdChanges("site-a", settings)


def snapshot(folder: Path, name: str, content: bytes) -> None:
    path = folder / "snapshots" / f"{IMAGE}@{name}"
    blocks.create(path, len(content))
    for at in range(0, len(content), GRAIN):
        if content[at : at + GRAIN].strip(b"\0"):
            blocks.write(path, at, content[at : at + GRAIN])


def read(changes: RbdChanges, state: str, since: str | None) -> tuple[list[Change], int]:
    with changes.between(IMAGE, state, since) as (found, about):
        return list(found), about.size


def laid(content: bytes, changes: Sequence[Change]) -> bytes:
    found = bytearray(content)
    for offset, length, data in changes:
        found[offset : offset + length] = bytes(length) if data is None else data
    return bytes(found)


def test_the_changes_between_two_snapshots_make_the_one_of_the_other(folder: Path) -> None:
    chosen = random.Random(1)
    before = bytearray(SIZE)
    before[GRAIN : 9 * GRAIN] = chosen.randbytes(8 * GRAIN)
    before[-2 * GRAIN :] = chosen.randbytes(2 * GRAIN)
    after = bytearray(before)
    after[2 * GRAIN : 3 * GRAIN] = bytes(GRAIN)
    after[5 * GRAIN : 6 * GRAIN] = chosen.randbytes(GRAIN)
    after[SIZE // 2 : SIZE // 2 + 2 * GRAIN] = chosen.randbytes(2 * GRAIN)
    snapshot(folder, "s1", bytes(before))
    snapshot(folder, "s2", bytes(after))
    whole, size = read(double(folder), "s1", None)
    assert (laid(bytes(SIZE), whole), size) == (bytes(before), SIZE)
    found, _ = read(double(folder), "s2", "s1")
    assert laid(bytes(before), found) == after
    assert sum(c.length for c in found) == 4 * GRAIN
    assert [c.offset for c in found if c.data is None] == [2 * GRAIN]


def test_a_snapshot_that_is_gone_is_told_apart_from_a_failure(folder: Path) -> None:
    snapshot(folder, "s2", b"\1" * GRAIN)
    for state, since in (("s2", "s1"), ("s1", None)):
        with pytest.raises(NoSuchState):
            read(double(folder), state, since)


def test_a_diff_that_breaks_off_is_refused(folder: Path) -> None:
    snapshot(folder, "s1", b"\1" * GRAIN)
    (folder / CONDITIONS).write_text(json.dumps({"export": "cut"}))
    with pytest.raises(ResourceFailed):
        read(double(folder), "s1", None)


def test_a_command_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ResourceFailed, match="no-such-rbd"):
        read(by(["/no-such-rbd"]), "s1", None)


def diff(*records: bytes, to: bytes = b"s2", since: bytes = b"s1") -> bytes:
    names = [tag + struct.pack("<I", len(n)) + n for tag, n in ((b"f", since), (b"t", to))]
    return b"".join([HEADER, *names, b"s" + struct.pack("<Q", SIZE), *records, b"e"])


WRITE = b"w" + struct.pack("<QQ", 0, 5) + b"words"


def saying(data: bytes, code: int = 0, then: str = "pass") -> RbdChanges:
    """A command that says this."""
    program = (
        f"import sys, time; sys.stdout.buffer.write({data!r}); sys.stdout.flush(); {then}; "
        f"print('it is broken', file=sys.stderr); sys.exit({code})"
    )
    return by([sys.executable, "-c", program], timeout=0.6 if then != "pass" else 60.0)


def test_what_real_rbd_says_is_understood() -> None:
    found, size = read(saying(diff(WRITE)), "s2", "s1")
    assert (found, size) == ([Change(0, 5, b"words")], SIZE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rbd diff v2\n",
        diff(WRITE)[:-1],
        diff(WRITE)[:-3],
        diff(b"q"),
        diff(WRITE, to=b"s3"),
        diff(WRITE, since=b"s0"),
        diff(b"f" + struct.pack("<I", 1 << 30)),
        HEADER + b"e",
    ],
    ids=range(9),
)
def test_what_is_no_diff_of_these_snapshots_is_refused(data: bytes) -> None:
    with pytest.raises(ResourceFailed):
        read(saying(data), "s2", "s1")


@pytest.mark.parametrize(("data", "code"), [(diff(WRITE), 5), (diff(WRITE)[:-2], 5), (b"", 5)])
def test_a_command_that_fails_is_believed_even_after_a_whole_diff(data: bytes, code: int) -> None:
    with pytest.raises(ResourceFailed, match="it is broken"):
        read(saying(data, code), "s2", "s1")


def test_a_command_that_falls_silent_ends() -> None:
    with pytest.raises(SiteUnreachable):
        read(saying(diff(WRITE)[:-2], then="time.sleep(600)"), "s2", "s1")


def test_a_run_that_is_to_stop_ends_the_command() -> None:
    @contextmanager
    def stopped() -> Iterator[RbdChanges]:
        changes = saying(b"", then="time.sleep(600)")

        def go_on() -> None:
            raise Interrupted("it is to stop")

        yield RbdChanges("site-a", changes._settings, go_on)

    with stopped() as changes, pytest.raises(AntipodeError) as caught:
        read(changes, "s2", "s1")
    assert isinstance(caught.value, Interrupted)
