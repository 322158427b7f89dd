# SPDX-License-Identifier: Apache-2.0
"""More and larger volumes for the measured VNF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

from antipode.sandbox.members import MEMBERS, NAME, TENANTS
from bench import tidy
from bench.cloud import Cloud, until
from lab import canary, inside
from lab.errors import LabError
from lab.services.ceph import POOL
from lab.site import SITES, Site

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


@contextmanager
def extended(found: tidy.Vnf, gib: int) -> Iterator[None]:
    """Have the data volumes be of a size; the VNF is removed in the end, as none can shrink."""
    data = [v for s in found.servers for v in s["volumes"][1:] if v["size"] < gib]
    if not data:
        yield
        return
    try:
        for volume in data:
            path = f"/volumes/{volume['id']}"
            site = found.primary
            site.volume.post(f"{path}/action", json={"os-extend": {"new_size": gib}})

            def size(path: str = path, site: Cloud = site) -> str:
                return str(site.volume.get(path).json()["volume"]["size"])

            until(size, str(gib), f"volume {volume['name']}", PATIENCE_S)
        yield
    finally:
        canary.remove(SITES[found.primary.name])
