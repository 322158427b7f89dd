# SPDX-License-Identifier: Apache-2.0
"""Whether servers are still as they were discovered: a recovery point describes them as that, and
must not bring back what a resize or a rebuild has replaced meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from antipode.cloud.api import Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.errors import ResourceFailed
from antipode.model.topology import Server, Topology
from antipode.topology.discovery import flavor_of

USER_DATA = "OS-EXT-SRV-ATTR:user_data"


def must_be_as_discovered(site: Site, topology: Topology) -> None:
    """Compare servers with what Nova says of them now (`GET /servers/detail`).

    Raises:
        ResourceFailed: one was deleted, renamed, resized or rebuilt since; names each.
    """
    now = {str(s["id"]): s for s in site.compute.servers()}
    changes = [
        f"server {server.name} {change}"
        for server in topology.servers
        for change in _changes(server, now.get(server.id))
    ]
    if changes:
        raise ResourceFailed(
            f"{site.name}: since the members were read, {'; '.join(changes)}. Protect the VNF again"
        )


def _changes(server: Server, now: Json | None) -> Iterator[str]:
    if now is None:
        yield "was deleted"
    elif not is_unreadable(now):  # a cell that falls silent changes nothing
        flavor = flavor_of(now)
        if now["name"] != server.name:
            yield f"was renamed to {now['name']}"
        if flavor != server.flavor:
            yield f"was resized to flavor {flavor.name}"
        if USER_DATA in now and now[USER_DATA] != server.user_data:  # administrators see it
            yield "was rebuilt with other user_data"
        booted = server.root_disk.image_metadata.get("id") if server.root_disk else None
        if booted is not None and (now.get("image") or {}).get("id") != booted:
            yield "was rebuilt from another image"
