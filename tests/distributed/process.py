# SPDX-License-Identifier: Apache-2.0
"""What the tests start as an antipode process of some host: the command itself, its sites played by
clouds that the test serves.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys

from antipode.cli.main import main
from antipode.cloud import site as cloud_site
from tests import servedcloud


def connect(name: str, cloud: str) -> cloud_site.Site:
    return servedcloud.connect(name, json.loads(os.environ["TEST_CLOUDS"])[cloud])


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # prints the stack of each thread of a test that hangs
    cloud_site.connect = connect  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
