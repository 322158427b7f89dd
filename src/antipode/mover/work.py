# SPDX-License-Identifier: Apache-2.0
"""Does the jobs of the mover: each volume is attached, brought to its backup, and detached."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.errors import AntipodeError, RecoveryPointInvalid, VolumeTaken
from antipode.model.marks import KEY, RUN
from antipode.model.source import BackupRecord
from antipode.model.standing import CLAIM
from antipode.mover.budget import Budget
from antipode.mover.chain import read_chain, sums_of_backup
from antipode.mover.job import Job, Outcome, VolumeJob
from antipode.mover.move import Moved, Wish, survey, write
from antipode.mover.stream import Known, move_to_delta, read_stream
from antipode.mover.sums import Streamed, Sums
from antipode.mover.target import Attached, Target

if TYPE_CHECKING:
    from antipode.cloud.site import Site

ASKED_S = 0.1
"""How long an answer of Cinder stands that a volume is still ours."""


@dataclass(frozen=True)
class _Hands:
    """All that the volumes of a job share."""

    site: Site
    store: Streamed
    stop: threading.Event
    folder: Path
    """for the digests of volumes"""
    budget: Budget


def carry(
    job: Job, site: Site, store: Streamed, attached: Attached, stop: threading.Event | None = None
) -> Iterator[Outcome]:
    """Do a job; an outcome for each volume, as soon as it is known. What fails of one volume leaves
    the others.

    Args:
        stop: when it is set, nothing more is written.
    """
    hands = _Hands(site, store, stop or threading.Event(), job.lock.parent, Budget())

    def one(wanted: VolumeJob) -> Outcome:
        began, touched = time.monotonic(), threading.Event()

        def failed(code: str, problem: str) -> Outcome:
            return Outcome(
                volume=wanted.volume, code=code, problem=problem, touched=touched.is_set()
            )

        @contextmanager
        def noted(volume: str) -> Iterator[Target]:
            with attached(volume) as target:
                touched.set()
                yield target

        try:
            moved, foreign = _bring(wanted, hands, noted)
        except AntipodeError as error:
            return failed(error.code, str(error))
        except Exception as error:  # of a library of the storage: another volume may do
            return failed("unexpected", f"{type(error).__name__}: {error}")
        seconds = round(time.monotonic() - began, 3)
        return Outcome(volume=wanted.volume, foreign=foreign, seconds=seconds, **asdict(moved))

    with ThreadPoolExecutor(job.at_once, "mover") as pool:
        yield from pool.map(one, job.volumes)


def _bring(wanted: VolumeJob, hands: _Hands, attached: Attached) -> tuple[Moved, int]:
    """Bring one volume to its backup; and how many blocks held what was not known."""
    if wanted.deltas:
        return _bring_to_delta(wanted, hands, attached)
    # whole, before anything is written
    chain = read_chain(wanted.chain, hands.store, hands.folder)
    may_write = _asker(wanted, hands.site, hands.stop)
    may_write()
    holds = None if wanted.is_new else _known(wanted.holds, hands)
    with attached(wanted.volume) as target:
        # another process may have claimed the volume before it was attached to this one
        may_write()
        found = survey(Wish(chain, holds, is_new=wanted.is_new, reads=wanted.reads), target)
        return write(found, target, hands.store, may_write, hands.budget), found.foreign


def _bring_to_delta(wanted: VolumeJob, hands: _Hands, attached: Attached) -> tuple[Moved, int]:
    """The same for a change stream."""
    stream = read_stream(wanted.deltas, hands.store)
    known = Known(wanted.holds_delta, wanted.reads, wanted.is_new)
    may_write = _asker(wanted, hands.site, hands.stop)
    may_write()
    with attached(wanted.volume) as target:
        may_write()
        return move_to_delta(stream, target, hands.store, known, may_write, hands.budget)


def _known(record: BackupRecord | None, hands: _Hands) -> Sums | None:
    """The digests of a backup; None where the store has them no more, so that the volume is
    read.
    """
    if record is None:
        return None
    try:
        return sums_of_backup(record, hands.store, hands.folder)
    except RecoveryPointInvalid:
        return None


def _is_ours(metadata: Mapping[str, str], wanted: VolumeJob) -> bool:
    """Whether the claim of a volume is still the job's, and no recovery has taken the volume."""
    is_taken = KEY in metadata or metadata.get(RUN, "") != wanted.run
    return metadata.get(CLAIM) == wanted.claim and not is_taken


def _asker(wanted: VolumeJob, site: Site, stop: threading.Event) -> Callable[[], None]:
    """What raises VolumeTaken when the volume is another's, or the work is to stop."""
    asked_at = -math.inf

    def may_write() -> None:
        nonlocal asked_at
        if stop.is_set():
            raise VolumeTaken(f"volume {wanted.volume} is left: the mover was asked to stop")
        now = time.monotonic()  # it passes while the process is stopped
        if now - asked_at < ASKED_S:
            return
        try:
            found = site.volumes.volume(wanted.volume)
        except ApiError as error:
            raise VolumeTaken(
                f"volume {wanted.volume} is left: Cinder does not say that it is still ours:"
                f" {error.reason}"
            ) from error
        if found is None or not _is_ours(found["metadata"], wanted):
            raise VolumeTaken(f"volume {wanted.volume} was taken by another process")
        asked_at = now

    return may_write
