# SPDX-License-Identifier: Apache-2.0
"""The process of the mover (`python -m antipode.mover.helper_process`) that has volumes attached to
a helper server. It imports no os-brick.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from antipode.mover import carrying
from antipode.mover.helper import NovaAttached
from antipode.mover.job import Access
from antipode.mover.target import Attached

if TYPE_CHECKING:
    from antipode.cloud.site import Site


def by_helper(site: Site, access: Access) -> Attached:
    assert access.helper is not None  # else another process is begun
    return NovaAttached(site, access.helper)


if __name__ == "__main__":
    sys.exit(carrying.main(by_helper))
