# SPDX-License-Identifier: Apache-2.0
"""What a process of the mover does: on standard input the ways to the clouds, and a job when it is
known; on standard output the outcomes, a line each. It stops writing when its input ends.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from antipode.cloud import site as cloud_site
from antipode.cloud.objects import Objects
from antipode.cloud.site import Site
from antipode.errors import AntipodeError, VolumeTaken
from antipode.mover import lock
from antipode.mover.job import ENDS_WITHIN_S, Access, Job, Outcome
from antipode.mover.target import Attached
from antipode.mover.work import carry


def main(attached_by: Callable[[Site, Access], Attached]) -> int:
    """Do the job; the exit code.

    Args:
        attached_by: how volumes of a site are attached.
    """
    os.umask(0o077)
    say = _only_sayer()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    lines, stop = SimpleQueue[bytes](), threading.Event()
    # before all that may hang: only the end of the input ends that
    threading.Thread(target=_read, args=(lines, stop), name="input", daemon=True).start()
    hands = _connected(Access.model_validate_json(lines.get()), attached_by)
    job = Job.model_validate_json(lines.get())
    if not lock.take(job.lock):
        hands = VolumeTaken("the job was taken over")
    if isinstance(hands, Exception):
        say(_failed(v.volume, hands) for v in job.volumes)
        return 1
    say(carry(job, *hands, stop))
    return 0


def _only_sayer() -> Callable[[Iterable[Outcome]], None]:
    """What alone writes to standard output from now on. What libraries and their commands say there
    goes to standard error.
    """
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            print(outcome.model_dump_json(), file=said, flush=True)

    return say


def _read(lines: SimpleQueue[bytes], stop: threading.Event) -> None:
    """Read the ways to the clouds, the job, and the end of the input, after which the process has
    to end.
    """
    with open(0, "rb", closefd=False) as pipe:
        for _ in (Access, Job):
            line = pipe.readline()
            if not line.endswith(b"\n"):
                print("the mover was given no job", file=sys.stderr, flush=True)
                os._exit(2)
            lines.put(line)
        pipe.read()
    stop.set()
    ended = threading.Timer(ENDS_WITHIN_S, os._exit, (3,))
    ended.daemon = True
    ended.start()


def _connected(
    access: Access, attached_by: Callable[[Site, Access], Attached]
) -> tuple[Site, Objects, Attached] | Exception:
    """What the volumes are written with, or why they cannot be."""
    try:
        site = cloud_site.connect(access.site, access.cloud)
        store = cloud_site.connect_objects(access.store, access.store_cloud)
        return site, store, attached_by(site, access)
    except Exception as error:  # also of a library: it is said of each volume
        return error


def _failed(volume: str, error: Exception) -> Outcome:
    code, problem = "unexpected", f"{type(error).__name__}: {error}"
    if isinstance(error, AntipodeError):
        code, problem = error.code, str(error)
    return Outcome(volume=volume, code=code, problem=problem, touched=False)
