# SPDX-License-Identifier: Apache-2.0
"""Runs the proof and leaves nothing of it on the machine, however it ends.

Processes that lose their parent become children of this one, so that none escapes. When the proof
has ended, by itself or by a signal, whatever still runs is ended, and the lab is wiped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PROOF = Path(__file__).with_name("proof.py")
PYTHON = PROJECT / ".venv" / "bin" / "python"
LAB = os.environ.get("ANTIPODE_LAB", "/var/lib/antipode-lab")
PR_SET_CHILD_SUBREAPER = 36
HERE = Path("/proc/self/ns/pid").readlink()
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GRACE_S = 20.0
"""How long a process may take to end by itself."""


def main() -> int:
    adopt_orphans()
    code = run([sys.executable, str(PROOF)])
    print("\n=== cleaning up", flush=True)
    end(descendants)
    wiped = wipe_lab()
    end(lambda: descendants(everywhere=True))
    left = traces()
    for trace in left:
        print(f"left on the machine: {trace}", flush=True)
    return code or (0 if wiped and not left else 1)


def adopt_orphans() -> None:
    """Make this process the parent of each descendant that loses its own.

    Raises:
        OSError: the kernel refuses; see prctl(2).
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run(command: list[str]) -> int:
    """Run a command to its end, and reap orphans meanwhile. A signal to this process ends it.

    Returns:
        its exit code, 128 + N if signal N has ended it.
    """
    # a shell that starts something in the background has it ignore interrupts
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    child = os.spawnv(os.P_NOWAIT, command[0], command)
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.kill(child, number))
    pid = 0
    while pid != child:
        pid, status = os.wait()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing breaks into the clean-up
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def descendants(everywhere: bool = False) -> list[int]:
    """The processes that this one has started, directly or not.

    Args:
        everywhere: those in a pid namespace of their own, too, and those that hold one, as the
            sites of the lab have.
    """
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(process.name))

    def below(pid: int) -> Iterator[int]:
        for child in children.get(pid, ()):
            yield child
            yield from below(child)

    def is_of_a_site(pid: int) -> bool:
        return any(_is_elsewhere(process) for process in (pid, *children.get(pid, ())))

    return [pid for pid in below(os.getpid()) if everywhere or not is_of_a_site(pid)]


def _is_elsewhere(pid: int) -> bool:
    """Whether a process is in another pid namespace than this one."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return Path(f"/proc/{pid}/ns/pid").readlink() != HERE
    return False


def end(processes: Callable[[], list[int]]) -> None:
    """End processes until there is none: by an interrupt, which lets them clean up, then by force.

    Args:
        processes: lists those that are there.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        for pid in (there := processes()):
            print(f"ending {_command_line(pid)} ({number.name})", flush=True)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + GRACE_S
        while there and processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        _reap()


def _command_line(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return f"process {pid}: {' '.join(words)[:100]}"
    return f"process {pid}"


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def wipe_lab() -> bool:
    """Remove the sites, their namespaces, mounts and links; what is cached for the next time stays.

    Returns:
        whether that succeeded. Before the project is installed there is nothing to do.
    """
    if os.geteuid() != 0 or not PYTHON.exists():
        return True
    return subprocess.run([PYTHON, "-m", "lab", "wipe"], cwd=PROJECT).returncode == 0


def traces() -> list[str]:
    """What the lab has left in the machine's tables of mounts, loop devices and namespaces."""
    found = [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for command in (["losetup", "--list", "--noheadings"], ["ip", "netns", "list"]):
        with suppress(FileNotFoundError):
            listed = subprocess.run(command, capture_output=True, text=True).stdout
            found += [f"{command[0]} {line}" for line in listed.splitlines()]
    return [line for line in found if LAB in line or line.startswith("ip site-")]


if __name__ == "__main__":
    sys.exit(main())
