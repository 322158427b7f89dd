# SPDX-License-Identifier: Apache-2.0
"""Two real PostgreSQL servers on loopback, of which one follows the other, and the commands of the
example plug-in for both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.distributed.packages import program
from tests.distributed.servers import as_nobody, folder_unattached, until
from tests.ports import free_port

PLUGIN = Path(__file__).parents[2] / "examples/datastores/postgresql/antipode_postgresql.py"
VERBS = ("status", "reference", "point", "promote", "demote", "resync")


@dataclass
class Server:
    """One PostgreSQL, whose process nobody waits for."""

    folder: Path
    """with its data and its copy of the plug-in"""
    port: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the driver `command`."""
        command = as_nobody([sys.executable, "-I", str(self.folder / PLUGIN.name)])
        command[0] = f"/usr/bin/{command[0]}" if "/" not in command[0] else command[0]
        return {
            "commands": {verb: [*command, verb] for verb in VERBS},
            "environment": {
                "PGDATA": str(self.data),
                "PGPORT": str(self.port),
                "PGHOST": "127.0.0.1",
                "PGUSER": "antipode",
                "PG_BIN": str(Path(program("initdb")).resolve().parent),
            },
            "timeouts": {"status": "60s", "reference": "60s", "point": "60s"},
        }

    @property
    def connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="antipode", dbname="postgres", autocommit=True
        )

    def ask(self, statement: str) -> Any:
        """The one value that a statement gives; None for one that gives none."""
        with self.connection as connection:
            done = connection.execute(statement)
            row = done.fetchone() if done.description else None
            return row[0] if row else None

    def run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            as_nobody([program(name), *words]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        self.run("pg_ctl", "start", "-w", "-D", str(self.data), "-l", str(self.folder / "log"))

    def kill(self) -> None:
        """As if its host had lost its power."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        until(f"the end of process {pid}", lambda: not Path(f"/proc/{pid}").exists())

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            subprocess.run(
                as_nobody([program("pg_ctl"), "stop", "-m", "immediate", "-D", str(self.data)]),
                capture_output=True,
                check=False,
                cwd=self.folder,
            )


@contextmanager
def pair() -> Iterator[tuple[Server, Server]]:
    """A primary, and a standby that follows it."""
    with folder_unattached() as first, folder_unattached() as second:
        primary, standby = Server(first, free_port()), Server(second, free_port())
        for server in (primary, standby):
            (server.folder / PLUGIN.name).write_bytes(PLUGIN.read_bytes())
        data = ["-D", str(primary.data)]
        primary.run("initdb", *data, "-U", "antipode", "--auth=trust", "--no-sync", "-E", "UTF8")
        own = ["listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", "fsync = off"]
        with (primary.data / "postgresql.conf").open("a") as file:
            file.write("\n".join([*own, "wal_keep_size = '64MB'", f"port = {primary.port}", ""]))
        try:
            primary.start()
            source = f"host=127.0.0.1 port={primary.port} user=antipode"
            copied = ["-R", "-X", "stream", "-c", "fast", "--no-sync"]
            standby.run("pg_basebackup", "-D", str(standby.data), "-d", source, *copied)
            with (standby.data / "postgresql.conf").open("a") as file:
                file.write(f"port = {standby.port}\n")
            standby.start()
            until("the standby to follow", lambda: follows(standby))
            yield primary, standby
        finally:
            for server in (standby, primary):
                server.stop()


def follows(standby: Server) -> bool:
    return standby.ask("SELECT status FROM pg_stat_wal_receiver") == "streaming"
