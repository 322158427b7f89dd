# SPDX-License-Identifier: Apache-2.0
"""What a process of the mover does: on standard input the ways to the clouds, and a job when it is
known; on standard output the outcomes, a line each. It stops writing when its input ends.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable

from antipode.cloud import site as cloud_site
from antipode.cloud.objects import Objects
from antipode.cloud.site import Site
from antipode.errors import AntipodeError
from antipode.mover import lock
from antipode.mover.job import Access, Job, Outcome
from antipode.mover.target import Attached
from antipode.mover.work import carry

ENDS_WITHIN_S = 60.0
"""After the end of the input: for a write that is under way, and for the detachment."""


def main(attached_by: Callable[[Site, Access], Attached]) -> int:
    """Do the job; the exit code.

    Args:
        attached_by: how volumes of a site are attached.
    """
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        access = Access.model_validate_json(sys.stdin.readline())
        hands = _connected(access, attached_by)
        job = Job.model_validate_json(sys.stdin.readline())
    except ValueError as error:
        print(f"the mover was given no job: {error}", file=sys.stderr)
        return 2
    if not lock.take(job.lock):
        _say([_failed(v.volume, "volume-taken", "the job was taken over") for v in job.volumes])
        return 1
    if isinstance(hands, AntipodeError):
        _say([_failed(v.volume, hands.code, str(hands)) for v in job.volumes])
        return 1
    stop = threading.Event()
    threading.Thread(target=_end_with_input, args=(stop,), name="input", daemon=True).start()
    for outcome in carry(job, *hands, stop):
        _say([outcome])
    return 0


def _connected(
    access: Access, attached_by: Callable[[Site, Access], Attached]
) -> tuple[Site, Objects, Attached] | AntipodeError:
    """What the volumes are written with, or why they cannot be."""
    try:
        site = cloud_site.connect(access.site, access.cloud)
        store = cloud_site.connect_objects(access.store, access.store_cloud)
        return site, store, attached_by(site, access)
    except AntipodeError as error:
        return error


def _end_with_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()
    ended = threading.Timer(ENDS_WITHIN_S, os._exit, (3,))
    ended.daemon = True
    ended.start()


def _say(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        print(outcome.model_dump_json(), flush=True)


def _failed(volume: str, code: str, problem: str) -> Outcome:
    return Outcome(volume=volume, code=code, problem=problem, touched=False)
