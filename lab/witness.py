"""A witness of a quiesce window: asks the guests' own agents whether they are frozen, and the members what they have durable then."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lab import canary, inside
from lab.errors import LabError
from lab.site import Site

STATUS = json.dumps({"execute": "guest-fsfreeze-status"})


def is_frozen(site: Site, server_id: str) -> bool:
    """What the guest agent of a server says, asked through the site's libvirt and not through OpenStack.

    Raises LabError when the agent does not answer.
    """
    said = inside.run(site, ["virsh", "qemu-agent-command", server_id, STATUS, "--timeout", "5"], timeout=15).stdout
    return bool(json.loads(said)["return"] == "frozen")


def all_frozen(site: Site, servers: Mapping[str, str]) -> bool:
    """Whether every one of the servers (role -> id) is frozen now."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return all(pool.map(lambda server: is_frozen(site, server), servers.values()))


@dataclass
class Witness:
    """Watches the canary's members at a site while something is done to them (`with Witness(site, servers) as witness:`).

    `frozen_last` is what each member had durable when all were frozen: all agents said so both before and after the members were asked.
    """

    site: Site
    servers: Mapping[str, str]
    """role -> server id"""
    frozen_last: dict[str, int] = field(default_factory=dict)
    sightings: int = 0
    disagreements: list[dict[str, int]] = field(default_factory=list)
    """what differed between two sightings of one window: then the members were not frozen, whatever their agents say"""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Witness:
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            try:
                self._look()
            except LabError:
                continue  # an agent that is just freezing or thawing may refuse; the next look tells

    def _look(self) -> None:
        if not all_frozen(self.site, self.servers):
            return
        durable = canary.durable(self.site)
        if not all_frozen(self.site, self.servers):
            return
        if self.sightings and durable != self.frozen_last:
            self.disagreements.append(durable)
        self.frozen_last = durable
        self.sightings += 1
