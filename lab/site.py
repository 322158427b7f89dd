# SPDX-License-Identifier: Apache-2.0
"""The sites of the lab: their names, addresses on the WAN and folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(os.environ.get("ANTIPODE_LAB", "/var/lib/antipode-lab"))
"""Everything the lab writes on the machine is below this folder (short, because of the length limit
of unix sockets).
"""

VENV = ROOT / "venv"
"""The virtual environment that the OpenStack services run from."""

CACHE = ROOT / "cache"
"""Survives `wipe`, because its content costs minutes and never changes: migrated empty schemas, the
guest image.
"""

WAN_BRIDGE = "antipode-wan"
WAN_HOST_ADDRESS = "10.86.0.1"
WAN_PREFIX = 24
LINK_DEVICE = "link0"
"""In a site that has the extra `replication`: the gateway of its linked tenant network."""


@dataclass(frozen=True)
class Site:
    """One independent OpenStack region in a network namespace of its own.

    The namespace is called like the site; inside it the WAN interface is `wan0` and has `address`.
    Every service of the site listens on its usual port at that address (or on loopback / a unix
    socket when only the site itself uses it).
    """

    name: str
    address: str
    region: str
    compute_host: str
    ceph_secret: str
    """uuid of the libvirt secret that holds the Ceph key"""

    @property
    def short(self) -> str:
        return self.name.removeprefix("site-")

    @property
    def home(self) -> Path:
        return ROOT / self.name

    @property
    def etc(self) -> Path:
        """Generated configuration, one folder per service."""
        return self.home / "etc"

    @property
    def data(self) -> Path:
        """The services' own data: databases, OSD, images."""
        return self.home / "data"

    @property
    def run(self) -> Path:
        """Sockets and pid files."""
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.home / "log"

    def url(self, port: int, path: str = "") -> str:
        return f"http://{self.address}:{port}{path}"


SITES: dict[str, Site] = {
    s.name: s
    for s in (
        Site(
            "site-a", "10.86.0.11", "RegionA", "compute-a", "aaaaaaaa-0000-4000-8000-00000000000a"
        ),
        Site(
            "site-b",
            "10.86.0.12",
            "RegionB",
            "compute-b",
            "bbbbbbbb-0000-4000-8000-00000000000b",
        ),
    )
}

BACKUP_STORE = SITES["site-b"]
"""The site whose Swift keeps the backups of both sites and the vault."""
