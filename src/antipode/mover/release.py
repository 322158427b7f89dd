# SPDX-License-Identifier: Apache-2.0
"""Ends what attaches a volume to this host or to the helper server, once its writer has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError
from antipode.errors import ResourceFailed

if TYPE_CHECKING:
    from antipode.cloud.site import Site

DETACHES_S = 60.0
"""How long a volume of a writer that has ended may take to become available."""
SETTLES = ("available", "in-use")
"""Statuses in which nothing is under way; so are those of an error."""


def let_go(
    site: Site,
    volume: str,
    helper: str | None,
    within_s: float,
    tell: Callable[[str], None] = lambda what: None,
) -> bool:
    """End the attachments of a volume to this host and to the helper server; whether nothing has it
    then. That of another server is left.

    What a writer has sent to the helper may still arrive there: the volume is free only when Nova
    says that the guest has let the disk go, and nothing reaches it any more.

    Args:
        helper: the id of the server; None: there is none.
        within_s: how long the volume may take to settle, and to become available.

    Raises:
        SiteUnreachable: the site does not answer.
    """
    held = site.attachments.of(volume)
    if any(server not in (None, helper) for server in held.values()):
        return False
    try:
        for attachment, server in held.items():
            if server is None:
                site.attachments.delete(attachment)
        if helper is not None and helper in held.values():
            # Nova detaches nothing that it is attaching
            watch = site.volumes.watch
            found = watch.wait_for([volume], wanted=SETTLES, timeout_s=within_s, tell=tell)
            if found[volume]["status"] != "available":
                site.compute.detach_volume(helper, volume)
        site.volumes.watch.wait_for([volume], timeout_s=within_s, tell=tell)
    except (ApiError, ResourceFailed) as error:
        tell(str(error))
        return False
    return True
