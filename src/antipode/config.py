# SPDX-License-Identifier: Apache-2.0
"""antipode.yaml: the sites, the vaults and backup stores, and where runs are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, IPvAnyAddress, model_validator

from antipode import yamlfile
from antipode.errors import InvalidInput, NotFound
from antipode.model.base import Model, Number, Seconds, Whole
from antipode.model.dns import HostName, ServerAddress
from antipode.model.runbook import Approvals
from antipode.model.serving import ApiConfig
from antipode.model.vnf import Name
from antipode.yamlfile import Problem

PLACES = ("antipode.yaml", "~/.config/antipode/antipode.yaml", "/etc/antipode/antipode.yaml")
ONLY_VAULT, ONLY_STORE = "vault", "backup-store"
"""The names of those that are written without one, as `vault` and `backup_store`."""
Cloud = Annotated[str, Field(min_length=1)]
"""The name of an entry in clouds.yaml."""
Container = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^/]+$")]


HELPER_AT_ONCE = 12
"""Volumes at once on a helper server, of standing ones: failovers have as many beside them, and a
server has 26 disks by virtio-blk.
"""


def _must_be_absolute(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.is_absolute():
            raise ValueError(f"{path} is not an absolute path")


class HelperConfig(Model):
    """A server of the site to which Nova attaches the volumes that the mover writes, by SFTP."""

    server: UUID
    """its id, in the project of the site's cloud"""
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
    """its name or address from this host"""
    port: Annotated[Whole, Field(ge=1, le=65535)] = 22
    user: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = "root"
    """an account that may write its block devices"""
    key: Path
    """the private key by which this host logs in"""
    known_hosts: Path
    """the host key of the server, as `ssh-keyscan` prints it; another is refused"""

    @model_validator(mode="after")
    def paths_are_whole(self) -> Self:
        _must_be_absolute(self.key, self.known_hosts)
        return self


class MoverConfig(Model):
    """This host can write volumes of a site: it reaches the site's storage, by Cinder's attachments
    and os-brick, or has a helper server there.
    """

    root_helper: Annotated[str, Field(min_length=1)] = "sudo"
    """what os-brick runs commands with that need root"""
    asks_host: bool = False
    """whether os-brick is asked for this host's initiator names and ports: iSCSI, Fibre Channel and
    NVMe need them, RBD does not
    """
    at_once: Annotated[Whole, Field(ge=1)] = 4
    """volumes that are written at once there, of standing ones; failovers have as many beside them
    """
    restores: bool = True
    """whether recoveries have the mover write volumes also where none stand; else Cinder restores
    these
    """
    keyring: Path | None = None
    """of the user of Ceph that Cinder names, for RBD. None: the file of that user in /etc/ceph,
    which is of one cluster only
    """
    modules: Path | None = None
    """a folder with Ceph's Python modules `rados` and `rbd`, which are not on PyPI; no other module
    is taken from there
    """
    helper: HelperConfig | None = None
    """None: volumes are attached to this host"""

    @model_validator(mode="after")
    def helper_has_room(self) -> Self:
        if self.helper is not None and self.at_once > HELPER_AT_ONCE:
            raise ValueError(f"at_once is at most {HELPER_AT_ONCE} with a helper")
        return self


class ChangesConfig(Model):
    """A pool of Ceph whose changes this host can read, for change streams of its volumes."""

    host: Annotated[str, Field(pattern=r"^[^@\s]+@[^#\s]+#\S+$")]
    """the back end of Cinder with the volumes of this pool, as `HOST@BACKEND#POOL`"""
    pool: Annotated[str, Field(pattern=r"^[^/@\s-][^/@\s]*$")] = "volumes"
    command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        default_factory=lambda: ["rbd"]
    )
    """the command, with the options that choose the cluster and the user"""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """how long the command may say nothing, in seconds"""


class SiteConfig(Model):
    cloud: Cloud
    projects: dict[Name, Cloud] = Field(default_factory=dict)
    """by the name that VNF files give a project: the entry of clouds.yaml that is of it here"""
    store: Name | None = None
    """the backup store that the site's cinder-backup writes to"""
    mover: MoverConfig | None = None
    """None: this host attaches no volumes there"""
    changes: list[ChangesConfig] = Field(default_factory=list)
    """the pools whose changes this host can read"""
    snapshots_count_gigabytes: bool = True
    """whether snapshots count for its quota `gigabytes`, as they do unless its Cinder has
    `no_snapshot_gb_quota`
    """


class SwiftVault(Model):
    """A container of an object storage. With `cloud`, nothing but object storage is needed behind
    that entry; without, the entry of the site is used.
    """

    site: Name | None = None
    """the site that it is at; None for a third place"""
    cloud: Cloud | None = None
    container: Container = "antipode-vault"

    @model_validator(mode="after")
    def is_somewhere(self) -> Self:
        if self.site is None and self.cloud is None:
            raise ValueError("give site, or cloud for a vault at a third place")
        return self


class S3Lock(Model):
    """How long S3 keeps what is written from being changed or removed (S3 Object Lock)."""

    days: Annotated[Whole, Field(ge=1, le=36500)]
    mode: Literal["governance", "compliance"] = "governance"
    """whether an account with a special right may lift a lock, or no account"""


class S3Vault(Model):
    """A bucket of an S3 service, which must exist. Credentials are where the AWS tools look for
    them (environment, `~/.aws`, the instance), or in a file that is named here.
    """

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    site: Name | None = None
    """the site that it is at; None for a third place"""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s@]+/?$")] | None = None
    """the service, where it is not Amazon's"""
    region: Annotated[str, Field(min_length=1)] | None = None
    profile: Annotated[str, Field(min_length=1)] | None = None
    """of the AWS configuration, or of `credentials_file`"""
    credentials_file: Path | None = None
    """as `~/.aws/credentials` is written; its owner alone may read it"""
    ca: Path | None = None
    """certificates that the service's is signed by"""
    lock: S3Lock | None = None

    @model_validator(mode="after")
    def paths_are_whole(self) -> Self:
        _must_be_absolute(self.credentials_file, self.ca)
        return self


class VaultConfig(Model):
    """Where recovery points are kept: a Swift container, an S3 bucket, or a directory (mounted
    from a third place, for example).
    """

    swift: SwiftVault | None = None
    s3: S3Vault | None = None
    directory: Path | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if sum(kind is not None for kind in (self.swift, self.s3, self.directory)) != 1:
            raise ValueError("give one of swift, s3 and directory")
        if self.directory is not None and not self.directory.is_absolute():
            raise ValueError(f"directory {self.directory} is not an absolute path")
        return self

    @property
    def kind(self) -> Literal["swift", "s3", "directory"]:
        """The field that says where it is."""
        return "swift" if self.swift else "s3" if self.s3 else "directory"

    @property
    def site(self) -> str | None:
        """The site that it is at, if it is at one."""
        storage = self.swift or self.s3
        return storage.site if storage else None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        if self.swift is not None:
            return f"container {self.swift.container} of {self.swift.site or self.swift.cloud}"
        if self.s3 is not None:
            return f"bucket {self.s3.bucket} of {self.s3.endpoint or 'Amazon S3'}"
        return f"directory {self.directory}"


class BackupStore(Model):
    """The object storage that cinder-backup writes to, as seen with an entry of clouds.yaml that
    may read it.
    """

    cloud: Cloud
    container: Container = "volumebackups"
    site: Name | None = None
    """the site that it is at; None for a third place"""


class StorageConfig(Model):
    """A storage that replicates by itself."""

    driver: Name
    sites: Annotated[dict[Name, dict[str, Any]], Field(min_length=2)]
    """where it is at each site, in settings of its driver (`antipode.datastores`)"""


class Rfc2136(Model):
    """The primary server of a zone, which takes updates as RFC 2136 has them, signed with a key
    (TSIG): BIND, Knot, PowerDNS and others.
    """

    server: ServerAddress
    zone: HostName
    key_file: Path | None = None
    """the key as tsig-keygen prints it; its owner alone may read it"""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """the name of an environment variable that has the key instead, as ALGORITHM:NAME:SECRET"""

    @model_validator(mode="after")
    def has_a_key(self) -> Self:
        if (self.key_file is None) == (self.key_variable is None):
            raise ValueError("give key_file, or key_variable")
        if self.key_file is not None and not self.key_file.is_absolute():
            raise ValueError(f"{self.key_file} is not an absolute path")
        return self


class Designate(Model):
    """A zone in OpenStack's DNS service."""

    zone: HostName
    site: Name | None = None
    """the site that it is at; None for a third place"""
    cloud: Cloud | None = None
    """an entry of clouds.yaml; by default that of the site"""

    @model_validator(mode="after")
    def is_somewhere(self) -> Self:
        if self.site is None and self.cloud is None:
            raise ValueError("give site, or cloud for a third place")
        return self


class DnsProviderConfig(Model):
    """A zone whose records are switched when a VNF moves."""

    rfc2136: Rfc2136 | None = None
    designate: Designate | None = None
    secondaries: list[ServerAddress] = Field(default_factory=list)
    """servers of the zone that are asked, after a change, until they have it"""
    timeout: Annotated[Seconds, Field(gt=0, le=60)] = 5.0
    """how long an answer of a server may take (seconds)"""
    within: Annotated[Seconds, Field(gt=0, le=3600)] = 60.0
    """how long the server may be silent, and the secondaries behind, before that is a problem
    (seconds)
    """

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.rfc2136 is None) == (self.designate is None):
            raise ValueError("give one of rfc2136 and designate")
        return self

    @property
    def kind(self) -> Literal["rfc2136", "designate"]:
        """The field that says what it is."""
        return "rfc2136" if self.rfc2136 else "designate"

    @property
    def zone(self) -> str:
        """Its zone."""
        there = self.rfc2136 or self.designate
        assert there is not None  # it has one of the two
        return there.zone


class Keys(Model):
    """The keys that recovery points are signed and encrypted with; see docs/keys.md."""

    directory: Path | None = None
    """where key files are kept; `keys` in the state directory by default"""
    recipients: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """others that may open what is encrypted: an escrow key, as age-keygen prints it (`age1…`)"""


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


IMPORTS_WITHIN_S, BOOTS_WITHIN_S = 600.0, 900.0


class Limits(Model):
    """How much one antipode process does at once; for N hosts, divide."""

    runs: Annotated[Whole, Field(ge=1)] = 4
    """protects at once, and as many failovers beside them: a failover never waits for a protect
    (service only)
    """
    restores: Annotated[Whole, Field(ge=1)] = 8
    """volumes restored at once at a site"""
    backups: Annotated[Whole, Field(ge=1)] = 8
    """volumes backed up at once at a site"""
    backup_stalls_after: StallsAfter = StallsAfter()
    restore_stalls_after: StallsAfter = StallsAfter()
    imports_within: Annotated[Seconds, Field(gt=0)] = IMPORTS_WITHIN_S
    """how long the import of records of backups may take, of one server (seconds)"""
    boots_within: Annotated[Seconds, Field(gt=0)] = BOOTS_WITHIN_S
    """how long a recovered server may take to become ACTIVE, or to be switched off (seconds)"""
    api_calls_per_second: Annotated[Number, Field(gt=0, allow_inf_nan=False)] | None = None
    """to the API of a site, on average; a call while a server is frozen is counted, but never
    waits
    """


class History(Model):
    """Which runs that have ended stay in the database, with their timelines."""

    days: Annotated[Number, Field(gt=0)] = 90
    """how long each run stays after its end"""
    keep_at_least: Annotated[Whole, Field(ge=0)] = 20
    """the newest runs of each VNF, which stay longer"""
    audit_days: Annotated[Number, Field(ge=1)] = 730
    """how long a record of the API's audit trail stays"""


class ReadinessConfig(Model):
    """How often the service looks whether each VNF could be recovered, and what is kept of it."""

    every: Annotated[Seconds, Field(ge=60, le=7 * 86400)] | None = 1800.0
    """in seconds; null: never"""
    days: Annotated[Number, Field(gt=0)] = 90
    """how long what was seen stays after it has changed"""


class Etcd(Model):
    """An etcd cluster; the first of its endpoints that answers is used."""

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
    """how long after the last sign of life of a host another one takes over its runs (seconds)"""

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if sum(kind is not None for kind in (self.etcd, self.redis, self.zookeeper)) != 1:
            raise ValueError("give one of etcd, redis and zookeeper")
        return self


class MetricsConfig(Model):
    """Where the service answers to Prometheus. There is no authentication, so it is this host."""

    address: IPvAnyAddress = IPv4Address("127.0.0.1")
    port: Annotated[Whole, Field(ge=1, le=65535)]

    @model_validator(mode="after")
    def is_of_this_host(self) -> Self:
        if not self.address.is_loopback:
            raise ValueError(
                f"{self.address} is not a loopback address; let a proxy answer other hosts"
            )
        return self


class Webhook(Model):
    """A receiver of events."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2048)]
    secret_file: Path
    """its first line is what events are signed with (HMAC-SHA256), of 24 characters or more"""
    types: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=lambda: ["dr."]
    )
    """the beginnings of the types that it gets; all by default"""

    @model_validator(mode="after")
    def is_encrypted(self) -> Self:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError("a password in the URL would be in logs; events are signed instead")
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1"):
            raise ValueError("events are sent to https:// only, or to this host")
        return self


ALARMS = [
    *("dr.run.waiting", "dr.run.awaiting-approval", "dr.rpo.", "dr.vnf.", "dr.member.frozen"),
    *("dr.quiesce.over-budget", "dr.schedule.missed", "dr.readiness.red", "dr.drill.overdue"),
    *("dr.chain.broken", "dr.vault.", "dr.failover.", "dr.protect.error", "dr.drill.error"),
]
"""The beginnings of the types of events that call for a person, or say that it is over."""
Address = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+$", max_length=254)
]
Types = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=100)
]


class Mail(Model):
    """A mail server that sends events on."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9:.-]+$", max_length=253)]
    port: Annotated[Whole, Field(ge=1, le=65535)] | None = None
    """587 by default, 465 with `tls`, 25 with `none`"""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """none: to this host only"""
    ca: Path | None = None
    """certificates that the server's is signed by; those of the system by default"""
    user: Annotated[str, Field(min_length=1)] | None = None
    password_file: Path | None = None
    """its first line is the user's password"""
    sender: Address
    to: Annotated[list[Address], Field(min_length=1, max_length=50)]
    types: Types = Field(default_factory=lambda: list(ALARMS))
    """the beginnings of the types that it gets; those that call for a person by default"""

    @model_validator(mode="after")
    def is_encrypted(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        is_here = self.host in ("127.0.0.1", "::1", "localhost")
        if self.security == "none" and not is_here:
            raise ValueError("mails are sent in the clear to this host only: give starttls or tls")
        for path in (self.ca, self.password_file):
            if path is not None and not path.is_absolute():
                raise ValueError(f"{path} is not an absolute path")
        return self

    @property
    def port_used(self) -> int:
        """The port, or the usual one."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


class OsloMessaging(Model):
    """The message bus of an OpenStack."""

    transport_url_file: Path
    """its first line is the URL of a transport, as OpenStack's services have it"""
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] = "notifications"
    types: Types = Field(default_factory=lambda: ["dr."])
    """the beginnings of the types that it gets; all by default"""

    @model_validator(mode="after")
    def path_is_whole(self) -> Self:
        if not self.transport_url_file.is_absolute():
            raise ValueError(f"{self.transport_url_file} is not an absolute path")
        return self


class SshRunner(Model):
    """Another host, on which OpenSSH runs programs without a question: its key must be known, and
    ours must let us in.
    """

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$", max_length=253)]
    user: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=64)] | None = None
    port: Annotated[Whole, Field(ge=1, le=65535)] = 22
    identity: Path | None = None
    """the private key; what OpenSSH finds by default"""
    known_hosts: Path | None = None
    """the keys of hosts; what OpenSSH finds by default"""

    @model_validator(mode="after")
    def paths_are_whole(self) -> Self:
        for path in (self.identity, self.known_hosts):
            if path is not None and not path.is_absolute():
                raise ValueError(f"{path} is not an absolute path")
        return self


class PodmanRunner(Model):
    """A container on this host, made by Podman for each attempt and removed after it."""

    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:@-]*$", max_length=512)]
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")] = "none"
    volumes: list[Annotated[str, Field(pattern=r"^/[^:,\s]*:/[^:,\s]*(:ro)?$")]] = Field(
        default_factory=list
    )
    """`/on/the/host:/in/the/container`, and `:ro`"""


class Runner(Model):
    """Where the scripts of runbooks are run."""

    ssh: SshRunner | None = None
    podman: PodmanRunner | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        if (self.ssh is None) == (self.podman is None):
            raise ValueError("give one of ssh and podman")
        return self


EVENT_DAYS = 7


class EventsConfig(Model):
    """Where events go."""

    source: Annotated[str, Field(min_length=1, max_length=190, pattern=r"^\S+$")] = "antipode"
    """the `source` of the CloudEvents, to tell installations apart"""
    log: Path | None = None
    """a file to which each event is appended, a line each"""
    days: Annotated[Number, Field(ge=2)] = EVENT_DAYS
    """how long an event stays in the database; a service that begins looks back for a day"""
    webhooks: dict[Name, Webhook] = Field(default_factory=dict)
    mail: dict[Name, Mail] = Field(default_factory=dict)
    oslo_messaging: dict[Name, OsloMessaging] = Field(default_factory=dict)

    @property
    def types_of_each(self) -> dict[str, list[str]]:
        """By the name of a receiver, the beginnings of the types that it gets; without the log."""
        return {
            **{name: hook.types for name, hook in self.webhooks.items()},
            **{name: server.types for name, server in self.mail.items()},
            **{name: bus.types for name, bus in self.oslo_messaging.items()},
        }

    @model_validator(mode="after")
    def goes_somewhere(self) -> Self:
        names = [*self.webhooks, *self.mail, *self.oslo_messaging]
        if self.log is None and not names:
            raise ValueError("give log, webhooks, mail or oslo_messaging")
        if "log" in names:
            raise ValueError("a receiver cannot be named log")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two receivers have the same name: {', '.join(twice)}")
        if self.log is not None and not self.log.is_absolute():
            raise ValueError(f"log {self.log} is not an absolute path")
        return self


class Config(Model):
    """The settings of one antipode installation. Credentials are not here but in clouds.yaml."""

    sites: Annotated[dict[Name, SiteConfig], Field(min_length=1)]
    vault: VaultConfig | None = None
    """the only vault, written without a name"""
    vaults: dict[Name, VaultConfig] = Field(default_factory=dict)
    vaults_needed: Annotated[Whole, Field(ge=1)] | None = None
    """how many of a VNF's vaults must have a recovery point before it counts; all by default"""
    backup_store: BackupStore | None = None
    """the only backup store, written without a name"""
    stores: dict[Name, BackupStore] = Field(default_factory=dict)
    storages: dict[Name, StorageConfig] = Field(default_factory=dict)
    """those that replicate by themselves, for the datastores of VNFs"""
    dns: dict[Name, DnsProviderConfig] = Field(default_factory=dict)
    """zones whose records are switched when a VNF moves"""
    keys: Keys = Keys()
    database: str = Field(
        default_factory=lambda: f"sqlite:///{default_state_dir() / 'antipode.db'}"
    )
    state_directory: Path | None = None
    """where locks, logs and the status of the service are kept, for all users of this host; beside
    the database when that is SQLite
    """
    failover_confirmed_for: Annotated[Seconds, Field(gt=0)] = 3600.0
    """how long after its confirmation, or last sign of life, a service may begin a failover or
    resume one (seconds)
    """
    runners: dict[Name, Runner] = Field(default_factory=dict)
    """where the scripts of runbooks are run"""
    approvals: Approvals = Field(default_factory=dict)
    """by verb: how many others than its author must approve a run before it begins"""
    approve_within: Annotated[Seconds, Field(gt=0)] = 3600.0
    """how long a run awaits approval (seconds)"""
    jobboard: Jobboard | None = None
    """for several hosts that share the database; without it this host is the only one"""
    limits: Limits = Limits()
    history: History = History()
    readiness: ReadinessConfig = ReadinessConfig()
    metrics: MetricsConfig | None = None
    """without it there are none"""
    events: EventsConfig | None = None
    """without it no events are delivered"""
    api: ApiConfig | None = None
    """without it there is no REST API"""

    @model_validator(mode="after")
    def sites_are_apart(self) -> Self:
        entries = [
            cloud for site in self.sites.values() for cloud in (site.cloud, *site.projects.values())
        ]
        if twice := sorted({cloud for cloud in entries if entries.count(cloud) > 1}):
            raise ValueError(f"two sites or projects have the same cloud: {', '.join(twice)}")
        return self

    @property
    def all_vaults(self) -> Mapping[str, VaultConfig]:
        """The vaults by name, at least one."""
        return self.vaults or ({ONLY_VAULT: self.vault} if self.vault else {})

    @property
    def all_stores(self) -> Mapping[str, BackupStore]:
        """The backup stores by name; perhaps none."""
        return self.stores or ({ONLY_STORE: self.backup_store} if self.backup_store else {})

    def vault_names(self, wanted: Sequence[str] = ()) -> list[str]:
        """The names of the wanted vaults, all by default.

        Raises:
            NotFound: one is not in the configuration.
        """
        for name in wanted:
            _there("vault", name, self.all_vaults)
        return list(wanted or self.all_vaults)

    def store_name(self, site: str, wanted: str | None = None) -> str | None:
        """The backup store of what is backed up at a site: the wanted one, else that of the site,
        else the only one.

        Raises:
            NotFound: it is not in the configuration.
        """
        known = self.all_stores
        name = wanted or (self.sites[site].store if site in self.sites else None)
        if name is None:
            return next(iter(known)) if len(known) == 1 else None
        _there("backup store", name, known)
        return name

    def store(self, name: str) -> BackupStore:
        """The settings of a backup store.

        Raises:
            NotFound: no such store.
        """
        _there("backup store", name, self.all_stores)
        return self.all_stores[name]

    def site_of_store(self, name: str) -> str | None:
        """The site that a backup store is at: as it is written, or the one with the same entry of
        clouds.yaml; None for a third place.
        """
        store = self.store(name)
        same = (site for site, there in self.sites.items() if there.cloud == store.cloud)
        return store.site or next(same, None)

    def dns_provider(self, wanted: str | None = None) -> str:
        """The name of a DNS provider: the wanted one, else the only one.

        Raises:
            NotFound: it is not in the configuration, or there are several to choose from.
        """
        if wanted is None and len(self.dns) == 1:
            return next(iter(self.dns))
        if wanted is None:
            known = ", ".join(self.dns) or "none"
            raise NotFound(
                f"a DNS record names no provider, and the configuration does not have exactly one "
                f"under dns; there: {known}"
            )
        _there("DNS provider", wanted, self.dns)
        return wanted

    def site(self, name: str) -> SiteConfig:
        """The settings of a site.

        Raises:
            NotFound: no such site.
        """
        _there("site", name, self.sites)
        return self.sites[name]

    @property
    def has_projects(self) -> bool:
        """Whether any site has accounts in several projects; else a VNF's project says only whose
        it is.
        """
        return any(site.projects for site in self.sites.values())

    def is_same_project(self, earlier: str | None, now: str | None) -> bool:
        """Whether what was of one project is the same when it is of the other: a project may be
        given to a VNF that had none, where that changes nothing but whose it is.
        """
        return earlier == now or (earlier is None and not self.has_projects)

    def cloud(self, site: str, project: str | None = None) -> str:
        """The entry of clouds.yaml for a site, or for a project there.

        Raises:
            NotFound: no such site, or it has no such project.
        """
        there = self.site(site)
        if project is None or not self.has_projects:
            return there.cloud
        _there(f"project of site {site}", project, there.projects)
        return there.projects[project]

    @property
    def state_dir(self) -> Path:
        """Where logs, locks and flow details are kept: beside the database when that is a file."""
        if self.state_directory is not None:
            return self.state_directory
        path = self.database.partition(":///")[2].partition("?")[0]
        return Path(path).parent if self.is_sqlite and path else default_state_dir()

    @property
    def keys_dir(self) -> Path:
        """Where key files are kept."""
        return self.keys.directory or self.state_dir / "keys"

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this host, with any driver."""
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
    return yamlfile.read(find(given), Config, problems)


def _there(what: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        names = ", ".join(known) or "none"
        raise NotFound(f"{what} {name} is not in the configuration; there: {names}")


def problems(config: Config) -> Iterator[Problem]:
    """What is wrong between the fields of a configuration, and with the paths that they name."""
    if garbled := list(_garbled(config.model_dump(), ())):
        yield from garbled
        return  # a path like this cannot even be looked at
    for field in ("vault", "vaults"), ("backup_store", "stores"):
        if all(getattr(config, name) for name in field):
            yield (field[0],), f"give either {field[0]} or {field[1]}"
    if not config.all_vaults:
        yield ("vaults",), "is required and missing; one vault may be written as vault"
    yield from _references(config)
    yield from _twice(config)
    yield from _state_problems(config)
    if config.jobboard is not None and config.is_sqlite:
        yield (
            ("jobboard",),
            "a jobboard is for several hosts: they need a database that they share (PostgreSQL or "
            "MariaDB), not SQLite",
        )
    if config.jobboard is None and config.state_directory is None and not config.is_sqlite:
        yield (
            ("database",),
            "a database server needs either a jobboard (several hosts) or a state_directory, the "
            "same for all users of this host: without it no user sees the runs of the others",
        )


def _garbled(value: object, place: tuple[int | str, ...]) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _garbled(part, (*place, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _garbled(part, (*place, index))
    elif isinstance(value, str | Path) and not str(value).isprintable():
        yield place, f"{str(value)!r} has characters that cannot be printed"


def _references(config: Config) -> Iterator[Problem]:
    """Names of sites and stores that the configuration does not have."""
    references: list[tuple[tuple[str, ...], str | None, Mapping[str, object], str]] = [
        *(
            (("sites", name, "store"), site.store, config.all_stores, "stores")
            for name, site in config.sites.items()
        ),
        *(
            (
                (*(("vaults", name) if config.vaults else ("vault",)), vault.kind, "site"),
                vault.site,
                config.sites,
                "sites",
            )
            for name, vault in config.all_vaults.items()
        ),
        *(
            (
                ("stores", name, "site") if config.stores else ("backup_store", "site"),
                store.site,
                config.sites,
                "sites",
            )
            for name, store in config.all_stores.items()
        ),
        *(
            (("storages", name, "sites", site), site, config.sites, "sites")
            for name, storage in config.storages.items()
            for site in storage.sites
        ),
        *(
            (("dns", name, "designate", "site"), there.designate.site, config.sites, "sites")
            for name, there in config.dns.items()
            if there.designate
        ),
        *_sites_of_api(config),
    ]
    for place, name, known, what in references:
        if name is not None and name not in known:
            yield place, f"{name} is not among the {what}: {', '.join(known) or 'there are none'}"


def _sites_of_api(
    config: Config,
) -> Iterator[tuple[tuple[str, ...], str | None, Mapping[str, object], str]]:
    if (api := config.api) is None:
        return
    for site in api.identity.sites:
        yield ("api", "identity", "sites"), site, config.sites, "sites"
    for name, project in api.projects.items():
        for site in project.sites:
            yield ("api", "projects", name, "sites"), site, config.sites, "sites"


def _twice(config: Config) -> Iterator[Problem]:
    """Vaults that are one: what is in both of them would be in one place."""
    known: dict[str, str] = {}
    for name, vault in config.vaults.items():
        places = {vault.place}
        if (swift := vault.swift) is not None:
            # two entries of clouds.yaml at one site may be of one project
            at_site = config.sites.get(swift.site) if swift.site else None
            cloud = swift.cloud or (at_site.cloud if at_site else None)
            places |= {f"container {swift.container} of {w}" for w in (swift.site, cloud) if w}
        elif (s3 := vault.s3) is not None:
            places.add(f"bucket {s3.bucket} of {_service(s3.endpoint)}")
        elif vault.directory is not None:
            places.add(f"directory {os.path.normpath(vault.directory)}")
        for other in {known[place] for place in places if place in known}:
            yield ("vaults", name), f"is at the same place as vault {other}: {vault.place}"
        known |= dict.fromkeys(places, name)


def _service(endpoint: str | None) -> str:
    """The same words for an S3 service however its address is written. A name of a bucket of Amazon
    is one bucket in all regions.
    """
    host = (endpoint or "https://s3.amazonaws.com").split("://", 1)[1].strip("/").lower()
    return "Amazon S3" if host.endswith(".amazonaws.com") else host


def _state_problems(config: Config) -> Iterator[Problem]:
    """What is wrong with the URL of the database, or with the folder of the state."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(config.database)
        url.get_dialect()
        if url.port is not None and not 0 < url.port < 65536:
            raise ValueError(f"{url.port} is not a port")
    except (ArgumentError, ValueError):
        # the URL is not repeated: there may be a password in it
        yield (
            ("database",),
            "is not the URL of a database; write for example sqlite:////var/lib/antipode/"
            "antipode.db, or postgresql+psycopg://user@host:5432/antipode",
        )
        return
    except ImportError:
        pass  # the driver is missing; opening the database says how to install it
    if config.is_sqlite:
        if (url.database or ":memory:") == ":memory:" or "memory" in url.query.values():
            yield ("database",), "is in memory: runs would be lost with the process; name a file"
            return
        if Path(url.database or "").is_dir():
            yield ("database",), f"{url.database} is a directory; name a file in it"
    folders: dict[tuple[int | str, ...], Path] = {
        ("database" if config.state_directory is None else "state_directory",): config.state_dir
    }
    for name, vault in config.all_vaults.items():
        if vault.directory is not None:
            place = ("vaults", name) if config.vaults else ("vault",)
            folders[(*place, "directory")] = vault.directory
    for field, folder in folders.items():
        if (reason := _no_folder(folder)) is not None:
            yield field, reason


def _no_folder(path: Path) -> str | None:
    """Why a folder cannot be used, or made; None if it can."""
    try:
        for there in (path, *path.parents):
            if there.exists():
                return None if there.is_dir() else f"{there} is a file, and not a directory"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None
