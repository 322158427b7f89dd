# SPDX-License-Identifier: Apache-2.0
"""The quiesce and unquiesce actions of the Compute API, as a WSGI filter for an unpatched nova-api."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Any], Any]:
    """Return the filter for `paste.filter_factory = nova_quiesce:filter_factory` in api-paste.ini."""
    # Nova is imported only here: reading the version or the entry points must not load (and configure) it.
    from nova_quiesce.filter import QuiesceFilter

    return QuiesceFilter
