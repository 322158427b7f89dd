# SPDX-License-Identifier: Apache-2.0
"""Which servers at a site are an old copy of a VNF: by the signed claims and recovery points of
older generations, and never by their names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from antipode.errors import NotFound, VaultCorrupt
from antipode.model.marks import made_by
from antipode.model.point import RecoveryPoint
from antipode.vault import Vault, generations, points

LOG = logging.getLogger(__name__)


class OldCopy(NamedTuple):
    """What proves that a server is of an old copy of a VNF, and what proves that it is not."""

    site: str
    servers: Mapping[str, str]
    """id of a server -> its name, as recovery points of older generations have them"""
    runs: Collection[str]
    """the failovers that made the VNF run there: their servers carry their mark"""
    spared: Collection[str]
    """ids of servers of the present generation"""
    spared_runs: Collection[str]
    """the failovers that made, or are making, the present generation"""
    unattached: Mapping[str, str] = {}
    """id of a volume of no server -> its name, as recovery points of older generations have them"""
    named: Collection[str] = ()
    """the names of volumes of no server, by all these recovery points and those of the present
    generation
    """
    vnf: str = ""
    replaced: Collection[str] | None = None
    """the names of those that the newest recovery point of the present generation has; None where
    there is no such point
    """
    ports: Mapping[str, str] = {}
    """id of a port of no server -> its name, as recovery points of older generations have them"""

    def has(self, server: Mapping[str, Any]) -> bool:
        """Whether a server, as a listing of the site shows it, is a member of the old copy."""
        if server["id"] in self.spared or made_by(server) in self.spared_runs:
            return False
        return server["id"] in self.servers or made_by(server) in self.runs

    @property
    def ids(self) -> list[str]:
        """The ids of its members that are known without the site."""
        return sorted(set(self.servers) - set(self.spared))


def find(
    vault: Vault,
    vnf: str,
    site: str,
    before: int,
    left_by: Callable[[str], Mapping[str, str]] = lambda run: {},
) -> OldCopy:
    """The old copy of a VNF at a site.

    Of each generation the newest valid point counts: what it does not have was no member any more.
    Of generations in which the very same copy was active, as after an undo, only the newest counts.

    Args:
        before: the present generation; older ones are old.
        left_by: the servers, by id, that a failover was to replace, as far as they are recorded:
            the recovery points of that generation may have expired.

    Raises:
        NotFound: the vaults do not say which servers the old copy has.
        VaultCorrupt: a claim cannot be understood.
        VaultError: the vaults cannot be read.
    """
    claims = generations.history(vault, vnf)
    spared_runs = {claim.run for claim, _ in claims if claim.generation >= before}
    # one that was released has moved nothing
    succeeded = [claim for claim, o in claims if o is not None and o.outcome == "active"]
    runs = {c.run for c in succeeded if c.site == site and c.generation < before}
    old: dict[str, str] = {}
    spared: set[str] = set()
    free: dict[str, str] = {}
    named: set[str] = set()
    replaced: set[str] | None = None
    members: dict[int, set[str]] = {}
    free_ports: dict[str, str] = {}
    spared_volumes: set[str] = set()
    spared_ports: set[str] = set()
    seen: set[int] = set()
    for point, summary in reversed(list(points.list_points(vault, vnf))):
        if isinstance(summary, VaultCorrupt):
            LOG.warning("recovery point %s of %s is passed over: %s", point, vnf, summary)
            continue
        is_old = summary.generation < before
        if summary.generation in seen or (is_old and summary.site != site):
            continue
        if (found := _read(vault, vnf, point)) is None:
            continue
        seen.add(summary.generation)
        ids = {server.id for server in found.topology.servers}
        unattached = {volume.id: volume.name for volume in found.topology.unattached}
        named |= set(unattached.values())
        if is_old:
            if all(ids.isdisjoint(later) for later in members.values()):
                old |= {server.id: server.name for server in found.topology.servers}
                free |= unattached
                free_ports |= {port.id: port.name for port in found.topology.vip_ports}
            members[summary.generation] = ids
        else:
            spared |= ids
            spared_volumes |= {volume.id for volume in found.topology.volumes}
            spared_ports |= {port.id for port in found.topology.vip_ports}
            replaced = set(unattached.values()) if replaced is None else replaced
    for claim in succeeded:
        if claim.former_site == site and claim.generation <= before:
            replaced_by_it = left_by(claim.run)
            later = (ids for generation, ids in members.items() if generation >= claim.generation)
            if all(replaced_by_it.keys().isdisjoint(ids) for ids in later):
                old |= replaced_by_it
    if not old and not runs:
        raise NotFound(
            f"no valid recovery point of {vnf} says which servers it had at {site}: an old copy"
            f" there cannot be recognized. See what runs at {site}, and stop and lock it by hand",
            resource=f"VNF {vnf}",
        )
    left = {v: name for v, name in free.items() if v not in spared_volumes}
    ports = {p: name for p, name in free_ports.items() if p not in spared_ports}
    return OldCopy(site, old, runs, spared, spared_runs, left, named, vnf, replaced, ports=ports)


def _read(vault: Vault, vnf: str, point: str) -> RecoveryPoint | None:
    """A signed recovery point; None for one that is damaged, not trusted, or gone meanwhile."""
    try:
        return points.read(vault, vnf, point)
    except (NotFound, VaultCorrupt) as error:
        LOG.warning("recovery point %s of %s is passed over: %s", point, vnf, error)
        return None
