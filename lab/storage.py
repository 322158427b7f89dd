# SPDX-License-Identifier: Apache-2.0
"""How antipode on the host reaches the Ceph of a site, to write volumes there itself and to read
what has changed of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lab.services import ceph, cinder
from lab.site import Site

MODULES = Path("/usr/lib/python3/dist-packages")
"""Debian's, with `rados` and `rbd`."""
PYTHON = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"

missing = (
    ""
    if list(MODULES.glob(f"rbd.{PYTHON}-*.so"))
    else f"Debian's python3-rbd is not there, or not for this Python ({PYTHON})"
)
"""Why no volume can be written from here; empty where they can."""


def mover(site: Site) -> dict[str, Any]:
    """The `mover` of the site in antipode.yaml."""
    return {"keyring": str(ceph.keyring(site, f"client.{ceph.CLIENT}")), "modules": str(MODULES)}


def changes(site: Site) -> list[dict[str, Any]]:
    """The `changes` of the site in antipode.yaml."""
    user = f"client.{ceph.CLIENT}"
    configuration = str(site.etc / "ceph" / "ceph.conf")
    command = ["/usr/bin/rbd", "--conf", configuration, "--id", ceph.CLIENT]
    command += ["--keyring", str(ceph.keyring(site, user))]
    host = cinder.backend_host(site)
    return [{"host": host, "pool": ceph.POOL, "command": command, "timeout": 60}]
