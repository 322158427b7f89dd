# SPDX-License-Identifier: Apache-2.0
"""rbd-mirror: what is mirrored of the other site's volumes comes to this one. The extra
`replication`.

The pool is in image mode: which images are mirrored is decided per image, by its user.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lab import inside
from lab.errors import LabError
from lab.service import NotReady, Program, Service
from lab.services import ceph
from lab.services.ceph import POOL
from lab.site import SITES, Site

PROGRAM = "rbd-mirror"
PEER = "client.rbd-mirror-peer"
"""The user by which the other site reads the images here, and nothing but those."""
PEER_CAPABILITIES = {"mon": "profile rbd-mirror-peer", "osd": f"profile rbd pool={POOL}"}
DAEMON_CAPABILITIES = {
    "mon": "profile rbd-mirror",
    "mgr": "profile rbd",
    "osd": "profile rbd",
}
INTERVALS = {
    "rbd_mirror_leader_heartbeat_interval": 5,
    "rbd_mirror_pool_replayers_refresh_interval": 5,
    "rbd_mirror_image_state_check_interval": 5,
    "rbd_mirror_journal_poll_age": 0.5,
}
"""Seconds. With the defaults a new peer is found after half a minute, and a journal is read every
five seconds.
"""


class RbdMirror(Service):
    """The pool's mirroring, the other site as its peer, and the daemon that copies from there.

    The other site may be down: it is not waited for, and mirrored when it is there.
    """

    name = "rbd-mirror"
    after = ("ceph",)

    def configure(self, site: Site) -> None:
        ceph.make_keyring(site, _daemon(site), DAEMON_CAPABILITIES)
        ceph.make_keyring(site, PEER, PEER_CAPABILITIES)

    def prepare(self, site: Site) -> None:
        ceph.add_user(site, _daemon(site), DAEMON_CAPABILITIES)
        ceph.add_user(site, PEER, PEER_CAPABILITIES)
        if _pool(site, "info")["mode"] == "disabled":
            _mirror_pool(site, "enable", POOL, "image", "--site-name", site.name)
        _follow(site, other_than(site))

    def programs(self, site: Site) -> Sequence[Program]:
        other = other_than(site)
        options = [f"--{name}={seconds}" for name, seconds in INTERVALS.items()]
        return [
            Program(
                PROGRAM,
                [
                    # a daemon that begins while its peer is away does not find it later
                    *(str(inside.BIN / "when-listening"), other.address, str(ceph.MONITOR_PORT)),
                    *("rbd-mirror", "-f", "--id", _daemon(site).removeprefix("client.")),
                    *ceph.AS_ROOT,
                    "--log_to_stderr=true",
                    *options,
                ],
            )
        ]

    def check_ready(self, site: Site) -> None:
        """Ready is a daemon that serves its peer, or has none to serve."""
        health = daemon_health(site)
        if health == "OK" or not _peer_listens(site):
            return
        raise NotReady(
            f"the daemon's health is {health}; if it stays so though {other_than(site).name} "
            f"answers, restart rbd-mirror: python -m lab restart {site.name} {PROGRAM}"
        )


def daemon_health(site: Site) -> str:
    """What Ceph says of the site's daemons: OK, WARNING, ERROR or UNKNOWN.

    Raises NotReady when the cluster does not answer.
    """
    try:
        return str(_pool(site, "status")["summary"]["daemon_health"])
    except LabError as e:
        raise NotReady(str(e)) from e


def other_than(site: Site) -> Site:
    [other] = (s for s in SITES.values() if s != site)
    return other


def _daemon(site: Site) -> str:
    return f"client.rbd-mirror.{site.short}"


def _follow(site: Site, other: Site) -> None:
    """Have the site receive from the other, with nothing of that one but its address and the key of
    its peer's user.

    A daemon of the other site that is up before makes itself a peer here, at any moment: one that
    only takes from here, by which nothing comes.
    """
    if not _pool(site, "info")["peers"]:
        try:
            _add_peer(site, other)
        except LabError:
            if not _pool(site, "info")["peers"]:
                raise
    [peer] = _pool(site, "info")["peers"]
    if peer["direction"] == "tx-only":
        _receive_from(site, other, peer["uuid"])


def _add_peer(site: Site, other: Site) -> None:
    _mirror_pool(
        site,
        *("peer", "add", POOL, f"{PEER}@{other.name}", "--direction", "rx-tx"),
        *("--remote-mon-host", ceph.addresses(other), "--remote-key-file", "/dev/stdin"),
        stdin=_key_of_peer(other),
    )


def _receive_from(site: Site, other: Site, uuid: str) -> None:
    """Give a peer what it takes to receive from it; the direction last, so that an interrupted
    attempt is seen.
    """
    change = ("peer", "set", POOL, uuid)
    _mirror_pool(site, *change, "client", PEER)
    _mirror_pool(site, *change, "mon-host", ceph.addresses(other))
    _mirror_pool(site, *change, "key-file", "/dev/stdin", stdin=_key_of_peer(other))
    _mirror_pool(site, *change, "direction", "rx-tx")


def _key_of_peer(site: Site) -> str:
    return ceph.key(ceph.make_keyring(site, PEER, PEER_CAPABILITIES))


def _pool(site: Site, what: str) -> Any:
    return json.loads(_mirror_pool(site, what, POOL, "--format", "json"))


def _mirror_pool(site: Site, *arguments: str, stdin: str | None = None) -> str:
    command = ["rbd", "mirror", "pool", *arguments]
    return inside.run(site, command, stdin=stdin, timeout=60).stdout


def _peer_listens(site: Site) -> bool:
    try:
        inside.connect(site, ceph.MONITOR_PORT, other_than(site).address).close()
    except OSError:
        return False
    return True


SERVICES: Sequence[Service] = (RbdMirror(),)
