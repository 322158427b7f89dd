# SPDX-License-Identifier: Apache-2.0
"""One client run as a process of its own: what it printed, and the seconds, CPU seconds and HTTP
requests it took.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_S = 90
"""how long a client may take to unquiesce its guests after SIGTERM"""


class ClientFailed(Exception):
    """A client ended with an error: nothing was measured."""


@dataclass(frozen=True)
class Spent:
    """The cost of one run of a client."""

    output: str
    began: float
    """epoch seconds"""
    wall_s: float
    cpu_s: float
    """user and system time of the process and of those it started"""
    calls: int
    """HTTP requests"""


def run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Spent:
    """Run a client to its end; its standard error goes to `log`.

    Raises:
        ClientFailed: it ended with another code than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    calls, output = log.with_suffix(".calls"), log.with_suffix(".out")
    calls.write_text("")
    own = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(Path(__file__).parent / "counting"), *([own] if own else [])])
    with output.open("w") as out, log.open("w") as err:
        began, started = time.time(), time.monotonic()
        process = subprocess.Popen(
            list(command),
            stdout=out,
            stderr=err,
            env={**os.environ, **environment, "BENCH_CALLS": str(calls), "PYTHONPATH": path},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _stop(process)
            raise
        wall = time.monotonic() - started
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code != 0:
        end = "\n".join(log.read_text().splitlines()[-15:])
        raise ClientFailed(f"{' '.join(command)} ended with {code}; the end of {log}:\n{end}")
    return Spent(
        output.read_text(),
        began,
        wall,
        usage.ru_utime + usage.ru_stime,
        sum(map(int, calls.read_text().split())),
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell a client to stop and give it the time to thaw what it froze; never SIGKILL it inside its
    window.
    """
    process.send_signal(signal.SIGTERM)
    process.wait(STOP_S)
