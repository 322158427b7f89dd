# SPDX-License-Identifier: Apache-2.0
"""A cinder-backup in place of a site's own, for a while: of another release, or with another
configuration. The configuration of the site is never changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lab import inside, supervision
from lab.errors import LabError
from lab.service import Program
from lab.services import cinder, identity
from lab.services.tenant import PROJECT
from lab.site import Site
from lab.waiting import wait_until

NAME = "cinder-backup"
UP_S, DOWN_S = 300.0, 180.0


def own(site: Site) -> Program:
    """The program that the site runs by itself."""
    programs = (p for service in cinder.SERVICES for p in service.programs(site))
    return next(p for p in programs if p.name == NAME)


@contextmanager
def substituted(
    site: Site, command: Sequence[str], log: Path, path: str | None = None
) -> Iterator[None]:
    """Run another cinder-backup while the block is executed, up from its beginning; afterwards the
    site's own is up again, whatever happens.

    Args:
        command: of the other one, in the site's namespaces.
        log: a file for its output.
        path: a folder that its `PATH` begins with.
    """
    try:
        supervision.stop(site, [NAME])
        with _running(site, command, log, path):
            yield
    finally:
        began = _now()
        supervision.start(site, [own(site)])
        wait_until(
            lambda: has_reported(site, began), f"{NAME} of {site.name} is up again", timeout=UP_S
        )


@contextmanager
def _running(site: Site, command: Sequence[str], log: Path, path: str | None) -> Iterator[None]:
    began = _now()
    more = {"PATH": f"{path}:{inside.environment(site)['PATH']}"} if path else {}
    with log.open("w") as said:
        process = inside.popen(
            site, command, more, stdout=said, stderr=said, start_new_session=True
        )
    try:

        def is_there() -> bool:
            if process.poll() is not None:
                raise LabError(f"{' '.join(command)} has ended: {log.read_text()[-2000:]}")
            return has_reported(site, began)

        # until it takes them, the broker keeps its requests
        wait_until(is_there, f"{' '.join(command)} is up", timeout=UP_S)
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and its group, which it may leave behind: two of them must never serve one
    queue.
    """

    def is_gone() -> bool:
        process.poll()
        return not _send(process, 0)

    _send(process, signal.SIGTERM)
    try:
        wait_until(is_gone, f"{NAME} in place of the site's own has ended", timeout=DOWN_S)
    except LabError:
        _send(process, signal.SIGKILL)
        wait_until(is_gone, f"{NAME} in place of the site's own is killed", timeout=DOWN_S)


def _send(process: subprocess.Popen[str], number: int) -> bool:
    """Send a signal to the group of a process; whether there was one."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def has_reported(site: Site, since: datetime) -> bool:
    """Whether a cinder-backup of a site is up, by a report of its own after a moment (UTC): Cinder
    takes one that has stopped for alive for a while.
    """
    cloud = identity.connect(site, "antipode", PROJECT)
    return any(
        s.binary == NAME and s.state == "up" and datetime.fromisoformat(s.updated_at) > since
        for s in cloud.block_storage.services()
    )


def _now() -> datetime:
    """The present moment as Cinder writes it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)
