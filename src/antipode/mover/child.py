# SPDX-License-Identifier: Apache-2.0
"""Has the mover do a job in a process of its own, which starts before the job is known."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from antipode import libraries
from antipode.errors import InvalidInput
from antipode.mover.job import Access, Job, Outcome, VolumeJob

LOG = logging.getLogger(__name__)
POLL_S = 0.5
Places = Callable[[int], AbstractContextManager[int]]
"""A place among those that are written at once at the site, and how many of so many volumes may be
written at once.
"""
SAID = 2000
"""Characters of the standard error of a mover that are kept, its last ones."""


class Turn(Protocol):
    """A mover's turn."""

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        """Bring volumes to backups, once; an outcome for each.

        Args:
            claim: of all volumes; the lock of its name is held by the writer, and was prepared.
            go_on: called now and then; what it raises ends the mover, and is raised when that has
                ended.
        """
        ...


class Mover(Protocol):
    """Brings volumes of one site to backups."""

    @property
    def locks(self) -> Path:
        """Where the locks of writers of this host are, by their claims."""
        ...

    @property
    def missing(self) -> str:
        """Why it can write nothing; empty where it can."""
        ...

    def turn(self, volumes: int) -> AbstractContextManager[Turn]:
        """A place among those that are written at once at the site. It is waited for before volumes
        are claimed for a job, as what they hold counts for nothing from then on; meanwhile the
        mover starts.

        Args:
            volumes: of the job.

        Raises:
            Stopped: while waiting, the run was to stop.
        """
        ...


class NoMover:
    """In the place of a mover, where this host has none."""

    def __init__(self, locks: Path, why: str) -> None:
        self.locks, self.missing = locks, why

    @contextmanager
    def turn(self, volumes: int) -> Iterator[Turn]:
        yield self

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        return {
            v.volume: Outcome(volume=v.volume, code="resource-failed", problem=self.missing)
            for v in volumes
        }


class ChildMover:
    """`Mover` by a process of this host."""

    missing = ""

    def __init__(self, access: Access, locks: Path, places: Places) -> None:
        """
        Args:
            places: of the run among all that have the mover write at the site.

        Raises:
            InvalidInput: a package of the extra `mover` is not installed, or there is no folder of
                Ceph's modules.
        """
        if access.helper is not None:
            libraries.need("asyncssh", "mover-helper", "writing volumes through a helper server")
        else:
            libraries.need("os_brick", "mover", "attaching volumes to this host")
        if access.modules is not None and not access.modules.is_dir():
            raise InvalidInput(f"{access.modules}, the `modules` of the mover, is no folder")
        self._access = access
        self._places = places
        self.locks = locks

    @contextmanager
    def turn(self, volumes: int) -> Iterator[Turn]:
        # where the process is killed, os-brick leaves the key of the storage in a temporary file
        with (
            self._places(volumes) as at_once,
            tempfile.TemporaryDirectory(prefix="antipode-mover-") as folder,
        ):
            child = _Child(self._access, self.locks, at_once, folder)
            try:
                yield child
            finally:
                child.end()


class _Child:
    """`Turn` by a process that has been started for it."""

    def __init__(self, access: Access, locks: Path, at_once: int, folder: str) -> None:
        self._locks, self._at_once, self._has_job = locks, at_once, False
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *_program(access)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,  # a signal of the terminal is for us, who end it in good order
        )
        self._said, self._failed = _Lines(self._process.stdout), _Lines(self._process.stderr)
        with suppress(BrokenPipeError):  # it says why it has ended when it is to carry
            self._hand(access)

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        job = Job(lock=self._locks / claim, at_once=self._at_once, volumes=volumes)
        self._has_job = True
        try:
            self._hand(job)
            _await(self._process, go_on)
        except BrokenPipeError:
            pass  # it says below why it has ended
        finally:
            self.end()
        words = self._failed.all()
        for line in words:
            LOG.debug("mover: %s", line)
        outcomes = [Outcome.model_validate_json(line) for line in self._said.all()]
        found = {outcome.volume: outcome for outcome in outcomes}
        why = f"the mover has ended with {self._process.returncode}: {' '.join(words)[-SAID:]}"
        for volume in volumes:
            if volume.volume not in found:
                lost = Outcome(volume=volume.volume, code="resource-failed", problem=why)
                found[volume.volume] = lost
        return found

    def end(self) -> None:
        """Wait until it has ended, which it does when its input ends."""
        assert self._process.stdin is not None  # a pipe
        if not self._has_job:  # it may be waiting for a site, and has touched nothing
            self._process.kill()
        with suppress(BrokenPipeError):  # of what it has not read
            self._process.stdin.close()
        self._process.wait()

    def _hand(self, what: Access | Job) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()


def _program(access: Access) -> list[str]:
    """The module that attaches as a site wants it, with its arguments."""
    if access.helper is not None:
        return ["antipode.mover.helper_process"]
    folders = [] if access.modules is None else [str(access.modules)]
    return ["antipode.mover.process", *folders]


def _await(process: subprocess.Popen[bytes], go_on: Callable[[], None]) -> None:
    while True:
        go_on()
        try:
            process.wait(POLL_S)
            return
        except subprocess.TimeoutExpired:
            continue


class _Lines:
    """The lines of a pipe, read in a thread, so that none of two fills up."""

    def __init__(self, pipe: object) -> None:
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: object) -> None:
        with pipe as lines:  # type: ignore[attr-defined]
            for line in lines:
                self._lines.append(line.decode(errors="replace").rstrip("\n"))

    def all(self) -> list[str]:
        """What was said until the other end was closed."""
        self._thread.join()
        return self._lines
