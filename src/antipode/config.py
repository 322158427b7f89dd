"""antipode.yaml: which sites there are, where the vault is, where runs are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from antipode import yamlfile
from antipode.errors import InvalidInput, NotFound
from antipode.model.base import Model, Seconds
from antipode.model.vnf import Name

PLACES = ("antipode.yaml", "~/.config/antipode/antipode.yaml", "/etc/antipode/antipode.yaml")


class SiteConfig(Model):
    cloud: Annotated[str, Field(min_length=1)]
    """name of the entry in clouds.yaml"""


class SwiftVault(Model):
    site: Name
    container: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^/]+$")] = (
        "antipode-vault"
    )


class VaultConfig(Model):
    """Where manifests live: a Swift container of one site, or a directory (mounted from a third
    place, for example).
    """

    swift: SwiftVault | None = None
    directory: Path | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.swift is None) == (self.directory is None):
            raise ValueError("give either swift or directory")
        if self.directory is not None and not self.directory.is_absolute():
            raise ValueError(f"directory {self.directory} is not an absolute path")
        return self


class BackupStore(Model):
    """The object store that cinder-backup writes to, as seen with an entry of clouds.yaml that may
    read it.
    """

    cloud: Annotated[str, Field(min_length=1)]
    container: str = "volumebackups"


class StallsAfter(Model):
    """After how long without any change a backup or a restore is given up.

    Cinder shows hardly any progress of either: a backup's status and number of objects change when
    it ends, a restore's status likewise. So this is the longest time that one may take: a base,
    and what each GiB of the volume adds. The default allows for 17 MiB/s: 35 hours for 2 TiB.
    """

    base: Annotated[Seconds, Field(gt=0)] = 3600.0
    per_gib: Annotated[Seconds, Field(ge=0)] = 60.0

    def seconds(self, size_gib: int) -> float:
        """For a volume of this size."""
        return self.base + self.per_gib * size_gib


class Limits(Model):
    """How much one antipode process does at once; for N hosts, divide."""

    runs: Annotated[int, Field(ge=1)] = 4
    """protects at once, and as many failovers beside them: a failover never waits for a protect
    (service only)
    """
    restores: Annotated[int, Field(ge=1)] = 8
    """volumes restored at once at a site"""
    backups: Annotated[int, Field(ge=1)] = 8
    """volumes backed up at once at a site"""
    backup_stalls_after: StallsAfter = StallsAfter()
    restore_stalls_after: StallsAfter = StallsAfter()
    api_calls_per_second: Annotated[float, Field(gt=0)] | None = None
    """to the API of a site, on average; what is done while a server is frozen is counted, but never
    waits
    """


class History(Model):
    """Which runs that have ended stay in the database, with their timelines."""

    days: Annotated[float, Field(gt=0)] = 90
    """how long each run stays after its end"""
    keep_at_least: Annotated[int, Field(ge=0)] = 20
    """the newest runs of each VNF, which stay longer"""


class Etcd(Model):
    """An etcd cluster; whichever of its endpoints answers is used."""

    endpoints: Annotated[
        list[Annotated[str, Field(pattern=r"^https?://[^/\s]+:\d+$")]], Field(min_length=1)
    ]
    user: str | None = None
    password_file: Path | None = None
    """its first line is the user's password"""
    ca: Path | None = None
    """certificates that the servers' are signed by"""
    certificate: Path | None = None
    """our own, with `key`, where etcd asks for one"""
    key: Path | None = None

    @model_validator(mode="after")
    def pairs(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.user is not None and not all(e.startswith("https://") for e in self.endpoints):
            raise ValueError("a password is sent to https:// endpoints only")
        return self


class Jobboard(Model):
    """Where the runs of several hosts are claimed.

    One of etcd, redis and zookeeper; the latter two as TaskFlow's boards take them.
    """

    etcd: Etcd | None = None
    redis: dict[str, Any] | None = None
    zookeeper: dict[str, Any] | None = None
    name: Name = "antipode"
    """installations that share a server have different names"""
    claim_expires: Annotated[Seconds, Field(ge=6, le=3600)] = 30.0
    """how long after the last sign of life of a host another one takes its runs over (seconds)"""

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if sum(kind is not None for kind in (self.etcd, self.redis, self.zookeeper)) != 1:
            raise ValueError("give one of etcd, redis and zookeeper")
        return self


class Config(Model):
    """The settings of one antipode installation. Credentials are not here but in clouds.yaml."""

    sites: Annotated[dict[Name, SiteConfig], Field(min_length=1)]
    vault: VaultConfig
    backup_store: BackupStore | None = None
    database: str = Field(
        default_factory=lambda: f"sqlite:///{default_state_dir() / 'antipode.db'}"
    )
    state_directory: Path | None = None
    """where locks, logs and the status of the service are kept, for all users of this host; beside
    the database when that is SQLite
    """
    failover_confirmed_for: Annotated[Seconds, Field(gt=0)] = 3600.0
    """how long after its confirmation, or last sign of life, a service may begin a failover or go
    on with one (seconds)
    """
    jobboard: Jobboard | None = None
    """for several hosts that share the database; without it this host is the only one"""
    limits: Limits = Limits()
    history: History = History()

    @field_validator("database")
    @classmethod
    def database_is_a_url(cls, url: str) -> str:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
            parsed.get_dialect()
        except (ArgumentError, ValueError) as error:  # the URL is not shown: it has a password
            raise ValueError(
                "is not the URL of a database, such as sqlite:////var/lib/antipode/antipode.db or "
                "postgresql+psycopg://USER:PASSWORD@HOST:5432/antipode"
            ) from error
        except ImportError:
            return url  # the driver is missing; opening the database says how to install it
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise ValueError("a database in memory ends with the process; name a file")
        return url

    @model_validator(mode="after")
    def hosts_share_a_database(self) -> Self:
        if self.jobboard is not None and self.is_sqlite:
            raise ValueError(
                "a jobboard is for several hosts: they need a database that they share "
                "(PostgreSQL or MariaDB), not SQLite"
            )
        if self.jobboard is None and self.state_directory is None and not self.is_sqlite:
            raise ValueError(
                "a database server needs either a jobboard (several hosts) or a state_directory, "
                "the same for all who use antipode on this"
                " host: without it nobody sees which runs the others are at"
            )
        return self

    @model_validator(mode="after")
    def vault_is_at_a_site(self) -> Self:
        if self.vault.swift is not None and self.vault.swift.site not in self.sites:
            raise ValueError(
                f"vault.swift.site is {self.vault.swift.site}, which is not among the sites: "
                f"{', '.join(self.sites)}"
            )
        return self

    def site(self, name: str) -> SiteConfig:
        """The settings of a site.

        Raises:
            NotFound: no such site.
        """
        try:
            return self.sites[name]
        except KeyError:
            raise NotFound(
                f"site {name} is not in the configuration; sites there: {', '.join(self.sites)}"
            ) from None

    @property
    def state_dir(self) -> Path:
        """Where logs, locks and flow details are kept: beside the database when that is a file."""
        if self.state_directory is not None:
            return self.state_directory
        path = self.database.partition(":///")[2].partition("?")[0]
        return Path(path).parent if self.is_sqlite and path else default_state_dir()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this host, with whichever driver."""
        return self.database.partition(":")[0].partition("+")[0] == "sqlite"


def default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "antipode"


def find(given: str | None) -> Path:
    """The configuration file: the one given, else $ANTIPODE_CONFIG, else the first of `PLACES` that
    exists.

    Raises:
        InvalidInput: there is none.
    """
    if named := given or os.environ.get("ANTIPODE_CONFIG"):
        return Path(named).expanduser()
    for place in PLACES:
        if (path := Path(place).expanduser()).is_file():
            return path
    raise InvalidInput(
        "no configuration found; give --config FILE, set ANTIPODE_CONFIG, or write one of: "
        f"{', '.join(PLACES)}"
    )


def load(given: str | None = None) -> Config:
    """Find and read the configuration.

    Raises:
        InvalidInput: there is none, or it is wrong; names file, line and field.
    """
    return yamlfile.read(find(given), Config, _not_folders)


def _not_folders(settings: Config) -> Iterator[yamlfile.Problem]:
    """The paths of the configuration that ought to be folders and are something else."""
    state = "state_directory" if settings.state_directory is not None else "database"
    folders: dict[tuple[int | str, ...], Path] = {(state,): settings.state_dir}
    if settings.vault.directory is not None:
        folders[("vault", "directory")] = settings.vault.directory
    for field, folder in folders.items():
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                yield field, f"{path} is not a directory"
    if settings.is_sqlite and Path(settings.database.partition(":///")[2]).is_dir():
        yield ("database",), "names a directory; name a file"
