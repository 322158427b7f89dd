# SPDX-License-Identifier: Apache-2.0
"""What has changed of a Ceph block device between two of its snapshots, by `rbd export-diff` in a
process of its own, and in the form that this command gives (rbd diff v1).
"""

from __future__ import annotations

import os
import selectors
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from antipode import processes
from antipode.config import ChangesConfig
from antipode.datastores.rbd_mirror import NO_SUCH, OF_CEPH
from antipode.errors import AntipodeError, ResourceFailed, SiteUnreachable
from antipode.processes import OF_CLIENTS

HEADER = b"rbd diff v1\n"
POLL_S = 0.5
PIECE = 1 << 20
"""Bytes that are read at once, and handed out at once of a long write."""
LONGEST_NAME = 4096
SAID = 300
"""Characters of the standard error of the command that a message has."""


class NoSuchState(AntipodeError):
    """The storage has no such image, or no such snapshot of it."""

    code = "resource-failed"


class BrokenOff(ResourceFailed):
    """The diff has an end before its end."""


class Change(NamedTuple):
    """A range of an image that was written or discarded."""

    offset: int
    length: int
    data: bytes | None
    """None: it reads as zeros"""


class Changes:
    """A diff that is being read."""

    def __init__(self, read: Callable[[int], bytes], label: str) -> None:
        self._read, self._label = read, label
        self.size = 0
        """bytes of the image; known when all changes were read"""

    def read(self, image: str, state: str, since: str | None) -> Iterator[Change]:
        """All changes, by their order in the stream.

        Args:
            state, since: snapshots that it must be between; None: from the beginning on.

        Raises:
            ResourceFailed: it breaks off, or is none of these snapshots.
        """
        found: dict[bytes, str] = {}
        if self._exactly(len(HEADER)) != HEADER:
            raise ResourceFailed(f"{self._label}: the diff of image {image} has an unknown form")
        while (tag := self._exactly(1)) != b"e":
            if tag in (b"f", b"t"):
                found[tag] = self._name()
            elif tag == b"s":
                self.size = self._number()
            elif tag == b"w":
                offset, length = self._number(), self._number()
                for at in range(offset, offset + length, PIECE):
                    data = self._exactly(min(PIECE, offset + length - at))
                    yield Change(at, len(data), data)
            elif tag == b"z":
                yield Change(self._number(), self._number(), None)
            else:
                raise ResourceFailed(f"{self._label}: the diff of image {image} has a tag {tag!r}")
        if (found.get(b"t"), found.get(b"f")) != (state, since):
            raise ResourceFailed(
                f"{self._label}: the diff of image {image} is from {found.get(b'f')} to"
                f" {found.get(b't')}, and {since} to {state} was asked for"
            )
        if not self.size:
            raise ResourceFailed(f"{self._label}: the diff of image {image} names no size")

    def _name(self) -> str:
        (length,) = struct.unpack("<I", self._exactly(4))
        if length > LONGEST_NAME:
            raise ResourceFailed(f"{self._label}: the diff has a name of {length} bytes")
        return self._exactly(length).decode(errors="replace")

    def _number(self) -> int:
        (number,) = struct.unpack("<Q", self._exactly(8))
        return int(number)

    def _exactly(self, length: int) -> bytes:
        found = self._read(length)
        while len(found) < length:
            if not (more := self._read(length - len(found))):
                raise BrokenOff(f"{self._label}: the diff breaks off before its end")
            found += more
        return found


class RbdChanges:
    """The images of a pool at one site."""

    def __init__(
        self, site: str, settings: ChangesConfig, go_on: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            go_on: called while the storage is waited for; what it raises ends the command.
        """
        self._site, self._settings, self._go_on = site, settings, go_on
        self._label = f"pool {settings.pool} at {site}"

    @contextmanager
    def between(
        self, image: str, state: str, since: str | None
    ) -> Iterator[tuple[Iterator[Change], Changes]]:
        """What has changed of an image since a snapshot until another; None: since it was made.

        The end of the block sees that the command has succeeded.

        Raises:
            NoSuchState: there is no such image or snapshot.
            ResourceFailed: the command cannot be run, fails, or its diff breaks off.
            SiteUnreachable: nothing comes for so long as the settings allow.
        """
        of = [f"--from-snap={since}"] if since else []
        spec = f"{self._settings.pool}/{image}@{state}"
        command = [*self._settings.command, "export-diff", "--no-progress", *of, spec, "-"]
        asked = f"export-diff {spec}"
        with tempfile.TemporaryFile() as said, self._begun(command, said) as process:
            assert process.stdout is not None  # a pipe
            changes = Changes(self._reader(process.stdout), self._label)
            try:
                yield changes.read(image, state, since), changes
            except BrokenOff as error:
                if code := self._ended(process):  # it says why
                    raise self._failed(code, said, asked) from error
                raise
            if code := self._ended(process):
                raise self._failed(code, said, asked)

    def check(self) -> None:
        """See that the command reaches the pool (`rbd ls`).

        Raises:
            NoSuchState: there is no such pool.
            ResourceFailed: the command cannot be run, or fails.
            SiteUnreachable: nothing comes for so long as the settings allow.
        """
        asked = ["ls", self._settings.pool, "--format", "json"]
        with (
            tempfile.TemporaryFile() as said,
            self._begun([*self._settings.command, *asked], said) as process,
        ):
            assert process.stdout is not None  # a pipe
            read = self._reader(process.stdout)
            while read(PIECE):
                continue
            if code := self._ended(process):
                raise self._failed(code, said, f"ls {self._settings.pool}")

    @contextmanager
    def _begun(self, command: list[str], said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=processes.of_this_process((*OF_CLIENTS, *OF_CEPH)),
            )
        except OSError as error:
            raise ResourceFailed(
                f"{self._label}: the command {command[0]} cannot be run: {error.strerror}. Install"
                " ceph-common, or correct `changes` of the site in antipode.yaml"
            ) from error
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None  # a pipe
            process.stdout.close()

    def _reader(self, pipe: IO[bytes]) -> Callable[[int], bytes]:
        looked_at = time.monotonic()

        def read(length: int) -> bytes:
            nonlocal looked_at
            deadline = time.monotonic() + self._settings.timeout
            if time.monotonic() - looked_at > POLL_S:
                self._go_on()
                looked_at = time.monotonic()
            with selectors.DefaultSelector() as ready:
                ready.register(pipe, selectors.EVENT_READ)
                while not ready.select(POLL_S):
                    self._go_on()
                    if time.monotonic() > deadline:
                        raise SiteUnreachable(
                            f"{self._label}: the command `rbd` gives nothing for"
                            f" {self._settings.timeout:g} s; its monitors may not answer"
                        )
            return os.read(pipe.fileno(), length)

        return read

    def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """The exit code; None: it has not ended, and is to be killed."""
        try:
            return process.wait(self._settings.timeout)
        except subprocess.TimeoutExpired:
            return None

    def _failed(self, code: int, said: IO[bytes], asked: str) -> AntipodeError:
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        why = lines[-1][-SAID:] if lines else "it gives no reason"
        what = f"{self._label}: rbd could not {asked} (exit code {code}): {why}"
        return NoSuchState(what) if code == NO_SUCH else ResourceFailed(what)
