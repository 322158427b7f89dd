# SPDX-License-Identifier: Apache-2.0
"""The topology of a VNF: everything about its servers, volumes and ports that is needed to build
them again elsewhere.
"""

from __future__ import annotations

from antipode.model.base import Model


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
    """the volume's name in the backend as far as the API tells (os-vol-mig-status-attr:name_id,
    provider_id)
    """

    @property
    def backend_reference(self) -> str | None:
        """Where the volume really is in the storage, as far as the API tells."""
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


class FixedAddress(Model):
    address: str
    subnet_cidr: str
    subnet_name: str


class Port(Model):
    """A port of a server; the list in `Server.ports` has the order of the interfaces."""

    id: str
    name: str
    network: str
    """name of the network at the primary"""
    mac_address: str
    fixed: list[FixedAddress]
    security_groups: list[str] = []
    """names"""
    allowed_address_pairs: list[dict[str, str]] = []
    port_security_enabled: bool = True
    vnic_type: str = "normal"
    device_tag: str | None = None
    tags: list[str] = []


class Flavor(Model):
    """What is known of the flavor, so that a missing one can be described to the operator."""

    name: str
    vcpus: int
    ram_mib: int
    disk_gib: int
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


class Server(Model):
    id: str
    name: str
    hostname: str
    flavor: Flavor
    attachments: list[Attachment]
    ports: list[Port]
    metadata: dict[str, str] = {}
    tags: list[str] = []
    keypair: Keypair | None = None
    user_data: str | None = None
    """base64, as Nova keeps it"""
    config_drive: bool = False
    description: str | None = None
    availability_zone: str = ""
    server_group: ServerGroup | None = None

    @property
    def volumes(self) -> list[Volume]:
        return [a.volume for a in self.attachments]


class Topology(Model):
    """A VNF as it was found at a site at one moment; `servers` in the order of the members of its
    file.
    """

    vnf: str
    site: str
    discovered_at: str
    """RFC 3339, UTC"""
    servers: list[Server]

    @property
    def volumes(self) -> list[Volume]:
        return [v for s in self.servers for v in s.volumes]

    def server(self, name: str) -> Server:
        return next(s for s in self.servers if s.name == name)
