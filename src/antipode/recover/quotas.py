# SPDX-License-Identifier: Apache-2.0
"""What a recovery needs of the quotas of its project, beyond that which an earlier attempt has
created: that counts as used already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from antipode.cloud.api import Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.model.marks import key_tag, marks, neutron_key
from antipode.model.plan import (
    NetworkPlan,
    PortPlan,
    RecoveryPlan,
    SecurityGroupPlan,
    ServerPlan,
    VolumePlan,
    is_stand_in,
)
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed, quota_needs
from antipode.model.topology import all_ports
from antipode.recover import server_groups
from antipode.recover.existing import keys_of
from antipode.recover.recovery import resource_key
from antipode.recover.sources import PROVIDERS

BORN_WITH = 2
"""Rules of a new security group, unless the site says otherwise."""


@dataclass(frozen=True)
class Wanted:
    """What is going to be created."""

    servers: Sequence[ServerPlan]
    vip_ports: Sequence[PortPlan]
    networks: Sequence[NetworkPlan] = ()
    security_groups: Sequence[SecurityGroupPlan] = ()
    unattached: Sequence[VolumePlan] = ()
    """volumes of no server"""
    compared: Sequence[VolumePlan] = ()
    """volumes that are backed up once more, one after another, to compare their content"""

    @property
    def ports(self) -> list[PortPlan]:
        return all_ports(self.servers, self.vip_ports)


@dataclass(frozen=True)
class Held:
    """What the backup site has, as the plan has listed it."""

    servers: Mapping[str, str]
    """name -> id of the servers that an earlier attempt has booted"""
    flavors: Mapping[str, Sequence[Json]]
    """by name"""
    ports: Collection[Json]
    server_groups: Sequence[Json]
    volumes: Collection[Json]


def needs(point: RecoveryPoint, site: Site, wanted: Wanted, held: Held) -> list[QuotaNeed]:
    """The needs of those quotas that the site has."""
    new_servers = [s for s in wanted.servers if s.name not in held.servers]
    there = {key for volume in held.volumes for key in keys_of(volume)}

    def key(planned: VolumePlan | PortPlan) -> str:
        return resource_key(point.keyed_by, planned.source_id)

    all_volumes = {v.source_id: v for s in wanted.servers for v in s.volumes}.values()
    volumes = [v for v in (*all_volumes, *wanted.unattached) if key(v) not in there]
    ports_there = {neutron_key(p) for p in held.ports}
    ports = [p for p in wanted.ports if key_tag(key(p)) not in ports_there]
    of_compute = site.compute.quota(site.project_id)
    found = [
        *quota_needs(_compute(point, new_servers, held), of_compute),
        *_members(wanted.servers, held, of_compute),
        *_metadata(new_servers, of_compute),
        *_storage(point, site, volumes, wanted.compared),
        *quota_needs(_networking(wanted, ports), site.networks.quota(site.project_id), "used"),
    ]
    freed = _freed(site)
    return [need.model_copy(update={"freed": freed[need.resource]}) for need in found]


def _freed(site: Site) -> Counter[str]:
    """What the quotas still count of what a plan takes to be gone; snapshots go, too."""
    freed: Counter[str] = Counter()
    if not site.hidden:
        return freed
    whole = site.without([])
    for server in whole.compute.servers():
        if server["id"] in site.hidden and not is_unreadable(server):
            freed["instances"] += 1
            freed["cores"] += server["flavor"]["vcpus"]
            freed["ram"] += server["flavor"]["ram"]
    types: dict[str, str | None] = {}
    for volume in whole.volumes.volumes():
        if volume["id"] in site.hidden:
            types[volume["id"]] = volume["volume_type"]
            for of in ("", f"_{volume['volume_type']}"):
                freed[f"volumes{of}"] += 1
                freed[f"gigabytes{of}"] += volume["size"]
    for snapshot in whole.volumes.snapshots() if site.snapshots_count_gigabytes else ():
        if snapshot["volume_id"] in types:
            for of in ("", f"_{types[snapshot['volume_id']]}"):
                freed[f"gigabytes{of}"] += snapshot.get("size", 0)
    ports = whole.networks.ports_of_project(site.project_id)
    freed["port"] = sum(port["id"] in site.hidden for port in ports)
    return freed


def _networking(wanted: Wanted, ports: Sequence[PortPlan]) -> Counter[str]:
    """Of Neutron; `ports` are those that do not exist yet."""
    groups = [g for g in wanted.security_groups if is_stand_in(g.group_id)]
    return Counter(
        port=len(ports),
        network=sum(is_stand_in(n.network_id) for n in wanted.networks),
        subnet=sum(is_stand_in(s.subnet_id) for n in wanted.networks for s in n.subnets),
        security_group=len(groups),
        # a group is born with rules, which count until they make way
        security_group_rule=sum(max(len(g.rules), BORN_WITH) for g in groups),
    )


def _compute(point: RecoveryPoint, servers: Sequence[ServerPlan], held: Held) -> Counter[str]:
    flavors = {s.name: s.flavor for s in point.topology.servers}
    needed = Counter(instances=len(servers))
    for server in servers:
        here = held.flavors.get(server.flavor)
        needed["cores"] += here[0]["vcpus"] if here else flavors[server.name].vcpus
        needed["ram"] += here[0]["ram"] if here else flavors[server.name].ram_mib
    needed["server_groups"] = sum(
        server_groups.found(group.name, held.server_groups) is None
        for group in server_groups.groups_of(servers)
    )
    # The quota of keypairs is each user's, and not in the project's usage.
    return needed


def _members(
    servers: Sequence[ServerPlan], held: Held, quota: Mapping[str, Json]
) -> list[QuotaNeed]:
    """The quota of members of each group; Nova counts them when a server boots."""
    name = "server_group_members"
    if name not in quota:
        return []
    needed = []
    for group in server_groups.groups_of(servers):
        existing = server_groups.found(group.name, held.server_groups)
        new = [s for s in server_groups.members_of(group.name, servers) if s not in held.servers]
        if new:
            used = len(existing["members"]) if existing else 0
            limit = quota[name]["limit"]
            needed.append(
                QuotaNeed(
                    resource=f"{name} of {group.name}", needed=len(new), used=used, limit=limit
                )
            )
    return needed


def _metadata(servers: Sequence[ServerPlan], quota: Mapping[str, Json]) -> list[QuotaNeed]:
    """The quota of metadata of one server, for that which has most, with the marks that it boots
    with.
    """
    name = "metadata_items"
    if name not in quota or not servers:
        return []
    counts = {s.name: len({**s.metadata, **marks("", "")}) for s in servers}
    largest = max(counts, key=lambda server: counts[server])
    return [
        QuotaNeed(
            resource=f"{name} of server {largest}",
            needed=counts[largest],
            used=0,
            limit=quota[name]["limit"],
        )
    ]


def comparable(point: RecoveryPoint, plan: RecoveryPlan) -> list[VolumePlan]:
    """The volumes of a plan whose content can be compared with what was captured, once there are
    backups of them.
    """
    found = []
    for volume in plan.volumes:
        source = point.source_of(volume.source_id)
        provider = PROVIDERS.get(source.kind)
        if not provider.proves_in_store and provider.unprovable(source) is None:
            found.append(volume)
    return found


def _storage(
    point: RecoveryPoint,
    site: Site,
    volumes: Sequence[VolumePlan],
    compared: Sequence[VolumePlan],
) -> list[QuotaNeed]:
    quota = site.volumes.quota(site.project_id)
    size = sum(v.size_gib for v in volumes)
    needed = Counter(volumes=len(volumes), gigabytes=size)
    for kind in point.kinds:
        needed += PROVIDERS.get(kind).quotas(point, site)
    if compared:
        needed += Counter(backups=1, backup_gigabytes=max(v.size_gib for v in compared))
    for volume in volumes:
        needed[f"volumes_{volume.volume_type}"] += 1
        needed[f"gigabytes_{volume.volume_type}"] += volume.size_gib
    largest = {"per_volume_gigabytes": max((v.size_gib for v in volumes), default=0)}
    return [*quota_needs(needed, quota), *quota_needs(largest, quota)]
