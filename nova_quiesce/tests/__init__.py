# SPDX-License-Identifier: Apache-2.0
"""Nova in native threads, as its WSGI entry point runs it; decided before anything imports Nova."""

import os

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"

import nova.tests.functional  # noqa: F401 - chooses the threads, and must do so first
