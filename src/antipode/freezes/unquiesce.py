# SPDX-License-Identifier: Apache-2.0
"""Unquiescing servers: one, and several one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from antipode.cloud.site import Site

Answer = TypeVar("Answer")

THAW_CALL_S = 15.0
"""How long one unquiesce call may take."""
HANGS_AFTER_S = 2.0
"""How long an unquiesce call may take before the next member gets its turn beside it."""


def thaw(site: Site, server_id: str) -> None:
    """Unquiesce one server, frozen or not; when this returns it is not frozen, or gone."""
    site.compute.unquiesce(server_id, THAW_CALL_S)


def one_after_another(
    pool: ThreadPoolExecutor, thaws: Sequence[Callable[[], Answer]]
) -> list[Answer]:
    """Make unquiesce calls in this order, and return their results.

    A call that hangs delays the next one by HANGS_AFTER_S at most.
    """
    begun: list[Future[Answer]] = []
    for call in thaws:
        begun.append(pool.submit(call))
        wait(begun[-1:], timeout=HANGS_AFTER_S)
    return [call.result() for call in begun]
