# SPDX-License-Identifier: Apache-2.0
"""What a project has at a site: compared before and after a drill, it tells what was left."""

from __future__ import annotations

from collections.abc import Mapping

from antipode.cloud.api import Json
from antipode.cloud.site import Site

Inventory = Mapping[str, Mapping[str, str]]
"""kind of resource -> id -> name"""


def take(site: Site) -> dict[str, dict[str, str]]:
    """The resources of the project that a recovery may create."""
    # an administrator is shown those of others too
    networks = [n for n in site.networks.networks() if _is_own(n, site)]
    return {
        "servers": _named(site.compute.servers()),
        "volumes": _named(site.volumes.volumes()),
        "backups": _named(site.backups.backups()),
        "ports": _named(site.networks.ports_of_project(site.project_id)),
        "networks": _named(networks),
        "subnets": _named(site.networks.subnets([n["id"] for n in networks])),
        "security groups": _named(site.networks.security_groups(site.project_id)),
        "server groups": _named(site.compute.server_groups()),
    }


def counts(inventory: Inventory) -> dict[str, int]:
    """How many there are of each kind."""
    return {kind: len(found) for kind, found in inventory.items()}


def appeared(before: Inventory, after: Inventory) -> dict[str, dict[str, str]]:
    """The resources that are there after and were not before, of each kind that has any."""
    new = {
        kind: {i: name for i, name in found.items() if i not in before.get(kind, {})}
        for kind, found in after.items()
    }
    return {kind: found for kind, found in new.items() if found}


def _is_own(network: Json, site: Site) -> bool:
    return bool(network.get("project_id", site.project_id) == site.project_id)


def _named(rows: list[Json]) -> dict[str, str]:
    return {row["id"]: str(row.get("name") or "") for row in rows}
