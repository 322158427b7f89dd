# SPDX-License-Identifier: Apache-2.0
"""Two members of one role on a site, each with records of its own: what option 2 protects one after
the other, and of which one may be captured for both.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from antipode.sandbox.creation import Creation
from antipode.sandbox.members import HTTP_PORT, PAIR, Member
from antipode.sandbox.records import Member as Records
from antipode.sandbox.records import check_alone
from lab import canary, guest_access
from lab.errors import LabError
from lab.guest import image
from lab.site import Site
from lab.waiting import wait_until

ACTIVE, STANDBY = PAIR[0], replace(PAIR[1], boots_from_image=True)
MEMBERS = (ACTIVE, STANDBY)
"""The standby member boots from an image. Those of `PAIR` both boot from volumes."""
LOOK_S = 0.1


def create(site: Site, members: Sequence[Member] = MEMBERS) -> dict[str, str]:
    """Create the pair, and return the server id of each member by its name, when both make records.

    As antipode's own user: Nova boots a flavor without a disk from an image for administrators
    only.
    """
    cloud = canary.connect(site, "")

    def start(server: Any) -> None:
        cloud.compute.reboot_server(server, "HARD")

    servers = Creation(
        cloud, site.name, image.NAME, canary.PERIOD_MS, start, 600, interval_s=0.5, members=members
    ).run()
    for member in members:
        wait_for_records(site, member, 5)
    return servers


def durable(site: Site, member: Member, timeout: float = 5) -> int:
    """The last record that a member has durable."""
    said = json.loads(guest_access.answer(site, member.address, HTTP_PORT, timeout))
    return int(said["durable"])


def wait_for_records(site: Site, member: Member, more: int, timeout: float = 600) -> None:
    """Return when a member has `more` records more than when it first answered."""
    seen: list[int] = []

    def has_more() -> bool:
        try:
            seen.append(durable(site, member))
        except LabError:  # it starts, or the machine is busy: asked again until the time is over
            return False
        return seen[-1] >= seen[0] + more

    wait_until(has_more, f"{member.server} at {site.name} makes records", timeout, interval=0.3)


def records(site: Site, members: Sequence[Member] = MEMBERS) -> dict[str, Records]:
    """Each member's records now, checked by themselves: of the order across the two nothing is
    promised.
    """
    cloud = canary.connect(site)
    found = {}
    for member in members:
        server = cloud.compute.find_server(member.server, ignore_missing=False)
        (volume,) = [
            a.volume_id
            for a in cloud.compute.volume_attachments(server)
            if a.device == canary.DATA_DEVICE
        ]
        found[member.server] = check_alone(member.role, canary.records_of_volume(site, str(volume)))
    return found


@dataclass
class Client:
    """A client that keeps asking the pair: it is served while any of the two makes records."""

    site: Site
    answers: int = 0
    longest_silence_s: float = 0.0
    _last: dict[str, int] = field(default_factory=dict)
    _served_at: float = field(default_factory=time.monotonic)

    def ask(self) -> None:
        """Ask each member once."""
        for member in MEMBERS:
            try:
                now = durable(self.site, member, timeout=2)
            except LabError:
                continue
            if now > self._last.get(member.server, -1):
                self._last[member.server] = now
                self.answers += 1
                moment = time.monotonic()
                self.longest_silence_s = max(self.longest_silence_s, moment - self._served_at)
                self._served_at = moment


@contextmanager
def asked(site: Site) -> Iterator[Client]:
    """A client beside the block."""
    client, over = Client(site), threading.Event()

    def keep_asking() -> None:
        while not over.wait(LOOK_S):
            client.ask()

    thread = threading.Thread(target=keep_asking, name="client")
    thread.start()
    try:
        yield client
    finally:
        over.set()
        thread.join()


def vnf(
    example: Mapping[str, Any],
    timeout: str = "120s",
    *,
    option: str = "server-snapshot",
    members: Sequence[Member] = MEMBERS,
    **changes: Any,
) -> dict[str, Any]:
    """The VNF file of the pair.

    Args:
        example: that of the canary.
        timeout: how long a member may stay frozen.
        option: that it is protected by.
        members: those it has, where it is not both.
        changes: other values of the file.
    """
    not_all = {"required": False} if option == "server-snapshot" else {}
    return {
        **example,
        "vnf": "pair",
        "members": [
            {
                "server": member.server,
                "role": str(member.name),
                "answers": {
                    "command": [
                        "python", "-m", "lab", "answer", "{site}", "{address}", str(HTTP_PORT)
                    ],
                    "within": "5m",
                    "variables": ["ANTIPODE_LAB"],
                },
            }
            for member in members
        ],
        "protections": [{"option": option, "quiesce": {"timeout": timeout, **not_all}}],
        **changes,
    }  # fmt: skip
