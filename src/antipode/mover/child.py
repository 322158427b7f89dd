# SPDX-License-Identifier: Apache-2.0
"""Has the mover do a job in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from antipode import libraries
from antipode.errors import InvalidInput
from antipode.mover.job import Access, Job, Outcome, VolumeJob

LOG = logging.getLogger(__name__)
POLL_S = 0.5
Turn = Callable[[int], AbstractContextManager[int]]
"""As `Mover.turn`."""
SAID = 2000
"""Characters of the standard error of a mover that are kept, its last ones."""


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

    def turn(self, volumes: int) -> AbstractContextManager[int]:
        """A place among those that are written at once at the site, and how many of so many volumes
        may be written at once. It is waited for before volumes are claimed for a job, as what they
        hold counts for nothing from then on.

        Raises:
            Stopped: while waiting, the run was to stop.
        """
        ...

    def carry(
        self, claim: str, volumes: list[VolumeJob], at_once: int, go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        """An outcome for each volume; called in the mover's turn.

        Args:
            claim: of all volumes; the lock of its name is held by the writer, and was prepared.
            at_once: volumes, as the turn has it.
            go_on: called now and then; what it raises ends the mover, and is raised when that has
                ended.
        """
        ...


class NoMover:
    """In the place of a mover, where this host has none."""

    def __init__(self, locks: Path, why: str) -> None:
        self.locks, self.missing = locks, why

    def turn(self, volumes: int) -> AbstractContextManager[int]:
        return nullcontext(volumes)

    def carry(
        self, claim: str, volumes: list[VolumeJob], at_once: int, go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        return {
            v.volume: Outcome(volume=v.volume, code="resource-failed", problem=self.missing)
            for v in volumes
        }


class ChildMover:
    """`Mover` by a process of this host."""

    missing = ""

    def __init__(self, access: Access, locks: Path, turn: Turn) -> None:
        """
        Args:
            turn: a place of the run among all that have the mover write at the site.

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
        self.locks = locks
        self.turn = turn

    def carry(
        self, claim: str, volumes: list[VolumeJob], at_once: int, go_on: Callable[[], None]
    ) -> dict[str, Outcome]:
        job = Job(access=self._access, lock=self.locks / claim, at_once=at_once, volumes=volumes)
        return _done(job, go_on)


def _done(job: Job, go_on: Callable[[], None]) -> dict[str, Outcome]:
    """Do a job in a new process. Where that is killed, os-brick leaves the key of the storage in a
    temporary file.
    """
    with tempfile.TemporaryDirectory(prefix="antipode-mover-") as folder:
        return _done_in(folder, job, go_on)


def _done_in(folder: str, job: Job, go_on: Callable[[], None]) -> dict[str, Outcome]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *_program(job.access)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": folder},
        start_new_session=True,  # a signal of the terminal is for us, who end it in good order
    )
    said, failed = _Lines(process.stdout), _Lines(process.stderr)
    assert process.stdin is not None  # a pipe
    try:
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        _await(process, go_on)
    except BrokenPipeError:
        process.wait()  # it says below why it has ended
    finally:
        process.stdin.close()  # it ends by that, if it has not ended yet
        process.wait()
    for words in failed.all():
        LOG.debug("mover: %s", words)
    outcomes = [Outcome.model_validate_json(line) for line in said.all()]
    found = {outcome.volume: outcome for outcome in outcomes}
    why = f"the mover has ended with {process.returncode}: {' '.join(failed.all())[-SAID:]}"
    for volume in job.volumes:
        if volume.volume not in found:
            lost = Outcome(volume=volume.volume, code="resource-failed", problem=why)
            found[volume.volume] = lost
    return found


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
