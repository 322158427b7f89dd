# SPDX-License-Identifier: Apache-2.0
"""The plan of a recovery: names translated to what the backup site has, all problems found before
anything is created.

Nothing at the primary is asked: the point and the backup site are enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from ipaddress import ip_address, ip_network

from antipode.cloud.api import Json
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from antipode.model.marks import carries, key_in, maker_in
from antipode.model.plan import PortPlan, RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.topology import Attachment, Flavor, Keypair, Port, Server, ServerGroup
from antipode.model.vnf import ANY, Member
from antipode.recover import quotas, server_groups
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
        self._there: dict[str, str] = {}
        """name -> id of the servers that an earlier attempt has booted"""
        self._to_be_replaced: list[str] = []
        """ids of the servers of an earlier attempt that are in ERROR"""
        self._server_groups = (
            site.compute.server_groups()
            if any(s.server_group for s in point.topology.servers)
            else []
        )

    def plan(self) -> RecoveryPlan:
        topology, vnf = self._point.topology, self._point.vnf
        for kind in sorted({source.kind for source in self._point.sources.values()}):
            self.problems += PROVIDERS.get(kind).check(self._point, self._site)
        # A member may be named by id in the VNF's file; here servers go by their names.
        names = {m.server: s.name for m, s in zip(vnf.members, topology.servers, strict=True)}
        before = vnf.predecessors()
        servers = [
            self._server(server, member, sorted(names[p] for p in before[member.server]))
            for member, server in zip(vnf.members, topology.servers, strict=True)
        ]
        self.problems += server_groups.problems(
            servers,
            self._server_groups,
            [*self._there.values(), *self._to_be_replaced],
            self._site,
        )
        self._warn_of_user_data(servers)
        if self._point.moments_apart_s:
            self.warnings.append(_of_different_moments(self._point))
        held = quotas.Held(self._there, self._flavors, self._ports, self._server_groups)
        needs = quotas.needs(self._point, self._site, servers, held)
        self.problems += [str(need) for need in needs if need.is_short]
        return RecoveryPlan(
            recovery_point=self._point.id,
            vnf=vnf.vnf,
            site=self._site.name,
            servers=servers,
            keypairs_to_import=list(self._keypairs_to_import.values()),
            quotas=needs,
            already_there=list(self._there),
            warnings=self.warnings,
        )

    def _server(self, server: Server, member: Member, after: list[str]) -> ServerPlan:
        self._must_be_gone(server)
        for other in self._servers.get(server.name, []):
            if not carries(other, resource_key(self._point.id, server.id)):
                self.problems.append(f"there is a server {server.name} already ({other['id']})")
            elif other["status"] == "ERROR":
                reason = (other.get("fault") or {}).get("message", "Nova gives no reason")
                self.warnings.append(
                    f"server {server.name} ({other['id']}), made by an earlier attempt, is in "
                    f"ERROR: {reason}; it is removed and made again"
                )
                self._to_be_replaced.append(other["id"])
            else:
                self._there[server.name] = other["id"]
        return ServerPlan(
            source_id=server.id,
            name=server.name,
            hostname=server.hostname,
            flavor=self._map.flavors.get(server.flavor.name, server.flavor.name),
            flavor_id=self._flavor(server.name, server.flavor),
            availability_zone=self._zone(
                f"server {server.name}",
                self._map.server_zone(server.availability_zone) if server.availability_zone else "",
                self._server_zones,
                "Nova",
            ),
            volumes=[self._volume(a) for a in server.attachments],
            ports=[self._port(server.name, p) for p in server.ports],
            metadata=server.metadata,
            tags=server.tags,
            keypair=server.keypair and self._keypair(server.keypair),
            user_data=None if member.user_data == "drop" else server.user_data,
            drops_user_data=member.user_data == "drop",
            config_drive=server.config_drive,
            description=server.description,
            server_group=server.server_group and self._server_group(server.server_group),
            after=after,
            answers=member.answers,
        )

    def _must_be_gone(self, server: Server) -> None:
        """See that the server that was captured is not at this site, under whatever name."""
        for other in (s for same in self._servers.values() for s in same):
            if other["id"] == server.id and other["name"] != server.name:
                self.problems.append(
                    f"server {other['name']} ({other['id']}) is the old copy of {server.name}"
                )

    def _warn_of_user_data(self, servers: list[ServerPlan]) -> None:
        """Say whose user_data runs again, unless the VNF file says that it is to."""
        members = zip(self._point.vnf.members, servers, strict=True)
        again = [s.name for m, s in members if s.user_data and m.user_data is None]
        if again:
            self.warnings.append(
                f"cloud-init takes {', '.join(again)} for new servers and runs their user_data "
                f"again; `user_data: keep` or `drop` in the VNF file says what is wanted"
            )

    def _server_group(self, group: ServerGroup) -> ServerGroup:
        here = server_groups.planned(group, self._map, self._server_groups)
        if differs := ", ".join(server_groups.differences(group, here)):
            self.warnings.append(f"server group {here.name} has another form here: {differs}")
        return here

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
        if flavor_id and (differs := ", ".join(_differences(flavor, self._flavors[name][0]))):
            self.warnings.append(
                f"flavor {name} is another here than for server {server}: {differs}"
            )
        return flavor_id

    def _zone(self, what: str, here: str, zones: set[str], service: str) -> str | None:
        """The zone at this site; None leaves the choice to the site."""
        if not here or here == ANY:
            return None
        if here in zones:
            return here
        self.problems.append(
            f"{service} has no availability zone {here}, needed for {what} (there are: "
            f"{', '.join(sorted(zones))}); map it in the VNF file, to a zone or to {ANY}"
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
                label,
                self._map.volume_zone(volume.availability_zone) if volume.availability_zone else "",
                self._volume_zones,
                "Cinder",
            ),
            metadata=volume.metadata,
            image_metadata=volume.image_metadata,
            is_root=attachment.is_root,
            delete_on_termination=attachment.delete_on_termination,
            tag=attachment.tag,
            way=PROVIDERS.get(source.kind).way(source, self._site),
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


def _of_different_moments(point: RecoveryPoint) -> str:
    moments = sorted(point.moments.items(), key=lambda item: datetime.fromisoformat(item[1]))
    each = ", ".join(f"{server} at {at}" for server, at in moments)
    return (
        f"the members are of different moments, up to {point.moments_apart_s:.1f} s apart ({each}):"
        " a transaction over several members may be in one of them only. A point of option"
        " quiesced-snapshot has one moment for all of them"
    )


def _differences(flavor: Flavor, here: Json) -> Iterator[str]:
    """In which respects the flavor of the backup site differs from the one that a server had."""
    sizes = (
        ("VCPUs", flavor.vcpus, here["vcpus"]),
        ("RAM in MiB", flavor.ram_mib, here["ram"]),
        ("disk in GiB", flavor.disk_gib, here.get("disk", flavor.disk_gib)),
    )
    for what, was, now in sizes:
        if was != now:
            yield f"{what} {now} instead of {was}"
    specs = here.get("extra_specs", flavor.extra_specs)  # a policy may hide them
    for name in sorted({*specs, *flavor.extra_specs}):
        if specs.get(name) != flavor.extra_specs.get(name):
            before, here_now = (s.get(name, "not set") for s in (flavor.extra_specs, specs))
            yield f"extra spec {name} {here_now} instead of {before}"


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
