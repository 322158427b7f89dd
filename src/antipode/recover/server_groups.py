# SPDX-License-Identifier: Apache-2.0
"""Server groups at the backup site: with which policy, whether its hosts suffice, and made once."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Sequence

from antipode.cloud.api import ApiError, Json
from antipode.cloud.site import Site
from antipode.model.plan import ServerPlan
from antipode.model.topology import ServerGroup
from antipode.model.vnf import Mapping

_one_at_a_time = threading.Lock()
"""Servers boot at the same time and may share a group, which must be made once."""


def planned(group: ServerGroup, mapping: Mapping, there: Sequence[Json]) -> ServerGroup:
    """A group as it is going to be: under the name that it has at the backup site, with the policy
    of the group of that name, else the one of the VNF file, else its own.
    """
    name = mapping.server_groups.get(group.name, group.name)
    wanted = mapping.server_group_policies.get(name, group.policy)
    rules = group.rules if wanted == group.policy else {}
    existing = found(name, there)
    if existing is None:
        return ServerGroup(name=name, policy=wanted, rules=rules)
    return ServerGroup(
        name=name, policy=policy_of(existing, wanted), rules=existing.get("rules") or {}
    )


def policy_of(group: Json, otherwise: str) -> str:
    """The policy of a group as Nova lists it."""
    return str(group.get("policy") or next(iter(group.get("policies") or ()), otherwise))


def differences(group: ServerGroup, here: ServerGroup) -> Iterator[str]:
    """In which respects a group that comes back differs from what it was."""
    if here.policy != group.policy:
        yield f"policy {here.policy} instead of {group.policy}"
    elif here.rules != group.rules:
        yield f"rules {_rules(here)} instead of {_rules(group)}"


def _rules(group: ServerGroup) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(group.rules.items())) or "none"


def problems(
    servers: Sequence[ServerPlan], there: Sequence[Json], ours: Collection[str], site: Site
) -> Iterator[str]:
    """The groups of `servers` that the hosts of a site cannot hold; one sentence for each.

    Args:
        there: the groups of the site.
        ours: the ids of servers of this recovery that exist already.
    """
    apart = groups_of(servers, "anti-affinity")
    hosts = _hosts(site) if apart else None
    if hosts is None:
        return
    for group in apart:
        members = len(members_of(group.name, servers)) + len(others_in(group.name, there, ours))
        need = math.ceil(members / group.rules.get("max_server_per_host", 1))
        if need > hosts:
            yield (
                f"server group {group.name} has the policy anti-affinity and {members} members: it "
                f"needs {need} hosts, and {site.name} has {hosts} that are up. Add hosts, or give "
                f"it a soft policy there: map.server_group_policies in the VNF file"
            )


def groups_of(servers: Sequence[ServerPlan], policy: str | None = None) -> list[ServerGroup]:
    """The groups that servers are to be in, each once; of one policy or of any."""
    groups = {s.server_group.name: s.server_group for s in servers if s.server_group}
    return [g for g in groups.values() if policy in (None, g.policy)]


def members_of(group: str, servers: Sequence[ServerPlan]) -> list[str]:
    """The names of the servers that are to be in a group."""
    return [s.name for s in servers if s.server_group and s.server_group.name == group]


def others_in(group: str, there: Sequence[Json], ours: Collection[str]) -> set[str]:
    """The ids of the servers in a group of the site that are not of this recovery."""
    existing = found(group, there)
    return set(existing["members"]) - set(ours) if existing else set()


def _hosts(site: Site) -> int | None:
    """How many hosts can take servers; None where we may not know."""
    try:
        services = site.compute.services("nova-compute")
    except ApiError:
        return None
    return len([s for s in services if (s["state"], s["status"]) == ("up", "enabled")])


def found(name: str, there: Sequence[Json]) -> Json | None:
    """The group of this name among those of a site.

    Of two, made by a request that came through late, the one which has members: those that boot
    now must be in the same.
    """
    named = [g for g in there if g["name"] == name]
    return max(named, key=lambda g: len(g.get("members") or ()), default=None)


def ensure(site: Site, group: ServerGroup) -> str:
    """The id of a group at a site, which is created when there is none of its name."""
    with _one_at_a_time:
        existing = found(group.name, site.compute.server_groups())
        if existing is not None:
            return str(existing["id"])
        return site.compute.create_server_group(group.name, group.policy, group.rules)
