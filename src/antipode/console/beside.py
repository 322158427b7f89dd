# SPDX-License-Identifier: Apache-2.0
"""Work that takes longer than a page: it is carried out beside the request that asked for it."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING, Any

from antipode.errors import AntipodeError

if TYPE_CHECKING:
    from starlette.responses import Response

    from antipode.console.web import Asked

LOG = logging.getLogger(__name__)
AT_ONCE = 8
REFUSED_WITHIN_S = 1.5
"""What is refused at once is refused on the page."""
_POOL = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="console")


def carry_out(work: Callable[[], Any]) -> None:
    """Begin work in the name of the person of this thread, and return while it goes on.

    Raises:
        AntipodeError: it has failed at once.
    """
    context = contextvars.copy_context()
    begun = _POOL.submit(context.run, _noted, work)
    try:
        failed = begun.result(REFUSED_WITHIN_S)
    except NotYet:
        return
    if failed is not None:
        raise failed


def _noted(work: Callable[[], Any]) -> AntipodeError | None:
    """Work to its end; why it has failed. The run itself keeps its reason."""
    try:
        work()
    except AntipodeError as error:
        LOG.warning("%s", error)
        return error
    return None


def begun_by(asked: Asked, run: str) -> Response:
    """The page of a run that was begun."""
    asked.console.snapshots.forget()
    return asked.back_to(f"/runs/{run}")
