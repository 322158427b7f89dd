# SPDX-License-Identifier: Apache-2.0
"""The settings of the REST API: where it answers, whose tokens count, and whose projects there
are.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, IPvAnyAddress, model_validator

from antipode.model.base import Model, Seconds, Whole
from antipode.model.vnf import Name

KeystoneId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ProjectQuota(Model):
    """How much a project may have at once; None: as much as it likes."""

    vnfs: Annotated[Whole, Field(ge=0)] | None = None
    open_runs: Annotated[Whole, Field(ge=1)] | None = None
    """runs that are queued, under way or await approval"""


class ProjectConfig(Model):
    """A tenant: one Keystone project at each site. Ids differ between sites, and so may names."""

    sites: Annotated[dict[Name, KeystoneId], Field(min_length=1)]
    """the id of the Keystone project, by site"""
    all_projects: bool = False
    """whether the roles of its members count for the VNFs of all projects, and for those of none:
    the project of the staff
    """
    quota: ProjectQuota = ProjectQuota()


class IdentityConfig(Model):
    """Which Keystones are asked, and for how long."""

    sites: list[Name] = Field(default_factory=list)
    """in this order; all sites by default"""
    timeout: Annotated[Seconds, Field(gt=0, le=30)] = 2.0
    """how long an answer of one Keystone may take (seconds)"""
    cache: Annotated[Seconds, Field(ge=0, le=3600)] = 60.0
    """for how long a token that was validated is taken for valid (seconds)"""


class ConsoleConfig(Model):
    """The web console, which the service of the API answers with, too."""

    idle: Annotated[Seconds, Field(ge=60, le=86400)] = 1800.0
    """a login that a person has not used for so long is over (seconds)"""
    longest: Annotated[Seconds, Field(ge=60, le=7 * 86400)] = 8 * 3600.0
    """every login is over after that, and never later than its token (seconds)"""


class ApiConfig(Model):
    """Where the service answers to the REST API."""

    address: IPvAnyAddress = IPv4Address("127.0.0.1")
    port: Annotated[Whole, Field(ge=1, le=65535)]
    certificate: Path | None = None
    """in PEM, with the certificates between it and the root; with `key`: HTTPS"""
    key: Path | None = None
    url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/[^\s?#]*)?$")] | None = None
    """how others reach it, where a proxy is between; links begin with it"""
    identity: IdentityConfig = IdentityConfig()
    projects: dict[Name, ProjectConfig] = Field(default_factory=dict)
    """a token of another project sees nothing"""
    console: ConsoleConfig | None = ConsoleConfig()
    """null: there is none"""
    policy_file: Path | None = None
    """rules in place of the built-in ones, as oslo.policy has them"""
    requests_per_minute: Annotated[Whole, Field(ge=1)] = 1200
    """of one user; a tenth of it from one address without a valid token"""
    body_bytes: Annotated[Whole, Field(ge=1024, le=64 << 20)] = 1 << 20

    @model_validator(mode="after")
    def is_reached_safely(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.certificate is None and not self.address.is_loopback:
            raise ValueError(
                f"{self.address} is reached by other hosts, and tokens are not sent in clear: give"
                " certificate and key, or a loopback address behind a proxy"
            )
        for path in (self.certificate, self.key, self.policy_file):
            if path is not None and not path.is_absolute():
                raise ValueError(f"{path} is not an absolute path")
        return self

    @model_validator(mode="after")
    def projects_are_apart(self) -> Self:
        taken: dict[tuple[str, str], str] = {}
        for name, project in self.projects.items():
            for place in project.sites.items():
                if (other := taken.setdefault(place, name)) != name:
                    raise ValueError(f"projects {other} and {name} are the same at {place[0]}")
        return self

    def project_at(self, site: str, project_id: str) -> str | None:
        """The project that a Keystone project is; None: no project of the configuration."""
        found = (n for n, p in self.projects.items() if p.sites.get(site) == project_id)
        return next(found, None)
