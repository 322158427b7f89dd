# SPDX-License-Identifier: Apache-2.0
"""Fences the old copy of a VNF at a site: its ports are put down, its servers stopped and locked.

Each pass finds what is not as it should be and changes it, until nothing is left to change. So a
pass may be lost, repeated or done by two processes at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from antipode.cloud.api import ApiError, Json
from antipode.cloud.compute import is_unreadable
from antipode.errors import ResourceFailed, SiteUnreachable
from antipode.model.marks import FENCED, FENCED_FROM, fenced_tag, is_fenced_port
from antipode.model.steps import Step, Steps, Timeline
from antipode.pace import Pace

if TYPE_CHECKING:
    from antipode.cloud.site import Site
    from antipode.vault.old_copies import OldCopy

LOG = logging.getLogger(__name__)
POLL_S = 2.0
WITHIN_S = 300.0
"""How long a server may take to be off: Nova waits for a guest for a minute, then cuts its power.
"""
_OFF = {"SHUTOFF", "PAUSED", "SUSPENDED", "SHELVED", "SHELVED_OFFLOADED", "DELETED", "SOFT_DELETED"}
"""No guest runs in these, and a lock keeps it so."""
_STARTS = {
    *("powering-on", "resuming", "unpausing", "restoring", "unshelving", "spawning", "rescuing"),
    *("rebooting", "reboot_pending", "reboot_started"),
    *("rebooting_hard", "reboot_pending_hard", "reboot_started_hard"),
}
"""Tasks of Nova after which the guest runs of a server that is off; a lock comes too late for one
that is under way.
"""
_RUNNING = 1
"""A power state of Nova."""


@dataclass(frozen=True)
class Fencing:
    """What a fencing works with."""

    run: str
    site: Site
    copy: OldCopy
    reason: str
    """of the locks, for people that look at the servers"""
    timeline: Timeline
    must_be_old: Callable[[], object]
    """raises when the copy may be the active one by now, or that is not known; asked before each
    pass
    """
    go_on: Callable[[], None]


@dataclass
class Fenced:
    """What was found and done; kept with the run."""

    servers: dict[str, Json] = field(default_factory=dict)
    """by id: name, status and lock before and now"""
    ports: dict[str, Json] = field(default_factory=dict)
    """by id: server, and whether it was up before"""
    left: list[str] = field(default_factory=list)
    """what was not fenced at the last look"""

    def record(self) -> Json:
        """As JSON."""
        return {
            "servers": [{"id": i, **facts} for i, facts in sorted(self.servers.items())],
            "ports": [{"id": i, **facts} for i, facts in sorted(self.ports.items())],
            "not_fenced": self.left,
        }


def members(site: Site, copy: OldCopy) -> list[Json]:
    """The servers of an old copy that are at its site now, as Nova lists them for our project.

    Raises:
        SiteUnreachable: Nova does not answer.
    """
    return [server for server in site.compute.servers() if copy.has(server)]


def ports_of(site: Site, servers: list[str]) -> list[Json]:
    """The ports of servers, and those of their trunks.

    Raises:
        SiteUnreachable: Neutron does not answer.
    """
    if not servers:
        return []
    ports = site.networks.ports_of(servers)
    parents = [p["id"] for p in ports if p.get("trunk_details")]
    trunks = site.networks.trunks(parents)
    below = [subport["port_id"] for trunk in trunks for subport in trunk["sub_ports"]]
    return [*ports, *site.networks.ports(below)]


def is_off(server: Json) -> bool:
    """Whether no guest of a server runs, nor is being started."""
    if server.get("OS-EXT-STS:task_state") in _STARTS:
        return False
    if server["status"] == "ERROR":
        # such a server has no host, or its hypervisor says so
        return bool(server.get("OS-EXT-STS:power_state", _RUNNING) != _RUNNING)
    return server["status"] in _OFF


def is_up(port: Json) -> bool:
    """Whether a port may carry traffic."""
    return bool(port.get("admin_state_up", True))


def fence(fencing: Fencing, fenced: Fenced) -> None:
    """Fence the old copy.

    Args:
        fenced: what is known so far; filled as it becomes known.

    Raises:
        ResourceFailed: not all of it is fenced when the time is over; all that can be is. It can
            be tried again.
        SiteUnreachable: nothing of the site has answered.
        AntipodeError: what `must_be_old` or `go_on` raised; nothing was changed since.
    """
    deadline, pace = time.monotonic() + WITHIN_S, Pace(POLL_S)
    answered = False
    with fencing.timeline.step(Steps.FENCE, fencing.site.name) as step:
        while True:
            fencing.must_be_old()
            look = _Pass(fencing, fenced)
            look.do()
            answered = answered or look.answered
            fenced.left = look.left
            counted = {"servers": len(fenced.servers), "ports": len(fenced.ports)}
            step.result(**counted, fenced=fenced.record())
            if look.left:
                _must_go_on(fencing, fenced, step, deadline, answered=answered)
                pace.pause()
            elif not look.changed:  # what was changed is looked at once more
                return


def _must_go_on(
    fencing: Fencing, fenced: Fenced, step: Step, deadline: float, *, answered: bool
) -> None:
    step.waits_for("; ".join(fenced.left))
    fencing.go_on()
    if time.monotonic() > deadline:
        kind = ResourceFailed if answered else SiteUnreachable
        raise kind(
            f"{fencing.site.name}: not all of the old copy is fenced: {'; '.join(fenced.left)}"
        )


class _Pass:
    """One look at the old copy, and a change of all that is not fenced."""

    def __init__(self, fencing: Fencing, fenced: Fenced) -> None:
        self.left: list[str] = []
        self.answered = False
        self.changed = False
        self._fencing = fencing
        self._fenced = fenced
        self._site = fencing.site

    def do(self) -> None:
        """Ports first, as that cuts a copy off at once; Neutron and Nova each without the other."""
        copy = self._fencing.copy
        names, ids, servers = dict(copy.servers), copy.ids, list[Json]()
        with self._answers("its servers are not known"):
            listed = members(self._site, copy)
            servers = [s for s in listed if not is_unreadable(s)]
            ids = [s["id"] for s in listed]
            names |= {s["id"]: s["name"] for s in servers}
            self.left += [
                f"server {names[s['id']]} ({s['id']}) is in a cell that does not answer Nova"
                for s in listed
                if is_unreadable(s)
            ]
        for server in servers:
            self._note(server)
        with self._answers("its ports are not all down"):
            for port in ports_of(self._site, ids):
                device = str(port["device_id"])
                self._cut_off(port, names.get(device, device))
        with self._answers("its servers are not all stopped and locked"):
            for server in servers:
                self._stop_and_lock(server)

    @contextmanager
    def _answers(self, otherwise: str) -> Iterator[None]:
        """Asks a service; what is not done where it does not answer."""
        try:
            yield
            self.answered = True
        except SiteUnreachable as error:
            self.left.append(f"{otherwise}: {error}")

    def _note(self, server: Json) -> None:
        """Keep what a server was before it was fenced."""
        was = f"{server['status']} {'locked' if server.get('locked') else 'unlocked'}"
        facts = self._fenced.servers.setdefault(server["id"], {"server": server["name"]})
        facts.setdefault("was", (server.get("metadata") or {}).get(FENCED_FROM, was))
        facts["is"] = was

    def _cut_off(self, port: Json, server: str) -> None:
        tags = port.get("tags") or []
        facts = self._fenced.ports.setdefault(port["id"], {"server": server, "was_up": False})
        facts["was_up"] = facts["was_up"] or is_up(port) or is_fenced_port(port)
        if not is_up(port):
            return
        networks, what = self._site.networks, f"port {port['id']} of {server}"
        if not is_fenced_port(port):  # first, so that it is known that it was up
            wanted = [*tags, fenced_tag(self._fencing.run)]
            self._change(what, "tag", partial(networks.tag_port, port["id"], wanted))
        down = partial(networks.update_port, port["id"], {"admin_state_up": False})
        if self._change(what, "put down", down):
            self.changed = True
        else:
            self.left.append(f"{what} is not down")

    def _stop_and_lock(self, server: Json) -> None:
        off, locked = is_off(server), bool(server.get("locked"))
        if off and locked:
            return
        compute, what = self._site.compute, f"server {server['name']} ({server['id']})"
        marked = server.get("metadata") or {}
        if FENCED_FROM not in marked:  # a release removes it before the other one
            was = self._fenced.servers[server["id"]]["was"]
            marks = {FENCED: self._fencing.run, FENCED_FROM: was}
            self._change(what, "mark", partial(compute.mark_server, server["id"], marks))
        if not off:
            if locked and "admin" not in self._site.roles:
                self._change(what, "unlock", partial(compute.unlock_server, server["id"]))
                locked = False
            if not server.get("OS-EXT-STS:task_state"):
                self._change(what, "stop", partial(compute.stop_server, server["id"]))
            self.left.append(f"{what} is {server['status']}")
        if not locked:
            lock = partial(compute.lock_server, server["id"], self._fencing.reason)
            if self._change(what, "lock", lock):
                self.changed = True
            else:
                self.left.append(f"{what} is not locked")

    def _change(self, what: str, how: str, call: Callable[[], None]) -> bool:
        """Whether a change was accepted. One that is refused is tried again with the next pass:
        another change may be under way, or the resource may be gone by then.
        """
        try:
            call()
        except ApiError as error:
            LOG.warning("%s: %s was not accepted: %s", what, how, error)
            return False
        return True
