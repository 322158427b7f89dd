# SPDX-License-Identifier: Apache-2.0
"""A witness of a quiesce window: it asks the guests' agents whether they are frozen, and the
members for their durable records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from antipode.sandbox import story
from lab import canary, inside
from lab.errors import LabError
from lab.site import Site

STATUS = json.dumps({"execute": "guest-fsfreeze-status"})


def is_frozen(site: Site, server_id: str) -> bool:
    """Whether the guest agent of a server reports frozen file systems, asked through libvirt.

    Raises LabError when the agent does not answer.
    """
    said = inside.run(
        site, ["virsh", "qemu-agent-command", server_id, STATUS, "--timeout", "20"], timeout=60
    ).stdout
    return bool(json.loads(said)["return"] == "frozen")


def all_frozen(site: Site, servers: Mapping[str, str]) -> bool:
    """Whether every one of the servers (role -> id) is frozen now."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return all(pool.map(lambda server: is_frozen(site, server), servers.values()))


class Witness(story.Witness):
    """Watches the canary's members at a site: frozen are all when their agents say so both before
    and after the members were asked.
    """

    every_s = 0.1

    def __init__(self, site: Site, servers: Mapping[str, str]) -> None:
        """`servers`: role -> server id."""
        super().__init__()
        self._site = site
        self._servers = servers

    def look(self) -> dict[str, int] | None:
        try:
            if not all_frozen(self._site, self._servers):
                return None
            durable = canary.durable(self._site)
            return durable if all_frozen(self._site, self._servers) else None
        except LabError:
            return None  # an agent that is just freezing or thawing may refuse: look again
