# SPDX-License-Identifier: Apache-2.0
"""Real servers for the tests: etcd, PostgreSQL, MariaDB and Redis, each in a folder of its own, on
free ports of loopback, as nobody.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.distributed.packages import program
from tests.ports import free_port

WITHIN_S = 180.0
"""How long anything may take on a machine that is slow and has much else to do.

It is the bound of a wait for something that must come.
"""


def as_nobody(command: Sequence[str]) -> list[str]:
    """A command for a user without rights; ours, when we have none."""
    return (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        if os.geteuid() == 0
        else list(command)
    )


@contextmanager
def folder_unattached() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="antipode-test-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(what: str, is_so: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Poll until something is so; fails saying what was waited for."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s in vain: {what}"
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(
    command: Sequence[str], folder: Path, ready: Callable[[], object]
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is ready; stopped, by force if need be, when the block is left."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("ab") as output:
        # in a session of its own, so that a Ctrl-C for the tests leaves the end of the server to us
        process = subprocess.Popen(
            as_nobody(command),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
        )
    try:

        def is_ready() -> bool:
            assert process.poll() is None, (
                f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}"
            )
            return bool(ready())

        until(f"{Path(command[0]).name} to be ready", is_ready)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def etcd(
    *options: str, scheme: str = "http", folder: Path | None = None, port: int | None = None
) -> Iterator[str]:
    """An etcd; its endpoint."""
    with folder_unattached() as own:
        client, peer = port or free_port(), free_port()
        data = folder or own
        urls = [
            "--listen-client-urls",
            f"{scheme}://127.0.0.1:{client}",
            "--advertise-client-urls",
            f"{scheme}://127.0.0.1:{client}",
        ]
        urls += [
            "--listen-peer-urls",
            f"http://127.0.0.1:{peer}",
            "--initial-advertise-peer-urls",
            f"http://127.0.0.1:{peer}",
        ]
        urls += ["--initial-cluster", f"default=http://127.0.0.1:{peer}"]
        command = [
            program("etcd"),
            "--data-dir",
            str(data / "etcd"),
            "--unsafe-no-fsync",
            *urls,
            *options,
        ]
        with running(
            command,
            data,
            lambda: (
                answers(client)
                and "ready to serve client requests" in (data / "etcd.log").read_text()
            ),
        ):
            yield f"{scheme}://127.0.0.1:{client}"


@contextmanager
def redis() -> Iterator[int]:
    """A Redis; its port."""
    with folder_unattached() as folder:
        port = free_port()
        command = [
            program("redis-server"),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        with running(command, folder, lambda: answers(port)):
            yield port


@contextmanager
def postgresql() -> Iterator[DatabaseServer]:
    with folder_unattached() as folder:
        data, port = folder / "data", free_port()
        initdb = [
            program("initdb"),
            "-D",
            str(data),
            "-U",
            "antipode",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run(as_nobody(initdb), check=True, capture_output=True, cwd=folder)
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "fsync": "off",
        }
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        server = DatabaseServer("postgresql+psycopg", "antipode", port, "postgres")
        with running([program("postgres"), "-D", str(data), *options], folder, server.is_ready):
            yield server


@contextmanager
def mariadb() -> Iterator[DatabaseServer]:
    with folder_unattached() as folder:
        data, port, user = folder / "data", free_port(), "nobody" if os.geteuid() == 0 else None
        accounts = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        small = [
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M",
            "--performance-schema=OFF",
        ]
        install = [
            program("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={data}",
            *accounts,
            *small[:1],
        ]
        subprocess.run(
            install + ([f"--user={user}"] if user else []),
            check=True,
            capture_output=True,
            cwd=folder,
            # not /tmp: at its start a server removes the temporary tables of all others there
            env=os.environ | {"TMPDIR": str(folder)},
        )
        where = [
            f"--datadir={data}",
            f"--tmpdir={folder}",
            f"--socket={folder}/s",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={folder}/pid",
        ]
        command = [
            program("mariadbd"),
            "--no-defaults",
            *where,
            "--skip-name-resolve",
            "--skip-log-bin",
            *small,
        ]
        server = DatabaseServer("mysql+pymysql", "root", port, "mysql")
        with running(command, folder, server.is_ready):
            yield server


@dataclass
class DatabaseServer:
    driver: str
    user: str
    port: int
    first: str
    """a database that is always there"""
    made: int = field(default=0)

    def url(self, database: str, port: int | None = None) -> str:
        return f"{self.driver}://{self.user}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        self.made += 1
        name = f"antipode_{self.made}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def is_ready(self) -> bool:
        if not answers(self.port):
            return False
        try:
            self._execute("SELECT 1")
        except Exception:
            return False
        return True

    def _execute(self, statement: str) -> None:
        engine = create_engine(self.url(self.first), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


class Wire:
    """A TCP proxy between a process and a server, which can swallow everything: no reset, no
    answer.
    """

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing gets through, either way."""
        self._cut.set()

    def mend(self) -> None:
        """Let everything through again, what was swallowed excepted."""
        self._cut.clear()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._sockets += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self._cut.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
