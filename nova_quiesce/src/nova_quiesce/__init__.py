# SPDX-License-Identifier: Apache-2.0
"""The quiesce and unquiesce actions of the Compute API, as a WSGI filter for an unpatched
nova-api.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

__version__ = "1.0.0"


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Any], Any]:
    """Return the filter for `paste.filter_factory = nova_quiesce:filter_factory` in
    api-paste.ini.
    """
    # Nova is imported only here: reading the version or the entry points must not load (and
    # configure) it.
    from nova_quiesce.filter import QuiesceFilter

    return QuiesceFilter


def main() -> int:
    """Run the command nova-quiesce; return its exit code."""
    # Before Nova is imported, since a command needs no green threads: older releases choose by the
    # import, newer ones by the call.
    os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"
    from nova import monkey_patch

    getattr(monkey_patch, "patch", lambda: None)()

    from nova_quiesce import command

    return command.main()
