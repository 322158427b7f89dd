# SPDX-License-Identifier: Apache-2.0
"""Database schemas: migrated once per set of installed versions, from then on loaded from the dump,
at every site.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lab.service import Service
from lab.services import mariadb
from lab.site import CACHE, VENV, Site

TIMEOUT = 900
"""Seconds for one migration, on a machine that starts everything else at the same time."""

Step = Callable[[Site], None]


class Schema(Service):
    """The databases of one OpenStack service.

    What `migrate` writes must be the same at every site: the dump is shared.
    """

    after = ("mariadb",)

    def __init__(
        self, owner: str, databases: Sequence[str], configure: Step, migrate: Step
    ) -> None:
        self.owner = owner
        self.name = f"{owner}-schema"
        self.databases = databases
        self._configure = configure
        self._migrate = migrate

    def configure(self, site: Site) -> None:
        self._configure(site)

    def prepare(self, site: Site) -> None:
        if self._is_there(site):
            return
        self._create_empty(site)
        with _only_one(_dumps() / f"{self.owner}.lock"):
            migrate = not all(self._dump(database).exists() for database in self.databases)
            if migrate:
                self._migrate(site)
                for database in self.databases:
                    mariadb.dump(site, database, self._dump(database))
        if not migrate:
            for database in self.databases:
                mariadb.load(site, database, self._dump(database))
        mariadb.execute(site, f"INSERT INTO lab.migrated VALUES ('{self.owner}')")

    def _is_there(self, site: Site) -> bool:
        mariadb.execute(
            site,
            "CREATE DATABASE IF NOT EXISTS lab; CREATE TABLE IF NOT EXISTS lab.migrated (owner "
            "VARCHAR(64) PRIMARY KEY)",
        )
        return bool(
            mariadb.execute(
                site, f"SELECT owner FROM lab.migrated WHERE owner = '{self.owner}'"
            ).strip()
        )

    def _create_empty(self, site: Site) -> None:
        """Start from nothing, also when an earlier attempt was interrupted."""
        sql = ["CREATE USER IF NOT EXISTS lab@'127.0.0.1' IDENTIFIED BY 'lab'"]
        for database in self.databases:
            sql += [
                f"DROP DATABASE IF EXISTS {database}",
                f"CREATE DATABASE {database} CHARACTER SET utf8mb3",
                f"GRANT ALL ON {database}.* TO lab@'127.0.0.1'",
            ]
        mariadb.execute(site, "; ".join(sql))

    def _dump(self, database: str) -> Path:
        return _dumps() / f"{database}.sql"


@cache
def _dumps() -> Path:
    """A folder per set of installed distributions: another version may bring other migrations."""
    installed = sorted(path.name for path in VENV.glob("lib/python3*/site-packages/*.dist-info"))
    folder = CACHE / "schema" / hashlib.sha256("\n".join(installed).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Let the other site wait for the dump instead of migrating the same thing beside us."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
