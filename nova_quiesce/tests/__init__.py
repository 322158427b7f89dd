# SPDX-License-Identifier: Apache-2.0
"""Nova with the kind of threads that its release is served with by default; decided before anything
imports Nova.
"""

import os
from importlib import metadata

# Since 33, Nova's WSGI entry point has native threads; before, eventlet's.
NATIVE_THREADS = int(metadata.version("nova").split(".")[0]) >= 33
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1" if NATIVE_THREADS else ""

import nova.tests.functional  # noqa: E402, F401 - patches, and must do so first
