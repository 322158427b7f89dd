# SPDX-License-Identifier: Apache-2.0
"""What a site holds in the VNF's project: asked of OpenStack and not of antipode, before and after
something that must change nothing.
"""

from __future__ import annotations

from typing import Any

from lab.services import identity
from lab.services.tenant import PROJECT
from lab.site import Site


def what_is_there(site: Site) -> dict[str, set[str]]:
    """Everything that a protect or a failover could have made."""
    cloud = identity.connect(site, "antipode", PROJECT)
    return {
        "servers": {s.id for s in cloud.compute.servers()},
        "server groups": {g.name for g in cloud.compute.server_groups()},
        "volumes": {v.id for v in cloud.block_storage.volumes()},
        "ports": {p.id for p in cloud.network.ports() if p.device_owner != "network:dhcp"},
        "snapshots": {s.id for s in cloud.block_storage.snapshots()},
        "backups": {b.id for b in cloud.block_storage.backups()},
        "keypairs": {k.name for k in cloud.compute.keypairs()},
    }


def copies(site: Site) -> list[tuple[str, bool]]:
    """The status of each server of the VNF, and whether it is locked."""
    cloud = identity.connect(site, "antipode", PROJECT)
    return [(s.status, s.is_locked) for s in cloud.compute.servers()]


def ports_up(site: Site) -> list[bool]:
    """Of each port of the VNF's servers, whether its administrative state is up."""
    cloud = identity.connect(site, "antipode", PROJECT)
    servers = [s.id for s in cloud.compute.servers()]
    return [p.is_admin_state_up for s in servers for p in cloud.network.ports(device_id=s)]


def root_disk_copies(site: Site) -> list[Any]:
    """The images that hold root disks of members that boot from an image, for their recovery."""
    images = identity.connect(site, "antipode", PROJECT).image.images()
    return [i for i in images if i.name.startswith("antipode root disk of ")]


def remove_root_disk_copies(site: Site) -> None:
    for image in root_disk_copies(site):
        identity.connect(site, "antipode", PROJECT).image.delete_image(image)
