# SPDX-License-Identifier: Apache-2.0
"""The topology of a VNF: everything about its servers, volumes and ports that is needed to build
them again elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from antipode.model.base import Model
from antipode.model.reference import BackendReference


class Parent(Protocol):
    """A port that may have a trunk: one that was found, or one that is planned."""

    @property
    def with_subports(self) -> list[Self]: ...


AnyPort = TypeVar("AnyPort", bound=Parent)
PortOfServer = TypeVar("PortOfServer", bound=Parent, covariant=True)


class Owner(Protocol[PortOfServer]):
    """A server with ports, found or planned."""

    @property
    def ports(self) -> Sequence[PortOfServer]: ...


def all_ports(servers: Iterable[Owner[AnyPort]], vip_ports: Iterable[AnyPort]) -> list[AnyPort]:
    """All ports of a VNF, those of trunks and of no server included."""
    parents = [*(p for s in servers for p in s.ports), *vip_ports]
    return [p for parent in parents for p in parent.with_subports]


class Volume(Model):
    id: str
    name: str
    size_gib: int
    volume_type: str
    bootable: bool
    encrypted: bool = False
    multiattach: bool = False
    availability_zone: str = ""
    description: str = ""
    metadata: dict[str, str] = {}
    image_metadata: dict[str, str] = {}
    backend_host: str | None = None
    """os-vol-host-attr:host, the backend that holds the volume"""
    backend_name: str | None = None
    """the volume's name in the backend; in points before 2.2 its provider_id or name_id"""
    backend: BackendReference | None = None
    """what the storage really calls it; None in such points, and of a disk that is no volume"""

    @property
    def backend_reference(self) -> str | None:
        """The real reference on one line; None where nothing is known of it."""
        if self.backend is not None:
            return str(self.backend)
        return "/".join(p for p in (self.backend_host, self.backend_name) if p) or None


class Attachment(Model):
    """A volume of a server; the list in `Server.attachments` has the order of the devices, the root
    volume first.
    """

    volume: Volume
    device: str
    is_root: bool
    delete_on_termination: bool = False
    tag: str | None = None


class Subnet(Model):
    """A range of addresses of a network, and what its DHCP gives out."""

    id: str
    name: str
    cidr: str
    ip_version: int
    gateway_ip: str | None
    enable_dhcp: bool
    dns_nameservers: list[str] = []
    host_routes: list[dict[str, str]] = []
    """each {destination, nexthop}"""
    allocation_pools: list[dict[str, str]] = []
    """each {start, end}"""
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None
    service_types: list[str] = []
    description: str = ""
    tags: list[str] = []
    has_router: bool = False
    """whether a router has an interface in it"""


class Network(Model):
    """A network with ports of the VNF."""

    id: str
    name: str
    subnets: list[Subnet]
    description: str = ""
    tags: list[str] = []
    admin_state_up: bool = True
    mtu: int | None = None
    port_security_enabled: bool | None = None
    """of its ports, where they do not say otherwise; None where Neutron has no port security"""
    dns_domain: str = ""
    qos_policy: str | None = None
    """name"""
    vlan_transparent: bool = False
    shared: bool = False
    is_own: bool = True
    """whether it belongs to the project of the VNF"""
    provider: dict[str, Any] = {}
    """network_type, physical_network and segmentation_id, where an administrator was shown them"""


class SecurityGroupRule(Model):
    direction: str
    ethertype: str
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group: str | None = None
    """id of the group whose ports it is about"""
    description: str = ""


class SecurityGroup(Model):
    """A security group of ports of the VNF, or one that a rule of such a group is about."""

    id: str
    name: str
    rules: list[SecurityGroupRule]
    description: str = ""
    tags: list[str] = []
    stateful: bool = True
    is_own: bool = True
    """whether it belongs to the project of the VNF"""


class FixedAddress(Model):
    address: str
    subnet_cidr: str
    subnet_name: str


class DhcpOption(Model):
    """An option that the network's DHCP gives a port beside the usual ones."""

    name: str
    value: str
    ip_version: int = 4


class Port(Model):
    """A port of a server, of a trunk, or of no server; the list in `Server.ports` has the order of
    the interfaces.
    """

    id: str
    name: str
    network: str
    """name of the network at the primary"""
    network_id: str = ""
    """its id there; empty in a point of antipode before 0.2"""
    mac_address: str
    fixed: list[FixedAddress]
    security_groups: list[str] = []
    """names"""
    allowed_address_pairs: list[dict[str, str]] = []
    port_security_enabled: bool = True
    vnic_type: str = "normal"
    device_tag: str | None = None
    tags: list[str] = []
    description: str = ""
    admin_state_up: bool = True
    device_owner: str = ""
    """of a port that belongs to no server, as its owner has set it"""
    dhcp_options: list[DhcpOption] = []
    dns_name: str = ""
    """empty where it is the hostname of its server, as Nova writes it"""
    dns_domain: str = ""
    qos_policy: str | None = None
    """name"""
    numa_affinity_policy: str | None = None
    propagate_uplink_status: bool | None = None
    binding_profile: dict[str, Any] = {}
    """that part which its owner has set, and not the hypervisor"""
    trunk: Trunk | None = None

    @property
    def with_subports(self) -> list[Port]:
        """The port, and those of its trunk."""
        return [self, *(s.port for s in (self.trunk.subports if self.trunk else []))]


class Subport(Model):
    """A port whose traffic comes through a trunk, tagged."""

    port: Port
    segmentation_type: str
    segmentation_id: int


class Trunk(Model):
    """The trunk of which a port is the parent."""

    name: str
    description: str = ""
    admin_state_up: bool = True
    tags: list[str] = []
    subports: list[Subport]


class FloatingIp(Model):
    """A floating IP that leads to an address of a port of the VNF."""

    address: str
    fixed_address: str
    port: str
    """id of the port"""
    description: str = ""


class Flavor(Model):
    """What is known of the flavor, so that a missing one can be described to the operator."""

    name: str
    vcpus: int
    ram_mib: int
    disk_gib: int
    swap_mib: int | None = None
    ephemeral_gib: int | None = None
    """these two are disks of the server, too; None where it is unknown, as in older points"""
    extra_specs: dict[str, str] = {}


class Keypair(Model):
    name: str
    public_key: str
    type: str = "ssh"


class ServerGroup(Model):
    name: str
    policy: str
    rules: dict[str, int] = {}
    """as Nova has them: `max_server_per_host` of an anti-affinity group"""


HINTS_OF_A_SITE = frozenset(
    {"build_near_host_ip", "cidr", "different_host", "query", "same_host", "target_cell"}
)
"""The scheduler hints that name hosts, cells or servers of one site."""


class Server(Model):
    id: str
    name: str
    hostname: str
    flavor: Flavor
    attachments: list[Attachment]
    ports: list[Port]
    root_disk: Volume | None = None
    """the disk on the hypervisor of a server that boots from an image; it is none of Cinder's"""
    metadata: dict[str, str] = {}
    tags: list[str] = []
    keypair: Keypair | None = None
    keypair_gone: str | None = None
    """the name of the keypair that it was created with, where that is gone from Nova since"""
    user_data: str | None = None
    """base64, as Nova keeps it"""
    config_drive: bool = False
    description: str | None = None
    availability_zone: str = ""
    server_group: ServerGroup | None = None
    scheduler_hints: dict[str, list[str]] = {}
    """those that it was created with, but for its group; none where Nova does not tell them (before
    2.100)
    """
    interfaces_in_order: bool = True
    """whether the order of the ports is known"""
    is_off: bool = False
    locked: bool = False
    locked_reason: str | None = None

    @property
    def without_keypair(self) -> str | None:
        """That it comes back without a keypair, though it was created with one, in a sentence."""
        if self.keypair_gone is None:
            return None
        return (
            f"server {self.name}: its keypair {self.keypair_gone} is gone from Nova, so it comes"
            " back without one; its disks keep the key where its guest has written it there"
        )

    @property
    def hints_elsewhere(self) -> dict[str, list[str]]:
        """The scheduler hints that mean something at another site, too."""
        return {n: v for n, v in self.scheduler_hints.items() if n not in HINTS_OF_A_SITE}

    @property
    def volumes(self) -> list[Volume]:
        return [a.volume for a in self.attachments]

    @property
    def disks(self) -> list[Volume]:
        """Its volumes, and before them its root disk on the hypervisor, if it has one."""
        return [*([self.root_disk] if self.root_disk else []), *self.volumes]


class Topology(Model):
    """A VNF as it was found at a site at one moment; `servers` in the order of the members of its
    file.
    """

    vnf: str
    site: str
    discovered_at: str
    """RFC 3339, UTC"""
    servers: list[Server]
    vip_ports: list[Port] = []
    """those that belong to no server"""
    unattached: list[Volume] = []
    """volumes of no server"""
    floating_ips: list[FloatingIp] = []
    networks: list[Network] = []
    """those that its ports are on; none in a point of antipode before 0.2"""
    security_groups: list[SecurityGroup] = []
    """those of its ports, and those that their rules are about"""
    not_carried: list[str] = []
    """what is seen at the site and does not come back; a sentence for each"""

    @property
    def ports(self) -> list[Port]:
        """All ports, those of trunks and of no server included."""
        return all_ports(self.servers, self.vip_ports)

    @property
    def volumes(self) -> list[Volume]:
        """All volumes, those of no server last; one that several servers have is there once."""
        of_servers = {v.id: v for s in self.servers for v in s.volumes}
        return [*of_servers.values(), *self.unattached]

    @property
    def disks(self) -> list[Volume]:
        """All volumes, and the root disks on hypervisors."""
        of_servers = {d.id: d for s in self.servers for d in s.disks}
        return [*of_servers.values(), *self.unattached]

    @property
    def shared_volumes(self) -> dict[str, list[Server]]:
        """Id of each volume that several servers have -> these, in their order."""
        having: dict[str, list[Server]] = {}
        for server in self.servers:
            for volume in server.volumes:
                having.setdefault(volume.id, []).append(server)
        return {volume: servers for volume, servers in having.items() if len(servers) > 1}

    @property
    def networks_by_name(self) -> dict[str, set[str]]:
        """Name of a network with ports of the VNF -> the ids of all of that name."""
        found: dict[str, set[str]] = {}
        for port in self.ports:
            if port.network_id:
                found.setdefault(port.network, set()).add(port.network_id)
        return found

    @property
    def groups_by_name(self) -> dict[str, set[str]]:
        """Name of a security group of ports -> the ids of all of that name that are known."""
        names = {name for port in self.ports for name in port.security_groups}
        return {n: {g.id for g in self.security_groups if g.name == n} for n in names}

    def server(self, name: str) -> Server:
        return next(s for s in self.servers if s.name == name)

    def with_on(self, ids: Collection[str]) -> Topology:
        """The same, with these servers on, by id: they were off for a moment only."""
        servers = [
            s.model_copy(update={"is_off": False}) if s.id in ids else s for s in self.servers
        ]
        return self.model_copy(update={"servers": servers})
