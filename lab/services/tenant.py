# SPDX-License-Identifier: Apache-2.0
"""The resources of a site's tenant that precede its VNF: quotas, flavor, volume types, network,
security group and, at site-a, the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antipode.sandbox.creation import FLAVOR, SECURITY_GROUP
from antipode.sandbox.members import TENANTS
from lab.service import Service
from lab.services import identity
from lab.services.cinder import BACKEND
from lab.site import Site

PROJECT = "vnf"
USER = "demo"
CIDR = "10.7.0.0/24"
POOL = {"start": "10.7.0.200", "end": "10.7.0.250"}
"""Where Neutron may choose: away from the VNF's fixed addresses, or its DHCP server sits on one of
them once in a while.
"""


class Tenant(Service):
    name = "tenant"
    after = ("nova-compute", "neutron-agents", "cinder-storage", "glance")

    def populate(self, site: Site) -> None:
        names = TENANTS[site.name]
        admin = identity.connect(site)
        _raise_quotas(admin)
        if not admin.compute.find_flavor(FLAVOR):
            admin.compute.create_flavor(name=FLAVOR, ram=192, vcpus=1, disk=0)
        for volume_type in (BACKEND, names.volume_type):
            if not admin.block_storage.find_type(volume_type):
                admin.block_storage.create_type(
                    name=volume_type, extra_specs={"volume_backend_name": BACKEND}
                )
        if names.has_image:
            upload_image(admin)
        demo = identity.connect(site, USER, PROJECT)
        make_network(demo, names.network, cidr=CIDR, allocation_pools=[POOL], gateway_ip=None)
        _make_security_group(demo)


def _raise_quotas(admin: Any) -> None:
    """By the API: Cinder prefers the rows of its default quota class to cinder.conf."""
    project = admin.identity.find_project(PROJECT, ignore_missing=False).id
    volumes = {
        "volumes": 500,
        "snapshots": 2000,
        "backups": 2000,
        "gigabytes": 20000,
        "backup_gigabytes": 20000,
        "groups": 200,
    }
    _put(admin.block_storage, f"/os-quota-sets/{project}", {"quota_set": volumes})
    _put(
        admin.compute,
        f"/os-quota-sets/{project}",
        {"quota_set": {"instances": 200, "cores": 400, "ram": 2_000_000}},
    )


def _put(service: Any, path: str, body: dict[str, Any]) -> None:
    answer = service.put(path, json=body)
    answer.raise_for_status()


def upload_image(admin: Any) -> None:
    """Upload the guest image, unless it is there as it is built today; an older one is replaced."""
    from lab.guest import image

    older = admin.image.find_image(image.NAME)
    current = (
        admin.create_image(  # answers with the image that is there when its checksum is the file's
            image.NAME,
            filename=str(image.build()),
            disk_format="raw",
            container_format="bare",
            visibility="public",
            wait=True,
            validate_checksum=True,  # which also makes it look for one that has the same
            **image.PROPERTIES,
        )
    )
    if older and older.id != current.id:
        admin.image.delete_image(older)


def make_network(demo: Any, name: str, **subnet: Any) -> str:
    """Make a network with one subnet that has DHCP, if it is not there; its id."""
    network = demo.network.find_network(name) or demo.network.create_network(name=name)
    if not demo.network.find_subnet(name, network_id=network.id):
        demo.network.create_subnet(
            name=name, network_id=network.id, ip_version=4, is_dhcp_enabled=True, **subnet
        )
    return str(network.id)


def _make_security_group(demo: Any) -> None:
    """One that lets everything in, as a VNF's own members talk to each other on any port."""
    group = demo.network.find_security_group(SECURITY_GROUP) or demo.network.create_security_group(
        name=SECURITY_GROUP
    )
    if not any(rule["direction"] == "ingress" for rule in group.security_group_rules):
        demo.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ether_type="IPv4"
        )


SERVICES: Sequence[Service] = (Tenant(),)
