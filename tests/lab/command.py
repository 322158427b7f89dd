# SPDX-License-Identifier: Apache-2.0
"""The lab's command line, as tests call it."""

from __future__ import annotations

import subprocess
import sys

from lab.desk import PROJECT


def lab(*arguments: str) -> str:
    """Call the lab's command line and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, f"lab {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout
