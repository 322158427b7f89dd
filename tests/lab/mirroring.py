# SPDX-License-Identifier: Apache-2.0
"""The rbd-mirror of a site, with single images that it can be made to leave alone for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import inside, supervision
from lab.services.ceph import POOL
from lab.services.rbd_mirror import PROGRAM, RbdMirror
from lab.site import Site
from lab.waiting import wait_until

SOCKET = "/run/ceph/test-rbd-mirror.asok"
PATIENCE_S = 300


@contextmanager
def under_orders(site: Site, log: Path) -> Iterator[None]:
    """While the block is executed, the site's daemon takes orders; afterwards its own runs again.

    Args:
        log: a file for its output.
    """
    supervision.stop(site, [PROGRAM])
    programs = RbdMirror().programs(site)
    (program,) = programs
    command = [*program.command, f"--admin_socket={SOCKET}"]
    with log.open("w") as said:
        daemon = inside.popen(site, command, stdout=said, stderr=said, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
        supervision.start(site, programs)


def hold_up(site: Site, image: str) -> None:
    """Have the daemon replay no more of an image."""
    wait_until(lambda: _ordered(site, "stop", image) is not None, f"{image} is known", PATIENCE_S)

    def is_stopped() -> bool:
        said = _ordered(site, "status", image)
        return said is not None and '"state": "Stopped"' in said

    wait_until(is_stopped, f"{image} is not replayed", PATIENCE_S, 0.2)


def _ordered(site: Site, verb: str, image: str) -> str | None:
    """What the daemon says to an order; None if it refuses."""
    order = ["ceph", "--admin-daemon", SOCKET, "rbd", "mirror", verb, f"{POOL}/{image}"]
    done = inside.run(site, order, check=False)
    return None if done.returncode else done.stdout
