# SPDX-License-Identifier: Apache-2.0
"""The `rbd` of an operator's host: a command per site, with a Ceph user of its own. The extra
`replication`.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.service import NotReady, Service
from lab.services import ceph, cinder
from lab.site import Site

USER = "client.antipode"
CAPABILITIES = {
    # the commands: how `rbd mirror pool status` learns of the daemons
    "mon": 'profile rbd, allow command "service dump", allow command "service status"',
    "mgr": f"profile rbd pool={ceph.POOL}",
    "osd": f"profile rbd pool={ceph.POOL}",
}


@dataclass(frozen=True)
class ReplicationSettings:
    """What antipode is to know of a site, so that it can take replicated volumes over there."""

    rbd: Path
    """a command of the host that acts on the site's Ceph cluster as `rbd` does"""
    pool: str
    """of the volumes"""
    backend_host: str
    """Cinder's name of the back end, as `POST /manageable_volumes` wants it"""


def replication_settings(site: Site) -> ReplicationSettings:
    """The settings of a site that has the extra `replication`."""
    return ReplicationSettings(site.home / "bin" / "rbd", ceph.POOL, cinder.backend_host(site))


class OperatorRbd(Service):
    """The command is written for the user that the lab runs as; only that one can read the key."""

    name = "operator-rbd"
    after = ("ceph",)

    def configure(self, site: Site) -> None:
        keyring = ceph.make_keyring(site, USER, CAPABILITIES)
        keyring.chmod(0o600)
        command = [
            *("/usr/bin/rbd", "--conf", str(site.etc / "ceph" / "ceph.conf")),
            *("--id", USER.removeprefix("client."), "--keyring", str(keyring)),
        ]
        script = replication_settings(site).rbd
        script.parent.mkdir(parents=True, exist_ok=True)
        # Ceph's own variables would name another cluster or user
        script.write_text(
            f'#!/bin/sh\nunset CEPH_ARGS CEPH_CONF\nexec {shlex.join(command)} "$@"\n'
        )
        script.chmod(0o755)

    def prepare(self, site: Site) -> None:
        ceph.add_user(site, USER, CAPABILITIES)

    def check_ready(self, site: Site) -> None:
        settings = replication_settings(site)
        try:
            done = subprocess.run(
                [settings.rbd, "ls", settings.pool], capture_output=True, text=True, timeout=30
            )
        except subprocess.TimeoutExpired as e:
            raise NotReady(f"{settings.rbd} does not get an answer") from e
        if done.returncode:
            raise NotReady(f"{settings.rbd}: {done.stderr.strip()}")


SERVICES: Sequence[Service] = (OperatorRbd(),)
