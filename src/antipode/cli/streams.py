# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, or are not read any more.

Nothing but the standard library's small modules is imported here.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TextIO

OUTPUT_UNREAD = 128 + signal.SIGPIPE
"""The exit code of a command whose output is not read to its end, as of one that SIGPIPE ends."""
NOT_WRITTEN = 1


def open_the_closed() -> None:
    """Have stdin, stdout and stderr lead to /dev/null where the caller has closed them (`>&-`).

    The next file that is opened, such as the database, would take the number of a closed one, and
    what is printed would go into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def flushed(code: int) -> int:
    """Write what is still to be written, so that the interpreter has nothing to complain about at
    its end.

    Args:
        code: the exit code of the command.

    Returns:
        it, or one that says that stdout was not written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _lead_nowhere(sys.stdout)
        code = code or OUTPUT_UNREAD
    except OSError as error:
        _lead_nowhere(sys.stdout)
        Heard(sys.stderr).write(f"antipode: [failed] stdout: {error.strerror}\n")
        code = code or NOT_WRITTEN
    try:
        sys.stderr.flush()
    except OSError:
        _lead_nowhere(sys.stderr)
    return code


def _lead_nowhere(stream: TextIO) -> None:
    """Drop what a stream has not written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    stream.flush()


class Heard(io.TextIOBase):
    """A stream of messages that makes nothing fail: a run does not end because its progress is not
    read any more.
    """

    def __init__(self, raw: TextIO) -> None:
        self._raw = raw

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._raw.encoding or "utf-8"

    def write(self, text: str) -> int:
        try:
            self._raw.write(text)
        except OSError:
            return len(text)  # its reader is gone, or its disk is full
        return len(text)

    def flush(self) -> None:
        try:
            self._raw.flush()
        except OSError:
            return

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()

    def writable(self) -> bool:
        return True
