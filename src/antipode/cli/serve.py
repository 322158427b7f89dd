# SPDX-License-Identifier: Apache-2.0
"""`antipode serve`, `antipode api` and `antipode service …`: the processes that execute queued runs
and answer to the REST API, and their state.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antipode.cli.command import ShowCommand, TextCommand, columns
from antipode.errors import InvalidInput
from antipode.screen import moment

if TYPE_CHECKING:
    from antipode.engine.deployment import Deployment

LOG = logging.getLogger(__name__)


class Serve(TextCommand):
    """Execute queued runs, resume lost ones, and unquiesce overdue members, until SIGTERM."""

    examples = ("antipode serve", "antipode --log-format json serve")

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        deployment = self.app.deployment()
        from antipode.service.daemon import serve

        stop = _stopped_by_signals()
        with _api(deployment):
            all_stopped = serve(deployment, stop)
        if not all_stopped:
            # threads that wait for a cloud would keep the process; the next service resumes their
            # runs
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 0


GIVES_WAY = 10
"""By how much a process that only answers to the API is nicer than those that carry runs out: where
processors are short, clients that poll wait, and no protection does. It has a tenth of a busy
processor then, which is some 40 answers a second.
"""


class Api(TextCommand):
    """Answer to the REST API until SIGTERM, beside services that execute the runs."""

    examples = ("antipode api",)

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        deployment = self.app.deployment()
        if deployment.config.api is None:
            raise InvalidInput(
                "the configuration does not say where the API answers; write api, with port and"
                " projects"
            )
        stop = _stopped_by_signals()
        with _api(deployment):
            give_way()  # not before: on a busy host a start would take minutes
            stop.wait()
        return 0


def give_way() -> None:
    """Have what carries runs out come before the threads of this process, and those that they
    start.
    """
    if sys.platform != "linux":
        os.nice(GIVES_WAY)
        return
    for thread in Path("/proc/self/task").iterdir():  # each has settings of its own
        number = int(thread.name)
        try:
            nice = os.getpriority(os.PRIO_PROCESS, number)
            os.setpriority(os.PRIO_PROCESS, number, nice + GIVES_WAY)
            # one that wakes up lets those finish their turns that have a processor
            os.sched_setscheduler(number, os.SCHED_BATCH, os.sched_param(0))
        except ProcessLookupError:
            continue  # it has ended
        except OSError as error:  # a container may not allow it, nor a policy that gives way more
            LOG.info("the API keeps the scheduling policy that it has: %s", error)


def _stopped_by_signals() -> threading.Event:
    """An event that is set when the process is to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _api(deployment: Deployment) -> AbstractContextManager[object]:
    """The server of the API while the block runs, where the configuration has one.

    Raises:
        InvalidInput: its libraries are not installed, or its settings are wrong.
        AntipodeError: it cannot be served there.
    """
    if deployment.config.api is None:
        return nullcontext()
    try:
        from antipode.api.server import served
        from antipode.console.app import beside
    except ImportError as error:
        raise InvalidInput(
            f"the API needs what is not installed ({error}); pip install 'antipode[api]'"
        ) from error
    return served(deployment, beside(deployment.config.api))


class ServiceStatus(ShowCommand):
    """Show whether the service of this host works, on which runs, and what troubles it.

    Ends with exit code 1 when it does not run or has trouble.
    """

    examples = ("antipode service status", "antipode service status -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        deployment = self.app.deployment()
        from antipode.service.daemon import queue_size, status_of

        status = status_of(deployment.config)
        open_runs = deployment.runs.open()
        alive = status is not None and status.is_alive
        if status is None or not alive or status.trouble:
            self.exit_code = 1
        return columns(
            {
                "service": "running"
                if alive
                else "not running"
                if status is None
                else "not responding",
                "host": status and status.host,
                "process": status and status.pid,
                "version": status and status.version,
                "started_at": status and moment(status.started_at),
                "last_sign_of_life": status and moment(status.beat_at),
                "runs": sorted(set(status.runs) & {row.id for row in open_runs}) if status else [],
                "trouble": status.trouble if status else {},
                **queue_size(deployment, open_runs),
            }
        )
