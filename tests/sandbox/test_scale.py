# SPDX-License-Identifier: Apache-2.0
"""The benchmark of antipode's own cost works. Nothing is measured here."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.sandbox


def test_the_smallest_size_is_protected_and_failed_over() -> None:
    command = [sys.executable, "-m", "bench.scale", "--volumes", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    acts = [line.split("|")[2].strip() for line in done.stdout.splitlines() if "|" in line]
    assert acts.count("protect") == acts.count("failover") == 1
