# SPDX-License-Identifier: Apache-2.0
"""The process of the mover (`python -m antipode.mover.process`) that attaches volumes to this host.
Its arguments are folders with Ceph's Python modules.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from antipode.mover import modules

if __name__ == "__main__":
    modules.find_in(sys.argv[1:])  # os-brick looks for them when it is imported

# isort: split
from antipode.mover.brick import CinderAttached  # first of all: see there

# isort: split
from antipode.mover import carrying
from antipode.mover.job import Access
from antipode.mover.target import Attached

if TYPE_CHECKING:
    from antipode.cloud.site import Site


def by_brick(site: Site, access: Access) -> Attached:
    return CinderAttached(
        site, access.root_helper, asks_host=access.asks_host, keyring=access.keyring
    )


if __name__ == "__main__":
    sys.exit(carrying.main(by_brick))
