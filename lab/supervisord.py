# SPDX-License-Identifier: Apache-2.0
"""supervisord, cured of a busy loop: the first process of a site.

supervisord leaves a closed connection's descriptor in its poll set. When the next descriptor with
that number is the writing end of a program's standard input, and the program closes its end, poll()
reports an error for it at once and for ever, which supervisord ignores.
"""

from __future__ import annotations

from typing import Any

from supervisor import poller, supervisord  # type: ignore[import-untyped]


class ForgettingPoller(poller.PollPoller):  # type: ignore[misc]
    """Forgets a descriptor that has nothing but an error to tell, as it does one that is closed."""

    def _ignore_invalid(self, fd: int, eventmask: int) -> Any:
        if not eventmask & (self.READ | self.WRITE):
            self._poller.unregister(fd)
            self.readables.discard(fd)
            self.writables.discard(fd)
            return True
        return super()._ignore_invalid(fd, eventmask)


if __name__ == "__main__":
    poller.Poller = ForgettingPoller
    supervisord.main()
