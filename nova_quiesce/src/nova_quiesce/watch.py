# SPDX-License-Identifier: Apache-2.0
"""The watch that every nova-api process keeps: it looks in all cells for servers whose time is
over, and thaws them.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import oslo_messaging
from nova import context as nova_context
from nova import exception, objects
from nova.conf import CONF
from oslo_log import log as logging

from nova_quiesce import record
from nova_quiesce.guest import reason
from nova_quiesce.record import LOST, Record

LOG = logging.getLogger(__name__)

# How much longer a process waits for a server that another has quiesced: that one is to thaw it,
# and the rest is not to come all at once.
LAG_SECONDS = (2, 5)

# So many servers are thawed at once; one whose compute host is silent must not keep the others
# waiting.
AT_ONCE = 32

THREAD = "nova-quiesce"

_REGULARLY = ""
_RANDOM = (
    random.SystemRandom()
)  # processes forked by uwsgi have the same state of the usual generator


class Watch:
    """Thaws with `thaw(context, server_id, record)` what is due; in a thread of each process, or
    after requests where none would run.
    """

    def __init__(self, thaw: Callable[[Any, str, Record], None]) -> None:
        self._thaw = thaw
        self._begin_again()

    def _begin_again(self) -> None:
        self._pid: int | None = None
        self._sooner = threading.Event()
        self._look_at = {_REGULARLY: 0.0}
        self._own: set[str] = set()
        self._lost: dict[str, tuple[Any, Record]] = {}
        self._thawing: dict[str, threading.Thread] = {}
        self._lag = _RANDOM.uniform(*LAG_SECONDS)

    def run_in_thread(self) -> None:
        """Start the watch in this process, unless it runs: a thread does not survive the fork of
        its process.
        """
        if self._pid != os.getpid():
            self._begin_again()
            self._pid = os.getpid()
            threading.Thread(target=self.run, name=THREAD, daemon=True).start()

    def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            self._sooner.wait(self._pause())
            self._sooner.clear()
            try:
                self.look()
            except Exception:
                # No error may end the watch.
                LOG.exception(
                    "Looking for quiesced servers failed; next attempt in %s s.",
                    CONF.quiesce.look_interval,
                )
                self._look_at = {_REGULARLY: time.monotonic() + CONF.quiesce.look_interval}

    def look_if_time(self) -> None:
        """Look if it is time to, and return when all that was due is thawed: for a process in which
        no thread of ours would run.
        """
        if not self._pause():
            self.look()
            for thread in list(self._thawing.values()):
                thread.join()

    def expect(self, server_id: str, quiesced: Record) -> None:
        """Look when a server is due that this process has quiesced, or tried to thaw."""
        self._own.add(server_id)
        self._look_in(record.seconds_until(quiesced.due_at), server_id)

    def keep(self, server_id: str, lost: Record) -> None:
        """Thaw a server that has no record any more. No other process knows of it."""
        mapping = objects.InstanceMapping.get_by_instance_uuid(
            nova_context.get_admin_context(), server_id
        )
        self._lost[server_id] = (mapping.cell_mapping, lost)
        self.expect(server_id, lost)

    def look(self) -> None:
        """Begin to thaw what is due, and note when to look for what is not."""
        self._look_at[_REGULARLY] = time.monotonic() + CONF.quiesce.look_interval * _RANDOM.uniform(
            0.8, 1.2
        )
        known = set(self._look_at) - {_REGULARLY}
        try:
            found = all_quiesced()
        except Exception:
            LOG.exception(
                "Cannot look for quiesced servers; next attempt in about %s s.",
                CONF.quiesce.look_interval,
            )
            found = []
        recorded = {server_id for _, server_id, _ in found}
        # One that has been quiesced again is left to its new record.
        found += [
            (cell, server_id, lost)
            for server_id, (cell, lost) in list(self._lost.items())
            if server_id not in recorded
        ]
        for server_id in known - {server_id for _, server_id, _ in found}:
            self._look_at.pop(server_id, None)
            self._own.discard(server_id)
        for cell, server_id, its_record in found:
            due_in = record.seconds_until(its_record.due_at) + (
                0 if server_id in self._own else self._lag
            )
            if due_in > 0 or len(self._thawing) >= AT_ONCE:
                self._look_at[server_id] = time.monotonic() + max(due_in, 1)
                continue
            self._look_at.pop(server_id, None)
            if server_id not in self._thawing:
                name = f"{THREAD}-{server_id}"
                thaw = threading.Thread(
                    target=self._thaw_one,
                    args=(cell, server_id, its_record),
                    name=name,
                    daemon=True,
                )
                self._thawing[server_id] = thaw
                thaw.start()

    def _pause(self) -> float:
        return max(0.0, min(list(self._look_at.values())) - time.monotonic())

    def _look_in(self, seconds: float, server_id: str) -> None:
        self._look_at[server_id] = time.monotonic() + seconds
        self._sooner.set()

    def _thaw_one(self, cell: Any, server_id: str, found: Record) -> None:
        look_in = 0
        self._lost.pop(server_id, None)
        try:
            with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
                self._thaw(context, server_id, found)
        except exception.InstanceNotFound:
            LOG.info("Server %s was deleted while it was quiesced.", server_id)
        except Exception as error:
            look_in = record.RETRY_SECONDS
            # The compute service has logged its answer; every few seconds a traceback of
            # that would only hide the rest.
            unexpected = not isinstance(
                error, (exception.NovaException, oslo_messaging.MessagingException)
            )
            text = "Server %s could not be unquiesced, next attempt in %s s: %s"
            LOG.error(text, server_id, look_in, reason(error), exc_info=unexpected)
            self._own.add(server_id)
            if found.state == LOST:
                self._lost[server_id] = (
                    cell,
                    found.become(LOST, free_at=record.in_seconds(look_in)),
                )
        finally:
            del self._thawing[server_id]
            self._look_in(look_in, server_id)


def all_quiesced() -> list[tuple[Any, str, Record]]:
    """Return all quiesced servers, each with its cell and its record, of the cells that answer."""
    by_id = {cell.uuid: cell for cell in cells()}
    answers = nova_context.scatter_gather_cells(
        nova_context.get_admin_context(),
        list(by_id.values()),
        nova_context.CELL_TIMEOUT,
        record.all_of_cell,
    )
    return [
        (by_id[cell], server_id, found)
        for cell, answer in answers.items()
        if isinstance(answer, dict)  # else Nova has logged what is wrong with the cell
        for server_id, found in answer.items()
    ]


def cells() -> list[Any]:
    """Return the cells that have servers, as this process knows them."""
    nova_context.load_cells()
    return [cell for cell in nova_context.CELLS if not cell.is_cell0()]


def threads_run() -> bool:
    """Whether a thread runs in this process while it serves no request.

    With eventlet threads are green: they run while the thread that began them waits for something.
    Nova's own server does so all the time; uwsgi and mod_wsgi wait for requests outside of Python.
    """
    return not _is_green() or "nova.api.openstack.wsgi_app" not in sys.modules


def in_each_worker(start: Callable[[], None]) -> None:
    """Have `start` called in each process that will serve requests, before it does, where the
    server lets us.
    """
    if _is_green():
        # Nova's own server forks its workers later, and what is green does not survive that: the
        # first request of each starts it
        return
    try:
        import uwsgi  # only there in a uwsgi process
    except ImportError:
        start()
        return
    if uwsgi.worker_id():
        start()  # lazy-apps: the worker has been forked
        return
    before = getattr(uwsgi, "post_fork_hook", None)

    def after_fork() -> None:
        if before:
            before()
        start()

    uwsgi.post_fork_hook = after_fork


def _is_green() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))
