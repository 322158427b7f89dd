# SPDX-License-Identifier: Apache-2.0
"""The plan of a recovery: every name of the primary translated to what the backup site has, made
before anything is created.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from antipode.model.base import Model
from antipode.model.datastore import Health
from antipode.model.dns import DnsChange
from antipode.model.probe import asked_address
from antipode.model.quota import QuotaNeed
from antipode.model.runbook import PlannedStep
from antipode.model.source import OF_HEADS
from antipode.model.topology import Keypair, ServerGroup, all_ports
from antipode.model.vnf import Answers


class RestoreWay(Model):
    """How the bytes of a volume are brought back, and why so."""

    sparse: bool = False
    """whether zeros are skipped: the volume is created from its source; else it is created blank,
    and everything is written into it
    """
    why: str = ""

    def __str__(self) -> str:
        how = "zeros are skipped" if self.sparse else "written whole, with its zeros"
        return f"{how} ({self.why})" if self.why else how


class VolumePlan(Model):
    """A volume to be restored.

    The list in `ServerPlan.volumes` has the order of the devices, the root volume first.
    """

    source_id: str
    """id of the volume at the primary"""
    source_kind: str
    """the kind of its source in the recovery point"""
    source_reference: str
    """that which is restored, for people: the id of a backup"""
    name: str
    description: str
    size_gib: int
    volume_type: str
    availability_zone: str | None
    """None leaves the choice to the site"""
    metadata: dict[str, str]
    image_metadata: dict[str, str]
    is_root: bool
    delete_on_termination: bool
    tag: str | None
    way: RestoreWay = RestoreWay()
    bootable: bool = False

    @property
    def label(self) -> str:
        """Its name; its id at the former site when it has none."""
        return self.name or self.source_id


_STAND_IN = "new:"


def stand_in(source_id: str) -> str:
    """The placeholder in a plan for the id of a network, subnet or security group to be created.

    Args:
        source_id: its id at the former site.
    """
    return f"{_STAND_IN}{source_id}"


def is_stand_in(resource_id: str) -> bool:
    """Whether this is no id, but stands for one that is not known yet."""
    return resource_id.startswith(_STAND_IN)


class SubnetPlan(Model):
    """A subnet of a network that is created."""

    subnet_id: str
    """its id, where an earlier attempt has made it; else a stand-in"""
    attributes: dict[str, Any]
    """as for `POST /subnets`, without its network, and without DHCP"""
    tags: list[str] = []
    serves_addresses: bool
    """whether DHCP is switched on, once the ports of the VNF have their addresses"""


class NetworkPlan(Model):
    """A network that ports of the VNF are going to be on."""

    source_id: str
    """id of the network at the former site"""
    former: str
    """its name there"""
    name: str
    network_id: str
    """a stand-in, where it does not exist yet"""
    is_created: bool
    """False: it is one of the backup site"""
    changes: list[str] = []
    """in which respects it differs from the one at the former site"""
    description: str = ""
    attributes: dict[str, Any] = {}
    """of one that is created, as for `POST /networks`"""
    tags: list[str] = []
    subnets: list[SubnetPlan] = []


class SecurityGroupPlan(Model):
    """A security group that ports of the VNF, or rules of such groups, are going to name."""

    source_id: str
    former: str
    name: str
    group_id: str
    """a stand-in, where it does not exist yet"""
    is_created: bool
    changes: list[str] = []
    description: str = ""
    attributes: dict[str, Any] = {}
    """of one that is created, as for `POST /security-groups`"""
    tags: list[str] = []
    rules: list[dict[str, Any]] = []
    """as for `POST /security-group-rules`, without the group; a group that a rule is about may be a
    stand-in
    """


class PortPlan(Model):
    """A port to be created. The list in `ServerPlan.ports` has the order of the interfaces."""

    source_id: str
    """id of the port at the primary"""
    name: str
    network: str
    network_id: str
    """as the ids of its subnets and security groups, a stand-in where a plan creates it"""
    mac_address: str
    """empty where the port gets that of its device"""
    fixed: dict[str, str]
    """address -> id of its subnet"""
    former: dict[str, str] = {}
    """address -> the one at the former site, where it has changed"""
    security_group_ids: list[str]
    allowed_address_pairs: list[dict[str, str]]
    port_security_enabled: bool | None
    """None where Neutron has no port security"""
    vnic_type: str
    device_tag: str | None
    tags: list[str]
    description: str = ""
    attributes: dict[str, Any] = {}
    """more of it, as for `POST /ports`"""
    dns_name: str = ""
    """given when its server is ACTIVE: Nova boots none with another name than its hostname"""
    binding_profile: dict[str, Any] = {}
    """given where the policy of Neutron allows it"""
    trunk: TrunkPlan | None = None

    @property
    def with_subports(self) -> list[PortPlan]:
        """The port, and those of its trunk."""
        return [self, *(s.port for s in (self.trunk.subports if self.trunk else []))]

    def placed(self, ids: Mapping[str, str]) -> PortPlan:
        """The same with the ids of what has been created in the place of stand-ins, the ports of
        its trunk included.
        """
        trunk = self.trunk and self.trunk.model_copy(
            update={
                "subports": [
                    s.model_copy(update={"port": s.port.placed(ids)}) for s in self.trunk.subports
                ]
            }
        )
        return self.model_copy(
            update={
                "network_id": ids.get(self.network_id, self.network_id),
                "fixed": {a: ids.get(s, s) for a, s in self.fixed.items()},
                "security_group_ids": [ids.get(g, g) for g in self.security_group_ids],
                "trunk": trunk,
            }
        )

    @property
    def label(self) -> str:
        """As messages name it."""
        name = self.name or ", ".join(self.fixed) or self.mac_address or "without address"
        return f"port {name} on network {self.network}"


class SubportPlan(Model):
    port: PortPlan
    segmentation_type: str
    segmentation_id: int


class TrunkPlan(Model):
    """The trunk of which a port is going to be the parent."""

    name: str
    description: str
    admin_state_up: bool
    tags: list[str]
    subports: list[SubportPlan]


class FloatingIpPlan(Model):
    """A floating IP of the backup site that is going to lead to a port."""

    former: str
    """the address at the former site"""
    address: str
    floating_ip_id: str
    source_port: str
    """id of the port at the former site"""
    fixed_address: str


class ServerPlan(Model):
    """A server to be booted from its restored volumes."""

    source_id: str
    """id of the server at the primary"""
    name: str
    called: str = ""
    """what Nova calls it, where that is not its name"""
    hostname: str
    flavor: str
    flavor_id: str
    availability_zone: str | None
    volumes: list[VolumePlan]
    ports: list[PortPlan]
    metadata: dict[str, str]
    tags: list[str]
    keypair: Keypair | None
    user_data: str | None
    config_drive: bool
    description: str | None
    server_group: ServerGroup | None
    after: list[str]
    """names of the servers that must be there before this one is booted"""
    answers: Answers | None
    drops_user_data: bool = False
    """whether it is to come back without the user_data it had"""
    is_off: bool = False
    """whether it is switched off in the end, as it was"""
    scheduler_hints: dict[str, list[str]] = {}
    """for Nova, beside that of its group"""
    locked: bool = False
    locked_reason: str | None = None
    clone_of: str = ""
    """the member from whose volumes it is recovered, as it was not captured"""
    root_disk: VolumePlan | None = None
    """on the hypervisor: the server boots from an image, and from none of its volumes"""

    @property
    def disks(self) -> list[VolumePlan]:
        """Its volumes, and before them its root disk on the hypervisor, if it has one."""
        return [*([self.root_disk] if self.root_disk else []), *self.volumes]

    @property
    def is_moved(self) -> bool:
        """Whether the address that is probed is not the one of the copy at the former site."""
        asked = asked_address(port.fixed for port in self.ports)
        return any(asked in port.former for port in self.ports)


class DataPlan(Model):
    """Data that the application replicates by itself, and is to be used at the recovering site."""

    name: str
    """of the datastore"""
    storage: str
    position: str
    """that the recovery point has: the data is used only if it has reached that"""
    reference: str
    """by what the members find it at this site"""
    promotes: bool
    """whether it is promoted: False where it is writable at each site"""
    found: str = ""
    """how it was when the plan was made, for people"""

    def __str__(self) -> str:
        how = "promoted" if self.promotes else "used as it is"
        return (
            f"datastore {self.name} ({self.found}): {how} before any member boots, found at"
            f" {self.reference}"
        )


class HeadPlan(Model):
    """The newest data that has arrived of a replicated volume at the recovering site."""

    volume: str
    """its name"""
    storage: str
    image: str
    """the volume as its storage calls it"""
    state: str
    """of the recovery point; where heads are taken, that which is kept of the promoted replica"""
    health: Health
    lag_s: Annotated[float, Field(ge=0)] | None = None
    """how old it was when its storage last looked, in seconds; None where it does not say"""

    @property
    def behind(self) -> str:
        """In words."""
        return "unknown" if self.lag_s is None else f"{self.lag_s:g} s"


class RecoveryPlan(Model):
    """What a recovery is going to create at a site.

    `servers` in the order of the members of the VNF.
    """

    recovery_point: str
    vnf: str
    site: str
    servers: list[ServerPlan]
    keypairs_to_import: list[Keypair] = []
    quotas: list[QuotaNeed] = []
    already_there: list[str] = []
    """names of servers that an earlier attempt with the same recovery point has created"""
    left_behind: dict[str, str] = {}
    """id -> name of the servers at the former site that are not made again here"""
    warnings: list[str] = []
    vip_ports: list[PortPlan] = []
    """those that belong to no server"""
    unattached: list[VolumePlan] = []
    """volumes of no server"""
    floating_ips: list[FloatingIpPlan] = []
    networks: list[NetworkPlan] = []
    security_groups: list[SecurityGroupPlan] = []
    dns: list[DnsChange] = []
    """records that are switched once all servers are there"""
    steps: list[PlannedStep] = []
    """of the runbook, in the order of the VNF file"""
    datastores: list[DataPlan] = []
    """the data of the application"""
    heads: list[HeadPlan] = []
    """the newest that has arrived of replicated volumes, as far as that is known"""
    takes_heads: bool = False
    """whether these are taken, and not the states of the recovery point"""
    verb: str = "failover"
    """that it was made for"""

    @property
    def keyed_by(self) -> str:
        """What the keys of what it creates begin with: heads are never taken for states."""
        return f"{self.recovery_point}{OF_HEADS if self.takes_heads else ''}"

    @property
    def creates_networks(self) -> bool:
        """Whether it creates networks or security groups."""
        return any(n.is_created for n in self.networks) or any(
            g.is_created for g in self.security_groups
        )

    @property
    def ports(self) -> list[PortPlan]:
        """All ports, those of trunks and of no server included."""
        return all_ports(self.servers, self.vip_ports)

    @property
    def volumes(self) -> list[VolumePlan]:
        """All volumes, those of no server last; one that several servers get is there once."""
        found: dict[str, VolumePlan] = {}
        for volume in (v for s in self.servers for v in s.volumes):
            found.setdefault(volume.source_id, volume)
        return [*found.values(), *self.unattached]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the sources of all volumes and root disks."""
        disks = [*(v for s in self.servers for v in s.disks), *self.unattached]
        return sorted({v.source_kind for v in disks})

    def first_of(self, server: str) -> list[VolumePlan]:
        """The disks of a server that none before it gets, too: those that come with it."""
        before = {v.source_id for s in self._before(server) for v in s.volumes}
        return [v for v in self.server(server).disks if v.source_id not in before]

    def shared_of(self, server: str) -> list[VolumePlan]:
        """The volumes of a server that others get, too."""
        others = {v.source_id for s in self.servers if s.name != server for v in s.volumes}
        return [v for v in self.server(server).volumes if v.source_id in others]

    def sharing_before(self, server: str) -> list[str]:
        """The servers before this one in the list that get one of its volumes."""
        shared = {v.source_id for v in self.shared_of(server)}
        return [
            s.name for s in self._before(server) if any(v.source_id in shared for v in s.volumes)
        ]

    def _before(self, server: str) -> list[ServerPlan]:
        names = [s.name for s in self.servers]
        return self.servers[: names.index(server)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which programs find the data: `ANTIPODE_DATASTORE_<NAME>`."""
        return {
            f"ANTIPODE_DATASTORE_{re.sub(r'[^A-Z0-9]', '_', data.name.upper())}": data.reference
            for data in self.datastores
        }

    def words(self) -> list[str]:
        """What it is going to do, in short; a line each."""
        return [
            f"from recovery point {self.recovery_point}",
            *(
                f"server {s.name}, {len(s.volumes)} volumes"
                f"{f', a clone of {s.clone_of}' if s.clone_of else ''}"
                for s in self.servers
            ),
            *(f"volume {volume.label}, of no server" for volume in self.unattached),
            *(
                f"the newest data of volume {head.volume}, whose replica is promoted"
                for head in self.heads
                if self.takes_heads
            ),
            *(str(data) for data in self.datastores),
            *(f"runbook step {step}" for step in self.steps),
            *(str(change) for change in self.dns),
        ]

    def server(self, name: str) -> ServerPlan:
        return next(s for s in self.servers if s.name == name)

    def all_before(self, name: str) -> set[str]:
        """The servers that must be there before this one is booted, those that they wait for
        included.
        """
        found: set[str] = set()
        unseen = {name}
        while unseen:
            unseen = set(self.server(unseen.pop()).after) - found | unseen
            found |= unseen
        return found
