# SPDX-License-Identifier: Apache-2.0
"""swift-container-sync for a folder of its own: its own script reads /etc/swift/swift.conf whatever
`swift_dir` says.

Executed by the interpreter of the OpenStack services: container_sync.py CONTAINER-SERVER.CONF
"""

from __future__ import annotations

import sys
from pathlib import Path

from swift.common.daemon import run_daemon  # type: ignore[import-not-found]
from swift.common.utils import set_swift_dir  # type: ignore[import-not-found]
from swift.container.sync import ContainerSync  # type: ignore[import-not-found]

if __name__ == "__main__":
    configuration = Path(sys.argv[1])
    set_swift_dir(str(configuration.parent))
    run_daemon(ContainerSync, str(configuration), verbose=True)
