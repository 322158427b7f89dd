# SPDX-License-Identifier: Apache-2.0
"""More volumes for the measured VNF: random data is on each, as on its data volumes."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from antipode.sandbox.members import MEMBERS, NAME, TENANTS
from lab import canary, inside
from lab.errors import LabError
from lab.services.ceph import POOL
from lab.site import Site

OWN = 2 * len(MEMBERS)
"""The volumes that the VNF has by itself."""
PATIENCE_S = 300
_WRITE = """
import os, rados, rbd, sys
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(sys.argv[1]) as io:
    with rbd.Image(io, sys.argv[2]) as image:
        for piece in range(int(sys.argv[3])):
            image.write(os.urandom(1 << 20), piece << 20)
"""


def have(site: Site, wanted: int, mib: int) -> None:
    """See that the VNF has so many volumes: what it lacks is attached to its members in turn.

    Args:
        mib: random data on each further volume.

    Raises:
        LabError: it has more already.
    """
    cloud = canary.connect(site)
    servers = [cloud.compute.find_server(m.server, ignore_missing=False) for m in MEMBERS]
    has = sum(len(list(cloud.compute.volume_attachments(server))) for server in servers)
    if has > wanted:
        raise LabError(
            f"the VNF at {site.name} has {has} volumes and not {wanted}; remove it first: python "
            f"-m lab.canary remove {site.name}"
        )
    for number, server in enumerate(islice(cycle(servers), wanted - has), has + 1):
        _attach(cloud, site, server, f"{NAME}-more-{number}", mib)


def _attach(cloud: Any, site: Site, server: Any, name: str, mib: int) -> None:
    kind = TENANTS[site.name].volume_type
    storage = cloud.block_storage
    volume = storage.create_volume(name=name, size=1, volume_type=kind)
    storage.wait_for_status(volume, "available", ["error"], interval=0.5, wait=PATIENCE_S)
    inside.run(site, ["python3", "-c", _WRITE, POOL, f"volume-{volume.id}", str(mib)])
    cloud.compute.create_volume_attachment(server, volume_id=volume.id)
    storage.wait_for_status(volume, "in-use", ["error"], interval=0.5, wait=PATIENCE_S)
