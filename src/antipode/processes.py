# SPDX-License-Identifier: Apache-2.0
"""Programs of the operator, run on this host without a shell, within a time limit."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from antipode.screen import visible

LOOK_S = 0.05
"""Between two looks whether a program has ended, which its silence does not tell."""
TAIL = 4096
"""The bytes of a program's output that are kept: the last ones."""
SHOWN = 300
"""The characters of it that a message has."""


@dataclass(frozen=True)
class Ended:
    """How a program has ended."""

    code: int | None
    """its exit code; None: it had not ended in time, and was killed"""
    output: str
    """the end of what it has printed, fit to be shown"""


def run(
    argv: Sequence[str],
    within_s: float,
    *,
    go_on: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program once, without input.

    A process that it leaves behind is not waited for, also when that one has its output open.

    Args:
        within_s: seconds after which it is killed, with its process group.
        go_on: called while it runs; when that raises, the program is killed likewise.
        environment: variables beside those of this process.

    Raises:
        OSError: it cannot be started.
        ValueError: a word has a character that no argument may have.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        output = _output_until_end(process, within_s, go_on)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if output is None:
        return Ended(None, "")
    words = visible(output.decode(errors="replace").strip()[-SHOWN:])
    return Ended(process.returncode, words)


def _output_until_end(
    process: subprocess.Popen[bytes], within_s: float, go_on: Callable[[], None]
) -> bytes | None:
    """The end of a program's output once it has ended; None when it does not in time."""
    assert process.stdout is not None  # it is a pipe
    handle = process.stdout.fileno()
    os.set_blocking(handle, False)
    deadline = time.monotonic() + within_s
    tail = b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while process.poll() is None:
            go_on()
            if time.monotonic() > deadline:
                return None
            if not selector.get_map():  # it has closed its output
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_S)
            elif selector.select(LOOK_S):
                if not (chunk := os.read(handle, TAIL)):
                    selector.unregister(handle)
                tail = (tail + chunk)[-TAIL:]
    with suppress(BlockingIOError):  # a process that it left has the output open
        while time.monotonic() <= deadline and (chunk := os.read(handle, TAIL)):
            tail = (tail + chunk)[-TAIL:]
    return tail
