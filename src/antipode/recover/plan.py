# SPDX-License-Identifier: Apache-2.0
"""The plan of a recovery: names translated to what the backup site has, all problems found before
anything is created.

Nothing at the primary is asked: the point and the backup site are enough.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from antipode.model.marks import carries, key_in, key_said, maker_in
from antipode.model.plan import PortPlan, RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.quota import QuotaNeed, quota_needs
from antipode.model.topology import Attachment, Flavor, Keypair, Port, Server
from antipode.recover.existing import keys_of
from antipode.recover.recovery import resource_key
from antipode.recover.sources import PROVIDERS

Named = dict[str, list[Json]]


def make_plan(point: RecoveryPoint, site: Site) -> RecoveryPlan:
    """Plan the recovery of a VNF at `site` from one recovery point. Creates nothing.

    Raises:
        PreflightFailed: with everything that is missing or in the way.
    """
    planner = _Planner(point, site)
    plan = planner.plan()
    if planner.problems:
        raise PreflightFailed(
            f"Recovering {point.vnf.vnf} at {site.name} from {point.id}",
            list(dict.fromkeys(planner.problems)),
        )
    return plan


def _by_name(items: Iterable[Json]) -> Named:
    named: Named = {}
    for item in items:
        named.setdefault(item["name"], []).append(item)
    return named


def _for_project(networks: list[Json], project_id: str) -> list[Json]:
    """Of networks of one name those of the project, else those shared with it: an administrator is
    shown everybody's.
    """
    own = [n for n in networks if n.get("project_id") == project_id]
    return own or [n for n in networks if n.get("shared") or n.get("router:external")] or networks


class _Planner:
    """What the backup site has, read once, and what is wrong with it for this recovery point."""

    def __init__(self, point: RecoveryPoint, site: Site) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._point = point
        self._site = site
        self._map = point.vnf.map_between(point.site, site.name)
        self._flavors = _by_name(site.compute.flavors())
        self._types = _by_name(site.volumes.types())
        self._networks = {
            name: _for_project(same, site.project_id)
            for name, same in _by_name(site.networks.networks()).items()
        }
        self._groups = _by_name(site.networks.security_groups(site.project_id))
        self._server_zones = site.compute.availability_zones()
        self._volume_zones = site.volumes.availability_zones()
        wanted = {
            self._map.networks.get(p.network, p.network)
            for s in point.topology.servers
            for p in s.ports
        }
        ids = [n["id"] for name in wanted for n in self._networks.get(name, [])]
        self._subnets = site.networks.subnets(ids)
        self._ports = site.networks.ports_on(ids)
        self._servers = _by_name(site.compute.servers())
        self._keypairs: dict[Keypair, Keypair] = {}
        """keypair of the primary -> the same as it is called here"""
        self._keypairs_to_import: dict[str, Keypair] = {}
        self._there: list[str] = []
        self._kinds = sorted({source.kind for source in point.sources.values()})
        """of the sources of its volumes"""

    def plan(self) -> RecoveryPlan:
        topology, vnf = self._point.topology, self._point.vnf
        for kind in self._kinds:
            self.problems += PROVIDERS.get(kind).check(self._point, self._site)
        # A member may be named by id in the VNF's file; here servers go by their names.
        names = {m.server: s.name for m, s in zip(vnf.members, topology.servers, strict=True)}
        before = vnf.predecessors()
        servers = [
            self._server(server, sorted(names[p] for p in before[member.server])).model_copy(
                update={"answers": member.answers}
            )
            for member, server in zip(vnf.members, topology.servers, strict=True)
        ]
        quotas = self._quotas(servers)
        self.problems += [str(need) for need in quotas if need.is_short]
        return RecoveryPlan(
            recovery_point=self._point.id,
            vnf=vnf.vnf,
            site=self._site.name,
            servers=servers,
            keypairs_to_import=list(self._keypairs_to_import.values()),
            quotas=quotas,
            already_there=self._there,
            warnings=self.warnings,
        )

    def _server(self, server: Server, after: list[str]) -> ServerPlan:
        for other in self._servers.get(server.name, []):
            if not carries(other, resource_key(self._point.id, server.id)):
                self.problems.append(f"there is a server {server.name} already ({other['id']})")
            elif other["status"] == "ERROR":
                reason = (other.get("fault") or {}).get("message", "Nova gives no reason")
                self.warnings.append(
                    f"server {server.name} ({other['id']}), made by an earlier attempt, is in "
                    f"ERROR: {reason}; it is removed and made again"
                )
            else:
                self._there.append(server.name)
        return ServerPlan(
            source_id=server.id,
            name=server.name,
            hostname=server.hostname,
            flavor=self._map.flavors.get(server.flavor.name, server.flavor.name),
            flavor_id=self._flavor(server.name, server.flavor),
            availability_zone=self._zone(
                f"server {server.name}", server.availability_zone, self._server_zones, "Nova"
            ),
            volumes=[self._volume(a) for a in server.attachments],
            ports=[self._port(server.name, p) for p in server.ports],
            metadata=server.metadata,
            tags=server.tags,
            keypair=server.keypair and self._keypair(server.keypair),
            user_data=server.user_data,
            config_drive=server.config_drive,
            description=server.description,
            server_group=server.server_group,
            after=after,
            answers=None,
        )

    def _one(self, what: str, name: str, there: Named, for_whom: str) -> str:
        """The id of the one resource of that name; a problem unless there is exactly one."""
        found = there.get(name, [])
        if len(found) != 1:
            have = ", ".join(sorted(there)) or "none"
            self.problems.append(
                f"there is no {what} {name}, needed for {for_whom}; create it, or map the name "
                f"in the VNF's file (there are: {have})"
                if not found
                else f"{len(found)} {what}s are named {name}, needed for {for_whom}"
            )
            return ""
        return str(found[0]["id"])

    def _flavor(self, server: str, flavor: Flavor) -> str:
        name = self._map.flavors.get(flavor.name, flavor.name)
        needs = (
            f"server {server} ({flavor.vcpus} VCPUs, {flavor.ram_mib} MiB, disk "
            f"{flavor.disk_gib} GiB)"
        )
        flavor_id = self._one("flavor", name, self._flavors, needs)
        if flavor_id:
            here = self._flavors[name][0]
            if here["vcpus"] < flavor.vcpus or here["ram"] < flavor.ram_mib:
                self.warnings.append(
                    f"flavor {name} is smaller here: {here['vcpus']} VCPUs, {here['ram']} MiB, "
                    f"for {needs}"
                )
        return flavor_id

    def _zone(self, what: str, zone: str, zones: set[str], service: str) -> str | None:
        """The zone at this site; None leaves the choice to the site."""
        here = self._map.availability_zones.get(zone, zone)
        if not zone or here in zones:
            return here or None
        self.problems.append(
            f"{service} has no availability zone {here}, needed for {what} (there are: "
            f"{', '.join(sorted(zones))})"
        )
        return None

    def _volume(self, attachment: Attachment) -> VolumePlan:
        volume = attachment.volume
        source = self._point.sources[volume.id]
        label = f"volume {volume.name or volume.id}"
        kind = self._map.volume_types.get(volume.volume_type, volume.volume_type)
        if kind:
            self._one("volume type", kind, self._types, label)
        # it may have been extended between discovery and snapshot
        return VolumePlan(
            source_id=volume.id,
            source_kind=source.kind,
            source_reference=source.reference,
            name=volume.name,
            description=volume.description,
            size_gib=max(volume.size_gib, source.size_gib),
            volume_type=kind,
            availability_zone=self._zone(
                label, volume.availability_zone, self._volume_zones, "Cinder"
            ),
            metadata=volume.metadata,
            image_metadata=volume.image_metadata,
            is_root=attachment.is_root,
            delete_on_termination=attachment.delete_on_termination,
            tag=attachment.tag,
        )

    def _port(self, server: str, port: Port) -> PortPlan:
        network = self._map.networks.get(port.network, port.network)
        network_id = self._one("network", network, self._networks, f"server {server}")
        key = resource_key(self._point.id, port.id)
        others = [
            p
            for p in self._ports
            if p["network_id"] == network_id and not key_in(p.get("description"), key)
        ]
        fixed: dict[str, str] = {}
        if network_id:
            for address in (f.address for f in port.fixed):
                fixed[address] = self._subnet(server, network, network_id, address)
                for other in others:
                    if address in {f["ip_address"] for f in other["fixed_ips"]}:
                        self.problems.append(
                            f"address {address} of server {server} is in use on network "
                            f"{network} by {_owner(other)}"
                        )
            for other in others:
                if other["mac_address"].lower() == port.mac_address.lower():
                    mac = f"MAC address {port.mac_address} of server {server}"
                    self.problems.append(f"{mac} is in use on network {network} by {_owner(other)}")
        return PortPlan(
            source_id=port.id,
            name=port.name,
            network=network,
            network_id=network_id,
            mac_address=port.mac_address,
            fixed=fixed,
            security_group_ids=[
                self._one(
                    "security group",
                    self._map.security_groups.get(group, group),
                    self._groups,
                    f"server {server}",
                )
                for group in port.security_groups
            ],
            allowed_address_pairs=port.allowed_address_pairs,
            port_security_enabled=port.port_security_enabled,
            vnic_type=port.vnic_type,
            device_tag=port.device_tag,
            tags=port.tags,
        )

    def _subnet(self, server: str, network: str, network_id: str, address: str) -> str:
        mine = [s for s in self._subnets if s["network_id"] == network_id]
        for subnet in mine:
            if ip_address(address) in ip_network(subnet["cidr"]):
                return str(subnet["id"])
        have = ", ".join(s["cidr"] for s in mine) or "none"
        self.problems.append(
            f"network {network} has no subnet with address {address} of server {server} (its "
            f"subnets: {have})"
        )
        return ""

    def _keypair(self, keypair: Keypair) -> Keypair:
        """The keypair under the name it can have here: keypairs are a user's, and ours may have
        another of that name.
        """
        if keypair in self._keypairs:
            return self._keypairs[keypair]
        here = self._site.compute.keypair(keypair.name)
        planned = keypair
        if here is not None and _key(here["public_key"]) != _key(keypair.public_key):
            digest = hashlib.sha256(keypair.public_key.encode()).hexdigest()[:8]
            planned = keypair.model_copy(update={"name": f"{keypair.name}-{digest}"})
            self.warnings.append(
                f"antipode's user has another keypair {keypair.name} here; the servers get "
                f"theirs as {planned.name}"
            )
            here = self._site.compute.keypair(planned.name)
        if here is None:
            self._keypairs_to_import[planned.name] = planned
        self._keypairs[keypair] = planned
        return planned

    def _quotas(self, servers: list[ServerPlan]) -> list[QuotaNeed]:
        """What is needed beyond that which an earlier attempt has created, which counts as used
        already.
        """
        site = self._site
        volumes_there = {key for volume in site.volumes.volumes() for key in keys_of(volume)}
        ports_there = {key_said(p.get("description")) for p in self._ports}
        new_servers = [s for s in servers if s.name not in self._there]
        new_volumes = [v for s in servers for v in s.volumes if self._key(v) not in volumes_there]
        new_ports = [p for s in servers for p in s.ports if self._key(p) not in ports_there]
        flavors = {s.name: s.flavor for s in self._point.topology.servers}

        compute = Counter(instances=len(new_servers))
        for server in new_servers:
            here = self._flavors.get(server.flavor)
            compute["cores"] += here[0]["vcpus"] if here else flavors[server.name].vcpus
            compute["ram"] += here[0]["ram"] if here else flavors[server.name].ram_mib
        compute["key_pairs"] = 0  # counted for each user, and not in the project's usage

        size = sum(v.size_gib for v in new_volumes)
        storage = Counter(volumes=len(new_volumes), gigabytes=size)
        for kind in self._kinds:
            storage += PROVIDERS.get(kind).quotas(self._point, site)
        for volume in new_volumes:
            storage[f"volumes_{volume.volume_type}"] += 1
            storage[f"gigabytes_{volume.volume_type}"] += volume.size_gib
        return [
            *quota_needs(compute, site.compute.quota(site.project_id)),
            *quota_needs(storage, site.volumes.quota(site.project_id)),
            *quota_needs(
                Counter(port=len(new_ports)), site.networks.quota(site.project_id), "used"
            ),
        ]

    def _key(self, planned: VolumePlan | PortPlan) -> str:
        return resource_key(self._point.id, planned.source_id)


def _key(public_key: str) -> list[str]:
    """Type and key; the comment after them is nobody's identity."""
    return public_key.split()[:2]


def _owner(port: Json) -> str:
    maker = maker_in(port.get("description"))
    by = (
        f", made by {maker}; if that was aborted, again: antipode run abort {maker}"
        if maker
        else ""
    )
    return (
        f"port {port['id']} ({port.get('device_owner') or 'not plugged'} "
        f"{port.get('device_id', '')})".replace(" )", ")")
        + by
    )
