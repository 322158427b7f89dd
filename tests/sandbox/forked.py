# SPDX-License-Identifier: Apache-2.0
"""antipode's command line in processes of their own, forked from one that has imported it.

The tests run hundreds of commands, and importing costs more than most of them. A test that sends
signals to a command begins it as an operator does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from stevedore import ExtensionManager

import antipode
from antipode.cli import main
from antipode.sandbox import demo
from antipode.sandbox.supervision import SandboxError

_PROJECT = Path(__file__).parents[2]
_LATE = (
    "cliff.formatters.table",
    "keystoneauth1.identity",
    "openstack.connection",
    "prettytable",
    "sqlalchemy.dialects.sqlite",
    "taskflow.engines.action_engine.engine",
)
"""What antipode's modules import only while they work."""


class Operator(demo.Operator):
    """Runs commands to their end in forked processes."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(prefix="antipode-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            code = _fork(
                {
                    "arguments": arguments,
                    "environment": self.environment(),
                    "directory": str(self.directory),
                    "streams": [str(out), str(err)],
                }
            )
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def _fork(job: dict[str, Any]) -> int:
    """Have a command executed; its exit code.

    Raises:
        SandboxError: it does not end.
    """
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as answers:
        connection.connect(_door())
        connection.settimeout(demo.LONGEST_S)
        answers.write(json.dumps(job) + "\n")
        answers.flush()
        pid = int(answers.readline())
        try:
            return int(answers.readline())
        except TimeoutError as error:
            os.kill(pid, signal.SIGKILL)
            raise SandboxError(
                f"antipode {' '.join(job['arguments'])} has not ended after {demo.LONGEST_S:g} s "
                "and was killed"
            ) from error


@cache
def _door() -> str:
    """The address of the process that forks. It ends after this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, tempfile.mkdtemp(prefix="antipode-")],
        cwd=_PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ---- the process that forks ----


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64
    max_children = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "s"), _Handler)
        self._parent = os.getppid()

    def service_actions(self) -> None:
        """Called between requests, at least twice a second."""
        super().service_actions()
        if os.getppid() != self._parent:
            sys.exit()


class _Handler(socketserver.StreamRequestHandler):
    """In a fork for each request: forks the command and tells its process id and exit code."""

    def handle(self) -> None:
        job = json.loads(self.rfile.readline())
        if (pid := os.fork()) == 0:
            _execute(job)
        self.wfile.write(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        self.wfile.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _execute(job: dict[str, Any]) -> NoReturn:
    """The command, with streams, environment and folder of its own."""
    code = 1
    try:
        for number, name in enumerate([os.devnull, *job["streams"]]):
            stream = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["directory"])
        code = main.main(job["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # what the server has of threads and files is not ended by its fork


def _serve(folder: Path) -> None:
    ours = (module.name for module in pkgutil.walk_packages(antipode.__path__, "antipode."))
    for name in (*ours, *_LATE):
        if ".migrations" not in name and not name.endswith("__main__"):
            importlib.import_module(name)
    ExtensionManager("antipode.none")  # it reads the entry points of all packages
    gc.freeze()  # what is there by now need not be looked through in each fork
    try:
        with _Server(folder) as server:
            print(server.server_address, flush=True)
            server.serve_forever()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
