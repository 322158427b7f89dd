# SPDX-License-Identifier: Apache-2.0
"""The example VNF, created through OpenStack's APIs, whatever cloud answers them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from antipode.sandbox.members import MEMBERS, NAME, TENANTS, Member

FLAVOR = "tiny"
SECURITY_GROUP = NAME
GIB = 1
"""the size of each volume"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFudGlwb2RlLXNhbmRib3gtY2FuYXJ5LW5vLXNlY3Jl canary"
"""A public key to be carried to the other site. Its private half does not exist: the guests have
no SSH server.
"""


@dataclass(frozen=True)
class Creation:
    """How the VNF is created at one site; what of it exists already is used."""

    cloud: Any
    """an openstacksdk connection of the VNF's owner"""
    site: str
    image: str
    """the name of the guest image"""
    period_ms: int
    """how often the head of the chain makes a record"""
    start: Callable[[Any], object]
    """has a server that exists run again, if it does not run"""
    patience_s: float
    """for one resource to become usable"""
    interval_s: float
    """between two looks at a resource"""
    members: Sequence[Member] = MEMBERS
    network: str | None = None
    """the name of the members' network, where it is not the tenant's own"""

    def run(self) -> dict[str, str]:
        """Create what is missing, and return the id of each member's server, by its own name or its
        role, when all are ACTIVE.

        Raises:
            openstack.exceptions.SDKException: a resource is in error, or not usable in time.
        """
        if not self.cloud.compute.find_keypair(NAME):
            self.cloud.compute.create_keypair(name=NAME, public_key=KEY)
        group = self._group()
        there = {server.name: server for server in self.cloud.compute.servers()}

        def ensure(member: Member) -> str:
            return self._server(member, there.get(member.server), group)

        with ThreadPoolExecutor(len(self.members)) as pool:
            names = [member.name or member.role for member in self.members]
            return dict(zip(names, pool.map(ensure, self.members), strict=True))

    def _group(self) -> str:
        """The members' group, which every recovery has to bring back; soft, as a site has one
        host.
        """
        compute = self.cloud.compute
        found = next((group for group in compute.server_groups() if group.name == NAME), None)
        return str(
            (found or compute.create_server_group(name=NAME, policy="soft-anti-affinity")).id
        )

    def _server(self, member: Member, server: Any, group: str) -> str:
        if server is None:
            image = self.cloud.image.find_image(self.image, ignore_missing=False).id
            volumes = self._volumes(member, image)
            root = image if member.boots_from_image else None
            server = self._create_server(member, self._port(member), _disks(volumes, root), group)
        else:
            self.start(server)
        self.cloud.compute.wait_for_server(server, interval=self.interval_s, wait=self.patience_s)
        return str(server.id)

    def _port(self, member: Member) -> str:
        network = self.cloud.network
        port = next(iter(network.ports(name=member.port)), None)
        if not port:
            name = self.network or TENANTS[self.site].network
            port = network.create_port(
                name=member.port,
                network_id=network.find_network(name, ignore_missing=False).id,
                fixed_ips=[{"ip_address": member.address}],
                security_group_ids=[
                    network.find_security_group(SECURITY_GROUP, ignore_missing=False).id
                ],
            )
        return str(port.id)

    def _volumes(self, member: Member, image: str) -> Sequence[str]:
        """The root volume, of a member that has one, and the data volume, both available."""
        data_type = TENANTS[self.site].volume_type
        volumes = [self._volume(f"{member.server}-data", volume_type=data_type)]
        if not member.boots_from_image:
            volumes.insert(0, self._volume(f"{member.server}-root", image_id=image))
        for volume in volumes:
            self.cloud.block_storage.wait_for_status(
                volume, "available", ["error"], interval=self.interval_s, wait=self.patience_s
            )
        return [str(volume.id) for volume in volumes]

    def _volume(self, name: str, **options: str) -> Any:
        storage = self.cloud.block_storage
        found = next(iter(storage.volumes(name=name)), None)
        return found or storage.create_volume(name=name, size=GIB, **options)

    def _create_server(
        self, member: Member, port: str, disks: Sequence[dict[str, Any]], group: str
    ) -> Any:
        compute = self.cloud.compute
        image = {"image_id": disks[0]["uuid"]} if member.boots_from_image else {}
        return compute.create_server(
            name=member.server,
            flavor_id=compute.find_flavor(FLAVOR, ignore_missing=False).id,
            networks=[{"port": port}],
            block_device_mapping=list(disks),
            **image,
            config_drive=True,
            user_data=base64.b64encode(member.user_data(self.period_ms).encode()).decode(),
            metadata={"vnf": NAME, "role": member.role},
            key_name=NAME,
            scheduler_hints={"group": group},
        )


def _disks(volumes: Sequence[str], image: str | None) -> list[dict[str, Any]]:
    """The disks of a server as Nova wants them, the root first: on the hypervisor where an image is
    given.
    """
    disks: list[dict[str, Any]] = [
        {
            "uuid": volume,
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": -1,
            "delete_on_termination": False,
        }
        for volume in volumes
    ]
    if image is not None:
        local = {"source_type": "image", "destination_type": "local"}
        disks.insert(0, {"uuid": image, **local, "delete_on_termination": True})
    disks[0]["boot_index"] = 0
    return disks
