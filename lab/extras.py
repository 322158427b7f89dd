# SPDX-License-Identifier: Apache-2.0
"""Parts of the lab that a site has on request only: `lab up --with EXTRA`, until `lab wipe`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.site import Site

REPLICATION = "replication"
"""Volumes mirrored between the sites, containers synchronized, and tenant networks linked."""

KEY_MANAGER = "key-manager"
"""Barbican, in which Cinder and Nova keep the keys of encrypted volumes."""

NETWORK = "network"
"""Neutron with routers, floating IPs, trunks, QoS and DNS names."""

HEAT = "heat"
"""Stacks of Heat."""

EXTRAS = (REPLICATION, KEY_MANAGER, NETWORK, HEAT)


def add(site: Site, extra: str) -> None:
    """Let the site have an extra from now on; `lab.bring_up` brings it up with all the rest."""
    note = _note(site, extra)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def has(site: Site, extra: str) -> bool:
    """Whether the site has been given an extra, running or not."""
    return _note(site, extra).exists()


def mark(site: Site, *known: str) -> Mapping[str, str]:
    """An environment for a program that works in another way with any of these extras: as it
    changes when one is added, the supervisor replaces the program that runs.
    """
    added = [extra for extra in known if has(site, extra)]
    return {"ANTIPODE_WITH": ",".join(added)} if added else {}


def _note(site: Site, extra: str) -> Path:
    return site.home / "with" / extra
