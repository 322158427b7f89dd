# SPDX-License-Identifier: Apache-2.0
"""How antipode on the host reaches the Ceph of a site, to write volumes there itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lab.services import ceph
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
