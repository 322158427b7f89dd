# SPDX-License-Identifier: Apache-2.0
"""Nothing that the proof starts outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard needs Linux")

GUARD = """
import sys, pathlib, guard
guard.PROOF = pathlib.Path(sys.argv[1])
guard.wipe_lab = lambda: True  # which may be another's
guard.traces = list
guard.GRACE_S = 0.2
sys.exit(guard.main())
"""
ESCAPES = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
left = subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True, **quiet)
open(sys.argv[0] + ".pid", "w").write(str(left.pid))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts the guard with another proof."""

    def start(proof: str) -> subprocess.Popen[bytes]:
        (tmp_path / "proof.py").write_text(proof)
        command = [sys.executable, "-c", GUARD, str(tmp_path / "proof.py")]
        environment = os.environ | {"PYTHONPATH": str(PROJECT / ".ci")}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    return start


def awaited(holds: Callable[[], bool], within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_in(file: Path) -> int:
    awaited(lambda: file.exists() and bool(file.read_text()))
    return int(file.read_text())


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_what_has_escaped_is_ended_and_the_exit_code_is_that_of_the_proof(
    start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, code: int
) -> None:
    process = start(f"{ESCAPES}\nraise SystemExit({code})")
    assert process.wait() == code
    assert is_gone(pid_in(tmp_path / "proof.py.pid"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_proof_and_what_it_has_started(
    start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, number: signal.Signals
) -> None:
    process = start(f"{ESCAPES}\ntime.sleep(600)")
    pid = pid_in(tmp_path / "proof.py.pid")
    process.send_signal(number)
    assert process.wait() != 0
    assert is_gone(pid)


SITES = """
import subprocess, sys, guard
command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 600"]
holder = subprocess.Popen(command, stdout=subprocess.PIPE)
try:
    holder.stdout.readline()
    assert guard.descendants() == []
    assert len(guard.descendants(everywhere=True)) == 2
finally:
    holder.kill()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes pid namespaces")
def test_the_sites_of_the_lab_are_left_to_its_own_end() -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT / ".ci")}
    done = subprocess.run([sys.executable, "-c", SITES], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
