# SPDX-License-Identifier: Apache-2.0
"""Work that a signal must not break into: it runs in a thread of its own, and signals are only
noted while it does.

An interrupt (Ctrl-C, SIGTERM) in the middle of a call would leave open whether a member is frozen.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_uninterrupted(work: Callable[[], None], note: Callable[[str], None], name: str) -> None:
    """Run `work` to its end in a thread of this name. It keeps its errors for itself.

    Args:
        note: called with the name of a signal that comes meanwhile. It may interrupt itself: it
            must do no more than an assignment.
    """
    over = threading.Event()

    def to_its_end() -> None:
        try:
            work()
        finally:
            over.set()

    with _signals_to(note):
        thread = threading.Thread(target=to_its_end, name=name)
        thread.start()
        # Not for ever: a signal that another thread took is seen by this one only when it runs.
        while not over.wait(0.2):
            pass
        thread.join()


@contextmanager
def _signals_to(note: Callable[[str], None]) -> Iterator[None]:
    """Note signals instead of raising them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread is interrupted by signals, nor may it set their handlers
        return

    def handle(number: int, _frame: object) -> None:
        # Only this, and nothing with a lock: the next signal may interrupt this very function.
        note(signal.Signals(number).name)

    # An ignored signal stays so (nohup), one whose handler is not Python's could not be given back.
    usual = {s: h for s in INTERRUPTS if (h := signal.getsignal(s)) not in (signal.SIG_IGN, None)}
    try:
        for number in usual:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
