# SPDX-License-Identifier: Apache-2.0
"""MariaDB: the site's own database server, and the steps of other services with it before they
run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.site import Site

PORT = 3306


def socket_of(site: Site) -> Path:
    return site.run / "mariadb.sock"


def execute(site: Site, sql: str) -> str:
    """Execute SQL as root and return the rows of its result: a line each, fields separated by
    tabs.
    """
    return _client(site, "mariadb", "--batch", "--skip-column-names", stdin=sql)


def dump(site: Site, database: str, path: Path) -> None:
    """Write the database as SQL to `path`, which appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{site.name}.part")
    part.write_text(_client(site, "mariadb-dump", database))
    part.rename(path)


def load(site: Site, database: str, path: Path) -> None:
    """Fill an empty database from the output of `dump`."""
    _client(site, "mariadb", database, stdin=path.read_text())


def _client(site: Site, program: str, *arguments: str, stdin: str | None = None) -> str:
    # the socket is a file, so this needs no entering of the site
    argv = [program, "--no-defaults", "--user=root", f"--socket={socket_of(site)}", *arguments]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise LabError(
            f"{site.name}: {program} {' '.join(arguments)} failed: {done.stderr.strip()[-1500:]}"
        )
    return done.stdout


class MariaDB(Service):
    name = "mariadb"

    def prepare(self, site: Site) -> None:
        data = site.data / "mariadb"
        if (data / "complete").exists():
            return
        shutil.rmtree(data, ignore_errors=True)
        accounts = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", *accounts],
            capture_output=True,
            text=True,
            # not /tmp: at its start a server removes the temporary tables of all others there
            env=os.environ | {"TMPDIR": str(site.home / "tmp")},
        )
        if done.returncode:
            raise LabError(
                f"{site.name}: mariadb-install-db failed: {(done.stdout + done.stderr)[-1500:]}"
            )
        (data / "complete").touch()

    def programs(self, site: Site) -> Sequence[Program]:
        data = site.data / "mariadb"
        where = [
            f"--datadir={data}",
            f"--socket={socket_of(site)}",
            f"--pid-file={site.run}/mariadb.pid",
        ]
        network = [
            "--bind-address=127.0.0.1",
            f"--port={PORT}",
            "--skip-name-resolve",
            "--max-connections=500",
        ]
        # the lab survives processes that are killed, not a machine that fails: no flushing to disk
        durability = [
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--skip-innodb-doublewrite",
        ]
        memory = [
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=128M",
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=8M",
        ]
        text = ["--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci"]
        options = [*where, *network, *durability, *memory, *text]
        return [
            Program("mariadb", ["/usr/sbin/mariadbd", "--no-defaults", "--user=root", *options])
        ]

    def check_ready(self, site: Site) -> None:
        try:
            execute(site, "SELECT 1")
        except LabError as e:
            raise NotReady(str(e)) from e
