# SPDX-License-Identifier: Apache-2.0
"""The work that services of a site do after they have answered a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

LOG = logging.getLogger(__name__)


class Work:
    """Keeps what was started until it has ended, and logs what ends by an error that no caller
    expected.
    """

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            LOG.error("work that was begun after an answer has failed", exc_info=error)
