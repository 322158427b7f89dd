# SPDX-License-Identifier: Apache-2.0
"""Has the mover do a job in a process of its own, which starts before the job is known."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from antipode import libraries
from antipode.errors import InvalidInput, ResourceFailed
from antipode.mover.job import ENDS_WITHIN_S, Access, Job, Outcome, VolumeJob

LOG = logging.getLogger(__name__)
POLL_S = 0.5
KILLED_AFTER_S = ENDS_WITHIN_S + 10.0
"""After the end of its input, of a mover that does not end itself."""
READ_S = 10.0
"""For the output of a mover that has ended. A command that outlives it may hold its pipes."""
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
            ResourceFailed: this host cannot start it.
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
        with ExitStack() as held:
            at_once = held.enter_context(self._places(volumes))
            # where the process is killed, os-brick leaves the key of the storage in such a file
            try:
                folder = held.enter_context(
                    tempfile.TemporaryDirectory(
                        prefix="antipode-mover-", ignore_cleanup_errors=True
                    )
                )
                child = _Child(self._access, self.locks, at_once, folder)
            except OSError as error:
                raise ResourceFailed(
                    f"this host cannot start the mover: {error}. See that it has memory, processes"
                    " and room for temporary files"
                ) from error
            held.callback(child.end)
            yield child


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
        assert self._process.stdin is not None  # a pipe
        self._input = self._process.stdin
        os.set_blocking(self._input.fileno(), False)
        self._said, self._failed = _Lines(self._process.stdout), _Lines(self._process.stderr)
        with suppress(BrokenPipeError):  # it says why it has ended when it is to carry
            self._hand(access, lambda: None)

    def carry(
        self, claim: str, volumes: list[VolumeJob], go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        job = Job(lock=self._locks / claim, at_once=self._at_once, volumes=volumes)
        try:
            self._hand(job, go_on)
            self._has_job = True
            _await(self._process, go_on)
        except BrokenPipeError:
            pass  # it says below why it has ended
        finally:
            self.end()
        words = self._failed.all()
        for line in words:
            LOG.debug("mover: %s", line)
        found = {outcome.volume: outcome for outcome in _outcomes(self._said.all())}
        why = f"the mover has ended with {self._process.returncode}: {' '.join(words)[-SAID:]}"
        for volume in volumes:
            if volume.volume not in found:
                lost = Outcome(volume=volume.volume, code="resource-failed", problem=why)
                found[volume.volume] = lost
        return found

    def end(self) -> None:
        """End its input, and wait until it has ended. What it writes counts as being written until
        then, so that there is no limit after it was killed.
        """
        self._input.close()
        if self._has_job:  # else it may be waiting for a site, and has touched nothing
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(KILLED_AFTER_S)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its commands, too
        self._process.wait()

    def _hand(self, what: Access | Job, go_on: Callable[[], None]) -> None:
        rest = what.model_dump_json().encode() + b"\n"
        room = select.poll()
        room.register(self._input, select.POLLOUT)
        while rest:
            go_on()
            if room.poll(POLL_S * 1000):
                rest = rest[os.write(self._input.fileno(), rest) :]


def _program(access: Access) -> list[str]:
    """The module that attaches as a site wants it, with its arguments."""
    if access.helper is not None:
        return ["antipode.mover.helper_process"]
    folders = [] if access.modules is None else [str(access.modules)]
    return ["antipode.mover.process", *folders]


def _outcomes(lines: Iterable[str]) -> Iterator[Outcome]:
    """Those that were said; a line may be a word of a library, or half of one."""
    for line in lines:
        try:
            yield Outcome.model_validate_json(line)
        except ValidationError:
            LOG.debug("mover, no outcome: %s", line)


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
        self._thread.join(READ_S)
        return list(self._lines)
