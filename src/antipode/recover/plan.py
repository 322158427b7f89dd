# SPDX-License-Identifier: Apache-2.0
"""The plan of a recovery: names translated to what the backup site has, all problems found before
anything is created.

Nothing at the primary is asked: the point and the backup site are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from antipode.cloud.api import Json
from antipode.cloud.compute import is_unreadable
from antipode.cloud.site import Site
from antipode.errors import PreflightFailed
from antipode.model.marks import (
    DATASTORE,
    KEY,
    RUN,
    STACK,
    carries,
    is_of_another,
    is_throw_away,
    member_mark,
)
from antipode.model.plan import RecoveryPlan, ServerPlan, VolumePlan
from antipode.model.point import RecoveryPoint
from antipode.model.probe import asked_address, cannot_connect
from antipode.model.quota import QuotaNeed
from antipode.model.topology import Attachment, Flavor, Server, ServerGroup, Volume
from antipode.model.vnf import ANY, Member
from antipode.recover import application_data, heads, quotas, server_groups
from antipode.recover.existing import keys_of
from antipode.recover.findings import Findings, by_name
from antipode.recover.keypairs import Keypairs
from antipode.recover.port_plans import PortPlanner, removal_of_old_copy
from antipode.recover.recovery import resource_key
from antipode.recover.sources import PROVIDERS
from antipode.topology.losses import closed_gaps


@dataclass(frozen=True)
class Beside:
    """How a recovery is made beside the VNF's own copies, on networks of its own: neither servers
    of the same names nor addresses in use are in its way, and nothing that an earlier attempt has
    made is used.
    """

    isolate: Callable[[RecoveryPlan], RecoveryPlan]
    """puts it on networks of its own"""
    compares: bool
    """whether the content of its volumes is compared by backups that are thrown away"""


MULTIATTACH, YES = "multiattach", "<is> True"
"""The extra spec of volume types whose volumes several servers may have."""
_BEING_MADE = ("creating", "downloading", "restoring-backup")


def make_plan(point: RecoveryPoint, site: Site, beside: Beside | None = None) -> RecoveryPlan:
    """Plan the recovery of a VNF at `site` from one recovery point. Creates nothing.

    Args:
        beside: how, where it is made beside the VNF's own copies.

    Raises:
        PreflightFailed: with everything that is missing or in the way.
    """
    planner = _Planner(point, site, beside)
    plan = planner.plan()
    if planner.problems:
        raise PreflightFailed(
            f"Recovering {point.vnf.vnf} at {site.name} from {point.id}",
            list(dict.fromkeys(planner.problems)),
        )
    return plan


class _Planner:
    """What the backup site has, read once, and what is wrong with it for this recovery point."""

    def __init__(self, point: RecoveryPoint, site: Site, beside: Beside | None) -> None:
        self._findings = Findings()
        self._beside = beside
        self.problems = self._findings.problems
        self.warnings = self._findings.warnings
        self._point = point
        self._site = site
        self._map = point.vnf.map_between(point.site, site.name)
        self._flavors = by_name(site.compute.flavors())
        self._types = by_name(site.volumes.types())
        self._shared = point.topology.shared_volumes
        self._ports = PortPlanner(point, site, self._findings, beside=beside is not None)
        self._server_zones = site.compute.availability_zones()
        self._volume_zones = site.volumes.availability_zones()
        servers = site.compute.servers()
        self._servers = by_name(servers)
        if unreadable := [s["id"] for s in servers if is_unreadable(s)]:
            self.warnings.append(
                f"Nova of {site.name} shows nothing of {len(unreadable)} servers, as their cell"
                f" does not answer ({', '.join(unreadable[:3])}): a copy of a member may be among"
                " them"
            )
        self._keypairs = Keypairs(site)
        self._there: dict[str, str] = {}
        """name -> id of the servers that an earlier attempt has booted"""
        self._references: dict[str, str] = {}
        """the metadata by which servers find the data of their application"""
        self._to_be_replaced: list[str] = []
        """ids of the servers of an earlier attempt that are in ERROR"""
        self._server_groups = (
            site.compute.server_groups()
            if any(s.server_group for s in point.topology.servers)
            else []
        )

    def plan(self) -> RecoveryPlan:
        topology, vnf = self._point.topology, self._point.vnf
        for kind in self._point.kinds:
            self.problems += PROVIDERS.get(kind).check(self._point, self._site)
            self.warnings += PROVIDERS.get(kind).remarks(self._point, self._site)
        self.warnings += topology.not_carried if self._beside is None else []
        # A member may be named by id in the VNF's file; here servers go by their names.
        names = {m.server: s.name for m, s in zip(vnf.members, topology.servers, strict=True)}
        before = vnf.predecessors()
        data = (
            application_data.planned(self._point, self._site, self._findings)
            if self._beside is None
            else []
        )
        if self._beside is not None:
            self.warnings += application_data.of_a_drill(self._point)
        found_heads = heads.seen(self._point, self._site) if self._beside is None else []
        if self._point.takes_heads:
            self.warnings += heads.warnings(found_heads, self._point)
            if not found_heads:
                self.problems.append(
                    f"what has arrived of the volumes at {self._site.name} is not known now, so"
                    " nothing is promoted: plan again, or leave --newest-heads out"
                )
        self._references = {f"{DATASTORE}{d.name}": d.reference for d in data}
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
        self.warnings += self._keypairs.warnings
        self.warnings += [lost for s in topology.servers if (lost := s.without_keypair)]
        self.warnings += [moved for s in topology.servers for moved in closed_gaps(s)]
        self._warn_of_clones(servers)
        self._warn_of_user_data(servers)
        self._warn_of_addresses(servers)
        self.problems += self._unreachable(servers)
        if self._point.moments_apart_s:
            self.warnings.append(of_different_moments(self._point))
        unattached = [self._unattached(v) for v in topology.unattached]
        vip_ports = self._ports.unattached()
        floating_ips = self._ports.floating_ips()
        networks = self._ports.networks
        plan = RecoveryPlan(
            recovery_point=self._point.id,
            vnf=vnf.vnf,
            site=self._site.name,
            servers=servers,
            keypairs_to_import=self._keypairs.to_import,
            quotas=[],
            already_there=list(self._there),
            warnings=list(dict.fromkeys(self.warnings)),
            vip_ports=vip_ports,
            unattached=unattached,
            floating_ips=floating_ips,
            networks=networks.planned,
            security_groups=networks.planned_groups,
            datastores=data,
            heads=found_heads,
            takes_heads=self._point.takes_heads,
        )
        if self._beside is not None:
            plan = self._beside.isolate(plan)
        needs = self._quotas(plan)
        self.problems += [str(need) for need in needs if need.is_short]
        return plan.model_copy(update={"quotas": needs})

    def _unreachable(self, servers: Sequence[ServerPlan]) -> list[str]:
        """The members that would be restored and booted, and never be seen to answer."""
        return [
            cannot_connect(server.name)
            for server in servers
            if self._beside is None
            and server.answers is not None
            and server.answers.connects_to(self._site.name)
            and not asked_address(port.fixed for port in server.ports)
        ]

    def _quotas(self, plan: RecoveryPlan) -> list[QuotaNeed]:
        wanted = quotas.Wanted(plan.servers, plan.vip_ports, plan.networks, plan.security_groups)
        wanted = replace(wanted, unattached=plan.unattached)
        if self._beside is None:
            volumes, ports = self._site.volumes.volumes(), self._ports.there
        else:
            volumes, ports = [], []
            if self._beside.compares:
                wanted = replace(wanted, compared=quotas.comparable(self._point, plan))
        held = quotas.Held(self._there, self._flavors, ports, self._server_groups, volumes)
        return quotas.needs(self._point, self._site, wanted, held)

    def _server(self, server: Server, member: Member, after: list[str]) -> ServerPlan:
        if self._beside is None:
            self._look_for_copies(server)
        return ServerPlan(
            source_id=server.id,
            name=server.name,
            hostname=server.hostname,
            flavor=self._map.flavors.get(server.flavor.name, server.flavor.name),
            flavor_id=self._flavor(
                server.name, server.flavor, server.root_disk.size_gib if server.root_disk else 0
            ),
            availability_zone=self._zone(
                f"server {server.name}",
                self._map.server_zone(server.availability_zone) if server.availability_zone else "",
                self._server_zones,
                "Nova",
            ),
            volumes=[self._volume(a) for a in server.attachments],
            root_disk=self._root_disk(server.root_disk) if server.root_disk else None,
            ports=self._ports.of_server(server.name, server.hostname, server.ports),
            metadata={
                **server.metadata,
                **self._references,
                **_stack_of(member),
                **member_mark(self._point.vnf.vnf, member.server),
            },
            tags=server.tags,
            keypair=server.keypair and self._keypairs.planned(server.keypair),
            user_data=None if member.user_data == "drop" else server.user_data,
            drops_user_data=member.user_data == "drop",
            config_drive=server.config_drive,
            description=server.description,
            server_group=server.server_group and self._server_group(server.server_group),
            after=after,
            answers=None if server.is_off else member.answers,
            is_off=server.is_off,
            clone_of=self._point.clones.get(server.name, ""),
            scheduler_hints=server.hints_elsewhere,
            locked=server.locked,
            locked_reason=server.locked_reason,
        )

    def _look_for_copies(self, server: Server) -> None:
        """See that no other server has its name, and find the one of an earlier attempt."""
        self._must_be_gone(server)
        key = resource_key(self._point.keyed_by, server.id)
        renamed = [s for n, same in self._servers.items() if n != server.name for s in same]
        self.problems += [
            f"server {other['name']} ({other['id']}) carries {KEY} of server {server.name} in its"
            " metadata, under another name: remove that, or delete the server"
            for other in renamed
            if carries(other, key)
        ]
        for other in self._servers.get(server.name, []):
            if not carries(other, key) and is_of_another(other, self._point.vnf.vnf):
                continue  # VNFs of one project may have servers of the same names
            if not carries(other, key):
                self.problems.append(self._in_the_way(server, other))
            elif other["status"] == "ERROR":
                reason = (other.get("fault") or {}).get("message", "Nova gives no reason")
                self.warnings.append(
                    f"server {server.name} ({other['id']}), made by an earlier attempt, is in "
                    f"ERROR: {reason}; it is removed and made again"
                )
                self._to_be_replaced.append(other["id"])
            else:
                self._there[server.name] = other["id"]

    def _in_the_way(self, server: Server, other: Json) -> str:
        """That a server has the name of a member, and how that is resolved where it is a copy."""
        found = f"there is a server {server.name} already ({other['id']})"
        made_by = other["metadata"].get(RUN)
        if made_by is None and self._point.generation == 1:
            return found
        by = f", made by {made_by}" if made_by else ""
        return f"{found}{by}; {removal_of_old_copy(self._point)}"

    def _must_be_gone(self, server: Server) -> None:
        """See that the server that was captured is not at this site, under whatever name."""
        for other in (s for same in self._servers.values() for s in same):
            if other["id"] == server.id and other["name"] != server.name:
                self.problems.append(
                    f"server {other['name']} ({other['id']}) is the old copy of {server.name}"
                )

    def _warn_of_clones(self, servers: list[ServerPlan]) -> None:
        """Say who was not captured: what only they had is not there."""
        for like in dict.fromkeys(s.clone_of for s in servers if s.clone_of):
            names = ", ".join(s.name for s in servers if s.clone_of == like)
            self.warnings.append(
                f"{names} were not captured: they get the volumes of {like}, with its data and its"
                " host keys, under their own names and addresses"
            )

    def _warn_of_user_data(self, servers: list[ServerPlan]) -> None:
        """Say whose user_data runs again, unless the VNF file says that it is to."""
        members = zip(self._point.vnf.members, servers, strict=True)
        again = [s.name for m, s in members if s.user_data and m.user_data is None]
        if again:
            self.warnings.append(
                f"cloud-init takes {', '.join(again)} for new servers and runs their user_data "
                f"again; choose `user_data: keep` or `drop` in the VNF file"
            )

    def _warn_of_addresses(self, servers: list[ServerPlan]) -> None:
        """Say whose addresses change: antipode does not look into their guests."""
        changed = [s.name for s in servers if any(p.former for p in s.ports)]
        if changed:
            self.warnings.append(
                f"{', '.join(changed)} get other addresses, as `map.addresses` says: a guest that "
                "does not get its addresses by DHCP or from its configuration drive keeps the "
                "former ones, and so do configurations of the application"
            )

    def _server_group(self, group: ServerGroup) -> ServerGroup:
        here = server_groups.planned(group, self._map, self._server_groups)
        if differs := ", ".join(server_groups.differences(group, here)):
            self.warnings.append(f"server group {here.name} has another form here: {differs}")
        return here

    def _flavor(self, server: str, flavor: Flavor, root_gib: int) -> str:
        """`root_gib`: of the root disk on the hypervisor; 0 where the server has none there."""
        name = self._map.flavors.get(flavor.name, flavor.name)
        needs = (
            f"server {server} ({flavor.vcpus} VCPUs, {flavor.ram_mib} MiB, disk "
            f"{flavor.disk_gib} GiB)"
        )
        flavor_id = self._findings.one("flavor", name, self._flavors, needs)
        if flavor_id and 0 < self._flavors[name][0].get("disk", 0) < root_gib:
            self.problems.append(
                f"flavor {name} has a disk of {self._flavors[name][0]['disk']} GiB, and the root "
                f"disk of server {server} has {root_gib} GiB"
            )
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
        source = self._point.source_of(volume.id)
        label = f"volume {volume.name or volume.id}"
        kind = self._map.volume_types.get(volume.volume_type, volume.volume_type)
        if kind:
            self._findings.one("volume type", kind, self._types, label)
        if volume.multiattach:
            self._must_be_sharable(volume, kind, label)
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
            bootable=volume.bootable,
            delete_on_termination=attachment.delete_on_termination,
            tag=attachment.tag,
            way=PROVIDERS.get(source.kind).way(source, self._site),
        )

    def _unattached(self, volume: Volume) -> VolumePlan:
        """A volume of no server: it is known by its name, which no other may have."""
        if self._beside is None:
            key = resource_key(self._point.keyed_by, volume.id)
            for other in self._site.volumes.volumes():
                if is_throw_away(other):  # of a verification, under the name of the captured one
                    continue
                if other["name"] != volume.name or key in keys_of(other):
                    continue
                if _is_abandoned(other, volume.id):
                    self.warnings.append(
                        f"volume {volume.name} ({other['id']}), made by an earlier attempt from"
                        f" another recovery point, is {other['status']}, and is there, too, until"
                        " that is over; then delete it, if antipode has not"
                    )
                else:
                    self.problems.append(
                        f"there is a volume {volume.name} already ({other['id']}), and the VNF has"
                        " one of this name that is attached to no server; rename or delete it"
                    )
        return self._volume(Attachment(volume=volume, device="", is_root=False))

    def _must_be_sharable(self, volume: Volume, kind: str, label: str) -> None:
        """See that a volume of several servers, or one that may be, can be so here, too: its type
        decides that.
        """
        found = self._types.get(kind, [])
        if not kind or any(t.get("extra_specs", {}).get(MULTIATTACH) == YES for t in found):
            return
        needs = f'{label}: volume type {kind} has no extra spec {MULTIATTACH}="{YES}" here'
        if volume.id in self._shared:
            self.problems.append(
                f"{needs}, so only one of its servers could have it; map the type to one that has"
            )
        else:
            self.warnings.append(f"{needs}, so it cannot be attached to a second server")

    def _root_disk(self, disk: Volume) -> VolumePlan:
        source = self._point.source_of(disk.id)
        return VolumePlan(
            source_id=disk.id,
            source_kind=source.kind,
            source_reference=source.reference,
            name=disk.name,
            description="",
            size_gib=disk.size_gib,
            volume_type="",
            availability_zone=None,
            metadata={},
            image_metadata={},
            is_root=True,
            bootable=True,
            delete_on_termination=True,
            tag=None,
            way=PROVIDERS.get(source.kind).way(source, self._site),
        )


def _is_abandoned(found: Json, source_id: str) -> bool:
    """Whether a volume is being restored for an attempt that was given up: nothing can delete it
    before that is over, and no recovery waits for that.
    """
    keys = keys_of(found)
    return found["status"] in _BEING_MADE and any(k.endswith(f"/{source_id}") for k in keys)


def of_different_moments(point: RecoveryPoint) -> str:
    """How far the members of a point are apart, and what that means, in a sentence or two."""
    moments = sorted(point.moments.items(), key=lambda item: datetime.fromisoformat(item[1]))
    each = ", ".join(f"{server} at {at}" for server, at in moments)
    from_images = any(s.root_disk for s in point.topology.servers)  # option 1 takes no such VNF
    other = "" if from_images else ". A point of option quiesced-snapshot has one moment for all"
    return (
        f"the members are of different moments, up to {point.moments_apart_s:.1f} s apart ({each}):"
        f" a transaction over several members may be in one of them only{other}"
    )


def _stack_of(member: Member) -> dict[str, str]:
    """The metadata by which a member of a stack is selected again: Heat does not know its copy."""
    stack = member.select.stack if member.select else None
    return {STACK: stack} if stack else {}


def _differences(flavor: Flavor, here: Json) -> Iterator[str]:
    """In which respects the flavor of the backup site differs from the one that a server had."""
    sizes = (
        ("VCPUs", flavor.vcpus, here["vcpus"]),
        ("RAM in MiB", flavor.ram_mib, here["ram"]),
        ("disk in GiB", flavor.disk_gib, here.get("disk")),
        ("swap in MiB", flavor.swap_mib, here.get("swap")),
        ("ephemeral disk in GiB", flavor.ephemeral_gib, here.get("OS-FLV-EXT-DATA:ephemeral")),
    )
    for what, was, now in sizes:
        if None not in (was, now) and was != now:
            yield f"{what} {now} instead of {was}"
    specs = here.get("extra_specs", flavor.extra_specs)  # a policy may hide them
    for name in sorted({*specs, *flavor.extra_specs}):
        if specs.get(name) != flavor.extra_specs.get(name):
            before, here_now = (s.get(name, "not set") for s in (flavor.extra_specs, specs))
            yield f"extra spec {name} {here_now} instead of {before}"
