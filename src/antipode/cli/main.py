# SPDX-License-Identifier: Apache-2.0
"""Starts and ends the `antipode` process: signals and the exit code.

Nothing but the standard library's small modules is imported before a signal can be taken.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from antipode.cli import streams

INTERRUPTED = 130
COLLECTS_AFTER = (20_000, 50, 100)
"""New objects before cycles are looked for, and such looks before older objects are looked at, too.
With Python's own (700, 10, 10) that is a sixth of a short command, whose imports make no garbage.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    streams.open_the_closed()
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, _end)
    gc.disable()  # what is imported stays: looking through it is a tenth of a short command
    from antipode.cli.app import Antipode

    gc.freeze()
    gc.set_threshold(*COLLECTS_AFTER)
    gc.enable()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code: int = Antipode().run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = streams.OUTPUT_UNREAD
    except SystemExit as end:  # of the help, and of wrong arguments
        code = end.code if isinstance(end.code, int) else 0
    code = streams.flushed(code)
    if code == INTERRUPTED:
        # threads that wait for a cloud would keep the process for minutes; the command has already
        # unquiesced and cleaned up
        os._exit(code)
    return code


def _end(_number: int, _frame: object) -> None:
    """While modules are imported nothing has been done yet, and an exception would leave a
    traceback.
    """
    os._exit(INTERRUPTED)


def _interrupt(number: int, _frame: object) -> None:
    """A signal becomes an exception, so that every `finally` that unquiesces runs."""
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
