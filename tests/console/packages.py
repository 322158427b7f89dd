# SPDX-License-Identifier: Apache-2.0
"""Installs the browser that these tests drive, where it is missing, from Debian's packages."""

from __future__ import annotations

import sys

from tests.distributed.packages import install

PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}

if __name__ == "__main__":
    sys.exit(install(PACKAGES))
