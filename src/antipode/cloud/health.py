# SPDX-License-Identifier: Apache-2.0
"""Whether a site has what antipode needs of it: one finding for each thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site


class Finding(NamedTuple):
    """One check. A failed check that is not `needed` does not make the site unfit."""

    check: str
    ok: bool
    detail: str
    needed: bool = True


def check(site: Site) -> list[Finding]:
    """Look at the services of a site, the rights of our user there and the quiesce add-on.

    The site's connection has found Nova, Cinder and Neutron already, in versions that are new
    enough.
    """
    support = site.compute.quiesce_support()
    compute, volume = site.compute.version, site.volumes.version
    return [
        Finding("compute", True, f"Nova, microversion {compute} used"),
        Finding("block-storage", True, f"Cinder, microversion {volume} used"),
        Finding("network", True, f"Neutron, {len(site.networks.networks())} networks visible"),
        _service("nova-compute", site.compute.services),
        _service("cinder-volume", site.volumes.services),
        _service("cinder-backup", site.volumes.services),
        _network_agents(site),
        Finding(
            "admin rights",
            site.backups.may_exchange_records(),
            f"roles in the project: {', '.join(sorted(site.roles))}; exporting and importing "
            "backup records takes admin",
        ),
        Finding(
            "quiesce add-on",
            support is not None,
            f"nova-quiesce {support['version']}, at most {support['maximum_timeout']} s"
            if support
            else "not installed: quiesced-snapshot cannot protect a VNF here, and server-snapshot "
            "cannot limit how long a member stays frozen",
            needed=False,
        ),
    ]


def _service(binary: str, listing: Callable[[str], list[Json]]) -> Finding:
    """Whether a service that works in the background is up and enabled on a host at least; those
    that are not are named.
    """
    try:
        services = listing(binary)
    except ApiError as error:
        return Finding(
            binary, False, f"{error}; antipode's user needs the role admin in the project"
        )
    up = [s["host"] for s in services if s["state"] == "up" and s["status"] == "enabled"]
    out = [
        f"{s['host']} is {s['state']} and {s['status']}" for s in services if s["host"] not in up
    ]
    return Finding(
        binary,
        bool(up),
        "; ".join([f"up at {', '.join(up)}" if up else f"no {binary} is up and enabled", *out]),
    )


def _network_agents(site: Site) -> Finding:
    """Whether an agent of each kind that this Neutron has is alive: without one, a server boots and
    no client reaches it.
    """
    try:
        agents = site.networks.agents()
    except ApiError as error:
        return Finding("network agents", False, f"unknown: {error}", needed=False)
    alive = {a["agent_type"] for a in agents if a["alive"] and a["admin_state_up"]}
    dead = [
        f"{a['agent_type']} at {a['host']}"
        for a in agents
        if not (a["alive"] and a["admin_state_up"])
    ]
    text = f"alive: {', '.join(sorted(alive)) or 'none'}" + (
        f"; dead or disabled: {', '.join(dead)}" if dead else ""
    )
    return Finding("network agents", alive == {a["agent_type"] for a in agents}, text)
