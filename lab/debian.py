# SPDX-License-Identifier: Apache-2.0
"""Debian packages, installed so that none of them starts a service of the machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
"""Asked by the packages' scripts whether they may start a service (Debian's invoke-rc.d)."""
LOCK = Path("/run/lock/antipode-packages")
REFUSAL = "#!/bin/sh\nexit 101\n"

Run = Callable[[Sequence[str], Mapping[str, str]], object]
"""Executes a command with an environment; raises when it fails."""


def install(packages: Sequence[str], run: Run) -> None:
    """Install packages by apt-get; needs root.

    Args:
        run: executes each command, so that the caller decides where its output goes.
    """
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=900"]
    with services_kept_from_starting():
        run([*apt, "update"], environment)
        run([*apt, "install", "-y", "--no-install-recommends", *packages], environment)


@contextmanager
def services_kept_from_starting() -> Iterator[None]:
    """Refuse services to start while the block runs; one process at a time.

    Without the lock, the first process to end would put back the machine's own policy while another
    still installs, and that one would then keep ours for good.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = POLICY.read_bytes() if POLICY.exists() else None
        POLICY.write_text(REFUSAL)
        POLICY.chmod(0o755)
        try:
            yield
        finally:
            if before is None:
                POLICY.unlink()
            else:
                POLICY.write_bytes(before)
