"""MariaDB: the site's own database server, and what other services do with databases before they run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.site import Site

USER = "lab"
PASSWORD = "lab"
PORT = 3306


def url(database: str) -> str:
    """The SQLAlchemy URL of a database, for services inside the site (the same in every site: loopback)."""
    return f"mysql+pymysql://{USER}:{PASSWORD}@127.0.0.1:{PORT}/{database}?charset=utf8mb3"


def socket_of(site: Site) -> Path:
    return site.run / "mariadb.sock"


def execute(site: Site, sql: str, database: str = "") -> list[list[str]]:
    """Execute SQL as root and return the rows of its result as text."""
    done = _client(site, "mariadb", "--batch", "--skip-column-names", database, stdin=sql)
    return [line.split("\t") for line in done.splitlines()]


def create(site: Site, database: str) -> None:
    """Make an empty database that USER may use, unless it is there."""
    execute(site, f"CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci")


def is_empty(site: Site, database: str) -> bool:
    """Whether the database has no table yet."""
    return not execute(site, f"SELECT 1 FROM information_schema.tables WHERE table_schema = '{database}' LIMIT 1")


def dump(site: Site, database: str, path: Path) -> None:
    """Write the database as SQL to `path`, which appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{site.name}.part")
    part.write_text(_client(site, "mariadb-dump", database))
    part.rename(path)


def load(site: Site, database: str, path: Path) -> None:
    """Fill an empty database from what `dump` wrote."""
    _client(site, "mariadb", database, stdin=path.read_text())


def _client(site: Site, program: str, *arguments: str, stdin: str | None = None) -> str:
    # the socket is a file, so this needs no entering of the site
    argv = [program, "--no-defaults", "--user=root", f"--socket={socket_of(site)}", *filter(None, arguments)]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise LabError(f"{site.name}: {program} {' '.join(arguments)} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout


class MariaDB(Service):
    name = "mariadb"

    def prepare(self, site: Site) -> None:
        data = site.data / "mariadb"
        if (data / "complete").exists():
            return
        done = subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"]
            + ["--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise LabError(f"{site.name}: mariadb-install-db failed: {(done.stdout + done.stderr)[-1500:]}")
        (data / "complete").touch()

    def programs(self, site: Site) -> Sequence[Program]:
        data = site.data / "mariadb"
        return [
            Program(
                "mariadb",
                ["/usr/sbin/mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket_of(site)}"]
                + [f"--pid-file={site.run}/mariadb.pid", "--bind-address=127.0.0.1", f"--port={PORT}", "--skip-name-resolve"]
                # the lab survives processes that are killed, not a machine that fails: no flushing to disk
                + ["--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite"]
                + ["--performance-schema=OFF", "--innodb-buffer-pool-size=128M", "--key-buffer-size=1M", "--aria-pagecache-buffer-size=8M"]
                + ["--max-connections=500", "--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci"],
            )
        ]

    def check_ready(self, site: Site) -> None:
        try:
            execute(site, "SELECT 1")
        except LabError as e:
            raise NotReady(str(e)) from e

    def populate(self, site: Site) -> None:
        execute(site, f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
