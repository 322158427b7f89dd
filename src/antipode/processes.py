# SPDX-License-Identifier: Apache-2.0
"""Programs of the operator, run on this host without a shell, within a time limit."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal

from antipode.screen import visible

LOOK_S = 0.05
"""Between two looks whether a program has ended, which its silence does not tell."""
TAIL = 4096
"""The bytes of a program's output that are kept: the last ones."""
PIPE = 1 << 20
"""The bytes that a pipe can hold, at most, where no administrator allows more."""
SHOWN = 300
"""The characters of it that a message has."""


INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""The variables of this process that each program of the operator gets, beside `LC_…`: a service
may have passwords and keys among the others.
"""
OF_CLIENTS = (
    *("SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    *("CONTAINER_HOST", "REGISTRY_AUTH_FILE"),
)
"""Those that ssh and podman get beside, as the clients by which something runs elsewhere."""


def of_this_process(named: Literal["all"] | Iterable[str]) -> dict[str, str]:
    """The variables of this process that a program gets: none that may hold a secret, unless it is
    named. One that this process has not is not set.

    Args:
        named: by the operator, beside those that all programs get; all: the whole environment.
    """
    if named == "all":
        return dict(os.environ)
    wanted = {*INHERITED, *named}
    return {k: v for k, v in os.environ.items() if k in wanted or k.startswith("LC_")}


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
    inherited: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a program once, without input.

    A process that it leaves behind is not waited for, also when that one has its output open.

    Args:
        within_s: seconds after which it is killed, with its process group.
        inherited: variables of this process that it gets; by default those that all get.
        environment: variables beside those.
        go_on: called while it runs; when that raises, the program is killed likewise.

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
        env={**(of_this_process(()) if inherited is None else inherited), **(environment or {})},
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


@dataclass(frozen=True)
class Answered:
    """How a program has ended that was given a request."""

    code: int | None
    """its exit code; None: it was killed, as it had not ended in time or said too much"""
    output: bytes
    """what it has printed to its standard output"""
    is_too_long: bool
    """whether it has printed more than it may"""
    error: str
    """the end of what it has printed to its standard error, fit to be shown"""


def ask(
    argv: Sequence[str],
    request: bytes,
    within_s: float,
    *,
    at_most: int,
    environment: Mapping[str, str],
    go_on: Callable[[], None] = lambda: None,
) -> Answered:
    """Run a program once with a request on its standard input, and read its answer.

    A process that it leaves behind is not waited for, also when that one has its output open.

    Args:
        within_s: seconds after which it is killed, with its process group.
        at_most: bytes of an answer; a program that prints more is killed likewise.
        environment: all variables that it gets.
        go_on: called while it runs; when that raises, the program is killed likewise.

    Raises:
        OSError: it cannot be started.
        ValueError: a word has a character that no argument may have.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        env=dict(environment),
    )
    try:
        talk = _Talk(process, request, at_most)
        with closing(talk):
            has_ended = talk.until_end(time.monotonic() + within_s, go_on)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Answered(
        process.returncode if has_ended else None,
        bytes(talk.output[:at_most]),
        len(talk.output) > at_most,
        visible(talk.error.decode(errors="replace").strip()[-SHOWN:]),
    )


class _Talk:
    """The pipes of a program that is given a request."""

    def __init__(self, process: subprocess.Popen[bytes], request: bytes, at_most: int) -> None:
        self.output = bytearray()
        self.error = b""
        self._process = process
        self._rest = memoryview(request)
        self._at_most = at_most
        self._selector = selectors.DefaultSelector()
        assert process.stdin and process.stdout and process.stderr  # they are pipes
        self._pipes = (process.stdin, process.stdout, process.stderr)
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(process.stdin.fileno(), selectors.EVENT_WRITE, self._write)
        self._selector.register(process.stdout.fileno(), selectors.EVENT_READ, self._read)
        self._selector.register(process.stderr.fileno(), selectors.EVENT_READ, self._read_error)

    def until_end(self, deadline: float, go_on: Callable[[], None]) -> bool:
        """Whether the program has ended by itself, and has not said too much.

        Args:
            deadline: of the monotonic clock.
        """
        while self._process.poll() is None:
            go_on()
            if time.monotonic() > deadline or len(self.output) > self._at_most:
                return False
            self._turn(LOOK_S)
        self._read_rest()
        return len(self.output) <= self._at_most

    def _read_rest(self) -> None:
        """What it has printed last, and no more than its pipes can hold: a process that it left
        behind may print for ever.
        """
        rest = self._at_most + 1 - len(self.output) + 2 * PIPE
        while rest > 0 and (passed := self._turn(0)):
            rest -= passed

    def close(self) -> None:
        self._selector.close()
        for pipe in self._pipes:
            with suppress(BrokenPipeError):
                pipe.close()

    def _turn(self, wait_s: float) -> int:
        """Pass on what can be passed on; how many bytes that were."""
        if not self._selector.get_map():  # it has closed all of them
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_s)
            return 0
        return sum(key.data(key.fd) for key, _ in self._selector.select(wait_s))

    def _write(self, handle: int) -> int:
        before = len(self._rest)
        try:
            self._rest = self._rest[os.write(handle, self._rest) :]
        except BrokenPipeError:  # it does not read its request
            self._rest = self._rest[:0]
        if not self._rest:
            self._selector.unregister(handle)
            self._pipes[0].close()
        return before - len(self._rest)

    def _read(self, handle: int) -> int:
        chunk = self._chunk(handle)
        self.output += chunk
        return len(chunk)

    def _read_error(self, handle: int) -> int:
        chunk = self._chunk(handle)
        self.error = (self.error + chunk)[-TAIL:]
        return len(chunk)

    def _chunk(self, handle: int) -> bytes:
        if not (chunk := os.read(handle, 65536)):
            self._selector.unregister(handle)
        return chunk


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
