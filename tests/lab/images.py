# SPDX-License-Identifier: Apache-2.0
"""The RBD images of volumes, read or written behind OpenStack's back."""

from __future__ import annotations

import json

from lab import inside
from lab.services import ceph
from lab.site import Site

_DENSE = """
import hashlib, json, rados, rbd, sys, zlib
found = {}
with rados.Rados(conffile="/etc/ceph/ceph.conf") as c, c.open_ioctx(sys.argv[1]) as io:
    with rbd.Image(io, sys.argv[2], read_only=True) as image:
        for begin in range(0, image.size(), 4 << 20):
            data = image.read(begin, min(4 << 20, image.size() - begin))
            if not data.strip(b"\\0"):
                continue
            for at in range(0, len(data), 4096):
                block = data[at : at + 4096]
                if len(zlib.compress(block, 1)) > 4096:
                    found[begin + at] = hashlib.sha256(block).hexdigest()
print(json.dumps(found))
"""


def execute(site: Site, script: str, volume: str, *more: int) -> str:
    """The output of a Python script on the image of a volume.

    Args:
        script: its arguments are the pool, the image and `more`.
    """
    arguments = [ceph.POOL, f"volume-{volume}", *map(str, more)]
    return inside.run(site, ["python3", "-c", script, *arguments]).stdout.strip()


def dense_blocks(site: Site, volume: str) -> dict[str, str]:
    """The blocks of a volume that no compression makes smaller: offset -> SHA-256.

    Of the canary's volumes these hold what `canary.fill` has written, which it never changes, and
    nothing of its records or its file system.
    """
    found: dict[str, str] = json.loads(execute(site, _DENSE, volume))
    return found
