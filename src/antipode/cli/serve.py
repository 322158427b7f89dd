# SPDX-License-Identifier: Apache-2.0
"""`antipode serve` and `antipode service …`: the process that executes queued runs, and its
state.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Any

from antipode.cli.command import ShowCommand, TextCommand, columns
from antipode.screen import moment


class Serve(TextCommand):
    """Execute queued runs, resume lost ones, and unquiesce overdue members, until SIGTERM."""

    examples = ("antipode serve", "antipode --log-format json serve")

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        deployment = self.app.deployment()
        from antipode.service.daemon import serve

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        all_stopped = serve(deployment, stop)
        if not all_stopped:
            # threads that wait for a cloud would keep the process; the next service resumes their
            # runs
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 0


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
